//! A cache of mapped tables, for many translations.
//!
//! A leaf table (level 3) is cached together with the entry of its parent (level 2) that leads to it, and the
//! descriptor that was read there. The kernel clears that entry before it frees, moves or replaces the leaf
//! table, and the source prevents both tables from being reused: if the entry still holds the same
//! descriptor, the leaf table is current. So a translation that hits takes two loads, the parent's entry and
//! the leaf's; for a block, one.
//!
//! Parents are cached separately, since many leaf tables have the same one. A parent needs no check: the
//! kernel empties it before it frees it, and `remap_page_table` promises that no level-2 table is moved to
//! another address with its entries in it (`HAVE_MOVE_PUD` is off). Where a source says that they are moved
//! ([`LiveSource::moves_level_2`]), the entry that leads to the parent is kept and checked in the same way: that takes
//! one load more, and the tables of level 1 stay in their places. Where such an entry cannot be seen, nothing is cached.

#![expect(
    unsafe_code,
    reason = "loads from tables that stay in the slots of its source"
)]

use core::fmt;

use crate::descriptor::AddressBits;
use crate::table::EntryPointer;
use crate::translate::translate_in;
use crate::{
    Descriptor, EntryMut, FrameNumber, Geometry, Kind, Level, LiveSource, Moves, PhysicalAddress,
    TableId, TableMut, TableSourceMut, Translation, VirtualAddress,
};

/// A tag that matches no range: tags have at most 52 - 21 bits.
const NO_TAG: u64 = u64::MAX;
/// Tag bit of a range for which the fast path does not work: blocks, addresses of more than 48 bits, and parents that are
/// moved.
const SLOW_PATH: u64 = 1 << 63;

/// The source of a cache has too few slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheError {
    /// The number of slots of the source.
    pub slots: usize,
    /// The number of slots that the cache needs.
    pub needed: usize,
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots, {} needed", self.slots, self.needed)
    }
}

impl core::error::Error for CacheError {}

/// The cached state of the range that one level-2 entry translates.
///
/// # Invariants
///
/// If `tag` is not [`NO_TAG`], `entry` is the level-2 entry of the range, in a table in a slot of the cache's
/// source. The table at `table` is in a slot too, unless `seen` is 0. Without [`SLOW_PATH`], `seen` is not 0.
/// `entry` can always be read.
///
/// One data cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Leaf {
    /// The range: its addresses without the bits of level 3 and of the page offset, perhaps with
    /// [`SLOW_PATH`].
    tag: u64,
    /// The value of the entry when the leaf table was mapped; 0, which is no table descriptor, for a block.
    seen: Descriptor,
    /// The level-2 entry.
    entry: EntryPointer,
    /// The leaf table, with its entries numbered as pages of the whole address space.
    table: EntryPointer,
    /// The slot of the parent.
    parent: usize,
}

impl Leaf {
    const NONE: Self = Self {
        tag: NO_TAG,
        seen: Descriptor::ZERO,
        entry: EntryPointer::nothing(),
        table: EntryPointer::nothing(),
        parent: 0,
    };
}

/// The cached state of a level-2 table.
///
/// # Invariants
///
/// `above` can always be read.
#[derive(Clone, Copy, Debug)]
struct Parent {
    /// The range that it translates: the addresses without the bits of level 2 and below.
    tag: u64,
    frame: FrameNumber,
    /// Where parents are moved: the entry that leads to it, in a table in a slot, and its value then.
    above: EntryPointer,
    seen: Descriptor,
}

impl Parent {
    const NONE: Self = Self {
        tag: NO_TAG,
        frame: FrameNumber(0),
        above: EntryPointer::nothing(),
        seen: Descriptor::ZERO,
    };
}

