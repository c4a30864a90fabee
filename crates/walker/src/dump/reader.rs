//! Reads a dump.

#![expect(
    unsafe_code,
    reason = "promises that tables stay in their slots, and takes bytes for words"
)]

use core::fmt;
use core::sync::atomic::AtomicU64;

use super::DumpError;
use super::header::{HEADER_SIZE, Header, TABLE_HEADER, level_bits, record_size, record_words};
use crate::{Format, FrameNumber, Level, LiveSource, Table, TableId, TableSource, VirtualAddress};

/// The value of a slot into which no table was mapped.
const EMPTY: usize = usize::MAX;
/// Number of slots of a dump: enough for a walk, and for a cache of a few tables.
const SLOTS: usize = 16;

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
