//! What can go wrong.

use core::fmt;

use tablewalk_uapi::Errno;
use tablewalk_walker::VirtualAddress;

/// Why nothing is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirtyError {
    /// The kernel refused: `EINVAL` for memory of another kind than can be tracked, and from a kernel
    /// that does not track; `EPERM`; `ESRCH`.
    Track {
        /// The process; 0 is the caller.
        pid: i32,
        /// Where it would have gone on.
        address: VirtualAddress,
        /// The error of remap_page_table(2).
        errno: Errno,
    },
    /// The way by entries is not possible: see [`Entries::start`](crate::Entries::start).
    Entries {
        /// The error of a system call, or its own.
        errno: Errno,
    },
}

impl fmt::Display for DirtyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Track {
                pid,
                address,
                errno,
            } => {
                // Unsigned, as PIDs are: one way of printing numbers less in a program.
                let pid = pid.cast_unsigned();
                write!(f, "process {pid}: pages from {address} on: {errno}")
            }
            Self::Entries { errno } => write!(f, "tracking by entries: {errno}"),
        }
    }
}

impl core::error::Error for DirtyError {}
