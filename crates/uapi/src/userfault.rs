//! userfaultfd(2): one thread resolves the page faults of others.

#![expect(
    unsafe_code,
    reason = "the kernel reads and writes the structs of the ioctls"
)]

use core::mem::{size_of, size_of_val};
use core::ops::Range;
use core::{iter, ptr, slice};

use linux_raw_sys::general as sys;
pub use linux_raw_sys::general::{
    UFFD_FEATURE_EVENT_FORK, UFFD_FEATURE_EVENT_REMAP, UFFD_FEATURE_EVENT_REMOVE,
    UFFD_FEATURE_EVENT_UNMAP, UFFD_FEATURE_SIGBUS, UFFD_FEATURE_THREAD_ID,
    UFFD_PAGEFAULT_FLAG_WRITE, UFFD_USER_MODE_ONLY,
};
use linux_raw_sys::ioctl;

use crate::errno::Errno;
use crate::file::{O_CLOEXEC, OwnedFd, read};
use crate::mapping::Mapping;

/// Whether an ioctl that resolves a fault wakes the threads that wait for the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Waking {
    /// It does.
    Wake = 0,
    /// It does not: the caller uses [`Userfault::wake`] later.
    Later = sys::UFFDIO_COPY_MODE_DONTWAKE as u64,
}

// `Waking` serves both ioctls.
static_assertions::const_assert_eq!(
    sys::UFFDIO_COPY_MODE_DONTWAKE,
    sys::UFFDIO_ZEROPAGE_MODE_DONTWAKE
);

/// An event: a thread waits for a page, or the process has changed its registered memory.
#[derive(Debug)]
pub enum Event {
    /// A thread waits for a missing page.
    Pagefault {
        /// The address, rounded down to its page unless `UFFD_FEATURE_EXACT_ADDRESS` was enabled.
        address: u64,
        /// `UFFD_PAGEFAULT_FLAG_*`.
        flags: u64,
        /// The waiting thread if `UFFD_FEATURE_THREAD_ID` was enabled; otherwise 0.
        thread: u32,
    },
    /// The process has forked; this descriptor delivers the events of the child.
    Fork(Userfault),
    /// A range has moved.
    Remap {
        /// The old address.
        from: u64,
        /// The new address.
        to: u64,
        /// The size in bytes.
        length: u64,
    },
    /// The pages of a range were discarded.
    Remove(Range<u64>),
    /// A range was unmapped.
    Unmap(Range<u64>),
    /// Another event: `UFFD_EVENT_*`.
    Other(u8),
}

/// A buffer for events that are read together.
#[derive(Clone, Copy)]
pub struct Messages<const COUNT: usize>([sys::uffd_msg; COUNT]);

impl<const COUNT: usize> Messages<COUNT> {
    /// Returns a buffer for `COUNT` events.
    #[must_use]
    pub const fn new() -> Self {
        // SAFETY: every bit pattern is a valid uffd_msg.
        Self(unsafe { core::mem::zeroed() })
    }
}

impl<const COUNT: usize> Default for Messages<COUNT> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const COUNT: usize> core::fmt::Debug for Messages<COUNT> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Messages<{COUNT}>")
    }
}

/// A userfaultfd.
#[derive(Debug)]
pub struct Userfault {
    fd: OwnedFd,
}

impl Userfault {
    /// userfaultfd(2), close-on-exec; `flags` are `O_NONBLOCK` and `UFFD_USER_MODE_ONLY`.
    ///
    /// # Errors
    ///
    /// As userfaultfd(2); `ENOSYS` from a kernel without `CONFIG_USERFAULTFD`.
    pub fn open(flags: u32) -> Result<Self, Errno> {
        // SAFETY: touches no memory.
        unsafe { syscall!(sys::__NR_userfaultfd, flags | O_CLOEXEC) }.map(|value| Self {
            fd: OwnedFd::from_return_value(value),
        })
    }

    /// Returns the file descriptor, which is readable when an event is pending.
    #[must_use]
    pub const fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// `UFFDIO_API`: enables the given features (`UFFD_FEATURE_*`). Called once, before everything else.
    /// Returns the features that the kernel has.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a feature that the kernel lacks.
    pub fn enable(&self, features: u64) -> Result<u64, Errno> {
        let mut api = sys::uffdio_api {
            api: sys::UFFD_API.into(),
            features,
            ioctls: 0,
        };
        // SAFETY: the ioctl takes this struct.
        unsafe { self.ioctl(ioctl::UFFDIO_API, &mut api) }.map(|()| api.features)
    }

    /// `UFFDIO_REGISTER`: turns accesses to missing pages of `mapping` into events. Returns the ioctls that
    /// may be used on it, one bit for each `_UFFDIO_*`.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2).
    pub fn register(&self, mapping: &Mapping) -> Result<u64, Errno> {
        self.register_part(mapping, 0..mapping.size())
    }

