//! Reads `/proc`: information about a process, about frames, and about memory.
//!
//! Formats: `Documentation/filesystems/proc.rst` and `Documentation/admin-guide/mm/pagemap.rst`.

#![no_std]

pub mod auxv;
pub mod frames;
pub mod lines;
pub mod pagemap;
pub mod processes;
pub mod smaps;

pub use tablewalk_uapi::path;
