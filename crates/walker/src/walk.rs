//! Every table and every entry of a tree.

use core::iter::FusedIterator;

use heapless::Vec;

use crate::{
    Descriptor, FrameNumber, Geometry, Kind, Level, PhysicalAddress, TableId, TableSource,
    VirtualAddress,
};

/// Lookup levels, and so tables on the way down to an entry.
const LEVELS: usize = 4;

/// A table, at its first entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableVisit {
    /// Its lookup level.
    pub level: Level,
    /// Its frame.
    pub frame: FrameNumber,
    /// The first address that it translates.
    pub address: VirtualAddress,
}

/// A descriptor, with the place it was read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The lookup level of its table.
    pub level: Level,
    /// The frame of its table.
    pub table: FrameNumber,
    /// Its place in the table.
    pub index: usize,
    /// The first address that it translates.
    pub address: VirtualAddress,
    /// What was read.
    pub descriptor: Descriptor,
}

impl Found {
    /// The physical address of the first byte that a leaf maps.
    #[must_use]
    pub const fn output_address(&self, geometry: &Geometry) -> PhysicalAddress {
        self.descriptor.output_address(geometry, self.level)
    }

    /// The first frame that a leaf maps.
    #[must_use]
    pub const fn frame(&self, geometry: &Geometry) -> FrameNumber {
        self.output_address(geometry).frame(geometry)
    }

    /// How many pages a leaf maps: one, or a block of them.
    #[must_use]
    pub const fn pages(&self, geometry: &Geometry) -> u64 {
        geometry.entry_size(self.level) >> geometry.page_shift()
    }
}

/// What a [`Walk`] comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visit {
    /// A table; its entries and the tables below it follow.
    Table(TableVisit),
    /// A block or a page.
    Leaf(Found),
    /// An entry that is not valid and not 0: to Linux a page without access, in swap or on its way.
    NotValid(Found),
    /// A descriptor led to this table, and when it was to be mapped it was no longer there: the tree
    /// changed. The walk goes on behind it.
    Changed(TableId),
}

/// Walks a tree in address order, each table before its entries. Entries that hold 0 are passed over.
///
/// Reads each descriptor once and maps each table once, into the slot with the number of its level:
/// the source needs four. Does not allocate. The error of a source is the last item.
#[derive(Debug)]
pub struct Walk<'s, S> {
    source: &'s mut S,
    geometry: Geometry,
    lowest: Level,
    /// The table to map next.
    pending: Option<TableId>,
    /// The tables on the way down.
    path: Vec<Step, LEVELS>,
}

/// A table on the way down, and how far the walk is in it.
#[derive(Debug)]
struct Step {
    table: TableVisit,
    next: usize,
}

impl<'s, S: TableSource> Walk<'s, S> {
    /// Walks the whole tree.
    pub fn new(source: &'s mut S) -> Self {
        let root = source.geometry().root_level();
        Self::at(source, root, VirtualAddress(0))
    }

    /// Walks the table of `level` that translates `address`, and what is below it.
    pub fn at(source: &'s mut S, level: Level, address: VirtualAddress) -> Self {
        let geometry = source.geometry();
        let pending = Some(TableId {
            level,
            address,
            frame: None,
        });
        Self {
            source,
            geometry,
            lowest: Level::L3,
            pending,
            path: Vec::new(),
        }
    }

    /// Leaves out tables below `level`. Descriptors that lead to them are passed over.
    #[must_use]
    pub const fn down_to(mut self, level: Level) -> Self {
        self.lowest = level;
        self
    }

    /// Maps a table and goes to its first entry.
    fn enter(&mut self, id: TableId) -> Result<Visit, S::Error> {
        let slot = usize::from(id.level.number());
        let Some(frame) = self.source.map(slot, id)? else {
            return Ok(Visit::Changed(id));
        };
        let address = id.address.align_down(self.geometry.span_shift(id.level));
        let table = TableVisit {
            level: id.level,
            frame,
            address,
        };
        // One table for each level: there is room. Were there none, the entries would be left out.
        let _room = self.path.push(Step { table, next: 0 });
        Ok(Visit::Table(table))
    }

    /// Reads the next descriptor of the table that the walk is in.
    fn next_found(&mut self) -> Option<Found> {
        let step = self.path.last_mut()?;
        let TableVisit {
            level,
            frame: table,
            address,
        } = step.table;
        let index = step.next;
        if index >= self.geometry.entries(level) {
            return None;
        }
        step.next += 1;
        let offset = (index as u64) << self.geometry.level_shift(level);
        let descriptor = self.source.table(usize::from(level.number())).load(index);
        Some(Found {
            level,
            table,
            index,
            address: address.wrapping_add(offset),
            descriptor,
        })
    }
}

impl<S: TableSource> Iterator for Walk<'_, S> {
    type Item = Result<Visit, S::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(id) = self.pending.take() {
                let visit = self.enter(id);
                if visit.is_err() {
                    self.path.clear();
                }
                return Some(visit);
            }
            let Some(found) = self.next_found() else {
                // Done with this table; with none left, done.
                self.path.pop()?;
                continue;
            };
            match found.descriptor.kind(&self.geometry, found.level) {
                Kind::Invalid if found.descriptor == Descriptor::ZERO => {}
                Kind::Invalid => return Some(Ok(Visit::NotValid(found))),
                Kind::Block | Kind::Page => return Some(Ok(Visit::Leaf(found))),
                Kind::Table if found.level >= self.lowest => {}
                Kind::Table => {
                    self.pending = found.level.next_lower().map(|level| TableId {
                        level,
                        address: found.address,
                        frame: Some(found.descriptor.next_table(&self.geometry)),
                    });
                }
            }
        }
    }
}

impl<S: TableSource> FusedIterator for Walk<'_, S> {}
