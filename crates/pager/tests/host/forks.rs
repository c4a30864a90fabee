//! Forks beside policies that refuse, wait or panic.

use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tablewalk_pager::{Delivery, Pager, PagerError, Policy, Refusal};
use tablewalk_uapi::memory::{self, Advice, Protection};
use tablewalk_uapi::signal::Signal;
use tablewalk_uapi::{Errno, Mapping, Sharing, process};

use crate::events::{Panics, serve, start_waiting};
use crate::scene::{
    Numbers, alone, fail, handle, handle_children, in_time, pager, read, stop, word, write_number,
};

unsafe extern "C" {
    fn fork() -> i32;
    fn _exit(status: i32) -> !;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn setrlimit(resource: i32, limit: *const [u64; 2]) -> i32;
    fn capget(header: *const u32, sets: *mut u32) -> i32;
    fn capset(header: *const u32, sets: *const u32) -> i32;
    fn getrlimit(resource: i32, limit: *mut [u64; 2]) -> i32;
}

/// Has page 2 once.
struct Once(AtomicUsize);

impl Policy for Once {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        if page == 2 && self.0.fetch_add(1, Ordering::SeqCst) != 0 {
            return Err(Refusal::Never);
        }
        Ok(write_number(page, bytes))
    }
}

/// From now on this thread has a kernel without `UFFDIO_POISON`, as before Linux 6.6.
fn without_poison() {
    let ioctl = if cfg!(target_arch = "x86_64") { 16 } else { 29 };
    fail(ioctl, Some(0xc020_aa08), Errno::EINVAL);
}

#[test]
fn a_page_that_a_child_is_refused_leaves_the_parent_alone() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Once(AtomicUsize::new(0)));
    let (handler, children) = handle_children(&pager);
    assert_eq!(read(&pager, 2), 3);
    let shared = Arc::clone(&pager);
    let page = pager.page_size();
    let pid = in_time("fork", move || {
        // SAFETY: the child does nothing that needs another thread.
        match unsafe { process::fork() }.unwrap() {
            Some(pid) => pid,
            None => {
                let place = shared.as_ptr().wrapping_add(2 * page).cast();
                // SAFETY: nobody relies on the contents.
                let done = unsafe { memory::madvise(place, page, Advice::DontNeed) };
                process::exit(i32::from(done.is_err() || word(&shared, 2) != 0))
            }
        }
    });
    let child = children.recv().unwrap();
    let shared = Arc::clone(&pager);
    let served = in_time("serve_child", move || {
        without_poison();
        let ended = process::pidfd_open(pid).unwrap();
        shared.serve_child(&child, &ended)
    });
    process::kill(pid, Signal::Kill).unwrap();
    in_time("the end of a child", move || process::wait(pid).unwrap());
    let refused = PagerError::Call("UFFDIO_COPY", Errno::EOPNOTSUPP);
    assert_eq!(served, Err(refused));
    assert_eq!(read(&pager, 2), 3);
    stop(&pager, vec![handler]);
}

/// Allocates as large a piece as the C library takes its lock for.
struct Allocates;

impl Policy for Allocates {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        drop(std::hint::black_box(vec![1_u8; 20_000 + page]));
        Ok(write_number(page, bytes))
    }
}

const INSIDE: &str = "TABLEWALK_TEST_INSIDE";

/// One handler reads the event of the fork, for which the locks of the allocator are held, while the others
/// wait for one of these locks. In a process of its own: nothing in it can allocate when it hangs.
#[test]
fn a_policy_allocates_beside_forks_of_the_c_library() {
    if let Some(threads) = std::env::var_os(INSIDE) {
        let threads = threads.into_string().unwrap();
        let (readers, handlers) = threads.split_once(' ').unwrap();
        return fork_beside_faults(readers.parse().unwrap(), handlers.parse().unwrap());
    }
    let _alone = alone();
    for (readers, handlers) in [(1, 2), (2, 3), (4, 5), (4, 2)] {
        allocate_beside_forks(readers, handlers);
    }
}

fn allocate_beside_forks(readers: usize, handlers: usize) {
    let mut inside = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "forks::a_policy_allocates_beside_forks_of_the_c_library",
        ])
        .env(INSIDE, format!("{readers} {handlers}"))
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = inside.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > Duration::from_secs(60) {
            inside.kill().unwrap();
            inside.wait().unwrap();
            panic!("{readers} threads and {handlers} handlers: still waiting");
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success());
}

