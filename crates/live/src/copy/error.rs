//! What can go wrong when tables are copied.

use core::fmt;

use tablewalk_uapi::Errno;
use tablewalk_walker::{GeometryError, Level, VirtualAddress};

/// Why there is no copy, with the numbers needed to find out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyError {
    /// A file, a map or a program could not be opened or made.
    Open {
        /// What.
        what: &'static str,
        /// The error of the system call.
        errno: Errno,
    },
    /// A file does not say what it should.
    Format {
        /// Which file.
        what: &'static str,
        /// What it lacks, or has too much of.
        problem: &'static str,
    },
    /// Memory of the kernel could not be read.
    Read {
        /// Its address.
        address: u64,
        /// The error of the system call.
        errno: Errno,
    },
    /// The page size and the bits of an address are none that the walker knows.
    Geometry(GeometryError),
    /// What is to be found by trying was not found, or more than once.
    Calibration {
        /// What was looked for.
        what: &'static str,
        /// How many answers there were.
        answers: usize,
    },
    /// The process has no page in memory by which its tables could be proved.
    Unproved {
        /// The process.
        pid: i32,
    },
    /// The tables that were found do not map what pagemap says.
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
        /// Which file of its folder in `/proc`.
        file: &'static str,
        /// The error: `ESRCH` for a process that has no user tables.
        errno: Errno,
    },
    /// There is no such slot.
    Slot {
        /// The slot asked for.
        slot: usize,
        /// How many there are.
        slots: usize,
    },
    /// There are no tables at that level.
    Level(Level),
}

impl CopyError {
    /// Whether the kernel was configured without what would be needed.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        match self {
            Self::Open { errno, .. } => {
                matches!(*errno, Errno::ENOENT | Errno::ENOSYS | Errno::EINVAL)
            }
            _ => false,
        }
    }
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { what, errno } => {
                write!(f, "{what}: {errno}")?;
                f.write_str(match *errno {
                    Errno::EPERM | Errno::EACCES => {
                        ": needs root, and a kernel that is not locked down"
                    }
                    Errno::EINVAL => {
                        ": a kernel without CONFIG_BPF_EVENTS, or locked down for confidentiality"
                    }
                    Errno::ENOSYS | Errno::ENOENT => ": this kernel has none",
                    _ => "",
                })
            }
            Self::Format { what, problem } => write!(f, "{what}: {problem}"),
            Self::Read { address, errno } => write!(f, "kernel memory at {address:#x}: {errno}"),
            Self::Geometry(error) => write!(f, "page-table geometry: {error}"),
            Self::Calibration { what, answers: 0 } => write!(f, "calibration: found no {what}"),
            Self::Calibration { what, answers } => {
                write!(f, "calibration: {what}: {answers} answers, one expected")
            }
            Self::Unproved { pid } => {
                write!(f, "process {pid}: no page in memory to prove its tables by")
            }
            Self::Refuted { pid, address } => write!(
                f,
                "process {pid}: the tables found do not lead from {address} to where pagemap has it"
            ),
            Self::Process { pid, file, errno } => write!(f, "/proc/{pid}/{file}: {errno}"),
            Self::Slot { slot, slots } => write!(f, "slot {slot} of {slots}"),
            Self::Level(level) => write!(f, "no tables of level {level}"),
        }
    }
}

impl core::error::Error for CopyError {}
