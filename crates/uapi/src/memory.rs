//! Mappings of the caller's address space, by address. [`Mapping`](crate::Mapping) owns one.

#![expect(unsafe_code, reason = "maps and unmaps memory")]

use core::ffi::{c_ulong, c_void};
use core::ops::BitOr;
use core::ptr;

use linux_raw_sys::general as sys;
pub use linux_raw_sys::general::{
    MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_HUGE_SHIFT, MAP_HUGETLB, MAP_NORESERVE, MAP_POPULATE,
    MAP_PRIVATE, MAP_SHARED, MREMAP_FIXED, MREMAP_MAYMOVE,
};
use linux_raw_sys::mempolicy::MPOL_LOCAL;

use crate::errno::Errno;
use crate::file::OwnedFd;

/// What may be done with the pages of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Protection(u32);

impl Protection {
    /// `PROT_NONE`.
    pub const NONE: Self = Self(sys::PROT_NONE);
    /// `PROT_READ`.
    pub const READ: Self = Self(sys::PROT_READ);
    /// `PROT_WRITE`.
    pub const WRITE: Self = Self(sys::PROT_WRITE);
    /// `PROT_EXEC`.
    pub const EXECUTE: Self = Self(sys::PROT_EXEC);
    /// `PROT_BTI` of arm64, with `PROT_READ` and `PROT_EXEC`: indirect branches land where they may.
    pub const GUARDED: Self = Self(sys::PROT_READ | sys::PROT_EXEC | 0x10);
    /// `PROT_MTE` of arm64, with `PROT_READ` and `PROT_WRITE`: memory with tags.
    pub const TAGGED: Self = Self(sys::PROT_READ | sys::PROT_WRITE | 0x20);
    /// `PROT_READ` and `PROT_WRITE`.
    pub const READ_WRITE: Self = Self(sys::PROT_READ | sys::PROT_WRITE);
}

