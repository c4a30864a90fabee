//! Errors of copying tables.

use core::fmt;

use tablewalk_uapi::Errno;
use tablewalk_walker::{GeometryError, Level, VirtualAddress};

/// The reason why a table cannot be copied, with the numbers to find the cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyError {
    /// A file could not be opened, or a map or program could not be created.
    Open {
        /// The file, the map or the program.
        what: &'static str,
        /// The error of the system call.
        errno: Errno,
    },
    /// A file has unexpected contents.
    Format {
        /// The file.
        what: &'static str,
        /// What is wrong in it.
        problem: &'static str,
    },
    /// Kernel memory could not be read.
    Read {
        /// Its address.
        address: u64,
        /// The error of the system call.
        errno: Errno,
    },
    /// The walker does not support this page size with this number of address bits.
    Geometry(GeometryError),
    /// A search of the calibration has no result, or more than one.
    Calibration {
        /// What the search looks for.
        what: &'static str,
        /// The number of results.
        answers: usize,
    },
    /// The process has no page in memory by which its tables could be verified.
    Unproved {
        /// The process.
        pid: i32,
    },
    /// The tables that were found do not agree with pagemap.
    Refuted {
        /// The process.
        pid: i32,
        /// The address of the page.
        address: VirtualAddress,
    },
    /// A file of the process could not be opened or read.
    Process {
        /// The process.
        pid: i32,
        /// The name of the file in `/proc/PID`.
        file: &'static str,
        /// The error: `ESRCH` for a process that has no user tables.
        errno: Errno,
    },
    /// There is no such slot.
    Slot {
        /// The requested slot.
        slot: usize,
        /// The number of slots.
        slots: usize,
    },
    /// There are no tables at that level.
    Level(Level),
}

impl CopyError {
    /// Returns whether the kernel was configured without the required feature, or is too old for it.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        match *self {
            // Maps that can be mapped are unknown before Linux 5.5.
            Self::Open { what, errno } => match errno {
                Errno::ENOENT | Errno::ENOSYS => true,
                _ => (what, errno) == (BPF_MAP, Errno::EINVAL),
            },
            Self::Process { errno, .. } => errno == Errno::ENOENT,
            _ => false,
        }
    }
}

/// Values of `what` in [`CopyError::Open`].
pub(super) const BPF_MAP: &str = "BPF map";
pub(super) const BPF_PROGRAM: &str = "BPF program";
pub(super) const KCORE: &str = "/proc/kcore";

/// Returns advice how to avoid the error, to be appended to the message.
fn advice(what: &str, errno: Errno) -> &'static str {
    match (what, errno) {
        (BPF_MAP | BPF_PROGRAM, Errno::EPERM) => {
            ": needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN"
        }
        (KCORE, Errno::EPERM) => {
            ": needs CAP_SYS_RAWIO, and a kernel that is not locked down for confidentiality"
        }
        (_, Errno::EPERM | Errno::EACCES) => ": needs root",
        (BPF_PROGRAM, Errno::EINVAL) => {
            ": the kernel does not let it read memory: locked down for confidentiality?"
        }
        (BPF_PROGRAM, Errno::ENOSYS) => ": a kernel without CONFIG_BPF_EVENTS",
        (_, Errno::ENOSYS | Errno::ENOENT) => ": this kernel has none",
        _ => "",
    }
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { what, errno } => {
                write!(f, "{what}: {errno}{}", advice(what, *errno))
            }
            Self::Format { what, problem } => write!(f, "{what}: {problem}"),
            Self::Read { address, errno } => write!(f, "kernel memory at {address:#x}: {errno}"),
            Self::Geometry(error) => write!(f, "page-table geometry: {error}"),
            Self::Calibration { what, answers: 0 } => write!(f, "calibration: found no {what}"),
            Self::Calibration { what, answers } => {
                write!(f, "calibration: {what}: {answers} answers, one expected")
            }
            Self::Unproved { pid } => {
                let pid = pid.cast_unsigned();
                write!(f, "process {pid}: no page in memory to prove its tables by")
            }
            Self::Refuted { pid, address } => write!(
                f,
                "process {}: the tables found do not lead from {address} to where pagemap has it",
                pid.cast_unsigned()
            ),
            Self::Process { pid, file, errno } => {
                write!(f, "/proc/{}/{file}: {errno}", pid.cast_unsigned())?;
                f.write_str(match (*file, *errno) {
                    ("pagemap", Errno::ENOENT) => ": no /proc, or no CONFIG_PROC_PAGE_MONITOR",
                    ("pagemap", Errno::EPERM) => ": frames need CAP_SYS_ADMIN",
                    _ => "",
                })
            }
            Self::Slot { slot, slots } => write!(f, "slot {slot} of {slots}"),
            Self::Level(level) => write!(f, "no tables of level {level}"),
        }
    }
}

impl core::error::Error for CopyError {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn an_error_says_what_would_help_and_whether_the_kernel_lacks_it() {
        let of = |what, errno| CopyError::Open { what, errno };
        let pagemap = |pid, errno| CopyError::Process {
            pid,
            file: "pagemap",
            errno,
        };
        for (error, missing, said) in [
            (of(BPF_MAP, Errno::EPERM), false, "CAP_BPF and CAP_PERFMON"),
            (of(BPF_MAP, Errno::EINVAL), true, "BPF map: EINVAL"),
            (of(BPF_MAP, Errno::ENOSYS), true, "this kernel has none"),
            (of(BPF_PROGRAM, Errno::ENOSYS), true, "CONFIG_BPF_EVENTS"),
            // The kernel is locked down, which is not a missing feature.
            (of(BPF_PROGRAM, Errno::EINVAL), false, "locked down"),
            (of(KCORE, Errno::EPERM), false, "CAP_SYS_RAWIO"),
            (of(KCORE, Errno::ENOENT), true, "this kernel has none"),
            (pagemap(7, Errno::ENOENT), true, "CONFIG_PROC_PAGE_MONITOR"),
            (pagemap(7, Errno::EPERM), false, "CAP_SYS_ADMIN"),
            (pagemap(7, Errno::ESRCH), false, "/proc/7/pagemap: ESRCH"),
        ] {
            assert_eq!(error.is_missing(), missing, "{error}");
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
