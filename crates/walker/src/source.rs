//! Where tables come from.

#![expect(unsafe_code, reason = "a cache relies on what a source promises")]

use crate::{Descriptor, Format, FrameNumber, Geometry, Level, Table, TableMut, VirtualAddress};

/// Names a table: the one of `level` that translates `address`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableId {
    /// Its lookup level.
    pub level: Level,
    /// An address that it translates.
    pub address: VirtualAddress,
    /// The expected frame, from the descriptor that led to the table; `None` accepts any.
    pub frame: Option<FrameNumber>,
}

/// A tree of tables, some of which can be read at a time.
///
/// A source has slots. A table is mapped into a slot, where it replaces the previous one, and can be read
/// there until it is replaced. The borrow of [`TableSource::table`] ends before the next
/// [`TableSource::map`], so no view outlives its table.
///
/// # Safety
///
/// The words of the table in a slot stay where they are, and can be read there, until the next
/// [`TableSource::map`] into that slot, whether that succeeds or not, or until the source is dropped.
/// Neither moving the source nor borrowing it alone moves them, or ends the use of pointers to them: they
/// are not in the source itself, nor in a `Box` of its own, which nothing else may point into.
///
/// # Examples
///
/// A source for tests: tables in memory, found by their frame. 36 bits of address and 4 KiB pages make
/// three levels.
///
/// ```
/// use std::sync::atomic::AtomicU64;
/// use tablewalk_walker::{
///     Format, FrameNumber, Geometry, Level, Linux, PhysicalAddress, Table, TableId, TableSource,
///     Translation, VirtualAddress, translate,
/// };
///
/// /// Level 1, 2 and 3 for the lowest addresses, in frames 0 to 2.
/// struct Memory {
///     tables: [Vec<AtomicU64>; 3],
///     slots: [usize; 4],
/// }
///
/// // SAFETY: the words are in vectors that never grow, and stay where they are.
/// unsafe impl TableSource for Memory {
///     type Error = ();
///
///     fn format(&self) -> Format {
///         let geometry = Geometry::new(12, 36, 48).unwrap();
///         Format { geometry, linux: Linux::V6_1, mair: 0 }
///     }
///
///     fn slots(&self) -> usize {
///         self.slots.len()
///     }
///
///     fn map(&mut self, slot: usize, id: TableId) -> Result<Option<FrameNumber>, ()> {
///         let span = self.geometry().span_shift(id.level);
///         if id.address.align_down(span) != VirtualAddress(0) {
///             return Ok(None);
///         }
///         let frame = id.level.index() - 2;
///         *self.slots.get_mut(slot).ok_or(())? = frame;
///         Ok(Some(FrameNumber(frame as u64)))
///     }
///
///     fn table(&self, slot: usize) -> Table<'_> {
///         Table::new(&self.tables[self.slots[slot]])
///     }
/// }
///
/// let table = || (0..512).map(|_| AtomicU64::new(0)).collect();
/// let mut memory = Memory { tables: [table(), table(), table()], slots: [0; 4] };
/// // Level 1 leads to frame 1, level 2 to frame 2, and page 5 is in frame 0x12345.
/// *memory.tables[0][0].get_mut() = 1 << 12 | 0b11;
/// *memory.tables[1][0].get_mut() = 2 << 12 | 0b11;
/// *memory.tables[2][5].get_mut() = 0x12345 << 12 | 0b11;
///
/// let found = translate(&mut memory, VirtualAddress(0x5678)).unwrap();
/// let Translation::Mapped { address, level, .. } = found else { panic!("{found:?}") };
/// assert_eq!((address, level), (PhysicalAddress(0x1234_5678), Level::L3));
/// ```
pub unsafe trait TableSource {
    /// The error of the source.
    type Error;

    /// Returns the shape of the tables, and the meaning of their bits.
    fn format(&self) -> Format;

    /// The shape of the tables.
    fn geometry(&self) -> Geometry {
        self.format().geometry
    }

    /// Returns the number of slots.
    fn slots(&self) -> usize;

    /// Maps table `id` into `slot`, and returns its frame. `None` if there is no such table, or if its frame
    /// is not the one in `id`: the tree has changed since it was read.
    ///
    /// # Errors
    ///
    /// The source's own, also for a slot that does not exist.
    fn map(&mut self, slot: usize, id: TableId) -> Result<Option<FrameNumber>, Self::Error>;

    /// Returns the table in `slot`: zeros, or no words at all, if none was mapped.
    fn table(&self, slot: usize) -> Table<'_>;

    /// Returns the number of batch slots, in which [`TableSource::map_batch`] keeps tables, besides the
    /// normal slots; 0 if there are none.
    fn batch_slots(&self) -> usize {
        0
    }

    /// Maps tables of `level`, below the root, that translate addresses from `start` up to `last`, in address
    /// order, into batch slots from `slot` on. May map fewer than there are and fit. Returns how many.
    ///
    /// # Errors
    ///
    /// The source's own.
    fn map_batch(
        &mut self,
        slot: usize,
        level: Level,
        start: VirtualAddress,
        last: VirtualAddress,
    ) -> Result<usize, Self::Error> {
        let _ = (slot, level, start, last);
        Ok(0)
    }

    /// Returns what is mapped in batch slot `slot`, if anything.
    ///
    /// In a [`LiveSource`] the table is the one in the tree as long as the entry of the parent holds the
    /// descriptor, so batches outlive a walk. Any other source drops them when a table is mapped.
    fn batched(&self, slot: usize) -> Option<Batched> {
        let _ = slot;
        None
    }

    /// Returns the table in batch slot `slot`, like [`TableSource::table`]. It stays until the next
    /// [`TableSource::map_batch`] into that slot.
    fn batch_table(&self, slot: usize) -> Table<'_> {
        let _ = slot;
        Table::new(&[])
    }
}

/// A table that a source keeps in a batch slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Batched {
    /// The first address that it translates.
    pub address: VirtualAddress,
    /// The descriptor that led to it when it was mapped.
    pub descriptor: Descriptor,
}

/// A [`TableSource`] whose slots contain the tables themselves, not copies: changes by the kernel are visible
/// in the slot.
///
/// [`Cache`](crate::Cache) needs this: it treats a table as current as long as the entry of the parent, in a
/// slot too, holds the descriptor that led to it. In a copy that entry would never change. A saved tree
/// qualifies, since it does not change.
///
/// # Safety
///
/// A word that is read in a slot is the current value in the table, and the memory of a table has no other
/// use as long as the table is in a slot.
pub unsafe trait LiveSource: TableSource {
    /// Returns whether mremap(2) may move a table of level 2 to another address with its entries in it
    /// (`HAVE_MOVE_PUD`). Kernels with `remap_page_table(2)` do not, others may.
    fn moves_level_2(&self) -> Moves {
        Moves::Never
    }
}

/// Whether tables are moved to another address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moves {
    /// They are not.
    Never,
    /// They are, and the entry that leads to one is in a slot with the table that it is in.
    Seen,
    /// They are, and the table above them can only be copied.
    Unseen,
}

/// A [`LiveSource`] whose tables can be written.
pub trait TableSourceMut: LiveSource {
    /// Returns the table in `slot`, like [`TableSource::table`].
    fn table_mut(&self, slot: usize) -> TableMut<'_>;
}
