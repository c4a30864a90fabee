//! Saved trees, as a source of tables.
//!
//! # Format, versions 1 and 2
//!
//! Everything is little-endian and a multiple of 8 bytes, except the text. First comes a header of
//! [`HEADER_SIZE`] bytes:
//!
//! | offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 8 | `pgtables` |
//! | 8 | 4 | version: 2 if 4K or 16K pages have 52-bit output addresses, else 1 |
//! | 12 | 4 | process ID |
//! | 16 | 4 | page shift |
//! | 20 | 4 | VA bits |
//! | 24 | 4 | output address bits |
//! | 28 | 4 | 0 |
//! | 32 | 8 | `MAIR_EL1` |
//! | 40 | 8 | numbers of the bits of [`Linux`], in its order; 255 where there is none |
//! | 48 | 8 | the first eight fields of [`SwapLayout`], in its order; 255 where there is none |
//! | 56 | 8 | number of tables |
//! | 64 | 8 | bytes of text |
//! | 72 | 1 | the last field of [`SwapLayout`] |
//! | 73 | 55 | 0 |
//!
//! Then the tables, in the order of a [`Walk`], which is that of their addresses, and of levels where
//! those are equal. Each is the first address that it translates, with its level in bits 2:0, where
//! 7 is level -1; its
//! frame number; and a page of descriptors. Last the text: `/proc/PID/maps` as it was.
//!
//! # Examples
//!
//! Any source can be saved, even a dump:
//!
//! ```
//! use std::fs::File;
//! use std::os::unix::fs::FileExt;
//! use tablewalk_walker::dump::{DumpWriter, WriteError};
//! use tablewalk_walker::{TableSource, Walk};
//!
//! fn save<S: TableSource>(
//!     source: &mut S,
//!     pid: u32,
//!     file: &File,
//! ) -> Result<u64, WriteError<S::Error, std::io::Error>> {
//!     let mut put = |offset, piece: &[u8]| file.write_all_at(piece, offset);
//!     let mut dump = DumpWriter::new(source.format(), pid);
//!     let (_tables, _gone) = dump.tables(&mut Walk::new(source), &mut put)?;
//!     dump.text(b"400000-401000 r-xp /bin/one\n", &mut put).map_err(WriteError::Sink)?;
//!     dump.finish(&mut put).map_err(WriteError::Sink)
//! }
//! ```

#![expect(
    unsafe_code,
    reason = "promises that tables stay in their slots, and takes bytes for words"
)]

use core::fmt;
use core::sync::atomic::AtomicU64;

use crate::{
    Format, FrameNumber, Geometry, GeometryError, Level, Linux, LiveSource, SwapLayout, Table,
    TableId, TableSource, TableVisit, VirtualAddress, Visit, Walk,
};

/// Bytes before the first table.
pub const HEADER_SIZE: usize = 128;

const MAGIC: [u8; 8] = *b"pgtables";
const VERSION_1: u32 = 1;
const VERSION_2: u32 = 2;
/// Number of words before the descriptors of a table: address with level, and frame.
const TABLE_HEADER: usize = 2;
/// The number that stands for a bit or type that a kernel lacks.
const NONE: u8 = 0xff;
/// The value of a slot into which no table was mapped.
const EMPTY: usize = usize::MAX;
/// Number of slots of a dump: enough for a walk, and for a cache of a few tables.
const SLOTS: usize = 16;

/// The reason why bytes are not a dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DumpError {
    /// The magic number is missing: another kind of file, or a dump that was not finished.
    Magic,
    /// Unknown version.
    Version(u32),
    /// The bytes are not aligned to 8.
    Alignment,
    /// The walker does not support the geometry.
    Geometry(GeometryError),
    /// The size differs from the size in the header.
    Length {
        /// The number of bytes.
        bytes: u64,
        /// The expected number of bytes, if it can be computed.
        expected: Option<u64>,
    },
    /// A table is out of order, or its address is not aligned to its span.
    Order {
        /// Its index among the tables.
        table: u64,
    },
}

impl fmt::Display for DumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("not a dump of page tables, or one that was not finished"),
            Self::Version(version) => write!(
                f,
                "dump of version {version}, not {VERSION_1} or {VERSION_2}"
            ),
            Self::Alignment => f.write_str("dump that does not begin at a multiple of 8"),
            Self::Geometry(error) => write!(f, "dump of tables of {error}"),
            Self::Length {
                bytes,
                expected: Some(expected),
            } => write!(f, "dump of {bytes} bytes instead of {expected}"),
            Self::Length { bytes, .. } => write!(f, "dump of {bytes} bytes"),
            Self::Order { table } => write!(f, "dump whose table {table} is out of order"),
        }
    }
}

impl core::error::Error for DumpError {}

