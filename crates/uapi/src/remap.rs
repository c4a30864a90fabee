//! `remap_page_table(2)`: maps live page-table pages of a process into the caller.
//!
//! On a kernel without the call its forms are made by the device of the kernel module, if that is loaded: see
//! [`crate::remap_device`]. The number of a process is looked up at each call all the same, and `ENOSYS` means that there
//! is neither.
//!
//! The contract is `Documentation/admin-guide/mm/remap_page_table.rst` in the kernel series. The types mirror
//! its header `include/uapi/linux/remap_page_table.h`.

#![expect(unsafe_code, reason = "maps a table over a page of the caller")]

use core::ffi::c_void;
use core::ops::Range;
use core::ptr;

use crate::errno::Errno;
pub use crate::number::{NUMBERS, number};
use crate::remap_device::{self, EXPOSE_PGTBL_PATH5_SIZE, ExposePgtblPath5};

/// Bits of [`ExposePgtblArgs::level`] that hold the lookup level.
pub const EXPOSE_PGTBL_LEVEL_MASK: u32 = 0xff;
/// Maps the table that translates `pfn`, an address of the target.
pub const EXPOSE_PGTBL_ADDR: u32 = 0x100;
/// Invalidates the TLB entries of `pfn` pages starting at `remap_vaddr`; 0 means all.
pub const EXPOSE_PGTBL_FLUSH: u32 = 0x200;
/// Fills the [`ExposePgtblInfo`] at `remap_vaddr`.
pub const EXPOSE_PGTBL_INFO: u32 = 0x400;
/// Fills the [`ExposePgtblPath`] at `remap_vaddr` for the address `pfn`.
pub const EXPOSE_PGTBL_PATH: u32 = 0x800;
/// Maps several tables, as the [`ExposePgtblRange`] at `pfn` asks.
pub const EXPOSE_PGTBL_RANGE: u32 = 0x1000;
/// Repoints the reverse mapping of `pfn` moved pages to their new address, `remap_vaddr`.
pub const EXPOSE_PGTBL_ADOPT: u32 = 0x2000;
/// Lends `pfn` pages starting at `remap_vaddr`: user space changes their entries, and the kernel leaves them
/// alone.
pub const EXPOSE_PGTBL_LEND: u32 = 0x4000;
/// Moves pages to `remap_vaddr`, as the [`ExposePgtblRange`] at `pfn` asks.
pub const EXPOSE_PGTBL_TAKE: u32 = 0x8000;

/// Bit of [`ExposePgtblInfo::features`]: the CPU sets the access flag.
pub const EXPOSE_PGTBL_HW_AF: u32 = 0x1;
/// Bit of [`ExposePgtblInfo::features`]: the CPU manages the dirty state.
pub const EXPOSE_PGTBL_HW_DBM: u32 = 0x2;

/// Value of a `bit_*` or `swp_*` field of [`ExposePgtblInfo`] for a bit or type that this kernel does not
/// use.
pub const EXPOSE_PGTBL_NO_BIT: u8 = 0xff;

/// Size of the first version of [`ExposePgtblInfo`] in bytes.
pub const EXPOSE_PGTBL_INFO_SIZE_VER0: u32 = 56;
/// Size of the first version of [`ExposePgtblPath`] in bytes.
pub const EXPOSE_PGTBL_PATH_SIZE_VER0: u32 = 56;
/// Size of the first version of [`ExposePgtblRange`] in bytes.
pub const EXPOSE_PGTBL_RANGE_SIZE_VER0: u32 = 32;

/// Maximum number of tables that one [`EXPOSE_PGTBL_RANGE`] maps, or of pages that one [`EXPOSE_PGTBL_TAKE`]
/// moves.
pub const EXPOSE_PGTBL_RANGE_MOST: usize = 512;

/// `struct expose_pgtbl_args`: the argument of the call.
///
/// The four bytes of padding at the end are never read by the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExposePgtblArgs {
    /// The target process; 0 is the caller.
    pub pid: i32,
    /// Page-aligned address of a page of the caller, which the table replaces.
    pub remap_vaddr: u64,
    /// In: frame number of the table, ignored for level 0. Out: frame number of the mapped table.
    pub pfn: u64,
    /// Bits 0 to 7: lookup level, where 0 is the root at whatever level it is. Above: a flag.
    pub level: u32,
}

