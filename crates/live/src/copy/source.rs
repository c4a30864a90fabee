//! Copies of the tables of a process as a source for the walker.

#![expect(
    unsafe_code,
    reason = "promises to the walker that copies stay in their slots"
)]

use heapless::Vec;
use tablewalk_walker::{
    Batched, Descriptor, Format, FrameNumber, Geometry, Kind, Level, Table, TableId, TableSource,
    VirtualAddress,
};

use super::calibration::{Calibration, Search};
use super::own::Pagemap;
use super::program::MOST;
use super::vmcoreinfo::kernel_root;
use super::{CopyError, Kernel, LINKS, Link, Target, Wanted};
use crate::format::linux_of_this_kernel;

/// One slot for each level.
const SLOTS: usize = 5;
/// Number of pages of a process that are compared before its tables are accepted.
const PROOFS: usize = 16;

/// Copies of the tables of one process, or of the kernel.
///
/// A table is copied when it is mapped, and the copy does not change. [`TableSource::map`] and
/// [`TableSource::map_batch`] check the descriptors that lead to it, before and after, and return no table if
/// these have changed.
#[derive(Debug)]
pub struct Copied<K> {
    kernel: K,
    calibration: Calibration,
    /// `None` for the kernel's own tables.
    target: Option<Target>,
    format: Format,
    /// Address of the PGD in the linear map.
    root: u64,
    /// The tables on the current path, by level, with their addresses when they were copied.
    path: [Option<Node>; SLOTS],
    /// The contents of the batch slots.
    batch: Vec<Batched, MOST>,
}

/// A table that was copied.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// The first address that it translates.
    start: VirtualAddress,
    /// Its address in the linear map.
    address: u64,
    /// The descriptor that led to it.
    link: Option<Link>,
    /// The page with its copy; `None` after that page was reused.
    page: Option<usize>,
}

impl<K: Kernel> Copied<K> {
    /// Opens the tables of process `pid`, and verifies them: pages of the process must be at the frames in
    /// pagemap.
    ///
    /// # Errors
    ///
    /// [`CopyError`]: [`CopyError::Unproved`] or [`CopyError::Refuted`] if they cannot be verified.
    pub fn new(kernel: K, pid: i32) -> Result<Self, CopyError> {
        let mut copied = Self::calibrated(kernel)?;
        copied.retarget(pid)?;
        Ok(copied)
    }

    /// Calibrates; there are no tables until [`Copied::retarget`] or [`Copied::retarget_to_kernel`].
    ///
    /// # Errors
    ///
    /// As [`Calibration::new`].
    pub fn calibrated(mut kernel: K) -> Result<Self, CopyError> {
        let calibration = Calibration::new(&mut kernel)?;
        Ok(Self::with(kernel, calibration))
    }

    fn with(kernel: K, calibration: Calibration) -> Self {
        Self {
            format: Format {
                geometry: *calibration.geometry(),
                linux: linux_of_this_kernel(),
                mair: MAIR,
            },
            kernel,
            calibration,
            target: None,
            root: 0,
            path: [None; SLOTS],
            batch: Vec::new(),
        }
    }

    /// Switches to another process. On an error the previous target stays.
    ///
    /// # Errors
    ///
    /// As [`Copied::new`].
    pub fn retarget(&mut self, pid: i32) -> Result<(), CopyError> {
        let target = Target::open(&mut self.kernel, &self.calibration, pid)?;
        let pagemap = Pagemap::open(pid, self.calibration.geometry().page_shift())?;
        let root = target.root();
        self.prove(pid, root, &mut |address| pagemap.frame(address.0))?;
        self.forget();
        self.format.geometry = *self.calibration.geometry();
        self.root = root;
        self.target = Some(target);
        Ok(())
    }

