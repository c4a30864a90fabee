//! userfaultfd(2): page faults of one thread, handled by another.

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

/// Whether threads that wait for a page are woken when it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Waking {
    /// They are.
    Wake = 0,
    /// They are not: [`Userfault::wake`] does it later.
    Later = sys::UFFDIO_COPY_MODE_DONTWAKE as u64,
}

// One type serves both ioctls.
static_assertions::const_assert_eq!(
    sys::UFFDIO_COPY_MODE_DONTWAKE,
    sys::UFFDIO_ZEROPAGE_MODE_DONTWAKE
);

/// What a thread waits for, or what was done to memory that is registered.
#[derive(Debug)]
pub enum Event {
    /// A page that is missing.
    Pagefault {
        /// The address, of the page if not asked for otherwise.
        address: u64,
        /// `UFFD_PAGEFAULT_FLAG_*`.
        flags: u64,
        /// The thread that waits, if `UFFD_FEATURE_THREAD_ID` was asked for; 0 else.
        thread: u32,
    },
    /// The process has forked; the events of the child come from here.
    Fork(Userfault),
    /// A range has moved.
    Remap {
        /// Where it was.
        from: u64,
        /// Where it is.
        to: u64,
        /// Its bytes.
        length: u64,
    },
    /// The pages of a range are discarded.
    Remove(Range<u64>),
    /// A range is not mapped any more.
    Unmap(Range<u64>),
    /// Another event, by its `UFFD_EVENT_*`.
    Other(u8),
}

/// Room for events that are read together.
#[derive(Clone, Copy)]
pub struct Messages<const COUNT: usize>([sys::uffd_msg; COUNT]);

impl<const COUNT: usize> Messages<COUNT> {
    /// Room for `COUNT` events.
    #[must_use]
    pub const fn new() -> Self {
        // SAFETY: every bit pattern is a uffd_msg.
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

    /// The file descriptor, readable when an event has come.
    #[must_use]
    pub const fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// `UFFDIO_API` with the features (`UFFD_FEATURE_*`) wanted, once, before all else; the features
    /// that the kernel has.
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

    /// `UFFDIO_REGISTER`: accesses to missing pages of `mapping` become events; the ioctls that may
    /// be used on it, a bit for each `_UFFDIO_*`.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2).
    pub fn register(&self, mapping: &Mapping) -> Result<u64, Errno> {
        self.register_part(mapping, 0..mapping.size())
    }

    /// As [`Userfault::register`], for the bytes in `part`, relative to the start of `mapping`, whole
    /// pages.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2); `EINVAL` for a part that is not inside the mapping.
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

    /// `UFFDIO_UNREGISTER`: accesses to missing pages of `mapping` are the kernel's business again.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2).
    pub fn unregister(&self, mapping: &Mapping) -> Result<(), Errno> {
        // SAFETY: nobody has a reference to what is in a mapping, see its invariants.
        unsafe { self.unregister_range(mapping.address(), mapping.size() as u64) }
    }

    /// As [`Userfault::unregister`], for `length` bytes from `address` on, whole pages.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2).
    ///
    /// # Safety
    ///
    /// Nobody relies on what missing pages there are to hold: they read as zeros from now on, for those
    /// who wait for them, too. In a child the descriptor is that of its parent, whose pages are meant.
    pub unsafe fn unregister_range(&self, address: u64, length: u64) -> Result<(), Errno> {
        let mut range = range(address, length);
        // SAFETY: the ioctl takes this struct.
        unsafe { self.ioctl(ioctl::UFFDIO_UNREGISTER, &mut range) }
    }

    /// `UFFDIO_WAKE`: threads that wait for a page in `[address, address + length)` try again.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2).
    pub fn wake(&self, address: u64, length: u64) -> Result<(), Errno> {
        let mut range = range(address, length);
        // SAFETY: the ioctl takes this struct.
        unsafe { self.ioctl(ioctl::UFFDIO_WAKE, &mut range) }
    }

    /// `UFFDIO_COPY`: puts copies of the pages `source` at `address`; the number of bytes.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2); `EEXIST` if there is a page already.
    ///
    /// # Safety
    ///
    /// The bytes are what whoever has a reference to the pages at `address` relies on, in the process
    /// that the descriptor is for.
    pub unsafe fn copy(&self, address: u64, source: &[u8], waking: Waking) -> Result<i64, Errno> {
        let mut copy = sys::uffdio_copy {
            dst: address,
            src: source.as_ptr().expose_provenance() as u64,
            len: source.len() as u64,
            mode: waking as u64,
            copy: 0,
        };
        // SAFETY: the ioctl takes this struct; the kernel reads the slice, and what it makes of pages
        // that were missing is the caller's promise.
        unsafe { self.ioctl(ioctl::UFFDIO_COPY, &mut copy) }.map(|()| copy.copy)
    }

    /// `UFFDIO_ZEROPAGE`: puts pages of zeros in `[address, address + length)`; the number of bytes.
    ///
    /// # Errors
    ///
    /// As ioctl_userfaultfd(2); `EEXIST` if there is a page already.
    ///
    /// # Safety
    ///
    /// As [`Userfault::copy`], of zeros.
    pub unsafe fn zeropage(&self, address: u64, length: u64, waking: Waking) -> Result<i64, Errno> {
        let mut zeropage = sys::uffdio_zeropage {
            range: range(address, length),
            mode: waking as u64,
            zeropage: 0,
        };
        // SAFETY: the ioctl takes this struct; the rest is the caller's promise.
        unsafe { self.ioctl(ioctl::UFFDIO_ZEROPAGE, &mut zeropage) }.map(|()| zeropage.zeropage)
    }

    /// `UFFDIO_POISON`, of Linux 6.6: an access to a page that is missing in `[address, address + length)`
    /// gets `SIGBUS` from now on, and a system call `EFAULT`. Wakes the threads that wait. Returns the number of bytes.
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
        // SAFETY: the ioctl takes this struct; what was missing stays missing.
        unsafe { self.ioctl(UFFDIO_POISON, &mut poison) }.map(|()| poison.updated)
    }

