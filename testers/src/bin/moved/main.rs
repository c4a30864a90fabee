//! `moved`: tests that pages whose entries were moved behave like any other pages.

#![no_std]
#![cfg_attr(not(test), no_main)]
#![expect(
    unsafe_code,
    reason = "reads and writes memory of a pager, and gives advice about it"
)]

mod discarded;
mod replaced;

use tablewalk_live::{format as format_of_kernel, path};
use tablewalk_pager::{Delivery, Options, Pager, Policy, Refusal, Worker};
use tablewalk_proc::frames;
use tablewalk_proc::pagemap::{Pagemap, PagemapEntry};
use tablewalk_rt::cli;
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{Args, ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::swap::Swap;
use tablewalk_testkit::{paging, prerequisite};
use tablewalk_uapi::memory::{Advice, Protection, madvise, mlock, munlock};
use tablewalk_uapi::process::{self, Status};
use tablewalk_uapi::{Errno, file};
use tablewalk_walker::{Absent, Level, VirtualAddress};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: moved
Moves pages by their entries, and tests that the kernel treats them like any other
pages: swap, memory errors, fork, protection, mlock, migration, KSM, unmapping.
Prints KTAP. Needs a kernel with remap_page_table and userfaultfd, /proc, and root.
Some tests need a RAM disk for swap, memory failure handling, or KSM.";

const TESTS: &[Case<Moved, Error>] = &[
    Case {
        name: "an adopted page is swapped out and in, another stays in memory",
        run: swapped,
    },
    Case {
        name: "a memory error in an adopted page is contained",
        run: poisoned,
    },
    Case {
        name: "a child inherits the pages, adopted before or after fork, and writes copy them",
        run: forked,
    },
    Case {
        name: "a child keeps its pages after the parent and its pool have ended",
        run: survived,
    },
    Case {
        name: "mprotect and discarding work as for other memory",
        run: protected,
    },
    Case {
        name: "a frame from a locked pool is unlocked in the region, unless the region is locked",
        run: locked,
    },
];

/// Runs last.
const END: &[Case<Moved, Error>] = &[Case {
    name: "no frame is leaked",
    run: leaked,
}];

/// Number of pages to move.
const PAGES: usize = 48;
/// Contents of a page, added to its number.
const MARK: u64 = 0x6d6f_7665_6400_0000;

struct Moved {
    page_size: usize,
    pagemap: Pagemap,
    free: u64,
}

fn main(args: Args) -> ExitCode {
    if let Err(status) = cli::no_arguments(args, HELP) {
        return status;
    }
    let info = match prerequisite::moving("moved") {
        Ok(info) => info,
        Err(status) => return status,
    };
    if let Err(status) = prerequisite::userfaultfd("moved") {
        return status;
    }
    let Ok(pagemap) = Pagemap::open(process::pid(), info.page_shift) else {
        tablewalk_rt::eprintln!("moved: no pagemap");
        return ExitCode::FAILURE;
    };
    let mut moved = Moved {
        page_size: 1 << info.page_shift,
        pagemap,
        free: 0,
    };
    ktap::run(&mut moved, &[TESTS, discarded::TESTS, replaced::TESTS, END])
}

/// Fills each page with its number.
struct Marks;

impl Policy for Marks {
    fn waits(&self) -> bool {
        false
    }

    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        bytes.fill(0x5a);
        if let Some(word) = bytes.first_chunk_mut() {
            *word = (MARK | page as u64).to_ne_bytes();
        }
        Ok(bytes.len())
    }
}

fn new_pager() -> Result<Pager<Marks>, Error> {
    let options = Options {
        pages: PAGES,
        frames: PAGES,
        low_water: 0,
        locked: true,
        delivery: Delivery::Signals,
    };
    let pager = Pager::new(options, Marks)?;
    // All pages are present before a child is forked.
    advise(&pager, Advice::DoFork)?;
    Ok(pager)
}

fn read(pager: &Pager<Marks>, page: usize) -> u64 {
    paging::read(pager, page, 0)
}

fn write(pager: &Pager<Marks>, page: usize, value: u64) {
    paging::write(pager, page, 0, value);
}

/// Touches all pages, which moves them. They wait to be adopted.
fn touch(pager: &Pager<Marks>, worker: &mut Worker<'_, Marks>) -> Result<(), Error> {
    worker.resolve_own(|| {
        for page in 0..PAGES {
            read(pager, page);
        }
    })?;
    Ok(())
}

/// Calls madvise(2) for all pages.
fn advise(pager: &Pager<Marks>, advice: Advice) -> Result<(), Error> {
    // SAFETY: nobody relies on the contents of pages that are discarded.
    unsafe { madvise(pager.as_ptr().cast(), pager.size(), advice) }.map_err(Error::call("madvise"))
}

/// Returns how many pages have the right contents.
fn right(pager: &Pager<Marks>) -> usize {
    (0..PAGES)
        .filter(|&page| read(pager, page) == MARK | page as u64)
        .count()
}