/// `struct expose_pgtbl_info`: geometry of the page tables of this kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposePgtblInfo {
    /// In: size of the struct in the caller. Out: size that the kernel knows.
    pub size: u32,
    /// log2 of the translation granule in bytes.
    pub page_shift: u32,
    /// Width of a user virtual address, in bits.
    pub va_bits: u32,
    /// Number of lookup levels; the root is at level 4 - `levels`.
    pub levels: u32,
    /// Number of descriptors in the root table.
    pub root_entries: u32,
    /// Width of an output address, in bits.
    pub oa_bits: u32,
    /// Value of `MAIR_EL1`.
    pub mair: u64,
    /// `EXPOSE_PGTBL_HW_*`, for the CPU that made the call.
    pub features: u32,
    /// `EXPOSE_PGTBL_*` flags that this kernel accepts in [`ExposePgtblArgs::level`].
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
    /// Type of the swap entry for a frame with a hardware error.
    pub swp_hwpoison: u8,
    /// First of the three types of swap entries for a frame that is being migrated: readable; readable and
    /// exclusive; writable.
    pub swp_migration: u8,
    /// First type of the swap entries for device memory.
    pub swp_device: u8,
    /// Type of a swap entry that is only a marker.
    pub swp_marker: u8,
}

/// `struct expose_pgtbl_path`: the descriptors that translate one address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposePgtblPath {
    /// In: size of the struct in the caller. Out: size that the kernel knows.
    pub size: u32,
    /// Lookup level at which the walk starts.
    pub root_level: u32,
    /// Lookup level at which it ended: at a page, a block or an invalid entry.
    pub last_level: u32,
    /// Always 0.
    pub reserved: u32,
    /// Frame number of the root table.
    pub root_pfn: u64,
    /// The descriptor read at each lookup level; 0 for levels that were not read.
    pub desc: [u64; 4],
}

/// `struct expose_pgtbl_table`: a table that [`EXPOSE_PGTBL_RANGE`] mapped, or a page that
/// [`EXPOSE_PGTBL_TAKE`] moved.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposePgtblTable {
    /// RANGE: first address that the table translates. TAKE: old address of the page, or 0 if the place was
    /// not empty.
    pub addr: u64,
    /// The descriptor that pointed to the table or page.
    pub desc: u64,
}

/// `struct expose_pgtbl_range`: consecutive pages to map tables over, or places to move pages to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposePgtblRange {
    /// Size of this struct in the caller, at most a page.
    pub size: u32,
    /// In: number of pages to replace, or of places. Out: number of tables mapped, in order, or of places
    /// handled.
    pub count: u32,
    /// In: an address that the first table translates, or the first page. Out: the address to continue at;
    /// `end` if nothing is left.
    pub start: u64,
    /// The end of the range, exclusive.
    pub end: u64,
    /// Array of `count` [`ExposePgtblTable`], filled in address order.
    pub tables: u64,
}

/// Makes the system call, not by the device, with the struct at `args`, which may be any address; an unmapped one
/// gives `EFAULT`.
///
/// # Errors
///
/// As [`remap_page_table`].
///
/// # Safety
///
/// As for [`remap_page_table`], with the struct that the kernel finds at `args`. The kernel may write to the
/// eight bytes at offset 16.
pub unsafe fn remap_page_table_raw(args: *mut c_void) -> Result<(), Errno> {
    let number = number().ok_or(Errno::ENOSYS)?;
    // SAFETY: guaranteed by the caller.
    unsafe { syscall!(number, args) }.map(drop)
}

/// Makes the call.
///
/// # Errors
///
/// `EFAULT`, `EINVAL`, `EPERM`, `ESRCH`, `ENOENT`, `ENOMEM`, `EAGAIN`, `EINTR`, `E2BIG`, `EACCES` as
/// documented with the call; `ENOSYS` from a kernel without it. Mapped tables count as locked memory:
/// `ENOMEM` beyond `RLIMIT_MEMLOCK` without `CAP_IPC_LOCK`.
///
/// # Safety
///
/// A form that maps a table replaces the page at `remap_vaddr`, even if the call fails: no Rust code may use
/// that page. A form that fills a struct overwrites the memory at `remap_vaddr`.
pub unsafe fn remap_page_table(args: &mut ExposePgtblArgs) -> Result<(), Errno> {
    if number().is_none() {
        // SAFETY: guaranteed by the caller.
        return unsafe { remap_device::call(args) };
    }
    // SAFETY: the struct is valid and exclusive; the caller guarantees the rest.
    unsafe { remap_page_table_raw(ptr::from_mut(args).cast()) }
}

