//! `remap_page_table(2)`: maps live page-table pages of a process into the caller.
//!
//! The contract is `Documentation/admin-guide/mm/remap_page_table.rst` of the kernel series; the
//! types mirror its `include/uapi/linux/remap_page_table.h`.

#![expect(unsafe_code, reason = "maps a table over a page of the caller")]

use core::ffi::c_void;
use core::ops::Range;
use core::ptr;

use crate::errno::Errno;
pub use crate::number::{NUMBERS, number};

/// Bits of [`ExposePgtblArgs::level`] that hold the lookup level.
pub const EXPOSE_PGTBL_LEVEL_MASK: u32 = 0xff;
/// `pfn` is an address of the target: maps the table that translates it.
pub const EXPOSE_PGTBL_ADDR: u32 = 0x100;
/// Invalidates TLB entries of `pfn` pages from `remap_vaddr` on; 0 is all.
pub const EXPOSE_PGTBL_FLUSH: u32 = 0x200;
/// Fills the [`ExposePgtblInfo`] at `remap_vaddr`.
pub const EXPOSE_PGTBL_INFO: u32 = 0x400;
/// Fills the [`ExposePgtblPath`] at `remap_vaddr` for the address `pfn`.
pub const EXPOSE_PGTBL_PATH: u32 = 0x800;
/// Maps several tables as the [`ExposePgtblRange`] at `pfn` says.
pub const EXPOSE_PGTBL_RANGE: u32 = 0x1000;
/// Makes pages that were moved to `remap_vaddr`, `pfn` many, ones of their place.
pub const EXPOSE_PGTBL_ADOPT: u32 = 0x2000;
/// Leaves the entries of `pfn` pages from `remap_vaddr` on to user space.
pub const EXPOSE_PGTBL_LEND: u32 = 0x4000;
/// Moves pages to `remap_vaddr` as the [`ExposePgtblRange`] at `pfn` says.
pub const EXPOSE_PGTBL_TAKE: u32 = 0x8000;

/// Bit of [`ExposePgtblInfo::features`]: the CPU sets the access flag.
pub const EXPOSE_PGTBL_HW_AF: u32 = 0x1;
/// Bit of [`ExposePgtblInfo::features`]: the CPU manages the dirty state.
pub const EXPOSE_PGTBL_HW_DBM: u32 = 0x2;

/// Value of a `bit_*` or `swp_*` field of [`ExposePgtblInfo`] that this kernel does not use.
pub const EXPOSE_PGTBL_NO_BIT: u8 = 0xff;

/// Size of the first version of [`ExposePgtblInfo`] in bytes.
pub const EXPOSE_PGTBL_INFO_SIZE_VER0: u32 = 56;
/// Size of the first version of [`ExposePgtblPath`] in bytes.
pub const EXPOSE_PGTBL_PATH_SIZE_VER0: u32 = 56;
/// Size of the first version of [`ExposePgtblRange`] in bytes.
pub const EXPOSE_PGTBL_RANGE_SIZE_VER0: u32 = 32;

/// Tables that one call with [`EXPOSE_PGTBL_RANGE`] maps, or pages that one with [`EXPOSE_PGTBL_TAKE`]
/// moves, at most.
pub const EXPOSE_PGTBL_RANGE_MOST: usize = 512;

/// `struct expose_pgtbl_args`: the argument of the call.
///
/// The four bytes of padding at the end are never read by the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExposePgtblArgs {
    /// Process whose tables are meant; 0 is the caller.
    pub pid: i32,
    /// Page-aligned address in a mapping of the caller; the page there is replaced by the table.
    pub remap_vaddr: u64,
    /// In: frame number of the table, ignored for level 0. Out: that of the table mapped.
    pub pfn: u64,
    /// Bits 0 to 7: lookup level, 0 being the root at whatever level it is; above: a flag.
    pub level: u32,
}

