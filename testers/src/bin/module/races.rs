//! Tables that are mapped while their process makes, frees and moves them.

#![expect(unsafe_code, reason = "forks, and lets the kernel fill structs")]

use core::ptr;

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::memory::write;
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{ExitCode, println};
use tablewalk_testkit::expect::{all, expect};
use tablewalk_testkit::page::{Page, range};
use tablewalk_testkit::witness::Witness;
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::remap::{
    EXPOSE_PGTBL_ADDR, EXPOSE_PGTBL_RANGE, ExposePgtblInfo, ExposePgtblTable,
};
use tablewalk_uapi::remap_device::Target;
use tablewalk_uapi::{Errno, Mapping};

use crate::place::{call, entry_shift, open_target};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[Case {
    name: "no table is reused while it is mapped, whatever its process does",
    run: races,
}];

/// Tables of level 3 that the child makes in each round.
const TABLES: usize = 8;
/// Pages that tables are mapped over.
const PLACES: usize = 64;
const ROUNDS: usize = 3000;
/// What the pages of the child are full of; no entry, since bits 0 and 1 of a page descriptor are set.
const PATTERN: u64 = 0x5555_5555_5555_5554;

/// Moves memory with its tables to and fro, and frees it, until it is killed. Frames of freed tables become pages
/// that are full of [`PATTERN`].
fn churn(info: &ExposePgtblInfo, address: u64) -> Result<(), Errno> {
    let page = 1 << info.page_shift;
    let size = 1_usize << entry_shift(info, 1);
    loop {
        let memory = Mapping::reserve_at(address, size, Protection::READ_WRITE)?;
        memory.base_pages_only()?;
        for table in 0..TABLES {
            for offset in (0..page).step_by(8) {
                write(&memory, (table << entry_shift(info, 2)) + offset, PATTERN);
            }
        }
        let there = Mapping::reserve_at(address + size as u64, size, Protection::READ_WRITE)?;
        let memory = memory.move_onto(there)?;
        let here = Mapping::reserve_at(address, size, Protection::READ_WRITE)?;
        drop(memory.move_onto(here)?);
    }
}

/// What the calls of a race returned.
#[derive(Default)]
struct Seen {
    mapped: u64,
    missing: u64,
    other: u64,
    foreign: u64,
}

impl Seen {
    fn count(&mut self, outcome: Result<u64, Errno>) {
        match outcome {
            Ok(_) => self.mapped += 1,
            Err(Errno::ENOENT) => self.missing += 1,
            Err(errno) => {
                println!("# {errno}");
                self.other += 1;
            }
        }
    }

    /// Counts words of the child's pages in what should be tables.
    fn look(&mut self, places: &Page) {
        let words = places.size() / 8;
        self.foreign += (0..words)
            .filter(|&word| places.word(word) == PATTERN)
            .count() as u64;
    }
}

/// Maps tables by ADDR, by their frames, and by RANGE, over one place after the other.
fn map_tables(info: &ExposePgtblInfo, target: &Target, places: &Page, address: u64) -> Seen {
    let mut seen = Seen::default();
    let mut last = 0;
    for round in 0..ROUNDS {
        let place = places.address() + ((round % (PLACES - TABLES)) << info.page_shift) as u64;
        // SAFETY: the page is the test's own.
        let map = |level, pfn| unsafe { call(target, level, place, pfn) };
        let outcome = match round % 4 {
            0 => map(3 | EXPOSE_PGTBL_ADDR, address),
            1 => map(3, last),
            2 => map(2 | EXPOSE_PGTBL_ADDR, address),
            _ => map_several(info, target, place, address),
        };
        if round % 4 == 0 {
            last = outcome.unwrap_or(last);
        }
        seen.count(outcome);
        if round % 16 == 0 {
            seen.look(places);
        }
    }
    seen
}

/// Maps the tables that the child makes by RANGE; `ENOENT` for none.
fn map_several(
    info: &ExposePgtblInfo,
    target: &Target,
    place: u64,
    address: u64,
) -> Result<u64, Errno> {
    let mut tables = [ExposePgtblTable::default(); TABLES];
    let end = address + ((TABLES as u64) << entry_shift(info, 2));
    let mut asked = range(address, end, &mut tables);
    let pfn = ptr::from_mut(&mut asked).expose_provenance() as u64;
    // SAFETY: the pages are the test's own, and the kernel fills the struct and the array.
    unsafe { call(target, 3 | EXPOSE_PGTBL_RANGE, place, pfn) }?;
    match asked.count {
        0 => Err(Errno::ENOENT),
        count => Ok(count.into()),
    }
}

fn races(context: &mut Context) -> Result<Verdict, Errno> {
    let info = context.info;
    let lost = |error| {
        println!("# {error}");
        Errno::EIO
    };
    let witness = Witness::begin().map_err(lost)?;
    let size = 1_usize << entry_shift(&info, 1);
    // An address for three times this size, at the start of a table of level 2.
    let address = {
        let free = Mapping::reserve(4 * size, Protection::READ)?;
        free.address().next_multiple_of(size as u64)
    };
    // SAFETY: the child makes its own mappings.
    let child: Child =
        unsafe { Fork::promised() }.spawn(|| ExitCode(u8::from(churn(&info, address).is_err())))?;
    let target = open_target(&context.device, child.pid())?;
    let places = Page::several(&info, Protection::READ, PLACES)?;
    let mut seen = map_tables(&info, &target, &places, address);
    let running = child.is_running()?;
    // Kills it.
    drop(child);
    seen.look(&places);
    let left = places.words_in_use();
    println!(
        "# {} times tables were there, {} times not",
        seen.mapped, seen.missing
    );
    drop(places);
    all(&[
        expect("the child runs", Ok(running.into()), Ok(1)),
        expect("tables were there", Ok((seen.mapped > 0).into()), Ok(1)),
        expect("and were not", Ok((seen.missing > 0).into()), Ok(1)),
        expect("other errors", Ok(seen.other), Ok(0)),
        expect("words of pages in tables", Ok(seen.foreign), Ok(0)),
        expect("entries after its end", Ok(left), Ok(0)),
        witness.all_came_back().map_err(lost)?,
    ])
}
