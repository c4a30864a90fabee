//! Translates one address.

use heapless::Vec;

use crate::{
    Descriptor, Entry, EntryMut, FrameNumber, Geometry, Kind, Level, Limits, LiveSource,
    PhysicalAddress, TableId, TableSource, TableSourceMut, VirtualAddress,
};

/// A descriptor on the path to an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The lookup level.
    pub level: Level,
    /// The frame of the table.
    pub table: FrameNumber,
    /// The index in the table.
    pub index: usize,
    /// The descriptor.
    pub descriptor: Descriptor,
}

/// The descriptors that translate one address, from the root down to the one that ends the walk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    address: VirtualAddress,
    steps: Vec<Step, { Level::ALL.len() }>,
}

impl Path {
    /// Makes the path of `address` from the frame of the root table and the descriptors read, each at the
    /// [index](Level::index) of its lookup level. Without steps if the tables cannot translate the address.
    #[must_use]
    pub fn new(
        geometry: &Geometry,
        address: VirtualAddress,
        root: FrameNumber,
        descriptors: [Descriptor; Level::ALL.len()],
    ) -> Self {
        let mut steps = Vec::new();
        let mut next = geometry.contains(address).then_some(geometry.root_level());
        let mut table = root;
        while let Some(level) = next {
            let descriptor = descriptors.get(level.index());
            let descriptor = descriptor.copied().unwrap_or_default();
            // One for each level: there is room.
            let _room = steps.push(Step {
                level,
                table,
                index: geometry.index(level, address),
                descriptor,
            });
            next = match descriptor.kind(geometry, level) {
                Kind::Table => level.next_lower(),
                Kind::Block | Kind::Page | Kind::Invalid => None,
            };
            table = descriptor.next_table(geometry);
        }
        Self { address, steps }
    }

    /// Returns the steps, from the root on.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the limits of the leaf, from the tables above it.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let above = self.steps.split_last().map_or(&[][..], |(_, above)| above);
        above
            .iter()
            .fold(Limits::NONE, |limits, step| limits.below(step.descriptor))
    }

    /// Returns the result of the translation.
    #[must_use]
    pub fn translation(&self, geometry: &Geometry) -> Translation {
        match self.steps.last() {
            Some(step) => Translation::of(geometry, self.address, step.level, step.descriptor),
            None => Translation::Fault {
                level: geometry.root_level(),
                descriptor: Descriptor::ZERO,
            },
        }
    }
}

/// Returns the path of one address: maps and reads one table for each level, each in a separate slot if there
/// are enough. If the tree changes during the call, some steps are from before and some from after the
/// change; a table that has vanished reads as 0.
///
/// # Errors
///
/// The source's own.
pub fn path<S: TableSource>(source: &mut S, address: VirtualAddress) -> Result<Path, S::Error> {
    let geometry = source.geometry();
    let mut descriptors = [Descriptor::ZERO; Level::ALL.len()];
    let mut root = FrameNumber(0);
    let mut next = geometry.contains(address).then_some(geometry.root_level());
    let mut frame = None;
    while let Some(level) = next {
        let id = TableId {
            level,
            address,
            frame,
        };
        // Upper tables stay mapped, where a source may need them.
        let slot = geometry.depth(level).min(source.slots().saturating_sub(1));
        let Some(found) = source.map(slot, id)? else {
            break;
        };
        if level == geometry.root_level() {
            root = found;
        }
        let descriptor = source.table(slot).load(geometry.index(level, address));
        if let Some(place) = descriptors.get_mut(level.index()) {
            *place = descriptor;
        }
        next = match descriptor.kind(&geometry, level) {
            Kind::Table => level.next_lower(),
            Kind::Block | Kind::Page | Kind::Invalid => None,
        };
        frame = Some(descriptor.next_table(&geometry));
    }
    Ok(Path::new(&geometry, address, root, descriptors))
}

/// The result of a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Translation {
    /// The address is mapped.
    Mapped {
        /// The physical address, with the offset in the page or block.
        address: PhysicalAddress,
        /// The level of the leaf.
        level: Level,
        /// The leaf: a page at level 3, a block above.
        descriptor: Descriptor,
    },
    /// A translation fault. This is a result, not an error.
    Fault {
        /// The level of the entry that ends the walk.
        level: Level,
        /// That entry; 0 at the root level for an address that the tables cannot translate.
        descriptor: Descriptor,
    },
}

impl Translation {
    /// Returns the translation of `address` by `descriptor`, read at `level`, at which the walk ended.
    #[must_use]
    #[inline]
    pub fn of(
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

    /// Returns the physical address, if there is one.
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
/// If a table vanishes during the walk, starts again, as hardware would see the new tree. After eight
/// attempts, reports a fault at the entry whose table vanished.
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

/// Like [`translate`], with `slot` as the only slot.
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

/// Returns the level-3 entry of an address; `None` if it has no table. Maps one table. Needs a live source,
/// since an entry in a copy would never change.
///
/// # Errors
///
/// The source's own.
pub fn entry<S: LiveSource>(
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

/// Like [`entry`], for writing.
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
