//! Callers that are killed at random points.

#![expect(unsafe_code, reason = "forks")]

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::page::{Page, call, range as range_of};
use tablewalk_testkit::random::Random;
use tablewalk_testkit::witness::Witness;
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::process::{self, Status};
use tablewalk_uapi::raw::constants::MADV_NOHUGEPAGE;
use tablewalk_uapi::remap::{EXPOSE_PGTBL_ADDR, ExposePgtblInfo, ExposePgtblTable, flush};
use tablewalk_uapi::signal::Signal;
use tablewalk_uapi::{Errno, Mapping, Sharing};

use crate::operations::Range;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "killed while mapping tables",
        run: |context| kill(context, map_tables, Manner::Outright),
    },
    Case {
        name: "killed while holding tables",
        run: |context| kill(context, hold_tables, Manner::Outright),
    },
    Case {
        name: "killed while moving entries",
        run: |context| kill(context, move_entries, Manner::OutsideOfMove),
    },
];

/// What a victim does until it is killed. It returns only on an error.
type Victim = fn(&ExposePgtblInfo, &Range, &Journal) -> Result<(), Errno>;

/// A page that the victim shares with its killer.
struct Journal(Page);

impl Journal {
    /// The word that is 1 while an entry is removed from one place and not yet written to the other.
    const BETWEEN: usize = 0;
    /// The word that counts the victim's operations.
    const DONE: usize = 1;

    fn set(&self, word: usize, value: u64) {
        // SAFETY: no table is mapped there.
        unsafe { self.0.set_word(word, value) };
    }

    fn count(&self) {
        self.set(Self::DONE, self.0.word(Self::DONE) + 1);
    }
}

/// Where a victim may be killed.
#[derive(Clone, Copy)]
enum Manner {
    /// Anywhere, also inside a system call.
    Outright,
    /// Not between the two stores of a move, where a kill loses the page and makes the kernel print `Bad
    /// rss-counter`. A victim that is stopped there is continued.
    OutsideOfMove,
}

fn kill(context: &mut Context, victim: Victim, manner: Manner) -> Result<Verdict, Error> {
    let info = &context.info;
    let witness = Witness::begin()?;
    let range = Range::reserve(info).map_err(Error::call("mmap"))?;
    let journal = Journal(Page::writable(info).map_err(Error::call("mmap"))?);
    let mut random = Random::new(context.seed, 0);
    let (mut at_work, mut spared, mut ok) = (0, 0, true);
    for _round in 0..context.rounds {
        journal.set(Journal::BETWEEN, 0);
        journal.set(Journal::DONE, 0);
        // SAFETY: the child shares only the atomic words of the journal; everything else is a copy, or made
        // by the child.
        let child = unsafe { Fork::promised() }
            .spawn(|| {
                // It returns only on an error.
                if let Err(errno) = victim(info, &range, &journal) {
                    println!("# victim: {errno}");
                }
                ExitCode::FAILURE
            })
            .map_err(Error::call("fork"))?;
        wait_a_little(&journal, &mut random);
        if let Manner::OutsideOfMove = manner {
            spared += stop_outside_of_move(&child, &journal, &mut random)?;
        }
        at_work += u64::from(journal.0.word(Journal::DONE) > 0);
        process::kill(child.pid(), Signal::Kill).map_err(Error::call("kill"))?;
        let killed = Status::Killed(Signal::Kill as u8);
        ok &= child.wait().map_err(Error::call("wait"))? == killed;
    }
    println!(
        "# {} killed, {at_work} of them at work, {spared} times let go on",
        context.rounds
    );
    drop((range, journal));
    Ok((ok && at_work > 0 && witness.all_came_back()?).into())
}

/// Lets three of four victims reach their work, and then waits for up to some hundred microseconds.
fn wait_a_little(journal: &Journal, random: &mut Random) {
    let at_work = !random.one_in(4);
    // Bounded, in case an error has ended the victim.
    for _turn in 0..10_000_000 {
        if !at_work || journal.0.word(Journal::DONE) > 0 {
            break;
        }
        core::hint::spin_loop();
    }
    for _turn in 0..random.below(20_000) {
        core::hint::spin_loop();
    }
}