/// Maps the table of process `pid` that `level` and `pfn` select over `page`. Returns its frame number.
unsafe fn map(pid: i32, level: u32, pfn: u64, page: *mut c_void) -> Result<u64, Errno> {
    // SAFETY: guaranteed by the caller.
    unsafe { change(pid, level, page.expose_provenance() as u64, pfn) }
}

/// Makes the call with these arguments. Returns the value of `pfn` afterwards.
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
    // SAFETY: guaranteed by the caller.
    unsafe { remap_page_table(&mut args) }.map(|()| args.pfn)
}

/// Maps the root table of process `pid` (0: the caller) over `page`. Returns its frame number.
///
/// # Errors
///
/// As [`remap_page_table`].
///
/// # Safety
///
/// `page` is a page in a mapping of the caller, and nothing else uses it.
pub unsafe fn map_root(pid: i32, page: *mut c_void) -> Result<u64, Errno> {
    // SAFETY: guaranteed by the caller.
    unsafe { map(pid, 0, 0, page) }
}

/// Maps the table of lookup level `level` with frame number `frame` over `page`.
///
/// The kernel searches the tree: it reads each descriptor of the levels above once.
///
/// # Errors
///
/// As [`remap_page_table`]; `ENOENT` if the process has no such table.
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
    // SAFETY: guaranteed by the caller.
    unsafe { map(pid, level & EXPOSE_PGTBL_LEVEL_MASK, frame, page) }.map(drop)
}

/// Maps the table of lookup level `level` (0: the root) that translates `address` over `page`. Returns its
/// frame number.
///
/// The kernel walks down the tree: it reads one descriptor for each level.
///
/// # Errors
///
/// As [`remap_page_table`]; `ENOENT` if no table of that level translates the address.
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
    // SAFETY: guaranteed by the caller.
    unsafe { map(pid, level, address, page) }
}

/// Maps the tables of lookup level `level`, below the root, that translate addresses in `range` of process
/// `pid`. Each replaces the next page, starting at `pages`. Maps at most `tables.len()` and at most
/// [`EXPOSE_PGTBL_RANGE_MOST`] tables. Returns the number of tables, and the address to continue at, which is
/// the end of the range if nothing is left.
///
/// # Errors
///
/// As [`remap_page_table`]; `EINVAL` for the root level, an empty range, or an empty `tables`.
///
/// # Safety
///
/// The `tables.len()` pages starting at `pages` lie in mappings of the caller, and nothing else uses them.
pub unsafe fn map_range(
    pid: i32,
    level: u32,
    range: Range<u64>,
    pages: *mut c_void,
    tables: &mut [ExposePgtblTable],
) -> Result<(usize, u64), Errno> {
    let level = level & EXPOSE_PGTBL_LEVEL_MASK | EXPOSE_PGTBL_RANGE;
    // SAFETY: guaranteed by the caller.
    unsafe { in_range(pid, level, range, pages.expose_provenance() as u64, tables) }
}

/// Makes a call that takes an [`ExposePgtblRange`]. Returns how many of `tables` were filled, and where to
/// continue.
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
    // SAFETY: guaranteed by the caller; the kernel fills the struct and `count` elements.
    unsafe { change(pid, level, remap_vaddr, pfn) }?;
    Ok((range.count as usize, range.start))
}

/// Invalidates the TLB entries of `pages` pages of process `pid` (0: the caller) starting at `address`; of
/// the whole address space if `pages` is 0.
///
/// # Errors
///
/// As [`remap_page_table`]; `EINVAL` for an address that is not page-aligned.
pub fn flush(pid: i32, address: u64, pages: u64) -> Result<(), Errno> {
    // SAFETY: this form maps nothing and writes nothing.
    unsafe { change(pid, EXPOSE_PGTBL_FLUSH, address, pages) }.map(drop)
}

/// Adopts moved pages: repoints the reverse mapping of the pages whose entries were moved to `pages` pages of
/// process `pid` (0: the caller), starting at `address`, to these addresses. Returns how many there were.
///
/// The old and the new addresses belonged to one private anonymous mapping when its first page was touched.
///
/// # Errors
///
/// As [`remap_page_table`]; `EINVAL` if `pages` is 0, for an address that is not page-aligned, and outside
/// private anonymous mappings; also from a kernel that has the call without this form.
///
/// # Safety
///
/// Nobody moves an entry of these pages during the call or afterwards. From then on the kernel moves and
/// frees the pages as it likes, and an entry that it does not find would still map a frame that is reused.
pub unsafe fn adopt(pid: i32, address: u64, pages: u64) -> Result<u64, Errno> {
    // SAFETY: guaranteed by the caller.
    unsafe { change(pid, EXPOSE_PGTBL_ADOPT, address, pages) }
}

