//! The SIGBUS handler of a process, and what a forked child has of it.

use std::sync::{Barrier, mpsc};
use std::thread;

use tablewalk_pager::{Delivery, Pager};
use tablewalk_uapi::process::{self, Status};
use tablewalk_uapi::signal::{Action, Signal};

use crate::scene::{Numbers, alone, in_time, pager, word};
use crate::signals::child;

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
            None => process::exit(i32::from(action() != before)),
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
        Err((goes_on, thread)) => {
            goes_on.send(()).unwrap();
            process::exit(i32::from(thread.join().unwrap() != Ok(2)))
        }
    }
}
