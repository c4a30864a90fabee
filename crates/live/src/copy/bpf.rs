//! Reads kernel memory with a BPF program.
//!
//! `BPF_PROG_TEST_RUN` runs the program on this thread inside `rcu_read_lock()` (`net/bpf/test_run.c`). arm64
//! frees the tables of a process after a grace period of RCU (`mm/mmu_gather.c`), so a table whose descriptor
//! was read in a run is not freed before the end of that run. Two code paths of Linux 6.1 interrupt the other
//! CPUs instead of waiting for RCU (khugepaged, and a process that has no memory to record what it frees);
//! because of these, the descriptor is checked again after the copy.

#![expect(unsafe_code, reason = "memory that a BPF program writes")]

use core::sync::atomic::{AtomicU64, Ordering};

use heapless::Vec;
use tablewalk_proc::lines::for_each_line;
use tablewalk_uapi::bpf::{self, Instruction};
use tablewalk_uapi::file::{self, O_RDONLY, OwnedFd};
use tablewalk_uapi::memory::{Advice, Protection, set_locked_memory_limit};
use tablewalk_uapi::{Errno, Mapping, Sharing};

use super::error::{BPF_MAP, BPF_PROGRAM};
use super::program::{COPIED, Entry, MOST, Shared, Table, UNCHANGED, assemble};
use super::vmcoreinfo::hexadecimal;
use super::{CopyError, Kernel, LINKS, Link, OFFSETS, Wanted};

/// Number of pages with copies for a walk, one for each level.
const SLOTS: usize = 5;
/// Maximum number of bytes that one run copies.
const BATCH_BYTES: usize = 256 << 10;

/// Runs the program: the kernel, or in tests a model of it.
pub trait Processor {
    /// Runs the program once, and returns its result. `value` is the value of the map.
    ///
    /// # Errors
    ///
    /// As bpf(2).
    fn run(&mut self, value: &Mapping) -> Result<u32, Errno>;
}

/// The program in the kernel, which keeps the map alive.
#[derive(Debug)]
pub struct Loaded(OwnedFd);

impl Processor for Loaded {
    fn run(&mut self, _: &Mapping) -> Result<u32, Errno> {
        // SAFETY: it writes to the map, to which there are only references to atomic words, which are read
        // between runs.
        unsafe { bpf::run_raw_tracepoint(&self.0) }
    }
}

/// A map with copies, and the program that writes them. A child does not inherit the map, and has to make a
/// new one.
///
/// # Invariants
///
/// The mapping is one page of `Shared`, `SLOTS + batch` pages of copies, and one page for [`Kernel::read`].
/// The program writes to them only inside `Bpf::run`.
#[derive(Debug)]
pub struct Bpf<P = Loaded> {
    processor: P,
    memory: Mapping,
    page_shift: u32,
    batch: usize,
}

impl Bpf {
    /// Makes the map and loads the program: four system calls.
    ///
    /// # Errors
    ///
    /// [`CopyError::Open`]: `EPERM` without `CAP_BPF` and `CAP_PERFMON`, `EINVAL` if the kernel is locked
    /// down for confidentiality; `ENOSYS` in a kernel without `CONFIG_BPF_SYSCALL` or `CONFIG_BPF_EVENTS`.
    pub fn new(page_shift: u32) -> Result<Self, CopyError> {
        let open = |what| move |errno| CopyError::Open { what, errno };
        let batch = batch(page_shift);
        let size = value_size(page_shift);
        let map = create_map(size).map_err(open(BPF_MAP))?;
        let memory = Mapping::file(&map, 0, size, Protection::READ_WRITE, Sharing::Shared)
            .map_err(open(BPF_MAP))?;
        // Otherwise a child could change the copies of this process.
        memory
            .advise(0..size, Advice::DontFork)
            .map_err(open(BPF_MAP))?;
        let code = assemble(map.number(), page_shift, pages(batch));
        let program = bpf::load_raw_tracepoint(&code, &mut []).map_err(|errno| match errno {
            Errno::EINVAL if !has_raw_tracepoints() => open(BPF_PROGRAM)(Errno::ENOSYS),
            errno => open(BPF_PROGRAM)(errno),
        })?;
        // The program and the mapping keep the map alive.
        Ok(Self {
            processor: Loaded(program),
            memory,
            page_shift,
            batch,
        })
    }
}

/// Before Linux 5.11 a map counts as locked memory.
fn create_map(size: usize) -> Result<OwnedFd, Errno> {
    let bytes = u32::try_from(size).unwrap_or(u32::MAX);
    bpf::create_array(bytes).or_else(|errno| match errno {
        Errno::EPERM => {
            set_locked_memory_limit(u64::MAX)?;
            bpf::create_array(bytes)
        }
        errno => Err(errno),
    })
}

