//! Runs the programs one after the other.

#![expect(unsafe_code, reason = "forks")]

use core::time::Duration;

use tablewalk_rt::ktap::{Suite, Verdict};
use tablewalk_rt::process::{Fork, execute as execve};
use tablewalk_rt::{ExitCode, eprintln, println};
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, OwnedFd};
use tablewalk_uapi::poll::{Events, PollFd, poll};
use tablewalk_uapi::process::{self, Status, pidfd_open};
use tablewalk_uapi::signal::Signal;
use tablewalk_uapi::time::monotonic;

use crate::command_line::Run;
use crate::console::replace;
use crate::indented::IndentedLines;
use crate::orphans::Reaper;

/// Runs all programs, each for at most `timeout`. Returns the verdict.
pub(crate) fn all(runs: &[Run], timeout: Option<Duration>) -> ExitCode {
    let mut suite = Suite::begin(runs.len());
    for run in runs {
        let verdict = match one(run, timeout) {
            Ok(Status::Exited(0)) => Verdict::Ok,
            Ok(Status::Exited(status)) if status == ExitCode::SKIP.0 => {
                Verdict::Skip("the program says why")
            }
            Ok(Status::Exited(status)) => {
                println!("# {}: exit status {status}", run);
                Verdict::NotOk
            }
            Ok(Status::Killed(signal)) => {
                println!("# {}: killed by signal {signal}", run);
                Verdict::NotOk
            }
            Err(errno) => {
                println!("# {}: {errno}", run);
                Verdict::NotOk
            }
        };
        suite.report(run, verdict);
    }
    suite.end()
}

/// Runs one program and copies its output, indented by two columns, as a KTAP subtest.
fn one(run: &Run, timeout: Option<Duration>) -> Result<Status, Errno> {
    let deadline = match timeout {
        Some(timeout) => Some(monotonic()?.saturating_add(timeout)),
        None => None,
    };
    let (output, input) = file::pipe()?;
    // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }.spawn(|| {
        let errno = execute(run, &input);
        eprintln!("init: {}: {errno}", run);
        ExitCode(127)
    })?;
    drop(input);
    let ended = pidfd_open(child.pid())?;
    let mut lines = IndentedLines::new();
    let reaper = Reaper::new(child.pid())?;
    let in_time = relay(&output, &ended, &mut lines, deadline);
    drop(reaper);
    if !in_time? {
        lines.finish();
        let seconds = timeout.unwrap_or_default().as_secs();
        println!("# {}: not done after {seconds} s", run);
        process::kill(child.pid(), Signal::Kill)?;
    }
    let status = child.wait();
    reap_orphans();
    // Nobody has the pipe open for writing any more: read the rest.
    while lines.copy(&output)? > 0 {}
    lines.finish();
    status
}

/// Copies the output until the program has ended. Returns false on a time-out. Checks for both before each
/// piece of output, because the program, or an orphan of it, may print without pause.
fn relay(
    output: &OwnedFd,
    ended: &OwnedFd,
    lines: &mut IndentedLines,
    deadline: Option<Duration>,
) -> Result<bool, Errno> {
    let mut open = true;
    loop {
        let mut fds = [
            PollFd::new(ended, Events::READABLE),
            PollFd::new(output, Events::READABLE),
        ];
        // An output that was closed has no more events.
        let fds = fds.get_mut(..if open { 2 } else { 1 }).unwrap_or_default();
        let left = match deadline {
            Some(deadline) => Some(deadline.saturating_sub(monotonic()?)),
            None => None,
        };
        let ready = match poll(fds, left) {
            Err(Errno::EINTR) => continue,
            ready => ready?,
        };
        match fds {
            [ended_fd, ..] if !ended_fd.events().is_empty() => return Ok(true),
            _ if ready == 0 || left == Some(Duration::ZERO) => return Ok(false),
            [_, output_fd] if output_fd.events().intersects(Events::READABLE) => {
                lines.copy(output)?;
            }
            // The program has closed its output and still runs.
            _ => {
                lines.finish();
                open = false;
            }
        }
    }
}

/// Kills and reaps the processes that the program left behind. Only process 1 remains.
fn reap_orphans() {
    // -1 does not include process 1 itself.
    let _ = process::kill(-1, Signal::Kill);
    while process::wait(-1).is_ok() {}
}

/// Replaces the process by the program, with standard output and error to `output`. Returns only on failure,
/// with the error.
fn execute(run: &Run, output: &OwnedFd) -> Errno {
    for descriptor in [1, 2] {
        if let Err(errno) = replace(output, descriptor) {
            return errno;
        }
    }
    execve(&run.path, &run.words)
}