/// Starts a handler thread, and returns when it waits for events: before that it allocates, and the others
/// do not know of it.
fn handle_now<P: Policy + Send + 'static>(
    pager: &Arc<Pager<P>>,
) -> thread::JoinHandle<Result<(), PagerError>> {
    let (sender, tid) = mpsc::channel();
    let pager = Arc::clone(pager);
    let handler = thread::spawn(move || {
        sender.send(process::tid()).unwrap();
        pager.worker()?.handle(&mut drop)
    });
    let ppoll = if cfg!(target_arch = "x86_64") {
        "271 "
    } else {
        "73 "
    };
    let call = format!("/proc/self/task/{}/syscall", tid.recv().unwrap());
    in_time("the start of a handler", move || {
        while !std::fs::read_to_string(&call).unwrap().starts_with(ppoll) {
            thread::yield_now();
        }
    });
    handler
}

fn fork_beside_faults(readers: usize, handlers: usize) {
    let pager = pager(64, Delivery::Threads, Allocates);
    let handlers = (0..handlers).map(|_| handle_now(&pager)).collect();
    let end = Arc::new(AtomicBool::new(false));
    let start_reader = |_| {
        let (shared, ends) = (Arc::clone(&pager), Arc::clone(&end));
        thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let start = shared.as_ptr().cast();
                // SAFETY: the contents come again.
                unsafe { memory::madvise(start, shared.size(), Advice::DontNeed) }.unwrap();
                for page in 0..64 {
                    assert_eq!(word(&shared, page), page as u64 + 1);
                }
            }
        })
    };
    let readers: Vec<_> = (0..readers).map(start_reader).collect();
    let forker = thread::spawn(|| {
        for _ in 0..500 {
            // SAFETY: the child ends at once.
            let pid = unsafe { fork() };
            if pid == 0 {
                // SAFETY: no destructor is needed.
                unsafe { _exit(0) }
            }
            // SAFETY: no status.
            unsafe { waitpid(pid, std::ptr::null_mut(), 0) };
        }
    });
    forker.join().unwrap();
    end.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    stop(&pager, handlers);
}

const NOFILE: i32 = 7;

/// Takes all free descriptors of the process away, but as many as one ppoll(2) may be asked for. Returns the
/// limit of before.
fn without_descriptors() -> [u64; 2] {
    let mut before = [0; 2];
    // SAFETY: room for two words.
    assert_eq!(unsafe { getrlimit(NOFILE, &raw mut before) }, 0);
    limit_descriptors([3, before[1]]);
    before
}

fn limit_descriptors(limit: [u64; 2]) {
    // SAFETY: two words; descriptors that are open stay.
    assert_eq!(unsafe { setrlimit(NOFILE, &raw const limit) }, 0);
}

/// The kernel keeps the event, and who forks waits: a handler must not end because of it.
#[test]
fn a_fork_waits_for_a_descriptor() {
    let _alone = alone();
    let pager = pager(4, Delivery::Threads, Numbers);
    let handler = handle(&pager);
    assert_eq!(read(&pager, 1), 2);
    let before = without_descriptors();
    let forker = thread::spawn(|| {
        // SAFETY: the child ends at once.
        match unsafe { process::fork() }.unwrap() {
            Some(pid) => pid,
            None => process::exit(0),
        }
    });
    let counts = Arc::clone(&pager);
    let tried = std::panic::catch_unwind(AssertUnwindSafe(|| {
        in_time("an event that cannot be read", move || {
            while counts.counts().errors < 2 {
                thread::yield_now();
            }
        });
    }));
    limit_descriptors(before);
    tried.unwrap();
    let pid = in_time("fork", || forker.join().unwrap());
    in_time("the end of a child", move || process::wait(pid).unwrap());
    assert_eq!(read(&pager, 2), 3);
    stop(&pager, vec![handler]);
}

/// The event of the discard is read first, and that of the fork with it.
#[test]
fn a_policy_that_panics_costs_a_child_no_page() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Panics);
    let (page, shared) = (pager.page_size(), Arc::clone(&pager));
    let adviser = start_waiting(move || {
        // SAFETY: nobody relies on the contents.
        unsafe { memory::madvise(shared.as_ptr().cast(), page, Advice::DontNeed) }.unwrap();
    });
    let shared = Arc::clone(&pager);
    let forker = start_waiting(move || crate::events::fork(|| word(&shared, 3) == 4));
    let (handler, children) = handle_children(&pager);
    assert!(in_time("the panic", || handler.join()).is_err());
    let pid = in_time("fork", || forker.join().unwrap());
    in_time("madvise", || adviser.join().unwrap());
    serve(&pager, children.recv().unwrap(), pid);
}

