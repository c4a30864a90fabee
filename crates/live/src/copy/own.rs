//! What this process knows of its own memory: the size of a page and of an address, and the frames that
//! pagemap tells.

#![expect(unsafe_code, reason = "writes to pages of its own")]

use tablewalk_proc::pagemap;
use tablewalk_uapi::file::{self, OwnedFd};
use tablewalk_uapi::memory::{self, Protection};
use tablewalk_uapi::{Errno, Mapping};

use super::CopyError;

/// log2 of the page size. Up to five system calls.
///
/// # Errors
///
/// [`CopyError::Open`].
pub(super) fn page_shift() -> Result<u32, CopyError> {
    memory::page_shift().map_err(|errno| CopyError::Open {
        what: "a page",
        errno,
    })
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
    pages: pagemap::Pagemap,
    pid: i32,
}

impl Pagemap {
    pub(super) fn open(pid: i32, page_shift: u32) -> Result<Self, CopyError> {
        match pagemap::Pagemap::open(pid, page_shift) {
            Ok(pages) => Ok(Self { pages, pid }),
            Err(errno) => Err(of_process(pid, "pagemap")(errno)),
        }
    }

    /// The frame of the page at `address`; `None` if it is not in memory.
    ///
    /// # Errors
    ///
    /// [`CopyError::Process`] also where pagemap shows no frames, which needs `CAP_SYS_ADMIN`.
    pub(super) fn frame(&self, address: u64) -> Result<Option<u64>, CopyError> {
        let error = of_process(self.pid, "pagemap");
        let entry = match self.pages.entry(address) {
            Err(Errno::ENODATA) => return Ok(None),
            entry => entry.map_err(&error)?,
        };
        match (entry.is_present(), entry.frame()) {
            (false, _) => Ok(None),
            (true, 0) => Err(error(Errno::EPERM)),
            (true, frame) => Ok(Some(frame)),
        }
    }
}

/// Opens `/proc/PID/NAME`.
pub(super) fn open_proc(pid: i32, name: &'static str, flags: u32) -> Result<OwnedFd, CopyError> {
    let error = of_process(pid, name);
    let path = pagemap::proc_path(pid, name).map_err(&error)?;
    file::open(&path, flags).map_err(error)
}

/// What an error of `/proc/PID/NAME` means. No such file: no such process.
fn of_process(pid: i32, file: &'static str) -> impl Fn(Errno) -> CopyError {
    move |errno| CopyError::Process {
        pid,
        file,
        errno: match errno {
            Errno::ENOENT => Errno::ESRCH,
            errno => errno,
        },
    }
}
