//! Handlers as they are, with a model of the kernel's part: who touches a page that is missing goes on, and
//! as many handlers end as were told to.

use std::vec::Vec;

use loom::sync::Arc;
use loom::thread;
use tablewalk_uapi::Errno;

use super::check_with;
use crate::events::{fail_next, touch};
use crate::{Delivery, Options, Pager, PagerError, Policy};

/// These models have many steps.
const PREEMPTIONS: usize = 2;

struct Zeros;

impl Policy for Zeros {
    fn waits(&self) -> bool {
        false
    }

    fn zeros(&self) -> bool {
        true
    }
}

fn pager() -> Arc<Pager<Zeros>> {
    let options = Options {
        pages: 2,
        frames: 2,
        low_water: 0,
        locked: false,
        delivery: Delivery::Threads,
    };
    Arc::new(Pager::new(options, Zeros).expect("a pager"))
}

type Handler = thread::JoinHandle<Result<(), PagerError>>;

fn handlers(pager: &Arc<Pager<Zeros>>, count: usize) -> Vec<Handler> {
    let spawn = |_| {
        let pager = pager.clone();
        thread::spawn(move || {
            let mut worker = pager.worker().expect("a worker");
            worker.handle(&mut |_| {})
        })
    };
    (0..count).map(spawn).collect()
}

fn touch_page(pager: &Pager<Zeros>, page: usize) {
    touch(pager.address() + (page * pager.page_size()) as u64);
}

fn join(handlers: Vec<Handler>) -> Vec<Result<(), PagerError>> {
    let join = |handler: Handler| handler.join().expect("a handler");
    handlers.into_iter().map(join).collect()
}

/// Each reads the fault of one thread, or one reads both. With two preemptions there are 43,132 orders.
#[test]
fn two_handlers_and_a_page_that_two_threads_touch() {
    check_with(1, || {
        let pager = pager();
        let handlers = handlers(&pager, 2);
        let other = {
            let pager = pager.clone();
            thread::spawn(move || touch_page(&pager, 0))
        };
        touch_page(&pager, 0);
        other.join().expect("a thread");
        pager.stop(2);
        assert_eq!(join(handlers), [Ok(()), Ok(())]);
    });
}

/// The access is made again when the handler has woken it, and then there is a page.
#[test]
fn a_page_that_the_kernel_does_not_make_at_first() {
    check_with(PREEMPTIONS, || {
        let pager = pager();
        fail_next(Errno::ENOENT);
        let handlers = handlers(&pager, 1);
        touch_page(&pager, 0);
        pager.stop(1);
        assert_eq!(join(handlers), [Ok(())]);
    });
}

/// The first one that is stopped leaves the other one to its work.
#[test]
fn two_handlers_that_are_stopped_one_by_one() {
    check_with(PREEMPTIONS, || {
        let pager = pager();
        let handlers = handlers(&pager, 2);
        pager.stop(1);
        touch_page(&pager, 0);
        pager.stop(1);
        assert_eq!(join(handlers), [Ok(()), Ok(())]);
    });
}

/// The fault that it has read is resolved by the other one.
#[test]
fn a_handler_that_fails_beside_another() {
    check_with(PREEMPTIONS, || {
        let pager = pager();
        fail_next(Errno::ENOMEM);
        let handlers = handlers(&pager, 2);
        touch_page(&pager, 0);
        // One has failed, and nobody is left to end in its place.
        pager.stop(1);
        let mut results = join(handlers);
        results.sort_by_key(Result::is_ok);
        let failed = Err(PagerError::Call("UFFDIO_COPY", Errno::ENOMEM));
        assert_eq!(results, [failed, Ok(())]);
    });
}
