//! A process with many page tables and nearly no pages.

#![expect(unsafe_code, reason = "reads memory of a child that is all its own")]

use tablewalk_rt::ExitCode;
use tablewalk_rt::process::{Child, Fork};
use tablewalk_uapi::file;
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::remap::ExposePgtblInfo;
use tablewalk_uapi::signal;
use tablewalk_uapi::{Errno, Mapping};

use crate::error::Error;

/// A child process that has read one page in the range of each of its level-3 tables. All those entries map
/// the shared zero page, so the tables take memory and the pages do not.
#[derive(Debug)]
pub struct Sparse {
    child: Child,
    /// The address range, the same in the child and here. Only the child has tables for it.
    range: Mapping,
    span: u64,
}

impl Sparse {
    /// Starts the child and waits until its tables exist.
    ///
    /// # Errors
    ///
    /// As mmap(2) and fork(2); `ENOMEM` if the child ran out of memory for them.
    pub fn new(info: &ExposePgtblInfo, tables: u64) -> Result<Self, Error> {
        let span = 1_u64 << (2 * info.page_shift - 3);
        let size =
            usize::try_from(tables * span).map_err(|_| Error::Call("mmap", Errno::ENOMEM))?;
        let range = Mapping::reserve(size, Protection::READ).map_err(Error::call("mmap"))?;
        range.base_pages_only().map_err(Error::call("madvise"))?;
        let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
        // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
        let child = unsafe { Fork::promised() }
            .spawn(|| {
                for offset in (0..size).step_by(1 << (2 * info.page_shift - 3)) {
                    // SAFETY: the address lies inside the range, which can be read.
                    unsafe { range.as_ptr().wrapping_add(offset).read_volatile() };
                }
                if file::write(&writer, b".").is_ok() {
                    signal::pause();
                }
                ExitCode::FAILURE
            })
            .map_err(Error::call("fork"))?;
        drop(writer);
        match file::read(&reader, &mut [0]) {
            Ok(1) => Ok(Self { child, range, span }),
            _ => Err(Error::Call("a process with many tables", Errno::ENOMEM)),
        }
    }

    /// Returns the process ID of the child.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Returns an address that table number `table`, in address order, translates.
    #[must_use]
    pub fn address_of_table(&self, table: u64) -> u64 {
        self.range.address() + table * self.span
    }
}