/// A cache of up to `LEAVES` leaf tables and blocks under up to `PARENTS` level-2 tables, both powers of two.
/// It owns its source, so no other code maps tables into the slots.
///
/// Direct-mapped: two ranges whose numbers are equal modulo `LEAVES` evict each other.
///
/// # Examples
///
/// The first translation of a range maps two tables; each further one is two loads:
///
/// ```
/// use tablewalk_walker::{Cache, LiveSource, PhysicalAddress, Translation, VirtualAddress};
///
/// fn frames<S: LiveSource>(source: S, page: u64) -> Result<Vec<PhysicalAddress>, S::Error> {
///     let Ok(mut cache) = Cache::<S, 64, 8>::new(source) else {
///         return Ok(Vec::new()); // The source has fewer than Cache::<S, 64, 8>::SLOTS slots.
///     };
///     let mut found = Vec::new();
///     for address in (0..16).map(|number| VirtualAddress(number * page)) {
///         if let Translation::Mapped { address, .. } = cache.translate(address)? {
///             found.push(address);
///         }
///     }
///     Ok(found)
/// }
/// ```
#[derive(Debug)]
pub struct Cache<S, const LEAVES: usize, const PARENTS: usize> {
    source: S,
    geometry: Geometry,
    /// The geometry of a page, for the fast path.
    page: PageBits,
    /// In slots `PARENTS..PARENTS + LEAVES`.
    leaves: [Leaf; LEAVES],
    /// In slots `0..PARENTS`; the tables above them are in the last slots.
    parents: [Parent; PARENTS],
    moves: Moves,
}

/// How to split an address at level 3, and to compute the output address of a page descriptor.
#[derive(Clone, Copy, Debug)]
struct PageBits {
    shift: u32,
    range_shift: u32,
    /// Mask of the output address of a page, for the fast path: bits 47:n of the descriptor, 2^n being the
    /// size of a page.
    frame_mask: u64,
    /// [`SLOW_PATH`] if addresses have more than 48 bits or parents are moved, otherwise 0.
    slow_path: u64,
}

impl PageBits {
    const fn new(geometry: &Geometry) -> Self {
        Self {
            shift: geometry.page_shift(),
            range_shift: geometry.level_shift(Level::L2),
            frame_mask: AddressBits::new(geometry, Level::L3).mask(),
            slow_path: if geometry.oa_bits() > 48 || geometry.va_bits() > 48 {
                SLOW_PATH
            } else {
                0
            },
        }
    }
}

impl<S: LiveSource, const LEAVES: usize, const PARENTS: usize> Cache<S, LEAVES, PARENTS> {
    /// The number of slots that the source must have: one for each table, one to translate addresses that
    /// are not cached, and one for the table above each parent.
    pub const SLOTS: usize = Self::ABOVE + PARENTS;
    const SCRATCH: usize = PARENTS + LEAVES;
    const ABOVE: usize = Self::SCRATCH + 1;

    /// An empty cache.
    ///
    /// # Errors
    ///
    /// [`CacheError`] if the source has fewer than [`Cache::SLOTS`] slots.
    pub fn new(source: S) -> Result<Self, CacheError> {
        const { assert!(LEAVES.is_power_of_two() && PARENTS.is_power_of_two()) };
        let slots = source.slots();
        if slots < Self::SLOTS {
            return Err(CacheError {
                slots,
                needed: Self::SLOTS,
            });
        }
        let geometry = source.geometry();
        let mut page = PageBits::new(&geometry);
        // A root is not moved.
        let moves = match source.moves_level_2() {
            _ if geometry.root_level() == Level::L2 => Moves::Never,
            moves => moves,
        };
        if moves == Moves::Seen {
            page.slow_path = SLOW_PATH;
        }
        Ok(Self {
            moves,
            source,
            geometry,
            page,
            leaves: [Leaf::NONE; LEAVES],
            parents: [Parent::NONE; PARENTS],
        })
    }

    /// Returns the shape of the tables.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Translates `address` if its range is cached and current: two loads from tables, one for a block, and
    /// no system call. `None` is a miss: it does not mean that the address is unmapped.
    #[must_use]
    #[inline]
    pub fn lookup(&self, address: VirtualAddress) -> Option<Translation> {
        let (level, descriptor) = self.leaf(address)?;
        Some(Translation::of(&self.geometry, address, level, descriptor))
    }