impl BitOr for Protection {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Advice of madvise(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Advice {
    /// `MADV_DONTNEED`: discards the pages.
    DontNeed = sys::MADV_DONTNEED,
    /// `MADV_POPULATE_READ`: makes pages and their tables, as if each had been read.
    PopulateRead = sys::MADV_POPULATE_READ,
    /// `MADV_POPULATE_WRITE`: makes pages that can be written, as if each had been.
    PopulateWrite = sys::MADV_POPULATE_WRITE,
    /// `MADV_DONTFORK`: a child does not get the pages.
    DontFork = sys::MADV_DONTFORK,
    /// `MADV_MERGEABLE`: equal pages may become one (KSM).
    Mergeable = sys::MADV_MERGEABLE,
    /// `MADV_UNMERGEABLE`: no longer, and those that have are copied.
    Unmergeable = sys::MADV_UNMERGEABLE,
    /// `MADV_COLLAPSE`: makes huge pages of what is there.
    Collapse = sys::MADV_COLLAPSE,
    /// `MADV_FREE`: the pages may be taken when memory is short, until they are written again.
    Free = sys::MADV_FREE,
    /// `MADV_COLD`: the pages are the next to be taken.
    Cold = sys::MADV_COLD,
    /// `MADV_PAGEOUT`: moves the pages to swap, or to their file.
    PageOut = sys::MADV_PAGEOUT,
    /// `MADV_HWPOISON`: as if the memory had an error.
    HardwarePoison = sys::MADV_HWPOISON,
    /// `MADV_SOFT_OFFLINE`: moves the contents to other frames, and takes these out of service.
    SoftOffline = sys::MADV_SOFT_OFFLINE,
    /// `MADV_HUGEPAGE`: huge pages are welcome.
    HugePage = sys::MADV_HUGEPAGE,
    /// `MADV_NOHUGEPAGE`: no huge pages.
    NoHugePage = sys::MADV_NOHUGEPAGE,
    /// `MADV_DOFORK`: a child gets the pages.
    DoFork = sys::MADV_DOFORK,
    /// `MADV_DODUMP`: a core dump contains the pages.
    DoDump = sys::MADV_DODUMP,
    /// `MADV_DONTNEED_LOCKED`: as `DontNeed`, of pages that are locked in memory too.
    DontNeedLocked = sys::MADV_DONTNEED_LOCKED,
    /// `MADV_WIPEONFORK`: a child has pages of zeros there.
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
/// With `MAP_FIXED` what was mapped at `address` is gone: nothing relies on it.
pub unsafe fn mmap_anonymous(
    address: *mut c_void,
    size: usize,
    protection: Protection,
    flags: u32,
) -> Result<*mut c_void, Errno> {
    let flags = flags | sys::MAP_ANONYMOUS;
    // SAFETY: the caller's promise.
    unsafe {
        syscall!(
            sys::__NR_mmap,
            address,
            size,
            protection.0,
            flags,
            -1_i32,
            0_usize
        )
    }
    .map(ptr::with_exposed_provenance_mut)
}

/// mmap(2) of `size` bytes of a file from `offset` on, where the kernel likes; `flags` are `MAP_*`
/// without `MAP_FIXED`.
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
    // SAFETY: no other mapping is touched.
    unsafe {
        syscall!(
            sys::__NR_mmap,
            address,
            size,
            protection.0,
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
/// Nothing relies on what is mapped there.
pub unsafe fn munmap(address: *mut c_void, size: usize) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { syscall!(sys::__NR_munmap, address, size) }.map(drop)
}

/// mremap(2); where the mapping is then. `flags` are `MREMAP_*`.
///
/// # Errors
///
/// As mremap(2).
///
/// # Safety
///
/// Nothing relies on the mapping staying at `address`, nor, with `MREMAP_FIXED`, on what is mapped
/// at `new_address`.
pub unsafe fn mremap(
    address: *mut c_void,
    old_size: usize,
    new_size: usize,
    flags: u32,
    new_address: *mut c_void,
) -> Result<*mut c_void, Errno> {
    // SAFETY: the caller's promise.
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
/// As mprotect(2); `EACCES` for what the mapping does not allow.
///
/// # Safety
///
/// Nothing relies on accesses that are permitted no longer.
pub unsafe fn mprotect(
    address: *mut c_void,
    size: usize,
    protection: Protection,
) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { syscall!(sys::__NR_mprotect, address, size, protection.0) }.map(drop)
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
    // SAFETY: the caller's promise.
    unsafe { syscall!(sys::__NR_madvise, address, size, advice as u32) }.map(drop)
}

/// mbind(2) with `MPOL_LOCAL`.
///
/// # Errors
///
/// As mbind(2); `ENOSYS` from a kernel without `CONFIG_NUMA`.
pub fn bind_locally(address: *mut c_void, size: usize) -> Result<(), Errno> {
    let nodes: *const c_ulong = ptr::null();
    // SAFETY: changes no memory, and reads none: there are no nodes.
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

/// setrlimit(2) of `RLIMIT_MEMLOCK`: the bytes that this process may lock.
///
/// # Errors
///
/// As setrlimit(2); `EPERM` above the hard limit without `CAP_SYS_RESOURCE`.
pub fn set_locked_memory_limit(bytes: u64) -> Result<(), Errno> {
    let limits = [bytes; 2];
    let old: *mut u64 = core::ptr::null_mut();
    // SAFETY: the kernel reads both limits, and writes none.
    unsafe {
        syscall!(
            sys::__NR_prlimit64,
            0_i32,
            sys::RLIMIT_MEMLOCK,
            limits.as_ptr(),
            old
        )
    }
    .map(drop)
}

/// log2 of the page size, as madvise(2) shows it, which takes whole pages alone: up to five system calls.
/// Neither `/proc` nor the auxiliary vector is needed, which a library has no way to.
///
/// # Errors
///
/// As mmap(2); `EINVAL` with pages that are not of 4, 16 or 64 KiB.
pub fn page_shift() -> Result<u32, Errno> {
    let memory = crate::Mapping::reserve(1 << 17, Protection::READ)?;
    let is_page = |shift: &u32| {
        let page = 1_usize << shift;
        memory.advise(page..2 * page, Advice::DontNeed).is_ok()
    };
    [12, 14, 16].into_iter().find(is_page).ok_or(Errno::EINVAL)
}
