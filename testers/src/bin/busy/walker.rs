//! Walks targets until they have ended, and compares the pages found with their journal.

#![expect(unsafe_code, reason = "forks")]

use core::time::Duration;

use heapless::Vec;
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{ExitCode, eprintln, println};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::{Errno, file, process, time};
use tablewalk_walker::{Level, TableId, VirtualAddress, Visit};

use crate::journal::{ADDRESSES, Journal};
use crate::source::Source;
use crate::target::{self, End, Life, Places};

/// One of this many lives ends without waiting for the walker.
const HASTY: u32 = 8;
/// How often, at most, to walk a process that has ended, until no page is left.
const PATIENCE: u32 = 1000;
/// One of this many walks is slow.
const SLOW: u64 = 4;
/// How long a slow walk waits at one table. Meanwhile an RCU grace period may end, and the kernel may free
/// and reuse tables below it, so that the walk uses stale descriptors. The result does not depend on it.
const WAIT: Duration = Duration::from_millis(60);
/// Number of tables above the lowest level. A slow walk waits at one of them, each in turn.
const UPPER_TABLES: u64 = 9;
/// Maximum number of differences to print.
const SHOWN: u64 = 10;

#[derive(Default)]
struct Tally {
    walks: u64,
    pages: u64,
    /// Tables that changed while they were read.
    changed: u64,
    /// Pages at addresses of a change that the target died before noting.
    unfinished: u64,
    /// Targets that had ended before they were walked.
    gone: u64,
    /// Pages that were never there.
    false_ones: u64,
    /// Pages that were mapped during a whole walk.
    sure: u64,
    /// Those that were not found, although no table above them was reported as changed.
    lost: u64,
}

/// Maximum number of changed tables that are noted in a walk.
const CHANGED: usize = 256;

/// Walks this many targets. Returns whether all pages found were correct, and any were found.
pub(crate) fn follow(source: &mut Source, rounds: u32) -> Result<bool, Error> {
    let journal = Journal::new().map_err(Error::call("mmap"))?;
    let mut walker = Walker {
        places: Places {
            geometry: source.format().geometry,
        },
        source,
        journal,
        tally: Tally::default(),
    };
    for number in 0..rounds {
        let life = Life {
            number,
            end: match number % 3 {
                0 => End::Exits,
                1 => End::Killed,
                _ => End::Executes,
            },
            hasty: number % HASTY == HASTY - 1,
        };
        walker.follow_one(life)?;
    }
    let tally = &walker.tally;
    println!(
        "# {rounds} processes, {} gone at once; {} walks, {} pages, {} tables changed meanwhile, {} not noted any \
         more, {} never true; {} pages that stayed, {} of them not found",
        tally.gone,
        tally.walks,
        tally.pages,
        tally.changed,
        tally.unfinished,
        tally.false_ones,
        tally.sure,
        tally.lost
    );
    Ok(tally.pages > 0 && tally.sure > 0 && tally.false_ones == 0 && tally.lost == 0)
}

struct Walker<'s> {
    source: &'s mut Source,
    places: Places,
    journal: &'static Journal,
    tally: Tally,
}

