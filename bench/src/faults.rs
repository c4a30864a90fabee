//! The cost of touching a page for the first time, when the kernel or a pager resolves the fault.

use core::hint::black_box;
use core::ops::Range;

use tablewalk_pager::{Clock, Counts, Delivery, Neighbours, Options, Pager, Policy};
use tablewalk_rt::memory::write;
use tablewalk_rt::{counter, println, thread};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::userfault::{Event, Userfault, Waking};
use tablewalk_uapi::{Errno, Mapping, Sharing, process, remap};

use crate::Ratio;

/// Number of pages to touch.
const PAGES: usize = 2048;
/// Number of frames of a pool that is refilled while pages are touched, and of pages that stay mapped then.
const FRAMES: usize = 1024;
const KEEP: usize = 512;
/// Number of measurements of each method. When two CPUs wake each other, a round can fall into step with
/// other activity and cost a third more, reproducibly; the median is not affected.
const ROUNDS: usize = 5;
/// Numbers of pages that one fault brings.
const BATCHES: [usize; 4] = [1, 16, 64, 512];

/// Measures one method once. Returns the ticks of preparing, and of touching all pages.
type Round<'a> = &'a dyn Fn() -> Result<Ticks, Error>;

/// The cost of a round, for all pages.
#[derive(Clone, Copy, Default)]
struct Ticks {
    prepare: u64,
    touch: u64,
}

/// Prints lines, with ratios to the first ones.
struct Table {
    /// Ticks of the kernel's own fault, and of `UFFDIO_COPY` of a page.
    peers: [u64; 2],
}

impl Table {
    /// Measures one method and prints a line.
    fn line(&self, name: &str, round: Round<'_>) -> Result<(), Error> {
        self.print(name, median(round)?);
        Ok(())
    }

    fn print(&self, name: &str, median: Ticks) {
        let [prepare, touch] = [median.prepare, median.touch].map(per_page);
        let all = prepare + touch;
        let [own, copy] = self.peers.map(|peer| Ratio(touch, peer));
        let [own_all, copy_all] = self.peers.map(|peer| Ratio(all, peer));
        println!(
            "{name:<26} {touch:>7} {own:2.3} {copy:2.3} {prepare:>8} {all:>7} {own_all:2.3} {copy_all:2.3}"
        );
    }
}

/// Returns the median of several rounds.
fn median(round: Round<'_>) -> Result<Ticks, Error> {
    let mut rounds = [Ticks::default(); ROUNDS];
    for ticks in &mut rounds {
        *ticks = round()?;
    }
    rounds.sort_unstable_by_key(|ticks| ticks.prepare + ticks.touch);
    let [_, _, median, ..] = rounds;
    Ok(median)
}

const fn per_page(ticks: u64) -> u64 {
    (ticks + PAGES as u64 / 2) / PAGES as u64
}

pub(crate) fn measure() -> Result<(), Error> {
    let info = remap::info().map_err(Error::call("INFO"))?;
    let page = 1_usize << info.page_shift;
    let cpus = process::cpus().map_err(Error::call("sched_getaffinity"))?;
    println!(
        "a page that is touched first, ticks, {cpus} CPUs; ratios to the kernel's fault and UFFDIO_COPY"
    );
    println!("                             touch  fault   COPY  prepare     all  fault   COPY");
    let own = median(&|| {
        let region = fresh(page)?;
        Ok(touched(|| touch(&region, page)))
    })?;
    let copy = median(&|| by_ioctl(page, Ioctl::Copy(1)))?;
    let table = Table {
        peers: [own.touch, copy.touch].map(per_page),
    };
    table.print("kernel: anonymous fault", own);
    table.print("kernel: UFFDIO_COPY", copy);
    table.line("kernel: populate", &|| {
        let region = fresh(page)?;
        let populate = || region.advise(0..region.size(), Advice::PopulateWrite);
        let mut result = Ok(());
        let ticks = touched(|| result = populate());
        result.map_err(Error::call("MADV_POPULATE_WRITE"))?;
        Ok(ticks)
    })?;
    table.line("kernel: UFFDIO_ZEROPAGE", &|| by_ioctl(page, Ioctl::Zero))?;
    table.line("kernel: UFFDIO_COPY of 64", &|| {
        by_ioctl(page, Ioctl::Copy(64))
    })?;
    for (what, frames) in [(" at once", 0), (", recycled", FRAMES)] {
        for (delivery, name) in [(Delivery::Threads, "thread"), (Delivery::Signals, "signal")] {
            for batch in BATCHES {
                let name: heapless::String<32> =
                    heapless::format!("ours: {name}, {batch}{what}")
                        .map_err(|_| Error::Call("a name", Errno::EOVERFLOW))?;
                let round = || by_pager(delivery, batch, frames).map(|(ticks, _)| ticks);
                table.line(&name, &round)?;
            }
        }
    }
    let (_, counts) = by_pager(Delivery::Threads, 64, 0)?;
    println!(
        "# {} faults, {} moved, {} adopted, {} fallbacks",
        counts.faults, counts.moved, counts.adopted, counts.fallbacks
    );
    Ok(())
}