    /// Switches to the kernel's own tables, which translate the upper half of the address space. They are
    /// verified with an address of the linear map, whose frame is known. On an error the previous target
    /// stays.
    ///
    /// # Errors
    ///
    /// As [`Copied::new`]; [`CopyError::Format`] if the kernel does not report the address of its root table.
    pub fn retarget_to_kernel(&mut self) -> Result<(), CopyError> {
        let map = &self.calibration.map;
        let geometry = self.calibration.geometry().of_kernel();
        let address = VirtualAddress(self.calibration.mm);
        let frame = address.0.wrapping_sub(map.offset) >> geometry.page_shift();
        let first = kernel_root(&mut self.kernel, map.offset)?.wrapping_add(map.offset);
        let mut search = Search {
            kernel: &mut self.kernel,
            map,
            geometry: &geometry,
        };
        let mut root = first;
        if search.frame(root, address)? != Some(frame) {
            // A 64K kernel for 52 bits on a CPU with 48: these addresses use the last 64 of 1024 entries
            // (`TTBR1_BADDR_4852_OFFSET`).
            root = first + (1024 - 64) * 8;
            if geometry.page_shift() != 16 || search.frame(root, address)? != Some(frame) {
                return Err(CopyError::Calibration {
                    what: "root table of the kernel",
                    answers: 0,
                });
            }
        }
        self.forget();
        self.target = None;
        self.format.geometry = geometry;
        self.root = root;
        Ok(())
    }

    /// Returns the source of kernel memory.
    #[must_use]
    pub const fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Returns the process; `None` for the kernel.
    #[must_use]
    pub const fn pid(&self) -> Option<i32> {
        match &self.target {
            Some(target) => Some(target.pid()),
            None => None,
        }
    }

