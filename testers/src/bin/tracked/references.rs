//! Writes through references that outlive the entry they were taken from, and calls that end early.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, Ordering};

use tablewalk_dirty::{Options, Reasons};
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::memory::{read, write};
use tablewalk_rt::{println, thread};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::swap::Swap;
use tablewalk_uapi::file::{self, OwnedFd};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::raw::{self, constants};
use tablewalk_uapi::remap::{ExposePgtblArgs, remap_page_table};
use tablewalk_uapi::signal::{self, Signal, siginfo_t};
use tablewalk_uapi::track::{
    EXPOSE_PGTBL_TRACK, EXPOSE_PGTBL_TRACK_ARM, EXPOSE_PGTBL_TRACK_SIZE_VER0,
    EXPOSE_PGTBL_TRACK_WRITTEN, ExposePgtblRun, ExposePgtblTrack, track,
};
use tablewalk_uapi::userfault::{Event, Userfault, Waking};
use tablewalk_uapi::{Errno, Mapping, Sharing, process};

use crate::causes::{fill, map, settle};
use crate::reported::Reported;
use crate::{Test, Tracked};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "a write through a reference from before the page was unmapped is reported",
        run: late,
    },
    Case {
        name: "a page in the swap cache with another reference is reported until it is dropped",
        run: in_swap_cache,
    },
    Case {
        name: "a report that could not be copied to the caller is repeated",
        run: not_received,
    },
    Case {
        name: "a long range without entries: a call returns for signals and for lock waiters",
        run: long_hole,
    },
];

/// `process_vm_writev` takes a reference to the target, and then waits in a userfaultfd for its source.
/// Meanwhile the target is unmapped, and mapped again by a read.
fn late(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let swap = Swap::on();
    let discarded = reported_late(page, Advice::DontNeed)?;
    let reclaimed = swap.is_none() || reported_late(page, Advice::PageOut)?;
    println!("# discarded: {discarded}, reclaimed: {reclaimed}");
    Ok((discarded && reclaimed).into())
}