/// `struct expose_pgtbl_info`: geometry of the page tables of this kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposePgtblInfo {
    /// In: bytes that the caller has. Out: bytes that the kernel knows.
    pub size: u32,
    /// log2 of the translation granule in bytes.
    pub page_shift: u32,
    /// Bits of a user virtual address.
    pub va_bits: u32,
    /// Number of lookup levels; the root is at lookup level 4 - `levels`.
    pub levels: u32,
    /// Descriptors in the root table.
    pub root_entries: u32,
    /// Bits of an output address.
    pub oa_bits: u32,
    /// Value of `MAIR_EL1`.
    pub mair: u64,
    /// `EXPOSE_PGTBL_HW_*`, of the CPU that the call ran on.
    pub features: u32,
    /// `EXPOSE_PGTBL_*` flags that this kernel takes in [`ExposePgtblArgs::level`].
    pub flags: u32,
    /// Bit number of `PTE_WRITE` (architecturally DBM).
    pub bit_write: u8,
    /// Bit number of `PTE_DIRTY`.
    pub bit_dirty: u8,
    /// Bit number of `PTE_SPECIAL`.
    pub bit_special: u8,
    /// Bit number of `PTE_DEVMAP`.
    pub bit_devmap: u8,
    /// Bit number of `PTE_PROT_NONE`, in entries that are not valid.
    pub bit_prot_none: u8,
    /// Bit number of `PMD_PRESENT_INVALID`, in entries that are not valid.
    pub bit_present_invalid: u8,
    /// Bit number of `PTE_SWP_EXCLUSIVE`, in swap entries.
    pub bit_swp_exclusive: u8,
    /// Bit number of the userfaultfd write-protect marker.
    pub bit_uffd_wp: u8,
    /// Lowest bit of the type in a swap entry.
    pub swp_type_shift: u8,
    /// Width of the type in a swap entry, in bits.
    pub swp_type_bits: u8,
    /// Lowest bit of the offset in a swap entry.
    pub swp_offset_shift: u8,
    /// Width of the offset in a swap entry, in bits.
    pub swp_offset_bits: u8,
    /// Type of the swap entry of a frame with a hardware error.
    pub swp_hwpoison: u8,
    /// The first of three types of swap entries of a frame that is being migrated: readable; readable
    /// and exclusive; writable.
    pub swp_migration: u8,
    /// The first of the types of swap entries of device memory.
    pub swp_device: u8,
    /// Type of the swap entry that only marks its place.
    pub swp_marker: u8,
}

/// `struct expose_pgtbl_path`: the descriptors that translate one address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposePgtblPath {
    /// In: bytes that the caller has. Out: bytes that the kernel knows.
    pub size: u32,
    /// Lookup level at which the walk starts.
    pub root_level: u32,
    /// Lookup level at which it ended, at the page, the block or the entry that is not valid.
    pub last_level: u32,
    /// 0.
    pub reserved: u32,
    /// Frame number of the root table.
    pub root_pfn: u64,
    /// The descriptor read at each lookup level; 0 at levels not read.
    pub desc: [u64; 4],
}

/// `struct expose_pgtbl_table`: what [`EXPOSE_PGTBL_RANGE`] or [`EXPOSE_PGTBL_TAKE`] came upon.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposePgtblTable {
    /// First address that the table translates; where the page was, or 0 for a place that was not empty.
    pub addr: u64,
    /// The descriptor that led to the table or page.
    pub desc: u64,
}

/// `struct expose_pgtbl_range`: tables to map over, or pages to move to, consecutive pages.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposePgtblRange {
    /// Bytes of this struct that the caller knows, a page at most.
    pub size: u32,
    /// In: pages to be replaced, or places. Out: tables mapped, of which each took the next page, or
    /// places that have a page now.
    pub count: u32,
    /// In: an address that the first table translates, or the first page. Out: where to go on; `end` if
    /// nothing is left.
    pub start: u64,
    /// The address behind the last one.
    pub end: u64,
    /// Array of `count` [`ExposePgtblTable`], filled in the order of addresses.
    pub tables: u64,
}

