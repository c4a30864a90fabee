//! The live page tables of a process, as a source of tables for the walker.
//!
//! [`Live`] maps tables for reading only, [`LiveMut`] for writing too. Each owns an arena with one page for
//! each slot, mapped once; `remap_page_table(2)` replaces the page of a slot by a table, so a slot is reused
//! without `munmap`. One call maps up to 512 tables into batch slots. A child does not inherit the tables,
//! and has to make a new source.

#![no_std]
#![expect(
    unsafe_code,
    reason = "promises to the walker that tables stay in their slots"
)]

mod arena;
pub mod copy;
mod error;
mod flush;
mod format;
mod path;

use tablewalk_uapi::memory::Protection;
use tablewalk_walker::{
    Batched, Format, FrameNumber, Geometry, Level, LiveSource, Moves, Table, TableId, TableMut,
    TableSource, TableSourceMut, VirtualAddress,
};

use crate::arena::Arena;
pub use crate::error::LiveError;
pub use crate::flush::flush;
pub use crate::format::{format, format_of};
pub use crate::path::{path, translate};

/// Defines a source whose arena has the given protection.
macro_rules! source {
    ($(#[$doc:meta])* $name:ident, $protection:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(Arena);

        impl $name {
            /// Prepares `slots` slots for tables of process `pid`; 0 is the caller. Two system calls.
            ///
            /// # Errors
            ///
            /// [`LiveError::Info`], [`LiveError::Geometry`], [`LiveError::Arena`]. Whether the process exists
            /// is checked when a table is mapped.
            pub fn new(pid: i32, slots: usize) -> Result<Self, LiveError> {
                Self::with_batch(pid, slots, 0)
            }

            /// Like [`Self::new`], and prepares `batch_slots` slots for tables that are mapped together.
            /// Allocates address space and sixteen bytes for each at once, memory when they are used.
            ///
            /// # Errors
            ///
            /// As [`Self::new`].
            pub fn with_batch(
                pid: i32,
                slots: usize,
                batch_slots: usize,
            ) -> Result<Self, LiveError> {
                Arena::new(pid, slots, batch_slots, $protection).map(Self)
            }
        }

        /// Mapping a table is one system call, reading it is none.
        // SAFETY: the words of a slot are in a page of the arena, which is not moved.
        unsafe impl TableSource for $name {
            type Error = LiveError;

            fn format(&self) -> Format {
                *self.0.format()
            }

            #[inline]
            fn geometry(&self) -> Geometry {
                self.0.format().geometry
            }

            fn slots(&self) -> usize {
                self.0.slots()
            }

            fn map(&mut self, slot: usize, id: TableId) -> Result<Option<FrameNumber>, LiveError> {
                self.0.map(slot, id)
            }

            #[inline]
            fn table(&self, slot: usize) -> Table<'_> {
                Table::new(self.0.words(slot))
            }

            fn batch_slots(&self) -> usize {
                self.0.batch_slots()
            }

            fn map_batch(
                &mut self,
                slot: usize,
                level: Level,
                start: VirtualAddress,
                last: VirtualAddress,
            ) -> Result<usize, LiveError> {
                self.0.map_batch(slot, level, start, last)
            }

            fn batched(&self, slot: usize) -> Option<Batched> {
                self.0.batched(slot)
            }

            fn batch_table(&self, slot: usize) -> Table<'_> {
                Table::new(self.0.batch_words(slot))
            }
        }
    };
}

source! {
    /// The tables of a process, for reading: they are mapped read-only, and cannot be made writable.
    Live, Protection::READ
}

source! {
    /// The tables of a process, for reading and writing.
    LiveMut, Protection::READ_WRITE
}

// SAFETY: the pages of the arena are the tables, and the kernel does not reuse these as long as they are
// mapped.
unsafe impl LiveSource for Live {
    fn moves_level_2(&self) -> Moves {
        self.0.moves_level_2()
    }
}

// SAFETY: as for `Live`.
unsafe impl LiveSource for LiveMut {
    fn moves_level_2(&self) -> Moves {
        self.0.moves_level_2()
    }
}

impl TableSourceMut for LiveMut {
    #[inline]
    fn table_mut(&self, slot: usize) -> TableMut<'_> {
        TableMut::new(self.0.words(slot))
    }
}

#[cfg(test)]
mod tests {
    use static_assertions::assert_impl_all;
    use tablewalk_walker::Cache;

    use super::*;

    // A worker may be created on one thread and run on another.
    assert_impl_all!(Live: Send, Sync);
    assert_impl_all!(LiveMut: Send, Sync);
    assert_impl_all!(Cache<LiveMut, 16, 4>: Send, Sync);
    assert_impl_all!(LiveError: Send, Sync);
}
