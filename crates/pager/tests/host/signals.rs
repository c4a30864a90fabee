//! Faults as signals.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tablewalk_pager::{Delivery, Policy, Refusal};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::process::{self, Status};
use tablewalk_uapi::signal::{Action, AlternateStack, Signal, replace_action};

use crate::scene::{Numbers, alone, end_with, in_time, pager, word, write_number};

/// The handler of SIGBUS and the alternate stack of this thread, as addresses.
fn state() -> (String, Option<(*mut u8, u64)>) {
    let action = Action::current(Signal::Bus).unwrap();
    (
        format!("{action:?}"),
        AlternateStack::current().unwrap().bytes(),
    )
}

#[test]
fn what_was_there_before_is_there_afterwards() {
    let _alone = alone();
    let pager = pager(8, Delivery::Signals, Numbers);
    // A thread of the library has an alternate stack, and the process a handler of SIGBUS.
    thread::spawn(move || {
        let before = state();
        assert!(before.1.is_some());
        let mut worker = pager.worker().unwrap();
        let sum = worker.resolve_own(|| (0..4).map(|page| word(&pager, page)).sum::<u64>());
        assert_eq!(sum, Ok(10));
        assert_eq!(state(), before);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            worker.resolve_own(|| panic!("on purpose: {}", word(&pager, 5)))
        }));
        assert!(panicked.is_err());
        assert_eq!(state(), before);
        assert_eq!(worker.resolve_own(|| word(&pager, 6)), Ok(7));
    })
    .join()
    .unwrap();
}

#[test]
fn workers_are_nested() {
    let _alone = alone();
    let (outer, inner) = (
        pager(4, Delivery::Signals, Numbers),
        pager(4, Delivery::Signals, Numbers),
    );
    let mut first = outer.worker().unwrap();
    let mut second = inner.worker().unwrap();
    let found = first.resolve_own(|| {
        let before = word(&outer, 0);
        let inside = second.resolve_own(|| (word(&inner, 1), word(&outer, 2)));
        (before, inside, word(&outer, 3))
    });
    assert_eq!(found, Ok((1, Ok((2, 3)), 4)));
}

#[test]
fn threads_come_and_go_beside_each_other() {
    let _alone = alone();
    let pager = pager(64, Delivery::Signals, Numbers);
    thread::scope(|scope| {
        for number in 0..4 {
            let pager = &pager;
            scope.spawn(move || {
                for page in (number..64).step_by(4) {
                    let mut worker = pager.worker().unwrap();
                    assert_eq!(
                        worker.resolve_own(|| word(pager, page)),
                        Ok(page as u64 + 1)
                    );
                }
            });
        }
    });
}

static PASSED_ON: AtomicUsize = AtomicUsize::new(0);

extern "C" fn note(_: i32, _: *mut tablewalk_uapi::signal::siginfo_t, _: *mut c_void) {
    PASSED_ON.fetch_add(1, Ordering::Relaxed);
}

/// The handler of SIGBUS that was there before, and is again when this is dropped.
struct Before(Action);

impl Before {
    /// Has signals counted that are passed on.
    fn note() -> Self {
        // SAFETY: the handler counts.
        Self(unsafe { replace_action(Signal::Bus, &Action::apart(note)) }.unwrap())
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        // SAFETY: as it was.
        unsafe { replace_action(Signal::Bus, &self.0) }.unwrap();
    }
}

#[test]
fn a_signal_that_is_not_ours_is_passed_on() {
    let _alone = alone();
    let pager = pager(4, Delivery::Signals, Numbers);
    let _before = Before::note();
    let mut worker = pager.worker().unwrap();
    let start = PASSED_ON.load(Ordering::Relaxed);
    let found = worker.resolve_own(|| {
        process::kill_thread(process::pid(), process::tid(), Signal::Bus).unwrap();
        word(&pager, 1)
    });
    assert_eq!(found, Ok(2));
    assert_eq!(PASSED_ON.load(Ordering::Relaxed), start + 1);
    assert!(Action::current(Signal::Bus).unwrap().is(note));
    process::kill_thread(process::pid(), process::tid(), Signal::Bus).unwrap();
    assert_eq!(PASSED_ON.load(Ordering::Relaxed), start + 2);
}