/// Makes the call with the struct at `args`, whatever that is: an address that is no memory gives
/// `EFAULT`.
///
/// # Errors
///
/// As [`remap_page_table`].
///
/// # Safety
///
/// As [`remap_page_table`], for whatever the kernel finds at `args`. The kernel may write to the
/// eight bytes at offset 16.
pub unsafe fn remap_page_table_raw(args: *mut c_void) -> Result<(), Errno> {
    let number = number().ok_or(Errno::ENOSYS)?;
    // SAFETY: the caller's promise.
    unsafe { syscall!(number, args) }.map(drop)
}

/// Makes the call.
///
/// # Errors
///
/// `EFAULT`, `EINVAL`, `EPERM`, `ESRCH`, `ENOENT`, `ENOMEM`, `EAGAIN`, `EINTR`, `E2BIG`, `EACCES` as
/// documented with the call; `ENOSYS` from a kernel without it. Tables that are mapped count as locked
/// memory: `ENOMEM` beyond `RLIMIT_MEMLOCK` without `CAP_IPC_LOCK`.
///
/// # Safety
///
/// A form that maps a table takes the page at `remap_vaddr` away from whatever Rust code uses it
/// for, even where the call fails. A form that fills a struct overwrites the memory at
/// `remap_vaddr`.
pub unsafe fn remap_page_table(args: &mut ExposePgtblArgs) -> Result<(), Errno> {
    // SAFETY: the struct is live and exclusive; the rest is the caller's promise.
    unsafe { remap_page_table_raw(ptr::from_mut(args).cast()) }
}

/// Maps a table of process `pid` over `page` as `level` and `pfn` say; its frame number.
unsafe fn map(pid: i32, level: u32, pfn: u64, page: *mut c_void) -> Result<u64, Errno> {
    // SAFETY: the caller gives the page away.
    unsafe { change(pid, level, page.expose_provenance() as u64, pfn) }
}

/// Makes the call with these arguments; what `pfn` is then.
pub(crate) unsafe fn change(
    pid: i32,
    level: u32,
    remap_vaddr: u64,
    pfn: u64,
) -> Result<u64, Errno> {
    let mut args = ExposePgtblArgs {
        pid,
        remap_vaddr,
        pfn,
        level,
    };
    // SAFETY: the caller's promise.
    unsafe { remap_page_table(&mut args) }.map(|()| args.pfn)
}

/// Maps the root table of process `pid` (0: the caller) over `page`; returns its frame number.
///
/// # Errors
///
/// As [`remap_page_table`].
///
/// # Safety
///
/// Nothing else uses the page at `page`, a page of a mapping of the caller.
pub unsafe fn map_root(pid: i32, page: *mut c_void) -> Result<u64, Errno> {
    // SAFETY: the caller gives the page away.
    unsafe { map(pid, 0, 0, page) }
}

/// Maps the table of lookup level `level` that has frame number `frame` over `page`.
///
/// The kernel searches the tree: one read per descriptor of the levels above.
///
/// # Errors
///
/// As [`remap_page_table`]; `ENOENT` where the process has no such table.
///
/// # Safety
///
/// As [`map_root`].
pub unsafe fn map_by_frame(
    pid: i32,
    level: u32,
    frame: u64,
    page: *mut c_void,
) -> Result<(), Errno> {
    // SAFETY: the caller gives the page away.
    unsafe { map(pid, level & EXPOSE_PGTBL_LEVEL_MASK, frame, page) }.map(drop)
}

/// Maps the table of lookup level `level` (0: the root) that translates `address` over `page`;
/// returns its frame number.
///
/// The kernel descends: one read per level.
///
/// # Errors
///
/// As [`remap_page_table`]; `ENOENT` where no table of that level translates the address.
///
/// # Safety
///
/// As [`map_root`].
pub unsafe fn map_by_address(
    pid: i32,
    level: u32,
    address: u64,
    page: *mut c_void,
) -> Result<u64, Errno> {
    let level = level & EXPOSE_PGTBL_LEVEL_MASK | EXPOSE_PGTBL_ADDR;
    // SAFETY: the caller gives the page away.
    unsafe { map(pid, level, address, page) }
}

