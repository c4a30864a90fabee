//! What this process knows of its own memory: the size of a page and of an address, and the frames that
//! pagemap tells.

#![expect(unsafe_code, reason = "writes to pages of its own")]

use core::fmt::Write;

use heapless::{CString, String};
use tablewalk_uapi::file::{self, O_RDONLY, OwnedFd};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::{Errno, Mapping};

use super::CopyError;

/// log2 of the page size: advice is for whole pages. Up to five system calls.
///
/// # Errors
///
/// [`CopyError::Open`].
pub(super) fn page_shift() -> Result<u32, CopyError> {
    let error = |errno| CopyError::Open {
        what: "a page",
        errno,
    };
    let memory = Mapping::reserve(1 << 17, Protection::READ).map_err(error)?;
    let is_page = |shift: &u32| {
        let page = 1_usize << shift;
        memory.advise(page..2 * page, Advice::DontNeed).is_ok()
    };
    let shift = [12, 14, 16].into_iter().find(is_page);
    shift.ok_or(error(Errno::EINVAL))
}

/// A page of this process at a place that tells one number of address bits from another, which is
/// written and has a frame.
#[derive(Debug)]
pub(super) struct OwnPage {
    pub(super) address: u64,
    _mapping: Mapping,
}

impl OwnPage {
    /// Maps and writes a page: where the kernel likes, or at `address`.
    pub(super) fn new(address: Option<u64>, page_shift: u32) -> Result<Self, Errno> {
        let size = 1 << page_shift;
        let mapping = match address {
            Some(address) => Mapping::reserve_at(address, size, Protection::READ_WRITE),
            None => Mapping::reserve(size, Protection::READ_WRITE),
        }?;
        // SAFETY: a page that nobody else uses.
        unsafe { mapping.as_ptr().write_volatile(1) };
        Ok(Self {
            address: mapping.address(),
            _mapping: mapping,
        })
    }
}

/// How many bits the addresses of this process have, which may be fewer than the kernel was configured for:
/// the highest half in which something can be mapped. With a page there, if that place was free.
pub(super) fn va_bits(page_shift: u32) -> Option<(u32, Option<OwnPage>)> {
    [52, 48, 47, 42, 39, 36].into_iter().find_map(|bits| {
        // In the middle of the upper half: neither the stack nor mmap's base.
        let address = 3_u64 << (bits - 2);
        match OwnPage::new(Some(address), page_shift) {
            Ok(page) => Some((bits, Some(page))),
            Err(Errno::EEXIST) => Some((bits, None)),
            Err(_) => None,
        }
    })
}

/// `/proc/PID/pagemap`.
#[derive(Debug)]
pub(super) struct Pagemap {
    fd: OwnedFd,
    pid: i32,
    page_shift: u32,
}

impl Pagemap {
    pub(super) fn open(pid: i32, page_shift: u32) -> Result<Self, CopyError> {
        let fd = open_proc(pid, "pagemap", O_RDONLY)?;
        Ok(Self {
            fd,
            pid,
            page_shift,
        })
    }

    /// The frame of the page at `address`; `None` if it is not in memory.
    ///
    /// # Errors
    ///
    /// [`CopyError::Process`] also where pagemap shows no frames, which needs `CAP_SYS_ADMIN`.
    pub(super) fn frame(&self, address: u64) -> Result<Option<u64>, CopyError> {
        let error = |errno| CopyError::Process {
            pid: self.pid,
            file: "pagemap",
            errno,
        };
        let mut bytes = [0; 8];
        let offset = (address >> self.page_shift) * 8;
        let read = file::pread(&self.fd, &mut bytes, offset).map_err(error)?;
        let entry = u64::from_ne_bytes(bytes);
        // Documentation/admin-guide/mm/pagemap.rst: bit 63 present, bits 54:0 frame.
        if read != 8 || entry >> 63 == 0 {
            return Ok(None);
        }
        match entry & ((1 << 55) - 1) {
            0 => Err(error(Errno::EPERM)),
            frame => Ok(Some(frame)),
        }
    }
}

/// Opens `/proc/PID/NAME`.
pub(super) fn open_proc(pid: i32, name: &'static str, flags: u32) -> Result<OwnedFd, CopyError> {
    let error = |errno| CopyError::Process {
        pid,
        file: name,
        errno,
    };
    let mut text = String::<64>::new();
    let mut path = CString::<64>::new();
    write!(text, "/proc/{pid}/{name}")
        .ok()
        .and_then(|()| path.extend_from_bytes(text.as_bytes()).ok())
        .ok_or(error(Errno::ENAMETOOLONG))?;
    file::open(&path, flags).map_err(|errno| match errno {
        Errno::ENOENT => error(Errno::ESRCH),
        errno => error(errno),
    })
}
