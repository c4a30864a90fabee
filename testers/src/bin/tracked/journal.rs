//! Threads that write random pages, a journal of that, and what is reported, held against each other.
//!
//! Two counts for each page: writes begun and writes done. `collect` number k lies between two looks at
//! them, so that a write that was done before it, and begun after the one before, has to be reported by it;
//! one that was begun since the one before the last ended has to be reported by either; and a page that is
//! reported as written has to have one begun since. When a write is counted as done says nothing of when it was:
//! its thread may have waited in between for any number of rounds, and some do so on purpose.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use tablewalk_dirty::{Options, Reasons, Tracker};
use tablewalk_proc::pagemap::{Pagemap, PagemapEntry};
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::memory::{leak_zeroed, leak_zeroed_words};
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{ExitCode, println, thread};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::random::Random;
use tablewalk_testkit::swap::Swap;
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::{Errno, Mapping, Sharing, file, process};

use crate::reported::range;
use crate::{Test, Tracked};

pub(crate) const CALM: &[Test] = &[
    Case {
        name: "journal, private memory: all that was written is reported, and nothing else",
        run: |tracked| run(tracked, Sharing::Private, false),
    },
    Case {
        name: "journal, shared memory",
        run: |tracked| run(tracked, Sharing::Shared, false),
    },
];

pub(crate) const PRESSURE: &[Test] = &[
    Case {
        name: "journal, private memory under pressure: none is missed, none is lost",
        run: |tracked| run(tracked, Sharing::Private, true),
    },
    Case {
        name: "journal, shared memory under pressure",
        run: |tracked| run(tracked, Sharing::Shared, true),
    },
];

/// Threads that write at most: each has a word of its own in every page.
const THREADS: usize = 8;

/// How much is done.
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) pages: usize,
    pub(crate) threads: usize,
    pub(crate) seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            rounds: 1000,
            pages: 512,
            threads: 4,
            seed: 1,
        }
    }
}

/// Where a thread waits that writes: before or behind the write, between the two counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Before,
    Behind,
}

/// The memory that is written, and what its writers have noted.
struct Journal {
    memory: Mapping,
    page: usize,
    begun: &'static [AtomicU64],
    done: &'static [AtomicU64],
    /// Writes of each thread to each page: what its word there has to hold.
    own: &'static [AtomicU64],
    round: AtomicU64,
    /// Rounds that threads have ended, all together.
    arrived: AtomicU64,
    ended: AtomicBool,
}

fn atomics(count: usize) -> Result<&'static [AtomicU64], Error> {
    let words = leak_zeroed_words(count).map_err(Error::call("mmap"))?;
    // SAFETY: a word is an atomic word, and nobody has them as other ones.
    Ok(unsafe { &*(core::ptr::from_mut(words) as *const [AtomicU64]) })
}

impl Journal {
    fn new(plan: &Plan, page: usize, sharing: Sharing) -> Result<Self, Error> {
        let memory = Mapping::anonymous(plan.pages * page, Protection::READ_WRITE, sharing)
            .map_err(Error::call("mmap"))?;
        memory
            .base_pages_only()
            .map_err(Error::call("MADV_NOHUGEPAGE"))?;
        Ok(Self {
            memory,
            page,
            begun: atomics(plan.pages)?,
            done: atomics(plan.pages)?,
            own: atomics(plan.pages * THREADS)?,
            round: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        })
    }

    fn pages(&self) -> usize {
        self.begun.len()
    }

    /// The word of a thread in a page.
    fn word(&self, page: usize, thread: usize) -> Option<&AtomicU64> {
        let offset = page * self.page + 8 * (thread + 1);
        let word = self
            .memory
            .as_ptr()
            .wrapping_add(offset)
            .cast::<AtomicU64>();
        // SAFETY: inside the mapping, aligned, and only ever used as this.
        (offset < self.memory.size()).then(|| unsafe { &*word })
    }