    /// Returns whether the process still has these tables: it has neither ended nor executed another program.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn is_current(&mut self) -> Result<bool, CopyError> {
        match &self.target {
            Some(target) => target.is_current(&mut self.kernel, &self.calibration),
            None => Ok(true),
        }
    }

    /// Compares pages of the process with pagemap, until [`PROOFS`] agree. None may differ.
    pub(super) fn prove(
        &mut self,
        pid: i32,
        root: u64,
        pagemap: &mut dyn FnMut(VirtualAddress) -> Result<Option<u64>, CopyError>,
    ) -> Result<(), CopyError> {
        let mut search = self.calibration.search(&mut self.kernel);
        let mut proved = 0;
        search.for_each_page(root, &mut |search, address| {
            match is_where(search, pagemap, root, address)? {
                Some(true) => proved += 1,
                Some(false) => return Err(CopyError::Refuted { pid, address }),
                None => {}
            }
            Ok(proved < PROOFS)
        })?;
        match proved {
            0 => Err(CopyError::Unproved { pid }),
            _ => Ok(()),
        }
    }

    /// Tables with the root at an address of the linear map, for tests.
    #[cfg(test)]
    pub(super) fn of_root(kernel: K, calibration: Calibration, root: u64) -> Self {
        Self {
            root,
            ..Self::with(kernel, calibration)
        }
    }

    /// The kernel, for tests to change it.
    #[cfg(test)]
    pub(super) const fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    fn forget(&mut self) {
        self.path = [None; SLOTS];
        self.batch.clear();
    }

    /// Returns the descriptors that lead to `id`, and the table. `None` if there is no such table.
    fn find(&mut self, id: TableId) -> Result<Option<(Vec<Link, LINKS>, Wanted)>, CopyError> {
        let geometry = self.format.geometry;
        let mut chain = Vec::new();
        let mut level = geometry.root_level();
        let mut wanted = Wanted {
            link: None,
            address: self.root,
            bytes: table_bytes(&geometry, level),
        };
        while level != id.level {
            let Some(lower) = level.next_lower() else {
                return Ok(None);
            };
            if let Some(link) = wanted.link {
                // Those above the parent: fewer than levels.
                let _room = chain.push(link);
            }
            let link = self.link(level, wanted.address, id.address)?;
            let Some(address) = link.and_then(|link| self.next(link, level)) else {
                return Ok(None);
            };
            wanted = Wanted {
                link,
                address,
                bytes: table_bytes(&geometry, lower),
            };
            level = lower;
        }
        Ok(Some((chain, wanted)))
    }

    /// Returns the entry for `address` in the table of `level` at `table`, from its copy if there is one.
    fn link(
        &mut self,
        level: Level,
        table: u64,
        address: VirtualAddress,
    ) -> Result<Option<Link>, CopyError> {
        let index = self.format.geometry.index(level, address);
        let entry = table + 8 * index as u64;
        let copy = self.node(level).filter(|node| node.address == table);
        if let Some(page) = copy.and_then(|node| node.page) {
            let descriptor = Table::new(self.kernel.words(page)).load(index).0;
            return Ok(Some(Link { entry, descriptor }));
        }
        let mut word = [0];
        let read = self.kernel.read(entry, &mut word)?;
        Ok(read.then_some(Link {
            entry,
            descriptor: word[0],
        }))
    }

    /// Returns the address of the table to which a descriptor of `level` leads.
    fn next(&self, link: Link, level: Level) -> Option<u64> {
        let geometry = &self.format.geometry;
        let descriptor = Descriptor(link.descriptor);
        if descriptor.kind(geometry, level) != Kind::Table {
            return None;
        }
        let physical = descriptor.next_table(geometry).address(geometry).0;
        self.calibration.map.address(physical)
    }

    fn node(&self, level: Level) -> Option<Node> {
        *self.path.get(level.index())?
    }

    /// Records a copy, which replaces the previous one in its page.
    fn note(&mut self, id: TableId, wanted: Wanted, page: usize) {
        for node in self.path.iter_mut().flatten() {
            node.page = node.page.filter(|&before| before != page);
        }
        let shift = self.format.geometry.span_shift(id.level);
        if let Some(node) = self.path.get_mut(id.level.index()) {
            *node = Some(Node {
                start: id.address.align_down(shift),
                address: wanted.address,
                link: wanted.link,
                page: Some(page),
            });
        }
    }

    const fn frame(&self, address: u64) -> FrameNumber {
        FrameNumber(
            address.wrapping_sub(self.calibration.map.offset) >> self.format.geometry.page_shift(),
        )
    }

    /// Copies table `id` to page `page`, if it is in the tree now.
    fn copy(&mut self, page: usize, id: TableId) -> Result<Option<FrameNumber>, CopyError> {
        let Some((chain, wanted)) = self.find(id)? else {
            return Ok(None);
        };
        let frame = self.frame(wanted.address);
        if id.frame.is_some_and(|id| id != frame) {
            return Ok(None);
        }
        if !self.kernel.copy(&chain, &[wanted], page)? || !self.kernel.is_copied(0) {
            return Ok(None);
        }
        self.note(id, wanted, page);
        Ok(Some(frame))
    }

    /// Returns the entries of `parent`, a table of level `above`, from `start` up to `last`, that lead to
    /// tables.
    fn wanted(
        &mut self,
        parent: Node,
        above: Level,
        start: VirtualAddress,
        last: VirtualAddress,
        room: usize,
    ) -> (Vec<Wanted, MOST>, Vec<Batched, MOST>) {
        let geometry = self.format.geometry;
        let (mut wanted, mut batched) = (Vec::new(), Vec::new());
        let Some(page) = parent.page else {
            return (wanted, batched);
        };
        let first = geometry.index(above, start);
        for index in first..geometry.entries(above) {
            let offset = (index as u64) << geometry.level_shift(above);
            let address = parent.start.wrapping_add(offset);
            if address > last || wanted.len() >= room {
                break;
            }
            let descriptor = Table::new(self.kernel.words(page)).load(index);
            let link = Link {
                entry: parent.address + 8 * index as u64,
                descriptor: descriptor.0,
            };
            if let Some(table) = self.next(link, above) {
                let table = Wanted {
                    link: Some(link),
                    address: table,
                    bytes: geometry.page_size(),
                };
                // Both have room for a batch.
                let _room = wanted.push(table);
                let _room = batched.push(Batched {
                    address,
                    descriptor,
                });
            }
        }
        (wanted, batched)
    }
}

/// Returns the size of a table of `level` in bytes: a root may be smaller than a page, followed by other
/// data.
const fn table_bytes(geometry: &Geometry, level: Level) -> u64 {
    8 * geometry.entries(level) as u64
}