    /// As [`Userfault::register`], for the bytes in `part`, relative to the start of `mapping` and a multiple
    /// of the page size.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2); `EINVAL` if `part` is not within the mapping.
    pub fn register_part(&self, mapping: &Mapping, part: Range<usize>) -> Result<u64, Errno> {
        let (start, length) = mapping.part(&part)?;
        let mut register = sys::uffdio_register {
            range: range(start.expose_provenance() as u64, length as u64),
            mode: sys::UFFDIO_REGISTER_MODE_MISSING.into(),
            ioctls: 0,
        };
        // SAFETY: the ioctl takes this struct.
        unsafe { self.ioctl(ioctl::UFFDIO_REGISTER, &mut register) }.map(|()| register.ioctls)
    }

    /// `UFFDIO_UNREGISTER`: the kernel resolves faults in `mapping` itself again.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2).
    pub fn unregister(&self, mapping: &Mapping) -> Result<(), Errno> {
        // SAFETY: no reference points into a mapping, see its invariants.
        unsafe { self.unregister_range(mapping.address(), mapping.size() as u64) }
    }

    /// As [`Userfault::unregister`], for `length` bytes, whole pages, starting at `address`.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2).
    ///
    /// # Safety
    ///
    /// Nobody relies on the contents of pages that are missing there: they read as zeros from now on, also
    /// for threads that wait for them. In a child, an inherited descriptor still stands for the parent, whose
    /// pages this changes.
    pub unsafe fn unregister_range(&self, address: u64, length: u64) -> Result<(), Errno> {
        let mut range = range(address, length);
        // SAFETY: the ioctl takes this struct.
        unsafe { self.ioctl(ioctl::UFFDIO_UNREGISTER, &mut range) }
    }

    /// `UFFDIO_WAKE`: wakes threads that wait for a page in `[address, address + length)`; they retry.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2).
    pub fn wake(&self, address: u64, length: u64) -> Result<(), Errno> {
        let mut range = range(address, length);
        // SAFETY: the ioctl takes this struct.
        unsafe { self.ioctl(ioctl::UFFDIO_WAKE, &mut range) }
    }

    /// `UFFDIO_COPY`: installs copies of the pages `source` at `address`. Returns the number of bytes copied.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2); `EEXIST` if a page is present already.
    ///
    /// # Safety
    ///
    /// The bytes are what every user of the pages at `address` expects there, in the process that the
    /// descriptor stands for.
    pub unsafe fn copy(&self, address: u64, source: &[u8], waking: Waking) -> Result<i64, Errno> {
        let mut copy = sys::uffdio_copy {
            dst: address,
            src: source.as_ptr().expose_provenance() as u64,
            len: source.len() as u64,
            mode: waking as u64,
            copy: 0,
        };
        // SAFETY: the ioctl takes this struct, and the kernel reads the slice; the caller guarantees the new
        // contents of the missing pages.
        unsafe { self.ioctl(ioctl::UFFDIO_COPY, &mut copy) }.map(|()| copy.copy)
    }

    /// `UFFDIO_ZEROPAGE`: maps zeros in `[address, address + length)`. Returns the number of bytes.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2); `EEXIST` if a page is present already.
    ///
    /// # Safety
    ///
    /// As [`Userfault::copy`], for zeros.
    pub unsafe fn zeropage(&self, address: u64, length: u64, waking: Waking) -> Result<i64, Errno> {
        let mut zeropage = sys::uffdio_zeropage {
            range: range(address, length),
            mode: waking as u64,
            zeropage: 0,
        };
        // SAFETY: the ioctl takes this struct; the caller guarantees the rest.
        unsafe { self.ioctl(ioctl::UFFDIO_ZEROPAGE, &mut zeropage) }.map(|()| zeropage.zeropage)
    }

    /// `UFFDIO_POISON`, since Linux 6.6: from now on, an access to a missing page in `[address, address +
    /// length)` raises `SIGBUS`, and a system call that accesses it fails with `EFAULT`. Wakes the threads
    /// that wait. Returns the number of bytes.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2); `EINVAL` from a kernel without it.
    pub fn poison(&self, address: u64, length: u64) -> Result<i64, Errno> {
        let mut poison = sys::uffdio_poison {
            range: range(address, length),
            mode: 0,
            updated: 0,
        };
        // SAFETY: the ioctl takes this struct; missing pages stay missing.
        unsafe { self.ioctl(UFFDIO_POISON, &mut poison) }.map(|()| poison.updated)
    }

