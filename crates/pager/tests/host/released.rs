//! What is given back when something fails or ends: children, and what was discarded.

use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use tablewalk_pager::{Delivery, Policy, Refusal};
use tablewalk_uapi::memory::{self, Advice};
use tablewalk_uapi::signal::Signal;
use tablewalk_uapi::{Errno, process};

use crate::events::{ended_well, fork, start_waiting};
use crate::forks::{Flag, fork_until};
use crate::scene::{
    Numbers, alone, fail, handle, handle_children, in_time, pager, read, stop, word, word_at,
    write_number,
};

const X86: bool = cfg!(target_arch = "x86_64");
const MMAP: u32 = if X86 { 9 } else { 222 };
const CLOSE: u32 = if X86 { 3 } else { 57 };

/// From now on descriptors that this thread closes stay open, as if a fork had copied each before.
fn without_close() {
    fail(CLOSE, None, Errno::EIO);
}

/// A child that does not end by itself is killed.
fn end_well(pid: i32) {
    let ended = std::panic::catch_unwind(|| ended_well(pid));
    if ended.is_err() {
        process::kill(pid, Signal::Kill).unwrap();
    }
    ended.unwrap();
}

#[test]
fn a_child_that_came_without_memory_does_not_wait_when_it_is_dropped() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Numbers);
    let (sender, children) = mpsc::channel();
    let shared = Arc::clone(&pager);
    let handler = thread::spawn(move || {
        let mut worker = shared.worker()?;
        fail(MMAP, None, Errno::ENOMEM);
        worker.handle(&mut |child| sender.send(child).unwrap())
    });
    let (touch, end) = (Arc::new(Flag::new()), Arc::new(Flag::new()));
    let (shared, flag) = (Arc::clone(&pager), Arc::clone(&touch));
    let first = in_time("fork", move || {
        fork(|| {
            flag.wait();
            word(&shared, 3) == 0
        })
    });
    let first_child = children.recv().unwrap();
    // It has the descriptor of the first.
    let sibling = fork_until(&end);
    let second_child = children.recv().unwrap();
    drop(first_child);
    touch.set();
    let ended = std::panic::catch_unwind(|| end_well(first));
    end.set();
    ended_well(sibling);
    ended.unwrap();
    drop(second_child);
    stop(&pager, vec![handler]);
}

/// Copies of all userfaultfds of this process.
fn copies() -> Vec<OwnedFd> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let copy = |entry: std::fs::DirEntry| {
        let name = std::fs::read_link(entry.path()).ok()?;
        let number: i32 = entry.file_name().to_str()?.parse().ok()?;
        if !name.to_str()?.contains("userfaultfd") {
            return None;
        }
        // SAFETY: it is open: a link to it was read.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        fd.try_clone_to_owned().ok()
    };
    open.filter_map(|entry| copy(entry.unwrap())).collect()
}

#[test]
fn a_panic_at_one_child_leaves_no_other_waiting() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Numbers);
    let forkers = [(); 2].map(|()| {
        let shared = Arc::clone(&pager);
        start_waiting(move || fork(|| word(&shared, 3) == 0))
    });
    let (sender, copied) = mpsc::channel();
    let shared = Arc::clone(&pager);
    let handler = thread::spawn(move || {
        let mut worker = shared.worker()?;
        worker.handle(&mut |_child| {
            sender.send(copies()).unwrap();
            panic!("on purpose");
        })
    });
    assert!(in_time("the panic", || handler.join()).is_err());
    let copied = copied.recv().unwrap();
    // Of the pager and of two children.
    assert!(copied.len() >= 3);
    let ended = forkers.map(|forker| {
        let pid = in_time("fork", || forker.join().unwrap());
        std::panic::catch_unwind(|| end_well(pid))
    });
    drop(copied);
    assert!(ended.iter().all(Result::is_ok));
}

#[test]
fn a_child_that_comes_when_a_pager_ends_does_not_wait() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Numbers);
    let place = pager.as_ptr().expose_provenance() + 3 * pager.page_size();
    let forker = start_waiting(move || fork(|| word_at(place) == 0));
    let dropper = thread::spawn(|| {
        without_close();
        drop(pager);
    });
    in_time("the end of a pager", || dropper.join().unwrap());
    end_well(in_time("fork", || forker.join().unwrap()));
}

