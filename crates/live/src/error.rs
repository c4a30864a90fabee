//! Errors of mapping tables.

use core::fmt;

use tablewalk_uapi::Errno;
use tablewalk_walker::{GeometryError, Level, VirtualAddress};

/// The reason why a table cannot be mapped, with the numbers to find the cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LiveError {
    /// The kernel does not report its geometry: `ENOSYS` if it lacks the call, `EPERM` without
    /// `CAP_SYS_ADMIN`.
    Info(Errno),
    /// The walker does not support the geometry that the kernel reported.
    Geometry(GeometryError),
    /// No memory for the slots.
    Arena {
        /// The requested number.
        slots: usize,
        /// The error of mmap(2).
        errno: Errno,
    },
    /// There is no such slot.
    Slot {
        /// The requested slot.
        slot: usize,
        /// The number of slots.
        slots: usize,
    },
    /// The page of the slot may belong to other code, since the kernel ran out of memory when it was
    /// replaced.
    Lost {
        /// The slot.
        slot: usize,
    },
    /// The kernel refused to map a table.
    Map {
        /// The process.
        pid: i32,
        /// Lookup level of the table.
        level: Level,
        /// The address that the table translates.
        address: VirtualAddress,
        /// The error of remap_page_table(2).
        errno: Errno,
    },
    /// The kernel refused to return the path of an address.
    Path {
        /// The process.
        pid: i32,
        /// The address.
        address: VirtualAddress,
        /// The error of remap_page_table(2).
        errno: Errno,
    },
    /// The kernel refused to invalidate TLB entries.
    Flush {
        /// The process.
        pid: i32,
        /// The first address.
        address: VirtualAddress,
        /// The error of remap_page_table(2).
        errno: Errno,
    },
}

impl fmt::Display for LiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Info(Errno::ENOSYS) => {
                f.write_str("this kernel has no remap_page_table (CONFIG_REMAP_PAGE_TABLE)")
            }
            Self::Info(errno @ Errno::EPERM) => write!(
                f,
                "remap_page_table: {errno}: needs CAP_SYS_ADMIN, run it as root"
            ),
            Self::Info(errno) => write!(f, "remap_page_table: {errno}"),
            Self::Geometry(error) => write!(f, "page-table geometry: {error}"),
            Self::Arena { slots, errno } => write!(f, "arena of {slots} slots: {errno}"),
            Self::Slot { slot, slots } => write!(f, "slot {slot} of {slots}"),
            Self::Lost { slot } => write!(f, "slot {slot} was lost when memory was short"),
            Self::Map {
                pid,
                level,
                address,
                errno,
            } => {
                write!(
                    f,
                    "process {}: {level} table of {address}: {errno}",
                    Pid(*pid)
                )
            }
            Self::Path {
                pid,
                address,
                errno,
            } => write!(f, "process {}: path of {address}: {errno}", Pid(*pid)),
            Self::Flush {
                pid,
                address,
                errno,
            } => {
                write!(
                    f,
                    "process {}: TLB entries from {address} on: {errno}",
                    Pid(*pid)
                )
            }
        }
    }
}

/// A process ID. The kernel refuses negative ones, which are shown unchanged.
struct Pid(i32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}", self.0.unsigned_abs())
    }
}

impl core::error::Error for LiveError {}
