//! Where a kernel keeps the tables of a process, found by trying.
//!
//! The offsets of the fields of `task_struct`, `mm_struct`, `files_struct` and `struct file` differ between
//! versions and configurations, and no kernel has to tell them. This process knows the right answer for
//! itself: the frames of its pages, by pagemap. Each pointer in its own `task_struct` is taken for the
//! `mm`, each word there for the PGD, and tables are walked from there; only the right one leads to the
//! frame of a page of its own.
//!
//! The way from a descriptor of `/proc/PID/mem` to the `mm` behind it is found in the same manner. It leads
//! to the own `mm` from each descriptor of the own memory, to something else from files that are none, and
//! to the `mm` of a child from a descriptor of that.

use core::ops::Range;

use heapless::Vec;
use tablewalk_uapi::file::OwnedFd;
use tablewalk_uapi::process;
use tablewalk_walker::{Descriptor, Geometry, Kind, Level, VirtualAddress};

use super::own::{Child, OwnPage, Pagemap, open_proc, page_shift, va_bits};
use super::{CopyError, Kernel};

/// Words of a `task_struct` that are looked at.
const TASK_WORDS: usize = 1024;
/// Words of an `mm_struct`: the PGD stood at 56, 104 and 136 bytes.
const MM_WORDS: usize = 32;
/// Words of a `files_struct`.
const FILES_WORDS: usize = 16;
/// Words of a `struct file`: the pointer to the `mm_struct` stood at 24 to 200 bytes, and beyond 256 in 6.1 with
/// locks for real time. In a smaller struct the last ones are those of another file.
const FILE_WORDS: usize = 48;
/// Words of a table that are read at a time for a proof.
const CHUNK: usize = 128;
/// Most ways from a task to an `mm` by a file that are kept.
const WAYS: usize = 32;
/// Words before the array of files in a `struct fdtable`: `max_fds`.
const FDTABLE_FD: u64 = 8;

/// Where things are in this kernel.
#[derive(Clone, Debug)]
pub struct Calibration {
    pub(super) map: LinearMap,
    pub(super) geometry: Geometry,
    /// The `mm_struct` of this process: an address of the linear map.
    pub(super) mm: u64,
    /// Bytes from an `mm_struct` to the pointer to its PGD.
    pub(super) pgd: u64,
    pub(super) way: Way,
}

/// The addresses at which the kernel has all memory.
///
/// What is read while something is looked for is read here alone: behind it are devices too, which may
/// take a load for an order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LinearMap {
    addresses: Range<u64>,
    /// An address minus the physical address behind it.
    pub(super) offset: u64,
}

/// From the own `files_struct` to the `mm_struct` behind a descriptor of `/proc/PID/mem`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Way {
    /// Address of the pointer to the `fdtable`, in the `files_struct`.
    pub(super) fdtable: u64,
    /// Bytes from a `struct file` to the pointer to the `mm_struct`.
    pub(super) mm: u64,
}

/// The `mm_struct` of this process, the way to its PGD, and the linear map that both were read by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OwnMm {
    pub(super) mm: u64,
    pub(super) pgd: u64,
    pub(super) offset: u64,
}

/// A page and its frame.
pub(super) type Known = (u64, u64);

impl Calibration {
    /// Finds out everything, by reading the memory of the kernel some thousand times. Makes a child, which
    /// has ended when this returns.
    ///
    /// # Errors
    ///
    /// [`CopyError::Calibration`] if something was not found, or has more than one answer; those of
    /// reading.
    pub fn new<K: Kernel>(kernel: &mut K) -> Result<Self, CopyError> {
        let page_shift = page_shift()?;
        let (bits, high) = va_bits(page_shift).ok_or(CopyError::Calibration {
            what: "address bits",
            answers: 0,
        })?;
        let geometry = geometry(page_shift, bits)?;
        let low = OwnPage::new(None, page_shift).map_err(|errno| CopyError::Open {
            what: "a page",
            errno,
        })?;
        let mut known = Vec::<Known, 2>::new();
        // The file is closed again: it leads to the own `mm` and would be taken for one of memory.
        let pagemap = Pagemap::open(process::pid(), page_shift)?;
        for page in [Some(&low), high.as_ref()].into_iter().flatten() {
            if let Some(frame) = pagemap.frame(page.address)? {
                // There are two at most.
                let _room = known.push((page.address, frame));
            }
        }
        drop(pagemap);
        let mut task = [0; TASK_WORDS];
        let filled = kernel.own_task(&mut task)?;
        let task = task.get(..filled).unwrap_or_default();
        let offsets = kernel.offsets(page_shift)?;
        let mut map = LinearMap::new(&geometry);
        let mut search = Search {
            kernel,
            map: &map,
            geometry: &geometry,
        };
        let own = search.find_mm(&offsets, task, &known)?;
        map.offset = own.offset;
        let mut search = Search {
            kernel,
            map: &map,
            geometry: &geometry,
        };
        let way = search.find_way(task, &own, &low)?;
        Ok(Self {
            map,
            geometry,
            mm: own.mm,
            pgd: own.pgd,
            way,
        })
    }

