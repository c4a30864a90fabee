//! Makes sure that a process has one tracker at a time. Two would interfere: the state is kept in the entries
//! and nowhere else, so each would consume state that the other has not read.

use core::ffi::CStr;
use core::ops::ControlFlow;

use crate::What;
use heapless::{String, format};
use tablewalk_uapi::file::{self, O_RDONLY};
use tablewalk_uapi::{Errno, process, remap};

use tablewalk_proc::lines::parse_number;
use tablewalk_proc::path::proc_path;
use tablewalk_proc::processes::for_each_process;

/// Bytes of a file to read at a time.
const CHUNK: usize = 1024;

/// The thread name of a process while it tracks another: `dirty@40842`, from what it tracks and the frame
/// number of the root table.
///
/// The frame number is the same in every PID namespace, unlike a PID. The name disappears with the process,
/// however it ends, and needs nothing but `/proc`, not even file locks, which small kernels lack. Of two
/// trackers in different PID namespaces at least one sees the other: if both see the process, one namespace
/// contains the other.
#[derive(Debug)]
pub struct OnlyTracker {
    name: [u8; 16],
    /// The name of the process before, restored at the end.
    before: [u8; 16],
    /// The PID of the caller in this `/proc`, which may belong to another PID namespace.
    own: u64,
    pid: i32,
    what: What,
}

impl OnlyTracker {
    /// Gives the calling process the name of a tracker of process `pid`.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the process has no tables; as [`OnlyTracker::check`], and open(2) of `/proc/self/stat`.
    pub fn announce(pid: i32, what: What) -> Result<Self, Errno> {
        let mut buffer = [0; CHUNK];
        let stat = read_stat(c"/proc/self/stat", &mut buffer)?;
        let own = stat.split(|&byte| byte == b' ').next();
        let own = own.and_then(|digits| parse_number(digits, 10));
        let before = process::thread_name();
        let mut tracker = Self {
            name: before,
            before,
            own: own.ok_or(Errno::EINVAL)?,
            pid,
            what,
        };
        tracker.check()?;
        Ok(tracker)
    }

    /// Checks that no other process has this name. After an execve(2) of the tracked process its tables are
    /// other ones, and the name changes. Makes three system calls for each process.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another process has the name; as remap_page_table(2), and open(2) and getdents(2) of `/proc`.
    pub fn check(&mut self) -> Result<(), Errno> {
        let name = name(self.pid, self.what)?;
        if name != self.name {
            // Check before taking the name: the other tracker would see a second one, and stop.
            self.name = name;
            self.check_others()?;
            process::set_thread_name(&name)?;
        }
        self.check_others()
    }

    fn check_others(&self) -> Result<(), Errno> {
        let mut found = Ok(());
        for_each_process(&mut |pid| {
            if u64::from(pid.unsigned_abs()) == self.own || !self.is_name_of(pid) {
                return ControlFlow::Continue(());
            }
            found = Err(Errno::EBUSY);
            ControlFlow::Break(())
        })?;
        found
    }

    /// Returns whether process `pid` runs under this name; false if it has ended.
    fn is_name_of(&self, pid: i32) -> bool {
        let mut buffer = [0; CHUNK];
        let stat = proc_path(pid, "stat").and_then(|path| read_stat(&path, &mut buffer));
        // `29 (dirty@40842) S ...`: the states Z and X mean that the process has ended.
        let stat = stat.unwrap_or_default();
        let name = stat.iter().position(|&byte| byte == b'(');
        let name = name
            .and_then(|start| stat.get(start + 1..))
            .unwrap_or_default();
        let own = self.name.split(|&byte| byte == 0).next();
        match own.and_then(|own| name.strip_prefix(own)) {
            Some([b')', b' ', state, ..]) => !matches!(state, b'Z' | b'X'),
            _ => false,
        }
    }
}

impl Drop for OnlyTracker {
    fn drop(&mut self) {
        // Cannot fail: the kernel itself returned this name.
        let _ = process::set_thread_name(&self.before);
    }
}

/// Returns the name of a tracker of process `pid`.
fn name(pid: i32, what: What) -> Result<[u8; 16], Errno> {
    let what = match what {
        What::Written => "dirty",
        What::Accessed => "idle",
    };
    // Nine digits drop only the uppermost bits of a frame number, with 4 KiB pages and 52-bit addresses.
    let frame = remap::path(pid, 0)?.root_pfn & 0xf_ffff_ffff;
    let text: String<64> = format!("{what}@{frame:x}").map_err(|_| Errno::ENAMETOOLONG)?;
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    Ok(name)
}

/// Reads the beginning of `/proc/PROCESS/stat`.
fn read_stat<'b>(path: &CStr, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
    let read = file::read(&file::open(path, O_RDONLY)?, buffer)?;
    Ok(buffer.get(..read).unwrap_or_default())
}