fn touched(what: impl FnOnce()) -> Ticks {
    let start = counter::ticks();
    what();
    Ticks {
        prepare: 0,
        touch: counter::ticks() - start,
    }
}

/// Pins the calling thread to a CPU, so that each method has its threads on the same CPUs. Without that CPU,
/// all threads run on the only one.
pub(crate) fn pin_to(cpu: u32) {
    let _ = process::set_affinity(0, 1 << cpu);
}

/// Maps private memory of [`PAGES`] missing base pages, and one more.
fn fresh(page: usize) -> Result<Mapping, Error> {
    let size = (PAGES + 1) * page;
    let region = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Private);
    let region = region.map_err(Error::call("mmap"))?;
    region.base_pages_only().map_err(Error::call("madvise"))?;
    Ok(region)
}

/// Writes to each page.
fn touch(region: &Mapping, page: usize) {
    for number in 0..PAGES {
        write(region, number * page, 1);
    }
}

/// The ioctl that resolves a userfault.
#[derive(Clone, Copy)]
enum Ioctl {
    /// `UFFDIO_COPY` of this number of pages.
    Copy(usize),
    /// `UFFDIO_ZEROPAGE` of one page.
    Zero,
}

/// Runs one round of the kernel's own method: a thread reads events and answers each with one ioctl.
fn by_ioctl(page: usize, ioctl: Ioctl) -> Result<Ticks, Error> {
    let region = fresh(page)?;
    let source = Mapping::anonymous(64 * page, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    for number in 0..64 {
        write(&source, number * page, 1);
    }
    let uffd = Userfault::open(0).map_err(Error::call("userfaultfd"))?;
    uffd.enable(0).map_err(Error::call("UFFDIO_API"))?;
    uffd.register(&region)
        .map_err(Error::call("UFFDIO_REGISTER"))?;
    let mut handled = Ok(());
    let ticks = thread::run_beside(
        || {
            pin_to(1);
            handled = answer(&uffd, &region, &source, page, ioctl);
        },
        || {
            pin_to(0);
            let ticks = touched(|| touch(&region, page));
            // A fault on the extra page tells the other thread to end.
            write(&region, PAGES * page, 1);
            ticks
        },
    );
    handled.map_err(Error::call("an answer to a fault"))?;
    ticks.map_err(Error::call("clone"))
}

fn answer(
    uffd: &Userfault,
    region: &Mapping,
    source: &Mapping,
    page: usize,
    ioctl: Ioctl,
) -> Result<(), Errno> {
    let last = region.address() + (PAGES * page) as u64;
    let size = |pages: usize| (pages * page) as u64;
    loop {
        let Event::Pagefault { address, .. } = uffd.event()? else {
            continue;
        };
        let address = address & !(page as u64 - 1);
        if address == last {
            // SAFETY: a page of the region, which is accessed by raw pointers only.
            return unsafe { uffd.zeropage(address, size(1), Waking::Wake) }.map(drop);
        }
        match ioctl {
            Ioctl::Copy(pages) => {
                // SAFETY: the mapping, to which nobody writes.
                let bytes = unsafe { core::slice::from_raw_parts(source.as_ptr(), pages * page) };
                // SAFETY: a page of the region, which is accessed by raw pointers only.
                unsafe { uffd.copy(address, bytes, Waking::Wake) }?;
            }
            Ioctl::Zero => {
                // SAFETY: a page of the region, which is accessed by raw pointers only.
                unsafe { uffd.zeropage(address, size(1), Waking::Wake) }?;
            }
        }
    }
}

/// A policy that fills pages with zeros; with a clock, it evicts pages in turn.
struct Zeros {
    neighbours: Neighbours,
    clock: Option<Clock>,
}

impl Policy for Zeros {
    fn waits(&self) -> bool {
        false
    }

    fn zeros(&self) -> bool {
        true
    }

    fn around(&self, page: usize) -> Range<usize> {
        let around = self.neighbours.around(page);
        if let Some(clock) = &self.clock {
            clock.mapped(around.clone());
        }
        around
    }

    fn victims(&self, most: usize) -> Option<Range<usize>> {
        self.clock.as_ref()?.next(most)
    }

    fn taken_back(&self, page: usize, _: &[u8], _: bool) {
        if let Some(clock) = &self.clock {
            clock.taken_back(page);
        }
    }
}

/// Runs one round with a pager that has a frame for each page, or one that reuses `frames` frames, all of
/// which have been used before. Then eviction is part of the measurement.
fn by_pager(delivery: Delivery, batch: usize, frames: usize) -> Result<(Ticks, Counts), Error> {
    let recycle = frames != 0;
    let policy = Zeros {
        neighbours: match batch {
            1 => Neighbours::Alone,
            pages => Neighbours::Block(pages),
        },
        clock: recycle.then(|| Clock::new(PAGES, KEEP)).transpose()?,
    };
    let options = Options {
        pages: PAGES,
        frames: if recycle { frames } else { PAGES },
        low_water: if recycle { frames / 2 } else { 0 },
        locked: false,
        delivery,
    };
    let start = counter::ticks();
    let pager = Pager::new(options, policy)?;
    let pool = counter::ticks() - start;
    let mut ticks = pass(&pager, delivery)?;
    ticks.prepare += pool;
    if recycle {
        // In the first pass all frames are new. In the second, most pages have been evicted.
        ticks = Ticks {
            prepare: 0,
            ..pass(&pager, delivery)?
        };
    }
    Ok((ticks, pager.counts()))
}

/// Starts a worker and touches all pages, until they are adopted.
fn pass<P: Policy>(pager: &Pager<P>, delivery: Delivery) -> Result<Ticks, Error> {
    let (region, page) = (pager.as_ptr(), pager.page_size());
    let touch = || {
        for number in 0..PAGES {
            let word = region.wrapping_add(number * page);
            // SAFETY: the address lies inside the region, to which no Rust reference exists.
            unsafe { word.cast::<u64>().write_volatile(1) };
        }
    };
    let start = counter::ticks();
    let mut worker = pager.worker()?;
    let prepare = counter::ticks() - start;
    let touch = match delivery {
        Delivery::Signals => {
            pin_to(0);
            let start = counter::ticks();
            worker.resolve_own(touch)?;
            worker.settle()?;
            black_box(counter::ticks() - start)
        }
        Delivery::Threads => {
            let mut handled = Ok(());
            let start = thread::run_beside(
                || {
                    pin_to(1);
                    handled = worker.handle(&mut drop);
                },
                || {
                    pin_to(0);
                    let start = counter::ticks();
                    touch();
                    pager.stop(1);
                    start
                },
            );
            // The handler has adopted the remaining pages, and its thread has ended.
            let ticks = counter::ticks() - start.map_err(Error::call("clone"))?;
            handled?;
            ticks
        }
    };
    Ok(Ticks { prepare, touch })
}