    /// Reads the next event; waits for it unless opened with `O_NONBLOCK`.
    ///
    /// # Errors
    ///
    /// As read(2); `EAGAIN` if there is none and the descriptor does not block.
    pub fn event(&self) -> Result<Event, Errno> {
        let mut messages = Messages::<1>::new();
        let event = self.events(&mut messages)?.next();
        event.ok_or(Errno::EIO)
    }

    /// Reads as many events as there are and as there is room for; waits for the first as
    /// [`Userfault::event`].
    ///
    /// # Errors
    ///
    /// As [`Userfault::event`].
    pub fn events<'m, const COUNT: usize>(
        &self,
        messages: &'m mut Messages<COUNT>,
    ) -> Result<impl Iterator<Item = Event> + use<'m, COUNT>, Errno> {
        let start = messages.0.as_mut_ptr().cast::<u8>();
        // SAFETY: the bytes of the messages, whatever they are.
        let bytes = unsafe { slice::from_raw_parts_mut(start, size_of_val(&messages.0)) };
        let count = read(&self.fd, bytes)? / size_of::<sys::uffd_msg>();
        Ok(Decoded(messages.0.iter().take(count)))
    }

    /// # Safety
    ///
    /// `T` is the struct that the ioctl takes, and what it asks for breaks nobody's memory.
    unsafe fn ioctl<T>(&self, request: u32, argument: &mut T) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        unsafe { syscall!(sys::__NR_ioctl, &self.fd, request, ptr::from_mut(argument)) }.map(drop)
    }
}

/// `_IOWR(UFFDIO, _UFFDIO_POISON, struct uffdio_poison)` of include/uapi/linux/userfaultfd.h.
const UFFDIO_POISON: u32 = 0xc020_aa08;
static_assertions::const_assert_eq!(size_of::<sys::uffdio_poison>(), 0x20);

/// Decodes messages, each once: descriptors of those that nobody asks for are closed.
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

/// What a message says. A message with a descriptor is decoded once.
fn decode(message: &sys::uffd_msg) -> Event {
    match u32::from(message.event) {
        sys::UFFD_EVENT_PAGEFAULT => {
            // SAFETY: the event says which field it is; all fields are plain numbers.
            let fault = unsafe { message.arg.pagefault };
            // SAFETY: the union's only field, a number.
            let thread = unsafe { fault.feat.ptid };
            Event::Pagefault {
                address: fault.address,
                flags: fault.flags,
                thread,
            }
        }
        sys::UFFD_EVENT_FORK => {
            // SAFETY: as above.
            let fork = unsafe { message.arg.fork };
            Event::Fork(Userfault {
                fd: OwnedFd::from_return_value(fork.ufd as usize),
            })
        }
        sys::UFFD_EVENT_REMAP => {
            // SAFETY: as above.
            let remap = unsafe { message.arg.remap };
            Event::Remap {
                from: remap.from,
                to: remap.to,
                length: remap.len,
            }
        }
        sys::UFFD_EVENT_REMOVE | sys::UFFD_EVENT_UNMAP => {
            // SAFETY: as above.
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
        // The message has it now.
        core::mem::forget(reader);
        let mut events = Decoded(messages.0.iter().take(2));
        assert!(matches!(events.next(), Some(Event::Unmap(_))));
        drop(events);
        let mut fds = [PollFd::new(&writer, Events::WRITABLE)];
        poll(&mut fds, Some(core::time::Duration::ZERO)).unwrap();
        assert!(fds[0].events().intersects(Events::ERROR));
    }
}
