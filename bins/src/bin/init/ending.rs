//! Ends the machine.

#![expect(unsafe_code, reason = "forks")]

use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{ExitCode, println, semihosting};
use tablewalk_uapi::file::BorrowedFd;
use tablewalk_uapi::process::{self, Status};
use tablewalk_uapi::system::{self, Reboot};
use tablewalk_uapi::{signal, terminal};

use crate::command_line::CommandLine;
use crate::led::Led;

/// What happens after the verdict.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A reboot(2) action.
    Machine(Reboot),
    /// Process 1 exits, so that the kernel panics.
    Panic,
    /// Nothing; init waits for ever.
    Stay,
}

impl End {
    /// The values of `--end`, for messages.
    pub(crate) const NAMES: &str = "poweroff, reboot, halt, stay or panic";

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "poweroff" => Self::Machine(Reboot::PowerOff),
            "reboot" => Self::Machine(Reboot::Restart),
            "halt" => Self::Machine(Reboot::Halt),
            "stay" => Self::Stay,
            "panic" => Self::Panic,
            _ => return None,
        })
    }
}

/// Ends the machine as the command line asks.
pub(crate) fn end(line: &CommandLine<'_>, led: Option<&Led>, status: ExitCode) -> ! {
    // Wait until all output has been sent before the power goes off. An error means that it is not a
    // terminal.
    let _ = terminal::drain(BorrowedFd::STDOUT);
    system::sync();
    if let Some(led) = led {
        led.show(status);
    }
    if line.semihosting {
        exit_emulator(status);
    }
    let end = line.end.unwrap_or(End::Machine(Reboot::PowerOff));
    if end == End::Panic || line.panic && status != ExitCode::SUCCESS {
        process::exit(status.0.into());
    }
    if let End::Machine(action) = end
        && let Err(errno) = system::reboot(action)
    {
        println!("init: {action:?}: {errno}");
    }
    // Process 1 must not exit: the kernel would panic.
    match led {
        Some(led) => led.blink(status),
        None => loop {
            signal::pause();
        },
    }
}

/// Ends the emulator, by semihosting. Does so in a child, because the kernel kills a process that makes the
/// call on a machine without semihosting.
fn exit_emulator(status: ExitCode) {
    // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }.spawn(|| {
        semihosting::exit(status.0);
        ExitCode::FAILURE
    });
    match child.and_then(Child::wait) {
        Ok(Status::Killed(signal)) => println!(
            "init: semihosting: killed by signal {signal}: neither an emulator nor a debugger that \
             was told to let user space make such calls"
        ),
        Ok(Status::Exited(_)) => println!("init: semihosting: the call did nothing"),
        Err(errno) => println!("init: semihosting: {errno}"),
    }
}
