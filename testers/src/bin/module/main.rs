//! `module`: tests the kernel module of `kernel/module/` on a kernel without the call.
//!
//! Loads and removes `/lib/modules/remap_page_table.ko` itself. What the module maps is compared with pagemap.

#![no_std]
#![cfg_attr(not(test), no_main)]

mod arguments;
mod descriptors;
mod entries;
mod forms;
mod kept;
mod loading;
mod mappings;
mod place;
mod privileges;
mod races;
mod shared;

use tablewalk_rt::ktap::{self, Case};
use tablewalk_rt::{Args, ExitCode, cli, eprintln};
use tablewalk_uapi::Errno;
use tablewalk_uapi::remap::ExposePgtblInfo;
use tablewalk_uapi::remap_device::{Device, Target};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: module
Tests the kernel module /lib/modules/remap_page_table.ko, which it loads. Prints KTAP.
Needs a kernel for which the module was built, /proc, /dev, and root.";

/// What the tests work on.
pub(crate) struct Context {
    device: Device,
    /// This process.
    own: Target,
    info: ExposePgtblInfo,
}

/// A test and its argument.
type Test = Case<Context, Errno>;

fn main(args: Args) -> ExitCode {
    if let Err(status) = cli::no_arguments(args, HELP) {
        return status;
    }
    match prepare() {
        Ok(mut context) => ktap::run(
            &mut context,
            &[
                forms::TESTS,
                entries::TESTS,
                mappings::TESTS,
                kept::TESTS,
                races::TESTS,
                shared::TESTS,
                arguments::TESTS,
                descriptors::TESTS,
                privileges::TESTS,
                // These remove the module, and then lock the kernel down.
                loading::TESTS,
            ],
        ),
        Err(errno) => {
            eprintln!("module: {}: {errno}", loading::PATH);
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> Result<Context, Errno> {
    loading::load()?;
    let device = Device::open()?;
    let own = place::open_target(&device, 0)?;
    let info = own.info()?;
    Ok(Context { device, own, info })
}
