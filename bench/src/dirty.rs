//! The cost of finding the written pages: TRACK compared with mprotect(2) and SIGSEGV.

#![expect(
    unsafe_code,
    reason = "writes memory of its own, and handles its faults"
)]

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU64, Ordering};

use tablewalk_dirty::{Entries, Options, Tracker};
use tablewalk_proc::pagemap::{Pagemap, PagemapEntry};
use tablewalk_rt::{Count, counter, println};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::memory::{Advice, Protection, mprotect};
use tablewalk_uapi::raw::constants::siginfo_t;
use tablewalk_uapi::signal::{self, Signal};
use tablewalk_uapi::{Mapping, process, remap};
use tablewalk_walker::VirtualAddress;

use crate::Ratio;
use crate::dumps::PerPage;

const GIB: usize = 1 << 30;

/// Strides in pages: each round writes one page of each stride.
const STRIDES: [usize; 3] = [100, 10, 1];

pub(crate) fn measure() -> Result<(), Error> {
    let info = remap::info().map_err(Error::call("INFO"))?;
    let page = 1 << info.page_shift;
    let memory = Mapping::reserve(GIB, Protection::READ_WRITE).map_err(Error::call("mmap"))?;
    memory.base_pages_only().map_err(Error::call("madvise"))?;
    // Base pages only, so that each page costs exactly one fault.
    memory
        .advise(0..GIB, Advice::PopulateWrite)
        .map_err(Error::call("MADV_POPULATE_WRITE"))?;
    let hardware = info.features & remap::EXPOSE_PGTBL_HW_DBM != 0;
    println!("written pages of 1 GiB, ticks per page written; hardware dirty state: {hardware}");
    println!("                       find and arm    slow-down        all   ratio");
    for stride in STRIDES {
        let written = (GIB / page).div_ceil(stride) as u64;
        let alone = write_some(&memory, page, stride);
        let peer = by_faults(&memory, page, stride)?.less(alone);
        peer.print("mprotect + SIGSEGV", stride, written, &peer);
        by_tracking(&memory, page, stride)?
            .less(alone)
            .print("TRACK", stride, written, &peer);
        by_entries(&memory, page, stride)?.less(alone).print(
            "entries, FLUSH",
            stride,
            written,
            &peer,
        );
    }
    look(&memory, page)
}

/// Ticks of one round.
struct Round {
    /// Of finding the written pages and starting the next round.
    find: u64,
    /// Of the program that writes.
    program: u64,
}

impl Round {
    /// Subtracts the cost of the program without tracking.
    const fn less(self, alone: u64) -> Self {
        Self {
            find: self.find,
            program: self.program.saturating_sub(alone),
        }
    }

    fn print(&self, name: &str, stride: usize, written: u64, peer: &Self) {
        let all = self.find + self.program;
        println!(
            "{name:<18} {:>3} % {} {} {} {:3.3}",
            100 / stride,
            PerPage(self.find, written),
            PerPage(self.program, written),
            PerPage(all, written),
            Ratio(all, peer.find + peer.program)
        );
    }
}

/// Writes one page of each stride once. Returns the ticks.
fn write_some(memory: &Mapping, page: usize, stride: usize) -> u64 {
    let start = counter::ticks();
    for offset in (0..memory.size()).step_by(page * stride) {
        // SAFETY: the address lies inside the mapping.
        unsafe { memory.as_ptr().wrapping_add(offset).write_volatile(1) };
    }
    counter::ticks() - start
}

/// Number of rounds of TRACK to measure, after one that is not measured.
const ROUNDS: u64 = 2;

fn by_tracking(memory: &Mapping, page: usize, stride: usize) -> Result<Round, Error> {
    let start = VirtualAddress(memory.address());
    let range = start..start.wrapping_add(memory.size() as u64);
    let tracker = Tracker::new(0, range, Options::WRITTEN);
    tracker.start()?;
    let (mut find, mut program) = (0, 0);
    for round in 0..=ROUNDS {
        let writing = write_some(memory, page, stride);
        let begin = counter::ticks();
        let mut pages = 0;
        tracker.collect(|run| pages += (run.end.0 - run.start.0) / page as u64)?;
        let finding = counter::ticks() - begin;
        if pages != (memory.size() / page).div_ceil(stride) as u64 {
            println!("# {} reported", Count(pages, "page", "pages"));
        }
        if round > 0 {
            find += finding;
            program += writing;
        }
    }
    tracker.stop()?;
    Ok(Round {
        find: find / ROUNDS,
        program: program / ROUNDS,
    })
}