unsafe extern "C" {
    fn syscall(number: i64, ...) -> i64;
}

/// Has the kernel send this thread a signal as if an access had failed.
pub(crate) fn raise(code: i32, address: u64) {
    let number = if cfg!(target_arch = "x86_64") {
        297
    } else {
        240
    };
    let mut info = [0_u64; 16];
    info[0] = 7;
    info[1] = u64::from(code.cast_unsigned());
    info[2] = address;
    let (pid, tid) = (process::pid(), process::tid());
    // SAFETY: rt_tgsigqueueinfo(2) reads a siginfo_t.
    let sent = unsafe { syscall(number, pid, tid, 7, info.as_ptr()) };
    assert_eq!(sent, 0);
}

/// BUS_ADRERR, BUS_MCEERR_AR, BUS_MCEERR_AO.
const NO_PAGE: i32 = 2;
const DAMAGED: i32 = 4;
const DAMAGED_SOMEWHERE: i32 = 5;

#[test]
fn a_page_that_is_there_and_cannot_be_read_is_passed_on() {
    let _alone = alone();
    let pager = pager(4, Delivery::Signals, Numbers);
    let _before = Before::note();
    let passed = || PASSED_ON.load(Ordering::Relaxed);
    let mut worker = pager.worker().unwrap();
    let start = passed();
    let counted = worker.resolve_own(|| {
        word(&pager, 1);
        let page = pager.address() + pager.page_size() as u64;
        raise(DAMAGED, page);
        let damaged = passed() - start;
        // Another thread may be faster now and then, but not for ever.
        raise(NO_PAGE, page);
        let faster = passed() - start - damaged;
        let place = pager.page_size()..2 * pager.page_size();
        pager.protect(place, Protection::NONE).unwrap();
        for _ in 0..200 {
            raise(NO_PAGE, page + 8);
        }
        (damaged, faster, passed() - start > damaged, word(&pager, 2))
    });
    assert_eq!(counted, Ok((1, 0, true, 3)));
}

#[test]
fn a_page_that_can_be_read_is_never_given_up() {
    let _alone = alone();
    let pager = pager(4, Delivery::Signals, Numbers);
    let _before = Before::note();
    let mut worker = pager.worker().unwrap();
    let start = PASSED_ON.load(Ordering::Relaxed);
    let found = worker.resolve_own(|| {
        word(&pager, 1);
        // As if another thread had been faster each time.
        for _ in 0..500 {
            raise(NO_PAGE, pager.address() + pager.page_size() as u64);
        }
        word(&pager, 1)
    });
    assert_eq!(found, Ok(2));
    assert_eq!(PASSED_ON.load(Ordering::Relaxed), start);
}

/// Has no page 1.
struct Refuses;

impl Policy for Refuses {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        if page == 1 {
            return Err(Refusal::Never);
        }
        Ok(write_number(page, bytes))
    }
}

/// How a child that does this ends.
pub(crate) fn child(body: impl FnOnce() -> bool) -> Status {
    // SAFETY: the child does nothing that needs another thread.
    match unsafe { process::fork() }.unwrap() {
        None => end_with(body),
        Some(pid) => in_time("the end of a child", move || process::wait(pid).unwrap().1),
    }
}

#[test]
fn a_refused_page_ends_the_process() {
    let _alone = alone();
    let status = child(|| {
        let pager = pager(4, Delivery::Signals, Refuses);
        let mut worker = pager.worker().unwrap();
        worker.resolve_own(|| word(&pager, 0) + word(&pager, 1)) == Ok(0)
    });
    assert_eq!(status, Status::Killed(7));
}

#[test]
fn a_signal_that_is_sent_ends_the_process_as_before() {
    let _alone = alone();
    let status = child(|| {
        let pager = pager(4, Delivery::Signals, Numbers);
        let mut worker = pager.worker().unwrap();
        // SAFETY: no handler.
        unsafe { replace_action(Signal::Bus, &Action::DEFAULT) }.unwrap();
        let sent = worker
            .resolve_own(|| process::kill_thread(process::pid(), process::tid(), Signal::Bus));
        sent.is_err()
    });
    assert_eq!(status, Status::Killed(7));
}

