//! Memory of the calling process by address. [`Mapping`](crate::Mapping) owns such memory.

#![expect(unsafe_code, reason = "maps and unmaps memory")]

use core::ffi::{c_ulong, c_void};
use core::ptr;

use bitflags::bitflags;
use linux_raw_sys::general as sys;
pub use linux_raw_sys::general::{
    MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_HUGE_SHIFT, MAP_HUGETLB, MAP_NORESERVE, MAP_POPULATE,
    MAP_PRIVATE, MAP_SHARED, MREMAP_FIXED, MREMAP_MAYMOVE,
};
#[cfg(target_arch = "aarch64")]
use linux_raw_sys::general::{PROT_BTI, PROT_MTE};
use linux_raw_sys::mempolicy::MPOL_LOCAL;

use crate::errno::Errno;
use crate::file::OwnedFd;

/// The host of the unit tests has no such protection.
#[cfg(not(target_arch = "aarch64"))]
const PROT_BTI: u32 = 0;
/// As [`PROT_BTI`].
#[cfg(not(target_arch = "aarch64"))]
const PROT_MTE: u32 = 0;

bitflags! {
    /// Access permissions of a mapping: `PROT_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Protection: u32 {
        /// `PROT_NONE`.
        const NONE = sys::PROT_NONE;
        /// `PROT_READ`.
        const READ = sys::PROT_READ;
        /// `PROT_WRITE`.
        const WRITE = sys::PROT_WRITE;
        /// `PROT_EXEC`.
        const EXECUTE = sys::PROT_EXEC;
        /// `PROT_BTI` of arm64, with `PROT_READ` and `PROT_EXEC`: indirect branches must land on a BTI
        /// instruction.
        const GUARDED = sys::PROT_READ | sys::PROT_EXEC | PROT_BTI;
        /// `PROT_MTE` of arm64, with `PROT_READ` and `PROT_WRITE`: memory with allocation tags.
        const TAGGED = sys::PROT_READ | sys::PROT_WRITE | PROT_MTE;
        /// `PROT_READ` and `PROT_WRITE`.
        const READ_WRITE = sys::PROT_READ | sys::PROT_WRITE;
    }
}

/// Advice of madvise(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Advice {
    /// `MADV_DONTNEED`: discards the pages.
    DontNeed = sys::MADV_DONTNEED,
    /// `MADV_POPULATE_READ`: faults in all pages for reading.
    PopulateRead = sys::MADV_POPULATE_READ,
    /// `MADV_POPULATE_WRITE`: faults in all pages for writing.
    PopulateWrite = sys::MADV_POPULATE_WRITE,
    /// `MADV_DONTFORK`: a child does not inherit the pages.
    DontFork = sys::MADV_DONTFORK,
    /// `MADV_MERGEABLE`: KSM may merge equal pages.
    Mergeable = sys::MADV_MERGEABLE,
    /// `MADV_UNMERGEABLE`: KSM may not merge pages; merged pages are copied again.
    Unmergeable = sys::MADV_UNMERGEABLE,
    /// `MADV_COLLAPSE`: collapses the pages into huge pages.
    Collapse = sys::MADV_COLLAPSE,
    /// `MADV_FREE`: the kernel may free the pages when memory is short, until they are written again.
    Free = sys::MADV_FREE,
    /// `MADV_COLD`: the pages are the next to be reclaimed.
    Cold = sys::MADV_COLD,
    /// `MADV_PAGEOUT`: reclaims the pages, to swap or to their file.
    PageOut = sys::MADV_PAGEOUT,
    /// `MADV_HWPOISON`: simulates a memory error.
    HardwarePoison = sys::MADV_HWPOISON,
    /// `MADV_SOFT_OFFLINE`: migrates the pages and takes their old frames out of service.
    SoftOffline = sys::MADV_SOFT_OFFLINE,
    /// `MADV_HUGEPAGE`: prefers huge pages.
    HugePage = sys::MADV_HUGEPAGE,
    /// `MADV_NOHUGEPAGE`: no huge pages.
    NoHugePage = sys::MADV_NOHUGEPAGE,
    /// `MADV_DOFORK`: a child inherits the pages.
    DoFork = sys::MADV_DOFORK,
    /// `MADV_DODUMP`: a core dump includes the pages.
    DoDump = sys::MADV_DODUMP,
    /// `MADV_DONTNEED_LOCKED`: as `DontNeed`, also for locked pages.
    DontNeedLocked = sys::MADV_DONTNEED_LOCKED,
    /// `MADV_WIPEONFORK`: a child sees zeros there.
    WipeOnFork = sys::MADV_WIPEONFORK,
}

/// mmap(2) of anonymous memory; `flags` are `MAP_*`.
///
/// # Errors
///
/// As mmap(2).
///
/// # Safety
///
/// With `MAP_FIXED`, nothing relies on the memory that was mapped at `address` before.
pub unsafe fn mmap_anonymous(
    address: *mut c_void,
    size: usize,
    protection: Protection,
    flags: u32,
) -> Result<*mut c_void, Errno> {
    let flags = flags | sys::MAP_ANONYMOUS;
    // SAFETY: guaranteed by the caller.
    unsafe {
        syscall!(
            sys::__NR_mmap,
            address,
            size,
            protection.bits(),
            flags,
            -1_i32,
            0_usize
        )
    }
    .map(ptr::with_exposed_provenance_mut)
}

