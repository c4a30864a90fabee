//! What is done to the region while its pages are missing.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use tablewalk_pager::{Child, Delivery, Pager, PagerError, Policy, Refusal};
use tablewalk_uapi::file::OwnedFd;
use tablewalk_uapi::memory::{self, Advice, Protection};
use tablewalk_uapi::{Errno, Mapping, process};

use crate::scene::{
    Handler, Numbers, alone, end_with, handle, handle_children, in_time, pager, read, stop, word,
    word_at, write_number,
};

/// A fork in a process with many threads: the child does nothing but `body`.
pub(crate) fn fork(body: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child does nothing that needs another thread.
    match unsafe { process::fork() }.unwrap() {
        Some(pid) => pid,
        None => end_with(body),
    }
}

pub(crate) fn ended_well(pid: i32) {
    let status = in_time("the end of a child", move || process::wait(pid).unwrap().1);
    assert_eq!(status, process::Status::Exited(0));
}

/// A pager, its handler, and the children of the process.
fn parent(pages: usize) -> (Arc<Pager<Numbers>>, Handler, mpsc::Receiver<Child>) {
    let pager = pager(pages, Delivery::Threads, Numbers);
    let (handler, children) = handle_children(&pager);
    (pager, handler, children)
}

/// Serves the child until it has ended, in time.
pub(crate) fn serve<P: Policy + Send + 'static>(pager: &Arc<Pager<P>>, child: Child, pid: i32) {
    let pager = Arc::clone(pager);
    in_time("serve_child", move || {
        let ended = process::pidfd_open(pid).unwrap();
        pager.serve_child(&child, &ended).unwrap();
    });
    ended_well(pid);
}

#[test]
fn a_child_is_served_until_it_has_ended() {
    let _alone = alone();
    let (pager, handler, children) = parent(8);
    let shared = Arc::clone(&pager);
    let pid = in_time("fork", move || fork(|| word(&shared, 3) == 4));
    serve(&pager, children.recv().unwrap(), pid);
    stop(&pager, vec![handler]);
}

#[test]
fn a_child_is_not_served_until_the_end_of_nobody() {
    let _alone = alone();
    let (pager, handler, children) = parent(8);
    let pid = in_time("fork", || fork(|| true));
    let child = children.recv().unwrap();
    // SAFETY: nobody has so many open.
    let ended = unsafe { OwnedFd::from_number(1_000_000) };
    let served = pager.serve_child(&child, &ended);
    std::mem::forget(ended);
    assert_eq!(served, Err(PagerError::Call("ppoll", Errno::ENODEV)));
    ended_well(pid);
    stop(&pager, vec![handler]);
}

#[test]
fn a_child_is_served_beside_advice() {
    let _alone = alone();
    let (pager, handler, children) = parent(8);
    let shared = Arc::clone(&pager);
    let pid = in_time("fork", move || {
        fork(|| {
            (0..200).all(|round| {
                let first = shared.as_ptr().cast();
                // SAFETY: the contents come again.
                let done = unsafe { memory::madvise(first, shared.size(), Advice::DontNeed) };
                done.is_ok() && word(&shared, round % 8) == round as u64 % 8 + 1
            })
        })
    });
    serve(&pager, children.recv().unwrap(), pid);
    stop(&pager, vec![handler]);
}

#[test]
fn a_child_has_what_was_moved_before_it_came() {
    let _alone = alone();
    let (pager, handler, children) = parent(8);
    let page = pager.page_size();
    let to = move_pages(&pager, 2, 3, None);
    let shared = Arc::clone(&pager);
    let pid = in_time("fork", move || {
        fork(|| word_at(to + page) == 4 && word(&shared, 5) == 6)
    });
    serve(&pager, children.recv().unwrap(), pid);
    stop(&pager, vec![handler]);
}

#[test]
fn a_child_that_drops_its_pager_leaves_that_of_the_parent_alone() {
    let _alone = alone();
    let (pager, handler, children) = parent(4);
    let shared = Arc::clone(&pager);
    let pid = in_time("fork", move || {
        fork(|| {
            let inherited = Arc::as_ptr(&shared);
            // SAFETY: a copy of the parent's pager, which nobody in the child uses any more.
            unsafe { inherited.cast_mut().drop_in_place() };
            true
        })
    });
    drop(children.recv().unwrap());
    ended_well(pid);
    assert_eq!(read(&pager, 2), 3);
    stop(&pager, vec![handler]);
}

#[test]
fn nothing_is_resolved_by_a_child() {
    let _alone = alone();
    let (pager, handler, children) = parent(4);
    let shared = Arc::clone(&pager);
    let page = pager.page_size();
    let pid = in_time("fork", move || {
        let mut worker = shared.worker().unwrap();
        let pid = fork(|| {
            let refused = [
                worker.handle(&mut drop),
                worker.settle(),
                shared.worker().map(drop),
                shared.take_back(0..4).map(drop),
                shared.protect(0..page, Protection::NONE),
            ];
            refused
                .iter()
                .all(|result| *result == Err(PagerError::Forked))
        });
        drop(worker);
        pid
    });
    drop(children.recv().unwrap());
    ended_well(pid);
    stop(&pager, vec![handler]);
}

