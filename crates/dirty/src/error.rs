//! Errors of dirty tracking.

use core::fmt;

use tablewalk_uapi::Errno;
use tablewalk_walker::VirtualAddress;

/// Why tracking failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirtyError {
    /// The kernel refused: `EINVAL` for memory of a kind that cannot be tracked, or from a kernel without
    /// tracking; `EPERM`; `ESRCH`.
    Track {
        /// The process; 0 is the caller.
        pid: i32,
        /// The first address that was not processed.
        address: VirtualAddress,
        /// The error of remap_page_table(2).
        errno: Errno,
    },
    /// Tracking through entries is not possible: see [`Entries::start`](crate::Entries::start).
    Entries {
        /// The error of a system call, or of [`Entries`](crate::Entries) itself.
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
                // Printed unsigned, like all PIDs, so that the program needs one number formatter less.
                let pid = pid.cast_unsigned();
                write!(f, "process {pid}: pages from {address} on: {errno}")
            }
            Self::Entries { errno } => write!(f, "tracking by entries: {errno}"),
        }
    }
}

impl core::error::Error for DirtyError {}
