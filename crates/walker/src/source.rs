//! Where tables come from.

#![expect(unsafe_code, reason = "a cache relies on what a source promises")]

use crate::{FrameNumber, Geometry, Level, Table, TableMut, VirtualAddress};

/// Names a table: the one of `level` that translates `address`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableId {
    /// Its lookup level.
    pub level: Level,
    /// An address that it translates.
    pub address: VirtualAddress,
    /// Its frame as the descriptor said that led to it; `None` for whichever it is now.
    pub frame: Option<FrameNumber>,
}

/// A tree of tables, of which some can be read at a time.
///
/// A source has slots. A table is mapped into a slot, where it takes the place of the one before, and
/// is read there until the next one comes. The borrow of [`TableSource::table`] ends before the next
/// [`TableSource::map`], so that no view outlives its table.
///
/// # Safety
///
/// The words of the table in a slot stay where they are, and can be read there, until the next
/// successful [`TableSource::map`] into that slot or until the source is dropped. Moving the source
/// does not move them.
pub unsafe trait TableSource {
    /// What can go wrong.
    type Error;

    /// The shape of the tables.
    fn geometry(&self) -> Geometry;

    /// Number of slots.
    fn slots(&self) -> usize;

    /// Maps table `id` into `slot`; its frame. `None` if there is no such table, or it has another
    /// frame than `id` says: the tree has changed since it was read.
    ///
    /// # Errors
    ///
    /// The source's own; a slot that does not exist is one of them.
    fn map(&mut self, slot: usize, id: TableId) -> Result<Option<FrameNumber>, Self::Error>;

    /// The table in `slot`: zeros, or no words at all, if none was mapped.
    fn table(&self, slot: usize) -> Table<'_>;
}

/// A [`TableSource`] whose tables can be written.
pub trait TableSourceMut: TableSource {
    /// The table in `slot`, as [`TableSource::table`].
    fn table_mut(&self, slot: usize) -> TableMut<'_>;
}
