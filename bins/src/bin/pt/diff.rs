//! `pt diff`: entries that change, or differ.

use core::time::Duration;

use tablewalk_rt::console::output_is_lost;
use tablewalk_rt::counter::{frequency, ticks};
use tablewalk_rt::memory::leak_zeroed;
use tablewalk_rt::{Count, ExitCode, println};
use tablewalk_uapi::{Errno, time};
use tablewalk_walker::dump::{Dump, SavedTable};
use tablewalk_walker::{
    Descriptor, Format, Kind, Level, Limits, Table, TableSource, VirtualAddress,
};

use crate::Ended;
use crate::attributes::Attributes;
use crate::error::Error;
use crate::json::Json;
use crate::options::Options;
use crate::report;
use crate::save;
use crate::subject::Subject;

/// Bytes of address space that are reserved for the tables of one process.
const ROOM: usize = 4 << 30;

/// The error of a command that does not support the kernel's tables.
pub(crate) const OF_KERNEL: Error =
    Error::Usage("only processes can be saved, compared or tracked");

/// The default interval between rounds.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shows the entries of a process that change from round to round.
#[inline(never)]
pub(crate) fn watch(subject: &mut Subject, options: &Options) -> Result<Ended, Error> {
    let mut old = Memory::new()?;
    let mut new = Memory::new()?;
    old.fill(subject, options)?;
    let start = ticks();
    let mut changed = 0;
    let mut round = 0;
    // Stop when the output is lost.
    while options.count.is_none_or(|count| round < count) && !output_is_lost() {
        // Not interrupted, since there is no signal handler.
        let _ = time::sleep(options.interval.unwrap_or(INTERVAL));
        changed += new.fill(subject, options)?;
        let milliseconds = (ticks() - start) / (frequency() / 1000).max(1);
        let changes = show(&old.dump()?, &new.dump()?, options);
        if options.json {
            Json::new("round")
                .number("time_ms", milliseconds)
                .number("changes", changes);
        } else {
            println!(
                "# {milliseconds} ms: {} changed",
                Count(changes, "entry", "entries")
            );
        }
        core::mem::swap(&mut old, &mut new);
        round += 1;
    }
    Ok((ExitCode::SUCCESS, changed))
}

/// Prints the first line, unless the two cannot be compared, and shows how the tables of `other` differ from
/// those of `subject`. The exit status is 1 if they do, as for diff(1).
#[inline(never)]
pub(crate) fn compare(
    subject: &mut Subject,
    other: &'static str,
    options: &Options,
) -> Result<Ended, Error> {
    let other = &mut Subject::open(other, Some(subject.name), options.source)?;
    if other.format.geometry.is_kernel() {
        return Err(OF_KERNEL);
    }
    if subject.format != other.format {
        return Err(Error::Formats);
    }
    report::begin("diff", subject, options);
    let mut old = Memory::new()?;
    let mut new = Memory::new()?;
    let changed = old.fill(subject, options)? + new.fill(other, options)?;
    let status = match show(&old.dump()?, &new.dump()?, options) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    };
    Ok((status, changed))
}

/// A dump in memory.
struct Memory {
    room: &'static mut [u8],
    filled: usize,
}

impl Memory {
    fn new() -> Result<Self, Error> {
        let room = leak_zeroed(ROOM).map_err(|errno| Error::Memory("tables", errno))?;
        Ok(Self { room, filled: 0 })
    }

    /// Copies all tables. Returns how many vanished before they could be read.
    fn fill(&mut self, subject: &mut Subject, options: &Options) -> Result<u64, Error> {
        let room = &mut self.room;
        let saved = save::write_all(subject, &[], options, &mut |offset, bytes| {
            let start = usize::try_from(offset).ok();
            let place = start.and_then(|start| room.get_mut(start..start + bytes.len()));
            let place = place.ok_or(Error::Memory("tables", Errno::ENOMEM))?;
            place.copy_from_slice(bytes);
            Ok(())
        })?;
        self.filled = usize::try_from(saved.bytes).unwrap_or(0);
        Ok(saved.changed)
    }

    fn dump(&mut self) -> Result<Dump<'_>, Error> {
        let bytes = self.room.get_mut(..self.filled).unwrap_or_default();
        Dump::from_bytes(bytes).map_err(|error| Error::Dump("tables", error))
    }
}

/// Shows the entries in which two dumps differ. Returns their number.
fn show(old: &Dump<'_>, new: &Dump<'_>, options: &Options) -> u64 {
    let format = old.format();
    let key = |table: &SavedTable<'_>| (table.address, table.level);
    let (mut left, mut right) = (0, 0);
    let mut changes = 0;
    loop {
        let tables = (old.nth(left), new.nth(right));
        // Only one of them has the table: in the other, all its entries are 0.
        let (before, after) = match tables {
            (None, None) => return changes,
            (Some(before), Some(after)) if key(&before) == key(&after) => {
                (Some(before), Some(after))
            }
            (Some(before), after) if after.is_none_or(|after| key(&before) < key(&after)) => {
                (Some(before), None)
            }
            (_, after) => (None, after),
        };
        left += usize::from(before.is_some());
        right += usize::from(after.is_some());
        if let Some(place) = before.or(after) {
            let pair = [before, after].map(|table| table.map(|table| table.words));
            changes += show_table(&format, (place.level, place.address), pair, options);
        }
    }
}

fn show_table(
    format: &Format,
    (level, start): (Level, VirtualAddress),
    [before, after]: [Option<Table<'_>>; 2],
    options: &Options,
) -> u64 {
    let geometry = &format.geometry;
    let load =
        |table: Option<Table<'_>>, index| table.map_or(Descriptor::ZERO, |table| table.load(index));
    let mut changes = 0;
    for index in 0..geometry.entries(level) {
        let pair = [load(before, index), load(after, index)];
        let [old, new] = pair;
        if old == new {
            continue;
        }
        let address = start.wrapping_add((index as u64) << geometry.level_shift(level));
        let last = address.wrapping_add(geometry.entry_size(level) - 1);
        if options.includes(address.0, last.0) {
            show_entry(format, level, address, pair, options);
            changes += 1;
        }
    }
    changes
}

fn show_entry(
    format: &Format,
    level: Level,
    address: VirtualAddress,
    pair: [Descriptor; 2],
    options: &Options,
) {
    if options.json {
        let [old, new] = pair;
        let mut json = Json::new("change");
        json.hex("address", address.0)
            .level(level)
            .hex("old", old.0);
        Attributes {
            format,
            level,
            descriptor: new,
            limits: Limits::NONE,
        }
        .write(&mut json);
        return;
    }
    let [old, new] = pair.map(|descriptor| Side {
        format,
        level,
        descriptor,
    });
    match pair {
        [Descriptor::ZERO, _] => println!("+ {address} {level} {new}"),
        [_, Descriptor::ZERO] => println!("- {address} {level} {old}"),
        _ => println!("~ {address} {level} {old} -> {new}"),
    }
}

/// An entry before or after the change.
struct Side<'a> {
    format: &'a Format,
    level: Level,
    descriptor: Descriptor,
}

impl core::fmt::Display for Side<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let attributes = Attributes {
            format: self.format,
            level: self.level,
            descriptor: self.descriptor,
            limits: Limits::NONE,
        };
        let word = attributes.word();
        match attributes.frame() {
            Some(frame) if attributes.kind() == Kind::Table => write!(f, "{word} {frame}"),
            Some(frame) => write!(f, "{word} {frame} {attributes}"),
            None => write!(f, "{word} {attributes}"),
        }
    }
}
