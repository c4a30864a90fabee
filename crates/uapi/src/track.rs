//! `EXPOSE_PGTBL_TRACK` of `remap_page_table(2)`: which pages were written or accessed.

#![expect(unsafe_code, reason = "the kernel fills an array")]

use core::ops::Range;
use core::ptr;

use crate::errno::Errno;
use crate::remap::change;

/// Flag of [`ExposePgtblArgs::level`](crate::remap::ExposePgtblArgs::level): reports written or accessed
/// pages as the [`ExposePgtblTrack`] at `pfn` asks.
pub const EXPOSE_PGTBL_TRACK: u32 = 0x1_0000;

/// Bit of [`ExposePgtblTrack::mode`]: report written pages.
pub const EXPOSE_PGTBL_TRACK_WRITTEN: u32 = 0x1;
/// Bit of the mode: report accessed pages.
pub const EXPOSE_PGTBL_TRACK_ACCESSED: u32 = 0x2;
/// Bit of the mode: start a new round, so that a page reported now is reported again only for a new write or
/// access.
pub const EXPOSE_PGTBL_TRACK_ARM: u32 = 0x4;
/// Bit of the mode: report nothing, and end tracking, so that writes cost what they did before the first ARM.
pub const EXPOSE_PGTBL_TRACK_STOP: u32 = 0x8;
/// Bit of the mode: report addresses without a page, too.
pub const EXPOSE_PGTBL_TRACK_ABSENT: u32 = 0x10;
/// Bit of the mode, with ARM: split blocks, so that their pages are reported one by one from then on.
pub const EXPOSE_PGTBL_TRACK_SPLIT: u32 = 0x20;

/// Bit of [`ExposePgtblRun::kind`]: the entry was dirty.
pub const EXPOSE_PGTBL_RUN_WRITTEN: u32 = 0x1;
/// Bit of the kind: the entry was young.
pub const EXPOSE_PGTBL_RUN_ACCESSED: u32 = 0x2;
/// Bit of the kind: the entry is new, so it is unknown whether the page was written.
pub const EXPOSE_PGTBL_RUN_NEW: u32 = 0x4;
/// Bit of the kind: swapped out, migrating, or shared memory that is not mapped; it is unknown whether it was
/// written.
pub const EXPOSE_PGTBL_RUN_AWAY: u32 = 0x8;
/// Bit of the kind: the page may be under I/O, which writes it without changing the entry.
pub const EXPOSE_PGTBL_RUN_BUSY: u32 = 0x10;
/// Bit of the kind: there is no page; reads give zeros, or the contents of the file.
pub const EXPOSE_PGTBL_RUN_ABSENT: u32 = 0x20;
/// Bit of the kind: one entry for all pages of a block.
pub const EXPOSE_PGTBL_RUN_BLOCK: u32 = 0x40;

/// Bit number of the mark in an entry that means: not written since, unless the entry is dirty.
pub const EXPOSE_PGTBL_BIT_TRACK_W: u8 = 60;
/// Bit number of the mark in an entry that means: not accessed since, unless the entry is young.
pub const EXPOSE_PGTBL_BIT_TRACK_A: u8 = 61;

/// Size of the first version of [`ExposePgtblTrack`] in bytes.
pub const EXPOSE_PGTBL_TRACK_SIZE_VER0: u32 = 40;
/// Maximum number of runs that one call fills.
pub const EXPOSE_PGTBL_TRACK_MOST: usize = 1024;

/// `struct expose_pgtbl_run`: consecutive pages that are reported for the same reasons.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposePgtblRun {
    /// The first address.
    pub start: u64,
    /// The address after the last page.
    pub end: u64,
    /// `EXPOSE_PGTBL_RUN_*`.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}

/// `struct expose_pgtbl_track`: which pages were written or accessed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposePgtblTrack {
    /// Size of this struct in bytes, as the caller knows it.
    pub size: u32,
    /// `EXPOSE_PGTBL_TRACK_*`.
    pub mode: u32,
    /// In: the first page. Out: where to continue; `end` if the range is finished.
    pub start: u64,
    /// The address after the last page.
    pub end: u64,
    /// Array of `count` [`ExposePgtblRun`], filled in address order.
    pub runs: u64,
    /// In: size of the array; 0 reports nothing. Out: number of runs filled.
    pub count: u32,
    /// 0.
    pub reserved: u32,
}

/// Reports which pages in `range` of process `pid` (0: the caller) were written or accessed, as `mode` asks.
/// Returns how many of `runs` were filled, at most [`EXPOSE_PGTBL_TRACK_MOST`], and the address to continue
/// at, which is the end of the range if nothing is left. A call returns early for signals, and for threads
/// that wait for the mmap lock. Makes one system call. A call that fails loses no report.
///
/// # Errors
///
/// As [`remap_page_table`](crate::remap::remap_page_table). `EINVAL` for an invalid mode, for a range that is
/// empty or not of whole pages, and if the first page is not anonymous memory, shmem, or a private mapping of
/// a file; also from a kernel that has the call without this form.
pub fn track(
    pid: i32,
    mode: u32,
    range: Range<u64>,
    runs: &mut [ExposePgtblRun],
) -> Result<(usize, u64), Errno> {
    let count = runs.len().min(EXPOSE_PGTBL_TRACK_MOST);
    let mut track = ExposePgtblTrack {
        size: EXPOSE_PGTBL_TRACK_SIZE_VER0,
        mode,
        start: range.start,
        end: range.end,
        runs: runs.as_mut_ptr().expose_provenance() as u64,
        #[expect(clippy::cast_possible_truncation, reason = "at most 1024")]
        count: count as u32,
        reserved: 0,
    };
    let pfn = ptr::from_mut(&mut track).expose_provenance() as u64;
    // SAFETY: the kernel fills the struct and `count` elements of the array, and changes the contents of no
    // page.
    unsafe { change(pid, EXPOSE_PGTBL_TRACK, 0, pfn) }?;
    Ok((track.count as usize, track.start))
}