    /// The shape of the tables.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// To read by what was found.
    pub(super) const fn search<'s, K>(&'s self, kernel: &'s mut K) -> Search<'s, K> {
        Search {
            kernel,
            map: &self.map,
            geometry: &self.geometry,
        }
    }
}

/// The shape of tables with pages of `1 << page_shift` bytes and addresses of `bits` bits.
fn geometry(page_shift: u32, bits: u32) -> Result<Geometry, CopyError> {
    // Output addresses of 52 bits come with such addresses (FEAT_LPA2) but for 64K pages, whose
    // descriptors have room for them, and zeros there in a kernel that has not.
    let oa_bits = if bits == 52 || page_shift == 16 {
        52
    } else {
        48
    };
    Geometry::new(page_shift, bits, oa_bits).map_err(CopyError::Geometry)
}

impl LinearMap {
    /// Where a kernel of that shape has it (`arch/arm64/include/asm/memory.h`, `PAGE_OFFSET` to `PAGE_END`):
    /// from its lowest address to the middle of what it has with the fewest bits that it can do with.
    pub(super) const fn new(geometry: &Geometry) -> Self {
        let bits = geometry.va_bits();
        let fewest = match (bits, geometry.page_shift()) {
            (52, 14) => 47,
            (52, _) => 48,
            _ => bits,
        };
        Self {
            addresses: !0 << bits..!0 << (fewest - 1),
            offset: 0,
        }
    }

    /// Whether there can be `words` words of memory at `address`.
    const fn has(&self, address: u64, words: usize) -> bool {
        let bytes = 8 * words as u64;
        address >= self.addresses.start
            && address.is_multiple_of(8)
            && address <= self.addresses.end - bytes
    }

    /// The address of what is at a physical address, if it is in the map.
    pub(super) const fn address(&self, physical: u64) -> Option<u64> {
        let address = physical.wrapping_add(self.offset);
        if self.has(address, 1) {
            Some(address)
        } else {
            None
        }
    }
}

/// What is called with a page, and says whether to go on.
type Visitor<'v, S> = dyn FnMut(&mut S, VirtualAddress) -> Result<bool, CopyError> + 'v;

/// Reads the linear map, and nothing else.
pub(super) struct Search<'s, K> {
    pub(super) kernel: &'s mut K,
    pub(super) map: &'s LinearMap,
    pub(super) geometry: &'s Geometry,
}

