//! A process that is stopped for a while.

use tablewalk_bins::error::Error;
use tablewalk_proc::lines::for_each_line;
use tablewalk_proc::path::proc_path;
use tablewalk_rt::ExitCode;
use tablewalk_rt::process::{Child, Fork};
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::OwnedFd;
use tablewalk_uapi::poll::{Events, PollFd, poll};
use tablewalk_uapi::process::{self, kill};
use tablewalk_uapi::signal::{self, Signal};

/// A process that is stopped, and goes on when this is dropped or the caller ends, however it does.
pub(crate) struct Stopped {
    pid: i32,
    /// Waits for the end of the caller. Killed when this is dropped.
    _guard: Child,
}

impl Stopped {
    /// Stops a process.
    pub(crate) fn stop(pid: i32) -> Result<Self, Error> {
        let own = process::pidfd_open(process::pid()).map_err(Error::call("pidfd_open"))?;
        // SAFETY: the child uses a descriptor and a number.
        let guard = unsafe { Fork::promised() }
            .spawn(|| match guard(pid, &own) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            })
            .map_err(Error::call("fork"))?;
        let stopped = Self { pid, _guard: guard };
        stop(pid)?;
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // One that is no more needs nothing.
        let _ = kill(self.pid, Signal::Continue);
    }
}

/// Lets the process go on when the one of `parent` ends.
fn guard(pid: i32, parent: &OwnedFd) -> Result<(), Errno> {
    // It outlives its parent, and the Ctrl-C that ends that: SIGCONT does nothing to one that runs.
    signal::block(&[Signal::Hangup, Signal::Interrupt, Signal::Term])?;
    process::set_parent_death_signal(Signal::Continue)?;
    process::set_thread_name(b"guard\0\0\0\0\0\0\0\0\0\0\0")?;
    poll(&mut [PollFd::new(parent, Events::READABLE)], None)?;
    kill(pid, Signal::Continue)
}

/// Stops a process; its threads are stopped when `/proc` says so.
fn stop(pid: i32) -> Result<(), Error> {
    kill(pid, Signal::Stop).map_err(Error::call("SIGSTOP"))?;
    while !is_stopped(pid)? {
        process::yield_now();
    }
    Ok(())
}

/// Whether the process is stopped, as `/proc` says it.
pub(crate) fn is_stopped(pid: i32) -> Result<bool, Error> {
    let path = proc_path(pid, "status").map_err(Error::call("/proc"))?;
    let (mut stopped, mut ended) = (false, false);
    for_each_line(&path, &mut |line| {
        stopped |= line.starts_with(b"State:\tT");
        ended |= line.starts_with(b"State:\tZ") || line.starts_with(b"State:\tX");
        Ok(())
    })
    .map_err(Error::call("/proc/PID/status"))?;
    if ended {
        return Err(Error::Call("process has ended", Errno::ESRCH));
    }
    Ok(stopped)
}
