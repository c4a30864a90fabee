//! A userfaultfd, a pipe and ppoll(2), as far as handlers use them: who waits for what, and who is woken.
//! Pages come by the kernel's ioctls only.

use core::ops::Range;
use core::time::Duration;
use std::collections::BTreeSet;
use std::vec::Vec;

use loom::sync::{Condvar, Mutex, MutexGuard};
use tablewalk_uapi::file::OwnedFd as Unmodelled;
pub(crate) use tablewalk_uapi::userfault::Waking;
use tablewalk_uapi::{Errno, Mapping};

loom::lazy_static! {
    static ref KERNEL: Kernel = Kernel {
        state: Mutex::new(State::default()),
        is_readable: Condvar::new(),
        is_woken: Condvar::new(),
    };
}

/// All that the kernel knows: a model has one process, with one userfaultfd and one pipe.
struct Kernel {
    state: Mutex<State>,
    is_readable: Condvar,
    is_woken: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    /// Pages that are there.
    pages: BTreeSet<u64>,
    /// Threads that wait for a page, by a number of their own, and whether a handler has read it.
    waiting: Vec<(usize, u64, bool)>,
    faults: usize,
    /// Bytes in the pipe.
    bytes: usize,
    /// How the next ioctls that make a page fail.
    failures: Vec<Errno>,
}

impl Kernel {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread has panicked here")
    }

    /// A page comes, unless it is there; and wakes.
    fn make(&self, address: u64) -> Result<i64, Errno> {
        let mut state = self.lock();
        if let Some(errno) = state.failures.pop() {
            return Err(errno);
        }
        if !state.pages.insert(address) {
            return Err(Errno::EEXIST);
        }
        state.waiting.retain(|(_, page, _)| *page != address);
        self.is_woken.notify_all();
        Ok(0)
    }
}

/// Has the next ioctl that makes a page fail with `errno`.
pub(crate) fn fail_next(errno: Errno) {
    KERNEL.lock().failures.push(errno);
}

/// An access to the page at `address`: waits until it is there.
pub(crate) fn touch(address: u64) {
    let mut state = KERNEL.lock();
    while !state.pages.contains(&address) {
        state.faults += 1;
        let number = state.faults;
        state.waiting.push((number, address, false));
        KERNEL.is_readable.notify_all();
        while state.waiting.iter().any(|(waits, ..)| *waits == number) {
            state = KERNEL.is_woken.wait(state).expect("no thread has panicked");
        }
    }
}

/// A descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OwnedFd {
    Userfault,
    Pipe,
}

pub(crate) fn pipe_without_waiting() -> Result<(OwnedFd, OwnedFd), Errno> {
    Ok((OwnedFd::Pipe, OwnedFd::Pipe))
}

pub(crate) fn read(_: &OwnedFd, bytes: &mut [u8]) -> Result<usize, Errno> {
    let mut state = KERNEL.lock();
    let count = state.bytes.min(bytes.len());
    state.bytes -= count;
    if count == 0 {
        Err(Errno::EAGAIN)
    } else {
        Ok(count)
    }
}

pub(crate) fn write(_: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    KERNEL.lock().bytes += bytes.len();
    KERNEL.is_readable.notify_all();
    Ok(bytes.len())
}

/// A descriptor that ppoll(2) may be asked for.
pub(crate) trait Pollable {
    fn is_readable(&self, state: &State) -> bool;
}

impl Pollable for OwnedFd {
    fn is_readable(&self, state: &State) -> bool {
        match self {
            Self::Userfault => state.waiting.iter().any(|(.., is_read)| !is_read),
            Self::Pipe => state.bytes != 0,
        }
    }
}

