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
//! | 40 | 8 | numbers of the first eight bits of [`Linux`](crate::Linux), in its order; 255 where there is none |
//! | 48 | 8 | the first eight fields of [`SwapLayout`](crate::SwapLayout), in its order; 255 where there is none |
//! | 56 | 8 | number of tables |
//! | 64 | 8 | bytes of text |
//! | 72 | 1 | the last field of [`SwapLayout`](crate::SwapLayout) |
//! | 73 | 1 | lowest bit of the permission overlay index; 0 where there is none |
//! | 74 | 1 | 1 if pages can be a guarded control stack |
//! | 75 | 53 | 0 |
//!
//! Then the tables, in the order of a [`Walk`](crate::Walk), which is that of their addresses, and of levels
//! where those are equal. Each is the first address that it translates, with its level in bits 2:0, where 7
//! is level -1; its frame number; and a page of descriptors. Last the text: `/proc/PID/maps` as it was.
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

mod header;
mod reader;
mod writer;

use core::fmt;

pub use header::HEADER_SIZE;
use header::{VERSION_1, VERSION_2};
pub use reader::{Dump, InvalidSlot, SavedTable};
pub use writer::{DumpWriter, WriteError};

use crate::GeometryError;

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
            } => write!(f, "dump of size {bytes} instead of {expected}"),
            Self::Length { bytes, .. } => write!(f, "dump of size {bytes}"),
            Self::Order { table } => write!(f, "dump whose table {table} is out of order"),
        }
    }
}

impl core::error::Error for DumpError {}
