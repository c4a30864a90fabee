//! The errors that end a test program.

use core::fmt;

use tablewalk_dirty::DirtyError;
use tablewalk_live::LiveError;
use tablewalk_pager::PagerError;
use tablewalk_uapi::Errno;

/// An error, with the operation that failed.
#[derive(Clone, Copy, Debug)]
pub enum Error {
    /// Mapping tables.
    Live(LiveError),
    /// Resolving faults.
    Pager(PagerError),
    /// Tracking written pages.
    Dirty(DirtyError),
    /// A system call; the text says what it was for.
    Call(&'static str, Errno),
}

impl Error {
    /// Returns a function that wraps the errno of a system call made for `purpose`.
    pub fn call(purpose: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Call(purpose, errno)
    }
}

impl From<LiveError> for Error {
    fn from(error: LiveError) -> Self {
        Self::Live(error)
    }
}

impl From<PagerError> for Error {
    fn from(error: PagerError) -> Self {
        Self::Pager(error)
    }
}

impl From<DirtyError> for Error {
    fn from(error: DirtyError) -> Self {
        Self::Dirty(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live(error) => error.fmt(f),
            Self::Pager(error) => error.fmt(f),
            Self::Dirty(error) => error.fmt(f),
            Self::Call(purpose, errno) => write!(f, "{purpose}: {errno}"),
        }
    }
}

impl core::error::Error for Error {}
