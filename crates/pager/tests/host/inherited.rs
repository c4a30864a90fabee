//! The SIGBUS handler of a process, and what a forked child has of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use tablewalk_pager::{Delivery, Pager, PagerError};
use tablewalk_uapi::process::{self, Status};
use tablewalk_uapi::signal::{Action, Signal};

use crate::scene::{Numbers, alone, end_with, handle_children, in_time, pager, read, stop, word};
use crate::signals::{child, raise};

/// The action of the process for SIGBUS.
fn action() -> String {
    format!("{:?}", Action::current(Signal::Bus).unwrap())
}

/// Calls `body` while another thread is in `resolve_own`.
fn beside_another<R>(pager: &Pager<Numbers>, body: impl FnOnce() -> R) -> R {
    let (inside, end) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut worker = pager.worker().unwrap();
            let done = worker.resolve_own(|| {
                inside.wait();
                end.wait();
            });
            done.unwrap();
        });
        inside.wait();
        let result = body();
        end.wait();
        result
    })
}

fn end_of(pid: i32) -> Status {
    in_time("the end of a child", move || process::wait(pid).unwrap().1)
}

#[test]
fn a_child_has_the_handler_from_before_when_it_leaves() {
    let _alone = alone();
    let before = action();
    let pager = pager(4, Delivery::Signals, Numbers);
    let pid = beside_another(&pager, || {
        let mut worker = pager.worker().unwrap();
        // SAFETY: the child does nothing that needs another thread.
        let forked = worker.resolve_own(|| unsafe { process::fork() }.unwrap());
        match forked.unwrap() {
            Some(pid) => pid,
            None => end_with(|| action() == before),
        }
    });
    assert_eq!(end_of(pid), Status::Exited(0));
    assert_eq!(action(), before);
}

#[test]
fn a_child_with_its_own_pager_has_the_handler_from_before_afterwards() {
    let _alone = alone();
    let before = action();
    let outer = pager(4, Delivery::Signals, Numbers);
    let status = beside_another(&outer, || {
        child(|| {
            let pager = pager(4, Delivery::Signals, Numbers);
            let mut worker = pager.worker().unwrap();
            worker.resolve_own(|| word(&pager, 1)) == Ok(2) && action() == before
        })
    });
    assert_eq!(status, Status::Exited(0));
}

#[test]
fn a_thread_that_was_forked_takes_the_handler_from_no_other() {
    let _alone = alone();
    let outer = pager(4, Delivery::Signals, Numbers);
    let mut first = outer.worker().unwrap();
    let forked = first.resolve_own(|| {
        // SAFETY: what the child needs of other threads it has not used before.
        let forked = unsafe { process::fork() }.unwrap();
        forked.ok_or_else(|| {
            let (inside, wait) = mpsc::channel();
            let (goes_on, end) = mpsc::channel();
            let thread = thread::spawn(move || {
                let pager = pager(4, Delivery::Signals, Numbers);
                let mut worker = pager.worker().unwrap();
                worker.resolve_own(|| {
                    inside.send(()).unwrap();
                    end.recv().unwrap();
                    word(&pager, 1)
                })
            });
            wait.recv().unwrap();
            (goes_on, thread)
        })
    });
    match forked.unwrap() {
        Ok(pid) => assert_eq!(end_of(pid), Status::Exited(0)),
        Err((goes_on, thread)) => end_with(|| {
            goes_on.send(()).unwrap();
            thread.join().unwrap() == Ok(2)
        }),
    }
}

/// Its own pager does not make it the process that has the inherited one.
#[test]
fn a_child_with_its_own_pager_leaves_that_of_the_parent_alone() {
    let _alone = alone();
    let inherited = pager(4, Delivery::Threads, Numbers);
    let (handler, children) = handle_children(&inherited);
    let shared = Arc::clone(&inherited);
    let pid = in_time("fork", move || {
        crate::events::fork(|| {
            let own = pager(4, Delivery::Signals, Numbers);
            let refused = shared.take_back(0..4) == Err(PagerError::Forked);
            // SAFETY: a copy of the parent's pager, which nobody in the child uses any more.
            unsafe { Arc::as_ptr(&shared).cast_mut().drop_in_place() };
            let mut worker = own.worker().unwrap();
            refused && worker.resolve_own(|| word(&own, 1)) == Ok(2)
        })
    });
    drop(children.recv().unwrap());
    assert_eq!(end_of(pid), Status::Exited(0));
    assert_eq!(read(&inherited, 2), 3);
    stop(&inherited, vec![handler]);
}

