//! `busy`: walks processes that change and die meanwhile, and compares the result with their own journal.

#![no_std]
#![cfg_attr(not(test), no_main)]

mod contiguous;
mod journal;
mod shown;
mod source;
mod target;
mod walker;

use tablewalk_rt::cli;
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::{Args, ExitCode, eprintln};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::signal;

use crate::shown::Shown;
use crate::source::{Way, open};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: busy [pt] [--source call|module|bpf|kcore] [--rounds N]
Starts processes that map, unmap, move and discard pages, fork, and exit, execute
or are killed. Meanwhile walks their tables through each source that this kernel
has. Fails if a walk finds a page that was not there at the time, according to a
journal that the process keeps. Then compares the access flags of contiguous
pages with smaps. Prints KTAP.
  pt          run `pt` on an idle process and on one that changes its memory
              every two milliseconds: verify, maps, save
  --source S  use this source only
  --rounds N  number of processes for each source (default: 200)
  --help      print this text
Needs /proc, and root.";

const TESTS: &[Case<Context, Error>] = &[
    Case {
        name: "by the call or its module, nothing was found that was not there",
        run: |context| follow(context, Way::Live),
    },
    Case {
        name: "by BPF, nothing was found that was not there",
        run: |context| follow(context, Way::Bpf),
    },
    Case {
        name: "by /proc/kcore, nothing was found that was not there",
        run: |context| follow(context, Way::Kcore),
    },
    Case {
        name: "one accessed page makes its contiguous block accessed",
        run: contiguous,
    },
];

struct Context {
    rounds: u32,
    /// The only source to use, if one is named.
    source: Option<&'static str>,
    /// Whether `pt` is to print something.
    shown: bool,
}

fn main(args: Args) -> ExitCode {
    match parse(args) {
        Ok(context) if context.shown => match Shown::new(context.source) {
            Ok(mut shown) => ktap::run(&mut shown, &[shown::TESTS]),
            Err(error) => {
                eprintln!("busy: {error}");
                ExitCode::FAILURE
            }
        },
        Ok(mut context) => ktap::run(&mut context, &[TESTS]),
        Err(status) => status,
    }
}

fn parse(mut args: Args) -> Result<Context, ExitCode> {
    let mut context = Context {
        rounds: 200,
        source: None,
        shown: false,
    };
    while let Some(argument) = cli::next(&mut args, HELP)? {
        match argument {
            "pt" => context.shown = true,
            "--rounds" => context.rounds = cli::number(&mut args, HELP, "--rounds", 1_000_000)?,
            "--source" => context.source = Some(source(&mut args)?),
            // The program that a target executes.
            "--pause" => loop {
                signal::pause();
            },
            _ => return Err(cli::unknown(&args, argument)),
        }
    }
    Ok(context)
}

fn source(args: &mut Args) -> Result<&'static str, ExitCode> {
    match cli::next(args, HELP)? {
        Some(source @ ("call" | "module" | "bpf" | "kcore")) => Ok(source),
        _ => Err(cli::refuse(
            args,
            format_args!("--source is call, module, bpf or kcore"),
        )),
    }
}

fn follow(context: &mut Context, way: Way) -> Result<Verdict, Error> {
    if context.source.is_some_and(|source| source != way.name()) {
        return Ok(Verdict::Skip("another source was asked for"));
    }
    match open(way)? {
        Some(mut source) => walker::follow(&mut source, context.rounds).map(Verdict::from),
        None => Ok(Verdict::Skip(
            "this kernel has no such source, or does not permit it",
        )),
    }
}

fn contiguous(context: &mut Context) -> Result<Verdict, Error> {
    for way in [Way::Live, Way::Bpf, Way::Kcore] {
        if context.source.is_none_or(|source| source == way.name())
            && let Some(mut source) = open(way)?
        {
            return contiguous::compare(&mut source);
        }
    }
    Ok(Verdict::Skip(
        "this kernel has no such source, or does not permit it",
    ))
}