    /// Returns the physical address of `address` if its range is cached and current and a page is mapped
    /// there: [`Cache::lookup`] for the most frequent case. `None` does not mean that the address is
    /// unmapped.
    #[must_use]
    #[inline(always)]
    pub fn physical(&self, address: VirtualAddress) -> Option<PhysicalAddress> {
        let tag = self.tag(address);
        let leaf = self.leaves.get(Self::place(tag))?;
        // SAFETY: the invariants of `Leaf`; only the cache maps tables into the slots of its source.
        let now = unsafe { leaf.entry.load(0) };
        if (leaf.tag == tag) & (now == leaf.seen) {
            // SAFETY: as above: `seen` is not 0, and a page of the range is an entry of the table.
            let page = unsafe { leaf.table.load(self.page_number(address)) };
            // A page has both low bits (`Descriptor::kind`).
            if page.0 & 0b11 == 0b11 {
                let (frame, offset) = (self.page.frame_mask, !self.page.frame_mask);
                return Some(PhysicalAddress(page.0 & frame | address.0 & offset));
            }
        }
        self.physical_slow_path(address)
    }

    /// [`Cache::physical`] where the fast path has found no page.
    #[cold]
    #[inline(never)]
    fn physical_slow_path(&self, address: VirtualAddress) -> Option<PhysicalAddress> {
        self.lookup(address)?.physical()
    }

    /// Translates `address`, and caches its range.
    ///
    /// A hit costs as much as [`Cache::lookup`]. A miss maps the leaf table, and the parent if it is not
    /// cached. For an address without a level-2 entry, each call costs as much as
    /// [`translate`](crate::translate()).
    ///
    /// # Errors
    ///
    /// The source's own.
    pub fn translate(&mut self, address: VirtualAddress) -> Result<Translation, S::Error> {
        if let Some(translation) = self.lookup(address) {
            return Ok(translation);
        }
        if self.insert(address)?
            && let Some(translation) = self.lookup(address)
        {
            return Ok(translation);
        }
        translate_in(&mut self.source, Self::SCRATCH, address)
    }

    /// Caches the range of `address`, evicting the previous range of that slot. Returns whether there was a
    /// leaf table or a block to cache. Maps at most three tables, four where parents are moved.
    ///
    /// # Errors
    ///
    /// The source's own.
    pub fn insert(&mut self, address: VirtualAddress) -> Result<bool, S::Error> {
        self.evict(address);
        if !self.geometry.contains(address) || self.moves == Moves::Unseen {
            return Ok(false);
        }
        let Some(parent) = self.current_parent(address)? else {
            return Ok(false);
        };
        let index = self.geometry.index(Level::L2, address);
        let seen = self.source.table(parent).load(index);
        let (seen, table, slow_path) = match seen.kind(&self.geometry, Level::L2) {
            Kind::Table => match self.map_leaf(address, seen)? {
                Some(table) => (seen, table, self.page.slow_path),
                None => return Ok(false),
            },
            Kind::Block => (Descriptor::ZERO, EntryPointer::nothing(), SLOW_PATH),
            Kind::Page | Kind::Invalid => return Ok(false),
        };
        let Some(entry) = self
            .source
            .table(parent)
            .entry(index)
            .map(EntryPointer::new)
        else {
            return Ok(false);
        };
        let tag = self.tag(address);
        if let Some(leaf) = self.leaves.get_mut(Self::place(tag)) {
            *leaf = Leaf {
                tag: tag | slow_path,
                seen,
                entry,
                table,
                parent,
            };
        }
        Ok(true)
    }

    /// Evicts the range of `address`, or whichever range is cached in its slot.
    pub fn evict(&mut self, address: VirtualAddress) {
        let place = Self::place(self.tag(address));
        if let Some(leaf) = self.leaves.get_mut(place) {
            *leaf = Leaf::NONE;
        }
    }

