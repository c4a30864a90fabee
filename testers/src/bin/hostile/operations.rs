//! Operations of a process on its own memory, while others have its tables mapped.

#![expect(unsafe_code, reason = "maps and unmaps at fixed addresses")]

use core::ffi::c_void;
use core::ptr;

use tablewalk_rt::ExitCode;
use tablewalk_rt::process::Fork;
use tablewalk_testkit::page::Page;
use tablewalk_uapi::memory::{
    self, MAP_FIXED, MAP_NORESERVE, MAP_POPULATE, MAP_PRIVATE, MREMAP_FIXED, MREMAP_MAYMOVE,
    Protection,
};
use tablewalk_uapi::raw::{self, constants};
use tablewalk_uapi::remap::ExposePgtblInfo;
use tablewalk_uapi::{Errno, Mapping};

/// Reserved address space of three parts, each of which is all that one level-3 table translates. It is
/// reserved before the processes fork, so that all have it at the same address, and it has no pages.
pub(crate) struct Range {
    /// Keeps the addresses reserved.
    _reserved: Mapping,
    start: u64,
    span: u64,
    page: u64,
}

impl Range {
    pub(crate) fn reserve(info: &ExposePgtblInfo) -> Result<Self, Errno> {
        let span = 1_u64 << (2 * info.page_shift - 3);
        let size = usize::try_from(4 * span).map_err(|_| Errno::ENOMEM)?;
        let reserved = Mapping::reserve(size, Protection::NONE)?;
        Ok(Self {
            start: reserved.address().next_multiple_of(span),
            _reserved: reserved,
            span,
            page: 1 << info.page_shift,
        })
    }

    /// Returns the start of the part that table number `table` (0 to 2) translates.
    pub(crate) const fn part(&self, table: u64) -> u64 {
        self.start + table * self.span
    }

    /// Returns the bytes that one level-3 table translates.
    pub(crate) const fn span(&self) -> u64 {
        self.span
    }

    /// Returns the page size in bytes.
    pub(crate) const fn page(&self) -> u64 {
        self.page
    }

    /// Maps `size` bytes at `address`, inside the range.
    pub(crate) fn map(&self, address: u64, size: u64, flags: u32) -> Result<(), Errno> {
        let flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE | flags;
        let size = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: inside the reserved range, to which nobody makes references.
        unsafe { memory::mmap_anonymous(at(address), size, Protection::READ_WRITE, flags) }
            .map(drop)
    }

    /// Unmaps `size` bytes at `address`. The kernel frees the tables of the hole.
    pub(crate) fn unmap(&self, address: u64, size: u64) -> Result<(), Errno> {
        let size = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: inside the reserved range, to which nobody makes references.
        unsafe { memory::munmap(at(address), size) }
    }

    /// Writes to the page at `address`, which is mapped.
    pub(crate) fn touch(&self, address: u64) {
        // SAFETY: the caller has just mapped it for writing. An unmapped address would end this process, a
        // child of the test.
        unsafe { at(address).cast::<u64>().write_volatile(1) };
    }

    /// Calls madvise(2) with any advice.
    pub(crate) fn advise(&self, address: u64, size: u64, advice: u32) -> Result<(), Errno> {
        let arguments = [address, size, advice.into(), 0, 0, 0];
        // SAFETY: inside the reserved range, to which nobody makes references.
        unsafe { raw::call(constants::__NR_madvise, arguments) }.map(drop)
    }

    fn protect(&self, address: u64, size: u64, protection: Protection) -> Result<(), Errno> {
        let size = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: inside the reserved range, to which nobody makes references.
        unsafe { memory::mprotect(at(address), size, protection) }
    }

    fn shift(&self, from: u64, to: u64, size: u64) -> Result<(), Errno> {
        let size = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
        let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
        // SAFETY: inside the reserved range, to which nobody makes references.
        unsafe { memory::mremap(at(from), size, size, flags, at(to)) }.map(drop)
    }
}

/// Returns a pointer to an address.
pub(crate) fn at(address: u64) -> *mut c_void {
    ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}

