//! One address.

use crate::{
    Descriptor, Entry, EntryMut, Geometry, Kind, Level, PhysicalAddress, TableId, TableSource,
    TableSourceMut, VirtualAddress,
};

/// Where an address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Translation {
    /// To memory.
    Mapped {
        /// The physical address, with the offset in the page or block.
        address: PhysicalAddress,
        /// The level of the leaf.
        level: Level,
        /// The leaf: a page at level 3, a block above.
        descriptor: Descriptor,
    },
    /// Nowhere: a translation fault. An answer, not an error.
    Fault {
        /// The level of the entry that ends the walk.
        level: Level,
        /// That entry; 0 at the root level for an address that the tables cannot translate.
        descriptor: Descriptor,
    },
}

impl Translation {
    /// What `descriptor`, found at `level`, makes of `address`; it is not a table.
    #[inline]
    pub(crate) fn of(
        geometry: &Geometry,
        address: VirtualAddress,
        level: Level,
        descriptor: Descriptor,
    ) -> Self {
        match descriptor.kind(geometry, level) {
            Kind::Block | Kind::Page => {
                let offset = address.0 & (geometry.entry_size(level) - 1);
                let start = descriptor.output_address(geometry, level);
                Self::Mapped {
                    address: PhysicalAddress(start.0 | offset),
                    level,
                    descriptor,
                }
            }
            Kind::Invalid | Kind::Table => Self::Fault { level, descriptor },
        }
    }

    /// The physical address, if there is one.
    #[must_use]
    #[inline]
    pub const fn physical(self) -> Option<PhysicalAddress> {
        match self {
            Self::Mapped { address, .. } => Some(address),
            Self::Fault { .. } => None,
        }
    }
}

/// Translates one address: maps and reads one table for each level.
///
/// A table that vanishes on the way down makes it begin again, as the hardware would see the tree
/// then; eight times at most, after which the entry that led to nothing is the fault.
///
/// # Errors
///
/// The source's own.
pub fn translate<S: TableSource>(
    source: &mut S,
    address: VirtualAddress,
) -> Result<Translation, S::Error> {
    translate_in(source, 0, address)
}

/// As [`translate`], with `slot` as the only slot.
pub(crate) fn translate_in<S: TableSource>(
    source: &mut S,
    slot: usize,
    address: VirtualAddress,
) -> Result<Translation, S::Error> {
    const TRIES: usize = 8;
    let geometry = source.geometry();
    let mut level = geometry.root_level();
    let mut descriptor = Descriptor::ZERO;
    if !geometry.contains(address) {
        return Ok(Translation::Fault { level, descriptor });
    }
    for _try in 0..TRIES {
        level = geometry.root_level();
        let mut frame = None;
        while source
            .map(
                slot,
                TableId {
                    level,
                    address,
                    frame,
                },
            )?
            .is_some()
        {
            descriptor = source.table(slot).load(geometry.index(level, address));
            match (descriptor.kind(&geometry, level), level.next_lower()) {
                (Kind::Table, Some(lower)) => {
                    frame = Some(descriptor.next_table(&geometry));
                    level = lower;
                }
                _ => return Ok(Translation::of(&geometry, address, level, descriptor)),
            }
        }
    }
    // The root, if it was the root that vanished.
    let above = level.next_higher().unwrap_or(level);
    let level = above.max(geometry.root_level());
    Ok(Translation::Fault { level, descriptor })
}

/// The level-3 entry of an address; `None` where there is no table for it. Maps one table.
///
/// # Errors
///
/// The source's own.
pub fn entry<S: TableSource>(
    source: &mut S,
    slot: usize,
    address: VirtualAddress,
) -> Result<Option<Entry<'_>>, S::Error> {
    let index = source.geometry().index(Level::L3, address);
    let id = TableId {
        level: Level::L3,
        address,
        frame: None,
    };
    Ok(source
        .map(slot, id)?
        .and_then(|_frame| source.table(slot).entry(index)))
}

/// As [`entry`], for writing.
///
/// # Errors
///
/// The source's own.
pub fn entry_mut<S: TableSourceMut>(
    source: &mut S,
    slot: usize,
    address: VirtualAddress,
) -> Result<Option<EntryMut<'_>>, S::Error> {
    let index = source.geometry().index(Level::L3, address);
    let id = TableId {
        level: Level::L3,
        address,
        frame: None,
    };
    Ok(source
        .map(slot, id)?
        .and_then(|_frame| source.table_mut(slot).entry(index)))
}