fn reported_late(page: usize, advice: Advice) -> Result<bool, Error> {
    const NUMBER: usize = 5;
    let target = map(page, Sharing::Shared)?;
    let source = Mapping::anonymous(page, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    let faults = Userfault::open(0).map_err(Error::call("userfaultfd"))?;
    faults.enable(0).map_err(Error::call("UFFDIO_API"))?;
    faults
        .register(&source)
        .map_err(Error::call("UFFDIO_REGISTER"))?;
    let mut reported = Reported::start(&target, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    let at = target.address() + (NUMBER * page) as u64;
    // SAFETY: eight bytes of the mapping, which only the kernel writes, once.
    let bytes = unsafe { core::slice::from_raw_parts(source.as_ptr().cast_const(), 8) };
    let written = AtomicBool::new(false);
    let mut while_it_waits = || -> Result<bool, Error> {
        let event = faults.event().map_err(Error::call("userfaultfd"))?;
        let waits = matches!(event, Event::Pagefault { .. });
        target
            .advise(NUMBER * page..(NUMBER + 1) * page, advice)
            .map_err(Error::call("madvise"))?;
        let unmapped = reported.collect()?.has(NUMBER);
        let whole = read(&target, NUMBER * page) == NUMBER as u64 + 1;
        let mapped = reported.collect()?.has(NUMBER);
        let early = written.load(Ordering::Acquire);
        println!("# {advice:?}: waits {waits}, reported {unmapped}, {mapped}, written {early}");
        Ok(waits && unmapped && whole && mapped && !early)
    };
    let before = thread::run_beside(
        || {
            // SAFETY: a page of the mapping, which is only read meanwhile.
            let result = unsafe { process::write_memory(process::pid(), at, bytes) };
            if let Err(errno) = result {
                println!("# process_vm_writev: {errno}");
            }
            written.store(true, Ordering::Release);
        },
        || {
            let result = while_it_waits();
            let mut data = [0; 1 << 16];
            if let Some(first) = data.first_chunk_mut() {
                *first = 77_u64.to_ne_bytes();
            }
            let data = data.get(..page).unwrap_or_default();
            // SAFETY: a page of the mapping, which is missing.
            let copied = unsafe { faults.copy(source.address(), data, Waking::Wake) };
            copied.map_err(Error::call("UFFDIO_COPY"))?;
            result
        },
    )
    .map_err(Error::call("clone"))??;
    // Only the history of the entry can tell of the write now.
    let after = reported.collect()?.has(NUMBER);
    println!("# {advice:?}: reported after the write: {after}");
    Ok(before && after && read(&target, NUMBER * page) == 77)
}

/// Returns a pipe that holds a reference to the first bytes of the page at `address`.
pub(crate) fn refer(address: u64) -> Result<(OwnedFd, OwnedFd), Error> {
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    let piece = [address, 8];
    let arguments = [
        writer.number().cast_unsigned().into(),
        piece.as_ptr().expose_provenance() as u64,
        1,
        0,
        0,
        0,
    ];
    // SAFETY: the pipe reads the page.
    unsafe { raw::call(constants::__NR_vmsplice, arguments) }.map_err(Error::call("vmsplice"))?;
    Ok((reader, writer))
}

/// Reclaim unmaps a page that has another reference, and leaves it in the swap cache.
fn in_swap_cache(tracked: &mut Tracked) -> Result<Verdict, Error> {
    const NUMBER: usize = 6;
    let Some(_swap) = Swap::on() else {
        return Ok(Verdict::Skip("no swap area"));
    };
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let mut reported = Reported::start(&mapping, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    write(&mapping, NUMBER * page + 8, 1);
    let (reader, _writer) = refer(mapping.address() + (NUMBER * page) as u64)?;
    mapping
        .advise(NUMBER * page..(NUMBER + 1) * page, Advice::PageOut)
        .map_err(Error::call("MADV_PAGEOUT"))?;
    let mut met = reported
        .collect()?
        .are("unmapped", &[NUMBER], Reasons::is_away);
    met &= reported
        .collect()?
        .are("still", &[NUMBER], Reasons::is_away);
    met &= read(&mapping, NUMBER * page) == NUMBER as u64 + 1;
    let known = |reasons: Reasons| reasons.is_new() || reasons.is_busy();
    met &= reported.collect()?.are("mapped again", &[NUMBER], known);
    met &= reported.collect()?.are("referred to", &[NUMBER], known);
    file::read(&reader, &mut [0; 8]).map_err(Error::call("pipe"))?;
    settle(&mut reported)?;
    Ok((met && reported.collect()?.none("afterwards")).into())
}

/// TRACK with an array or a struct that the kernel cannot write.
fn not_received(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let mut reported = Reported::start(&mapping, page, Options::WRITTEN)?;
    let deaf = Mapping::anonymous(page, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    let start = mapping.address();
    let mut track = ExposePgtblTrack {
        size: EXPOSE_PGTBL_TRACK_SIZE_VER0,
        mode: EXPOSE_PGTBL_TRACK_WRITTEN | EXPOSE_PGTBL_TRACK_ARM,
        start,
        end: start + mapping.size() as u64,
        runs: deaf.address(),
        count: 8,
        reserved: 0,
    };
    let mut room = [ExposePgtblRun::default(); 8];
    let mut met = true;
    for array in [true, false] {
        deaf.protect(0..page, Protection::READ_WRITE)
            .map_err(Error::call("mprotect"))?;
        // SAFETY: the mapping is large enough for the struct, and aligned.
        unsafe { deaf.as_ptr().cast::<ExposePgtblTrack>().write(track) };
        deaf.protect(0..page, Protection::READ)
            .map_err(Error::call("mprotect"))?;
        settle(&mut reported)?;
        write(&mapping, 3 * page, 4);
        let pfn = if array {
            core::ptr::from_mut(&mut track).expose_provenance() as u64
        } else {
            deaf.address()
        };
        let mut args = ExposePgtblArgs {
            pid: 0,
            remap_vaddr: 0,
            pfn,
            level: EXPOSE_PGTBL_TRACK,
        };
        // SAFETY: the kernel writes only to `track` and `room`.
        let result = unsafe { remap_page_table(&mut args) };
        let again = reported.collect()?.are("again", &[3], Reasons::is_new);
        println!("# {result:?}, reported again: {again}");
        met &= result == Err(Errno::EFAULT) && again;
        // From now on the array is writable, and the struct is not.
        track.runs = room.as_mut_ptr().expose_provenance() as u64;
    }
    Ok((met && fill_is_whole(&mapping, page)).into())
}

fn fill_is_whole(mapping: &Mapping, page: usize) -> bool {
    let whole = (0..mapping.size() / page).all(|n| read(mapping, n * page) == n as u64 + 1);
    fill(mapping, page);
    whole
}

/// Size in bytes of the pages without entries.
const HOLE: usize = 32 << 20;

/// A second mapping of shared memory without page tables of its own.
struct Hole {
    _pages: Mapping,
    _place: Mapping,
    start: u64,
}

impl Hole {
    fn new(page: usize) -> Result<Self, Error> {
        let pages = Mapping::anonymous(HOLE, Protection::READ_WRITE, Sharing::Shared)
            .map_err(Error::call("mmap"))?;
        pages
            .base_pages_only()
            .map_err(Error::call("MADV_NOHUGEPAGE"))?;
        fill(&pages, page);
        // No other mapping uses the tables of these addresses.
        let span = page * page / 8;
        let place =
            Mapping::reserve(HOLE + 2 * span, Protection::NONE).map_err(Error::call("mmap"))?;
        let start = place.address().next_multiple_of(span as u64);
        // mremap(2) of shared memory with old size 0 creates a second mapping.
        let flags = constants::MREMAP_MAYMOVE | constants::MREMAP_FIXED;
        let arguments = [pages.address(), 0, HOLE as u64, flags.into(), start, 0];
        // SAFETY: inside `place`, which nobody uses.
        unsafe { raw::call(constants::__NR_mremap, arguments) }.map_err(Error::call("mremap"))?;
        Ok(Self {
            _pages: pages,
            _place: place,
            start,
        })
    }

    /// Repeats TRACK over the hole until a call returns before the end of its range. Returns how many calls
    /// it took then.
    fn calls(&self, disturbed: &AtomicBool) -> Result<Option<u32>, Error> {
        let end = self.start + HOLE as u64;
        let mut runs = [ExposePgtblRun::default(); 2];
        while !disturbed.load(Ordering::Acquire) {
            process::yield_now();
        }
        for calls in 1..=300 {
            let (filled, next) = track(0, EXPOSE_PGTBL_TRACK_WRITTEN, self.start..end, &mut runs)
                .map_err(Error::call("TRACK"))?;
            // All pages up to there are reported, as one run.
            let reported = runs.first().map_or(0, |run| run.end);
            if filled != 1 || reported != next {
                println!("# {filled} runs, to {reported:#x}, next {next:#x}");
                return Ok(None);
            }
            if next < end {
                return Ok(Some(calls));
            }
        }
        Ok(None)
    }
}

extern "C" fn nothing(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}

fn long_hole(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let hole = Hole::new(page)?;
    // SAFETY: the handler does nothing.
    unsafe { signal::handle(Signal::Usr1, nothing) }.map_err(Error::call("sigaction"))?;
    let (pid, tid) = (process::pid(), process::tid());
    let waiting = disturbed(&hole, || {
        // A writer of the mmap lock.
        Mapping::anonymous(page, Protection::READ, Sharing::Private).map(drop)
    })?;
    let signalled = disturbed(&hole, || process::kill_thread(pid, tid, Signal::Usr1))?;
    signal::restore_default(Signal::Usr1).map_err(Error::call("sigaction"))?;
    println!(
        "# calls until one returned early: {waiting:?} for a writer, {signalled:?} for signals"
    );
    Ok((waiting.is_some() && signalled.is_some()).into())
}

/// Runs [`Hole::calls`] while another thread repeats an operation.
fn disturbed(
    hole: &Hole,
    disturb: impl Fn() -> Result<(), Errno> + Sync,
) -> Result<Option<u32>, Error> {
    let (started, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::run_beside(
        || {
            while !ended.load(Ordering::Acquire) {
                if let Err(errno) = disturb() {
                    println!("# {errno}");
                    return;
                }
                started.store(true, Ordering::Release);
            }
        },
        || {
            let calls = hole.calls(&started);
            ended.store(true, Ordering::Release);
            calls
        },
    )
    .map_err(Error::call("clone"))?
}
