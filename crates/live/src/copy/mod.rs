//! Copies of tables, from a kernel without this series.
//!
//! There are two ways to read the memory of such a kernel: a BPF program ([`Bpf`]) and `/proc/kcore`
//! ([`Kcore`]). Both copy; neither knows where the tables of a process are. [`Calibration`] finds them with
//! pages of this process, whose frames are in pagemap, and verifies the result before it is used. [`Copied`]
//! is a source for the walker on top of both.
//!
//! # How reliable a copy is
//!
//! A table is copied together with the descriptors that lead to it, which must have the same value before and
//! after. BPF does all of that in one run, during which no table is freed (see [`Bpf`]); `/proc/kcore` reads
//! them one after the other, and does not notice a table that was freed and allocated again for the same
//! address in between.
//!
//! Copies do not change, so code that needs current tables does not compile with them:
//!
//! ```compile_fail,E0277
//! use tablewalk_live::copy::{Copied, Either};
//! use tablewalk_walker::Cache;
//!
//! fn cached(copied: Copied<Either>) {
//!     let _cache = Cache::<_, 16, 4>::new(copied);
//! }
//! ```
//!
//! ```compile_fail,E0277
//! use tablewalk_live::copy::{Copied, Either};
//! use tablewalk_walker::{VirtualAddress, entry};
//!
//! fn watched(mut copied: Copied<Either>) {
//!     let entry = entry(&mut copied, 0, VirtualAddress(0x40_0000)).unwrap();
//!     while entry.unwrap().load().0 == 0 {}
//! }
//! ```
//!
//! ```compile_fail,E0599
//! use tablewalk_live::copy::{Copied, Either};
//! use tablewalk_walker::TableSourceMut;
//!
//! fn written<'c>(copied: &'c Copied<Either>) {
//!     let _table = copied.table_mut(0);
//! }
//! ```

mod bpf;
mod calibration;
mod either;
mod error;
#[cfg(test)]
mod fake;
mod kcore;
mod own;
mod program;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod vmcoreinfo;

use core::sync::atomic::AtomicU64;

use heapless::Vec;

pub use self::bpf::{Bpf, Loaded, Processor};
pub use self::calibration::Calibration;
pub use self::either::Either;
pub use self::error::CopyError;
pub use self::kcore::{Kcore, ReadAt};
pub use self::source::Copied;
pub use self::target::Target;

/// Maximum number of differences between linear-map and physical addresses that are tried.
pub const OFFSETS: usize = 1024;

/// Number of descriptors on the path to a table: one for each level above it.
pub(crate) const LINKS: usize = 4;

/// A descriptor that leads to a table, and where it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Address of the entry in the kernel's linear map.
    pub entry: u64,
    /// Its value.
    pub descriptor: u64,
}

/// A table to be copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The descriptor that leads to it; `None` for a root, or for memory that is not a table.
    pub link: Option<Link>,
    /// Its address in the kernel's linear map.
    pub address: u64,
    /// The number of bytes to copy: a multiple of eight, at most a page.
    pub bytes: u64,
}

/// A way to read kernel memory.
///
/// A copy goes to one of [`Kernel::pages`] pages of this process and stays there until the next one.
///
/// # Safety
///
/// The words of a page stay where they are, and can be read there, as long as the value lives; moving it
/// does not move them.
pub unsafe trait Kernel {
    /// Copies the beginning of the `task_struct` of this thread. Returns the number of words.
    ///
    /// # Errors
    ///
    /// [`CopyError`].
    fn own_task(&mut self, words: &mut [u64]) -> Result<usize, CopyError>;

    /// Returns candidates for the difference between an address of the linear map and its physical address,
    /// one of which is right.
    ///
    /// # Errors
    ///
    /// [`CopyError`].
    fn offsets(&mut self, page_shift: u32) -> Result<Vec<u64, OFFSETS>, CopyError>;

    /// Copies the text of VMCOREINFO (`Documentation/admin-guide/kdump/vmcoreinfo.rst`), by a linear map
    /// whose addresses are `offset` above the physical ones. Returns the number of bytes.
    ///
    /// # Errors
    ///
    /// [`CopyError`]: a kernel without `CONFIG_KEXEC_CORE` or `CONFIG_PROC_KCORE` has none.
    fn vmcoreinfo(&mut self, offset: u64, text: &mut [u8]) -> Result<usize, CopyError>;

    /// Reads words from `address` on, a multiple of eight. Returns `false` if there is no readable memory.
    /// Does not change the pages of [`Kernel::copy`].
    ///
    /// # Errors
    ///
    /// [`CopyError`].
    fn read(&mut self, address: u64, words: &mut [u64]) -> Result<bool, CopyError>;

    /// Copies tables to the pages from `page` on, up to [`Kernel::batch`] of them, if the descriptors of
    /// `chain`, which lead to the table with their links, still have the same values. Returns whether they
    /// do; [`Kernel::is_copied`] returns the same for the link of each table.
    ///
    /// # Errors
    ///
    /// [`CopyError`].
    fn copy(&mut self, chain: &[Link], wanted: &[Wanted], page: usize) -> Result<bool, CopyError>;

    /// Returns whether table `number` of the last [`Kernel::copy`] was copied while its link did not change.
    fn is_copied(&self, number: usize) -> bool;

    /// Returns the number of pages for copies.
    fn pages(&self) -> usize;

    /// Returns the maximum number of tables for one [`Kernel::copy`].
    fn batch(&self) -> usize;

    /// Returns the words of page `page`; none if there is no such page.
    fn words(&self, page: usize) -> &[AtomicU64];
}

/// The access flag of a table descriptor does not matter for where it leads, and changes if hardware manages
/// it (`FEAT_HAFT`).
pub(crate) const IGNORED: u64 = 1 << 10;
