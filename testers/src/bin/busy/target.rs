//! A process that changes its memory all the time, and dies in different ways.

#![expect(unsafe_code, reason = "forks")]

use core::convert::Infallible;
use core::time::Duration;

use tablewalk_proc::pagemap::Pagemap;
use tablewalk_rt::ExitCode;
use tablewalk_rt::memory::write;
use tablewalk_rt::process::{Fork, execute};
use tablewalk_testkit::random::Random;
use tablewalk_uapi::file::{self, OwnedFd};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::signal::Signal;
use tablewalk_uapi::{Errno, Mapping, process, time};
use tablewalk_walker::{Geometry, Level, VirtualAddress};

use crate::journal::{ADDRESSES, Journal, MOST_CHANGES, Set};

/// Number of addresses below one level-2 table, each in a level-3 table of its own.
const OF_A_TABLE: usize = 8;
const TABLES: usize = ADDRESSES / OF_A_TABLE;
/// Minimum number of changes in a life.
const CHANGES: u64 = 40;
/// Number of walks that a life waits for, if it waits.
const WALKS: u64 = 3;
/// Time between two changes of a busy process.
const PAUSE: Duration = Duration::from_millis(2);
/// A frame that no test machine has: 4 TiB above 0 with 4K pages.
const NO_FRAME: u64 = 1 << 30;

/// The address range of the target.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) geometry: Geometry,
}

impl Places {
    /// Returns the first address.
    pub(crate) const fn first(&self) -> VirtualAddress {
        VirtualAddress(64 * self.geometry.entry_size(Level::L1))
    }

    /// Returns the last address that a page can have.
    pub(crate) const fn last(&self) -> VirtualAddress {
        let start = self.table(TABLES - 1);
        VirtualAddress(start + self.geometry.entry_size(Level::L1) - 1)
    }

    /// Returns the first address below a level-2 table. The second half of these tables is below another
    /// entry of the root.
    const fn table(&self, table: usize) -> u64 {
        let of_root = self.geometry.entry_size(self.geometry.root_level());
        let half = (table / (TABLES / 2)) as u64;
        self.first().0 + table as u64 * self.geometry.entry_size(Level::L1) + half * of_root
    }

    /// Returns the address with this number.
    pub(crate) const fn address(&self, number: usize) -> u64 {
        let (table, entry) = (number / OF_A_TABLE, number % OF_A_TABLE);
        self.table(table) + entry as u64 * self.geometry.entry_size(Level::L2)
    }

    /// Returns whether the address belongs to the target's pages. Other mappings may lie between the first
    /// and the last.
    pub(crate) fn is_here(&self, address: VirtualAddress) -> bool {
        let size = self.geometry.entry_size(Level::L1);
        (0..TABLES).any(|table| address.0.wrapping_sub(self.table(table)) < size)
    }

    /// Returns the number of an address.
    pub(crate) fn number(&self, address: VirtualAddress) -> Option<usize> {
        (0..ADDRESSES).find(|&number| self.address(number) == address.0)
    }
}

/// How a life ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Exits,
    /// A child kills it in the middle of some change.
    Killed,
    Executes,
}

/// Instructions for a target.
#[derive(Clone, Copy)]
pub(crate) struct Life {
    pub(crate) number: u32,
    pub(crate) end: End,
    /// Does not wait for the walker before it ends.
    pub(crate) hasty: bool,
}

struct Target {
    journal: &'static Journal,
    places: Places,
    random: Random,
    pagemap: Pagemap,
    pages: [Option<Mapping>; ADDRESSES],
    /// Addresses that are not changed for now, so that a walk must find their pages.
    calm: Set,
}

/// All addresses.
const ALL: Set = u64::MAX >> (64 - ADDRESSES);

