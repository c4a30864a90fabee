//! Walks over all tables and entries of a tree.

use core::fmt;
use core::iter::FusedIterator;

use heapless::Vec;

use crate::rules::{AT_ONCE, Rules, TableRuns};
use crate::{
    Descriptor, Format, FrameNumber, Geometry, Kind, Level, Limits, PhysicalAddress, Table,
    TableId, TableSource, VirtualAddress,
};

/// Number of lookup levels, and so of tables on the path to an entry.
const LEVELS: usize = Level::ALL.len();

/// A table that the walk enters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableVisit {
    /// Its lookup level.
    pub level: Level,
    /// Its frame.
    pub frame: FrameNumber,
    /// The first address that it translates.
    pub address: VirtualAddress,
    /// The limits of the tables above.
    pub limits: Limits,
}

/// A descriptor, and where it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The lookup level of its table.
    pub level: Level,
    /// The frame of its table.
    pub table: FrameNumber,
    /// Its index in the table.
    pub index: usize,
    /// The first address that it translates.
    pub address: VirtualAddress,
    /// The descriptor.
    pub descriptor: Descriptor,
    /// The limits of the tables above.
    pub limits: Limits,
}

impl Found {
    /// Returns the physical address of the first byte of a leaf.
    #[must_use]
    pub const fn output_address(&self, geometry: &Geometry) -> PhysicalAddress {
        self.descriptor.output_address(geometry, self.level)
    }

    /// Returns the first frame of a leaf.
    #[must_use]
    pub const fn frame(&self, geometry: &Geometry) -> FrameNumber {
        self.output_address(geometry).frame(geometry)
    }

    /// Returns the number of pages of a leaf: 1, or those of a block.
    #[must_use]
    pub const fn pages(&self, geometry: &Geometry) -> u64 {
        geometry.entry_size(self.level) >> geometry.page_shift()
    }
}

/// An item of a [`Walk`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visit {
    /// A table; its entries and the tables below it follow.
    Table(TableVisit),
    /// A block or a page.
    Leaf(Found),
    /// An entry that is not valid and not 0: to Linux a page without access, in swap or being migrated.
    NotValid(Found),
    /// A descriptor led to this table, but the table vanished before it was mapped: the tree has changed. The
    /// walk continues after it.
    Changed(TableId),
}

/// The reason why a part of a tree was not walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkError<E> {
    /// As [`Visit::Changed`]. The walk continues after it.
    Changed(TableId),
    /// The source failed; nothing follows.
    Source(E),
}

impl<E: fmt::Display> fmt::Display for WalkError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed(id) => {
                let TableId { level, address, .. } = id;
                write!(f, "{level} table of {address}: changed meanwhile")
            }
            Self::Source(error) => error.fmt(f),
        }
    }
}

impl<E: core::error::Error> core::error::Error for WalkError<E> {}

/// Walks a tree in address order, each table before its entries. Skips entries that hold 0.
///
/// Reads each descriptor once and maps each table once, into the slot with the number of levels above it: the
/// source needs as many slots as levels, five at most. Level-3 tables are mapped in batches, if the source
/// has [`batch_slots`](TableSource::batch_slots), and batches of an earlier walk are used again as far as
/// they are current. Does not allocate. The error of a source is the last item.
#[derive(Debug)]
pub struct Walk<'s, S> {
    source: &'s mut S,
    geometry: Geometry,
    lowest: Level,
    start: VirtualAddress,
    last: VirtualAddress,
    /// Present if contiguous leaves have the state of their block.
    gathering: Option<Format>,
    /// The table to map next.
    pending: Option<Pending>,
    /// The tables on the current path.
    path: Vec<Step, LEVELS>,
    /// The batch slot that may contain the next level-3 table.
    batch: usize,
}

/// A table to map.
#[derive(Debug)]
struct Pending {
    id: TableId,
    /// The descriptor that led to it; 0 for the first table.
    descriptor: Descriptor,
    limits: Limits,
}

/// A table on the current path, and the position in it.
#[derive(Debug)]
struct Step {
    table: TableVisit,
    view: View,
    next: usize,
    end: usize,
}

/// Where a table is mapped.
#[derive(Clone, Copy, Debug)]
enum View {
    Slot(usize),
    Batch(usize),
}

impl<'s, S: TableSource> Walk<'s, S> {
    /// Walks the whole tree.
    pub fn new(source: &'s mut S) -> Self {
        let geometry = source.geometry();
        Self::at(source, geometry.root_level(), geometry.base())
    }

