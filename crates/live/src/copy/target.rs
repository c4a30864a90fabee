//! A process whose tables are copied.
//!
//! When `/proc/PID/mem` is opened, the kernel checks that the caller may access the process. The open file
//! keeps the `mm_struct`, and so the PGD, until it is closed, whatever the process does.

use tablewalk_uapi::Errno;
use tablewalk_uapi::file::OwnedFd;

use super::calibration::Calibration;
use super::own::open_proc;
use super::{CopyError, Kernel};

/// The tables that a process had when it was opened.
#[derive(Debug)]
pub struct Target {
    pid: i32,
    /// Keeps the PGD.
    _file: OwnedFd,
    tables: Tables,
}

/// The address of the tables of a process, in the linear map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tables {
    mm: u64,
    root: u64,
}

impl Target {
    /// Opens process `pid`, a number in the own PID namespace.
    ///
    /// # Errors
    ///
    /// [`CopyError::Process`]: `ESRCH` if there is no such process or it has no user tables, `EACCES` or
    /// `EPERM` if the caller may not access it. [`CopyError::Calibration`] if the path does not lead to
    /// tables.
    pub fn open<K: Kernel>(
        kernel: &mut K,
        calibration: &Calibration,
        pid: i32,
    ) -> Result<Self, CopyError> {
        let file = open_proc(pid, "mem")?;
        let tables = tables(kernel, calibration, pid, file.number())?;
        Ok(Self {
            pid,
            _file: file,
            tables,
        })
    }

    /// The process.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// The address of the PGD.
    pub(super) const fn root(&self) -> u64 {
        self.tables.root
    }

    /// Returns whether the process still has the tables that it had when it was opened: it has neither ended
    /// nor executed another program.
    ///
    /// # Errors
    ///
    /// Errors of reading.
    pub fn is_current<K: Kernel>(
        &self,
        kernel: &mut K,
        calibration: &Calibration,
    ) -> Result<bool, CopyError> {
        let now = open_proc(self.pid, "mem")
            .and_then(|file| tables(kernel, calibration, self.pid, file.number()));
        match now {
            Ok(now) => Ok(now == self.tables),
            Err(CopyError::Process {
                errno: Errno::ESRCH,
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Returns the `mm` and PGD of file descriptor `number` for the memory of process `pid`.
fn tables<K: Kernel>(
    kernel: &mut K,
    calibration: &Calibration,
    pid: i32,
    number: i32,
) -> Result<Tables, CopyError> {
    let mut search = calibration.search(kernel);
    let mm = search.follow(calibration.mm_path, number)?;
    if mm == Some(0) {
        // A kernel thread, or a process that has ended.
        return Err(CopyError::Process {
            pid,
            file: "mem",
            errno: Errno::ESRCH,
        });
    }
    let root = match mm {
        Some(mm) => search.word(mm.wrapping_add(calibration.pgd))?,
        None => None,
    };
    mm.zip(root)
        .map(|(mm, root)| Tables { mm, root })
        .ok_or(CopyError::Calibration {
            what: "mm_struct of the process",
            answers: 0,
        })
}
