//! `stress`: many threads increment counters in pages that are evicted and faulted in again.
//!
//! Modelled on the kernel's userfaultfd stress test. The pool takes pages back while they are in use, and
//! saves their contents. A count that is wrong at the end means that a write was lost.

#![no_std]
#![cfg_attr(not(test), no_main)]
#![expect(unsafe_code, reason = "counters in the pages of a pager")]

mod kills;
#[path = "../../../../crates/pager/tests/torture/rounds.rs"]
mod rounds;
mod torture;

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use tablewalk_pager::{
    Clock, Counts, Delivery, Neighbours, Options, Pager, Policy, Refusal, Sequential,
};
use tablewalk_proc::frames;
use tablewalk_rt::cli;
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::{Args, ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::paging::{self, THREADS};
use tablewalk_testkit::prerequisite;
use tablewalk_testkit::random::Random;
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Errno, Mapping, Sharing, process};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: stress [--pages N] [--frames N] [--threads N] [--handlers N] [--batch N]
              [--rounds N] [--seed N] [--kills N] [--torture N]
Threads increment counters in random pages of a region that has fewer frames than
pages. A pager moves frames in, and evicts pages when it runs short. Prints KTAP.
  --pages N     pages in the region (default: 256)
  --frames N    frames in the pool; half of the pages stay mapped (default: 64)
  --threads N   threads that increment, 1 to 16 (default: 4)
  --handlers N  threads that resolve faults, 1 to 16 (default: 2)
  --batch N     pages to install for each fault (default: 4)
  --rounds N    increments of each thread, in hundreds (default: 100)
  --seed N      seed of the random numbers (default: 1)
  --kills N     instead: start N processes with events and N with signals that do
                this for ever, and kill each at a random point
  --torture N   instead: for N seconds, fault, discard, move, fork, signal, stop and
                refuse, all at once; each round has another seed, starting at --seed
Needs a kernel with remap_page_table and userfaultfd, /proc, and root.";

const TESTS: &[Case<Stress<'_>, Error>] = &[
    Case {
        name: "verify, events: every count has the value last written",
        run: |stress| stress.run(Mode::Verify, Delivery::Threads),
    },
    Case {
        name: "racing, events: no increment is lost",
        run: |stress| stress.run(Mode::Racing, Delivery::Threads),
    },
    Case {
        name: "verify, signals: every count has the value last written",
        run: |stress| stress.run(Mode::Verify, Delivery::Signals),
    },
    Case {
        name: "racing, signals: no increment is lost",
        run: |stress| stress.run(Mode::Racing, Delivery::Signals),
    },
    Case {
        name: "no frame is leaked",
        run: Stress::compare_free_memory,
    },
];

/// The options and the state of a run.
struct Stress<'s> {
    pages: usize,
    frames: usize,
    threads: usize,
    handlers: usize,
    batch: usize,
    increments: u64,
    seed: u64,
    /// Number of processes to kill; 0: none.
    kills: u32,
    /// Seconds of torture; 0: none.
    torture: u32,
    /// The contents of evicted pages, followed by the expected contents of every page. Children share it.
    store: &'s [AtomicU64],
    /// Number of free frames before the test, if known.
    free: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// One thread at a time in a page.
    Verify,
    /// All threads at once, with atomic increments.
    Racing,
}

fn main(mut args: Args) -> ExitCode {
    let mut stress = Stress {
        pages: 256,
        frames: 64,
        threads: 4,
        handlers: 2,
        batch: 4,
        increments: 10_000,
        seed: 1,
        kills: 0,
        torture: 0,
        store: &[],
        free: None,
    };
    if let Err(status) = parse(&mut stress, &mut args) {
        return status;
    }
    if let Err(status) =
        prerequisite::moving("stress").and_then(|_| prerequisite::userfaultfd("stress"))
    {
        return status;
    }
    let store = match shared_words(2 * stress.pages) {
        Ok(store) => store,
        Err(errno) => {
            tablewalk_rt::eprintln!("stress: mmap: {errno}");
            return ExitCode::FAILURE;
        }
    };
    // SAFETY: whole words of a mapping that outlives them, and that is accessed only as atomic words.
    stress.store = unsafe { core::slice::from_raw_parts(store.as_ptr().cast(), 2 * stress.pages) };
    let tests = match (stress.kills, stress.torture) {
        (0, 0) => TESTS,
        (0, _) => torture::TESTS,
        _ => kills::TESTS,
    };
    ktap::run(&mut stress, &[tests])
}

