//! Tables as copies, from a kernel that nobody patched.
//!
//! Two ways lead to the memory of such a kernel: a program of BPF ([`Bpf`]) and `/proc/kcore`
//! ([`Kcore`]). Both copy; neither knows where the tables of a process are. [`Calibration`] finds that
//! out with pages of this process, whose frames pagemap tells, and proves it before it is used.
//! [`Copied`] is a source for the walker on top of both.
//!
//! # What a copy is worth
//!
//! A table is copied together with the descriptors that lead to it: those have to hold what they held
//! before and after. BPF does all of that in one run, in which no table is freed (see [`Bpf`]);
//! `/proc/kcore` reads them one after the other, and a table that was freed and taken again for the same
//! place in between is not noticed.
//!
//! Copies do not change, so what would believe that they are true now does not compile:
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

/// Most differences between addresses of the linear map and physical ones that are tried.
pub const OFFSETS: usize = 1024;

/// Descriptors on the way to a table: one for each level above it.
pub(crate) const LINKS: usize = 4;

/// A descriptor that leads to a table, and where it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Address of the entry in the kernel's linear map.
    pub entry: u64,
    /// What it held.
    pub descriptor: u64,
}

/// A table to be copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The descriptor that leads to it; `None` for a root, or for memory that is no table.
    pub link: Option<Link>,
    /// Its address in the kernel's linear map.
    pub address: u64,
    /// How many bytes of it: a multiple of eight, and no more than a page.
    pub bytes: u64,
}

/// A way to read the memory of the kernel.
///
/// A copy goes to one of [`Kernel::pages`] pages of this process and stays there until the next one.
///
/// # Safety
///
/// The words of a page stay where they are, and can be read there, as long as the value lives; moving it
/// does not move them.
pub unsafe trait Kernel {
    /// Copies the beginning of the `task_struct` of this thread; how many words.
    ///
    /// # Errors
    ///
    /// [`CopyError`].
    fn own_task(&mut self, words: &mut [u64]) -> Result<usize, CopyError>;

    /// Differences between an address of the linear map and the physical address behind it, one of which
    /// is right.
    ///
    /// # Errors
    ///
    /// [`CopyError`].
    fn offsets(&mut self, page_shift: u32) -> Result<Vec<u64, OFFSETS>, CopyError>;

    /// Copies the text of VMCOREINFO (`Documentation/admin-guide/kdump/vmcoreinfo.rst`), by a linear map
    /// whose addresses are `offset` above the physical ones; how many bytes.
    ///
    /// # Errors
    ///
    /// [`CopyError`]: a kernel without `CONFIG_KEXEC_CORE` or `CONFIG_PROC_KCORE` has none.
    fn vmcoreinfo(&mut self, offset: u64, text: &mut [u8]) -> Result<usize, CopyError>;

    /// Reads words from `address` on, a multiple of eight. `false` if there is no memory to be read. Changes
    /// no page that [`Kernel::copy`] can name.
    ///
    /// # Errors
    ///
    /// [`CopyError`].
    fn read(&mut self, address: u64, words: &mut [u64]) -> Result<bool, CopyError>;

    /// Copies tables to the pages from `page` on, up to [`Kernel::batch`] of them, if the descriptors of
    /// `chain`, which lead to the table that their links are in, still hold what they held. Returns
    /// whether they do; [`Kernel::is_copied`] says the same of the link of each.
    ///
    /// # Errors
    ///
    /// [`CopyError`].
    fn copy(&mut self, chain: &[Link], wanted: &[Wanted], page: usize) -> Result<bool, CopyError>;

    /// Whether table `number` of the last [`Kernel::copy`] was copied while its link held.
    fn is_copied(&self, number: usize) -> bool;

    /// Pages for copies.
    fn pages(&self) -> usize;

    /// Most tables for one [`Kernel::copy`].
    fn batch(&self) -> usize;

    /// The words of page `page`; none if there is no such page.
    fn words(&self, page: usize) -> &[AtomicU64];
}

/// The access flag of a table descriptor says nothing about where it leads, and where hardware manages it
/// (`FEAT_HAFT`) it comes and goes.
pub(crate) const IGNORED: u64 = 1 << 10;
