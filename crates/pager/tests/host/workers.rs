//! Handlers that are stopped, interrupted, and give up.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tablewalk_pager::{Delivery, Policy, Refusal};
use tablewalk_uapi::memory::{self, Advice, Protection};
use tablewalk_uapi::process;
use tablewalk_uapi::signal::Signal;

use crate::scene::{Numbers, alone, handle, in_time, pager, read, stop, write_number};

/// Panics the first time that page 3 is filled.
struct Panics(AtomicBool);

impl Policy for Panics {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        assert!(
            page != 3 || self.0.swap(true, Ordering::Relaxed),
            "on purpose"
        );
        Ok(write_number(page, bytes))
    }
}

#[test]
fn faults_of_a_worker_that_panics_go_to_another() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Panics(AtomicBool::new(false)));
    let handlers = [handle(&pager), handle(&pager)];
    assert_eq!(read(&pager, 3), 4);
    pager.stop(1);
    let ended = handlers.map(|handler| in_time("join", || handler.join()));
    assert_eq!(ended.iter().filter(|ended| ended.is_err()).count(), 1);
}

#[test]
fn faults_of_a_worker_that_panics_wait_for_the_next_one() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Panics(AtomicBool::new(false)));
    let first = handle(&pager);
    let readers: Vec<_> = (0..8)
        .map(|page| {
            let pager = Arc::clone(&pager);
            thread::spawn(move || crate::scene::word(&pager, page))
        })
        .collect();
    assert!(in_time("the panic", || first.join()).is_err());
    let second = handle(&pager);
    for (page, reader) in readers.into_iter().enumerate() {
        let found = in_time("a read", || reader.join().unwrap());
        assert_eq!(found, page as u64 + 1);
    }
    stop(&pager, vec![second]);
}

unsafe extern "C" {
    fn signal(signal: i32, handler: usize) -> usize;
    fn siginterrupt(signal: i32, flag: i32) -> i32;
}

extern "C" fn nothing(_: i32) {}

#[test]
fn a_signal_does_not_end_a_handler() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Numbers);
    // SAFETY: the handler does nothing.
    unsafe {
        signal(10, nothing as *const () as usize);
        siginterrupt(10, 1);
    }
    let (sender, tid) = mpsc::channel();
    let shared = Arc::clone(&pager);
    let handler = thread::spawn(move || {
        sender.send(process::tid()).unwrap();
        shared.worker()?.handle(&mut drop)
    });
    let tid = tid.recv().unwrap();
    for page in 0..8 {
        assert_eq!(read(&pager, page), page as u64 + 1);
        for _ in 0..50 {
            process::kill_thread(process::pid(), tid, Signal::Usr1).unwrap();
            thread::yield_now();
        }
    }
    stop(&pager, vec![handler]);
}

/// As [`Numbers`], and hears of discards.
struct Listens;

impl Policy for Listens {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        Ok(write_number(page, bytes))
    }

    fn hears_of_discards(&self) -> bool {
        true
    }
}

#[test]
fn a_handler_is_stopped_beside_advice() {
    stop_beside_advice(Numbers, Duration::ZERO);
}

#[test]
fn a_handler_is_stopped_beside_advice_that_it_hears_of() {
    // The kernel refuses pages from `madvise` until its event was read: without a pause that is always.
    stop_beside_advice(Listens, Duration::from_micros(100));
}

fn stop_beside_advice<P: Policy + Send + 'static>(policy: P, pause: Duration) {
    let _alone = alone();
    let pager = pager(64, Delivery::Threads, policy);
    let end = Arc::new(AtomicBool::new(false));
    let always = handle(&pager);
    let adviser = thread::spawn({
        let (pager, end) = (Arc::clone(&pager), Arc::clone(&end));
        move || {
            while !end.load(Ordering::Relaxed) {
                // SAFETY: the contents come again.
                unsafe { memory::madvise(pager.as_ptr().cast(), pager.size(), Advice::DontNeed) }
                    .unwrap();
                thread::sleep(pause);
            }
        }
    });
    let mut handlers = vec![always];
    for _ in 0..100 {
        handlers.push(handle(&pager));
        let one = Arc::clone(&pager);
        in_time("stop", move || one.stop(1));
        assert_eq!(read(&pager, 7), 8);
        // Whichever of the two it was.
        let ended = loop {
            if let Some(ended) = handlers.iter().position(thread::JoinHandle::is_finished) {
                break ended;
            }
            thread::yield_now();
        };
        let handler = handlers.swap_remove(ended);
        handler.join().unwrap().unwrap();
    }
    end.store(true, Ordering::Relaxed);
    in_time("madvise", move || adviser.join().unwrap());
    stop(&pager, handlers);
}