    /// Writes a word, and waits in the middle of it where it is reported to.
    fn write(&self, page: usize, thread: usize, wait: Option<Wait>) -> Option<()> {
        let own = self.own.get(page * THREADS + thread)?;
        let word = self.word(page, thread)?;
        self.begun.get(page)?.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if wait == Some(Wait::Before) {
            self.outwait_rounds();
        }
        word.store(own.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        if wait == Some(Wait::Behind) {
            self.outwait_rounds();
        }
        fence(Ordering::SeqCst);
        self.done.get(page)?.fetch_add(1, Ordering::SeqCst);
        Some(())
    }

    /// Waits for three rounds, as a thread does that gets no CPU, but not for those that wait for it.
    fn outwait_rounds(&self) {
        let round = self.round.load(Ordering::Acquire);
        for _ in 0..2000 {
            if self.round.load(Ordering::Acquire) > round + 2 {
                break;
            }
            process::yield_now();
        }
    }

    /// A few pages in each round; some threads are early, some late.
    fn writer(&self, thread: usize, seed: u64) {
        let mut random = Random::new(seed, thread as u64 + 1);
        let mut seen = 0;
        while !self.ended.load(Ordering::Acquire) {
            let round = self.round.load(Ordering::Acquire);
            if round == seen {
                process::yield_now();
                continue;
            }
            let ended = round - seen;
            seen = round;
            for _ in 0..random.below(12) {
                let page = usize::try_from(random.below(self.pages() as u64)).unwrap_or(0);
                let wait = match random.below(100) {
                    0 => Some(Wait::Before),
                    1 => Some(Wait::Behind),
                    _ => None,
                };
                self.write(page, thread, wait);
                for _ in 0..random.below(400) {
                    core::hint::spin_loop();
                }
            }
            self.arrived.fetch_add(ended, Ordering::Release);
        }
    }

    /// Sends pages to swap, reads others so that they come back, and does what else it may.
    fn presser(&self, seed: u64) {
        let mut random = Random::new(seed, 100);
        let mut below = |end: usize| usize::try_from(random.below(end as u64)).unwrap_or(0);
        while !self.ended.load(Ordering::Acquire) {
            let first = below(self.pages());
            let end = (first + 1 + below(32)).min(self.pages());
            let part = first * self.page..end * self.page;
            // Pages that somebody uses stay; there is nothing to do about that.
            let _ = self.memory.advise(part, Advice::PageOut);
            for _ in 0..below(32) {
                if let Some(word) = self.word(below(self.pages()), 0) {
                    word.load(Ordering::Relaxed);
                }
            }
            process::yield_now();
        }
    }

    /// Whether every word holds what was written last.
    fn is_whole(&self) -> bool {
        let wrong = (0..self.pages() * THREADS).filter(|&index| {
            let (page, thread) = (index / THREADS, index % THREADS);
            let found = self
                .word(page, thread)
                .map(|word| word.load(Ordering::Relaxed));
            found != self.own.get(index).map(|own| own.load(Ordering::Relaxed))
        });
        let wrong = wrong.count();
        if wrong > 0 {
            println!("# {wrong} words do not hold what was written last");
        }
        wrong == 0
    }
}

/// What is known of a page before and after `collect`, of this round and the one before.
struct Looks {
    /// Done before, begun behind.
    done: &'static mut [u64],
    begun: &'static mut [u64],
    last_done: &'static mut [u64],
    last_begun: &'static mut [u64],
    before_last_begun: &'static mut [u64],
    /// 0: not reported; otherwise one and the reason.
    reported: &'static mut [u8],
    last_reported: &'static mut [u8],
}

const REASONS: [&str; 6] = ["no reason", "written", "new", "away", "busy", "block"];

/// What is reported of a page that was busy.
const BUSY: u8 = 1 + 4;
/// What is reported of one that was in swap, or moving.
const AWAY: u8 = 1 + 3;

fn reason(reasons: Reasons) -> u8 {
    if reasons.is_block() {
        5
    } else if reasons.is_busy() {
        4
    } else if reasons.is_written() {
        1
    } else if reasons.is_away() {
        3
    } else if reasons.is_new() {
        2
    } else {
        0
    }
}

/// Rounds held against the journal.
#[derive(Default)]
struct Counts {
    reported: u64,
    missed: u64,
    late: u64,
    /// Reported and not written, by reason.
    unwritten: [u64; 6],
    in_swap: u64,
}

impl Looks {
    fn new(pages: usize) -> Result<Self, Error> {
        let words = || leak_zeroed_words(pages).map_err(Error::call("mmap"));
        let bytes = || leak_zeroed(pages).map_err(Error::call("mmap"));
        Ok(Self {
            done: words()?,
            begun: words()?,
            last_done: words()?,
            last_begun: words()?,
            before_last_begun: words()?,
            reported: bytes()?,
            last_reported: bytes()?,
        })
    }