/// Runs one life. Writes to `ready` when the first pages are mapped.
pub(crate) fn live(
    journal: &'static Journal,
    places: Places,
    life: Life,
    ready: &OwnedFd,
) -> Result<ExitCode, Errno> {
    let mut target = Target::new(journal, places, life.number)?;
    file::write(ready, b".")?;
    let begun = journal.walks();
    let (mut seen, mut changes, mut made) = (begun, 0, 0);
    let more = target.random.below(CHANGES);
    while made < CHANGES + more || (!life.hasty && journal.walks() < begun + WALKS) {
        let walks = journal.walks();
        if walks != seen {
            (seen, changes) = (walks, 0);
            target.calm_down(walks);
        }
        // Waits for the walker after too many changes, unless there is none or the life is hasty.
        if changes < MOST_CHANGES {
            target.step()?;
            changes += 1;
            made += 1;
        } else {
            process::yield_now();
        }
    }
    target.end(life.end, seen, changes)
}

/// Changes something every two milliseconds, for ever. Writes to `ready` when the first pages are mapped.
pub(crate) fn work(
    journal: &'static Journal,
    places: Places,
    ready: &OwnedFd,
) -> Result<Infallible, Errno> {
    let mut target = Target::new(journal, places, 0)?;
    file::write(ready, b".")?;
    loop {
        target.step()?;
        time::sleep(PAUSE)?;
    }
}

/// Returns the addresses of a set.
fn numbers(set: Set) -> impl Iterator<Item = usize> {
    (0..ADDRESSES).filter(move |number| set >> number & 1 != 0)
}

impl Target {
    /// Returns a target with all of its pages mapped.
    fn new(journal: &'static Journal, places: Places, number: u32) -> Result<Self, Errno> {
        let mut target = Self {
            journal,
            places,
            random: Random::new(0, number.into()),
            pagemap: Pagemap::open(process::pid(), places.geometry.page_shift())?,
            pages: [const { None }; ADDRESSES],
            calm: 0,
        };
        for number in 0..ADDRESSES {
            target.change(1 << number, |target| target.fill(number))?;
        }
        Ok(target)
    }

    /// Makes a change, and then notes the frames at the addresses of `set`.
    fn change(
        &mut self,
        set: Set,
        make: impl FnOnce(&mut Self) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let from = self.journal.begin(set);
        make(self)?;
        for number in numbers(set) {
            let entry = self.pagemap.entry(self.places.address(number))?;
            let frame = entry.is_present().then(|| entry.frame());
            self.journal.note(number, frame, from);
        }
        self.journal.end();
        Ok(())
    }

    fn step(&mut self) -> Result<(), Errno> {
        let number = self.any();
        let bit = 1 << number;
        match self.random.below(16) {
            0..5 => self.change(bit, |target| target.fill(number)),
            5..8 => self.change(bit, |target| {
                target.unmap(number);
                Ok(())
            }),
            8..10 => self.change(bit, |target| target.discard(number)),
            10..13 => {
                let to = self.any();
                self.change(bit | 1 << to, |target| target.remap(number, to))
            }
            13..15 => {
                // Unmaps the level-2 table above them, too.
                let first = number / OF_A_TABLE * OF_A_TABLE;
                let set = ((1 << OF_A_TABLE) - 1) << first & !self.calm;
                self.change(set, |target| {
                    numbers(set).for_each(|number| target.unmap(number));
                    Ok(())
                })
            }
            _ => self.change(ALL & !self.calm, Self::fork),
        }
    }

    /// Leaves a quarter of all addresses unchanged during every other walk.
    fn calm_down(&mut self, walks: u64) {
        let quarter = self.random.below(ALL) & self.random.below(ALL);
        self.calm = if walks.is_multiple_of(2) { 0 } else { quarter };
    }

    /// Returns a random address that may be changed.
    fn any(&mut self) -> usize {
        let first = usize::try_from(self.random.below(ADDRESSES as u64)).unwrap_or(0);
        let mut all = (first..ADDRESSES).chain(0..first);
        all.find(|number| self.calm >> number & 1 == 0)
            .unwrap_or(first)
    }