unsafe extern "C" {
    fn signal(signal: i32, handler: usize) -> usize;
    /// With `SA_RESETHAND`.
    fn sysv_signal(signal: i32, handler: usize) -> usize;
    fn unshare(flags: i32) -> i32;
}

const DEFAULT: usize = 0;
const IGNORED: usize = 1;

/// BUS_ADRERR, BUS_MCEERR_AO.
const NO_PAGE: i32 = 2;
const DAMAGED_SOMEWHERE: i32 = 5;

/// How a process ends that gets a signal, which `body` sends, in `resolve_own`; the access that has caused it
/// succeeds when it is repeated.
fn end_after(before: usize, send: impl FnOnce()) -> Status {
    child(|| {
        // SAFETY: no handler.
        unsafe { signal(7, before) };
        let pager = pager(4, Delivery::Signals, Numbers);
        let mut worker = pager.worker().unwrap();
        worker.resolve_own(|| {
            send();
            word(&pager, 1)
        }) == Ok(2)
    })
}

#[test]
fn an_access_that_fails_ends_the_process_also_if_it_would_succeed_now() {
    let _alone = alone();
    for before in [DEFAULT, IGNORED] {
        let status = end_after(before, || {
            raise(NO_PAGE, 0x1000);
            process::exit(3);
        });
        assert_eq!(status, Status::Killed(7), "{before}");
    }
}

#[test]
fn what_is_ignored_and_caused_by_no_access_changes_nothing() {
    let _alone = alone();
    let sent = || process::kill_thread(process::pid(), process::tid(), Signal::Bus).unwrap();
    assert_eq!(end_after(IGNORED, sent), Status::Exited(0));
    let reported = || raise(DAMAGED_SOMEWHERE, 0x1000);
    assert_eq!(end_after(IGNORED, reported), Status::Exited(0));
}

/// Gets a signal that was sent, as the first process of a namespace.
fn goes_on() -> bool {
    // SAFETY: no handler.
    unsafe { signal(7, DEFAULT) };
    let pager = pager(4, Delivery::Signals, Numbers);
    let mut worker = pager.worker().unwrap();
    let found = worker.resolve_own(|| {
        process::kill_thread(process::pid(), process::tid(), Signal::Bus).unwrap();
        word(&pager, 1)
    });
    process::pid() == 1 && found == Ok(2)
}

/// The default action does not end it, and must not cost it the handler.
#[test]
fn the_first_process_of_a_namespace_goes_on_after_a_signal_that_is_sent() {
    let _alone = alone();
    let status = child(|| {
        // SAFETY: CLONE_NEWPID, for the next child.
        assert_eq!(unsafe { unshare(0x2000_0000) }, 0);
        // Without a thread, which this process cannot start any more.
        // SAFETY: the child does nothing that needs another thread.
        let inner = unsafe { process::fork() }.unwrap();
        let Some(pid) = inner else { end_with(goes_on) };
        process::wait(pid).unwrap().1 == Status::Exited(0)
    });
    assert_eq!(status, Status::Exited(0));
}

static SEEN: AtomicUsize = AtomicUsize::new(0);

extern "C" fn see(_: i32) {
    SEEN.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_handler_that_was_there_for_one_signal_gets_one() {
    let _alone = alone();
    let status = child(|| {
        // SAFETY: the handler counts.
        unsafe { sysv_signal(7, see as *const () as usize) };
        let pager = pager(4, Delivery::Signals, Numbers);
        let mut worker = pager.worker().unwrap();
        let found = worker.resolve_own(|| {
            raise(NO_PAGE, 0x1000);
            word(&pager, 1)
        });
        assert_eq!((found, SEEN.load(Ordering::Relaxed)), (Ok(2), 1));
        let _unreached = worker.resolve_own(|| raise(NO_PAGE, 0x1000));
        false
    });
    assert_eq!(status, Status::Killed(7));
}
