//! Threads write random pages and keep a journal, which is compared with the reported pages.
//!
//! Each page has two counts: writes begun and writes finished. Both are read before and after each `collect`.
//! A write that finished before this `collect`, and began after the previous one, must be reported by it. A
//! write that began after the end of the last but one `collect` must be reported by this or the previous one.
//! A page that is reported as written must have a write that began since. The finished count says nothing
//! about when the write happened: the thread may have waited in between for any number of rounds, and some
//! threads do so on purpose.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use tablewalk_dirty::{Options, Reasons, Tracker};
use tablewalk_proc::pagemap::{Pagemap, PagemapEntry};
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::memory::{leak_zeroed, leak_zeroed_words};
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{Count, ExitCode, println, thread};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::random::Random;
use tablewalk_testkit::swap::Swap;
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::{Errno, Mapping, Sharing, file, process};

use crate::reported::range;
use crate::{Test, Tracked};

pub(crate) const CALM: &[Test] = &[
    Case {
        name: "journal, private memory: every write is reported, without false positives",
        run: |tracked| run(tracked, Sharing::Private, false),
    },
    Case {
        name: "journal, shared memory",
        run: |tracked| run(tracked, Sharing::Shared, false),
    },
];

pub(crate) const PRESSURE: &[Test] = &[
    Case {
        name: "journal, private memory under pressure: no write is missed, no contents are lost",
        run: |tracked| run(tracked, Sharing::Private, true),
    },
    Case {
        name: "journal, shared memory under pressure",
        run: |tracked| run(tracked, Sharing::Shared, true),
    },
];

/// Maximum number of writing threads: each has its own word in every page.
const THREADS: usize = 8;

/// The size of a test.
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

/// Where a writing thread waits between the two counts: before or after the write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Before,
    Behind,
}

/// The memory, and the notes of its writers.
struct Journal {
    memory: Mapping,
    page: usize,
    begun: &'static [AtomicU64],
    done: &'static [AtomicU64],
    /// Number of writes of each thread to each page: the expected contents of its word.
    own: &'static [AtomicU64],
    round: AtomicU64,
    /// Number of rounds that threads have finished, in total.
    arrived: AtomicU64,
    ended: AtomicBool,
}

fn atomics(count: usize) -> Result<&'static [AtomicU64], Error> {
    let words = leak_zeroed_words(count).map_err(Error::call("mmap"))?;
    // SAFETY: the words are accessed only as atomic words.
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

    /// Returns the word of a thread in a page.
    fn word(&self, page: usize, thread: usize) -> Option<&AtomicU64> {
        let offset = page * self.page + 8 * (thread + 1);
        let word = self
            .memory
            .as_ptr()
            .wrapping_add(offset)
            .cast::<AtomicU64>();
        // SAFETY: inside the mapping, aligned, and accessed only as an atomic word.
        (offset < self.memory.size()).then(|| unsafe { &*word })
    }

    /// Writes a word, and waits before or after the write if `wait` asks for it.
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

    /// Waits for three rounds, like a thread that gets no CPU, but not for rounds that wait for this thread.
    fn outwait_rounds(&self) {
        let round = self.round.load(Ordering::Acquire);
        for _ in 0..2000 {
            if self.round.load(Ordering::Acquire) > round + 2 {
                break;
            }
            process::yield_now();
        }
    }

    /// Writes a few pages in each round; some threads are early, some late.
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

    /// Swaps pages out, reads others so that they are swapped in, and makes other changes that the test
    /// allows.
    fn presser(&self, seed: u64) {
        let mut random = Random::new(seed, 100);
        let mut below = |end: usize| usize::try_from(random.below(end as u64)).unwrap_or(0);
        while !self.ended.load(Ordering::Acquire) {
            let first = below(self.pages());
            let end = (first + 1 + below(32)).min(self.pages());
            let part = first * self.page..end * self.page;
            // Pages in use are not swapped out, which does no harm.
            let _ = self.memory.advise(part, Advice::PageOut);
            for _ in 0..below(32) {
                if let Some(word) = self.word(below(self.pages()), 0) {
                    word.load(Ordering::Relaxed);
                }
            }
            process::yield_now();
        }
    }

    /// Returns whether every word has the value that was written last.
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
            println!(
                "# not what was written last: {}",
                Count(wrong, "word", "words")
            );
        }
        wrong == 0
    }
}

/// The counts of each page before and after `collect`, in this round and the previous one.
struct Looks {
    /// Finished before, and begun after.
    done: &'static mut [u64],
    begun: &'static mut [u64],
    last_done: &'static mut [u64],
    last_begun: &'static mut [u64],
    before_last_begun: &'static mut [u64],
    /// 0: not reported; otherwise one plus the reason.
    reported: &'static mut [u8],
    last_reported: &'static mut [u8],
}

const REASONS: [&str; 6] = ["no reason", "written", "new", "away", "busy", "block"];

/// The value for a page that was busy.
const BUSY: u8 = 1 + 4;
/// The value for a page that was in swap, or migrating.
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

/// Counts of the comparison.
#[derive(Default)]
struct Counts {
    reported: u64,
    missed: u64,
    late: u64,
    /// Pages that were reported and not written, by reason.
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
                // The entry of a page that is busy or migrating is not changed, so it is still dirty in the
                // next round.
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

/// Starts a process that allocates more memory than there is, again and again.
fn hog(size: usize) -> Result<Child, Errno> {
    // SAFETY: the child uses nothing of its parent.
    unsafe { Fork::promised() }.spawn(|| {
        // Make this process the one that the OOM killer chooses.
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

/// Swap, and the processes that push pages out.
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
    // For shared memory, pagemap reports only pages that are mapped.
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
            println!("# false positives: {count}, {name}");
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
    // Make all pages present before the first round.
    for page in 0..plan.pages {
        journal.write(page, 0, None);
    }
    tracker.start()?;
    for round in 0..plan.rounds {
        journal.round.fetch_add(1, Ordering::Release);
        // Most threads have finished the previous round; the others are late, and write in the next one, too.
        let most = u64::from(round) * plan.threads as u64 * 3 / 4;
        while journal.arrived.load(Ordering::Acquire) < most {
            process::yield_now();
        }
        for _ in 0..random.below(6) {
            process::yield_now();
        }
        looks.collect(journal, tracker)?;
        // The first two rounds do not have two before them.
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