/// Returns whether the kernel supports such programs, by loading one that does nothing.
fn has_raw_tracepoints() -> bool {
    let [set, exit] = [0xb7, 0x95].map(|code| Instruction {
        code,
        registers: 0,
        offset: 0,
        immediate: 0,
    });
    bpf::load_raw_tracepoint(&[set, exit], &mut []).is_ok()
}

/// Returns the maximum number of tables for one run.
fn batch(page_shift: u32) -> usize {
    (BATCH_BYTES >> page_shift).clamp(1, MOST)
}

/// Returns the number of pages to which the program writes: copies, and the page of [`Kernel::read`].
const fn pages(batch: usize) -> usize {
    SLOTS + batch + 1
}

/// Returns the size of the map's value in bytes.
fn value_size(page_shift: u32) -> usize {
    (1 + pages(batch(page_shift))) << page_shift
}

impl<P: Processor> Bpf<P> {
    /// Runs the program on the interpreter of a test, in the memory of the test.
    #[cfg(test)]
    pub(super) fn on(processor: P, page_shift: u32) -> Self {
        let size = value_size(page_shift);
        Self {
            processor,
            memory: Mapping::reserve(size, Protection::READ_WRITE).unwrap(),
            page_shift,
            batch: batch(page_shift),
        }
    }

    #[cfg(test)]
    pub(super) const fn processor_mut(&mut self) -> &mut P {
        &mut self.processor
    }

    #[cfg(test)]
    pub(super) const fn processor(&self) -> &P {
        &self.processor
    }

    /// Returns the data that is shared with the program.
    const fn shared(&self) -> *mut Shared {
        self.memory.as_ptr().cast()
    }

    /// The address of the `task_struct` of the thread that ran the program last.
    fn task(&self) -> u64 {
        // SAFETY: the first page of the mapping; it is not written between runs.
        unsafe { &*self.shared() }.task
    }

    /// Runs the program for the prepared request. Returns whether the chain was unchanged.
    fn run(&mut self, chain: &[Link], wanted: &[Wanted], page: usize) -> Result<bool, Errno> {
        let shared = self.shared();
        // SAFETY: the first page of the mapping, which is not used otherwise while this value is borrowed
        // exclusively; any bits are a valid `Shared`.
        let request = unsafe { &mut *shared };
        request.links = chain.len().min(LINKS) as u64;
        request.count = wanted.len().min(self.batch) as u64;
        request.page = page as u64;
        request.copied = [0; MOST];
        for (entry, link) in request.chain.iter_mut().zip(chain) {
            *entry = entry_of(*link);
        }
        for (table, wanted) in request.tables.iter_mut().zip(wanted) {
            *table = Table {
                entry: wanted.link.map_or(NOTHING, entry_of),
                address: wanted.address,
                bytes: wanted.bytes,
            };
        }
        Ok(self.processor.run(&self.memory)? == UNCHANGED)
    }

    /// Returns the words of a page to which the program writes.
    fn page(&self, page: usize) -> &[AtomicU64] {
        if page >= pages(self.batch) {
            return &[];
        }
        let start = self
            .memory
            .as_ptr()
            .wrapping_add((1 + page) << self.page_shift)
            .cast_const();
        // SAFETY: a page of the mapping, readable as long as it lives; atomic words, which the program
        // writes in `run`.
        unsafe { core::slice::from_raw_parts(start.cast(), 1 << (self.page_shift - 3)) }
    }
}

/// A link for memory to which no descriptor leads.
const NOTHING: Entry = Entry {
    address: 0,
    descriptor: 0,
};

const fn entry_of(link: Link) -> Entry {
    Entry {
        address: link.entry,
        descriptor: link.descriptor,
    }
}

// SAFETY: the words are those of the mapping, which stays where it is.
unsafe impl<P: Processor> Kernel for Bpf<P> {
    fn own_task(&mut self, words: &mut [u64]) -> Result<usize, CopyError> {
        let error = |errno| CopyError::Open {
            what: BPF_PROGRAM,
            errno,
        };
        self.run(&[], &[], 0).map_err(error)?;
        let task = self.task();
        // As many pages as can be read, since the struct may end before.
        let mut filled = 0;
        let page_size = 1_u64 << self.page_shift;
        while filled < words.len() {
            let address = task + 8 * filled as u64;
            let in_page = ((page_size - address % page_size) / 8) as usize;
            let end = words.len().min(filled + in_page);
            let part = words.get_mut(filled..end).unwrap_or_default();
            if !self.read(address, part)? {
                break;
            }
            filled = end;
        }
        Ok(filled)
    }

