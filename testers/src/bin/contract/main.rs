//! `contract`: tests the running kernel against the contract of `remap_page_table`, error by error.
//!
//! The contract is the man page in `kernel/patches/`. Frame numbers for the calls come from PATH, from
//! `/proc/iomem` and from other processes. Tables that are mapped are read word by word.

#![no_std]
#![cfg_attr(not(test), no_main)]

mod arguments;
mod lent;
mod limits;
mod mappings;
mod pages;
mod targets;
mod track;
mod trees;

use tablewalk_rt::cli;
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::{Args, ExitCode};
use tablewalk_testkit::prerequisite;
use tablewalk_uapi::Errno;
use tablewalk_uapi::remap::ExposePgtblInfo;

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: contract
Tests the running kernel against the contract of remap_page_table. Prints KTAP.
Needs a kernel with remap_page_table, /proc, and root.";

/// A test and its argument.
type Test = Case<ExposePgtblInfo, Errno>;
type Run = fn(&mut ExposePgtblInfo) -> Result<Verdict, Errno>;

/// Runs a test of a form if the kernel has it.
fn with(info: &mut ExposePgtblInfo, form: u32, test: Run) -> Result<Verdict, Errno> {
    prerequisite::lacks(info, form).map_or_else(|| test(info), Ok)
}

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
                pages::TESTS,
                limits::TESTS,
                track::TESTS,
                trees::TESTS,
                lent::TESTS,
            ],
        ),
        Err(status) => status,
    }
}
