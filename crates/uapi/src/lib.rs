//! The kernel's side of Tablewalk as Rust types: [`remap`] is the system call
//! `remap_page_table`, the other modules are the ordinary system calls that programs without a libc
//! need around it.
//!
//! A wrapper is one expression: number, typed arguments, typed result. It costs one `svc` and
//! nothing else. Types are those of `linux-raw-sys`; `check_types.rs` proves the layout of each one
//! that is handed to the kernel. The values -4095 to -1 are decoded into [`Errno`] in one place.
//!
//! Functions that can break memory safety (unmapping, replacing a page, a signal handler) are
//! `unsafe`, the rest are not.

#![no_std]

#[macro_use]
mod syscall;

mod check_types;
pub mod credentials;
pub mod errno;
pub mod file;
pub mod futex;
mod mapping;
pub mod memory;
mod number;
pub mod poll;
pub mod process;
pub mod raw;
pub mod remap;
pub mod signal;
pub mod system;
pub mod time;
pub mod userfault;

pub use errno::Errno;
pub use mapping::{Mapping, Sharing};
