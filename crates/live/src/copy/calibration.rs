//! Finds by trial where a kernel keeps the tables of a process.
//!
//! The offsets of the fields of `task_struct`, `mm_struct`, `files_struct` and `struct file` differ between
//! versions and configurations, and kernels need not report them. This process can check a guess by its own
//! pages, whose frames are in pagemap. Each pointer in its own `task_struct` is tried as the `mm`, and each
//! word there as the PGD, and tables are walked from there; only the right guess leads to the frame of an own
//! page.
//!
//! The path from a file descriptor of `/proc/PID/mem` to its `mm` is found in the same manner. It must lead
//! to the own `mm` from each descriptor of the own memory, to something else from other files, and to the
//! `mm` of a child from a descriptor of the child's memory.

use core::ops::Range;

use heapless::Vec;
use tablewalk_uapi::file::OwnedFd;
use tablewalk_uapi::process;
use tablewalk_walker::{Descriptor, Geometry, Kind, Level, VirtualAddress};

use super::own::{Child, OwnPage, Pagemap, open_proc, page_shift, va_bits};
use super::{CopyError, Kernel};

/// Number of words of a `task_struct` that are tried.
const TASK_WORDS: usize = 1024;
/// Number of words of an `mm_struct` that are tried: the PGD was at 56, 104 and 136 bytes.
const MM_WORDS: usize = 32;
/// Number of words of a `files_struct` that are tried.
const FILES_WORDS: usize = 16;
/// Words of a `struct file`: the pointer to the `mm_struct` stood at 24 to 200 bytes, and beyond 256 in 6.1 with
/// locks for real time. In a smaller struct the last ones are those of another file.
const FILE_WORDS: usize = 48;
/// Words of a table that are read at a time for a proof.
const CHUNK: usize = 128;
/// Maximum number of candidate paths from a task to an `mm` by a file.
const MM_PATHS: usize = 32;
/// Words before the array of files in a `struct fdtable`: `max_fds`.
const FDTABLE_FD: u64 = 8;

/// Addresses and offsets in this kernel.
#[derive(Clone, Debug)]
pub struct Calibration {
    pub(super) map: LinearMap,
    pub(super) geometry: Geometry,
    /// The `mm_struct` of this process: an address of the linear map.
    pub(super) mm: u64,
    /// Bytes from an `mm_struct` to the pointer to its PGD.
    pub(super) pgd: u64,
    pub(super) mm_path: MmPath,
}

/// The linear map: the addresses at which the kernel maps all memory.
///
/// Guesses are read only inside this range: outside of it are also devices, for which a load may have side
/// effects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LinearMap {
    addresses: Range<u64>,
    /// A virtual address minus its physical address.
    pub(super) offset: u64,
}

/// The path from the own `files_struct` to the `mm_struct` of a descriptor of `/proc/PID/mem`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MmPath {
    /// Address of the pointer to the `fdtable`, in the `files_struct`.
    pub(super) fdtable: u64,
    /// Bytes from a `struct file` to the pointer to the `mm_struct`.
    pub(super) mm: u64,
}

/// The `mm_struct` of this process, the offset of its PGD, and the linear map by which both were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OwnMm {
    pub(super) mm: u64,
    pub(super) pgd: u64,
    pub(super) offset: u64,
}

/// A page and its frame.
pub(super) type Known = (u64, u64);