/// A saved tree, in memory.
#[derive(Debug)]
pub struct Dump<'a> {
    format: Format,
    pid: u32,
    /// The tables, each with its header.
    words: &'a [AtomicU64],
    text: &'a [u8],
    slots: [usize; SLOTS],
}

/// A table of a [`Dump`].
#[derive(Clone, Copy, Debug)]
pub struct SavedTable<'a> {
    /// Its lookup level.
    pub level: Level,
    /// The first address that it translates.
    pub address: VirtualAddress,
    /// Its frame.
    pub frame: FrameNumber,
    /// Its descriptors.
    pub words: Table<'a>,
}

/// There is no such slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidSlot(pub usize);

impl fmt::Display for InvalidSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {} of {SLOTS}", self.0)
    }
}

impl core::error::Error for InvalidSlot {}

impl<'a> Dump<'a> {
    /// Parses `bytes` as a dump. Checks the header of each table, and no descriptor.
    ///
    /// # Errors
    ///
    /// [`DumpError`].
    pub fn from_bytes(bytes: &'a mut [u8]) -> Result<Self, DumpError> {
        let length = bytes.len() as u64;
        let too_short = DumpError::Length {
            bytes: length,
            expected: None,
        };
        let (header, rest) = bytes
            .split_at_mut_checked(HEADER_SIZE)
            .ok_or(DumpError::Magic)?;
        let header = Header::parse(header)?;
        let record = record_size(&header.format.geometry) as u64;
        let expected = header
            .tables
            .checked_mul(record)
            .and_then(|tables| tables.checked_add(header.text))
            .and_then(|bytes| bytes.checked_add(HEADER_SIZE as u64));
        if expected != Some(length) {
            return Err(DumpError::Length {
                bytes: length,
                expected,
            });
        }
        let tables = usize::try_from(header.tables * record).map_err(|_| too_short)?;
        let (tables, text) = rest.split_at_mut_checked(tables).ok_or(too_short)?;
        // SAFETY: any eight bytes are a valid word, and they are borrowed exclusively.
        let (before, words, _) = unsafe { tables.align_to_mut::<AtomicU64>() };
        if !before.is_empty() {
            return Err(DumpError::Alignment);
        }
        let dump = Self {
            format: header.format,
            pid: header.pid,
            words,
            text,
            slots: [EMPTY; SLOTS],
        };
        dump.check_order()?;
        Ok(dump)
    }

    /// Returns the ID of the process whose tables these were.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the number of tables.
    #[must_use]
    pub const fn tables(&self) -> usize {
        self.words.len() / record_words(&self.format.geometry)
    }

    /// Returns table number `table`, in the order of a walk.
    #[must_use]
    pub fn nth(&self, table: usize) -> Option<SavedTable<'a>> {
        if table >= self.tables() {
            return None;
        }
        let (address, level) = self.key(table);
        let record = self.record(table);
        Some(SavedTable {
            level: level?,
            address: VirtualAddress(address),
            frame: FrameNumber(Table::new(record).load(1).0),
            words: Table::new(record.get(TABLE_HEADER..)?),
        })
    }

    /// Returns the text that was saved with the tables: `/proc/PID/maps`.
    #[must_use]
    pub const fn text(&self) -> &'a [u8] {
        self.text
    }

    /// Returns the words of a table, with its header first.
    fn record(&self, table: usize) -> &'a [AtomicU64] {
        let size = record_words(&self.format.geometry);
        let start = table.saturating_mul(size);
        let end = start.saturating_add(size);
        self.words.get(start..end).unwrap_or_default()
    }

    /// Returns the key of a table: first address, and level.
    fn key(&self, table: usize) -> (u64, Option<Level>) {
        let word = Table::new(self.record(table)).load(0).0;
        let of_bits = |level: &Level| u64::from(level_bits(*level)) == word & 0b111;
        (word & !0b111, Level::ALL.into_iter().find(of_bits))
    }

    fn check_order(&self) -> Result<(), DumpError> {
        let geometry = &self.format.geometry;
        let mut last = None;
        for table in 0..self.tables() {
            let key = self.key(table);
            let aligned = key.1.is_some_and(|level| {
                let address = VirtualAddress(key.0);
                geometry.root_level() <= level
                    && geometry.contains(address)
                    && address.align_down(geometry.span_shift(level)) == address
            });
            if !aligned || last.is_some_and(|last| key <= last) {
                return Err(DumpError::Order {
                    table: table as u64,
                });
            }
            last = Some(key);
        }
        Ok(())
    }

    /// Finds the table with this key.
    fn find(&self, (address, level): (u64, Level)) -> Option<usize> {
        let key = (address, Some(level));
        let (mut low, mut high) = (0, self.tables());
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle).cmp(&key) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Equal => return Some(middle),
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}