    /// Reads the next event; waits for one unless the descriptor was opened with `O_NONBLOCK`.
    ///
    /// # Errors
    ///
    /// As read(2); `EAGAIN` if no event is pending and the descriptor is non-blocking.
    pub fn event(&self) -> Result<Event, Errno> {
        let mut messages = Messages::<1>::new();
        let event = self.events(&mut messages)?.next();
        event.ok_or(Errno::EIO)
    }

    /// Reads all pending events that fit into `messages`; waits for the first as [`Userfault::event`] does.
    ///
    /// # Errors
    ///
    /// As [`Userfault::event`].
    pub fn events<'m, const COUNT: usize>(
        &self,
        messages: &'m mut Messages<COUNT>,
    ) -> Result<impl Iterator<Item = Event> + use<'m, COUNT>, Errno> {
        let start = messages.0.as_mut_ptr().cast::<u8>();
        // SAFETY: these are the bytes of the messages, which may have any value.
        let bytes = unsafe { slice::from_raw_parts_mut(start, size_of_val(&messages.0)) };
        let count = read(&self.fd, bytes)? / size_of::<sys::uffd_msg>();
        Ok(Decoded(messages.0.iter().take(count)))
    }

    /// # Safety
    ///
    /// `T` is the struct that the ioctl takes, and the request breaks nobody's memory.
    unsafe fn ioctl<T>(&self, request: u32, argument: &mut T) -> Result<(), Errno> {
        // SAFETY: guaranteed by the caller.
        unsafe { syscall!(sys::__NR_ioctl, &self.fd, request, ptr::from_mut(argument)) }.map(drop)
    }
}

/// `_IOWR(UFFDIO, _UFFDIO_POISON, struct uffdio_poison)` of include/uapi/linux/userfaultfd.h.
const UFFDIO_POISON: u32 = 0xc020_aa08;
static_assertions::const_assert_eq!(size_of::<sys::uffdio_poison>(), 0x20);

/// Decodes messages, each once, and closes the descriptors in messages that the caller does not consume.
struct Decoded<'m>(iter::Take<slice::Iter<'m, sys::uffd_msg>>);

impl Iterator for Decoded<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.0.next().map(decode)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl Drop for Decoded<'_> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

const fn range(start: u64, len: u64) -> sys::uffdio_range {
    sys::uffdio_range { start, len }
}

/// Decodes a message. A message with a descriptor must be decoded once only, since the event owns the
/// descriptor.
fn decode(message: &sys::uffd_msg) -> Event {
    match u32::from(message.event) {
        sys::UFFD_EVENT_PAGEFAULT => {
            // SAFETY: the event says which field of the union is valid; all fields are plain numbers.
            let fault = unsafe { message.arg.pagefault };
            // SAFETY: the only field of this union, a number.
            let thread = unsafe { fault.feat.ptid };
            Event::Pagefault {
                address: fault.address,
                flags: fault.flags,
                thread,
            }
        }
        sys::UFFD_EVENT_FORK => {
            // SAFETY: the event says which field is valid.
            let fork = unsafe { message.arg.fork };
            Event::Fork(Userfault {
                fd: OwnedFd::from_return_value(fork.ufd as usize),
            })
        }
        sys::UFFD_EVENT_REMAP => {
            // SAFETY: the event says which field is valid.
            let remap = unsafe { message.arg.remap };
            Event::Remap {
                from: remap.from,
                to: remap.to,
                length: remap.len,
            }
        }
        sys::UFFD_EVENT_REMOVE | sys::UFFD_EVENT_UNMAP => {
            // SAFETY: the event says which field is valid.
            let remove = unsafe { message.arg.remove };
            let range = remove.start..remove.end;
            if u32::from(message.event) == sys::UFFD_EVENT_REMOVE {
                Event::Remove(range)
            } else {
                Event::Unmap(range)
            }
        }
        _ => Event::Other(message.event),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::pipe;
    use crate::poll::{Events, PollFd, poll};

    #[test]
    fn an_event_that_nobody_asks_for_leaves_no_descriptor() {
        let (reader, writer) = pipe().unwrap();
        let mut messages = Messages::<2>::new();
        messages.0[0].event = u8::try_from(sys::UFFD_EVENT_UNMAP).unwrap();
        messages.0[1].event = u8::try_from(sys::UFFD_EVENT_FORK).unwrap();
        messages.0[1].arg.fork.ufd = reader.number().cast_unsigned();
        // The message owns the descriptor now.
        core::mem::forget(reader);
        let mut events = Decoded(messages.0.iter().take(2));
        assert!(matches!(events.next(), Some(Event::Unmap(_))));
        drop(events);
        let mut fds = [PollFd::new(&writer, Events::WRITABLE)];
        poll(&mut fds, Some(core::time::Duration::ZERO)).unwrap();
        assert!(fds[0].events().intersects(Events::ERROR));
    }
}
