//! Writes a dump.

use super::header::{HEADER_SIZE, Header, level_bits, page_words, record_size};
use crate::{Format, Level, Table, TableSource, TableVisit, Visit, Walk};

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