/// Maps memory for this many words that children share.
fn shared_words(count: usize) -> Result<Mapping, Errno> {
    let page = 1 << 16;
    let size = (8 * count).next_multiple_of(page);
    Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Shared)
}

fn parse(stress: &mut Stress<'_>, args: &mut Args) -> Result<(), ExitCode> {
    let threads = u32::try_from(THREADS).unwrap_or(1);
    while let Some(argument) = cli::next(args, HELP)? {
        let mut number = |most| cli::number(args, HELP, argument, most).map(|value| value as usize);
        match argument {
            "--pages" => stress.pages = number(1 << 20)?,
            "--frames" => stress.frames = number(1 << 20)?,
            "--threads" => stress.threads = number(threads)?,
            "--handlers" => stress.handlers = number(threads)?,
            "--batch" => stress.batch = number(1 << 16)?,
            "--rounds" => stress.increments = 100 * number(1_000_000)? as u64,
            "--seed" => stress.seed = number(u32::MAX)? as u64,
            "--torture" => stress.torture = cli::number(args, HELP, argument, u32::MAX)?,
            "--kills" => stress.kills = cli::number(args, HELP, argument, u32::MAX)?,
            _ => return Err(cli::unknown(args, argument)),
        }
    }
    Ok(())
}

/// The words of a page that are used: the count, the page number, and the page number again in the last word.
struct Paging<'s> {
    store: &'s [AtomicU64],
    neighbours: Neighbours,
    clock: Clock,
    wrong: AtomicU64,
}

impl Paging<'_> {
    fn word(&self, page: usize) -> Option<&AtomicU64> {
        self.store.get(page)
    }
}