/// Maps the range of two tables, touches both, and unmaps it.
pub(crate) fn unmap(range: &Range, _: &ExposePgtblInfo) -> Result<(), Errno> {
    range.map(range.part(0), 2 * range.span(), 0)?;
    base_pages(range, range.part(0), 2 * range.span())?;
    range.touch(range.part(0));
    range.touch(range.part(1));
    range.unmap(range.part(0), 2 * range.span())
}

/// Populates pages at once, discards them, and unmaps them.
pub(crate) fn populate(range: &Range, _: &ExposePgtblInfo) -> Result<(), Errno> {
    let size = 16 * range.page();
    range.map(range.part(0), size, MAP_POPULATE)?;
    range.advise(range.part(0), size, constants::MADV_DONTNEED)?;
    range.touch(range.part(0));
    range.unmap(range.part(0), size)
}

/// Moves the whole range of a table to another address: the kernel moves the table.
pub(crate) fn shift(range: &Range, _: &ExposePgtblInfo) -> Result<(), Errno> {
    range.map(range.part(0), range.span(), 0)?;
    base_pages(range, range.part(0), range.span())?;
    range.touch(range.part(0));
    range.touch(range.part(0) + range.span() - range.page());
    range.shift(range.part(0), range.part(1), range.span())?;
    range.touch(range.part(1));
    range.unmap(range.part(1), range.span())
}

/// Moves a page with its table, makes it inaccessible there for a while, and moves it back.
pub(crate) fn shift_and_hide(range: &Range, _: &ExposePgtblInfo) -> Result<(), Errno> {
    let (here, there, page) = (range.part(0), range.part(1), range.page());
    range.map(here, range.span(), 0)?;
    base_pages(range, here, range.span())?;
    range.touch(here);
    loop {
        range.shift(here, there, range.span())?;
        range.protect(there, page, Protection::NONE)?;
        range.protect(there, page, Protection::READ_WRITE)?;
        range.shift(there, here, range.span())?;
    }
}

/// Forks; the child writes, so that pages are copied, and exits.
pub(crate) fn fork(range: &Range, _: &ExposePgtblInfo) -> Result<(), Errno> {
    range.map(range.part(0), range.page(), 0)?;
    range.touch(range.part(0));
    // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }.spawn(|| {
        range.touch(range.part(0));
        ExitCode::SUCCESS
    })?;
    range.touch(range.part(0));
    child.wait()?;
    range.unmap(range.part(0), range.page())
}

/// Creates a huge page, splits it in three ways, collapses small pages into one, and unmaps it.
pub(crate) fn huge(range: &Range, _: &ExposePgtblInfo) -> Result<(), Errno> {
    let (start, size, page) = (range.part(0), range.span(), range.page());
    range.map(start, size, 0)?;
    range.advise(start, size, constants::MADV_HUGEPAGE)?;
    range.touch(start);
    range.protect(start + page, page, Protection::READ)?;
    range.protect(start + page, page, Protection::READ_WRITE)?;
    range.advise(start + 2 * page, page, constants::MADV_DONTNEED)?;
    // May fail for lack of a free huge page, which does no harm.
    let _ = range.advise(start, size, constants::MADV_COLLAPSE);
    range.touch(start + 2 * page);
    range.advise(start + 3 * page, size - 3 * page, constants::MADV_DONTNEED)?;
    range.unmap(start, size)
}

/// Maps and unmaps its own tables while they change.
pub(crate) fn look_at_itself(range: &Range, info: &ExposePgtblInfo) -> Result<(), Errno> {
    range.map(range.part(0), range.page(), 0)?;
    range.touch(range.part(0));
    let page = Page::writable(info)?;
    page.map_address(0, 3, range.part(0))?;
    page.map(0, 0, 0)?;
    range.unmap(range.part(0), range.page())
}

/// Exchanges the table at `page` for one that is freed then.
pub(crate) fn exchange(range: &Range, page: &Page) -> Result<(), Errno> {
    range.map(range.part(0), range.page(), 0)?;
    range.touch(range.part(0));
    page.map_address(0, 3, range.part(0))?;
    range.unmap(range.part(0), range.page())
}

/// Disables huge pages, if the kernel has them.
fn base_pages(range: &Range, address: u64, size: u64) -> Result<(), Errno> {
    match range.advise(address, size, constants::MADV_NOHUGEPAGE) {
        Err(Errno::EINVAL) => Ok(()),
        result => result,
    }
}