    /// The addresses of the task are in the linear map, whose beginning is a multiple of
    /// `ARM64_MEMSTART_ALIGN`; the System RAM ranges of `/proc/iomem` are the physical addresses.
    fn offsets(&mut self, page_shift: u32) -> Result<Vec<u64, OFFSETS>, CopyError> {
        let error = |errno| CopyError::Open {
            what: BPF_PROGRAM,
            errno,
        };
        self.run(&[], &[], 0).map_err(error)?;
        let task = self.task();
        // arch/arm64/include/asm/kernel-pgtable.h: 1 GiB, and 512 MiB with 64K pages.
        let align = if page_shift == 16 { 1 << 29 } else { 1 << 30 };
        let mut offsets = Vec::new();
        let mut room = true;
        for_each_ram(|start, end| {
            let mut physical = start / align * align + task % align;
            while physical < end && room {
                room = physical < start || offsets.push(task.wrapping_sub(physical)).is_ok();
                physical += align;
            }
        })?;
        // A list that is cut off might lack the right one.
        room.then_some(offsets).ok_or(CopyError::Calibration {
            what: "linear map",
            answers: OFFSETS + 1,
        })
    }

    /// `/sys/kernel/vmcoreinfo` contains its location: physical address and size of an ELF note.
    fn vmcoreinfo(&mut self, offset: u64, text: &mut [u8]) -> Result<usize, CopyError> {
        const FILE: &str = "/sys/kernel/vmcoreinfo";
        let open = |errno| CopyError::Open { what: FILE, errno };
        let fd = file::open(c"/sys/kernel/vmcoreinfo", O_RDONLY).map_err(open)?;
        let mut line = [0; 64];
        let read = file::read(&fd, &mut line).map_err(open)?;
        let place = place_of(line.get(..read).unwrap_or_default()).ok_or(CopyError::Format {
            what: FILE,
            problem: "no address and size",
        })?;
        // After the header of the note, and its name.
        let (start, size) = (place.0 + NOTE_HEADER, place.1.saturating_sub(NOTE_HEADER));
        let size = text.len().min(usize::try_from(size).unwrap_or(usize::MAX));
        let parts = text.get_mut(..size).unwrap_or_default().chunks_mut(8);
        for (part, physical) in parts.zip((start..).step_by(8)) {
            let mut word = [0];
            if !self.read(physical.wrapping_add(offset), &mut word)? {
                return Ok(0);
            }
            for (to, from) in part.iter_mut().zip(word[0].to_le_bytes()) {
                *to = from;
            }
        }
        Ok(size)
    }

    fn read(&mut self, address: u64, words: &mut [u64]) -> Result<bool, CopyError> {
        let scratch = self.pages();
        let parts = words.chunks_mut(1 << (self.page_shift - 3));
        let mut next = Some(address);
        for part in parts {
            let Some(address) = next else {
                // After the last address.
                return Ok(false);
            };
            let bytes = 8 * part.len() as u64;
            let wanted = Wanted {
                link: None,
                address,
                bytes,
            };
            let error = |errno| CopyError::Read { address, errno };
            self.run(&[], &[wanted], scratch).map_err(error)?;
            if !self.is_copied(0) {
                return Ok(false);
            }
            for (word, source) in part.iter_mut().zip(self.page(scratch)) {
                *word = source.load(Ordering::Relaxed);
            }
            next = address.checked_add(bytes);
        }
        Ok(true)
    }

    fn copy(&mut self, chain: &[Link], wanted: &[Wanted], page: usize) -> Result<bool, CopyError> {
        let error = |errno| CopyError::Open {
            what: BPF_PROGRAM,
            errno,
        };
        // Not to the page after the copies.
        let room = self.pages().saturating_sub(page).min(wanted.len());
        let wanted = wanted.get(..room).unwrap_or_default();
        self.run(chain, wanted, page).map_err(error)
    }

    fn is_copied(&self, number: usize) -> bool {
        // SAFETY: it is not written between runs.
        let shared = unsafe { &*self.shared() };
        shared.copied.get(number) == Some(&COPIED)
    }