impl Moved {
    /// Returns the pagemap entry of a page.
    fn entry(&self, pager: &Pager<Marks>, page: usize) -> Result<PagemapEntry, Errno> {
        let address = pager.address() + (page * self.page_size) as u64;
        self.pagemap.entry(address)
    }

    /// Returns for how many pages `what` is true of the pagemap entry.
    fn count(&self, pager: &Pager<Marks>, what: fn(PagemapEntry) -> bool) -> Result<usize, Error> {
        self.count_if(pager, &|entry| Ok(what(entry)))
    }

    /// Returns for how many pages the condition is true of the number and the pagemap entry.
    fn count_if(
        &self,
        pager: &Pager<Marks>,
        what: &dyn Fn(PagemapEntry) -> Result<bool, Errno>,
    ) -> Result<usize, Error> {
        let mut count = 0;
        for page in 0..PAGES {
            let met = self.entry(pager, page).and_then(what);
            count += usize::from(met.map_err(Error::call("pagemap or kpageflags"))?);
        }
        Ok(count)
    }
}

fn swapped(moved: &mut Moved) -> Result<Verdict, Error> {
    let Some(_swap) = Swap::on() else {
        return Ok(Verdict::Skip("no swap area"));
    };
    let pager = new_pager()?;
    let mut worker = pager.worker()?;
    touch(&pager, &mut worker)?;
    advise(&pager, Advice::PageOut)?;
    let before = moved.count(&pager, PagemapEntry::is_swapped)?;
    worker.settle()?;
    let adopted = pager.counts().adopted;
    advise(&pager, Advice::PageOut)?;
    let after = moved.count(&pager, PagemapEntry::is_swapped)?;
    println!("# {before} of {PAGES} in swap, {adopted} adopted, {after} in swap then");
    let right = right(&pager);
    println!("# {right} have the right contents when they are back");
    // The first test is the warm-up of the last.
    moved.free = frames::free().map_err(Error::call("zoneinfo"))?;
    Ok((before == 0 && adopted == PAGES as u64 && after == PAGES && right == PAGES).into())
}

fn poisoned(moved: &mut Moved) -> Result<Verdict, Error> {
    let pager = new_pager()?;
    let mut worker = pager.worker()?;
    touch(&pager, &mut worker)?;
    worker.settle()?;
    let bad = PAGES / 2;
    let place = pager.as_ptr().wrapping_add(bad * moved.page_size).cast();
    // SAFETY: nobody uses the page any more.
    let poison = unsafe { madvise(place, moved.page_size, Advice::HardwarePoison) };
    match poison {
        Ok(()) => {}
        Err(Errno::EINVAL) => return Ok(Verdict::Skip("no memory failure")),
        Err(errno) => return Err(Error::Call("MADV_HWPOISON", errno)),
    }
    let format = format_of_kernel()?;
    let address = VirtualAddress(pager.address() + (bad * moved.page_size) as u64);
    let path = path(0, &format.geometry, address)?;
    let entry = path
        .steps()
        .last()
        .map(|step| step.descriptor)
        .unwrap_or_default();
    let absent = format.linux.absent(entry, &format.geometry, Level::L3);
    println!("# {absent:?}");
    let contained = matches!(absent, Absent::HardwarePoison { .. });
    let others = (0..PAGES).filter(|&page| page != bad && read(&pager, page) == MARK | page as u64);
    let others = others.count();
    // The kernel never reuses this frame.
    moved.free = moved.free.saturating_sub(1);
    Ok((contained && others == PAGES - 1).into())
}

fn ended_well(who: &str, status: Status) -> bool {
    if status != Status::Exited(0) {
        println!("# {who}: {status:?}");
    }
    status == Status::Exited(0)
}

fn forked(_: &mut Moved) -> Result<Verdict, Error> {
    let pager = new_pager()?;
    let mut worker = pager.worker()?;
    touch(&pager, &mut worker)?;
    let mut met = true;
    for settled in [false, true] {
        if settled {
            worker.settle()?;
        }
        let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
        // SAFETY: the child accesses the region by raw pointers, and drops nothing of its parent.
        let child = unsafe { Fork::promised() }
            .spawn(|| {
                let inherited = right(&pager);
                for page in 0..PAGES / 2 {
                    write(&pager, page, 1);
                }
                // Wait until the parent has written.
                let _ = file::read(&reader, &mut [0]);
                let own = (0..PAGES / 2)
                    .filter(|&page| read(&pager, page) == 1)
                    .count();
                let others =
                    (PAGES / 2..PAGES).filter(|&page| read(&pager, page) == MARK | page as u64);
                let kept = own + others.count();
                ExitCode(u8::from(inherited != PAGES || kept != PAGES))
            })
            .map_err(Error::call("fork"))?;
        for page in PAGES / 4..PAGES {
            write(&pager, page, 2);
        }
        file::write(&writer, b".").map_err(Error::call("pipe"))?;
        let status = child.wait().map_err(Error::call("wait"))?;
        met &= ended_well("child", status);
        for page in 0..PAGES {
            let wanted = if page < PAGES / 4 {
                MARK | page as u64
            } else {
                2
            };
            met &= read(&pager, page) == wanted;
            write(&pager, page, MARK | page as u64);
        }
    }
    Ok(met.into())
}