/// Maps the tables of lookup level `level`, below the root, that translate addresses in `range` of
/// process `pid`, each over the next page from `pages` on, as many as `tables` has room for and at most
/// [`EXPOSE_PGTBL_RANGE_MOST`]. Returns how many there were, and the address to go on at: the end of the
/// range if nothing is left.
///
/// # Errors
///
/// As [`remap_page_table`]; `EINVAL` for the root level, an empty range, or no room.
///
/// # Safety
///
/// Nothing else uses the `tables.len()` pages from `pages` on, which lie in mappings of the caller.
pub unsafe fn map_range(
    pid: i32,
    level: u32,
    range: Range<u64>,
    pages: *mut c_void,
    tables: &mut [ExposePgtblTable],
) -> Result<(usize, u64), Errno> {
    let level = level & EXPOSE_PGTBL_LEVEL_MASK | EXPOSE_PGTBL_RANGE;
    // SAFETY: the caller gives the pages away.
    unsafe { in_range(pid, level, range, pages.expose_provenance() as u64, tables) }
}

/// A form that takes an [`ExposePgtblRange`]: how many of `tables` are filled, and where to go on.
unsafe fn in_range(
    pid: i32,
    level: u32,
    range: Range<u64>,
    remap_vaddr: u64,
    tables: &mut [ExposePgtblTable],
) -> Result<(usize, u64), Errno> {
    let count = tables.len().min(EXPOSE_PGTBL_RANGE_MOST);
    let mut range = ExposePgtblRange {
        size: EXPOSE_PGTBL_RANGE_SIZE_VER0,
        #[expect(clippy::cast_possible_truncation, reason = "at most 512")]
        count: count as u32,
        start: range.start,
        end: range.end,
        tables: tables.as_mut_ptr().expose_provenance() as u64,
    };
    let pfn = ptr::from_mut(&mut range).expose_provenance() as u64;
    // SAFETY: the caller's promise; the kernel fills the struct and `count` elements.
    unsafe { change(pid, level, remap_vaddr, pfn) }?;
    Ok((range.count as usize, range.start))
}

/// Invalidates the TLB entries of `pages` pages of process `pid` (0: the caller) from `address`
/// on; of the whole address space if `pages` is 0.
///
/// # Errors
///
/// As [`remap_page_table`]; `EINVAL` for an address that is not page-aligned.
pub fn flush(pid: i32, address: u64, pages: u64) -> Result<(), Errno> {
    // SAFETY: this form maps nothing and writes nothing.
    unsafe { change(pid, EXPOSE_PGTBL_FLUSH, address, pages) }.map(drop)
}

/// Lets the reverse map of pages whose entries were moved to `pages` pages of process `pid` (0: the
/// caller), from `address` on, lead to where they are; how many there were.
///
/// Both places were one private anonymous mapping when its first page was touched.
///
/// # Errors
///
/// As [`remap_page_table`]; `EINVAL` for no pages, for an address that is not page-aligned, and where
/// there is no private anonymous mapping; from a kernel that has the call without this form, too.
///
/// # Safety
///
/// Nobody moves an entry of these pages meanwhile, nor afterwards: the kernel moves and frees them as
/// it likes from now on, and an entry that it does not find would lead to a frame which is somebody
/// else's.
pub unsafe fn adopt(pid: i32, address: u64, pages: u64) -> Result<u64, Errno> {
    // SAFETY: the caller's promise.
    unsafe { change(pid, EXPOSE_PGTBL_ADOPT, address, pages) }
}

