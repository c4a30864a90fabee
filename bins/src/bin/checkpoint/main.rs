//! `checkpoint`: an example of an incremental checkpointer.
//!
//! It saves the memory of a process while the process runs: first all of it, and in each round the pages that
//! were written since the previous round. The last round is short, and only for it the process is stopped.
//! Then the memory is rebuilt from the increments and compared with that of the process.

#![expect(unsafe_code, reason = "forks")]
#![no_std]
#![cfg_attr(not(test), no_main)]

mod ends;
mod increments;
mod stopped;
mod subject;

use core::ffi::CStr;
use core::time::Duration;

use tablewalk_dirty::What;
use tablewalk_dirty::only_tracker::OnlyTracker;
use tablewalk_proc::lines::parse_number;
use tablewalk_rt::cli;
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::process::Fork;
use tablewalk_rt::{Args, Count, ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::prerequisite;
use tablewalk_testkit::swap::Swap;
use tablewalk_uapi::track::EXPOSE_PGTBL_TRACK;
use tablewalk_uapi::{Errno, file, process, signal, time};

use crate::ends::{
    killed_while_stopped, no_room_to_save, stopped_before, stopped_or_not, tracked_over_exec,
    tracked_twice,
};
use crate::increments::Checkpoint;
use crate::stopped::Stopped;
use crate::subject::subject;

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: checkpoint [--rounds N] [--interval MS] [PID]
Saves the writable memory of process PID while it runs, to a file without a name in
/tmp: first all of it, then in each round the pages that were written since. Stops the
process for the last round, rebuilds its memory from the increments, compares both byte
for byte, and continues the process, even if checkpoint itself is killed.
Only one checkpoint or `pt dirty` can track a process: fails if /proc shows another.
Without PID, saves processes that it starts, which write, discard and move memory.
  --rounds N     number of rounds before the last one (default: 20)
  --interval MS  time between rounds (default: 10)
Prints KTAP. Needs a kernel with remap_page_table and its form TRACK, /proc, and root.";

/// The argument that makes it do nothing.
const IDLE_WORD: &str = "--idle";
const IDLE: &CStr = c"--idle";

const OTHER: &[Case<Plan, Error>] = &[Case {
    name: "the memory rebuilt from the increments is that of the process",
    run: |plan| {
        let pid = plan.pid;
        plan.save(pid)
    },
}];

const OWN: &[Case<Plan, Error>] = &[
    Case {
        name: "the memory rebuilt from the increments is that of the process",
        run: |plan| plan.save_own(false),
    },
    Case {
        name: "the same while its pages go to swap and come back",
        run: |plan| plan.save_own(true),
    },
    Case {
        name: "a process that another program tracks is refused until that has ended",
        run: |_| tracked_twice(),
    },
    Case {
        name: "a process that was stopped goes on when the checkpointer is killed",
        run: |_| killed_while_stopped(),
    },
    Case {
        name: "a save without room for it is an error, and the process goes on",
        run: |plan| no_room_to_save(plan),
    },
    Case {
        name: "the name of a tracker is of the tables that the process has now",
        run: |_| tracked_over_exec(),
    },
    Case {
        name: "a process that was stopped before stays so, another goes on",
        run: |_| stopped_before(),
    },
    Case {
        name: "a process that is traced is stopped too, and one that does not stop is given up",
        run: |_| stopped_or_not(),
    },
];

pub(crate) struct Plan {
    rounds: u32,
    interval: Duration,
    pid: i32,
}

fn main(mut args: Args) -> ExitCode {
    let mut plan = Plan {
        rounds: 20,
        interval: Duration::from_millis(10),
        pid: 0,
    };
    if let Err(status) = parse(&mut plan, &mut args) {
        return status;
    }
    match prerequisite::info("checkpoint") {
        Ok(info) if info.flags & EXPOSE_PGTBL_TRACK == 0 => {
            println!("KTAP version 1\n1..0 # SKIP this kernel does not track (TRACK)");
            ExitCode::SKIP
        }
        Ok(_) if plan.pid == 0 => ktap::run(&mut plan, &[OWN]),
        Ok(_) => ktap::run(&mut plan, &[OTHER]),
        Err(status) => status,
    }
}

fn parse(plan: &mut Plan, args: &mut Args) -> Result<(), ExitCode> {
    while let Some(argument) = cli::next(args, HELP)? {
        match argument {
            "--rounds" => plan.rounds = cli::number(args, HELP, argument, 1_000_000)?,
            "--interval" => {
                let milliseconds = cli::number(args, HELP, argument, 1_000_000)?;
                plan.interval = Duration::from_millis(milliseconds.into());
            }
            // A test executes this.
            IDLE_WORD => loop {
                signal::pause();
            },
            _ => match parse_number(argument.as_bytes(), 10).and_then(|pid| pid.try_into().ok()) {
                Some(pid) if pid != 0 && pid != process::pid() && plan.pid == 0 => plan.pid = pid,
                _ => return Err(cli::unknown(args, argument)),
            },
        }
    }
    Ok(())
}

impl Plan {
    fn save_own(&self, swapped: bool) -> Result<Verdict, Error> {
        let swap = if swapped { Swap::on() } else { None };
        if swapped && swap.is_none() {
            return Ok(Verdict::Skip("no swap area"));
        }
        let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
        // SAFETY: the child has a copy of memory, pipes, and what it makes itself.
        let child = unsafe { Fork::promised() }
            .spawn(|| match subject(swapped, &writer) {
                Ok(()) => ExitCode::SUCCESS,
                Err(errno) => {
                    println!("# subject: {errno}");
                    ExitCode::FAILURE
                }
            })
            .map_err(Error::call("fork"))?;
        // Only the child has this end of the pipe now, so the other end is closed when the child ends.
        drop(writer);
        if file::read(&reader, &mut [0]).map_err(Error::call("pipe"))? == 0 {
            return Err(Error::Call("subject", Errno::ECHILD));
        }
        self.save(child.pid())
    }

    fn save(&self, pid: i32) -> Result<Verdict, Error> {
        let mut checkpoint = Checkpoint::create(pid)?;
        let mut only = only_tracker(pid)?;
        let first = checkpoint.round(true)?;
        for _ in 1..self.rounds {
            // Not interrupted, since there is no signal handler.
            let _ = time::sleep(self.interval);
            checkpoint.round(false)?;
            only.check().map_err(Error::call(TRACKED))?;
        }
        let increments = checkpoint.saved - first;
        let _stopped = Stopped::stop(pid)?;
        let last = checkpoint.round(false)?;
        println!(
            "# saved: all {} KiB, then {} KiB in {}, {} KiB while stopped",
            first >> 10,
            increments >> 10,
            Count(self.rounds - 1, "round", "rounds"),
            last >> 10
        );
        Ok((checkpoint.compare()? && first > 0).into())
    }
}

/// The error text if another tracker was found.
const TRACKED: &str = "another pt or checkpoint may track the process";

/// Returns proof that the caller is the only tracker of the process, as far as `/proc` shows.
fn only_tracker(pid: i32) -> Result<OnlyTracker, Error> {
    OnlyTracker::announce(pid, What::Written).map_err(|errno| match errno {
        Errno::EBUSY => Error::Call(TRACKED, errno),
        _ => Error::Call("process", errno),
    })
}