    /// Evicts all ranges. The tables stay mapped until others replace them.
    pub fn clear(&mut self) {
        self.leaves = [Leaf::NONE; LEAVES];
        self.parents = [Parent::NONE; PARENTS];
    }

    /// Returns the source.
    #[must_use]
    pub fn into_source(self) -> S {
        self.source
    }

    /// Returns the leaf descriptor of `address` and its level, if the range is cached and current.
    fn leaf(&self, address: VirtualAddress) -> Option<(Level, Descriptor)> {
        let tag = self.tag(address);
        let leaf = self
            .leaves
            .get(Self::place(tag))
            .filter(|leaf| leaf.tag & !SLOW_PATH == tag)?;
        // The order of the two loads does not matter: the leaf's entry had this value at one moment of this
        // call, and its table translated the address at another. SAFETY: the invariants of `Leaf`; only the
        // cache maps tables into the slots of its source.
        let now = unsafe { leaf.entry.load(0) };
        if self.moves == Moves::Seen && !self.is_in_place(leaf.parent) {
            return None;
        }
        // The entry is 0 after a block was unmapped: there is no table then.
        if now == leaf.seen && now != Descriptor::ZERO {
            // SAFETY: as above; a page of the range is an entry of the table.
            let page = unsafe { leaf.table.load(self.page_number(address)) };
            return Some((Level::L3, page));
        }
        // A block needs no other check, since a parent that was freed is empty.
        (now.kind(&self.geometry, Level::L2) == Kind::Block).then_some((Level::L2, now))
    }

    /// Returns whether the entry that leads to the parent in `slot` still has its value.
    fn is_in_place(&self, slot: usize) -> bool {
        self.parents.get(slot).is_some_and(|parent| {
            // SAFETY: the invariants of `Parent`; only the cache maps tables into the slots of its source.
            unsafe { parent.above.load(0) == parent.seen }
        })
    }

