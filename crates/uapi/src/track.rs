//! `EXPOSE_PGTBL_TRACK` of `remap_page_table(2)`: which pages were written or accessed.

#![expect(unsafe_code, reason = "the kernel fills an array")]

use core::ops::Range;
use core::ptr;

use crate::errno::Errno;
use crate::remap::change;

/// Flag of [`ExposePgtblArgs::level`](crate::remap::ExposePgtblArgs::level): tells what was written or
/// accessed as the [`ExposePgtblTrack`] at `pfn` says.
pub const EXPOSE_PGTBL_TRACK: u32 = 0x1_0000;

/// Bit of [`ExposePgtblTrack::mode`]: what was written is asked.
pub const EXPOSE_PGTBL_TRACK_WRITTEN: u32 = 0x1;
/// Bit of the mode: what was accessed is asked.
pub const EXPOSE_PGTBL_TRACK_ACCESSED: u32 = 0x2;
/// Bit of the mode: what is told now is not told again.
pub const EXPOSE_PGTBL_TRACK_ARM: u32 = 0x4;
/// Bit of the mode: tells nothing, and lets writes cost what they did before the first ARM.
pub const EXPOSE_PGTBL_TRACK_STOP: u32 = 0x8;
/// Bit of the mode: tells where no page is, too.
pub const EXPOSE_PGTBL_TRACK_ABSENT: u32 = 0x10;
/// Bit of the mode, with ARM: splits blocks, to tell pages of them apart from then on.
pub const EXPOSE_PGTBL_TRACK_SPLIT: u32 = 0x20;

/// Bit of [`ExposePgtblRun::kind`]: the entry was dirty.
pub const EXPOSE_PGTBL_RUN_WRITTEN: u32 = 0x1;
/// Bit of the kind: the entry was young.
pub const EXPOSE_PGTBL_RUN_ACCESSED: u32 = 0x2;
/// Bit of the kind: the entry is new, so nothing is known.
pub const EXPOSE_PGTBL_RUN_NEW: u32 = 0x4;
/// Bit of the kind: in swap, moving, or shared memory that is not mapped, and nothing is known.
pub const EXPOSE_PGTBL_RUN_AWAY: u32 = 0x8;
/// Bit of the kind: I/O may be under way, which writes the page without its entry.
pub const EXPOSE_PGTBL_RUN_BUSY: u32 = 0x10;
/// Bit of the kind: there is no page; it reads as zeros, or as the file.
pub const EXPOSE_PGTBL_RUN_ABSENT: u32 = 0x20;
/// Bit of the kind: one entry for all of a block.
pub const EXPOSE_PGTBL_RUN_BLOCK: u32 = 0x40;

/// Bit number of the mark of an entry that says: not written since, unless it is dirty.
pub const EXPOSE_PGTBL_BIT_TRACK_W: u8 = 60;
/// Bit number of the mark of an entry that says: not accessed since, unless it is young.
pub const EXPOSE_PGTBL_BIT_TRACK_A: u8 = 61;

/// Size of the first version of [`ExposePgtblTrack`] in bytes.
pub const EXPOSE_PGTBL_TRACK_SIZE_VER0: u32 = 40;
/// Runs that one call fills at most.
pub const EXPOSE_PGTBL_TRACK_MOST: usize = 1024;

/// `struct expose_pgtbl_run`: pages next to each other of which the same is told.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposePgtblRun {
    /// The first address.
    pub start: u64,
    /// The address behind the last page.
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
    /// Bytes of this struct that the caller knows.
    pub size: u32,
    /// `EXPOSE_PGTBL_TRACK_*`.
    pub mode: u32,
    /// In: the first page. Out: where to go on; `end` if nothing is left.
    pub start: u64,
    /// The address behind the last page.
    pub end: u64,
    /// Array of `count` [`ExposePgtblRun`], filled in the order of addresses.
    pub runs: u64,
    /// In: runs that there is room for; 0: tell nothing. Out: runs filled.
    pub count: u32,
    /// 0.
    pub reserved: u32,
}

/// Asks which pages of process `pid` (0: the caller) in `range` were written or accessed, as `mode` says:
/// how many of `runs` are filled, at most [`EXPOSE_PGTBL_TRACK_MOST`], and the address to go on at, the
/// end of the range if nothing is left; a call returns earlier for signals and for those who wait to change
/// mappings. One system call. Nothing is lost by a call that fails.
///
/// # Errors
///
/// As [`remap_page_table`](crate::remap::remap_page_table); `EINVAL` for a mode that makes no sense, a
/// range that is empty or no pages, and where the first page is not of anonymous memory, shmem, or a
/// private mapping of a file; from a kernel that has the call without this form, too.
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
    // SAFETY: the kernel fills the struct and `count` elements of the array, and no page of the process
    // has another content afterwards.
    unsafe { change(pid, EXPOSE_PGTBL_TRACK, 0, pfn) }?;
    Ok((track.count as usize, track.start))
}