/// mmap(2) of `size` bytes of a file, starting at `offset`, at an address that the kernel chooses; `flags`
/// are `MAP_*` without `MAP_FIXED`.
///
/// # Errors
///
/// As mmap(2).
pub fn mmap_file(
    size: usize,
    protection: Protection,
    flags: u32,
    fd: &OwnedFd,
    offset: u64,
) -> Result<*mut c_void, Errno> {
    let flags = flags & !(MAP_FIXED | MAP_FIXED_NOREPLACE);
    let address: *mut c_void = ptr::null_mut();
    // SAFETY: no existing mapping changes.
    unsafe {
        syscall!(
            sys::__NR_mmap,
            address,
            size,
            protection.bits(),
            flags,
            fd,
            offset
        )
    }
    .map(ptr::with_exposed_provenance_mut)
}

/// munmap(2).
///
/// # Errors
///
/// As munmap(2).
///
/// # Safety
///
/// Nothing relies on the memory that is mapped there.
pub unsafe fn munmap(address: *mut c_void, size: usize) -> Result<(), Errno> {
    // SAFETY: guaranteed by the caller.
    unsafe { syscall!(sys::__NR_munmap, address, size) }.map(drop)
}

/// mremap(2). Returns the new address. `flags` are `MREMAP_*`.
///
/// # Errors
///
/// As mremap(2).
///
/// # Safety
///
/// Nothing relies on the mapping staying at `address`, nor, with `MREMAP_FIXED`, on the memory that was
/// mapped at `new_address` before.
pub unsafe fn mremap(
    address: *mut c_void,
    old_size: usize,
    new_size: usize,
    flags: u32,
    new_address: *mut c_void,
) -> Result<*mut c_void, Errno> {
    // SAFETY: guaranteed by the caller.
    unsafe {
        syscall!(
            sys::__NR_mremap,
            address,
            old_size,
            new_size,
            flags,
            new_address
        )
    }
    .map(ptr::with_exposed_provenance_mut)
}

/// mprotect(2).
///
/// # Errors
///
/// As mprotect(2); `EACCES` for an access that the mapping does not allow.
///
/// # Safety
///
/// Nothing relies on accesses that are no longer permitted.
pub unsafe fn mprotect(
    address: *mut c_void,
    size: usize,
    protection: Protection,
) -> Result<(), Errno> {
    // SAFETY: guaranteed by the caller.
    unsafe { syscall!(sys::__NR_mprotect, address, size, protection.bits()) }.map(drop)
}

/// madvise(2).
///
/// # Errors
///
/// As madvise(2).
///
/// # Safety
///
/// Nothing relies on contents that the advice discards.
pub unsafe fn madvise(address: *mut c_void, size: usize, advice: Advice) -> Result<(), Errno> {
    // SAFETY: guaranteed by the caller.
    unsafe { syscall!(sys::__NR_madvise, address, size, advice as u32) }.map(drop)
}

/// mbind(2) with `MPOL_LOCAL`.
///
/// # Errors
///
/// As mbind(2); `ENOSYS` from a kernel without `CONFIG_NUMA`.
pub fn bind_locally(address: *mut c_void, size: usize) -> Result<(), Errno> {
    let nodes: *const c_ulong = ptr::null();
    // SAFETY: changes no memory, and the node mask, which would be read, is empty.
    unsafe {
        syscall!(
            sys::__NR_mbind,
            address,
            size,
            MPOL_LOCAL as u32,
            nodes,
            0_usize,
            0_u32
        )
    }
    .map(drop)
}

/// mlock(2).
///
/// # Errors
///
/// As mlock(2); `ENOMEM` beyond `RLIMIT_MEMLOCK` without `CAP_IPC_LOCK`.
pub fn mlock(address: *mut c_void, size: usize) -> Result<(), Errno> {
    // SAFETY: changes no memory.
    unsafe { syscall!(sys::__NR_mlock, address, size) }.map(drop)
}

/// munlock(2).
///
/// # Errors
///
/// As munlock(2).
pub fn munlock(address: *mut c_void, size: usize) -> Result<(), Errno> {
    // SAFETY: changes no memory.
    unsafe { syscall!(sys::__NR_munlock, address, size) }.map(drop)
}

/// setrlimit(2) of `RLIMIT_MEMLOCK`: sets how many bytes this process may lock.
///
/// # Errors
///
/// As setrlimit(2); `EPERM` above the hard limit without `CAP_SYS_RESOURCE`.
pub fn set_locked_memory_limit(bytes: u64) -> Result<(), Errno> {
    crate::process::set_limit(sys::RLIMIT_MEMLOCK, bytes)
}

/// Returns log2 of the page size. Finds it by madvise(2), which accepts whole pages only, with up to five
/// system calls: a library has no access to the auxiliary vector, and `/proc` may be missing.
///
/// # Errors
///
/// As mmap(2); `EINVAL` if pages are not of 4, 16 or 64 KiB.
pub fn page_shift() -> Result<u32, Errno> {
    let memory = crate::Mapping::reserve(1 << 17, Protection::READ)?;
    let is_page = |shift: &u32| {
        let page = 1_usize << shift;
        memory.advise(page..2 * page, Advice::DontNeed).is_ok()
    };
    [12, 14, 16].into_iter().find(is_page).ok_or(Errno::EINVAL)
}
