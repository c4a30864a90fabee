//! `busy`: walks processes that change and die meanwhile, and holds what it sees against their own account.

#![no_std]
#![cfg_attr(not(test), no_main)]

mod journal;
mod source;
mod target;
mod walker;

use tablewalk_bins::cli;
use tablewalk_bins::error::Error;
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::{Args, ExitCode};
use tablewalk_uapi::signal;

use crate::source::{Way, open};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: busy [--rounds N]
Starts processes that map, unmap, move and discard pages, fork, and exit, execute
or are killed, and walks their tables meanwhile by each source that this kernel
has. No page may be found that was not there at the time, by the process's own
account. Prints KTAP.
  --rounds N  processes for each source [200]
  --help      print this text
Needs /proc, and root.";

const TESTS: &[Case<Context, Error>] = &[
    Case {
        name: "by the call, nothing was found that was not there",
        run: |context| follow(context, Way::Call),
    },
    Case {
        name: "by BPF, nothing was found that was not there",
        run: |context| follow(context, Way::Bpf),
    },
    Case {
        name: "by /proc/kcore, nothing was found that was not there",
        run: |context| follow(context, Way::Kcore),
    },
];

struct Context {
    rounds: u32,
}

fn main(args: Args) -> ExitCode {
    match parse(args) {
        Ok(mut context) => ktap::run(&mut context, &[TESTS]),
        Err(status) => status,
    }
}

fn parse(mut args: Args) -> Result<Context, ExitCode> {
    let mut context = Context { rounds: 200 };
    while let Some(argument) = cli::next(&mut args, HELP)? {
        match argument {
            "--rounds" => context.rounds = cli::number(&mut args, HELP, "--rounds", 1_000_000)?,
            // What a target executes.
            "--pause" => loop {
                signal::pause();
            },
            _ => return Err(cli::unknown(&args, argument)),
        }
    }
    Ok(context)
}

fn follow(context: &mut Context, way: Way) -> Result<Verdict, Error> {
    match open(way)? {
        Some(mut source) => walker::follow(&mut source, context.rounds).map(Verdict::from),
        None => Ok(Verdict::Skip("this kernel has no such source, or does not permit it")),
    }
}
