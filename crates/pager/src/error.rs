//! Errors of a pager.

use core::fmt;

use tablewalk_live::LiveError;
use tablewalk_uapi::Errno;

/// The reason why a pager cannot be made, or why a worker fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PagerError {
    /// The number of pages or frames is 0, or exceeds the address space.
    Size {
        /// The requested number of pages.
        pages: usize,
        /// The requested number of frames.
        frames: usize,
    },
    /// There are 64 workers already.
    Workers,
    /// The wrong kind of pager: [`Worker::handle`](crate::Worker::handle) is for
    /// [`Delivery::Threads`](crate::Delivery::Threads), [`Worker::resolve_own`](crate::Worker::resolve_own)
    /// for [`Delivery::Signals`](crate::Delivery::Signals).
    Delivery,
    /// The calling process is a child of the one that made the pager.
    Forked,
    /// A table could not be mapped, or the TLB could not be invalidated.
    Tables(LiveError),
    /// A system call failed.
    Call(&'static str, Errno),
}

impl PagerError {
    /// Returns a function for `map_err`.
    pub(crate) fn call(name: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Call(name, errno)
    }
}

impl fmt::Display for PagerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { pages, frames } => {
                write!(f, "a pager of {pages} pages with {frames} frames")
            }
            Self::Workers => f.write_str("64 workers already"),
            Self::Delivery => f.write_str("faults are delivered the other way"),
            Self::Forked => f.write_str("the pager is that of another process"),
            Self::Tables(error) => error.fmt(f),
            Self::Call(name, errno) => write!(f, "{name}: {errno}"),
        }
    }
}

impl core::error::Error for PagerError {}

impl From<LiveError> for PagerError {
    fn from(error: LiveError) -> Self {
        Self::Tables(error)
    }
}
