//! Everything at once, by a seed: threads that fault, discard, move, fork, get signals, start and stop
//! handlers, and a policy that fails on purpose; contents are compared, and nobody may wait for long.
//!
//! The same code on a host and on arm64: it knows neither of threads nor of a console, see [`Machine`].

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use tablewalk_pager::{Child, Delivery, Neighbours, Options, Pager, PagerError, Policy, Refusal};
use tablewalk_uapi::memory::{
    Advice, MREMAP_FIXED, MREMAP_MAYMOVE, Protection, madvise, mremap, munmap,
};
use tablewalk_uapi::signal::{self, Signal, siginfo_t};
use tablewalk_uapi::{Mapping, process, time};

/// What the code runs on.
pub(crate) trait Machine: Sync {
    /// Runs `body` with the numbers from 0 to `count - 1`, on a thread for each.
    fn run(&self, count: usize, body: &(dyn Fn(usize) + Sync));

    /// Runs `body`, whose panics end here.
    fn contain(&self, body: &mut dyn FnMut());

    /// Says how far it has come.
    fn say(&self, line: core::fmt::Arguments<'_>);

    /// Whether the policy may panic.
    fn panics(&self) -> bool;
}

/// Pages that stay where they are, and pages behind them that are moved, if any are.
const STILL: usize = 48;
const MOVED: usize = 16;
const PAGES: usize = STILL + MOVED;
const FAULTERS: usize = 4;
const HANDLERS: usize = 3;
/// Looks of the watchdog in a second, or somewhat more.
const LOOKS_A_SECOND: u32 = 100;

/// A round: how faults are delivered, and whether parts are moved by mremap(2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) delivery: Delivery,
    pub(crate) remaps: bool,
    pub(crate) seed: u64,
    pub(crate) length: Duration,
    /// Seconds that a thread may wait.
    pub(crate) patience: u32,
}

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % end.max(1)
    }
}

/// Each word of a page holds the page's number, and something else that may change, below it.
const fn mark(page: usize, rest: u64) -> u64 {
    ((page as u64 + 0x51) << 32) | (rest & 0xffff_ffff)
}

struct Marks {
    neighbours: Neighbours,
    turn: AtomicUsize,
    panics: bool,
    discards: bool,
    waits: bool,
    victim: AtomicUsize,
}

impl Policy for Marks {
    fn waits(&self) -> bool {
        self.waits
    }

    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if turn % 7 == 3 {
            return Err(Refusal::Again);
        }
        assert!(!self.panics || turn % 61 != 5, "on purpose");
        for word in bytes.as_chunks_mut::<8>().0 {
            *word = mark(page, 0).to_ne_bytes();
        }
        Ok(bytes.len())
    }

    fn around(&self, page: usize) -> Range<usize> {
        self.neighbours.around(page)
    }

    fn hears_of_discards(&self) -> bool {
        self.discards
    }

    fn victims(&self, most: usize) -> Option<Range<usize>> {
        let start = self.victim.fetch_add(1, Ordering::Relaxed) % PAGES;
        Some(start..(start + most.min(4)).min(PAGES))
    }
}

/// What the threads of a round share.
struct Scene<'m, M> {
    machine: &'m M,
    pager: Pager<Marks>,
    round: Round,
    /// Threads that still use the region.
    users: AtomicUsize,
    handlers: AtomicUsize,
    end: AtomicBool,
    /// Numbers of handler threads; 0 if there is none.
    tids: [AtomicI32; HANDLERS],
    /// Since how many looks a thread waits, plus one; 0 if it does not.
    waits: [AtomicU32; THREADS],
    child: Slot,
    wrong: AtomicU64,
    done: AtomicU64,
}

const ADVISER: usize = FAULTERS;
const MOVER: usize = FAULTERS + 1;
const FORKER: usize = FAULTERS + 2;
const USERS: usize = FAULTERS + 3;
const DISTURBER: usize = USERS;
const WATCHDOG: usize = USERS + 1;
const FIRST_HANDLER: usize = USERS + 2;
const THREADS: usize = FIRST_HANDLER + HANDLERS;

/// Where a handler puts a child for the thread that has forked it.
struct Slot(AtomicBool, UnsafeCell<Option<Child>>);