/// Mapping a table is a binary search.
// SAFETY: the words belong to the dump, which is borrowed, and so neither moved nor changed.
unsafe impl TableSource for Dump<'_> {
    type Error = InvalidSlot;

    fn format(&self) -> Format {
        self.format
    }

    fn slots(&self) -> usize {
        SLOTS
    }

    fn map(&mut self, slot: usize, id: TableId) -> Result<Option<FrameNumber>, InvalidSlot> {
        if slot >= SLOTS {
            return Err(InvalidSlot(slot));
        }
        let geometry = &self.format.geometry;
        let start = id.address.align_down(geometry.span_shift(id.level));
        let Some(table) = self.find((start.0, id.level)) else {
            return Ok(None);
        };
        let frame = FrameNumber(Table::new(self.record(table)).load(1).0);
        if id.frame.is_some_and(|expected| expected != frame) {
            return Ok(None);
        }
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = table;
        }
        Ok(Some(frame))
    }

    fn table(&self, slot: usize) -> Table<'_> {
        let table = self.slots.get(slot).copied().unwrap_or(EMPTY);
        Table::new(self.record(table).get(TABLE_HEADER..).unwrap_or_default())
    }
}

// SAFETY: a saved tree does not change, and its words have no other use.
unsafe impl LiveSource for Dump<'_> {}

/// Writes a dump in pieces with offsets, the header last. Without its header a file is not a dump.
#[derive(Debug)]
pub struct DumpWriter {
    format: Format,
    pid: u32,
    tables: u64,
    text: u64,
}

/// The reason why a dump was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteError<S, E> {
    /// The tables could not be read.
    Source(S),
    /// A piece could not be written.
    Sink(E),
}

impl DumpWriter {
    /// Starts a dump of tables of this format, of process `pid`.
    #[must_use]
    pub const fn new(format: Format, pid: u32) -> Self {
        Self {
            format,
            pid,
            tables: 0,
            text: 0,
        }
    }

    /// Writes all tables of `walk`, which has not started yet. Each table is written as it is when the walk
    /// enters it; later changes are not seen. Returns the number of tables written, and the number that
    /// vanished before they could be read.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn tables<S: TableSource, E>(
        &mut self,
        walk: &mut Walk<'_, S>,
        put: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(u64, u64), WriteError<S::Error, E>> {
        let mut gone = 0;
        loop {
            match walk.next() {
                None => return Ok((self.tables, gone)),
                Some(Ok(Visit::Table(table))) => {
                    let words = walk.table().unwrap_or(Table::new(&[]));
                    self.put_table(&table, words, put)
                        .map_err(WriteError::Sink)?;
                    if table.level == Level::L3 {
                        walk.leave_table();
                    }
                }
                Some(Ok(Visit::Leaf(_) | Visit::NotValid(_))) => {}
                Some(Ok(Visit::Changed(_))) => gone += 1,
                Some(Err(error)) => return Err(WriteError::Source(error)),
            }
        }
    }

    fn put_table<E>(
        &mut self,
        table: &TableVisit,
        words: Table<'_>,
        put: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        const CHUNK: usize = 512;
        let mut offset = self.offset();
        let place = table.address.0 | u64::from(level_bits(table.level));
        let header = [place, table.frame.0].map(u64::to_le_bytes);
        put(offset, header.as_flattened())?;
        offset += header.as_flattened().len() as u64;
        let count = page_words(&self.format.geometry);
        // A root table may be smaller than a page.
        let entries = self.format.geometry.entries(table.level);
        let mut bytes = [[0; 8]; CHUNK];
        for first in (0..count).step_by(CHUNK) {
            for (index, bytes) in (first..).zip(&mut bytes) {
                let inside = index < entries;
                let word = if inside { words.load(index).0 } else { 0 };
                *bytes = word.to_le_bytes();
            }
            let bytes = bytes.as_flattened();
            put(offset, bytes)?;
            offset += bytes.len() as u64;
        }
        self.tables += 1;
        Ok(())
    }

    /// Appends a piece of the text. All tables must have been written before.
    ///
    /// # Errors
    ///
    /// Those of `put`.
    pub fn text<E>(
        &mut self,
        text: &[u8],
        put: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        put(self.offset(), text)?;
        self.text += text.len() as u64;
        Ok(())
    }

