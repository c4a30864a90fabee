//! `pt walk`: the tree.

use tablewalk_rt::{ExitCode, print, println};
use tablewalk_walker::{Format, Found, FrameNumber, Geometry, Kind, Level, TableVisit, Visit};

use crate::Ended;
use crate::attributes::Attributes;
use crate::error::Error;
use crate::json::Json;
use crate::options::Options;
use crate::progress::Progress;
use crate::subject::Subject;

/// Consecutive leaves with consecutive frames: printed as one line.
struct Group {
    first: Found,
    entries: u64,
}

#[inline(never)]
pub(crate) fn run(subject: &mut Subject, options: &Options) -> Result<Ended, Error> {
    let format = subject.format;
    let mut progress = Progress::start();
    let mut changed = 0;
    let mut group = None;
    for visit in options.walk(&mut subject.source) {
        let visit = visit?;
        if options.json {
            write(&format, &visit, None);
        } else {
            print(&format, &visit, &mut group);
        }
        match visit {
            Visit::Table(table) => progress.at(table.address),
            Visit::Changed(_) => changed += 1,
            Visit::Leaf(_) | Visit::NotValid(_) => {}
        }
    }
    print_group(&format, group.take());
    Ok((ExitCode::SUCCESS, changed))
}

/// Returns the indentation of a table of `level`: two columns for each level below the root.
fn columns(geometry: &Geometry, level: Level) -> usize {
    2 * geometry.depth(level)
}

fn print(format: &Format, visit: &Visit, group: &mut Option<Group>) {
    let geometry = &format.geometry;
    if let (Visit::Leaf(leaf), Some(group)) = (visit, group.as_mut())
        && continues(geometry, group, leaf)
    {
        group.entries += 1;
        return;
    }
    print_group(format, group.take());
    match visit {
        Visit::Table(table) => print_table(geometry, table),
        Visit::Leaf(found) | Visit::NotValid(found) => {
            *group = Some(Group {
                first: *found,
                entries: 1,
            });
        }
        Visit::Changed(id) => println!(
            "# the {} of {} changed while it was walked",
            geometry.level_name(id.level),
            id.address
        ),
    }
}

/// Returns whether `leaf` continues the group, with the next address and the next frame.
fn continues(geometry: &Geometry, group: &Group, leaf: &Found) -> bool {
    let first = &group.first;
    let size = group.entries * geometry.entry_size(first.level);
    let output = first.output_address(geometry).0 + size;
    let attributes = |found: &Found| found.descriptor.0 & !found.output_address(geometry).0;
    first.descriptor.kind(geometry, first.level) != Kind::Invalid
        && first.table == leaf.table
        && first.level == leaf.level
        && first.address.0 + size == leaf.address.0
        && leaf.output_address(geometry).0 == output
        // The upper bits of 52-bit output addresses are stored separately: leaves are not joined if these
        // differ.
        && attributes(first) == attributes(leaf)
}

/// `[index] PMD frame 0x40a3b`: the index in the table above, level and frame.
fn print_table(geometry: &Geometry, table: &TableVisit) {
    let columns = columns(geometry, table.level);
    let name = geometry.level_name(table.level);
    match table.level.next_higher() {
        Some(above) if table.level != geometry.root_level() => {
            let index = geometry.index(above, table.address);
            println!("{:columns$}[{index}] {name} frame {}", "", table.frame);
        }
        _ => println!("{name} frame {}", table.frame),
    }
}

/// `[424] page 0x7f8b320000 frame 0x404c2 rw- AD-------`.
fn print_group(format: &Format, group: Option<Group>) {
    let Some(Group { first, entries }) = group else {
        return;
    };
    let geometry = &format.geometry;
    let columns = columns(geometry, first.level) + 2;
    let attributes = attributes(format, &first);
    let (index, word, address) = (first.index, attributes.word(), first.address);
    print!("{:columns$}[{index}", "");
    match attributes.frame() {
        Some(frame) if entries > 1 => {
            let last = index as u64 + entries - 1;
            let end = FrameNumber(frame.0 + entries * first.pages(geometry));
            println!("-{last}] {entries} {word}s {address} frames {frame}-{end} {attributes}");
        }
        Some(frame) => println!("] {word} {address} frame {frame} {attributes}"),
        None => println!("] {word} {address} {attributes}"),
    }
}

pub(crate) fn attributes<'a>(format: &'a Format, found: &Found) -> Attributes<'a> {
    Attributes {
        format,
        level: found.level,
        descriptor: found.descriptor,
        limits: found.limits,
    }
}

/// Writes an object for an item of a walk; with the process ID in a search through all processes.
#[inline(never)]
pub(crate) fn write(format: &Format, visit: &Visit, pid: Option<i32>) {
    let geometry = &format.geometry;
    match visit {
        Visit::Table(table) => {
            let mut json = Json::new("table");
            json.process(pid)
                .level(table.level)
                .text("name", geometry.level_name(table.level))
                .hex("address", table.address.0)
                .hex("frame", table.frame.0);
        }
        Visit::Leaf(found) | Visit::NotValid(found) => {
            let mut json = Json::new("entry");
            json.process(pid)
                .level(found.level)
                .hex("address", found.address.0)
                .number("size", geometry.entry_size(found.level))
                .hex("table", found.table.0)
                .number("index", found.index as u64);
            attributes(format, found).write(&mut json);
        }
        Visit::Changed(id) => {
            Json::new("changed")
                .level(id.level)
                .hex("address", id.address.0);
        }
    }
}