/// Stops the victim, and continues it while it is between the two stores. Returns how often that happened.
fn stop_outside_of_move(
    child: &Child,
    journal: &Journal,
    random: &mut Random,
) -> Result<u64, Error> {
    let mut spared = 0;
    loop {
        process::kill(child.pid(), Signal::Stop).map_err(Error::call("kill"))?;
        if !process::wait_until_stopped(child.pid()).map_err(Error::call("waitid"))? {
            println!("# the victim ended by itself");
            return Ok(spared);
        }
        if journal.0.word(Journal::BETWEEN) == 0 {
            return Ok(spared);
        }
        spared += 1;
        process::kill(child.pid(), Signal::Continue).map_err(Error::call("kill"))?;
        wait_a_little(journal, random);
    }
}

/// Maps tables of the caller and of its parent, again and again.
fn map_tables(info: &ExposePgtblInfo, range: &Range, journal: &Journal) -> Result<(), Errno> {
    let parent = process::parent_pid();
    range.map(range.part(0), range.page(), 0)?;
    range.touch(range.part(0));
    loop {
        for pid in [0, parent] {
            let page = Page::writable(info)?;
            // A table of its own, and one of the parent that always exists: that of the journal.
            let address = if pid == 0 {
                range.part(0)
            } else {
                journal.0.address()
            };
            let frame = page.map_address(pid, 3, address)?;
            page.map(pid, 3, frame)?;
            page.map(pid, 0, 0)?;
            let mut tables = [ExposePgtblTable::default()];
            // SAFETY: there is one page and one element.
            unsafe { page.map_range(pid, 3, &mut range_of(address, address + 1, &mut tables)) }?;
            journal.count();
        }
    }
}

/// Maps 64 tables and keeps them.
fn hold_tables(info: &ExposePgtblInfo, range: &Range, journal: &Journal) -> Result<(), Errno> {
    let parent = process::parent_pid();
    range.map(range.part(0), range.page(), 0)?;
    range.touch(range.part(0));
    let size = 64_usize << info.page_shift;
    let arena = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Shared)?;
    for slot in 0..64_u64 {
        let address = arena.address() + (slot << info.page_shift);
        let (pid, of) = match slot % 2 {
            0 => (0, range.part(0)),
            _ => (parent, journal.0.address()),
        };
        // SAFETY: pages of this process that nobody reads.
        unsafe { call(pid, address, of, 3 | EXPOSE_PGTBL_ADDR) }?;
        journal.count();
    }
    loop {
        core::hint::spin_loop();
    }
}

/// Moves the pages in the first half of a range to the second half and back.
fn move_entries(info: &ExposePgtblInfo, range: &Range, journal: &Journal) -> Result<(), Errno> {
    const PAGES: usize = 16;
    let start = range.part(0);
    range.map(start, 2 * PAGES as u64 * range.page(), 0)?;
    match range.advise(start, 2 * PAGES as u64 * range.page(), MADV_NOHUGEPAGE) {
        Err(Errno::EINVAL) | Ok(()) => {}
        Err(errno) => return Err(errno),
    }
    for page in 0..PAGES as u64 {
        range.touch(start + page * range.page());
    }
    let table = Page::writable(info)?;
    table.map_address(0, 3, start)?;
    // The part begins at the start of a table: its pages are entries 0 to 31.
    let (mut from, mut to) = (0, PAGES);
    loop {
        for page in 0..PAGES {
            journal.set(Journal::BETWEEN, 1);
            let descriptor = table.word(from + page);
            // SAFETY: an entry of this process, moved to an empty place of the same mapping.
            unsafe { table.set_word(from + page, 0) };
            // SAFETY: an entry of this process, moved to an empty place of the same mapping.
            unsafe { table.set_word(to + page, descriptor) };
            journal.set(Journal::BETWEEN, 0);
        }
        flush(0, start, 2 * PAGES as u64)?;
        range.touch(start + to as u64 * range.page());
        core::mem::swap(&mut from, &mut to);
        journal.count();
    }
}
