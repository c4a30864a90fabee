//! Pages to be replaced by tables, and the words of a table.

#![expect(
    unsafe_code,
    reason = "makes the call on pages of its own, and reads what is mapped"
)]

use core::sync::atomic::{AtomicU64, Ordering};

use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::remap::{
    EXPOSE_PGTBL_ADDR, EXPOSE_PGTBL_LEVEL_MASK, EXPOSE_PGTBL_RANGE, EXPOSE_PGTBL_RANGE_SIZE_VER0,
    ExposePgtblArgs, ExposePgtblInfo, ExposePgtblRange, ExposePgtblTable, remap_page_table_raw,
};
use tablewalk_uapi::{Errno, Mapping, Sharing};

/// Makes the call; the frame number that it wrote back.
///
/// # Errors
///
/// Those of the call.
///
/// # Safety
///
/// Nobody has a reference to what the call replaces, fills or moves, by any of the arguments.
pub unsafe fn call(pid: i32, remap_vaddr: u64, pfn: u64, level: u32) -> Result<u64, Errno> {
    let mut args = ExposePgtblArgs {
        pid,
        remap_vaddr,
        pfn,
        level,
    };
    // SAFETY: the struct is here; the rest is the caller's promise.
    unsafe { remap_page_table_raw((&raw mut args).cast()) }.map(|()| args.pfn)
}

/// Makes the call with the struct at `args`, which need not be memory at all.
///
/// # Errors
///
/// Those of the call.
///
/// # Safety
///
/// As [`call`], by what the kernel finds at `args`, of which it writes eight bytes.
pub unsafe fn call_at(args: *mut u8) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { remap_page_table_raw(args.cast()) }
}

/// One page of shared anonymous memory, as callers of the base form map it, or several.
pub struct Page {
    mapping: Mapping,
}

impl Page {
    /// Maps one.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn new(info: &ExposePgtblInfo, protection: Protection) -> Result<Self, Errno> {
        let mapping = Mapping::anonymous(page_size(info), protection, Sharing::Shared)?;
        Ok(Self { mapping })
    }

    /// Maps `pages` of them, one behind the other.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn several(
        info: &ExposePgtblInfo,
        protection: Protection,
        pages: usize,
    ) -> Result<Self, Errno> {
        let size = pages << info.page_shift;
        let mapping = Mapping::anonymous(size, protection, Sharing::Shared)?;
        Ok(Self { mapping })
    }

    /// A page that may be written.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn writable(info: &ExposePgtblInfo) -> Result<Self, Errno> {
        Self::new(info, Protection::READ_WRITE)
    }

    /// The same, and written to: its address has a level-3 table, whatever lies beside it.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn written(info: &ExposePgtblInfo) -> Result<Self, Errno> {
        let page = Self::writable(info)?;
        // SAFETY: no table is mapped there yet.
        unsafe { page.set_word(0, 1) };
        Ok(page)
    }

    /// The mapping.
    ///
    /// # Safety
    ///
    /// While a table is mapped there, nothing is written by the mapping: that would change entries.
    #[must_use]
    pub const unsafe fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Bytes of the page, or of all of them.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.mapping.size()
    }

    /// mprotect(2) of all of it.
    ///
    /// # Errors
    ///
    /// As mprotect(2).
    pub fn protect(&self, protection: Protection) -> Result<(), Errno> {
        self.mapping.protect(0..self.size(), protection)
    }

    /// madvise(2) for all of it.
    ///
    /// # Errors
    ///
    /// As madvise(2).
    pub fn advise(&self, advice: Advice) -> Result<(), Errno> {
        self.mapping.advise(0..self.size(), advice)
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.mapping.address()
    }

    /// Makes the call on this page, in the base form or by address: `level` has no other flag.
    ///
    /// # Errors
    ///
    /// Those of the call; `EOVERFLOW`, which it never gives, for another flag.
    pub fn map(&self, pid: i32, level: u32, pfn: u64) -> Result<u64, Errno> {
        if level & !(EXPOSE_PGTBL_LEVEL_MASK | EXPOSE_PGTBL_ADDR) != 0 {
            return Err(Errno::EOVERFLOW);
        }
        // SAFETY: these forms replace the page, which nobody has a reference to, and nothing else.
        unsafe { self.call(pid, level, pfn) }
    }

    /// Makes the call on this page in any form.
    ///
    /// # Errors
    ///
    /// Those of the call.
    ///
    /// # Safety
    ///
    /// As [`call`], by what `level` and `pfn` say.
    pub unsafe fn call(&self, pid: i32, level: u32, pfn: u64) -> Result<u64, Errno> {
        // SAFETY: the caller's promise.
        unsafe { call(pid, self.address(), pfn, level) }
    }

    /// Replaces the page by the table of `level` that translates `address`; its frame number.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub fn map_address(&self, pid: i32, level: u32, address: u64) -> Result<u64, Errno> {
        self.map(pid, level | EXPOSE_PGTBL_ADDR, address)
    }

    /// Replaces the pages by tables of `level` below the root, as `range` says.
    ///
    /// # Errors
    ///
    /// Those of the call.
    ///
    /// # Safety
    ///
    /// There are `range.count` of these pages, and as many elements where `range.tables` leads, which
    /// nobody has a reference to.
    pub unsafe fn map_range(
        &self,
        pid: i32,
        level: u32,
        range: &mut ExposePgtblRange,
    ) -> Result<(), Errno> {
        let pfn = core::ptr::from_mut(range).expose_provenance() as u64;
        // SAFETY: the caller's promise.
        unsafe { self.call(pid, level | EXPOSE_PGTBL_RANGE, pfn) }.map(drop)
    }

    /// The word at `index`, 0 beyond the page.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        self.words()
            .get(index)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// How many words are not 0.
    #[must_use]
    pub fn words_in_use(&self) -> u64 {
        self.words()
            .iter()
            .filter(|word| word.load(Ordering::Relaxed) != 0)
            .count() as u64
    }

    /// Writes the word at `index`.
    ///
    /// # Safety
    ///
    /// No table is mapped there, or the word is an entry that may be written: see
    /// [`EntryMut`](tablewalk_walker::EntryMut).
    pub unsafe fn set_word(&self, index: usize, value: u64) {
        if let Some(word) = self.words().get(index) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn words(&self) -> &[AtomicU64] {
        let start = self.mapping.as_ptr().cast_const().cast::<AtomicU64>();
        // SAFETY: a mapping of that size, aligned to pages, that lives as long as this value. The
        // call replaces its page by another that can be read just so.
        unsafe { core::slice::from_raw_parts(start, self.mapping.size() / 8) }
    }
}

/// What [`Page::map_range`] takes for the tables that translate `start` to `end`.
#[must_use]
pub fn range(start: u64, end: u64, tables: &mut [ExposePgtblTable]) -> ExposePgtblRange {
    ExposePgtblRange {
        size: EXPOSE_PGTBL_RANGE_SIZE_VER0,
        count: u32::try_from(tables.len()).unwrap_or(u32::MAX),
        start,
        end,
        tables: tables.as_mut_ptr().expose_provenance() as u64,
    }
}

/// Bytes of a page.
#[must_use]
pub const fn page_size(info: &ExposePgtblInfo) -> usize {
    1 << info.page_shift
}