/// Lends `pages` pages of process `pid` (0: the caller), starting at `address`: removes them from the reverse
/// mapping until they are adopted, so that the kernel leaves their entries alone. Returns how many there
/// were.
///
/// # Errors
///
/// As [`adopt`]; `EINVAL` also if huge pages are not disabled (`MADV_NOHUGEPAGE`), and `EPERM` without
/// `CAP_IPC_LOCK`, since lent pages are locked in memory.
///
/// # Safety
///
/// Until the pages are adopted, nobody but the caller changes these entries, or makes the kernel change them
/// by madvise(2), mprotect(2), mremap(2) or fork(2): a page could be mapped twice, or be lost. Each page is
/// adopted in the end, or unmapped at the address where it was lent.
pub unsafe fn lend(pid: i32, address: u64, pages: u64) -> Result<u64, Errno> {
    // SAFETY: guaranteed by the caller.
    unsafe { change(pid, EXPOSE_PGTBL_LEND, address, pages) }
}

/// Moves pages in the range `from` of process `pid` (0: the caller) to the empty places starting at `to`, and
/// lends them as [`lend`] does. Moves at most `places.len()` and at most [`EXPOSE_PGTBL_RANGE_MOST`] pages.
///
/// Pages that are shared with another process, or that are under I/O, stay. Each element gets the old
/// address of the page and the descriptor that mapped it; the address is 0 if the place was not empty.
/// Returns the number of places handled, and the address to continue at. The call ends before either is done if a
/// signal arrives or somebody waits for the lock of the address space.
///
/// # Errors
///
/// As [`remap_page_table`]; `EINVAL` if either side is not private anonymous memory, if there are no pages or
/// no places, if they overlap, if they have different permissions or never were one mapping, and if huge
/// pages are not disabled for the places (`MADV_NOHUGEPAGE`); `ENOENT` if a place has no table; `EPERM`
/// without `CAP_IPC_LOCK`; `EFAULT`, with nothing moved, if `places` cannot be written.
///
/// # Safety
///
/// Nobody uses the contents of the pages at their old addresses, which read as zeros afterwards. No TLB has
/// entries for the places.
pub unsafe fn take(
    pid: i32,
    from: Range<u64>,
    to: u64,
    places: &mut [ExposePgtblTable],
) -> Result<(usize, u64), Errno> {
    // SAFETY: guaranteed by the caller.
    unsafe { in_range(pid, EXPOSE_PGTBL_TAKE, from, to, places) }
}

/// Returns the geometry of this kernel's page tables.
///
/// # Errors
///
/// `ENOSYS` from a kernel without the call, `EPERM` without `CAP_SYS_ADMIN`.
pub fn info() -> Result<ExposePgtblInfo, Errno> {
    let mut info = ExposePgtblInfo {
        size: EXPOSE_PGTBL_INFO_SIZE_VER0,
        ..Default::default()
    };
    // SAFETY: the kernel fills at most `size` bytes of the struct, which is that large.
    unsafe { fill(0, EXPOSE_PGTBL_INFO, 0, ptr::from_mut(&mut info).cast()) }.map(|()| info)
}

/// Returns the descriptors that translate `address` of process `pid` (0: the caller).
///
/// # Errors
///
/// As [`remap_page_table`]. An address that is not mapped is not an error.
pub fn path(pid: i32, address: u64) -> Result<ExposePgtblPath, Errno> {
    path5(pid, address).map(|path| path.path)
}

/// The same, with the descriptor of level -1 where that is the root.
///
/// # Errors
///
/// As [`path`].
pub fn path5(pid: i32, address: u64) -> Result<ExposePgtblPath5, Errno> {
    let mut path = ExposePgtblPath5::default();
    path.path.size = EXPOSE_PGTBL_PATH5_SIZE;
    // SAFETY: the kernel fills at most `size` bytes of the struct, which is that large.
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

/// Lets the kernel fill the struct at `to`, which begins with its size.
unsafe fn fill(pid: i32, flag: u32, address: u64, to: *mut c_void) -> Result<(), Errno> {
    // SAFETY: the caller guarantees that the struct is exclusive and as large as its size field.
    unsafe { map(pid, flag, address, to) }.map(drop)
}