impl Calibration {
    /// Calibrates, by reading kernel memory some thousand times. Creates a child, which has ended when this
    /// returns.
    ///
    /// # Errors
    ///
    /// [`CopyError::Calibration`] if something was not found, or more than once; errors of reading.
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
        // The file is closed again: it leads to the own `mm`, like a file of memory.
        let pagemap = Pagemap::open(process::pid(), page_shift)?;
        for page in [Some(&low), high.as_ref()].into_iter().flatten() {
            if let Some(frame) = pagemap.frame(page.address)? {
                // There are at most two.
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
        let mm_path = search.find_mm_path(task, &own, &low)?;
        Ok(Self {
            map,
            geometry,
            mm: own.mm,
            pgd: own.pgd,
            mm_path,
        })
    }

    /// Returns the shape of the tables.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Returns a reader of the linear map that was found.
    pub(super) const fn search<'s, K>(&'s self, kernel: &'s mut K) -> Search<'s, K> {
        Search {
            kernel,
            map: &self.map,
            geometry: &self.geometry,
        }
    }
}

/// Returns the shape of tables with pages of `1 << page_shift` bytes and addresses of `bits` bits.
fn geometry(page_shift: u32, bits: u32) -> Result<Geometry, CopyError> {
    // 52-bit output addresses come together with such virtual addresses (FEAT_LPA2), except with 64K pages:
    // their descriptors have room for 52 bits, which are zeros in a kernel with 48.
    let oa_bits = if bits == 52 || page_shift == 16 {
        52
    } else {
        48
    };
    Geometry::new(page_shift, bits, oa_bits).map_err(CopyError::Geometry)
}

impl LinearMap {
    /// Returns the linear map of a kernel of this shape (`arch/arm64/include/asm/memory.h`, `PAGE_OFFSET` to
    /// `PAGE_END`): from its lowest address to the middle of the upper half for the smallest number of bits
    /// that the kernel may run with.
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

    /// Returns whether `words` words at `address` are inside the map.
    const fn has(&self, address: u64, words: usize) -> bool {
        let bytes = 8 * words as u64;
        address >= self.addresses.start
            && address.is_multiple_of(8)
            && address <= self.addresses.end - bytes
    }

    /// Returns the virtual address of a physical address, if it is in the map.
    pub(super) const fn address(&self, physical: u64) -> Option<u64> {
        let address = physical.wrapping_add(self.offset);
        if self.has(address, 1) {
            Some(address)
        } else {
            None
        }
    }
}

/// A function that is called with a page, and returns whether to continue.
type Visitor<'v, S> = dyn FnMut(&mut S, VirtualAddress) -> Result<bool, CopyError> + 'v;

/// Reads only the linear map.
pub(super) struct Search<'s, K> {
    pub(super) kernel: &'s mut K,
    pub(super) map: &'s LinearMap,
    pub(super) geometry: &'s Geometry,
}