/// A child keeps pages after its parent, with region and pool, has ended.
fn survived(_: &mut Moved) -> Result<Verdict, Error> {
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    // SAFETY: the child accesses the region by raw pointers, and drops nothing of its parent.
    let parent = unsafe { Fork::promised() }
        .spawn(|| {
            let Ok(pager) = new_pager() else {
                return ExitCode::FAILURE;
            };
            let Ok(mut worker) = pager.worker() else {
                return ExitCode::FAILURE;
            };
            if touch(&pager, &mut worker).is_err() {
                return ExitCode::FAILURE;
            }
            let middle = process::pid();
            // SAFETY: the child accesses the region by raw pointers, and drops nothing.
            match unsafe { process::fork() } {
                Ok(Some(_)) => {
                    // Adopts nothing, and drops nothing.
                    process::exit(0)
                }
                Ok(None) => {
                    while process::parent_pid() == middle {
                        process::yield_now();
                    }
                    let _out = advise(&pager, Advice::PageOut);
                    let kept = right(&pager) == PAGES;
                    for page in 0..PAGES {
                        write(&pager, page, 3);
                    }
                    let _ = file::write(&writer, if kept { b"y" } else { b"n" });
                    process::exit(0)
                }
                Err(_) => ExitCode::FAILURE,
            }
        })
        .map_err(Error::call("fork"))?;
    let status = parent.wait().map_err(Error::call("wait"))?;
    let mut answer = [0];
    file::read(&reader, &mut answer).map_err(Error::call("pipe"))?;
    Ok((ended_well("parent", status) && answer == *b"y").into())
}

fn protected(moved: &mut Moved) -> Result<Verdict, Error> {
    let pager = new_pager()?;
    let mut worker = pager.worker()?;
    touch(&pager, &mut worker)?;
    pager.protect(0..pager.size(), Protection::READ)?;
    worker.settle()?;
    let kept = right(&pager);
    // SAFETY: the child accesses the region by raw pointers, and drops nothing of its parent.
    let outcome = unsafe { Fork::promised() }
        .spawn(|| {
            write(&pager, 1, 0);
            ExitCode::SUCCESS
        })
        .and_then(Child::wait)
        .map_err(Error::call("fork"))?;
    let refused = matches!(outcome, Status::Killed(_));
    pager.protect(0..pager.size(), Protection::READ_WRITE)?;
    write(&pager, 1, MARK | 1);
    advise(&pager, Advice::DontNeed)?;
    let gone = PAGES - moved.count(&pager, PagemapEntry::is_present)?;
    println!("# {kept} kept, {gone} gone, a write was refused: {refused}");
    Ok((kept == PAGES && refused && gone == PAGES).into())
}

/// Bit 33 of `/proc/kpageflags`, `KPF_MLOCKED` of include/linux/kernel-page-flags.h.
const MLOCKED: u64 = 1 << 33;

fn locked(moved: &mut Moved) -> Result<Verdict, Error> {
    let flags =
        file::open(c"/proc/kpageflags", file::O_RDONLY).map_err(Error::call("kpageflags"))?;
    let is_locked = |entry: PagemapEntry| {
        let mut bytes = [0; 8];
        file::pread(&flags, &mut bytes, 8 * entry.frame())?;
        Ok(u64::from_ne_bytes(bytes) & MLOCKED != 0)
    };
    let count = |pager: &Pager<Marks>| moved.count_if(pager, &is_locked);
    let pager = new_pager()?;
    let mut worker = pager.worker()?;
    touch(&pager, &mut worker)?;
    let before = count(&pager)?;
    worker.settle()?;
    // Drains the per-CPU lists of pages.
    advise(&pager, Advice::PageOut)?;
    let after = count(&pager)?;
    let place = pager.as_ptr().cast();
    mlock(place, pager.size()).map_err(Error::call("mlock"))?;
    let asked = count(&pager)?;
    munlock(place, pager.size()).map_err(Error::call("munlock"))?;
    println!("# locked: {before} when moved, {after} when adopted, {asked} when asked for");
    Ok((before == PAGES && after == 0 && asked == PAGES).into())
}

fn leaked(moved: &mut Moved) -> Result<Verdict, Error> {
    let after = frames::free().map_err(Error::call("zoneinfo"))?;
    let cpus = process::cpus().map_err(Error::call("sched_getaffinity"))?;
    println!("# free frames: {} before, {after} after", moved.free);
    if moved.free == 0 {
        return Ok(Verdict::Skip("nothing was measured"));
    }
    Ok((after + frames::SLACK_OF_CPU * u64::from(cpus) >= moved.free).into())
}
