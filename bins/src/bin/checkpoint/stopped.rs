//! Stops a process for a while.

use core::time::Duration;

use tablewalk_proc::lines::for_each_line;
use tablewalk_proc::path::proc_path;
use tablewalk_rt::ExitCode;
use tablewalk_rt::process::{Child, Fork};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::file::{self, OwnedFd};
use tablewalk_uapi::poll::{Events, PollFd, poll};
use tablewalk_uapi::process::{self, kill};
use tablewalk_uapi::signal::{self, Signal};
use tablewalk_uapi::{Errno, time};

/// The time that a process may take to stop: one that waits for a disk, or for a child that shares its
/// memory, stops only after that.
const PATIENCE: Duration = Duration::from_secs(10);

/// A stopped process. It continues when this is dropped or when the caller ends for whatever reason, unless
/// it had been stopped before.
pub(crate) struct Stopped {
    pid: i32,
    /// Waits for the end of the caller. Killed when this is dropped.
    guard: Option<Child>,
}

impl Stopped {
    /// Stops a process.
    pub(crate) fn stop(pid: i32) -> Result<Self, Error> {
        Self::stop_within(pid, PATIENCE)
    }

    /// The same, with another time limit.
    pub(crate) fn stop_within(pid: i32, patience: Duration) -> Result<Self, Error> {
        if is_stopped(pid)? {
            return Ok(Self { pid, guard: None });
        }
        let own = process::pidfd_open(process::pid()).map_err(Error::call("pidfd_open"))?;
        let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
        // SAFETY: the child uses descriptors and a number.
        let guard = unsafe { Fork::promised() }
            .spawn(|| match guard(pid, &own, &writer) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            })
            .map_err(Error::call("fork"))?;
        drop(writer);
        // Waits until the other process is ready.
        if file::read(&reader, &mut [0]).map_err(Error::call("pipe"))? == 0 {
            return Err(Error::Call("guard", Errno::ECHILD));
        }
        let stopped = Self {
            pid,
            guard: Some(guard),
        };
        stop(pid, patience)?;
        Ok(stopped)
    }

    /// The code of the process that waits for the end of the caller.
    pub(crate) fn guard(&self) -> Option<i32> {
        self.guard.as_ref().map(Child::pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.guard.is_some() {
            // An error means that the process has ended.
            let _ = kill(self.pid, Signal::Continue);
        }
    }
}

/// Continues the process when process `parent` ends.
fn guard(pid: i32, parent: &OwnedFd, ready: &OwnedFd) -> Result<(), Errno> {
    // This process outlives its parent, and the signals that end the parent. SIGCONT has no effect on a
    // running process.
    signal::block_all()?;
    process::set_parent_death_signal(Signal::Continue)?;
    process::set_thread_name(b"guard\0\0\0\0\0\0\0\0\0\0\0")?;
    file::write(ready, b".")?;
    poll(&mut [PollFd::new(parent, Events::READABLE)], None)?;
    kill(pid, Signal::Continue)
}

/// Stops a process; its threads are stopped when `/proc` says so.
fn stop(pid: i32, patience: Duration) -> Result<(), Error> {
    let now = || time::monotonic().map_err(Error::call("clock"));
    let deadline = now()?.saturating_add(patience);
    kill(pid, Signal::Stop).map_err(Error::call("SIGSTOP"))?;
    while !is_stopped(pid)? {
        if now()? > deadline {
            return Err(Error::Call("it does not stop", Errno::ETIMEDOUT));
        }
        process::yield_now();
    }
    Ok(())
}

/// Returns whether `/proc` shows the process as stopped.
pub(crate) fn is_stopped(pid: i32) -> Result<bool, Error> {
    let path = proc_path(pid, "status").map_err(Error::call("/proc"))?;
    let (mut stopped, mut ended) = (false, false);
    for_each_line(&path, &mut |line| {
        // Only its tracer can continue a traced process.
        stopped |= line.starts_with(b"State:\tT") || line.starts_with(b"State:\tt");
        ended |= line.starts_with(b"State:\tZ") || line.starts_with(b"State:\tX");
        Ok(())
    })
    .map_err(Error::call("/proc/PID/status"))?;
    if ended {
        return Err(Error::Call("process has ended", Errno::ESRCH));
    }
    Ok(stopped)
}
