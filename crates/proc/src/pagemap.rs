//! `/proc/<pid>/pagemap`, `/proc/<pid>/maps` and `/proc/kpageflags`: the kernel's own account of an address space.
//!
//! Format: `Documentation/admin-guide/mm/pagemap.rst` and `Documentation/filesystems/proc.rst`.

use core::fmt;

use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_RDONLY, OwnedFd};

use crate::lines::{for_each_line, parse_range};
use crate::path::proc_path;

/// What pagemap says of one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PagemapEntry(u64);

impl PagemapEntry {
    /// Bit 63: the page is present.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 >> 63 != 0
    }

    /// Bit 62: the page is in swap, or on its way to another frame, or has another entry that is not
    /// valid.
    #[must_use]
    pub const fn is_swapped(self) -> bool {
        self.0 >> 62 & 1 != 0
    }

    /// Bits 4:0 and 54:5 of a page in swap: type, and offset or frame number.
    #[must_use]
    pub const fn swap(self) -> (u64, u64) {
        (self.frame() & 0x1f, self.frame() >> 5)
    }

    /// Bits 54:0 of a present page: its frame number; 0 without `CAP_SYS_ADMIN`.
    #[must_use]
    pub const fn frame(self) -> u64 {
        self.0 & ((1 << 55) - 1)
    }
}

impl fmt::Display for PagemapEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_present() {
            write!(f, "frame {:#x}", self.frame())
        } else {
            f.write_str("none")
        }
    }
}

/// An open `/proc/<pid>/pagemap`.
#[derive(Debug)]
pub struct Pagemap {
    fd: OwnedFd,
    page_shift: u32,
}

impl Pagemap {
    /// Opens the pagemap of process `pid`.
    ///
    /// # Errors
    ///
    /// As open(2): `ENOENT` without such a process or without `/proc`.
    pub fn open(pid: i32, page_shift: u32) -> Result<Self, Errno> {
        let fd = file::open(&proc_path(pid, "pagemap")?, O_RDONLY)?;
        Ok(Self { fd, page_shift })
    }

    /// Reads the entry of the page at `address`: one system call.
    ///
    /// # Errors
    ///
    /// As pread(2); `ENODATA` beyond the end of the address space.
    pub fn entry(&self, address: u64) -> Result<PagemapEntry, Errno> {
        let mut bytes = [0; 8];
        match file::pread(&self.fd, &mut bytes, self.offset(address))? {
            8 => Ok(PagemapEntry(u64::from_ne_bytes(bytes))),
            _ => Err(Errno::ENODATA),
        }
    }

    /// Reads the entries of the page at `address` and those behind it, at most 512: one system call. How
    /// many there are; none beyond the end of the address space.
    ///
    /// # Errors
    ///
    /// As pread(2).
    pub fn read(&self, address: u64, entries: &mut [PagemapEntry]) -> Result<usize, Errno> {
        let mut bytes = [[0; 8]; 512];
        let wanted = entries.len().min(bytes.len());
        let buffer = bytes.get_mut(..wanted).unwrap_or_default();
        let read = file::pread(&self.fd, buffer.as_flattened_mut(), self.offset(address))?;
        for (entry, bytes) in entries.iter_mut().zip(bytes).take(read / 8) {
            *entry = PagemapEntry(u64::from_ne_bytes(bytes));
        }
        Ok(read / 8)
    }

    /// Counts the pages present in `[start, end)`: one system call for 64 pages.
    ///
    /// # Errors
    ///
    /// As [`Pagemap::entry`].
    pub fn count_present(&self, start: u64, end: u64) -> Result<u64, Errno> {
        let mut bytes = [0; 512];
        let (mut offset, end) = (self.offset(start), self.offset(end));
        let mut present = 0;
        while offset < end {
            let read = file::pread(&self.fd, &mut bytes, offset)?;
            let (entries, _) = bytes.as_chunks();
            let entries = entries.iter().zip((offset..end).step_by(8)).take(read / 8);
            present += entries
                .filter(|(entry, _)| PagemapEntry(u64::from_ne_bytes(**entry)).is_present())
                .count() as u64;
            if read == 0 {
                return Err(Errno::ENODATA);
            }
            offset += read as u64;
        }
        Ok(present)
    }

    /// Eight bytes for each page.
    const fn offset(&self, address: u64) -> u64 {
        (address >> self.page_shift) * 8
    }
}

/// An open `/proc/kpageflags`: what the kernel says of frames.
#[derive(Debug)]
pub struct FrameFlags(OwnedFd);

impl FrameFlags {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// As open(2): `EACCES` or `EPERM` for others than root, `ENOENT` without `CONFIG_PROC_PAGE_MONITOR`.
    pub fn open() -> Result<Self, Errno> {
        file::open(c"/proc/kpageflags", O_RDONLY).map(Self)
    }

    /// Whether the frame is that of zeros, or one of the huge page of zeros, which has no mark in its
    /// entries: `KPF_ZERO_PAGE` of `include/uapi/linux/kernel-page-flags.h`. One system call.
    ///
    /// # Errors
    ///
    /// As pread(2); `ENODATA` for a frame that is no memory.
    pub fn is_zeros(&self, frame: u64) -> Result<bool, Errno> {
        const ZERO_PAGE: u64 = 1 << 24;
        let mut bytes = [0; 8];
        match file::pread(&self.0, &mut bytes, frame.saturating_mul(8))? {
            8 => Ok(u64::from_ne_bytes(bytes) & ZERO_PAGE != 0),
            _ => Err(Errno::ENODATA),
        }
    }
}

/// Calls `visit` with the `[start, end)` of every mapping of process `pid`.
///
/// # Errors
///
/// As [`for_each_line`].
pub fn for_each_mapping(
    pid: i32,
    mut visit: impl FnMut(u64, u64) -> Result<(), Errno>,
) -> Result<(), Errno> {
    for_each_line(
        &proc_path(pid, "maps")?,
        &mut |line| match parse_range(line) {
            Some((start, end)) => visit(start, end),
            None => Err(Errno::EINVAL),
        },
    )
}
