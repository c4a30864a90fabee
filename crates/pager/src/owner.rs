//! Which process something belongs to.

use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::{Errno, Mapping};

/// A byte that is 1 in the process that has made it, and 0 in a forked child: the kernel wipes it.
#[derive(Debug)]
pub(crate) struct Owner(Mapping);

impl Owner {
    /// `page` is the size of one.
    pub(crate) fn new(page: usize) -> Result<Self, Errno> {
        let byte = Mapping::reserve(page, Protection::READ_WRITE)?;
        byte.advise(0..page, Advice::WipeOnFork)?;
        // SAFETY: the first byte of a mapping that nobody else has.
        unsafe { byte.as_ptr().write_volatile(1) };
        Ok(Self(byte))
    }

    /// Whether this is the process that has made it.
    pub(crate) fn is_here(&self) -> bool {
        // SAFETY: the first byte of a mapping.
        unsafe { self.0.as_ptr().read_volatile() == 1 }
    }
}
