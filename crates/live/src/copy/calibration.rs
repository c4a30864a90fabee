//! Where a kernel keeps the tables of a process, found by trying.
//!
//! The offsets of the fields of `task_struct`, `mm_struct`, `files_struct` and `struct file` differ between
//! versions and configurations, and no kernel has to tell them. This process knows the right answer for
//! itself: the frames of its pages, by pagemap. Each pointer in its own `task_struct` is taken for the
//! `mm`, each word there for the PGD, and tables are walked from there; only the right one leads to the
//! frame of a page of its own.

use heapless::Vec;
use tablewalk_uapi::file::{O_RDONLY, OwnedFd};
use tablewalk_uapi::process;
use tablewalk_walker::{Descriptor, Geometry, Kind, VirtualAddress};

use super::own::{OwnPage, Pagemap, open_proc, page_shift, va_bits};
use super::{CopyError, Kernel};

/// Words of a `task_struct` that are looked at.
const TASK_WORDS: usize = 1024;
/// Words of an `mm_struct`: the PGD stood at 56, 104 and 136 bytes.
const MM_WORDS: usize = 32;
/// Words of a `files_struct`.
const FILES_WORDS: usize = 16;
/// Words of a `struct file`.
const FILE_WORDS: usize = 64;
/// Most ways from a task to an `mm` by a file that are kept.
const WAYS: usize = 32;
/// Words before the array of files in a `struct fdtable`: `max_fds`.
const FDTABLE_FD: u64 = 8;

/// Where things are in this kernel.
#[derive(Debug)]
pub struct Calibration {
    /// An address of the linear map minus the physical address behind it.
    pub(super) offset: u64,
    pub(super) geometry: Geometry,
    /// The `mm_struct` of this process: an address of the linear map.
    pub(super) mm: u64,
    /// Bytes from an `mm_struct` to the pointer to its PGD.
    pub(super) pgd: u64,
    /// Ways from this task to the `mm` behind a file, of which one is right.
    pub(super) ways: Vec<Way, WAYS>,
}

/// From the own `files_struct` to the `mm_struct` behind a descriptor of `/proc/PID/mem`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Way {
    /// Address of the `files_struct`.
    files: u64,
    /// Bytes from there to the pointer to the `fdtable`.
    fdtable: u64,
    /// Bytes from a `struct file` to the pointer to the `mm_struct`.
    mm: u64,
}

/// The `mm_struct` of this process, the way to its PGD, and the linear map that both were read by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OwnMm {
    pub(super) mm: u64,
    pub(super) pgd: u64,
    pub(super) offset: u64,
}

/// A page of this process and its frame.
type Known = (u64, u64);

impl Calibration {
    /// Finds out everything, by reading the memory of the kernel some thousand times.
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
        // With 52-bit addresses of 4K and 16K pages output addresses have 52 bits too (FEAT_LPA2).
        let oa_bits = if bits == 52 { 52 } else { 48 };
        let geometry = Geometry::new(page_shift, bits, oa_bits).map_err(CopyError::Geometry)?;
        let low = OwnPage::new(None, page_shift).map_err(|errno| CopyError::Open {
            what: "a page",
            errno,
        })?;
        let own = process::pid();
        let pagemap = Pagemap::open(own, page_shift)?;
        let mut known = Vec::<Known, 2>::new();
        for page in [Some(&low), high.as_ref()].into_iter().flatten() {
            if let Some(frame) = pagemap.frame(page.address)? {
                // There are two at most.
                let _room = known.push((page.address, frame));
            }
        }
        let mut task = [0; TASK_WORDS];
        let filled = kernel.own_task(&mut task)?;
        let task = task.get(..filled).unwrap_or_default();
        let offsets = kernel.offsets(page_shift)?;
        let mm = find_mm(kernel, &geometry, &offsets, task, &known)?;
        let file = open_proc(own, "mem", O_RDONLY)?;
        let ways = find_ways(kernel, task, mm.mm, &file)?;
        Ok(Self {
            offset: mm.offset,
            geometry,
            mm: mm.mm,
            pgd: mm.pgd,
            ways,
        })
    }

    /// The shape of the tables.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

/// Whether `word` can be an address of the linear map: all its upper bits are ones, and it lies in the
/// lower half of what a kernel of 48 bits or fewer has, or below (`arch/arm64/include/asm/memory.h`).
fn is_pointer(word: u64) -> bool {
    const LOWEST: u64 = 0xfff0 << 48;
    word >= LOWEST && word.is_multiple_of(8)
}

/// Adds an answer that is not there yet. Answers beyond the capacity count, too: they make it full.
fn note<T: PartialEq, const N: usize>(answers: &mut Vec<T, N>, answer: T) {
    if !answers.contains(&answer) {
        let _full = answers.push(answer);
    }
}