    /// Returns the slot of the parent of the range of `address`, which is mapped if necessary. `None` if
    /// there is no level-2 table.
    fn current_parent(&mut self, address: VirtualAddress) -> Result<Option<usize>, S::Error> {
        let tag = address.0 >> self.geometry.span_shift(Level::L2);
        let slot = Self::low_bits(tag) & (PARENTS - 1);
        let index = self.geometry.index(Level::L2, address);
        let id = |frame| TableId {
            level: Level::L2,
            address,
            frame,
        };
        if let Some(&Parent {
            tag: cached, frame, ..
        }) = self.parents.get(slot)
            && cached == tag
            && (self.moves == Moves::Never || self.is_in_place(slot))
        {
            // If the entry is not 0, the table is in use. Otherwise nothing is mapped there, or the table was
            // emptied and freed: whether it is still in the tree decides.
            if self.source.table(slot).load(index).is_valid()
                || self.source.map(Self::SCRATCH, id(Some(frame)))?.is_some()
            {
                return Ok(Some(slot));
            }
        }
        self.forget_parent(slot);
        let Some(frame) = self.source.map(slot, id(None))? else {
            return Ok(None);
        };
        let (above, seen) = match self.moves {
            Moves::Never => (EntryPointer::nothing(), Descriptor::ZERO),
            Moves::Seen | Moves::Unseen => match self.map_above(slot, address, frame)? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        if let Some(parent) = self.parents.get_mut(slot) {
            *parent = Parent {
                tag,
                frame,
                above,
                seen,
            };
        }
        Ok(Some(slot))
    }

    /// Maps the table above the parent in `slot`, which has `frame`. Returns the entry that leads to it, and its value;
    /// `None` if it leads elsewhere by now.
    fn map_above(
        &mut self,
        slot: usize,
        address: VirtualAddress,
        frame: FrameNumber,
    ) -> Result<Option<(EntryPointer, Descriptor)>, S::Error> {
        let above = TableId {
            level: Level::L1,
            address,
            frame: None,
        };
        let slot = Self::ABOVE + slot;
        if self.source.map(slot, above)?.is_none() {
            return Ok(None);
        }
        let index = self.geometry.index(Level::L1, address);
        let entry = self.source.table(slot).entry(index);
        Ok(entry
            .map(|entry| (EntryPointer::new(entry), entry.load()))
            .filter(|(_, seen)| {
                seen.kind(&self.geometry, Level::L1) == Kind::Table
                    && seen.next_table(&self.geometry) == frame
            }))
    }

    /// Evicts the parent in `slot` and the leaves under it.
    fn forget_parent(&mut self, slot: usize) {
        if let Some(parent) = self.parents.get_mut(slot) {
            *parent = Parent::NONE;
        }
        for leaf in self.leaves.iter_mut().filter(|leaf| leaf.parent == slot) {
            *leaf = Leaf::NONE;
        }
    }

    /// Maps the leaf table of descriptor `seen` into its slot, and returns its entries. `None` if the table
    /// is gone.
    fn map_leaf(
        &mut self,
        address: VirtualAddress,
        seen: Descriptor,
    ) -> Result<Option<EntryPointer>, S::Error> {
        let slot = self.leaf_slot(address);
        let frame = Some(seen.next_table(&self.geometry));
        if self
            .source
            .map(
                slot,
                TableId {
                    level: Level::L3,
                    address,
                    frame,
                },
            )?
            .is_none()
        {
            return Ok(None);
        }
        let table = self.source.table(slot);
        let first = self.page_number(address.align_down(self.page.range_shift));
        // The table is complete: the fast path does not check the index.
        let whole = EntryPointer::of_table(table, self.geometry.entries(Level::L3));
        Ok(whole.map(|table| table.numbered_from(first)))
    }

    const fn leaf_slot(&self, address: VirtualAddress) -> usize {
        PARENTS + Self::place(self.tag(address))
    }

    #[inline(always)]
    const fn tag(&self, address: VirtualAddress) -> u64 {
        address.0 >> self.page.range_shift
    }

    /// Returns the number of the page in the address space.
    #[inline(always)]
    const fn page_number(&self, address: VirtualAddress) -> usize {
        Self::low_bits(address.0 >> self.page.shift)
    }

    #[inline(always)]
    const fn place(tag: u64) -> usize {
        Self::low_bits(tag) & (LEAVES - 1)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low bits are what is wanted"
    )]
    const fn low_bits(tag: u64) -> usize {
        tag as usize
    }
}

impl<S: TableSourceMut, const LEAVES: usize, const PARENTS: usize> Cache<S, LEAVES, PARENTS> {
    /// Returns the level-3 entry of `address` for writing; `None` if it has no table. A hit costs one load, a
    /// miss as much as in [`Cache::translate`].
    ///
    /// # Errors
    ///
    /// The source's own.
    pub fn entry_mut(&mut self, address: VirtualAddress) -> Result<Option<EntryMut<'_>>, S::Error> {
        let index = self.geometry.index(Level::L3, address);
        let table = self.table_mut(address)?;
        Ok(table.and_then(|table| table.entry(index)))
    }

    /// Returns the level-3 table that translates `address`, for writing; `None` if there is none. Like
    /// [`Cache::entry_mut`], for many entries: the table is current when this returns, and the kernel may
    /// unlink it at any time after.
    ///
    /// # Errors
    ///
    /// The source's own.
    pub fn table_mut(&mut self, address: VirtualAddress) -> Result<Option<TableMut<'_>>, S::Error> {
        let is_table = |cache: &Self| {
            cache
                .leaf(address)
                .is_some_and(|(level, _)| level == Level::L3)
        };
        if !(is_table(self) || self.insert(address)? && is_table(self)) {
            return Ok(None);
        }
        Ok(Some(self.source.table_mut(self.leaf_slot(address))))
    }
}
