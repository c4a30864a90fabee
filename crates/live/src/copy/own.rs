//! Facts about the memory of this process: page size, address size, and the frames in pagemap.

#![expect(unsafe_code, reason = "writes to pages of its own, and forks")]

use tablewalk_proc::pagemap;
use tablewalk_proc::path::proc_path;
use tablewalk_uapi::file::{self, O_RDONLY, OwnedFd};
use tablewalk_uapi::memory::{self, Protection};
use tablewalk_uapi::signal::{self, Signal};
use tablewalk_uapi::{Errno, Mapping, process};

use super::CopyError;

/// Returns log2 of the page size. Up to five system calls.
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

/// A page of this process with a frame, at an address that distinguishes numbers of address bits.
#[derive(Debug)]
pub(super) struct OwnPage {
    pub(super) address: u64,
    mapping: Mapping,
}

impl OwnPage {
    /// Maps and writes a page, at an address of the kernel's choice or at `address`.
    pub(super) fn new(address: Option<u64>, page_shift: u32) -> Result<Self, Errno> {
        let size = 1 << page_shift;
        let mapping = match address {
            Some(address) => Mapping::reserve_at(address, size, Protection::READ_WRITE),
            None => Mapping::reserve(size, Protection::READ_WRITE),
        }?;
        let page = Self {
            address: mapping.address(),
            mapping,
        };
        page.write();
        Ok(page)
    }

    /// Writes it. If a child shares it, the child keeps the frame, and this process gets another one.
    pub(super) fn write(&self) {
        // SAFETY: a page that is not used otherwise.
        unsafe { self.mapping.as_ptr().write_volatile(1) };
    }
}

/// A child with separate pages that waits until this is dropped or its parent ends.
#[derive(Debug)]
pub(super) struct Child(i32);

impl Child {
    pub(super) fn new() -> Result<Self, CopyError> {
        let parent = process::pid();
        // SAFETY: the child uses nothing but the stack.
        let forked = unsafe { process::fork() }.map_err(|errno| CopyError::Open {
            what: "a child",
            errno,
        })?;
        if let Some(pid) = forked {
            return Ok(Self(pid));
        }
        let _ = process::set_parent_death_signal(Signal::Kill);
        while process::parent_pid() == parent {
            signal::pause();
        }
        process::exit(0)
    }

    pub(super) const fn pid(&self) -> i32 {
        self.0
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = process::kill(self.0, Signal::Kill);
        // Other code may have reaped it, or it is reaped automatically.
        let _ = process::wait(self.0);
    }
}

/// Returns the number of address bits of this process, which may be fewer than the kernel was configured for:
/// the highest half in which a page can be mapped. Also returns that page, if the address was free.
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

    /// Returns the frame of the page at `address`; `None` if it is not in memory.
    ///
    /// # Errors
    ///
    /// [`CopyError::Process`], also if pagemap shows no frames, which needs `CAP_SYS_ADMIN`.
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
pub(super) fn open_proc(pid: i32, name: &'static str) -> Result<OwnedFd, CopyError> {
    let error = of_process(pid, name);
    let path = proc_path(pid, name).map_err(&error)?;
    file::open(&path, O_RDONLY).map_err(error)
}

/// Interprets an error of `/proc/PID/NAME`: ENOENT means that there is no such process, if this process has
/// such a file.
fn of_process(pid: i32, file: &'static str) -> impl Fn(Errno) -> CopyError {
    move |errno| CopyError::Process {
        pid,
        file,
        errno: match errno {
            Errno::ENOENT if has_own(file) => Errno::ESRCH,
            errno => errno,
        },
    }
}

/// Returns whether this process has a file of that name, and so every process has.
fn has_own(name: &str) -> bool {
    let path = proc_path(process::pid(), name);
    path.and_then(|path| file::open(&path, O_RDONLY)).is_ok()
}
