//! One tracker of a process at a time: two would take each other's reports, since what was told is kept
//! in the entries and nowhere else.

use core::ffi::CStr;
use core::ops::ControlFlow;

use heapless::{String, format};
use tablewalk_dirty::What;
use tablewalk_uapi::file::{self, O_RDONLY};
use tablewalk_uapi::{Errno, process, remap};

use tablewalk_proc::lines::parse_number;
use tablewalk_proc::path::proc_path;
use tablewalk_proc::processes::for_each_process;

/// Bytes of a file that are read at a time.
const CHUNK: usize = 1024;

/// A name that the process has for as long as it tracks another: `dirty@40842`, after what it tracks and the
/// frame of the root table.
///
/// The frame is the same from every PID namespace, as a PID is not; the name is gone with the process,
/// however that ends, and needs nothing but `/proc`, not even locks of files, which small kernels lack. Of
/// two trackers in different PID namespaces one sees the other, as the namespace of one is within that of
/// the other if both have the process.
#[derive(Debug)]
pub struct OnlyTracker {
    name: [u8; 16],
    /// The name that the process had before, and has again afterwards.
    before: [u8; 16],
    /// The number of the caller in `/proc`, which need not be of its own namespace.
    own: u64,
}

impl OnlyTracker {
    /// Names the calling process as the tracker of process `pid`.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the process has no tables; as remap_page_table(2) and open(2) of `/proc/self/stat`.
    pub fn announce(pid: i32, what: What) -> Result<Self, Errno> {
        let what = match what {
            What::Written => "dirty",
            What::Accessed => "idle",
        };
        // Nine digits are all but the uppermost bits of a frame of 4 KiB with 52-bit addresses.
        let frame = remap::path(pid, 0)?.root_pfn & 0xf_ffff_ffff;
        let text: String<64> = format!("{what}@{frame:x}").map_err(|_| Errno::ENAMETOOLONG)?;
        let mut name = [0; 16];
        for (to, from) in name.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        let mut buffer = [0; CHUNK];
        let stat = read_stat(c"/proc/self/stat", &mut buffer)?;
        let own = stat.split(|&byte| byte == b' ').next();
        let own = own.and_then(|digits| parse_number(digits, 10));
        let own = own.ok_or(Errno::EINVAL)?;
        let before = process::thread_name();
        process::set_thread_name(&name)?;
        Ok(Self { name, before, own })
    }

    /// Checks that no other process has the name. Three system calls for each process.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there is one; as open(2) and getdents(2) of `/proc`.
    pub fn check(&self) -> Result<(), Errno> {
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

    /// Whether the process runs under the name. One that is gone by now does not.
    fn is_name_of(&self, pid: i32) -> bool {
        let mut buffer = [0; CHUNK];
        let stat = proc_path(pid, "stat").and_then(|path| read_stat(&path, &mut buffer));
        // `29 (dirty@40842) S ...`: Z and X are those that have ended.
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
        // Nothing can be wrong with a name that the kernel gave.
        let _ = process::set_thread_name(&self.before);
    }
}

/// The beginning of `/proc/PROCESS/stat`.
fn read_stat<'b>(path: &CStr, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
    let read = file::read(&file::open(path, O_RDONLY)?, buffer)?;
    Ok(buffer.get(..read).unwrap_or_default())
}
