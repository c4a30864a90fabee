//! An owned region of anonymous memory.

#![expect(unsafe_code, reason = "replaces and unmaps the pages that it owns")]

use core::ffi::c_void;
use core::ops::Range;
use core::ptr;

use crate::errno::Errno;
use crate::file::OwnedFd;
use crate::memory::{
    Advice, MAP_FIXED_NOREPLACE, MAP_HUGE_SHIFT, MAP_HUGETLB, MAP_NORESERVE, MAP_PRIVATE,
    MAP_SHARED, MREMAP_FIXED, MREMAP_MAYMOVE, Protection, bind_locally, madvise, mlock,
    mmap_anonymous, mmap_file, mprotect, mremap, munlock, munmap,
};
use crate::syscall::Argument;

/// Whether a child sees the same memory or a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Sharing {
    /// `MAP_PRIVATE`: a copy, made on write.
    Private = MAP_PRIVATE,
    /// `MAP_SHARED`: the same memory.
    Shared = MAP_SHARED,
}

/// A region of anonymous memory, unmapped when dropped.
///
/// # Invariants
///
/// This value owns the region. It hands out pointers, never references. A caller that makes a reference from
/// such a pointer guarantees that the reference is gone before a method changes the pages it points to.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    size: usize,
}

// SAFETY: the region does not belong to a thread.
unsafe impl Send for Mapping {}
// SAFETY: the methods that take `&self` are system calls, which the kernel serialises.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `size` bytes at an address that the kernel chooses.
    ///
    /// # Errors
    ///
    /// As mmap(2); `EINVAL` if `size` is 0.
    pub fn anonymous(size: usize, protection: Protection, sharing: Sharing) -> Result<Self, Errno> {
        Self::map(ptr::null_mut(), size, protection, sharing as u32)
    }

    /// Maps `size` bytes of private memory at an address that the kernel chooses, without reserving memory
    /// for them (`MAP_NORESERVE`): for ranges of which few pages are touched.
    ///
    /// # Errors
    ///
    /// As [`Mapping::anonymous`].
    pub fn reserve(size: usize, protection: Protection) -> Result<Self, Errno> {
        Self::map(
            ptr::null_mut(),
            size,
            protection,
            MAP_PRIVATE | MAP_NORESERVE,
        )
    }

    /// As [`Mapping::reserve`], at `address`, a multiple of the page size.
    ///
    /// # Errors
    ///
    /// As [`Mapping::anonymous`]; `EEXIST` if the range overlaps a mapping.
    pub fn reserve_at(address: u64, size: usize, protection: Protection) -> Result<Self, Errno> {
        let address = ptr::with_exposed_provenance_mut(address.register());
        let flags = MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
        Self::map(address, size, protection, flags)
    }

    /// Maps hugetlbfs pages of `1 << page_shift` bytes each, without reserving them.
    ///
    /// # Errors
    ///
    /// As mmap(2); `EINVAL` or `ENOENT` if the kernel has no pages of that size. If no page is free at the
    /// first access, that access raises `SIGBUS`.
    pub fn huge(size: usize, page_shift: u32, sharing: Sharing) -> Result<Self, Errno> {
        let flags = MAP_HUGETLB | MAP_NORESERVE | page_shift << MAP_HUGE_SHIFT | sharing as u32;
        Self::map(ptr::null_mut(), size, Protection::READ_WRITE, flags)
    }

    /// Maps `size` bytes of a file or a device, starting at `offset`.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn file(
        fd: &OwnedFd,
        offset: u64,
        size: usize,
        protection: Protection,
        sharing: Sharing,
    ) -> Result<Self, Errno> {
        mmap_file(size, protection, sharing as u32, fd, offset).map(|start| Self {
            start: start.cast(),
            size,
        })
    }

    fn map(
        address: *mut c_void,
        size: usize,
        protection: Protection,
        flags: u32,
    ) -> Result<Self, Errno> {
        // SAFETY: without MAP_FIXED no existing mapping changes.
        unsafe { mmap_anonymous(address, size, protection, flags) }.map(|start| Self {
            start: start.cast(),
            size,
        })
    }

    /// Returns a pointer to the first byte.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// Returns the address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.expose_provenance() as u64
    }

    /// Returns the size in bytes.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Changes the protection of the bytes in `range`, relative to the start.
    ///
    /// # Errors
    ///
    /// As mprotect(2); `EINVAL` for a range that is not within the region.
    pub fn protect(&self, range: Range<usize>, protection: Protection) -> Result<(), Errno> {
        let (start, size) = self.part(&range)?;
        // SAFETY: this value owns the region, see the invariants.
        unsafe { mprotect(start, size, protection) }
    }

    /// Gives advice about the bytes in `range`, relative to the start.
    ///
    /// # Errors
    ///
    /// As madvise(2); `EINVAL` for a range that is not within the region.
    pub fn advise(&self, range: Range<usize>, advice: Advice) -> Result<(), Errno> {
        let (start, size) = self.part(&range)?;
        // SAFETY: this value owns the region, see the invariants.
        unsafe { madvise(start, size, advice) }
    }

    /// Disables huge pages (`MADV_NOHUGEPAGE`): each page has its own entry in a level-3 table.
    ///
    /// # Errors
    ///
    /// As madvise(2); succeeds on a kernel without transparent huge pages.
    pub fn base_pages_only(&self) -> Result<(), Errno> {
        match self.advise(0..self.size, Advice::NoHugePage) {
            // Without CONFIG_TRANSPARENT_HUGEPAGE the kernel does not know this advice.
            Err(Errno::EINVAL) => Ok(()),
            result => result,
        }
    }

    /// Allocates pages on the NUMA node of the CPU that touches them first (`MPOL_LOCAL`), and keeps them
    /// there: automatic NUMA balancing leaves their entries alone.
    ///
    /// # Errors
    ///
    /// As mbind(2); succeeds on a kernel without NUMA.
    pub fn stay_local(&self) -> Result<(), Errno> {
        match bind_locally(self.as_ptr().cast(), self.size) {
            Err(Errno::ENOSYS) => Ok(()),
            result => result,
        }
    }

    /// Locks the bytes in `range`, relative to the start, in memory, or unlocks them.
    ///
    /// # Errors
    ///
    /// As mlock(2); `EINVAL` for a range that is not within the region.
    pub fn lock(&self, range: Range<usize>, locked: bool) -> Result<(), Errno> {
        let (start, size) = self.part(&range)?;
        if locked {
            mlock(start, size)
        } else {
            munlock(start, size)
        }
    }

    /// Moves the pages to the address of `target`, whose pages they replace.
    ///
    /// # Errors
    ///
    /// As mremap(2). Then both regions are unusable, and the addresses of `target` are not used again.
    pub fn move_onto(self, target: Self) -> Result<Self, Errno> {
        let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
        // SAFETY: both regions are owned and consumed.
        let moved = unsafe {
            mremap(
                self.start.cast(),
                self.size,
                target.size,
                flags,
                target.start.cast(),
            )
        };
        if let Err(errno) = moved {
            // The kernel may have unmapped it already, and another mapping may be there now.
            core::mem::forget(target);
            return Err(errno);
        }
        core::mem::forget(self);
        Ok(target)
    }

    pub(crate) fn part(&self, range: &Range<usize>) -> Result<(*mut c_void, usize), Errno> {
        if range.start > range.end || range.end > self.size {
            return Err(Errno::EINVAL);
        }
        Ok((
            self.start.wrapping_add(range.start).cast(),
            range.end - range.start,
        ))
    }
}

impl Drop for Mapping {
    /// Unmaps the region. This fails only if the kernel cannot split another mapping; then the region stays
    /// mapped.
    fn drop(&mut self) {
        // SAFETY: this value owns the region, and nobody uses it any more.
        let _ = unsafe { munmap(self.start.cast(), self.size) };
    }
}