impl<K: Kernel> Search<'_, K> {
    /// Whether there was something at `address` to be read.
    fn read(&mut self, address: u64, words: &mut [u64]) -> Result<bool, CopyError> {
        Ok(self.map.has(address, words.len()) && self.kernel.read(address, words)?)
    }

    /// The word at `address`.
    pub(super) fn word(&mut self, address: u64) -> Result<Option<u64>, CopyError> {
        let mut word = [0];
        Ok(self.read(address, &mut word)?.then_some(word[0]))
    }

    /// Whether something can be at the address that `word` would be.
    fn is_pointer(&self, word: u64) -> bool {
        self.map.has(word, 1)
    }

    /// The one `mm_struct` of `task` from which all known pages are found. It stands there twice, as `mm` and
    /// as `active_mm`: registers that were saved in the task may have led into it, or beside it.
    pub(super) fn find_mm(
        &mut self,
        offsets: &[u64],
        task: &[u64],
        known: &[Known],
    ) -> Result<OwnMm, CopyError> {
        let mut answers = Vec::<OwnMm, 4>::new();
        for (&mm, &active) in task.iter().zip(task.iter().skip(1)) {
            let mut words = [0; MM_WORDS];
            if mm != active || !self.read(mm, &mut words)? {
                continue;
            }
            for (pgd, &root) in (0..).step_by(8).zip(&words) {
                // Whatever the offset is.
                if !root.is_multiple_of(64) || !self.is_root(root, known)? {
                    continue;
                }
                for &offset in offsets {
                    let answer = OwnMm { mm, pgd, offset };
                    if self.leads_to(root, offset, known)? && !answers.contains(&answer) {
                        // Full is more than one.
                        let _room = answers.push(answer);
                    }
                }
            }
        }
        only(&answers, "mm_struct of this process")
    }

    /// Whether there may be a root table at `root`: its entries for all known pages lead to tables.
    fn is_root(&mut self, root: u64, known: &[Known]) -> Result<bool, CopyError> {
        let level = self.geometry.root_level();
        for &(address, _) in known {
            let index = self.geometry.index(level, VirtualAddress(address));
            let entry = self.word(root.wrapping_add(8 * index as u64))?;
            let kind = entry.map(|word| Descriptor(word).kind(self.geometry, level));
            if kind != Some(Kind::Table) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a walk from `root` finds the frame of each known page.
    fn leads_to(&mut self, root: u64, offset: u64, known: &[Known]) -> Result<bool, CopyError> {
        for &(address, frame) in known {
            if self.frame_by(root, offset, VirtualAddress(address))? != Some(frame) {
                return Ok(false);
            }
        }
        Ok(!known.is_empty())
    }

    /// The frame of the page at `address`, by tables whose root is at `root`.
    pub(super) fn frame(
        &mut self,
        root: u64,
        address: VirtualAddress,
    ) -> Result<Option<u64>, CopyError> {
        self.frame_by(root, self.map.offset, address)
    }

    fn frame_by(
        &mut self,
        root: u64,
        offset: u64,
        address: VirtualAddress,
    ) -> Result<Option<u64>, CopyError> {
        let geometry = self.geometry;
        let (mut table, mut level) = (root, geometry.root_level());
        loop {
            let entry = table.wrapping_add(8 * geometry.index(level, address) as u64);
            let Some(word) = self.word(entry)? else {
                return Ok(None);
            };
            let descriptor = Descriptor(word);
            match (descriptor.kind(geometry, level), level.next_lower()) {
                (Kind::Table, Some(lower)) => {
                    let next = descriptor.next_table(geometry).address(geometry).0;
                    table = next.wrapping_add(offset);
                    level = lower;
                }
                (Kind::Block | Kind::Page, _) => {
                    let first = descriptor.output_address(geometry, level).frame(geometry);
                    let page = (address.0 % geometry.entry_size(level)) >> geometry.page_shift();
                    return Ok(Some(first.0 + page));
                }
                _ => return Ok(None),
            }
        }
    }

    /// Calls `visit` with the address of each page below the root table at `root`, until it says that this is
    /// enough. What has changed meanwhile only makes a page the less.
    pub(super) fn for_each_page(
        &mut self,
        root: u64,
        visit: &mut Visitor<'_, Self>,
    ) -> Result<(), CopyError> {
        let place = (self.geometry.root_level(), root, VirtualAddress(0));
        self.visit_below(place, visit).map(drop)
    }

    /// The same for the table of a level, at an address, that translates addresses from the third on.
    fn visit_below(
        &mut self,
        (level, table, start): (Level, u64, VirtualAddress),
        visit: &mut Visitor<'_, Self>,
    ) -> Result<bool, CopyError> {
        let geometry = self.geometry;
        let mut words = [0; CHUNK];
        for first in (0..geometry.entries(level)).step_by(CHUNK) {
            let many = CHUNK.min(geometry.entries(level) - first);
            let part = words.get_mut(..many).unwrap_or_default();
            if !self.read(table.wrapping_add(8 * first as u64), part)? {
                break;
            }
            for (index, &word) in (first..).zip(&*part) {
                let descriptor = Descriptor(word);
                let address = start.wrapping_add((index as u64) << geometry.level_shift(level));
                let go_on = match (descriptor.kind(geometry, level), level.next_lower()) {
                    (Kind::Table, Some(lower)) => {
                        let next = descriptor.next_table(geometry).address(geometry).0;
                        let next = next.wrapping_add(self.map.offset);
                        self.visit_below((lower, next, address), visit)?
                    }
                    (Kind::Block | Kind::Page, _) => visit(self, address)?,
                    _ => true,
                };
                if !go_on {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The one way from `task` by descriptors of memory to the `mm` behind them: to that of this process,
    /// and to that of a child. `page` is one of this process.
    fn find_way(&mut self, task: &[u64], own: &OwnMm, page: &OwnPage) -> Result<Way, CopyError> {
        let ways = {
            // What is beside a file of memory is none.
            let open = |name| open_proc(process::pid(), name);
            let [a, b, c, d, e] = [
                open("mem")?,
                open("stat")?,
                open("mem")?,
                open("stat")?,
                open("mem")?,
            ];
            let (memory, others) = ([&a, &c, &e], [&b, &d]);
            let (memory, others) = (memory.map(OwnedFd::number), others.map(OwnedFd::number));
            self.ways(task, own.mm, &memory, &others)?
        };
        let child = Child::new()?;
        // What the child has is in another frame now.
        page.write();
        let file = open_proc(child.pid(), "mem")?;
        let ways = self.follow_all(&ways, file.number())?;
        // Not before: this file leads to its `mm` too.
        let pagemap = Pagemap::open(child.pid(), self.geometry.page_shift())?;
        let frame = pagemap.frame(page.address)?.unwrap_or(0);
        self.only_way(&ways, own.pgd, (page.address, frame))
    }

    /// The ways by which each descriptor of `memory` leads to `mm`, and none of `others`.
    pub(super) fn ways(
        &mut self,
        task: &[u64],
        mm: u64,
        memory: &[i32],
        others: &[i32],
    ) -> Result<Vec<Way, WAYS>, CopyError> {
        let mut ways = Vec::<Way, WAYS>::new();
        let first = memory.first().copied().unwrap_or_default();
        for &files in task {
            let mut words = [0; FILES_WORDS];
            if !self.read(files, &mut words)? {
                continue;
            }
            for (fdtable, &pointer) in (files..).step_by(8).zip(&words) {
                let Some(file) = self.file(pointer, first)? else {
                    continue;
                };
                for at in (0..).step_by(8).take(FILE_WORDS) {
                    let way = Way { fdtable, mm: at };
                    if self.word(file.wrapping_add(at))? == Some(mm)
                        && !ways.contains(&way)
                        && self.count(way, memory, mm)? == memory.len()
                        && self.count(way, others, mm)? == 0
                    {
                        ways.push(way).map_err(|_| CopyError::Calibration {
                            what: WAY,
                            answers: WAYS + 1,
                        })?;
                    }
                }
            }
        }
        Ok(ways)
    }

    /// How many of the descriptors lead to `mm`.
    fn count(&mut self, way: Way, numbers: &[i32], mm: u64) -> Result<usize, CopyError> {
        let mut count = 0;
        for &number in numbers {
            count += usize::from(self.follow(way, number)? == Some(mm));
        }
        Ok(count)
    }

    /// The `mm` behind a descriptor, by each way that leads to one.
    pub(super) fn follow_all(
        &mut self,
        ways: &[Way],
        number: i32,
    ) -> Result<Vec<(Way, u64), WAYS>, CopyError> {
        let mut found = Vec::new();
        for &way in ways {
            if let Some(mm) = self.follow(way, number)? {
                // No more than there are ways.
                let _room = found.push((way, mm));
            }
        }
        Ok(found)
    }

    /// The one whose `mm` has a page in its frame.
    pub(super) fn only_way(
        &mut self,
        ways: &[(Way, u64)],
        pgd: u64,
        (address, frame): Known,
    ) -> Result<Way, CopyError> {
        let mut answers = Vec::<Way, WAYS>::new();
        for &(way, mm) in ways {
            if let Some(root) = self.word(mm.wrapping_add(pgd))?
                && self.frame(root, VirtualAddress(address))? == Some(frame)
            {
                // No more than there are ways.
                let _room = answers.push(way);
            }
        }
        only(&answers, WAY)
    }

    /// The `struct file` of a descriptor, if there is an `fdtable` at `fdtable`.
    fn file(&mut self, fdtable: u64, number: i32) -> Result<Option<u64>, CopyError> {
        let Some(array) = self.word(fdtable.wrapping_add(FDTABLE_FD))? else {
            return Ok(None);
        };
        let number = u64::from(number.unsigned_abs());
        let file = self.word(array.wrapping_add(8 * number))?;
        Ok(file.filter(|&file| self.is_pointer(file)))
    }

    /// The `mm_struct` behind a descriptor; 0 if it has none. `None` if the way leads nowhere.
    pub(super) fn follow(&mut self, way: Way, number: i32) -> Result<Option<u64>, CopyError> {
        let Some(fdtable) = self.word(way.fdtable)? else {
            return Ok(None);
        };
        let Some(file) = self.file(fdtable, number)? else {
            return Ok(None);
        };
        let mm = self.word(file.wrapping_add(way.mm))?;
        Ok(mm.filter(|&mm| mm == 0 || self.is_pointer(mm)))
    }
}

const WAY: &str = "way from a descriptor to an mm_struct";

/// The only answer.
fn only<T: Copy>(answers: &[T], what: &'static str) -> Result<T, CopyError> {
    match *answers {
        [answer] => Ok(answer),
        _ => Err(CopyError::Calibration {
            what,
            answers: answers.len(),
        }),
    }
}
