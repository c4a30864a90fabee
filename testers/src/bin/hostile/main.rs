//! `hostile`: tries to break the kernel with `remap_page_table`, and to get access that the contract forbids.
//!
//! Every test prints what it tried, and looks for leaked frames. The judge of the console checks that the
//! kernel log stays clean.

#![no_std]
#![cfg_attr(not(test), no_main)]

mod beside;
mod denial;
mod escapes;
mod failures;
mod fuzz;
mod kills;
mod leaks;
mod operations;
mod places;
mod privileges;
mod races;
mod ranges;
mod restrictions;

use core::ffi::CStr;

use heapless::Vec;
use tablewalk_rt::cli;
use tablewalk_rt::ktap::{self, Case};
use tablewalk_rt::{Args, ExitCode, eprintln, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::prerequisite;
use tablewalk_uapi::file;
use tablewalk_uapi::remap::{ExposePgtblInfo, number};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: hostile [--rounds N] [--calls N] [--seed N] [GROUP...]
Tries to break the kernel with remap_page_table. Prints KTAP.
  --rounds N  rounds of each race, and kills of each victim (default: 1000)
  --calls N   number of random calls (default: 1000000)
  --seed N    seed of the random numbers (default: 1)
Groups: races kills escapes places ranges privileges fuzz failures denial
leaks restrictions.
Default: all groups, in this order. The last one restricts root until the next boot.
Needs a kernel with remap_page_table, /proc, and root. A test that needs more is
skipped, and prints what it needs.";

/// A test and its argument.
type Test = Case<Context, Error>;

/// How hard to try.
struct Context {
    info: ExposePgtblInfo,
    rounds: u32,
    calls: u32,
    seed: u64,
}

/// A group of tests and its name on the command line.
struct Group {
    name: &'static str,
    tests: &'static [Test],
}

const GROUPS: [Group; 11] = [
    Group {
        name: "races",
        tests: races::TESTS,
    },
    Group {
        name: "kills",
        tests: kills::TESTS,
    },
    Group {
        name: "escapes",
        tests: escapes::TESTS,
    },
    Group {
        name: "places",
        tests: places::TESTS,
    },
    Group {
        name: "ranges",
        tests: ranges::TESTS,
    },
    Group {
        name: "privileges",
        tests: privileges::TESTS,
    },
    Group {
        name: "fuzz",
        tests: fuzz::TESTS,
    },
    Group {
        name: "failures",
        tests: failures::TESTS,
    },
    Group {
        name: "denial",
        tests: denial::TESTS,
    },
    Group {
        name: "leaks",
        tests: leaks::TESTS,
    },
    Group {
        name: "restrictions",
        tests: restrictions::TESTS,
    },
];

/// Where the module is reached.
const DEVICE: &CStr = c"/dev/remap_page_table";

/// The parsed command line.
struct Plan {
    rounds: u32,
    calls: u32,
    seed: u32,
    groups: Vec<&'static [Test], { GROUPS.len() }>,
}

fn main(args: Args) -> ExitCode {
    let plan = match parse(args) {
        Ok(plan) => plan,
        Err(status) => return status,
    };
    let info = match prerequisite::info("hostile") {
        Ok(info) => info,
        Err(status) => return status,
    };
    if number().is_none() {
        // The device is for root alone. What is tested is what the module permits to others.
        let mode = file::set_mode(DEVICE, 0o666);
        if let Err(errno) = mode {
            eprintln!("hostile: chmod of /dev/remap_page_table: {errno}");
            return ExitCode::FAILURE;
        }
    }
    let Plan {
        rounds,
        calls,
        seed,
        groups,
    } = plan;
    println!("# hostile --rounds {rounds} --calls {calls} --seed {seed}");
    let mut context = Context {
        info,
        rounds,
        calls,
        seed: seed.into(),
    };
    let status = ktap::run(&mut context, &groups);
    if number().is_none() && file::set_mode(DEVICE, 0o600).is_err() {
        eprintln!("hostile: /dev/remap_page_table is still open to everybody");
        return ExitCode::FAILURE;
    }
    status
}

fn parse(mut args: Args) -> Result<Plan, ExitCode> {
    let mut plan = Plan {
        rounds: 1000,
        calls: 1_000_000,
        seed: 1,
        groups: Vec::new(),
    };
    while let Some(argument) = cli::next(&mut args, HELP)? {
        match argument {
            "--rounds" => plan.rounds = cli::number(&mut args, HELP, argument, 10_000_000)?,
            "--calls" => plan.calls = cli::number(&mut args, HELP, argument, 4_000_000_000)?,
            "--seed" => plan.seed = cli::number(&mut args, HELP, argument, u32::MAX)?,
            name => {
                let group = GROUPS.iter().find(|group| group.name == name);
                let known = group.is_some_and(|group| plan.groups.push(group.tests).is_ok());
                if !known {
                    return Err(cli::unknown(&args, argument));
                }
            }
        }
    }
    if plan.groups.is_empty() {
        plan.groups.extend(GROUPS.iter().map(|group| group.tests));
    }
    Ok(plan)
}
