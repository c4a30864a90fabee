//! The kernel interface of Tablewalk as Rust types: [`remap`] is the system call `remap_page_table`, and the
//! other modules are the ordinary system calls that programs without a libc need.
//!
//! A wrapper is one expression: number, typed arguments, typed result. It costs one `svc` and nothing else.
//! The types come from `linux-raw-sys`; `check_types.rs` proves the layout of each struct that is passed to
//! the kernel. Return values from -4095 to -1 are decoded into [`Errno`] in one place.
//!
//! Functions that can break memory safety are `unsafe`: those that unmap or replace pages, or install a
//! signal handler. All others are safe.
//!
//! # Examples
//!
//! Map the level-3 table that translates an address of process 1, and read an entry. This makes one system
//! call.
//!
//! ```no_run
//! use core::sync::atomic::{AtomicU64, Ordering};
//! use tablewalk_uapi::memory::Protection;
//! use tablewalk_uapi::{Mapping, Sharing, remap};
//!
//! let address = 0x40_0000;
//! let info = remap::info()?;
//! let page = 1 << info.page_shift;
//! let mapping = Mapping::anonymous(page, Protection::READ, Sharing::Private)?;
//! // SAFETY: nothing else uses the mapping.
//! let frame = unsafe { remap::map_by_address(1, 3, address, mapping.as_ptr().cast())? };
//! // SAFETY: the table takes the page until `mapping` is dropped; the kernel writes words there.
//! let table = unsafe { core::slice::from_raw_parts(mapping.as_ptr().cast::<AtomicU64>(), page / 8) };
//! let index = address as usize / page % (page / 8);
//! println!("frame {frame:#x}: {:#018x}", table[index].load(Ordering::Relaxed));
//! # Ok::<(), tablewalk_uapi::Errno>(())
//! ```
//!
//! # Versions
//!
//! Semantic versioning; what changes is in `CHANGELOG.md`. Needs Rust 1.88 or later, and no later one
//! within a minor version.

#![no_std]

#[macro_use]
mod syscall;

pub mod bpf;
mod check_types;
pub mod credentials;
pub mod errno;
pub mod file;
pub mod futex;
mod mapping;
pub mod memory;
mod number;
pub mod path;
pub mod poll;
pub mod process;
pub mod raw;
pub mod remap;
pub mod remap_device;
pub mod signal;
pub mod system;
pub mod terminal;
pub mod time;
pub mod track;
pub mod userfault;
pub mod virtual_machine;

pub use errno::Errno;
pub use mapping::{Mapping, Sharing};