impl Walker<'_> {
    fn follow_one(&mut self, life: Life) -> Result<(), Error> {
        let child = self.start(life)?;
        if let Err(error) = self.source.follow(child.pid()) {
            // The source reports the end. What it must not do is to go on with a stale root.
            self.tally.gone += 1;
            return if life.hasty { Ok(()) } else { Err(error) };
        }
        let mut left = PATIENCE;
        loop {
            let over =
                !is_running(&child)? || (life.end == End::Executes && !self.source.is_current()?);
            let pages = self.walk(&child)?;
            if !over {
                continue;
            }
            if pages == 0 {
                return Ok(());
            }
            left -= 1;
            if left == 0 {
                println!(
                    "# {pages} pages of a process that has gone ({:?})",
                    life.end
                );
                self.tally.false_ones += 1;
                return Ok(());
            }
            process::yield_now();
        }
    }

    fn start(&self, life: Life) -> Result<Child, Error> {
        let (journal, places) = (self.journal, self.places);
        journal.clear();
        let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
        // SAFETY: the child uses its copy of memory, the pipes, the journal, and what it makes itself.
        let child = unsafe { Fork::promised() }
            .spawn(|| {
                target::live(journal, places, life, &writer).unwrap_or_else(|errno| {
                    eprintln!("busy: a target: {errno}");
                    ExitCode::FAILURE
                })
            })
            .map_err(Error::call("fork"))?;
        drop(writer);
        match file::read(&reader, &mut [0]) {
            Ok(1) => Ok(child),
            Ok(_) => Err(Error::Call("a target's memory", Errno::ENOMEM)),
            Err(errno) => Err(Error::Call("pipe", errno)),
        }
    }

    /// Walks once. Returns the number of pages found.
    fn walk(&mut self, child: &Child) -> Result<usize, Error> {
        // Twice as many as there can be.
        let mut found = Vec::<(VirtualAddress, u64), { 2 * ADDRESSES }>::new();
        let mut missed = 0;
        let slow = self.tally.walks.is_multiple_of(SLOW);
        let mut place = slow.then_some(self.tally.walks / SLOW % UPPER_TABLES);
        let sure = self.journal.sure();
        let start = self.journal.begin_walk();
        let (places, geometry) = (self.places, self.places.geometry);
        // While Linux migrates a page, its entry is invalid for a moment.
        let mut moving = Vec::<VirtualAddress, { 2 * ADDRESSES }>::new();
        let mut changed = Vec::<TableId, CHANGED>::new();
        let range = (self.places.first(), self.places.last());
        self.source.walk(range, |visit| match visit {
            Visit::Leaf(leaf) if places.is_here(leaf.address) => {
                let page = (leaf.address, leaf.frame(&geometry).0);
                missed += u64::from(found.push(page).is_err());
            }
            Visit::Changed(id) => missed += u64::from(changed.push(id).is_err()),
            Visit::NotValid(entry) if places.is_here(entry.address) => {
                missed += u64::from(moving.push(entry.address).is_err())
            }
            Visit::Table(table) if table.level < Level::L3 => {
                if place == Some(0) {
                    // The sleep is not interrupted, since there is no signal handler.
                    let _ = time::sleep(WAIT);
                }
                place = place.and_then(|place| place.checked_sub(1));
            }
            Visit::Table(_) | Visit::Leaf(_) | Visit::NotValid(_) => {}
        })?;
        let still_sure = self.journal.sure();
        let moments = (start, self.journal.now());
        let unfinished = self.journal.settle(|| {
            process::yield_now();
            is_running(child).map(|running| !running)
        })?;
        self.tally.walks += 1;
        self.tally.pages += found.len() as u64;
        self.tally.changed += changed.len() as u64;
        self.tally.false_ones += missed;
        for (number, (before, after)) in sure.into_iter().zip(still_sure).enumerate() {
            if before == 0 || before != after {
                continue;
            }
            let address = VirtualAddress(self.places.address(number));
            let is_below = |id: &TableId| {
                let shift = geometry.span_shift(id.level);
                id.address.align_down(shift) == address.align_down(shift)
            };
            self.tally.sure += 1;
            if !found.iter().any(|&(found, _)| found == address)
                && !moving.contains(&address)
                && !changed.iter().any(is_below)
            {
                self.tally.lost += 1;
                if self.tally.lost <= SHOWN {
                    println!("# {address}: not found, though it stayed");
                }
            }
        }
        for &(address, frame) in &found {
            self.judge(address, frame, moments, unfinished);
        }
        Ok(found.len())
    }

    fn judge(&mut self, address: VirtualAddress, frame: u64, moments: (u64, u64), unfinished: u64) {
        let number = self.places.number(address);
        if number.is_some_and(|number| self.journal.had(number, frame, moments)) {
            return;
        }
        if number.is_some_and(|number| unfinished >> number & 1 != 0) {
            self.tally.unfinished += 1;
            return;
        }
        self.tally.false_ones += 1;
        if self.tally.false_ones <= SHOWN {
            println!("# {address}: frame {frame:#x}, which it did not have");
        }
    }
}

fn is_running(child: &Child) -> Result<bool, Error> {
    child.is_running().map_err(Error::call("waitid"))
}