/// Lets the reverse map of `pages` pages of process `pid` (0: the caller), from `address` on, lead
/// nowhere until they are adopted, so that the kernel leaves their entries alone; how many there were.
///
/// # Errors
///
/// As [`adopt`]; `EINVAL` also where huge pages are not kept out (`MADV_NOHUGEPAGE`), and `EPERM` without
/// `CAP_IPC_LOCK`, since pages that are lent are locked in memory.
///
/// # Safety
///
/// Nobody but the caller changes these entries, or has the kernel change them (madvise(2), mprotect(2),
/// mremap(2), fork(2)) while they are moved: a page would be in two places, or in none. Each page is
/// adopted, or unmapped where it was lent, in the end.
pub unsafe fn lend(pid: i32, address: u64, pages: u64) -> Result<u64, Errno> {
    // SAFETY: the caller's promise.
    unsafe { change(pid, EXPOSE_PGTBL_LEND, address, pages) }
}

/// Moves pages of process `pid` (0: the caller) in `from` to the empty places from `to` on, as many as
/// `places` has elements and at most [`EXPOSE_PGTBL_RANGE_MOST`], and lends them as [`lend`] does.
///
/// Pages that another process has, too, or that I/O of the kernel refers to, stay. Each element tells
/// where its page was, and by which descriptor it was mapped; the address is 0 where a place was not
/// empty. Returns how many places were dealt with, and the address to go on at.
///
/// # Errors
///
/// As [`remap_page_table`]; `EINVAL` where either side is not private anonymous memory, for no pages or
/// places, for overlapping ones, ones with other permissions and ones that were never one mapping, and for
/// places where huge pages are not kept out (`MADV_NOHUGEPAGE`); `ENOENT` where a place has no table;
/// `EPERM` without `CAP_IPC_LOCK`; `EFAULT`, with nothing moved, if `places` cannot be written.
///
/// # Safety
///
/// Nobody uses what is in the pages at their old addresses: those read as never written. TLBs know
/// nothing of the places.
pub unsafe fn take(
    pid: i32,
    from: Range<u64>,
    to: u64,
    places: &mut [ExposePgtblTable],
) -> Result<(usize, u64), Errno> {
    // SAFETY: the caller's promise.
    unsafe { in_range(pid, EXPOSE_PGTBL_TAKE, from, to, places) }
}

/// Asks for the geometry of the page tables of this kernel.
///
/// # Errors
///
/// `ENOSYS` from a kernel without the call, `EPERM` without `CAP_SYS_ADMIN`.
pub fn info() -> Result<ExposePgtblInfo, Errno> {
    let mut info = ExposePgtblInfo {
        size: EXPOSE_PGTBL_INFO_SIZE_VER0,
        ..Default::default()
    };
    // SAFETY: the kernel fills at most `size` bytes of the struct, which has that size.
    unsafe { fill(0, EXPOSE_PGTBL_INFO, 0, ptr::from_mut(&mut info).cast()) }.map(|()| info)
}

/// Asks for the descriptors that translate `address` of process `pid` (0: the caller).
///
/// # Errors
///
/// As [`remap_page_table`]; an address that is not mapped is not an error.
pub fn path(pid: i32, address: u64) -> Result<ExposePgtblPath, Errno> {
    let mut path = ExposePgtblPath {
        size: EXPOSE_PGTBL_PATH_SIZE_VER0,
        ..Default::default()
    };
    // SAFETY: the kernel fills at most `size` bytes of the struct, which has that size.
    unsafe {
        fill(
            pid,
            EXPOSE_PGTBL_PATH,
            address,
            ptr::from_mut(&mut path).cast(),
        )
    }
    .map(|()| path)
}

/// Has the kernel fill the struct at `to`, which begins with its size.
unsafe fn fill(pid: i32, flag: u32, address: u64, to: *mut c_void) -> Result<(), Errno> {
    // SAFETY: the caller says that the struct is exclusive and as large as its size field.
    unsafe { map(pid, flag, address, to) }.map(drop)
}
