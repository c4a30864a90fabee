//! A process whose tables are copied.
//!
//! The kernel checks at the open of `/proc/PID/mem` that the caller may look at the process, and the open
//! file keeps its `mm_struct`, and with that its PGD, until it is closed, whatever the process does.

use heapless::Vec;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{O_RDONLY, OwnedFd};

use super::calibration::Calibration;
use super::own::open_proc;
use super::{CopyError, Kernel};

/// The tables of a process at the time when it was opened.
#[derive(Debug)]
pub struct Target {
    pid: i32,
    /// Keeps the PGD.
    _file: OwnedFd,
    /// The `mm_struct` and the PGD, both in the linear map, by each way; one after it was proved.
    roots: Vec<(u64, u64), 4>,
}

impl Target {
    /// Opens process `pid`, as it is called here.
    ///
    /// # Errors
    ///
    /// [`CopyError::Process`]: `ESRCH` if there is no such process or it has no user tables, `EACCES` or
    /// `EPERM` if the caller may not look at it. [`CopyError::Calibration`] if no way, or too many, lead
    /// to its tables.
    pub fn open<K: Kernel>(
        kernel: &mut K,
        calibration: &Calibration,
        pid: i32,
    ) -> Result<Self, CopyError> {
        let file = open_proc(pid, "mem", O_RDONLY)?;
        let mut roots = roots(kernel, calibration, &file, pid)?;
        // Ways that are wrong lead to the `mm` of this process, and a child that it has forked has pages in
        // the same frames: that one is believed if nothing else can be proved.
        roots.sort_unstable_by_key(|&(mm, _)| mm == calibration.mm);
        Ok(Self {
            pid,
            _file: file,
            roots,
        })
    }

    /// The process.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Addresses of what may be the PGD, one for each way that led somewhere.
    pub(super) fn roots(&self) -> impl Iterator<Item = u64> {
        self.roots.iter().map(|&(_, root)| root)
    }

    /// Takes note that `root` is the right one. Those that other ways led to were words that happened to be
    /// in this file, and another open of the same process need not have them.
    pub(super) fn keep(&mut self, root: u64) {
        self.roots.retain(|&(_, found)| found == root);
    }

    /// Whether the process still has the tables that it had when it was opened: it has not ended, and not
    /// started another program.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn is_current<K: Kernel>(
        &self,
        kernel: &mut K,
        calibration: &Calibration,
    ) -> Result<bool, CopyError> {
        let now = match open_proc(self.pid, "mem", O_RDONLY) {
            Ok(file) => roots(kernel, calibration, &file, self.pid),
            Err(error) => Err(error),
        };
        match now {
            Ok(now) => Ok(self.roots.iter().all(|proved| now.contains(proved))),
            Err(CopyError::Process {
                errno: Errno::ESRCH,
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The `mm_struct` and the PGD behind `file`, by each way that leads to one.
fn roots<K: Kernel>(
    kernel: &mut K,
    calibration: &Calibration,
    file: &OwnedFd,
    pid: i32,
) -> Result<Vec<(u64, u64), 4>, CopyError> {
    let mut roots = Vec::new();
    let mut without = 0;
    for way in &calibration.ways {
        let Some(mm) = way.follow(kernel, file)? else {
            continue;
        };
        if mm == 0 {
            without += 1;
            continue;
        }
        let mut word = [0];
        if !kernel.read(mm + calibration.pgd, &mut word)? || word[0] >> 52 != 0xfff {
            continue;
        }
        if !roots.contains(&(mm, word[0])) && roots.push((mm, word[0])).is_err() {
            return Err(CopyError::Calibration {
                what: "mm_struct of the process",
                answers: roots.len() + 1,
            });
        }
    }
    match (roots.is_empty(), without) {
        (false, _) => Ok(roots),
        (true, 0) => Err(CopyError::Calibration {
            what: "mm_struct of the process",
            answers: 0,
        }),
        // A kernel thread, or a process that has ended.
        (true, _) => Err(CopyError::Process {
            pid,
            file: "mem",
            errno: Errno::ESRCH,
        }),
    }
}