#[test]
fn many_are_stopped_at_once_and_for_ever() {
    let _alone = alone();
    let pager = pager(4, Delivery::Threads, Numbers);
    for round in 0..100 {
        let handlers = [handle(&pager), handle(&pager)];
        assert_eq!(read(&pager, round % 4), round as u64 % 4 + 1);
        let shared = Arc::clone(&pager);
        in_time("two stops", move || {
            thread::scope(|scope| {
                scope.spawn(|| shared.stop(1));
                scope.spawn(|| shared.stop(1));
            });
        });
        for handler in handlers {
            in_time("join", || handler.join().unwrap().unwrap());
        }
    }
}

#[test]
fn a_range_that_wraps_is_refused() {
    let _alone = alone();
    let pager = pager(4, Delivery::Threads, Numbers);
    let page = pager.page_size();
    for range in [
        0_usize.wrapping_sub(page)..page,
        2 * page..page,
        0..5 * page,
    ] {
        assert!(pager.protect(range, Protection::NONE).is_err());
    }
    let handler = handle(&pager);
    assert_eq!(read(&pager, 1), 2);
    pager.protect(0..page, Protection::READ).unwrap();
    stop(&pager, vec![handler]);
}

/// Writes to page 0, and the first byte of page 2.
struct First(AtomicUsize);

impl Policy for First {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        self.0.fetch_add(1, Ordering::Relaxed);
        if page == 0 {
            bytes.fill(0xaa);
        }
        bytes[0] = 0xaa;
        Ok([bytes.len(), 0, 1, 0][page])
    }
}

#[test]
fn a_page_shows_nothing_of_another() {
    let _alone = alone();
    let pager = pager(4, Delivery::Threads, First(AtomicUsize::new(0)));
    let handler = handle(&pager);
    assert_eq!(read(&pager, 0), 0xaaaa_aaaa_aaaa_aaaa);
    assert_eq!(read(&pager, 1), 0);
    assert_eq!(read(&pager, 2).to_ne_bytes(), [0xaa, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(pager.policy().0.load(Ordering::Relaxed), 3);
    stop(&pager, vec![handler]);
}

/// Has page 1 the third time, and page 2 never.
struct Refuses(AtomicUsize);

impl Policy for Refuses {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        match page {
            1 if self.0.fetch_add(1, Ordering::Relaxed) < 2 => Err(Refusal::Again),
            2 => Err(Refusal::Never),
            _ => Ok(write_number(page, bytes)),
        }
    }
}

#[test]
fn a_page_that_is_refused_is_asked_for_again_or_ends_the_access() {
    let _alone = alone();
    let pager = pager(4, Delivery::Threads, Refuses(AtomicUsize::new(0)));
    let handler = handle(&pager);
    assert_eq!(read(&pager, 1), 2);
    assert_eq!(pager.policy().0.load(Ordering::Relaxed), 3);
    // A read by the kernel fails instead of being killed.
    let shared = Arc::clone(&pager);
    let written = in_time("write(2)", move || {
        let (_reader, writer) = tablewalk_uapi::file::pipe().unwrap();
        let page = shared.as_ptr().wrapping_add(2 * shared.page_size());
        // SAFETY: memory of the region; the kernel alone reads it.
        let bytes = unsafe { std::slice::from_raw_parts(page, 8) };
        tablewalk_uapi::file::write(&writer, bytes)
    });
    assert_eq!(written, Err(tablewalk_uapi::Errno::EFAULT));
    assert_eq!(read(&pager, 3), 4);
    stop(&pager, vec![handler]);
}
