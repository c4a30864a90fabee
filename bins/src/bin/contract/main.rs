//! `contract`: holds the running kernel against the contract of `remap_page_table`, error by error.
//!
//! The contract is the man page in `kernel/patches/`. Frame numbers to ask for come from PATH, from
//! `/proc/iomem` and from other processes; what is mapped is read word by word.

#![no_std]
#![no_main]

mod arguments;
mod mappings;
mod page;
mod targets;
mod trees;

use core::fmt;

use tablewalk_bins::{cli, prerequisite};
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::{Args, ExitCode, println};
use tablewalk_uapi::Errno;
use tablewalk_uapi::remap::ExposePgtblInfo;

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: contract
Holds the running kernel against the contract of remap_page_table. Prints KTAP.
Needs a kernel with remap_page_table, /proc, and root.";

/// A test, and what it works with.
type Test = Case<ExposePgtblInfo, Errno>;

fn main(args: Args) -> ExitCode {
    if let Err(status) = cli::no_arguments(args, HELP) {
        return status;
    }
    match prerequisite::info("contract") {
        Ok(mut info) => ktap::run(
            &mut info,
            &[
                arguments::TESTS,
                targets::TESTS,
                mappings::TESTS,
                trees::TESTS,
            ],
        ),
        Err(status) => status,
    }
}

/// What a call returned or a look found, as a number.
type Outcome = Result<u64, Errno>;

/// Says what came where something else was expected.
fn expect(what: &str, outcome: Outcome, expected: Outcome) -> bool {
    let same = outcome == expected;
    if !same {
        println!("# {what}: {}, expected {}", Shown(outcome), Shown(expected));
    }
    same
}

/// As [`expect`], for a success whose value does not matter.
fn expect_ok<T>(what: &str, result: Result<T, Errno>) -> bool {
    expect(what, result.map(|_| 0), Ok(0))
}

/// As [`expect`], for an error.
fn expect_error<T>(what: &str, result: Result<T, Errno>, errno: Errno) -> bool {
    expect(what, result.map(|_| 0), Err(errno))
}

/// The verdict of a test that is a list of expectations.
fn all(expectations: &[bool]) -> Result<Verdict, Errno> {
    Ok(expectations.iter().all(|&met| met).into())
}

/// The verdict of a test that is one expectation for each of several values.
fn each(values: &[u64], met: &mut dyn FnMut(u64) -> bool) -> Result<Verdict, Errno> {
    Ok(values.iter().all(|&value| met(value)).into())
}

struct Shown(Outcome);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(value) => write!(f, "{value:#x}"),
            Err(errno) => errno.fmt(f),
        }
    }
}