/// Returns whether the tables lead from an address to its frame in pagemap, which is read before and after;
/// tries twice. `None` if pagemap has no frame, or a different one each time.
fn is_where<K: Kernel>(
    search: &mut Search<'_, K>,
    pagemap: &mut dyn FnMut(VirtualAddress) -> Result<Option<u64>, CopyError>,
    root: u64,
    address: VirtualAddress,
) -> Result<Option<bool>, CopyError> {
    let mut answer = None;
    for _try in 0..2 {
        let Some(frame) = pagemap(address)? else {
            // Memory of a device, or a page that was unmapped.
            return Ok(None);
        };
        if search.frame(root, address)? == Some(frame) {
            return Ok(Some(true));
        }
        if pagemap(address)? == Some(frame) {
            answer = Some(false);
        }
    }
    Ok(answer)
}

/// What Linux writes to `MAIR_EL1` (`arch/arm64/mm/proc.S`): Normal, Normal tagged, Normal non-cacheable,
/// Device-nGnRnE, Device-nGnRE. User space cannot read the register.
const MAIR: u64 = 0x04_00_44_ff_ff;

/// Copying a table is one system call by BPF, and some ten by `/proc/kcore`; reading it is none.
// SAFETY: the words of a slot are in a page of the `Kernel`, which is not moved, and is written only by `map`
// and `map_batch`.
unsafe impl<K: Kernel> TableSource for Copied<K> {
    type Error = CopyError;

    fn format(&self) -> Format {
        self.format
    }

    fn slots(&self) -> usize {
        SLOTS
    }

    fn map(&mut self, slot: usize, id: TableId) -> Result<Option<FrameNumber>, CopyError> {
        if slot >= SLOTS {
            return Err(CopyError::Slot { slot, slots: SLOTS });
        }
        if id.level < self.format.geometry.root_level() {
            return Err(CopyError::Level(id.level));
        }
        // Copies of a batch are valid only for the parent table as it was at that time.
        self.batch.clear();
        if let Some(frame) = self.copy(slot, id)? {
            return Ok(Some(frame));
        }
        // By the current values in the tables above, not by their copies.
        self.forget();
        self.copy(slot, id)
    }

    fn table(&self, slot: usize) -> Table<'_> {
        if slot >= SLOTS {
            return Table::new(&[]);
        }
        Table::new(self.kernel.words(slot))
    }

    fn batch_slots(&self) -> usize {
        self.kernel.batch()
    }

    fn map_batch(
        &mut self,
        slot: usize,
        level: Level,
        start: VirtualAddress,
        last: VirtualAddress,
    ) -> Result<usize, CopyError> {
        let Some(above) = level.next_higher() else {
            return Ok(0);
        };
        let shift = self.format.geometry.span_shift(above);
        let covers = |node: &Node| node.start == start.align_down(shift);
        let Some(parent) = self.node(above).filter(covers) else {
            return Ok(0);
        };
        self.batch.truncate(slot);
        if self.batch.len() != slot {
            return Ok(0);
        }
        let room = self.kernel.batch().saturating_sub(slot);
        let (wanted, batched) = self.wanted(parent, above, start, last, room);
        let mut chain = Vec::<Link, LINKS>::new();
        let mut upper = Some(above);
        while let Some(level) = upper {
            if let Some(link) = self.node(level).and_then(|node| node.link) {
                let _room = chain.push(link);
            }
            upper = level.next_higher();
        }
        chain.reverse();
        if !self.kernel.copy(&chain, &wanted, SLOTS + slot)? {
            return Ok(0);
        }
        // Up to the first table that has changed, which is then mapped separately.
        for (number, batched) in batched.into_iter().enumerate() {
            if !self.kernel.is_copied(number) || self.batch.push(batched).is_err() {
                return Ok(number);
            }
        }
        Ok(wanted.len())
    }

    fn batched(&self, slot: usize) -> Option<Batched> {
        self.batch.get(slot).copied()
    }

    fn batch_table(&self, slot: usize) -> Table<'_> {
        if slot >= self.batch.len() {
            return Table::new(&[]);
        }
        Table::new(self.kernel.words(SLOTS + slot))
    }
}