impl Policy for Paging<'_> {
    fn waits(&self) -> bool {
        false
    }

    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        bytes.fill(0xa5);
        let count = self
            .word(page)
            .map_or(0, |word| word.load(Ordering::Relaxed));
        let (words, _) = bytes.as_chunks_mut::<8>();
        if let [first, second, .., last] = words {
            *first = count.to_ne_bytes();
            *second = page.to_ne_bytes();
            *last = page.to_ne_bytes();
        }
        self.clock.mapped(page..page + 1);
        Ok(bytes.len())
    }

    fn around(&self, page: usize) -> Range<usize> {
        self.neighbours.around(page)
    }

    fn victims(&self, most: usize) -> Option<Range<usize>> {
        self.clock.next(most.min(16))
    }

    fn taken_back(&self, page: usize, bytes: &[u8], dirty: bool) {
        self.clock.taken_back(page);
        let (words, _) = bytes.as_chunks::<8>();
        let [first, second, .., last] = words else {
            return;
        };
        let (count, own, same) = (
            u64::from_ne_bytes(*first),
            usize::from_ne_bytes(*second),
            usize::from_ne_bytes(*last),
        );
        let before = self
            .word(page)
            .map_or(0, |word| word.swap(count, Ordering::Relaxed));
        // The frame of another page, or a write that is not in the entry.
        if own != page || same != page || (count != before && !dirty) {
            self.wrong.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Stress<'_> {
    fn run(&mut self, mode: Mode, delivery: Delivery) -> Result<Verdict, Error> {
        // The first test fills the kernel's caches; free frames are counted after it.
        let (counts, right) = self.round(mode, delivery, self.increments)?;
        println!(
            "# {} faults, {} pages moved, {} taken back, {} adopted, {} refilled",
            counts.faults, counts.moved, counts.taken_back, counts.adopted, counts.refilled
        );
        println!(
            "# {} fallbacks, {} races, pool dry {} times",
            counts.fallbacks, counts.races, counts.dry
        );
        if self.free.is_none() {
            self.free = frames::free().ok();
        }
        let came_and_went = counts.moved > 0 && counts.taken_back > 0 && counts.adopted > 0;
        Ok((right && came_and_went).into())
    }

    /// Resets all counts.
    fn clear(&self) {
        for word in self.store {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Returns whether a thread has incremented something.
    fn has_begun(&self) -> bool {
        self.store
            .iter()
            .any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Lets each thread make this many increments.
    fn round(
        &self,
        mode: Mode,
        delivery: Delivery,
        increments: u64,
    ) -> Result<(Counts, bool), Error> {
        let (store, shadow) = self.store.split_at_checked(self.pages).unwrap_or_default();
        self.clear();
        let policy = Paging {
            store,
            neighbours: match mode {
                Mode::Verify => Neighbours::Block(self.batch),
                Mode::Racing => Neighbours::Sequential(Sequential::new(self.batch)),
            },
            clock: Clock::new(self.pages, self.pages / 2)?,
            wrong: AtomicU64::new(0),
        };
        let options = Options {
            pages: self.pages,
            frames: self.frames,
            low_water: self.frames / 2,
            locked: mode == Mode::Racing,
            delivery,
        };
        let pager = Pager::new(options, policy)?;
        let counters = Counters { pager: &pager };
        let wrong = AtomicU64::new(0);
        let locks = [const { AtomicU64::new(0) }; 64];
        paging::run(&pager, delivery, self.handlers, self.threads, &|number| {
            let mut random = Random::new(self.seed, number as u64);
            for _ in 0..increments {
                let page = usize::try_from(random.below(self.pages as u64)).unwrap_or(0);
                let (Some(count), Some(shadow)) = (counters.get(page), shadow.get(page)) else {
                    continue;
                };
                if mode == Mode::Racing {
                    count.fetch_add(1, Ordering::Relaxed);
                    shadow.fetch_add(1, Ordering::Relaxed);
                } else if let Some(lock) = locks.get(page % locks.len()) {
                    let right = counters.increment(page, count, shadow, lock);
                    wrong.fetch_add(u64::from(!right), Ordering::Relaxed);
                }
            }
        })?;
        // All pages, present or not.
        let sum = AtomicU64::new(0);
        paging::run(&pager, delivery, self.handlers, 1, &|_| {
            for page in 0..self.pages {
                let (Some(count), Some(shadow)) = (counters.get(page), shadow.get(page)) else {
                    continue;
                };
                let (count, shadow) = (
                    count.load(Ordering::Relaxed),
                    shadow.load(Ordering::Relaxed),
                );
                if count != shadow {
                    println!("# page {page}: count {count}, not {shadow}");
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
                sum.fetch_add(count, Ordering::Relaxed);
            }
        })?;
        let expected = increments * self.threads as u64;
        let (sum, wrong) = (sum.into_inner(), wrong.into_inner());
        let misplaced = pager.policy().wrong.load(Ordering::Relaxed);
        println!("# {sum} increments of {expected}, {wrong} wrong, {misplaced} misplaced");
        let right = sum == expected && wrong == 0 && misplaced == 0;
        Ok((pager.counts(), right))
    }

    fn compare_free_memory(&mut self) -> Result<Verdict, Error> {
        let after = frames::free().map_err(Error::call("zoneinfo"))?;
        let Some(before) = self.free else {
            return Ok(Verdict::Skip("no round has ended"));
        };
        let cpus = process::cpus().map_err(Error::call("sched_getaffinity"))?;
        println!("# free frames: {before} before, {after} after three rounds");
        Ok((after + frames::SLACK_OF_CPU * u64::from(cpus) >= before).into())
    }
}

/// The counters in the pages of a pager.
struct Counters<'p, 's> {
    pager: &'p Pager<Paging<'s>>,
}

impl Counters<'_, '_> {
    fn word(&self, page: usize, index: usize) -> Option<&AtomicU64> {
        let offset = page.checked_mul(self.pager.page_size())? + 8 * index;
        let word = self.pager.as_ptr().wrapping_add(offset).cast::<AtomicU64>();
        // SAFETY: a word inside the region, which is accessed only as an atomic word while threads run. A
        // page that was taken back has the same contents when it is faulted in again.
        (offset < self.pager.size()).then(|| unsafe { &*word })
    }

    fn get(&self, page: usize) -> Option<&AtomicU64> {
        self.word(page, 0)
    }

    fn mark(&self, page: usize) -> u64 {
        self.word(page, 1)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Increments a counter and its shadow under their lock. Returns whether they were equal, and the page
    /// the right one.
    fn increment(
        &self,
        page: usize,
        count: &AtomicU64,
        shadow: &AtomicU64,
        lock: &AtomicU64,
    ) -> bool {
        while lock.swap(1, Ordering::Acquire) != 0 {
            process::yield_now();
        }
        let found = count.load(Ordering::Relaxed);
        let right = found == shadow.load(Ordering::Relaxed) && self.mark(page) == page as u64;
        count.store(found + 1, Ordering::Relaxed);
        shadow.store(found + 1, Ordering::Relaxed);
        lock.store(0, Ordering::Release);
        right
    }
}