    fn pages(&self) -> usize {
        SLOTS + self.batch
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn words(&self, page: usize) -> &[AtomicU64] {
        if page >= self.pages() {
            return &[];
        }
        self.page(page)
    }
}

/// Bytes before the text of the note VMCOREINFO: `Elf64_Nhdr` and a name of 11 bytes, padded.
const NOTE_HEADER: u64 = 12 + 12;

/// Physical address and size from a line `42c3f000 1024`, both hexadecimal.
fn place_of(line: &[u8]) -> Option<(u64, u64)> {
    let mut words = line.split(u8::is_ascii_whitespace);
    let mut number = || words.next().and_then(hexadecimal);
    Some((number()?, number()?))
}

/// Calls `visit` with the start and the end of each range of System RAM.
fn for_each_ram(mut visit: impl FnMut(u64, u64)) -> Result<(), CopyError> {
    const FILE: &str = "/proc/iomem";
    let mut found = false;
    let read = for_each_line(c"/proc/iomem", &mut |line| {
        if let Some((start, end)) = ram_of(line) {
            found |= end > start + 1;
            visit(start, end);
        }
        Ok(())
    });
    read.map_err(|errno| CopyError::Open { what: FILE, errno })?;
    // Without CAP_SYS_ADMIN all addresses read as 0.
    found.then_some(()).ok_or(CopyError::Format {
        what: FILE,
        problem: "tells no addresses of System RAM (needs CAP_SYS_ADMIN)",
    })
}

/// Parses a line `40000000-7fffffff : System RAM` that is not indented.
fn ram_of(line: &[u8]) -> Option<(u64, u64)> {
    let mut words = line
        .strip_suffix(b" : System RAM")?
        .split(|&byte| byte == b'-');
    let mut number = || words.next().and_then(hexadecimal);
    Some((number()?, number()?.checked_add(1)?))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    const PAGE_SHIFT: u32 = 12;

    /// Loads the program into the kernel that runs this test; every architecture has BPF. If this process is
    /// not permitted to, prints the reason and returns `None`.
    fn bpf() -> Option<Bpf> {
        Bpf::new(PAGE_SHIFT)
            .inspect_err(|error| std::eprintln!("skipped: {error}"))
            .ok()
    }

    #[test]
    fn the_program_copies_while_what_leads_there_holds() {
        let Some(mut bpf) = bpf() else {
            return;
        };
        let mut task = [0; 512];
        let filled = bpf.own_task(&mut task).unwrap();
        assert!(filled > 64, "{filled} words");
        let address = bpf.task();
        // A word that does not change: a pointer, such as the one to the stack.
        let number = task
            .iter()
            .position(|&word| word >> 47 == 0x1_ffff)
            .unwrap();
        let link = Link {
            entry: address + 8 * number as u64,
            descriptor: task[number],
        };
        let wrong = Link {
            descriptor: link.descriptor ^ 1,
            ..link
        };
        // Hardware may set the access flag.
        let accessed = Link {
            descriptor: link.descriptor ^ super::super::IGNORED,
            ..link
        };
        let page = address & !((1 << PAGE_SHIFT) - 1);
        let wanted = |link| Wanted {
            link: Some(link),
            address: page,
            bytes: 1 << PAGE_SHIFT,
        };
        let all = [wanted(link), wanted(wrong), wanted(accessed)];
        assert_eq!(bpf.copy(&[link, accessed], &all, SLOTS), Ok(true));
        let copied: Vec<_, 4> = (0..4).map(|number| bpf.is_copied(number)).collect();
        assert_eq!(copied.as_slice(), [true, false, true, false]);
        let place = usize::try_from((link.entry - page) / 8).unwrap();
        if let Some(word) = bpf.words(SLOTS).get(place) {
            assert_eq!(word.load(Ordering::Relaxed), link.descriptor);
        }
        assert_eq!(bpf.copy(&[link, wrong], &all, SLOTS), Ok(false));
        // No memory at this address, and no such page for a copy.
        let nothing = Wanted {
            link: None,
            address: 8 << PAGE_SHIFT,
            bytes: 1 << PAGE_SHIFT,
        };
        assert_eq!(bpf.copy(&[], &[nothing], 0), Ok(true));
        assert!(!bpf.is_copied(0));
        let last = bpf.pages();
        assert_eq!(
            bpf.copy(&[], &[wanted(link), wanted(link)], last - 1),
            Ok(true)
        );
        assert!(bpf.is_copied(0) && !bpf.is_copied(1));
    }

    #[test]
    fn a_line_of_iomem_is_a_range_of_ram() {
        let line = b"40000000-7fffffff : System RAM";
        assert_eq!(ram_of(line), Some((0x4000_0000, 0x8000_0000)));
        assert_eq!(ram_of(b"  40210000-4192ffff : Kernel code"), None);
        assert_eq!(ram_of(b"  40210000-4192ffff : System RAM"), None);
        assert_eq!(ram_of(b"40000000-ffffffffffffffff : System RAM"), None);
        assert_eq!(ram_of(b""), None);
    }

    #[test]
    fn the_place_of_a_note_is_two_numbers() {
        assert_eq!(place_of(b"42c3f000 1024\n"), Some((0x42c3_f000, 0x1024)));
        assert_eq!(place_of(b"0x42c3f000 1024\n"), Some((0x42c3_f000, 0x1024)));
        assert_eq!(place_of(b"42c3f000\n"), None);
        assert_eq!(place_of(b""), None);
    }
}
