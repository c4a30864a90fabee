//! Waits for events of file descriptors.

#![expect(unsafe_code, reason = "the kernel writes to the descriptors' set")]

use core::marker::PhantomData;
use core::ptr;
use core::time::Duration;

use bitflags::bitflags;
use linux_raw_sys::general as sys;

use crate::errno::Errno;
use crate::file::{BorrowedFd, OwnedFd};
use crate::time::timespec;

bitflags! {
    /// Events of a file descriptor.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Events: u16 {
        /// `POLLIN`: there is data to read.
        const READABLE = bit(sys::POLLIN);
        /// `POLLOUT`: a write would not block.
        const WRITABLE = bit(sys::POLLOUT);
        /// `POLLERR`: an error; always reported.
        const ERROR = bit(sys::POLLERR);
        /// `POLLHUP`: the other end is closed; always reported.
        const HANG_UP = bit(sys::POLLHUP);
        /// `POLLNVAL`: the descriptor is not open; always reported.
        const INVALID = bit(sys::POLLNVAL);
    }
}

/// `struct pollfd` has 16 bits for these constants.
const fn bit(constant: u32) -> u16 {
    assert!(constant >> 16 == 0);
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    {
        constant as u16
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
                events: events.bits().cast_signed(),
                revents: 0,
            },
            PhantomData,
        )
    }

    /// Returns the events that the last [`poll`] found.
    #[must_use]
    pub const fn events(&self) -> Events {
        Events::from_bits_retain(self.0.revents.cast_unsigned())
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
