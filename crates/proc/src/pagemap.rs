//! `/proc/<pid>/pagemap`, `/proc/<pid>/maps` and `/proc/kpageflags`: what the kernel reports about an address
//! space.
//!
//! Format: `Documentation/admin-guide/mm/pagemap.rst` and `Documentation/filesystems/proc.rst`.

use core::fmt;

use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_RDONLY, OwnedFd};

use crate::lines::{for_each_line, parse_range};
use crate::path::proc_path;

/// The pagemap entry of one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PagemapEntry(u64);

impl PagemapEntry {
    /// Returns bit 63: the page is present.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 >> 63 != 0
    }

    /// Returns bit 62: the page is swapped out, or is being migrated, or has another entry that is not valid.
    #[must_use]
    pub const fn is_swapped(self) -> bool {
        self.0 >> 62 & 1 != 0
    }

    /// Returns bits 4:0 and 54:5 of a page in swap: the type, and the offset or frame number.
    #[must_use]
    pub const fn swap(self) -> (u64, u64) {
        (self.frame() & 0x1f, self.frame() >> 5)
    }

    /// Returns bits 54:0 of a present page: its frame number; 0 without `CAP_SYS_ADMIN`.
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
    /// As open(2): `ENOENT` if there is no such process or no `/proc`.
    pub fn open(pid: i32, page_shift: u32) -> Result<Self, Errno> {
        let fd = file::open(&proc_path(pid, "pagemap")?, O_RDONLY)?;
        Ok(Self { fd, page_shift })
    }

    /// Returns the entry of the page at `address`. Makes one system call.
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

    /// Reads the entries of the page at `address` and of those after it, at most 512. Makes one system call.
    /// Returns the number of entries, 0 beyond the end of the address space.
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

    /// Counts the pages present in `[start, end)`. Makes one system call for each 64 pages.
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

    /// Returns the file offset of the entry of `address`: eight bytes for each page.
    const fn offset(&self, address: u64) -> u64 {
        (address >> self.page_shift) * 8
    }
}

/// An open `/proc/kpageflags`: the kernel's flags of each frame.
#[derive(Debug)]
pub struct FrameFlags(OwnedFd);

impl FrameFlags {
    /// Opens the file.
    ///
    /// # Errors
    ///
    /// As open(2): `EACCES` or `EPERM` without root, `ENOENT` without `CONFIG_PROC_PAGE_MONITOR`.
    pub fn open() -> Result<Self, Errno> {
        file::open(c"/proc/kpageflags", O_RDONLY).map(Self)
    }

    /// Returns whether the frame is the shared zero page, or belongs to the huge zero page, which entries do
    /// not tell (`KPF_ZERO_PAGE` of `include/uapi/linux/kernel-page-flags.h`). Makes one system call.
    ///
    /// # Errors
    ///
    /// As pread(2); `ENODATA` for a frame that is not memory.
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