/// Moves pages of a region to `to`, or to a place of their own; where they are.
fn move_pages<P: Policy + Send + 'static>(
    pager: &Arc<Pager<P>>,
    first: usize,
    count: usize,
    to: Option<usize>,
) -> usize {
    let (page, start) = (pager.page_size(), pager.address());
    let from = usize::try_from(start).unwrap() + first * page;
    move_memory(from, count * page, to)
}

fn move_memory(from: usize, size: usize, to: Option<usize>) -> usize {
    let to = to.unwrap_or_else(|| {
        let place = Mapping::reserve(size, Protection::NONE).unwrap();
        let to = place.as_ptr().expose_provenance();
        std::mem::forget(place);
        to
    });
    let flags = memory::MREMAP_MAYMOVE | memory::MREMAP_FIXED;
    in_time("mremap", move || {
        let [from, to] = [from, to].map(ptr::with_exposed_provenance_mut);
        // SAFETY: the pages are looked for where they are then.
        let moved = unsafe { memory::mremap(from, size, size, flags, to) };
        moved.unwrap();
    });
    to
}

#[test]
fn contents_follow_a_part_that_is_moved() {
    let _alone = alone();
    let pager = pager(16, Delivery::Threads, Numbers);
    let handlers = vec![handle(&pager), handle(&pager)];
    let page = pager.page_size();
    assert_eq!(read(&pager, 5), 6);
    let to = move_pages(&pager, 4, 4, None);
    for number in 4..8 {
        let found = in_time("a read", move || word_at(to + (number - 4) * page));
        assert_eq!(found, number as u64 + 1, "page {number}");
    }
    // Page 9 to where page 4 was, and page 6 to where page 9 was.
    let start = usize::try_from(pager.address()).unwrap();
    let place = move |number: usize| start + number * page;
    move_pages(&pager, 9, 1, Some(place(4)));
    move_memory(to + 2 * page, page, Some(place(9)));
    let expected = [1, 2, 3, 4, 10];
    for (number, expected) in expected.into_iter().enumerate() {
        assert_eq!(read(&pager, number), expected);
    }
    assert_eq!(read(&pager, 9), 7);
    for number in (8..16).filter(|&number| number != 9) {
        assert_eq!(read(&pager, number), number as u64 + 1);
    }
    stop(&pager, handlers);
    assert!(pager.protect(3 * page..6 * page, Protection::READ).is_err());
    assert!(
        pager
            .protect(10 * page..11 * page, Protection::READ)
            .is_ok()
    );
}

#[test]
fn contents_follow_while_others_fault() {
    let _alone = alone();
    let pager = pager(64, Delivery::Threads, Numbers);
    let handlers = vec![handle(&pager), handle(&pager)];
    let page = pager.page_size();
    let size = 32 * page;
    let mut at = move_pages(&pager, 0, 32, None);
    for round in 0..100 {
        let reader = {
            let pager = Arc::clone(&pager);
            thread::spawn(move || (32..64).all(|number| word(&pager, number) == number as u64 + 1))
        };
        at = move_memory(at, size, None);
        let number = round % 32;
        let found = in_time("a read", move || word_at(at + number * page));
        assert_eq!(found, number as u64 + 1);
        assert!(in_time("reads", || reader.join().unwrap()));
        // SAFETY: the contents come again.
        unsafe {
            memory::madvise(
                pager.as_ptr().wrapping_add(size).cast(),
                size,
                Advice::DontNeed,
            )
        }
        .unwrap();
        // SAFETY: as above.
        unsafe { memory::madvise(ptr::with_exposed_provenance_mut(at), size, Advice::DontNeed) }
            .unwrap();
    }
    stop(&pager, handlers);
}

#[test]
fn what_mremap_adds_is_zeros() {
    let _alone = alone();
    let pager = pager(4, Delivery::Threads, Numbers);
    let handlers = vec![handle(&pager)];
    let page = pager.page_size();
    let start = pager.as_ptr().cast();
    let size = pager.size();
    let place = Mapping::reserve(2 * size, Protection::NONE).unwrap();
    let target = place.as_ptr().expose_provenance();
    std::mem::forget(place);
    let flags = memory::MREMAP_MAYMOVE | memory::MREMAP_FIXED;
    let start = pager_address(start);
    in_time("mremap", move || {
        let [from, to] = [start, target].map(ptr::with_exposed_provenance_mut);
        // SAFETY: the pages are looked for where they are then.
        unsafe { memory::mremap(from, size, 2 * size, flags, to) }.unwrap();
    });
    assert_eq!(in_time("a read", move || word_at(target + 3 * page)), 4);
    assert_eq!(in_time("a read", move || word_at(target + 4 * page)), 0);
    stop(&pager, handlers);
}