/// A page that parent and children share.
pub(crate) struct Flag(Mapping);

impl Flag {
    pub(crate) fn new() -> Self {
        Self(Mapping::anonymous(4096, Protection::READ_WRITE, Sharing::Shared).unwrap())
    }

    fn word(&self) -> &AtomicUsize {
        // SAFETY: a page that nobody uses otherwise.
        unsafe { AtomicUsize::from_ptr(self.0.as_ptr().cast()) }
    }

    pub(crate) fn set(&self) {
        self.word().store(1, Ordering::SeqCst);
    }

    pub(crate) fn wait(&self) {
        while self.word().load(Ordering::SeqCst) == 0 {
            process::yield_now();
        }
    }
}

/// Forks a child that ends when `end` is set.
pub(crate) fn fork_until(end: &Arc<Flag>) -> i32 {
    let flag = Arc::clone(end);
    in_time("fork", move || {
        crate::events::fork(|| {
            flag.wait();
            true
        })
    })
}

/// A fork copies the descriptors of the children that were there before.
#[test]
fn a_child_that_nobody_serves_does_not_wait_for_its_siblings() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Numbers);
    let (handler, children) = handle_children(&pager);
    let (touch, end) = (Arc::new(Flag::new()), Arc::new(Flag::new()));
    let (shared, flag) = (Arc::clone(&pager), Arc::clone(&touch));
    let first = in_time("fork", move || {
        crate::events::fork(|| {
            flag.wait();
            word(&shared, 3) == 0
        })
    });
    let first_child = children.recv().unwrap();
    let sibling = fork_until(&end);
    let second_child = children.recv().unwrap();
    drop(first_child);
    touch.set();
    let ended = std::panic::catch_unwind(|| crate::events::ended_well(first));
    end.set();
    crate::events::ended_well(sibling);
    ended.unwrap();
    drop(second_child);
    stop(&pager, vec![handler]);
}

/// It has the descriptor of its sibling, and not its pages.
#[test]
fn a_child_that_drops_its_copy_of_a_sibling_leaves_that_alone() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Numbers);
    let (handler, children) = handle_children(&pager);
    let touch = Arc::new(Flag::new());
    let (shared, flag) = (Arc::clone(&pager), Arc::clone(&touch));
    let first = in_time("fork", move || {
        crate::events::fork(|| {
            flag.wait();
            word(&shared, 3) == 4
        })
    });
    let first_child = Arc::new(children.recv().unwrap());
    let inherited = Arc::clone(&first_child);
    let sibling = in_time("fork", move || {
        crate::events::fork(|| {
            let child = Arc::as_ptr(&inherited).cast_mut();
            // SAFETY: a copy of the parent's, which nobody in the child uses any more.
            unsafe { child.drop_in_place() };
            true
        })
    });
    drop(children.recv().unwrap());
    crate::events::ended_well(sibling);
    touch.set();
    let child = Arc::into_inner(first_child).unwrap();
    serve(&pager, child, first);
    stop(&pager, vec![handler]);
}

/// Each event that is read lets it move on, at once.
#[test]
fn a_child_that_is_dropped_while_it_moves_its_pages_does_not_wait() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Numbers);
    let (handler, children) = handle_children(&pager);
    let size = pager.size();
    let place = Mapping::reserve(size, Protection::NONE).unwrap();
    let places = [pager.as_ptr(), place.as_ptr()].map(|place| place.expose_provenance());
    for _ in 0..20 {
        let first = in_time("fork", move || {
            crate::events::fork(|| {
                let [from, to] = places.map(ptr::with_exposed_provenance_mut);
                let flags = memory::MREMAP_MAYMOVE | memory::MREMAP_FIXED;
                (0..50).all(|_| {
                    [(from, to), (to, from)].into_iter().all(|(from, to)| {
                        // SAFETY: nobody relies on the contents.
                        unsafe { memory::mremap(from, size, size, flags, to) }.is_ok()
                    })
                })
            })
        });
        let first_child = children.recv().unwrap();
        let end = Arc::new(Flag::new());
        // It has the descriptor, too.
        let sibling = fork_until(&end);
        let second_child = children.recv().unwrap();
        in_time("the end of a child that is not served", || {
            drop(first_child)
        });
        let ended = std::panic::catch_unwind(|| crate::events::ended_well(first));
        end.set();
        crate::events::ended_well(sibling);
        ended.unwrap();
        drop(second_child);
    }
    stop(&pager, vec![handler]);
}