impl<K: Kernel> Search<'_, K> {
    /// Reads words at `address`. Returns whether there was memory.
    fn read(&mut self, address: u64, words: &mut [u64]) -> Result<bool, CopyError> {
        Ok(self.map.has(address, words.len()) && self.kernel.read(address, words)?)
    }

    /// Returns the word at `address`.
    pub(super) fn word(&mut self, address: u64) -> Result<Option<u64>, CopyError> {
        let mut word = [0];
        Ok(self.read(address, &mut word)?.then_some(word[0]))
    }

    /// Returns whether `word` may be a pointer into the linear map.
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

    /// Returns whether `root` may be a root table: its entries for all known pages lead to tables.
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

    /// Returns whether a walk from `root` finds the frame of each known page.
    fn leads_to(&mut self, root: u64, offset: u64, known: &[Known]) -> Result<bool, CopyError> {
        for &(address, frame) in known {
            if self.frame_by(root, offset, VirtualAddress(address))? != Some(frame) {
                return Ok(false);
            }
        }
        Ok(!known.is_empty())
    }

    /// Returns the frame of the page at `address`, by tables whose root is at `root`.
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

    /// Calls `visit` with the address of each page below the root table at `root`, until it returns to stop.
    /// Concurrent changes only make some pages be missed.
    pub(super) fn for_each_page(
        &mut self,
        root: u64,
        visit: &mut Visitor<'_, Self>,
    ) -> Result<(), CopyError> {
        let place = (self.geometry.root_level(), root, VirtualAddress(0));
        self.visit_below(place, visit).map(drop)
    }

    /// The same for a table: its level, its address, and the first address that it translates.
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

    /// Returns the only path from `task` by file descriptors of memory to their `mm`: that of this process,
    /// and that of a child. `page` is a page of this process.
    fn find_mm_path(
        &mut self,
        task: &[u64],
        own: &OwnMm,
        page: &OwnPage,
    ) -> Result<MmPath, CopyError> {
        let paths = {
            // These files are not files of memory.
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
            self.paths(task, own.mm, &memory, &others)?
        };
        let child = Child::new()?;
        // The page of the child has another frame now.
        page.write();
        let file = open_proc(child.pid(), "mem")?;
        let paths = self.follow_all(&paths, file.number())?;
        // Only now, since this file leads to its `mm` too.
        let pagemap = Pagemap::open(child.pid(), self.geometry.page_shift())?;
        let frame = pagemap.frame(page.address)?.unwrap_or(0);
        self.only_mm_path(&paths, own.pgd, (page.address, frame))
    }

    /// Returns the paths by which each descriptor of `memory` leads to `mm`, and none of `others` does.
    pub(super) fn paths(
        &mut self,
        task: &[u64],
        mm: u64,
        memory: &[i32],
        others: &[i32],
    ) -> Result<Vec<MmPath, MM_PATHS>, CopyError> {
        let mut paths = Vec::<MmPath, MM_PATHS>::new();
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
                    let mm_path = MmPath { fdtable, mm: at };
                    if self.word(file.wrapping_add(at))? == Some(mm)
                        && !paths.contains(&mm_path)
                        && self.count(mm_path, memory, mm)? == memory.len()
                        && self.count(mm_path, others, mm)? == 0
                    {
                        paths.push(mm_path).map_err(|_| CopyError::Calibration {
                            what: MM_PATH,
                            answers: MM_PATHS + 1,
                        })?;
                    }
                }
            }
        }
        Ok(paths)
    }

    /// Returns how many of the descriptors lead to `mm`.
    fn count(&mut self, mm_path: MmPath, numbers: &[i32], mm: u64) -> Result<usize, CopyError> {
        let mut count = 0;
        for &number in numbers {
            count += usize::from(self.follow(mm_path, number)? == Some(mm));
        }
        Ok(count)
    }

    /// Returns the `mm` of a descriptor, by each path that leads to one.
    pub(super) fn follow_all(
        &mut self,
        paths: &[MmPath],
        number: i32,
    ) -> Result<Vec<(MmPath, u64), MM_PATHS>, CopyError> {
        let mut found = Vec::new();
        for &mm_path in paths {
            if let Some(mm) = self.follow(mm_path, number)? {
                // There are at most as many as paths.
                let _room = found.push((mm_path, mm));
            }
        }
        Ok(found)
    }

    /// Returns the only path whose `mm` maps the page to its frame.
    pub(super) fn only_mm_path(
        &mut self,
        paths: &[(MmPath, u64)],
        pgd: u64,
        (address, frame): Known,
    ) -> Result<MmPath, CopyError> {
        let mut answers = Vec::<MmPath, MM_PATHS>::new();
        for &(mm_path, mm) in paths {
            if let Some(root) = self.word(mm.wrapping_add(pgd))?
                && self.frame(root, VirtualAddress(address))? == Some(frame)
            {
                // There are at most as many as paths.
                let _room = answers.push(mm_path);
            }
        }
        only(&answers, MM_PATH)
    }

    /// Returns the `struct file` of a descriptor, if there is an `fdtable` at `fdtable`.
    fn file(&mut self, fdtable: u64, number: i32) -> Result<Option<u64>, CopyError> {
        let Some(array) = self.word(fdtable.wrapping_add(FDTABLE_FD))? else {
            return Ok(None);
        };
        let number = u64::from(number.unsigned_abs());
        let file = self.word(array.wrapping_add(8 * number))?;
        Ok(file.filter(|&file| self.is_pointer(file)))
    }

    /// Returns the `mm_struct` of a descriptor; 0 if it has none. `None` if the path leads nowhere.
    pub(super) fn follow(
        &mut self,
        mm_path: MmPath,
        number: i32,
    ) -> Result<Option<u64>, CopyError> {
        let Some(fdtable) = self.word(mm_path.fdtable)? else {
            return Ok(None);
        };
        let Some(file) = self.file(fdtable, number)? else {
            return Ok(None);
        };
        let mm = self.word(file.wrapping_add(mm_path.mm))?;
        Ok(mm.filter(|&mm| mm == 0 || self.is_pointer(mm)))
    }
}

const MM_PATH: &str = "way from a descriptor to an mm_struct";

/// Returns the only element.
fn only<T: Copy>(answers: &[T], what: &'static str) -> Result<T, CopyError> {
    match *answers {
        [answer] => Ok(answer),
        _ => Err(CopyError::Calibration {
            what,
            answers: answers.len(),
        }),
    }
}