#[test]
fn what_mremap_adds_where_other_pages_were_is_zeros() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Numbers);
    let handlers = vec![handle(&pager)];
    let page = pager.page_size();
    let start = pager.as_ptr().expose_provenance();
    let flags = memory::MREMAP_MAYMOVE | memory::MREMAP_FIXED;
    in_time("mremap", move || {
        let [from, to] = [start, start + 4 * page].map(ptr::with_exposed_provenance_mut);
        // SAFETY: the pages are looked for where they are then; the other ones are not needed.
        unsafe { memory::mremap(from, 2 * page, 4 * page, flags, to) }.unwrap();
    });
    let found = (2..8).map(|number| in_time("a read", move || word_at(start + number * page)));
    assert_eq!(found.collect::<Vec<_>>(), [3, 4, 1, 2, 0, 0]);
    stop(&pager, handlers);
}

fn pager_address(start: *mut std::ffi::c_void) -> usize {
    start.expose_provenance()
}

/// Pages are zeros when they were discarded.
struct Anonymous([AtomicBool; 8]);

impl Policy for Anonymous {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        if self.0[page].load(Ordering::Relaxed) {
            return Ok(0);
        }
        Ok(write_number(page, bytes))
    }

    fn hears_of_discards(&self) -> bool {
        true
    }

    fn discarded(&self, pages: std::ops::Range<usize>) {
        for page in &self.0[pages] {
            page.store(true, Ordering::Relaxed);
        }
    }
}

/// Panics when it hears of a discard.
pub(crate) struct Panics;

impl Policy for Panics {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        Ok(write_number(page, bytes))
    }

    fn hears_of_discards(&self) -> bool {
        true
    }

    fn discarded(&self, _: std::ops::Range<usize>) {
        panic!("on purpose");
    }
}

/// Starts a thread, and returns when it waits for something.
pub(crate) fn start_waiting<R: Send + 'static>(
    body: impl FnOnce() -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let (sender, tid) = mpsc::channel();
    let thread = thread::spawn(move || {
        sender.send(process::tid()).unwrap();
        body()
    });
    let stat = format!("/proc/self/task/{}/stat", tid.recv().unwrap());
    in_time("a thread that is to wait", move || {
        // Interruptible for a page, not for an event.
        let waits = |stat: &str| stat.contains(") S ") || stat.contains(") D ");
        while !waits(&std::fs::read_to_string(&stat).unwrap()) {
            thread::yield_now();
        }
    });
    thread
}

#[test]
fn what_was_read_with_a_discard_is_not_lost_when_the_policy_panics() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Panics);
    let page = pager.page_size();
    let shared = Arc::clone(&pager);
    // The event of the discard comes first, and what was moved is read with it.
    let adviser = start_waiting(move || {
        // SAFETY: nobody relies on the contents.
        unsafe { memory::madvise(shared.as_ptr().cast(), page, Advice::DontNeed) }.unwrap();
    });
    let place = Mapping::reserve(2 * page, Protection::NONE).unwrap();
    let to = place.as_ptr().expose_provenance();
    std::mem::forget(place);
    let from = pager.as_ptr().wrapping_add(4 * page).expose_provenance();
    let mover = start_waiting(move || {
        let flags = memory::MREMAP_MAYMOVE | memory::MREMAP_FIXED;
        let [from, place] = [from, to].map(ptr::with_exposed_provenance_mut);
        // SAFETY: the pages are looked for where they are then.
        unsafe { memory::mremap(from, 2 * page, 2 * page, flags, place) }.unwrap();
        word_at(to + page)
    });
    let shared = Arc::clone(&pager);
    let reader = start_waiting(move || word(&shared, 2));
    let first = handle(&pager);
    assert!(in_time("the panic", || first.join()).is_err());
    let second = handle(&pager);
    in_time("madvise", || adviser.join().unwrap());
    assert_eq!(in_time("a moved page", || mover.join().unwrap()), 6);
    assert_eq!(in_time("a read", || reader.join().unwrap()), 3);
    stop(&pager, vec![second]);
}

#[test]
fn discarded_pages_hold_what_the_policy_says() {
    let _alone = alone();
    let again = pager(8, Delivery::Threads, Numbers);
    let zeros = pager(8, Delivery::Threads, Anonymous(Default::default()));
    let handlers = vec![handle(&zeros), handle(&zeros)];
    let handler = handle(&again);
    for page in 0..8 {
        assert_eq!(read(&zeros, page), page as u64 + 1);
        assert_eq!(read(&again, page), page as u64 + 1);
    }
    let discard = |start: *mut u8, size: usize| {
        let start = start.expose_provenance();
        in_time("madvise", move || {
            // SAFETY: nobody relies on the contents.
            unsafe {
                memory::madvise(
                    ptr::with_exposed_provenance_mut(start),
                    size,
                    Advice::DontNeed,
                )
            }
            .unwrap();
        });
    };
    let part = 3 * again.page_size();
    discard(again.as_ptr(), part);
    discard(zeros.as_ptr(), part);
    for page in 0..8 {
        let expected = if page < 3 { 0 } else { page as u64 + 1 };
        assert_eq!(read(&zeros, page), expected);
        assert_eq!(read(&again, page), page as u64 + 1);
    }
    stop(&zeros, handlers);
    stop(&again, vec![handler]);
}
