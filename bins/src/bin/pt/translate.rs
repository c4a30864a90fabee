//! `pt translate`: addresses, level by level.

use tablewalk_rt::{ExitCode, println};
use tablewalk_walker::{Format, Limits, Path, Step, VirtualAddress};

use crate::Ended;
use crate::attributes::Attributes;
use crate::error::Error;
use crate::json::Json;
use crate::options::{Options, untag};
use crate::subject::Subject;

#[inline(never)]
pub(crate) fn run(
    subject: &mut Subject,
    addresses: &[VirtualAddress],
    options: &Options,
) -> Result<Ended, Error> {
    let format = subject.format;
    for &address in addresses {
        let (address, tag) = untag(&format.geometry, address);
        let path = subject.source.path(address)?;
        if options.json {
            write(&format, address, tag, &path);
        } else {
            print(&format, address, tag, &path);
        }
    }
    Ok((ExitCode::SUCCESS, 0))
}

/// The limits are those of the whole path; table descriptors do not use them.
fn attributes<'a>(format: &'a Format, step: &Step, limits: Limits) -> Attributes<'a> {
    Attributes {
        format,
        level: step.level,
        descriptor: step.descriptor,
        limits,
    }
}

fn print(format: &Format, address: VirtualAddress, tag: u64, path: &Path) {
    let geometry = &format.geometry;
    match tag {
        0 => println!("{address}"),
        tag => println!("{address} tag {tag:#x}"),
    }
    for (place, step) in path.steps().iter().enumerate() {
        let last = place + 1 == path.steps().len();
        let attributes = attributes(format, step, path.limits());
        let name = geometry.level_name(step.level);
        let level = step.level;
        let (table, index, word) = (step.table, step.index, step.descriptor.0);
        let kind = attributes.word();
        if last {
            println!("  {level} {name} {table}[{index}] {word:#018x} {kind} {attributes}");
        } else {
            println!("  {level} {name} {table}[{index}] {word:#018x} {kind}");
        }
    }
    match path.translation(geometry).physical() {
        Some(physical) => println!("  = {physical}"),
        None => println!("  not mapped"),
    }
}

fn write(format: &Format, address: VirtualAddress, tag: u64, path: &Path) {
    let geometry = &format.geometry;
    for step in path.steps() {
        let mut json = Json::new("step");
        json.hex("address", address.0)
            .level(step.level)
            .text("name", geometry.level_name(step.level))
            .hex("table", step.table.0)
            .number("index", step.index as u64);
        attributes(format, step, path.limits()).write(&mut json);
    }
    let mut json = Json::new("translation");
    json.hex("address", address.0);
    if tag != 0 {
        json.hex("tag", tag);
    }
    match path.translation(geometry).physical() {
        Some(physical) => json.flag("mapped", true).hex("physical", physical.0),
        None => json.flag("mapped", false),
    };
}