/// Of another process: nothing happens there.
impl Pollable for Unmodelled {
    fn is_readable(&self, _: &State) -> bool {
        false
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Events(bool);

impl Events {
    pub(crate) const READABLE: Self = Self(true);

    pub(crate) const INVALID: Self = Self(false);

    pub(crate) const fn is_empty(self) -> bool {
        !self.0
    }

    pub(crate) const fn intersects(self, other: Self) -> bool {
        self.0 && other.0
    }
}

pub(crate) struct PollFd<'fd>(&'fd dyn Pollable, Events);

impl<'fd> PollFd<'fd> {
    pub(crate) fn new(fd: &'fd impl Pollable, _: Events) -> Self {
        Self(fd, Events(false))
    }

    pub(crate) const fn events(&self) -> Events {
        self.1
    }
}

pub(crate) fn poll(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> Result<usize, Errno> {
    if limit.is_some() {
        // A time-out, whatever there is.
        loom::thread::yield_now();
        return Ok(0);
    }
    let mut state = KERNEL.lock();
    loop {
        let mut count = 0;
        for PollFd(fd, events) in &mut *fds {
            *events = Events(fd.is_readable(&state));
            count += usize::from(events.0);
        }
        if count != 0 {
            return Ok(count);
        }
        state = KERNEL
            .is_readable
            .wait(state)
            .expect("no thread has panicked");
    }
}

pub(crate) enum Event {
    Pagefault {
        address: u64,
        flags: u64,
    },
    #[expect(dead_code, reason = "not modelled")]
    Fork(Userfault),
    #[expect(dead_code, reason = "not modelled")]
    Remap {
        from: u64,
        to: u64,
        length: u64,
    },
    #[expect(dead_code, reason = "not modelled")]
    Remove(Range<u64>),
    #[expect(dead_code, reason = "not modelled")]
    Unmap(Range<u64>),
    #[expect(dead_code, reason = "not modelled")]
    Other(u8),
}

pub(crate) struct Messages<const COUNT: usize>;

impl<const COUNT: usize> Messages<COUNT> {
    pub(crate) const fn new() -> Self {
        Self
    }
}

#[derive(Debug)]
pub(crate) struct Userfault(());

impl Userfault {
    pub(crate) fn open(_: u32) -> Result<Self, Errno> {
        Ok(Self(()))
    }

    pub(crate) const fn fd(&self) -> &OwnedFd {
        &OwnedFd::Userfault
    }

    pub(crate) fn enable(&self, features: u64) -> Result<u64, Errno> {
        Ok(features)
    }

    pub(crate) fn register_part(&self, _: &Mapping, _: Range<usize>) -> Result<u64, Errno> {
        Ok(0)
    }

    pub(crate) unsafe fn unregister_range(&self, _: u64, _: u64) -> Result<(), Errno> {
        Ok(())
    }

    pub(crate) fn wake(&self, address: u64, length: u64) -> Result<(), Errno> {
        let range = address..address + length;
        KERNEL
            .lock()
            .waiting
            .retain(|(_, page, _)| !range.contains(page));
        KERNEL.is_woken.notify_all();
        Ok(())
    }

    pub(crate) unsafe fn copy(&self, address: u64, _: &[u8], _: Waking) -> Result<i64, Errno> {
        KERNEL.make(address)
    }

    pub(crate) unsafe fn zeropage(&self, address: u64, _: u64, _: Waking) -> Result<i64, Errno> {
        KERNEL.make(address)
    }

    pub(crate) fn poison(&self, _: u64, _: u64) -> Result<i64, Errno> {
        Err(Errno::EINVAL)
    }

    pub(crate) fn events<const COUNT: usize>(
        &self,
        _: &mut Messages<COUNT>,
    ) -> Result<impl Iterator<Item = Event> + use<COUNT>, Errno> {
        let mut events = Vec::new();
        for (_, address, is_read) in &mut KERNEL.lock().waiting {
            if !*is_read && events.len() != COUNT {
                *is_read = true;
                events.push(Event::Pagefault {
                    address: *address,
                    flags: 0,
                });
            }
        }
        if events.is_empty() {
            Err(Errno::EAGAIN)
        } else {
            Ok(events.into_iter())
        }
    }
}