    /// Walks the table of `level` that translates `address`, and the tables below it.
    pub fn at(source: &'s mut S, level: Level, address: VirtualAddress) -> Self {
        let geometry = source.geometry();
        let id = TableId {
            level,
            address,
            frame: None,
        };
        Self {
            source,
            geometry,
            lowest: Level::L3,
            start: VirtualAddress(0),
            last: VirtualAddress(u64::MAX),
            gathering: None,
            pending: Some(Pending {
                id,
                descriptor: Descriptor::ZERO,
                limits: Limits::NONE,
            }),
            path: Vec::new(),
            batch: 0,
        }
    }

    /// Skips tables below `level`, and the descriptors that lead to them.
    #[must_use]
    pub const fn down_to(mut self, level: Level) -> Self {
        self.lowest = level;
        self
    }

    /// Skips entries and tables that translate no address from `start` to `last`.
    #[must_use]
    pub const fn within(mut self, start: VirtualAddress, last: VirtualAddress) -> Self {
        self.start = start;
        self.last = last;
        self
    }

    /// Gives contiguous leaves the accessed and dirty state of their contiguous block, as Linux reads them:
    /// see [`Table::gather`]. Their descriptors are then not always those of the table.
    #[must_use]
    pub fn gathering(mut self) -> Self {
        self.gathering = Some(self.source.format());
        self
    }

    /// Returns whether contiguous leaves have the state of their block.
    pub(crate) const fn is_gathering(&self) -> bool {
        self.gathering.is_some()
    }

    /// Iterates over blocks and pages only.
    pub fn leaves(self) -> impl Iterator<Item = Result<Found, WalkError<S::Error>>> {
        self.filter_map(|visit| match visit {
            Ok(Visit::Leaf(leaf)) => Some(Ok(leaf)),
            Ok(Visit::Table(_) | Visit::NotValid(_)) => None,
            Ok(Visit::Changed(id)) => Some(Err(WalkError::Changed(id))),
            Err(error) => Some(Err(WalkError::Source(error))),
        })
    }

    /// Iterates over tables only.
    pub fn tables(self) -> impl Iterator<Item = Result<TableVisit, WalkError<S::Error>>> {
        self.filter_map(|visit| match visit {
            Ok(Visit::Table(table)) => Some(Ok(table)),
            Ok(Visit::Leaf(_) | Visit::NotValid(_)) => None,
            Ok(Visit::Changed(id)) => Some(Err(WalkError::Changed(id))),
            Err(error) => Some(Err(WalkError::Source(error))),
        })
    }