    fn unmap(&mut self, number: usize) {
        if let Some(page) = self.pages.get_mut(number) {
            *page = None;
        }
    }

    /// Maps the page, if it is not mapped, and fills it with words that look like entries of a table. If its
    /// frame was a table before, a walk through a stale copy would find pages in it.
    fn fill(&mut self, number: usize) -> Result<(), Errno> {
        let word = self.places.looks_like_an_entry();
        if let Some(page) = self.map(number)? {
            for offset in (0..page.size()).step_by(8) {
                write(page, offset, word);
            }
        }
        Ok(())
    }

    /// Returns the mapping of an address; a new one has no page yet.
    fn map(&mut self, number: usize) -> Result<Option<&mut Mapping>, Errno> {
        let size = 1 << self.places.geometry.page_shift();
        let Some(page) = self.pages.get_mut(number) else {
            return Ok(None);
        };
        if page.is_none() {
            let address = self.places.address(number);
            *page = Some(Mapping::reserve_at(address, size, Protection::READ_WRITE)?);
        }
        Ok(page.as_mut())
    }

    /// Discards the page, and touches a new one in three of four cases.
    fn discard(&mut self, number: usize) -> Result<(), Errno> {
        let Some(Some(page)) = self.pages.get(number) else {
            return Ok(());
        };
        page.advise(0..page.size(), Advice::DontNeed)?;
        if self.random.one_in(4) {
            return Ok(());
        }
        self.fill(number)
    }

    /// Moves a page to another address, and replaces the page there.
    fn remap(&mut self, from: usize, to: usize) -> Result<(), Errno> {
        if from == to || !matches!(self.pages.get(from), Some(Some(_))) {
            return Ok(());
        }
        // Map the target address without a page, which would not be noted.
        self.map(to)?;
        let old = self.pages.get_mut(from).and_then(Option::take);
        let place = self.pages.get_mut(to).and_then(Option::take);
        if let (Some(old), Some(place), Some(page)) = (old, place, self.pages.get_mut(to)) {
            *page = Some(old.move_onto(place)?);
        }
        Ok(())
    }

    /// Forks a child, which shares all pages, and writes to some of them while the child lives.
    fn fork(&mut self) -> Result<(), Errno> {
        let patience = self.random.below(32);
        // SAFETY: the child uses nothing.
        let child = unsafe { Fork::promised() }.spawn(|| {
            (0..patience).for_each(|_| process::yield_now());
            ExitCode::SUCCESS
        })?;
        for _ in 0..8 {
            let number = self.any();
            if matches!(self.pages.get(number), Some(Some(_))) {
                self.fill(number)?;
            }
        }
        child.wait().map(drop)
    }

    fn end(mut self, end: End, mut seen: u64, mut changes: u64) -> Result<ExitCode, Errno> {
        self.journal.begin_to_end();
        match end {
            End::Exits => Ok(ExitCode::SUCCESS),
            End::Executes => Err(execute(c"/bin/busy", &[c"busy", c"--pause"])),
            End::Killed => {
                let target = process::pid();
                let patience = self.random.below(256);
                // SAFETY: the child uses nothing.
                let _killer = unsafe { Fork::promised() }.spawn(|| {
                    (0..patience).for_each(|_| process::yield_now());
                    let _ = process::kill(target, Signal::Kill);
                    ExitCode::SUCCESS
                })?;
                loop {
                    let walks = self.journal.walks();
                    if walks != seen {
                        (seen, changes) = (walks, 0);
                    }
                    if changes < MOST_CHANGES {
                        self.step()?;
                        changes += 1;
                    } else {
                        process::yield_now();
                    }
                }
            }
        }
    }
}

impl Places {
    /// Returns a valid user entry with the access flag and a frame that does not exist.
    const fn looks_like_an_entry(&self) -> u64 {
        const VALID_USER_PAGE: u64 = 0b11 | 1 << 6 | 1 << 10 | 1 << 11;
        VALID_USER_PAGE | NO_FRAME << self.geometry.page_shift()
    }
}