/// The one `mm_struct` of `task` from which all known pages are found.
pub(super) fn find_mm<K: Kernel>(
    kernel: &mut K,
    geometry: &Geometry,
    offsets: &[u64],
    task: &[u64],
    known: &[Known],
) -> Result<OwnMm, CopyError> {
    let mut answers = Vec::<OwnMm, 4>::new();
    for (number, &mm) in task.iter().enumerate() {
        let seen = task.iter().take(number).any(|&before| before == mm);
        let mut words = [0; MM_WORDS];
        if seen || !is_pointer(mm) || !kernel.read(mm, &mut words)? {
            continue;
        }
        for (pgd, &root) in (0..).step_by(8).zip(&words) {
            if !is_pointer(root) || !root.is_multiple_of(64) {
                continue;
            }
            for &offset in offsets {
                if leads_to(kernel, geometry, root, offset, known)? {
                    note(&mut answers, OwnMm { mm, pgd, offset });
                }
            }
        }
    }
    match *answers.as_slice() {
        [answer] => Ok(answer),
        _ => Err(CopyError::Calibration {
            what: "mm_struct of this process",
            answers: answers.len(),
        }),
    }
}

/// Whether a walk from `root` finds the frame of each known page.
fn leads_to<K: Kernel>(
    kernel: &mut K,
    geometry: &Geometry,
    root: u64,
    offset: u64,
    known: &[Known],
) -> Result<bool, CopyError> {
    for &(address, frame) in known {
        let address = VirtualAddress(address);
        if find_frame(kernel, geometry, root, offset, address)? != Some(frame) {
            return Ok(false);
        }
    }
    Ok(!known.is_empty())
}

/// The frame of the page at `address`, by tables whose root is at `root` in the linear map.
pub(super) fn find_frame<K: Kernel>(
    kernel: &mut K,
    geometry: &Geometry,
    root: u64,
    offset: u64,
    address: VirtualAddress,
) -> Result<Option<u64>, CopyError> {
    let (mut table, mut level) = (root, geometry.root_level());
    loop {
        let mut word = [0];
        let entry = table.wrapping_add(8 * geometry.index(level, address) as u64);
        if !kernel.read(entry, &mut word)? {
            return Ok(None);
        }
        let descriptor = Descriptor(word[0]);
        match descriptor.kind(geometry, level) {
            Kind::Table => {
                let next = descriptor.next_table(geometry).address(geometry).0;
                table = next.wrapping_add(offset);
            }
            Kind::Block | Kind::Page => {
                let first = descriptor.output_address(geometry, level).frame(geometry);
                let page = (address.0 % geometry.entry_size(level)) >> geometry.page_shift();
                return Ok(Some(first.0 + page));
            }
            Kind::Invalid => return Ok(None),
        }
        match level.next_lower() {
            Some(lower) => level = lower,
            None => return Ok(None),
        }
    }
}

/// The ways from `task` by descriptor `file`, of this process's own memory, to its `mm_struct`.
fn find_ways<K: Kernel>(
    kernel: &mut K,
    task: &[u64],
    mm: u64,
    file: &OwnedFd,
) -> Result<Vec<Way, WAYS>, CopyError> {
    let mut ways = Vec::new();
    for &files in task.iter().filter(|&&word| is_pointer(word)) {
        let mut words = [0; FILES_WORDS];
        if !kernel.read(files, &mut words)? {
            continue;
        }
        for (fdtable, &pointer) in (0..).step_by(8).zip(&words) {
            let Some(struct_file) = file_of(kernel, pointer, file)? else {
                continue;
            };
            let mut words = [0; FILE_WORDS];
            if !kernel.read(struct_file, &mut words)? {
                continue;
            }
            for (at, &word) in (0..).step_by(8).zip(&words) {
                if word == mm {
                    let way = Way {
                        files,
                        fdtable,
                        mm: at,
                    };
                    note(&mut ways, way);
                }
            }
        }
    }
    if ways.is_empty() || ways.is_full() {
        return Err(CopyError::Calibration {
            what: "way from a descriptor to an mm_struct",
            answers: ways.len(),
        });
    }
    Ok(ways)
}

/// The `struct file` of descriptor `file`, if there is an `fdtable` at `fdtable`.
fn file_of<K: Kernel>(
    kernel: &mut K,
    fdtable: u64,
    file: &OwnedFd,
) -> Result<Option<u64>, CopyError> {
    let number = u64::from(file.number().unsigned_abs());
    let mut word = [0];
    if !is_pointer(fdtable) || !kernel.read(fdtable + FDTABLE_FD, &mut word)? {
        return Ok(None);
    }
    let array = word[0];
    if !is_pointer(array) || !kernel.read(array.wrapping_add(8 * number), &mut word)? {
        return Ok(None);
    }
    Ok(Some(word[0]).filter(|&file| is_pointer(file)))
}

impl Way {
    /// The `mm_struct` behind `file`; 0 if the file has none. `None` if the way leads nowhere.
    pub(super) fn follow<K: Kernel>(
        self,
        kernel: &mut K,
        file: &OwnedFd,
    ) -> Result<Option<u64>, CopyError> {
        let mut word = [0];
        if !kernel.read(self.files + self.fdtable, &mut word)? {
            return Ok(None);
        }
        let Some(file) = file_of(kernel, word[0], file)? else {
            return Ok(None);
        };
        let read = kernel.read(file + self.mm, &mut word)?;
        Ok(Some(word[0]).filter(|&mm| read && (mm == 0 || is_pointer(mm))))
    }
}
