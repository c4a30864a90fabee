//! eventfd(2): a counter that threads wait for together with other descriptors.

#![expect(unsafe_code, reason = "the kernel reads and writes a word")]

use linux_raw_sys::general as sys;

use crate::errno::Errno;
use crate::file::{OwnedFd, read, write};

/// A semaphore with a descriptor, which is readable while the count is not 0.
#[derive(Debug)]
pub struct Semaphore(OwnedFd);

impl Semaphore {
    /// One with a count of 0, close-on-exec: eventfd(2) with `EFD_SEMAPHORE` and `EFD_NONBLOCK`.
    ///
    /// # Errors
    ///
    /// As eventfd(2); `ENOSYS` from a kernel without `CONFIG_EVENTFD`.
    pub fn new() -> Result<Self, Errno> {
        let flags = sys::EFD_SEMAPHORE | sys::EFD_NONBLOCK | sys::EFD_CLOEXEC;
        // SAFETY: touches no memory.
        unsafe { syscall!(sys::__NR_eventfd2, 0_u32, flags) }
            .map(|value| Self(OwnedFd::from_return_value(value)))
    }

    /// The descriptor to wait for.
    #[must_use]
    pub const fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Adds `count`. Never waits.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if the count would pass 2⁶⁴ − 2.
    pub fn add(&self, count: u64) -> Result<(), Errno> {
        write(&self.0, &count.to_ne_bytes()).map(drop)
    }

    /// Takes one, if there is one; whether there was. Never waits.
    ///
    /// # Errors
    ///
    /// As read(2), but for `EAGAIN`.
    pub fn take(&self) -> Result<bool, Errno> {
        match read(&self.0, &mut [0; 8]) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_was_added_and_no_more() {
        let semaphore = Semaphore::new().unwrap();
        assert_eq!(semaphore.take(), Ok(false));
        semaphore.add(2).unwrap();
        semaphore.add(1).unwrap();
        let taken = [(); 4].map(|()| semaphore.take().unwrap());
        assert_eq!(taken, [true, true, true, false]);
    }
}