#[test]
fn damaged_memory_that_nobody_touches_ends_the_process_as_before() {
    let _alone = alone();
    let status = child(|| {
        let pager = pager(4, Delivery::Signals, Numbers);
        let mut worker = pager.worker().unwrap();
        // SAFETY: no handler.
        unsafe { replace_action(Signal::Bus, &Action::DEFAULT) }.unwrap();
        worker.resolve_own(|| raise(DAMAGED_SOMEWHERE, 0)).is_err()
    });
    assert_eq!(status, Status::Killed(7));
}

#[test]
fn a_child_has_no_page_of_a_region_whose_faults_are_signals() {
    let _alone = alone();
    let pager = pager(8, Delivery::Signals, Numbers);
    let mut worker = pager.worker().unwrap();
    let ended = worker.resolve_own(|| {
        assert_eq!(word(&pager, 1), 2);
        [1, 3].map(|page| child(|| word(&pager, page) == 0))
    });
    // SIGSEGV, and not zeros.
    assert_eq!(ended, Ok([Status::Killed(11); 2]));
}

unsafe extern "C" {
    fn mmap(
        place: *mut c_void,
        size: usize,
        access: i32,
        flags: i32,
        fd: i32,
        at: i64,
    ) -> *mut c_void;
    fn memfd_create(name: *const std::ffi::c_char, flags: u32) -> i32;
}

/// PROT_READ, MAP_SHARED | MAP_FIXED.
const READ: i32 = 1;
const THERE: i32 = 0x11;

/// Has other numbers in a child.
#[derive(Default)]
struct Differs(AtomicUsize);

impl Policy for Differs {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        Ok(write_number(page + self.0.load(Ordering::Relaxed), bytes))
    }
}

/// It may have a file where its parent has the region, and touch it behind its end.
#[test]
fn a_child_resolves_no_fault_of_its_parent() {
    let _alone = alone();
    let pager = pager(8, Delivery::Signals, Differs::default());
    let mut worker = pager.worker().unwrap();
    let found = worker.resolve_own(|| {
        let ended = child(|| {
            pager.policy().0.store(100, Ordering::Relaxed);
            let place = pager.as_ptr().cast();
            // SAFETY: the child has nothing there.
            let file = unsafe {
                let file = memfd_create(c"empty".as_ptr(), 0);
                mmap(place, pager.size(), READ, THERE, file, 0)
            };
            file == place && word(&pager, 3) == 0
        });
        (ended, word(&pager, 3))
    });
    assert_eq!(found, Ok((Status::Killed(7), 4)));
}

static PLACE: AtomicUsize = AtomicUsize::new(0);
static FOUND: AtomicUsize = AtomicUsize::new(0);

extern "C" fn look(_: i32, _: *mut tablewalk_uapi::signal::siginfo_t, _: *mut c_void) {
    let found = crate::scene::word_at(PLACE.load(Ordering::Relaxed));
    FOUND.store(usize::try_from(found).unwrap_or(0), Ordering::Relaxed);
}

/// Gets a signal at page 1.
struct Interrupted;

impl Policy for Interrupted {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        if page == 1 {
            process::kill_thread(process::pid(), process::tid(), Signal::Usr1).unwrap();
        }
        Ok(write_number(page, bytes))
    }
}

#[test]
fn a_signal_handler_may_touch_the_region_while_a_page_is_made() {
    let _alone = alone();
    let status = child(|| {
        let pager = pager(4, Delivery::Signals, Interrupted);
        let place = pager.as_ptr().wrapping_add(2 * pager.page_size());
        PLACE.store(place.expose_provenance(), Ordering::Relaxed);
        // SAFETY: the handler reads a page of the region.
        unsafe { tablewalk_uapi::signal::handle(Signal::Usr1, look) }.unwrap();
        let mut worker = pager.worker().unwrap();
        worker.resolve_own(|| word(&pager, 1)) == Ok(2) && FOUND.load(Ordering::Relaxed) == 3
    });
    assert_eq!(status, Status::Exited(0));
}