    /// Writes the header, which makes it a dump. Returns its size in bytes.
    ///
    /// # Errors
    ///
    /// Those of `put`.
    pub fn finish<E>(self, put: &mut impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<u64, E> {
        let size = self.offset();
        let header = Header {
            format: self.format,
            pid: self.pid,
            tables: self.tables,
            text: self.text,
        };
        put(0, &header.to_bytes())?;
        Ok(size)
    }

    /// The offset of the next piece.
    const fn offset(&self) -> u64 {
        HEADER_SIZE as u64 + self.tables * record_size(&self.format.geometry) as u64 + self.text
    }
}

struct Header {
    format: Format,
    pid: u32,
    tables: u64,
    text: u64,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, DumpError> {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |index: usize| words.get(index).copied().unwrap_or_default();
        let low = |index| match word(index) {
            [a, b, c, d, ..] => u32::from_le_bytes([a, b, c, d]),
        };
        let high = |index| match word(index) {
            [.., a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
        };
        if word(0) != MAGIC {
            return Err(DumpError::Magic);
        }
        if !matches!(low(1), VERSION_1 | VERSION_2) {
            return Err(DumpError::Version(low(1)));
        }
        let geometry = Geometry::new(low(2), high(2), low(3)).map_err(DumpError::Geometry)?;
        if low(1) != version(&geometry) {
            return Err(DumpError::Version(low(1)));
        }
        Ok(Self {
            format: Format {
                geometry,
                linux: linux(word(5), word(6), word(9)),
                mair: u64::from_le_bytes(word(4)),
            },
            pid: high(1),
            tables: u64::from_le_bytes(word(7)),
            text: u64::from_le_bytes(word(8)),
        })
    }

    fn to_bytes(&self) -> [u8; HEADER_SIZE] {
        let pair = |low: u32, high: u32| (u64::from(high) << 32 | u64::from(low)).to_le_bytes();
        let geometry = &self.format.geometry;
        let (bits, swap) = linux_bytes(&self.format.linux);
        let untold = self.format.linux.swap.untold;
        let words = [
            MAGIC,
            pair(version(geometry), self.pid),
            pair(geometry.page_shift(), geometry.va_bits()),
            pair(geometry.oa_bits(), 0),
            self.format.mair.to_le_bytes(),
            bits,
            swap,
            self.tables.to_le_bytes(),
            self.text.to_le_bytes(),
            u64::from(untold).to_le_bytes(),
        ];
        let mut bytes = [0; HEADER_SIZE];
        for (to, from) in bytes.iter_mut().zip(words.as_flattened()) {
            *to = *from;
        }
        bytes
    }
}

fn linux(bits: [u8; 8], swap: [u8; 8], [untold, ..]: [u8; 8]) -> Linux {
    let mask = |number: u8| 1_u64.checked_shl(number.into()).unwrap_or(0);
    let kind = |number: u8| (number != NONE).then_some(number);
    let [
        write,
        dirty,
        special,
        devmap,
        prot_none,
        present_invalid,
        swap_exclusive,
        uffd_wp,
    ] = bits.map(mask);
    let [
        type_shift,
        type_bits,
        offset_shift,
        offset_bits,
        hardware_poison,
        migration,
        device,
        marker,
    ] = swap;
    Linux {
        write,
        dirty,
        special,
        devmap,
        prot_none,
        present_invalid,
        swap_exclusive,
        uffd_wp,
        swap: SwapLayout {
            type_shift,
            type_bits,
            offset_shift,
            offset_bits,
            hardware_poison: kind(hardware_poison),
            migration: kind(migration),
            device: kind(device),
            marker: kind(marker),
            untold,
        },
    }
}

fn linux_bytes(linux: &Linux) -> ([u8; 8], [u8; 8]) {
    let masks = [
        linux.write,
        linux.dirty,
        linux.special,
        linux.devmap,
        linux.prot_none,
        linux.present_invalid,
        linux.swap_exclusive,
        linux.uffd_wp,
    ];
    let swap = &linux.swap;
    let kind = |kind: Option<u8>| kind.unwrap_or(NONE);
    let bits = masks.map(|mask| match mask {
        0 => NONE,
        #[expect(clippy::cast_possible_truncation, reason = "at most 63")]
        mask => mask.trailing_zeros() as u8,
    });
    let swap = [
        swap.type_shift,
        swap.type_bits,
        swap.offset_shift,
        swap.offset_bits,
        kind(swap.hardware_poison),
        kind(swap.migration),
        kind(swap.device),
        kind(swap.marker),
    ];
    (bits, swap)
}

/// Encodes the level of a table as in bits 2:0 of its header.
const fn level_bits(level: Level) -> u8 {
    level.number().cast_unsigned() & 0b111
}

/// The version of the format: readers of version 1 do not know every geometry.
const fn version(geometry: &Geometry) -> u32 {
    if geometry.is_lpa2() {
        VERSION_2
    } else {
        VERSION_1
    }
}

/// Number of descriptors in a page.
const fn page_words(geometry: &Geometry) -> usize {
    1 << (geometry.page_shift() - 3)
}

/// Number of words of a table with its header.
const fn record_words(geometry: &Geometry) -> usize {
    TABLE_HEADER + page_words(geometry)
}

/// Size in bytes of a table with its header.
const fn record_size(geometry: &Geometry) -> usize {
    record_words(geometry) * 8
}
