//! Pages that a test replaces by page tables, and access to the words of such a table.

#![expect(
    unsafe_code,
    reason = "makes the call on pages of its own, and reads what is mapped"
)]

use core::sync::atomic::{AtomicU64, Ordering};

use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::remap::{
    EXPOSE_PGTBL_ADDR, EXPOSE_PGTBL_LEVEL_MASK, EXPOSE_PGTBL_RANGE, EXPOSE_PGTBL_RANGE_SIZE_VER0,
    ExposePgtblArgs, ExposePgtblInfo, ExposePgtblRange, ExposePgtblTable, number, remap_page_table,
    remap_page_table_raw,
};
use tablewalk_uapi::remap_device::Target;
use tablewalk_uapi::{Errno, Mapping, Sharing, process};

/// Calls `remap_page_table` and returns the frame number that the kernel wrote back.
///
/// # Errors
///
/// The errors of the call.
///
/// # Safety
///
/// No Rust reference points into memory that the call replaces, fills or moves, whatever the arguments
/// select.
pub unsafe fn call(pid: i32, remap_vaddr: u64, pfn: u64, level: u32) -> Result<u64, Errno> {
    let mut args = ExposePgtblArgs {
        pid,
        remap_vaddr,
        pfn,
        level,
    };
    // SAFETY: the kernel reads and writes the struct above; the caller guarantees the rest.
    unsafe { remap_page_table(&mut args) }.map(|()| args.pfn)
}

/// Calls `remap_page_table` with the struct at `args`, which may be any address, mapped or not.
///
/// # Errors
///
/// The errors of the call.
///
/// # Safety
///
/// As for [`call`], with the arguments that the kernel reads at `args`. The kernel writes eight bytes there.
pub unsafe fn call_at(args: *mut u8) -> Result<(), Errno> {
    if number().is_some() {
        // SAFETY: guaranteed by the caller.
        return unsafe { remap_page_table_raw(args.cast()) };
    }
    // The module takes the number of the process as a file, so that is opened here; the module reads the struct again,
    // or finds that it cannot.
    let (own, at) = (process::pid(), args.expose_provenance() as u64);
    let mut words = [[0; 4]; 7];
    let read = process::read_memory(own, at, words.as_flattened_mut());
    let [pid, .., level] = words;
    if read != Ok(28) || pid == [0; 4] {
        // SAFETY: guaranteed by the caller.
        return unsafe { Target::for_call(0, 0)?.call_raw(args.cast()) };
    }
    let target = Target::for_call(i32::from_ne_bytes(pid), u32::from_ne_bytes(level))?;
    let put = |pid: [u8; 4]| {
        // SAFETY: guaranteed by the caller.
        let written = unsafe { process::write_memory(own, at, &pid) };
        written.map_err(|_| Errno::EFAULT)
    };
    put([0; 4])?;
    // SAFETY: guaranteed by the caller.
    let called = unsafe { target.call_raw(args.cast()) };
    // The struct may be gone, if it was in the page that was replaced.
    let _ = put(pid);
    called
}

/// One or more pages of shared anonymous memory, the kind of page that the base form of the call replaces.
pub struct Page {
    mapping: Mapping,
}