    fn look(to: &mut [u64], from: &[AtomicU64]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.load(Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
    }

    fn collect(&mut self, journal: &Journal, tracker: &Tracker) -> Result<(), Error> {
        core::mem::swap(&mut self.done, &mut self.last_done);
        core::mem::swap(&mut self.last_begun, &mut self.before_last_begun);
        core::mem::swap(&mut self.begun, &mut self.last_begun);
        core::mem::swap(&mut self.reported, &mut self.last_reported);
        self.reported.fill(0);
        Self::look(self.done, journal.done);
        let (first, page) = (journal.memory.address(), journal.page);
        let reported = &mut self.reported;
        tracker.collect(|run| {
            let number = |address: u64| usize::try_from(address - first).unwrap_or(0) / page;
            let pages = number(run.start.0)..number(run.end.0);
            if let Some(reported) = reported.get_mut(pages) {
                reported.fill(1 + reason(run.reasons));
            }
        })?;
        fence(Ordering::SeqCst);
        Self::look(self.begun, journal.begun);
        Ok(())
    }

    fn judge(&self, counts: &mut Counts) {
        for page in 0..self.reported.len() {
            let at = |words: &[u64]| words.get(page).copied().unwrap_or(0);
            let reported = self.reported.get(page).copied().unwrap_or(0);
            let last_reported = self.last_reported.get(page).copied().unwrap_or(0);
            let (done, begun) = (at(self.done), at(self.begun));
            if reported == 0 {
                counts.late += u64::from(done > at(self.last_begun));
                counts.missed += u64::from(done > at(self.before_last_begun) && last_reported == 0);
                continue;
            }
            counts.reported += 1;
            if begun == at(self.last_done) {
                // The entry of a page that is busy, or moving to another frame, is left alone: it is as
                // dirty when it no longer is.
                let reported = if matches!(last_reported, BUSY | AWAY) {
                    last_reported
                } else {
                    reported
                };
                let cause = counts.unwritten.get_mut(usize::from(reported - 1));
                *cause.unwrap_or(&mut 0) += 1;
            }
        }
    }
}

/// A process that has more memory than there is, again and again.
fn hog(size: usize) -> Result<Child, Errno> {
    // SAFETY: the child uses nothing of its parent's.
    unsafe { Fork::promised() }.spawn(|| {
        // If one has to die, this.
        let score = file::open(c"/proc/self/oom_score_adj", file::O_WRONLY);
        let _ = score.and_then(|file| file::write(&file, b"1000"));
        loop {
            let Ok(memory) = Mapping::reserve(size, Protection::READ_WRITE) else {
                return ExitCode::FAILURE;
            };
            for offset in (0..size).step_by(4096) {
                tablewalk_rt::memory::write(&memory, offset, 0x5a5a_5a5a_5a5a_5a5a);
            }
        }
    })
}

/// Swap, and what drives pages there.
struct Pressure {
    _hog: Child,
    _swap: Swap,
}

fn pressure(page: usize) -> Result<Option<Pressure>, Error> {
    const SWAP: u64 = 256 << 20;
    let Some(swap) = Swap::compressed(SWAP).or_else(Swap::on) else {
        return Ok(None);
    };
    let free = tablewalk_proc::frames::free().map_err(Error::call("zoneinfo"))?;
    let free = usize::try_from(free).unwrap_or(0) * page;
    Ok(Some(Pressure {
        _hog: hog(free + (32 << 20)).map_err(Error::call("fork"))?,
        _swap: swap,
    }))
}

fn run(tracked: &mut Tracked, sharing: Sharing, pressed: bool) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let plan = &tracked.journal;
    let pressure = if pressed { pressure(page)? } else { None };
    if pressed && pressure.is_none() {
        return Ok(Verdict::Skip("no swap area"));
    }
    let journal = Journal::new(plan, page, sharing)?;
    let all = range(journal.memory.address(), plan.pages, page);
    let tracker = Tracker::new(0, all, Options::WRITTEN);
    let (threads, seed) = (plan.threads, plan.seed);
    let counts = thread::run_beside(
        || {
            let pressers = usize::from(pressed);
            let started = thread::run_all(threads + pressers, &|number| {
                if number < threads {
                    journal.writer(number, seed);
                } else {
                    journal.presser(seed);
                }
            });
            if let Err(errno) = started {
                println!("# threads: {errno}");
            }
        },
        || {
            let counts = rounds(plan, &journal, &tracker, tracked.info.page_shift);
            journal.ended.store(true, Ordering::Release);
            counts
        },
    )
    .map_err(Error::call("clone"))??;
    drop(pressure);
    tracker.stop()?;
    let whole = journal.is_whole();
    report(&counts, plan);
    let [none, written, _, away, ..] = counts.unwritten;
    // Of shared memory pagemap knows only what is mapped.
    let gone = counts.in_swap > 0 || away > 0;
    let right = counts.missed == 0 && counts.late == 0 && none == 0 && written == 0;
    Ok((right && whole && counts.reported > 0 && (!pressed || gone)).into())
}

fn report(counts: &Counts, plan: &Plan) {
    println!(
        "# {} rounds, {} pages reported, {} missed, {} late, {} seen in swap",
        plan.rounds, counts.reported, counts.missed, counts.late, counts.in_swap
    );
    for (name, &count) in REASONS.iter().zip(&counts.unwritten) {
        if count > 0 {
            println!("# reported and not written: {count}, {name}");
        }
    }
}

fn rounds(
    plan: &Plan,
    journal: &Journal,
    tracker: &Tracker,
    page_shift: u32,
) -> Result<Counts, Error> {
    let mut counts = Counts::default();
    let mut looks = Looks::new(plan.pages)?;
    let mut random = Random::new(plan.seed, 0);
    let pagemap = Pagemap::open(process::pid(), page_shift).map_err(Error::call("pagemap"))?;
    // Pages that are there, before the first round.
    for page in 0..plan.pages {
        journal.write(page, 0, None);
    }
    tracker.start()?;
    for round in 0..plan.rounds {
        journal.round.fetch_add(1, Ordering::Release);
        // Most have ended the round before; those that have not are late, and write in the next, too.
        let most = u64::from(round) * plan.threads as u64 * 3 / 4;
        while journal.arrived.load(Ordering::Acquire) < most {
            process::yield_now();
        }
        for _ in 0..random.below(6) {
            process::yield_now();
        }
        looks.collect(journal, tracker)?;
        // The first two have not two before them.
        if round > 1 {
            looks.judge(&mut counts);
        }
        if round % 16 == 0 {
            counts.in_swap += in_swap(&pagemap, journal)?;
        }
        if (round + 1) % 250 == 0 {
            println!("# round {}", round + 1);
        }
    }
    Ok(counts)
}

fn in_swap(pagemap: &Pagemap, journal: &Journal) -> Result<u64, Error> {
    let mut entries = [PagemapEntry::default(); 512];
    let read = pagemap
        .read(journal.memory.address(), &mut entries)
        .map_err(Error::call("pagemap"))?;
    let seen = read.min(journal.pages());
    Ok(entries
        .iter()
        .take(seen)
        .filter(|entry| entry.is_swapped())
        .count() as u64)
}