    /// Returns the current table, which after a [`Visit::Table`] is that one, for callers that read its words
    /// themselves.
    #[must_use]
    pub fn table(&self) -> Option<Table<'_>> {
        self.path.last().map(|step| self.view(step.view))
    }

    /// Skips the rest of the current table.
    pub fn leave_table(&mut self) {
        self.path.pop();
    }

    /// The shape of the tables.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The source.
    pub(crate) const fn source(&self) -> &S {
        self.source
    }

    /// Looks for the next runs of the current level-3 table. Returns the table if it has any.
    pub(crate) fn next_runs(&mut self, rules: &Rules, runs: &mut TableRuns) -> Option<&TableVisit> {
        let step = self.path.last_mut()?;
        if step.table.level != Level::L3 || step.next >= step.end {
            return None;
        }
        let words = match step.view {
            View::Slot(slot) => self.source.table(slot),
            View::Batch(slot) => self.source.batch_table(slot),
        };
        let Some(format) = &self.gathering else {
            step.next = words.next_runs(step.next, step.end, rules, AT_ONCE, runs);
            return (!runs.is_empty()).then_some(&step.table);
        };
        step.next = words.next_runs(step.next, step.end, rules, 1, runs);
        let run = runs.first_mut()?;
        if run.first.is_contiguous() {
            let block = format.geometry.contiguous_block(Level::L3, run.index);
            run.first = words.gather(format, Level::L3, run.index, run.first);
            run.entries = run.entries.min(block.end - run.index);
            step.next = run.index + run.entries;
        }
        Some(&step.table)
    }

    fn view(&self, view: View) -> Table<'_> {
        match view {
            View::Slot(slot) => self.source.table(slot),
            View::Batch(slot) => self.source.batch_table(slot),
        }
    }

    /// Maps a table and goes to its first entry.
    fn enter(&mut self, pending: Pending) -> Result<Visit, S::Error> {
        let Pending {
            id,
            descriptor,
            limits,
        } = pending;
        let (view, frame) = match self.enter_batched(id, descriptor)? {
            Some(slot) => (View::Batch(slot), descriptor.next_table(&self.geometry)),
            None => {
                let slot = self.geometry.depth(id.level);
                match self.source.map(slot, id)? {
                    Some(frame) => (View::Slot(slot), frame),
                    None => return Ok(Visit::Changed(id)),
                }
            }
        };
        let shift = self.geometry.span_shift(id.level);
        let address = id.address.align_down(shift);
        let table = TableVisit {
            level: id.level,
            frame,
            address,
            limits,
        };
        let (next, end) = self.indices(table);
        let step = Step {
            table,
            view,
            next,
            end,
        };
        // One table for each level, so there is room. Otherwise the entries would be skipped.
        let _room = self.path.push(step);
        Ok(Visit::Table(table))
    }

    /// Returns the batch slot of level-3 table `id`, to which `descriptor` leads; `None` if it must be mapped
    /// separately.
    ///
    /// Batch slots are filled in address order, so the table should be in the next one; if not, that slot and
    /// those after it are filled again.
    fn enter_batched(
        &mut self,
        id: TableId,
        descriptor: Descriptor,
    ) -> Result<Option<usize>, S::Error> {
        let slots = self.source.batch_slots();
        if slots == 0 || id.level != Level::L3 || descriptor == Descriptor::ZERO {
            return Ok(None);
        }
        for filled in [false, true] {
            // Tables that vanished.
            while let Some(batched) = self.source.batched(self.batch)
                && batched.address < id.address
            {
                self.batch += 1;
            }
            if let Some(batched) = self.source.batched(self.batch)
                && batched.address == id.address
                && batched.descriptor == descriptor
            {
                self.batch += 1;
                return Ok(Some(self.batch - 1));
            }
            if filled {
                break;
            }
            if self.batch >= slots {
                self.batch = 0;
            }
            if self
                .source
                .map_batch(self.batch, id.level, id.address, self.last)?
                == 0
            {
                break;
            }
        }
        Ok(None)
    }

    /// Returns the entries of `table` that translate addresses of the range: the first index, and the end.
    fn indices(&self, table: TableVisit) -> (usize, usize) {
        let last = self.geometry.table_span(table.level) - 1;
        let last = table.address.wrapping_add(last);
        if self.start > last || self.last < table.address {
            return (0, 0);
        }
        let first = self.start.max(table.address);
        let last = self.last.min(last);
        let index = |address| self.geometry.index(table.level, address);
        (index(first), index(last) + 1)
    }

    /// Reads the next descriptor of the current table that is not 0.
    fn next_found(&mut self) -> Option<Found> {
        let step = self.path.last()?;
        let (table, end) = (step.table, step.end);
        let words = self.view(step.view);
        let mut next = step.next;
        let found = loop {
            let index = words.first_in_use(next, end);
            if index >= end {
                next = end;
                break None;
            }
            next = index + 1;
            // It may have become 0 in the meantime.
            let mut descriptor = words.load(index);
            if descriptor != Descriptor::ZERO {
                if let Some(format) = &self.gathering
                    && descriptor.kind(&self.geometry, table.level) != Kind::Table
                {
                    descriptor = words.gather(format, table.level, index, descriptor);
                }
                let offset = (index as u64) << self.geometry.level_shift(table.level);
                break Some(Found {
                    level: table.level,
                    table: table.frame,
                    index,
                    address: table.address.wrapping_add(offset),
                    descriptor,
                    limits: table.limits,
                });
            }
        };
        if let Some(step) = self.path.last_mut() {
            step.next = next;
        }
        found
    }
}

impl<S: TableSource> Iterator for Walk<'_, S> {
    type Item = Result<Visit, S::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(pending) = self.pending.take() {
                let visit = self.enter(pending);
                if visit.is_err() {
                    self.path.clear();
                }
                return Some(visit);
            }
            let Some(found) = self.next_found() else {
                // This table is done; without another one the walk is done.
                self.path.pop()?;
                continue;
            };
            match found.descriptor.kind(&self.geometry, found.level) {
                Kind::Invalid => return Some(Ok(Visit::NotValid(found))),
                Kind::Block | Kind::Page => return Some(Ok(Visit::Leaf(found))),
                Kind::Table if found.level >= self.lowest => {}
                Kind::Table => {
                    self.pending = found.level.next_lower().map(|level| Pending {
                        id: TableId {
                            level,
                            address: found.address,
                            frame: Some(found.descriptor.next_table(&self.geometry)),
                        },
                        descriptor: found.descriptor,
                        limits: found.limits.below(found.descriptor),
                    });
                }
            }
        }
    }
}

impl<S: TableSource> FusedIterator for Walk<'_, S> {}