#[test]
fn a_child_of_a_child_that_is_dropped_does_not_wait() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Numbers);
    let (handler, children) = handle_children(&pager);
    let shared = Arc::clone(&pager);
    let pid = in_time("fork", move || {
        fork(|| {
            let inner = fork(|| word(&shared, 5) == 0);
            process::wait(inner).is_ok_and(|(_, status)| status == process::Status::Exited(0))
        })
    });
    let child = children.recv().unwrap();
    in_time("a fork that is to wait", move || {
        let stat = format!("/proc/{pid}/stat");
        while !std::fs::read_to_string(&stat).unwrap().contains(") D ") {
            thread::yield_now();
        }
    });
    let dropper = thread::spawn(|| {
        without_close();
        drop(child);
    });
    in_time("the end of a child that is not served", || {
        dropper.join().unwrap()
    });
    end_well(pid);
    stop(&pager, vec![handler]);
}

/// Pages are zeros when they were discarded. Panics the first time, after it has noted that.
#[derive(Default)]
struct Panics {
    discarded: [AtomicBool; 8],
    has_panicked: AtomicBool,
}

impl Policy for Panics {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        if self.discarded[page].load(Ordering::Relaxed) {
            return Ok(0);
        }
        Ok(write_number(page, bytes))
    }

    fn hears_of_discards(&self) -> bool {
        true
    }

    fn discarded(&self, pages: std::ops::Range<usize>) {
        for page in &self.discarded[pages] {
            page.store(true, Ordering::Relaxed);
        }
        assert!(
            self.has_panicked.swap(true, Ordering::Relaxed),
            "on purpose"
        );
    }
}

const MREMAP_DONTUNMAP: u32 = 4;

/// A mapping keeps a hole where a part was moved from, so one message tells of the pieces around it.
#[test]
fn a_panic_at_one_piece_hides_no_other_piece_of_a_discard() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Panics::default());
    let first = handle(&pager);
    let page = pager.page_size();
    let from = pager.as_ptr().wrapping_add(2 * page).expose_provenance();
    let to = leave_behind(from, page);
    // The event was read.
    assert_eq!(in_time("a moved page", move || word_at(to)), 3);
    let shared = Arc::clone(&pager);
    in_time("madvise", move || {
        // SAFETY: nobody relies on the contents.
        unsafe { memory::madvise(shared.as_ptr().cast(), 8 * page, Advice::DontNeed) }.unwrap();
    });
    let ended =
        std::panic::catch_unwind(AssertUnwindSafe(|| in_time("the panic", || first.join())));
    assert!(ended.unwrap().is_err());
    let second = handle(&pager);
    let found: Vec<_> = (0..8).map(|page| read(&pager, page)).collect();
    assert_eq!(found, [0; 8]);
    assert_eq!(in_time("a moved page", move || word_at(to)), 3);
    stop(&pager, vec![second]);
}

/// Moves `size` bytes to a new place, and leaves the mapping where it was.
fn leave_behind(from: usize, size: usize) -> usize {
    in_time("mremap", move || {
        let place = std::ptr::with_exposed_provenance_mut(from);
        let flags = memory::MREMAP_MAYMOVE | MREMAP_DONTUNMAP;
        // SAFETY: the pages are looked for where they are then.
        let to = unsafe { memory::mremap(place, size, size, flags, std::ptr::null_mut()) };
        to.unwrap().expose_provenance()
    })
}

#[test]
fn nobody_waits_where_a_part_was_moved_from_when_the_pager_ended() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Numbers);
    let handler = handle(&pager);
    let page = pager.page_size();
    let from = pager.as_ptr().wrapping_add(2 * page).expose_provenance();
    let to = leave_behind(from, page);
    assert_eq!(in_time("a moved page", move || word_at(to)), 3);
    // As a child that was forked has them.
    let copied = copies();
    stop(&pager, vec![handler]);
    drop(pager);
    let found = std::panic::catch_unwind(|| in_time("a page", move || word_at(from)));
    drop(copied);
    assert_eq!(found.unwrap(), 0);
}

#[test]
fn a_child_does_not_wait_where_its_parent_has_moved_a_part_from() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Numbers);
    let (handler, children) = handle_children(&pager);
    let page = pager.page_size();
    let from = pager.as_ptr().wrapping_add(2 * page).expose_provenance();
    let to = leave_behind(from, page);
    assert_eq!(in_time("a moved page", move || word_at(to)), 3);
    let touch = Arc::new(Flag::new());
    let flag = Arc::clone(&touch);
    let pid = in_time("fork", move || {
        fork(|| {
            flag.wait();
            word_at(from) == 0
        })
    });
    let child = children.recv().unwrap();
    let copied = copies();
    drop(child);
    touch.set();
    let ended = std::panic::catch_unwind(|| end_well(pid));
    drop(copied);
    ended.unwrap();
    stop(&pager, vec![handler]);
}
