//! Detects a fork: whether this process is the owner.

use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::{Errno, Mapping};

/// A byte that is 1 in the process that made it, and 0 in a forked child: the kernel wipes it
/// (`MADV_WIPEONFORK`).
#[derive(Debug)]
pub(crate) struct Owner(Mapping);

impl Owner {
    /// `page` is the page size in bytes.
    pub(crate) fn new(page: usize) -> Result<Self, Errno> {
        let byte = Mapping::reserve(page, Protection::READ_WRITE)?;
        byte.advise(0..page, Advice::WipeOnFork)?;
        // SAFETY: the first byte of a mapping that only this value uses.
        unsafe { byte.as_ptr().write_volatile(1) };
        Ok(Self(byte))
    }

    /// Returns whether this is the process that made the value.
    pub(crate) fn is_here(&self) -> bool {
        // SAFETY: the first byte of a mapping.
        unsafe { self.0.as_ptr().read_volatile() == 1 }
    }
}
