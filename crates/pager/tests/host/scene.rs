//! What the tests have in common: a pager whose pages hold their number, and a watchdog.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tablewalk_pager::{Child, Delivery, Options, Pager, PagerError, Policy, Refusal};
use tablewalk_uapi::{Errno, process};

/// One test at a time: a fork waits for the handlers of every pager in the process.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever waits longer waits for ever. Machines that build are busy with other things.
const LIMIT: Duration = Duration::from_secs(5);

/// Runs `body` on a thread of its own; panics if it is not done in time, or has panicked.
pub(crate) fn in_time<R: Send + 'static>(
    what: &str,
    body: impl FnOnce() -> R + Send + 'static,
) -> R {
    let (done, wait) = mpsc::channel();
    thread::spawn(move || done.send(body()));
    match wait.recv_timeout(LIMIT) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: still waiting after {LIMIT:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{what}: panicked"),
    }
}

/// Each page holds its number plus one in every word.
#[derive(Debug, Default)]
pub(crate) struct Numbers;

pub(crate) fn write_number(page: usize, bytes: &mut [u8]) -> usize {
    for word in bytes.as_chunks_mut::<8>().0 {
        *word = (page as u64 + 1).to_ne_bytes();
    }
    bytes.len()
}

impl Policy for Numbers {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        Ok(write_number(page, bytes))
    }
}

pub(crate) const fn options(pages: usize, delivery: Delivery) -> Options {
    Options {
        pages,
        frames: 16,
        low_water: 8,
        locked: false,
        delivery,
    }
}

/// A pager that outlives threads that hang.
pub(crate) fn pager<P: Policy>(pages: usize, delivery: Delivery, policy: P) -> Arc<Pager<P>> {
    Arc::new(Pager::new(options(pages, delivery), policy).expect("userfaultfd: root?"))
}

/// Ends this process, a child: with 0 if `body` returns true, and not if it panics.
pub(crate) fn end_with(body: impl FnOnce() -> bool) -> ! {
    let done = std::panic::catch_unwind(AssertUnwindSafe(body));
    process::exit(i32::from(!matches!(done, Ok(true))))
}

pub(crate) type Handler = thread::JoinHandle<Result<(), PagerError>>;

/// Starts a handler thread.
pub(crate) fn handle<P: Policy + Send + 'static>(pager: &Arc<Pager<P>>) -> Handler {
    let pager = Arc::clone(pager);
    thread::spawn(move || pager.worker()?.handle(&mut drop))
}

/// Starts a handler thread that passes the children of this process on.
pub(crate) fn handle_children<P: Policy + Send + 'static>(
    pager: &Arc<Pager<P>>,
) -> (Handler, mpsc::Receiver<Child>) {
    let (sender, children) = mpsc::channel();
    let pager = Arc::clone(pager);
    let handler = thread::spawn(move || {
        let mut worker = pager.worker()?;
        worker.handle(&mut |child| sender.send(child).unwrap())
    });
    (handler, children)
}

/// Stops as many handlers as there are, and waits for them.
pub(crate) fn stop<P: Policy + Send + 'static>(pager: &Arc<Pager<P>>, handlers: Vec<Handler>) {
    pager.stop(handlers.len());
    for handler in handlers {
        in_time("the end of a handler", || {
            handler.join().expect("a panic").expect("an error")
        });
    }
}

/// Reads the first word of a page, in time.
pub(crate) fn read<P: Policy + Send + 'static>(pager: &Arc<Pager<P>>, page: usize) -> u64 {
    let counts = pager.counts();
    let shared = Arc::clone(pager);
    let (done, wait) = mpsc::channel();
    thread::spawn(move || {
        let found = word(&shared, page);
        // Before the next test forks: nobody would read the event.
        drop(shared);
        done.send(found)
    });
    let Ok(result) = wait.recv_timeout(LIMIT) else {
        panic!(
            "a read: still waiting after {LIMIT:?}: {counts:?}, then {:?}",
            pager.counts()
        );
    };
    result
}

/// The first word of a page.
pub(crate) fn word<P: Policy>(pager: &Pager<P>, page: usize) -> u64 {
    let place = pager.as_ptr().wrapping_add(page * pager.page_size());
    // SAFETY: in the region, where nobody has a reference.
    unsafe { place.cast::<u64>().read_volatile() }
}

/// The word at an address.
pub(crate) fn word_at(address: usize) -> u64 {
    let place: *const u64 = std::ptr::with_exposed_provenance(address);
    // SAFETY: the tests name memory that is mapped.
    unsafe { place.read_volatile() }
}

unsafe extern "C" {
    fn prctl(option: i32, ...) -> i32;
}

/// From now on `call` of this thread, with this second argument if one is given, fails.
pub(crate) fn fail(call: u32, argument: Option<u32>, errno: Errno) {
    // struct sock_filter and the instructions of classic BPF: the number of the system call, then the low
    // half of its second argument.
    let load = |offset| (0x20_u16, 0_u8, 0_u8, offset);
    let unless = |value, skip| (0x15, 0, skip, value);
    let end = |action| (6, 0, 0, action);
    // SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW.
    let (error, allow) = (0x0005_0000 | u32::from(errno.number()), 0x7fff_0000);
    let mut program: Vec<(u16, u8, u8, u32)> = vec![load(0)];
    program.extend(match argument {
        Some(value) => vec![unless(call, 3), load(24), unless(value, 1)],
        None => vec![unless(call, 1)],
    });
    program.extend([end(error), end(allow)]);
    let bytes: Vec<u8> = program
        .iter()
        .flat_map(|(code, yes, no, value)| {
            let mut one = code.to_ne_bytes().to_vec();
            one.extend([*yes, *no]);
            one.extend(value.to_ne_bytes());
            one
        })
        .collect();
    #[repr(C)]
    struct Program(u16, *const u8);
    let filter = Program(u16::try_from(program.len()).unwrap(), bytes.as_ptr());
    // SAFETY: PR_SET_NO_NEW_PRIVS.
    assert_eq!(unsafe { prctl(38, 1_usize, 0_usize, 0_usize, 0_usize) }, 0);
    // SAFETY: PR_SET_SECCOMP, SECCOMP_MODE_FILTER.
    assert_eq!(unsafe { prctl(22, 2_usize, &raw const filter) }, 0);
}
