//! `tracked`: tests dirty tracking: every kind of write must be reported, without false positives.

#![no_std]
#![cfg_attr(not(test), no_main)]
#![expect(
    unsafe_code,
    reason = "threads write memory of their own, system calls write it"
)]

mod causes;
mod journal;
mod races;
mod references;
mod reported;

use tablewalk_rt::cli;
use tablewalk_rt::ktap::{self, Case};
use tablewalk_rt::{Args, ExitCode};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::prerequisite;
use tablewalk_uapi::remap::ExposePgtblInfo;
use tablewalk_uapi::track::EXPOSE_PGTBL_TRACK;

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: tracked [causes | references | races | calm | pressure] [--rounds N] [--pages N] [--threads N]
               [--seed N]
Tests dirty tracking: every kind of write must be reported, without false positives.
  causes        one test for each way to write a page or to change an entry
  references    writes through references that outlive an entry, and calls that
                return early
  races         a device writes pages that another process maps and unmaps
  calm          threads write random pages and keep a journal, with which each
                round is compared
  pressure      the same, while reclaim swaps the pages out and in
  --rounds N    rounds of the journal (default: 1000)
  --pages N     pages of each kind of memory (default: 512)
  --threads N   threads that write, 1 to 8 (default: 4)
  --seed N      seed of the random numbers (default: 1)
Default: all tests. Prints KTAP. Needs a kernel with remap_page_table and its form
TRACK, /proc, and root. Some tests need swap on zram or a RAM disk.";

/// A test and its argument.
type Test = Case<Tracked, Error>;

struct Tracked {
    info: ExposePgtblInfo,
    journal: journal::Plan,
}

impl Tracked {
    const fn page_size(&self) -> usize {
        1 << self.info.page_shift
    }
}

fn main(mut args: Args) -> ExitCode {
    let mut plan = journal::Plan::default();
    let group = match parse(&mut plan, &mut args) {
        Ok(group) => group,
        Err(status) => return status,
    };
    let info = match prerequisite::info("tracked") {
        Ok(info) => info,
        Err(status) => return status,
    };
    if info.flags & EXPOSE_PGTBL_TRACK == 0 {
        tablewalk_rt::println!("KTAP version 1\n1..0 # SKIP this kernel does not track (TRACK)");
        return ExitCode::SKIP;
    }
    let mut tracked = Tracked {
        info,
        journal: plan,
    };
    let groups = [
        causes::TESTS,
        references::TESTS,
        races::TESTS,
        journal::CALM,
        journal::PRESSURE,
    ];
    match group {
        Some(group) => ktap::run(&mut tracked, &[group]),
        None => ktap::run(&mut tracked, &groups),
    }
}

fn parse(plan: &mut journal::Plan, args: &mut Args) -> Result<Option<&'static [Test]>, ExitCode> {
    let mut group = None;
    while let Some(argument) = cli::next(args, HELP)? {
        let mut number = |most| cli::number(args, HELP, argument, most);
        let named = group;
        match argument {
            "causes" => group = Some(causes::TESTS),
            "references" => group = Some(references::TESTS),
            "races" => group = Some(races::TESTS),
            "calm" => group = Some(journal::CALM),
            "pressure" => group = Some(journal::PRESSURE),
            "--rounds" => plan.rounds = number(1_000_000)?,
            "--pages" => plan.pages = number(1 << 16)? as usize,
            "--threads" => plan.threads = number(8)? as usize,
            "--seed" => plan.seed = number(u32::MAX)?.into(),
            _ => return Err(cli::unknown(args, argument)),
        }
        if named.is_some() && !argument.starts_with('-') {
            return Err(cli::refuse(
                args,
                format_args!("{argument}: a second group"),
            ));
        }
    }
    Ok(group)
}