/// The pager reads the event when it is dropped, since nobody else will.
#[test]
fn a_fork_beside_the_end_of_a_pager_waits_for_a_descriptor() {
    let _alone = alone();
    let pager = pager(4, Delivery::Threads, Numbers);
    let forker = start_waiting(|| crate::events::fork(|| true));
    let before = without_descriptors();
    let dropper = thread::spawn(|| drop(pager));
    thread::sleep(Duration::from_millis(100));
    limit_descriptors(before);
    in_time("the end of a pager", || dropper.join().unwrap());
    let pid = in_time("fork", || forker.join().unwrap());
    crate::events::ended_well(pid);
}

/// Waits at page 3, while others do something.
#[derive(Default)]
struct Waits {
    is_asked: AtomicBool,
    goes_on: AtomicBool,
}

impl Policy for Waits {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        if page == 3 {
            self.is_asked.store(true, Ordering::SeqCst);
            while !self.goes_on.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        }
        Ok(write_number(page, bytes))
    }
}

/// Its descriptor was read with a fault of the child, and copied by a fork in the meantime.
#[test]
fn a_child_of_a_child_does_not_wait_for_other_children() {
    let _alone = alone();
    let pager = pager(8, Delivery::Threads, Waits::default());
    let (handler, children) = handle_children(&pager);
    let (touch, end) = (Arc::new(Flag::new()), Arc::new(Flag::new()));
    let (shared, flag) = (Arc::clone(&pager), Arc::clone(&touch));
    let pid = in_time("fork", move || {
        crate::events::fork(|| {
            let inner = crate::events::fork(|| {
                flag.wait();
                word(&shared, 5) == 0
            });
            process::wait(inner).is_ok_and(|(_, status)| status == process::Status::Exited(0))
        })
    });
    let child = children.recv().unwrap();
    let address = pager.address() + 3 * pager.page_size() as u64;
    // An access of the child, which waits in its fork.
    let reader = start_waiting(move || process::read_memory(pid, address, &mut [0]));
    let shared = Arc::clone(&pager);
    let server = thread::spawn(move || {
        let ended = process::pidfd_open(pid).unwrap();
        shared.serve_child(&child, &ended)
    });
    let shared = Arc::clone(&pager);
    in_time("a page of the child", move || {
        while !shared.policy().is_asked.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    });
    let sibling = fork_until(&end);
    pager.policy().goes_on.store(true, Ordering::SeqCst);
    assert_eq!(in_time("a read", || reader.join().unwrap()), Ok(1));
    touch.set();
    let ended = std::panic::catch_unwind(|| crate::events::ended_well(pid));
    end.set();
    crate::events::ended_well(sibling);
    ended.unwrap();
    assert_eq!(in_time("serve_child", || server.join().unwrap()), Ok(()));
    drop(children.recv().unwrap());
    stop(&pager, vec![handler]);
}

const MEMLOCK: i32 = 8;

/// From now on this thread must not lock memory.
fn without_locks() {
    // SAFETY: room for two words.
    assert_eq!(unsafe { setrlimit(MEMLOCK, &[0, 0]) }, 0);
    let header = [0x2008_0522_u32, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: as capget(2) and capset(2) take them.
    unsafe {
        assert_eq!(capget(header.as_ptr(), sets.as_mut_ptr()), 0);
        // CAP_IPC_LOCK of the effective and the permitted set.
        sets[0] &= !(1 << 14);
        sets[1] &= !(1 << 14);
        assert_eq!(capset(header.as_ptr(), sets.as_ptr()), 0);
    }
}

/// Nobody would read the event of the fork.
#[test]
fn a_fork_does_not_wait_for_a_pager_that_could_not_be_made() {
    let _alone = alone();
    let pid = crate::events::fork(|| {
        without_locks();
        let options = tablewalk_pager::Options {
            locked: true,
            ..crate::scene::options(4, Delivery::Threads)
        };
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    let made = Pager::new(options, Numbers);
                    assert!(matches!(made, Err(PagerError::Call("mlock", _))));
                }
            });
            for _ in 0..200 {
                // SAFETY: the child ends at once.
                match unsafe { process::fork() }.unwrap() {
                    Some(pid) => drop(process::wait(pid).unwrap()),
                    None => process::exit(0),
                }
            }
            end.store(true, Ordering::Relaxed);
        });
        true
    });
    let ended = std::panic::catch_unwind(|| crate::events::ended_well(pid));
    if ended.is_err() {
        process::kill(pid, Signal::Kill).unwrap();
    }
    ended.unwrap();
}