// SAFETY: the flag says whose the child is: the handler's while it is clear, else the forking thread's.
unsafe impl Sync for Slot {}

/// The kernel makes no page while the address space changes: somebody has to get between two changes.
fn pause(random: &mut Random) {
    let _ = time::sleep(Duration::from_micros(random.below(500) as u64));
}

extern "C" fn nothing(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}

/// One round; whether all was right. Ends the process if somebody waits for too long.
pub(crate) fn run<M: Machine>(machine: &M, round: Round) -> Result<bool, PagerError> {
    let random = &mut Random(round.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let policy = Marks {
        neighbours: match random.below(3) {
            0 => Neighbours::Alone,
            1 => Neighbours::Block(4),
            _ => Neighbours::Table,
        },
        turn: AtomicUsize::new(0),
        panics: machine.panics() && round.delivery == Delivery::Threads,
        discards: random.below(2) == 0,
        waits: random.below(2) == 0,
        victim: AtomicUsize::new(0),
    };
    let options = Options {
        pages: PAGES,
        frames: 1 + random.below(PAGES),
        low_water: random.below(PAGES),
        locked: random.below(2) == 0,
        delivery: round.delivery,
    };
    // SAFETY: the handler does nothing.
    unsafe { signal::handle(Signal::Usr1, nothing) }
        .map_err(|e| PagerError::Call("sigaction", e))?;
    let scene = Scene {
        machine,
        pager: Pager::new(options, policy)?,
        round,
        users: AtomicUsize::new(USERS),
        handlers: AtomicUsize::new(HANDLERS),
        end: AtomicBool::new(false),
        tids: [const { AtomicI32::new(0) }; HANDLERS],
        waits: [const { AtomicU32::new(0) }; THREADS],
        child: Slot(AtomicBool::new(false), UnsafeCell::new(None)),
        wrong: AtomicU64::new(0),
        done: AtomicU64::new(0),
    };
    if round.remaps {
        // What is moved while entries are moved is lost: from now on the kernel copies.
        let all = 0..scene.pager.size();
        scene.pager.protect(all, Protection::READ_WRITE)?;
    }
    machine.run(THREADS, &|number| scene.thread(number));
    let (done, wrong) = (
        scene.done.load(Ordering::Relaxed),
        scene.wrong.load(Ordering::Relaxed),
    );
    machine.say(format_args!(
        "{round:?}: {done} done, {wrong} wrong, {:?}",
        scene.pager.counts()
    ));
    Ok(wrong == 0 && done != 0)
}

impl<M: Machine> Scene<'_, M> {
    fn thread(&self, number: usize) {
        let random = &mut Random(self.round.seed.wrapping_add(number as u64 * 0x1234_5679) | 1);
        match number {
            WATCHDOG => self.watch(),
            DISTURBER => self.disturb(random),
            FIRST_HANDLER.. => {
                self.handle(number - FIRST_HANDLER);
                self.handlers.fetch_sub(1, Ordering::Release);
            }
            _ => {
                self.use_region(number, random);
                self.users.fetch_sub(1, Ordering::Release);
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    /// Does something that must not wait for long.
    fn in_time<R>(&self, number: usize, body: impl FnOnce() -> R) -> R {
        let wait = self.waits.get(number);
        wait.inspect(|wait| wait.store(1, Ordering::Relaxed));
        let result = body();
        wait.inspect(|wait| wait.store(0, Ordering::Relaxed));
        self.done.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn use_region(&self, number: usize, random: &mut Random) {
        if self.round.delivery == Delivery::Threads {
            self.act(number, random);
            return;
        }
        let worker = self.pager.worker();
        let done = worker.and_then(|mut worker| worker.resolve_own(|| self.act(number, random)));
        if done.is_err() {
            self.is_wrong("a worker", number);
        }
    }

    fn act(&self, number: usize, random: &mut Random) {
        let threads = self.round.delivery == Delivery::Threads;
        match number {
            ADVISER => self.advise(random),
            MOVER if threads && self.round.remaps => self.remap(random),
            FORKER if threads => self.fork(random),
            _ => self.fault(number, random),
        }
    }

    fn is_wrong(&self, what: &str, value: impl core::fmt::Debug) {
        self.wrong.fetch_add(1, Ordering::Relaxed);
        self.machine
            .say(format_args!("{:?}: {what}: {value:x?}", self.round));
    }

    /// Pages that nobody moves.
    fn still(&self) -> usize {
        if self.round.remaps { STILL } else { PAGES }
    }

    fn word(&self, page: usize) -> *mut u64 {
        let place = self
            .pager
            .as_ptr()
            .wrapping_add(page * self.pager.page_size());
        place.cast()
    }

    /// Reads and writes pages.
    fn fault(&self, number: usize, random: &mut Random) {
        while !self.has_ended() {
            let page = random.below(self.still());
            let word = self.word(page).wrapping_add(random.below(512));
            let write = random.below(3) == 0;
            let found = self.in_time(number, || {
                if write {
                    // SAFETY: in the region, where nobody has a reference.
                    unsafe { word.write_volatile(mark(page, number as u64)) };
                }
                // SAFETY: as above.
                unsafe { word.read_volatile() }
            });
            if found >> 32 != mark(page, 0) >> 32 {
                self.is_wrong("a page and what it holds", (page, found));
            }
        }
    }

    /// Discards pages.
    fn advise(&self, random: &mut Random) {
        while !self.has_ended() {
            let page = random.below(self.still());
            let count = 1 + random.below((self.still() - page).min(8));
            let size = count * self.pager.page_size();
            let place = self.word(page).cast();
            // SAFETY: the contents come again.
            let done = self.in_time(ADVISER, || unsafe {
                madvise(place, size, Advice::DontNeed)
            });
            if done.is_err() {
                self.is_wrong("madvise", done);
            }
            pause(random);
        }
    }

    /// Moves a part of the region from place to place, and unmaps it at the end.
    fn remap(&self, random: &mut Random) {
        let page_size = self.pager.page_size();
        let (mut first, mut count) = (STILL, MOVED);
        let mut place: *mut u8 = self.word(STILL).cast();
        while !self.has_ended() {
            // Sometimes a part of it stays behind.
            if count > 2 && random.below(16) == 0 {
                first += 1;
                count -= 1;
                place = place.wrapping_add(page_size);
            }
            let size = count * page_size;
            let Ok(target) = Mapping::reserve(size, Protection::NONE) else {
                break;
            };
            let to = target.as_ptr();
            core::mem::forget(target);
            let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
            // SAFETY: this thread alone uses either.
            let moved = self.in_time(MOVER, || unsafe {
                mremap(place.cast(), size, size, flags, to.cast())
            });
            if moved.is_err() {
                return self.is_wrong("mremap", moved);
            }
            pause(random);
            place = to;
            let number = random.below(count);
            let word: *const u64 = place.wrapping_add(number * page_size).cast();
            // SAFETY: mapped, as the call says.
            let found = self.in_time(MOVER, || unsafe { word.read_volatile() });
            if found != mark(first + number, 0) {
                self.is_wrong(
                    "a page that was moved, and what it holds",
                    (first + number, found),
                );
            }
        }
        // SAFETY: as above.
        let _ = self.in_time(MOVER, || unsafe { munmap(place.cast(), count * page_size) });
    }

    /// Forks children that read pages, and serves them.
    fn fork(&self, random: &mut Random) {
        while !self.has_ended() {
            let pages: [usize; 4] = core::array::from_fn(|_| random.below(self.still()));
            // SAFETY: the child reads memory, and ends.
            let forked = self.in_time(FORKER, || unsafe { process::fork() });
            match forked {
                Ok(None) => {
                    let right = |&page: &usize| {
                        // SAFETY: in the region, where nobody has a reference.
                        let found = unsafe { self.word(page).read_volatile() };
                        found >> 32 == mark(page, 0) >> 32
                    };
                    process::exit(i32::from(!pages.iter().all(right)));
                }
                Ok(Some(pid)) => self.in_time(FORKER, || self.serve(pid)),
                Err(errno) => self.is_wrong("fork", errno),
            }
        }
    }

    fn serve(&self, pid: i32) {
        let Ok(ended) = process::pidfd_open(pid) else {
            return self.is_wrong("pidfd_open", pid);
        };
        while !self.child.0.load(Ordering::Acquire) {
            process::yield_now();
        }
        // SAFETY: the flag says that the handler is done with it.
        let child = unsafe { &mut *self.child.1.get() }.take();
        self.child.0.store(false, Ordering::Release);
        let mut served = Ok(());
        // The policy panics here as well.
        let again = AtomicBool::new(true);
        while again.swap(false, Ordering::Relaxed) {
            self.machine.contain(&mut || {
                again.store(true, Ordering::Relaxed);
                if let Some(child) = &child {
                    served = self.pager.serve_child(child, &ended);
                }
                again.store(false, Ordering::Relaxed);
            });
        }
        let status = process::wait(pid);
        if served.is_err() || status != Ok((pid, process::Status::Exited(0))) {
            self.is_wrong("a child", (served, status));
        }
    }

    /// Handles until the end, however often it is stopped or fails.
    fn handle(&self, number: usize) {
        if self.round.delivery == Delivery::Signals {
            return;
        }
        let tid = self.tids.get(number);
        tid.inspect(|tid| tid.store(process::tid(), Ordering::Relaxed));
        // There are users as long as they may need it.
        while self.users.load(Ordering::Acquire) != 0 {
            self.machine.contain(&mut || {
                let handled = self
                    .pager
                    .worker()
                    .and_then(|mut worker| worker.handle(&mut |child| self.hand_over(child)));
                if handled.is_err() {
                    self.is_wrong("a handler", handled);
                }
            });
        }
        tid.inspect(|tid| tid.store(0, Ordering::Relaxed));
    }

    /// One child at a time: its parent waits until it has it.
    fn hand_over(&self, child: Child) {
        // SAFETY: the flag is clear, as the thread that forks waits for this child alone.
        unsafe { *self.child.1.get() = Some(child) };
        self.child.0.store(true, Ordering::Release);
    }

    /// Sends signals to handlers, and stops them, at the end for good.
    fn disturb(&self, random: &mut Random) {
        while self.handlers.load(Ordering::Acquire) != 0 {
            let _ = time::sleep(Duration::from_micros(random.below(500) as u64));
            let tid = self.tids.get(random.below(HANDLERS));
            let tid = tid.map_or(0, |tid| tid.load(Ordering::Relaxed));
            match random.below(4) {
                0 => self.in_time(DISTURBER, || self.pager.stop(1)),
                1 => self.in_time(DISTURBER, || self.pager.stop(2)),
                _ if tid != 0 => {
                    // It may have ended.
                    let _ = process::kill_thread(process::pid(), tid, Signal::Usr1);
                }
                _ => {}
            }
        }
    }

    /// A thread has waited for too long: does it wait for ever?
    fn give_up(&self, number: usize, wait: &AtomicU32) -> ! {
        self.is_wrong("a thread waits", (number, self.pager.counts()));
        let begun = self.done.load(Ordering::Relaxed);
        let _ = time::sleep(Duration::from_secs(5));
        let goes_on = wait.load(Ordering::Relaxed) <= 1;
        let done = self.done.load(Ordering::Relaxed) - begun;
        self.is_wrong("has it gone on, and what was done", (goes_on, done));
        process::exit(1)
    }

    /// Ends the round when it is time, and the process when somebody waits for too long.
    fn watch(&self) {
        let start = time::monotonic().unwrap_or_default();
        while self.handlers.load(Ordering::Acquire) != 0 || self.users.load(Ordering::Acquire) != 0
        {
            let _ = time::sleep(Duration::from_millis(10));
            let now = time::monotonic().unwrap_or_default();
            // On a slow machine it may take longer until anything is done.
            let length = match self.done.load(Ordering::Relaxed) {
                0 => self.round.length.saturating_mul(self.round.patience),
                _ => self.round.length,
            };
            if now.saturating_sub(start) >= length {
                self.end.store(true, Ordering::Relaxed);
            }
            for (number, wait) in self.waits.iter().enumerate() {
                let looks = wait.load(Ordering::Relaxed);
                if looks > self.round.patience.saturating_mul(LOOKS_A_SECOND) {
                    self.give_up(number, wait);
                }
                // Unless it has gone on meanwhile.
                let _ = wait.compare_exchange(
                    looks.max(1),
                    looks + 1,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
        }
    }
}
