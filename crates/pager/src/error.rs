//! What can go wrong.

use core::fmt;

use tablewalk_live::LiveError;
use tablewalk_uapi::Errno;

/// Why there is no pager, or why a worker gives up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PagerError {
    /// No pages or no frames, or more than there are addresses for.
    Size {
        /// Pages asked for.
        pages: usize,
        /// Frames asked for.
        frames: usize,
    },
    /// All 64 workers are there already.
    Workers,
    /// The handler of [`Worker::handle`](crate::Worker::handle) is for
    /// [`Delivery::Threads`](crate::Delivery::Threads), that of
    /// [`Worker::resolve_own`](crate::Worker::resolve_own) for the other one.
    Delivery,
    /// The calling process is a child of the one that made the pager.
    Forked,
    /// A table could not be mapped, or the TLB not be invalidated.
    Tables(LiveError),
    /// A system call failed.
    Call(&'static str, Errno),
}

impl PagerError {
    /// For `map_err`.
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