impl Page {
    /// Maps one page.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn new(info: &ExposePgtblInfo, protection: Protection) -> Result<Self, Errno> {
        let mapping = Mapping::anonymous(page_size(info), protection, Sharing::Shared)?;
        Ok(Self { mapping })
    }

    /// Maps `pages` consecutive pages.
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

    /// Maps one page that can be written.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn writable(info: &ExposePgtblInfo) -> Result<Self, Errno> {
        Self::new(info, Protection::READ_WRITE)
    }

    /// Maps one page that can only be read.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn read_only(info: &ExposePgtblInfo) -> Result<Self, Errno> {
        Self::new(info, Protection::READ)
    }

    /// Maps one page and writes to it, so that its address has a level-3 table whatever its neighbours are.
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

    /// Returns the mapping.
    ///
    /// # Safety
    ///
    /// While a table is mapped there, nothing is written through the mapping: a write would change entries.
    #[must_use]
    pub const unsafe fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Returns the size of the mapping in bytes.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.mapping.size()
    }

    /// Calls mprotect(2) on the whole mapping.
    ///
    /// # Errors
    ///
    /// As mprotect(2).
    pub fn protect(&self, protection: Protection) -> Result<(), Errno> {
        self.mapping.protect(0..self.size(), protection)
    }

    /// Calls madvise(2) on the whole mapping.
    ///
    /// # Errors
    ///
    /// As madvise(2).
    pub fn advise(&self, advice: Advice) -> Result<(), Errno> {
        self.mapping.advise(0..self.size(), advice)
    }

    /// Returns the first address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.mapping.address()
    }

    /// Makes the call on this page, in the base form or by address: `level` has no other flag set.
    ///
    /// # Errors
    ///
    /// The errors of the call; `EOVERFLOW`, which the call itself never returns, if `level` has another flag.
    pub fn map(&self, pid: i32, level: u32, pfn: u64) -> Result<u64, Errno> {
        if level & !(EXPOSE_PGTBL_LEVEL_MASK | EXPOSE_PGTBL_ADDR) != 0 {
            return Err(Errno::EOVERFLOW);
        }
        // SAFETY: these forms replace the page and nothing else, and no Rust reference points to it.
        unsafe { self.call(pid, level, pfn) }
    }

    /// Makes the call on this page in any form.
    ///
    /// # Errors
    ///
    /// The errors of the call.
    ///
    /// # Safety
    ///
    /// As for [`call`], with this `level` and `pfn`.
    pub unsafe fn call(&self, pid: i32, level: u32, pfn: u64) -> Result<u64, Errno> {
        // SAFETY: guaranteed by the caller.
        unsafe { call(pid, self.address(), pfn, level) }
    }

    /// Replaces the page by the table of `level` that translates `address`. Returns the frame number of the
    /// table.
    ///
    /// # Errors
    ///
    /// The errors of the call.
    pub fn map_address(&self, pid: i32, level: u32, address: u64) -> Result<u64, Errno> {
        self.map(pid, level | EXPOSE_PGTBL_ADDR, address)
    }

    /// Replaces the pages by tables of `level` below the root, with the arguments in `range`.
    ///
    /// # Errors
    ///
    /// The errors of the call.
    ///
    /// # Safety
    ///
    /// The mapping has at least `range.count` pages, `range.tables` points to an array of as many elements,
    /// and no Rust reference points to either.
    pub unsafe fn map_range(
        &self,
        pid: i32,
        level: u32,
        range: &mut ExposePgtblRange,
    ) -> Result<(), Errno> {
        let pfn = core::ptr::from_mut(range).expose_provenance() as u64;
        // SAFETY: guaranteed by the caller.
        unsafe { self.call(pid, level | EXPOSE_PGTBL_RANGE, pfn) }.map(drop)
    }

    /// Returns the word at `index`, or 0 beyond the mapping.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        self.words()
            .get(index)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Returns the number of words that are not 0.
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
    /// No table is mapped there, or the word is an entry that the caller may write: see
    /// [`EntryMut`](tablewalk_walker::EntryMut).
    pub unsafe fn set_word(&self, index: usize, value: u64) {
        if let Some(word) = self.words().get(index) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn words(&self) -> &[AtomicU64] {
        let start = self.mapping.as_ptr().cast_const().cast::<AtomicU64>();
        // SAFETY: the mapping has that size, is page-aligned, and lives as long as this value. The call replaces a
        // page only by another page that can be read the same way.
        unsafe { core::slice::from_raw_parts(start, self.mapping.size() / 8) }
    }
}

/// Returns the arguments of [`Page::map_range`] for the tables that translate `start` to `end`.
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

/// Returns the page size in bytes.
#[must_use]
pub const fn page_size(info: &ExposePgtblInfo) -> usize {
    1 << info.page_shift
}
