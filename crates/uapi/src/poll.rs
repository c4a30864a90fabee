//! Waits for events of file descriptors.

#![expect(unsafe_code, reason = "the kernel writes to the descriptors' set")]

use core::marker::PhantomData;
use core::ptr;
use core::time::Duration;

use linux_raw_sys::general as sys;

use crate::errno::Errno;
use crate::file::{BorrowedFd, OwnedFd};
use crate::time::timespec;

/// Events of a file descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Events(i16);

#[expect(
    clippy::cast_possible_truncation,
    reason = "the constants have at most 6 bits"
)]
impl Events {
    /// `POLLIN`: there is data to read.
    pub const READABLE: Self = Self(sys::POLLIN as i16);
    /// `POLLOUT`: a write would not block.
    pub const WRITABLE: Self = Self(sys::POLLOUT as i16);
    /// `POLLERR`: an error; always reported.
    pub const ERROR: Self = Self(sys::POLLERR as i16);
    /// `POLLHUP`: the other end is closed; always reported.
    pub const HANG_UP: Self = Self(sys::POLLHUP as i16);

    /// `POLLNVAL`: the descriptor is not open; always reported.
    pub const INVALID: Self = Self(sys::POLLNVAL as i16);

    /// Returns whether the two sets have an event in common.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A file descriptor and the events to wait for: `struct pollfd`.
#[repr(transparent)]
#[derive(Debug)]
pub struct PollFd<'fd>(sys::pollfd, PhantomData<BorrowedFd<'fd>>);

impl<'fd> PollFd<'fd> {
    /// Waits for `events` of an owned descriptor.
    #[must_use]
    pub const fn new(fd: &'fd OwnedFd, events: Events) -> Self {
        Self::borrowed(fd.borrow(), events)
    }

    /// Waits for `events` of a borrowed descriptor.
    #[must_use]
    pub const fn borrowed(fd: BorrowedFd<'fd>, events: Events) -> Self {
        Self(
            sys::pollfd {
                fd: fd.number(),
                events: events.0,
                revents: 0,
            },
            PhantomData,
        )
    }

    /// Returns the events that the last [`poll`] found.
    #[must_use]
    pub const fn events(&self) -> Events {
        Events(self.0.revents)
    }
}

/// ppoll(2): waits for an event of any of `fds`, or until the time-out, if any. Returns the number of
/// descriptors with events.
///
/// # Errors
///
/// As poll(2).
pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<usize, Errno> {
    let mut timeout = timeout.map(timespec);
    let timeout = timeout.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    let mask: *const sys::kernel_sigset_t = ptr::null();
    // SAFETY: the kernel writes only to the slice and the time.
    unsafe {
        syscall!(
            sys::__NR_ppoll,
            fds.as_mut_ptr(),
            fds.len(),
            timeout,
            mask,
            0_usize
        )
    }
}

/// ppoll(2) of `fd`: waits until it accepts more bytes or has an error to report. Returns false on a
/// time-out.
///
/// # Errors
///
/// As poll(2).
pub fn wait_until_writable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<bool, Errno> {
    let mut fds = [PollFd::borrowed(fd, Events::WRITABLE)];
    poll(&mut fds, timeout).map(|ready| ready > 0)
}