fn by_entries(memory: &Mapping, page: usize, stride: usize) -> Result<Round, Error> {
    // SAFETY: private memory, with which nothing else is done until `stop`.
    let mut entries = unsafe { Entries::start(memory) }?;
    let (mut find, mut program) = (0, 0);
    for round in 0..=ROUNDS {
        let writing = write_some(memory, page, stride);
        let begin = counter::ticks();
        let mut pages = 0;
        entries.collect(|(_, run)| pages += run)?;
        let finding = counter::ticks() - begin;
        if pages != (memory.size() / page).div_ceil(stride) as u64 {
            println!("# {} reported", Count(pages, "page", "pages"));
        }
        if round > 0 {
            find += finding;
            program += writing;
        }
    }
    entries.stop();
    Ok(Round {
        find: find / ROUNDS,
        program: program / ROUNDS,
    })
}

/// Pages that the signal handler has seen, one bit each, and the address of the first.
static SEEN: [AtomicU64; GIB / 4096 / 64] = [const { AtomicU64::new(0) }; GIB / 4096 / 64];
static FIRST: AtomicU64 = AtomicU64::new(0);
static SHIFT: AtomicU64 = AtomicU64::new(12);

/// Signal handler: notes the page and makes it writable.
extern "C" fn note(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a siginfo; the fault address is its third word.
    let address = unsafe { info.cast::<u64>().wrapping_add(2).read() };
    let shift = SHIFT.load(Ordering::Relaxed);
    let number = (address - FIRST.load(Ordering::Relaxed)) >> shift;
    if let Some(word) = usize::try_from(number / 64)
        .ok()
        .and_then(|index| SEEN.get(index))
    {
        word.fetch_or(1 << (number % 64), Ordering::Relaxed);
    }
    let page = usize::try_from(address >> shift << shift).unwrap_or(0);
    let page = core::ptr::with_exposed_provenance_mut(page);
    // SAFETY: a page of the measured memory, which was writable before and is afterwards.
    let _ = unsafe { mprotect(page, 1 << shift, Protection::READ_WRITE) };
}

fn by_faults(memory: &Mapping, page: usize, stride: usize) -> Result<Round, Error> {
    FIRST.store(memory.address(), Ordering::Relaxed);
    SHIFT.store(page.trailing_zeros().into(), Ordering::Relaxed);
    // SAFETY: the handler only notes the page and makes it writable; no other access faults.
    unsafe { signal::handle(Signal::Segv, note) }.map_err(Error::call("sigaction"))?;
    let arm = || {
        memory
            .protect(0..memory.size(), Protection::READ)
            .map_err(Error::call("mprotect"))
    };
    arm()?;
    // One round only, because it takes long.
    let program = write_some(memory, page, stride);
    let begin = counter::ticks();
    let words = SEEN.iter().map(|word| word.swap(0, Ordering::Relaxed));
    let pages: u64 = words.map(|word| u64::from(word.count_ones())).sum();
    arm()?;
    let find = counter::ticks() - begin;
    if pages != (memory.size() / page).div_ceil(stride) as u64 {
        println!("# {} seen", Count(pages, "page", "pages"));
    }
    memory
        .protect(0..memory.size(), Protection::READ_WRITE)
        .map_err(Error::call("mprotect"))?;
    signal::restore_default(Signal::Segv).map_err(Error::call("sigaction"))?;
    // Make each entry as it was before.
    write_some(memory, page, 1);
    Ok(Round { find, program })
}

/// Measures a look that finds no written page, compared with reading pagemap, which cannot tell.
fn look(memory: &Mapping, page: usize) -> Result<(), Error> {
    let start = VirtualAddress(memory.address());
    let range = start..start.wrapping_add(memory.size() as u64);
    let tracker = Tracker::new(0, range, Options::WRITTEN);
    tracker.start()?;
    let begin = counter::ticks();
    tracker.look(|run| println!("# {run:?}"))?;
    let looked = counter::ticks() - begin;
    tracker.stop()?;
    let pagemap =
        Pagemap::open(process::pid(), page.trailing_zeros()).map_err(Error::call("pagemap"))?;
    let mut entries = [PagemapEntry::default(); 512];
    let begin = counter::ticks();
    for offset in (0..memory.size()).step_by(512 * page) {
        pagemap
            .read(memory.address() + offset as u64, &mut entries)
            .map_err(Error::call("pagemap"))?;
    }
    let read = counter::ticks() - begin;
    let pages = (memory.size() / page) as u64;
    println!("reading alone, ticks per page");
    println!("TRACK              {}", PerPage(looked, pages));
    println!("pagemap in bulk    {}", PerPage(read, pages));
    Ok(())
}
