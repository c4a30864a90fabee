//! Tables that are mapped while their process changes them.

#![expect(unsafe_code, reason = "forks")]

use core::ffi::CStr;
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU64};

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::memory::write;
use tablewalk_rt::process::{Child, Fork, execute};
use tablewalk_rt::{ExitCode, println, thread};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::page::{Page, page_size, range};
use tablewalk_testkit::random::Random;
use tablewalk_testkit::witness::Witness;
use tablewalk_uapi::file::{self, O_WRONLY, OwnedFd};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::process::Status;
use tablewalk_uapi::remap::{ExposePgtblInfo, ExposePgtblPath, ExposePgtblTable, path};
use tablewalk_uapi::{Errno, Mapping, Sharing};

use crate::beside;
use crate::operations::{self, Range};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "tables of a process that exits",
        run: exit,
    },
    Case {
        name: "tables of a process that executes another program",
        run: exec,
    },
    Case {
        name: "tables of a process that unmaps",
        run: |context| race(context, operations::unmap),
    },
    Case {
        name: "tables of a process that populates and discards",
        run: |context| race(context, operations::populate),
    },
    Case {
        name: "tables of a process that moves them with mremap",
        run: |context| race(context, operations::shift),
    },
    Case {
        name: "PATH gives no entry of another address while mremap moves the table",
        run: path_of_moved,
    },
    Case {
        name: "KSM does not change entries of lent pages",
        run: beside::lent_beside_ksm,
    },
    Case {
        name: "NUMA balancing does not change entries of lent pages",
        run: beside::lent_beside_balancing,
    },
    Case {
        name: "FLUSH while the process starts virtual machines",
        run: beside::flush_beside_machines,
    },
    Case {
        name: "tables of a process that forks",
        run: |context| race(context, operations::fork),
    },
    Case {
        name: "tables of a process that collapses and splits huge pages",
        run: huge,
    },
    Case {
        name: "tables that are exchanged while a thread reads them",
        run: exchanged_beside_reader,
    },
    Case {
        name: "tables of a process that maps its own",
        run: |context| race(context, operations::look_at_itself),
    },
];

/// Fills memory under pressure. As an entry it would be a valid one of device memory, with a frame that does
/// not exist, so no table contains it.
const PATTERN: u64 = 0x5a5a_a5a5_5a5a_a5a7;

/// Number of callers that map the tables of one target at the same time.
const OBSERVERS: usize = 2;

/// Number of tables to map at once: the range has two.
const TOGETHER: usize = 2;

/// Number of mappings that an observer keeps while it makes the next one.
const HELD: usize = 8;

type Operation = fn(&Range, &ExposePgtblInfo) -> Result<(), Errno>;

/// PATH during a move: an entry without access belongs to the other address.
fn path_of_moved(context: &mut Context) -> Result<Verdict, Error> {
    const CALLS: u32 = 500;
    let info = &context.info;
    let range = empty_range(info)?;
    // SAFETY: the child maps and moves memory of its own.
    let target = unsafe { Fork::promised() }
        .spawn(|| {
            if let Err(errno) = operations::shift_and_hide(&range, info) {
                println!("# target: {errno}");
            }
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
    let (mut there, mut wrong) = (0, 0);
    for _ in 0..context.rounds.saturating_mul(CALLS) {
        let ExposePgtblPath {
            desc: [.., entry], ..
        } = path(target.pid(), range.part(0)).map_err(Error::call("PATH"))?;
        there += u32::from(entry & 1 != 0);
        wrong += u32::from(entry & 1 == 0 && entry != 0);
    }
    println!("# {there} paths to the page, {wrong} to an entry of another address");
    let running = target.is_running().map_err(Error::call("wait"))?;
    Ok((running && there > 0 && wrong == 0).into())
}

/// Returns a range with nothing mapped in its three parts.
fn empty_range(info: &ExposePgtblInfo) -> Result<Range, Error> {
    let range = Range::reserve(info).map_err(Error::call("mmap"))?;
    range
        .unmap(range.part(0), 3 * range.span())
        .map_err(Error::call("munmap"))?;
    Ok(range)
}

/// Starts a process that fills memory.
fn pressure() -> Result<Child, Error> {
    // SAFETY: the child uses memory that it maps itself.
    unsafe { Fork::promised() }
        .spawn(fill_memory)
        .map_err(Error::call("fork"))
}

/// The target repeats `operation` while others map its tables, and memory is filled and freed.
fn race(context: &mut Context, operation: Operation) -> Result<Verdict, Error> {
    let info = &context.info;
    let witness = Witness::begin()?;
    let range = empty_range(info)?;
    // SAFETY: the child uses its copy of memory, and maps tables of its own.
    let target = unsafe { Fork::promised() }
        .spawn(|| {
            loop {
                if let Err(errno) = operation(&range, info) {
                    println!("# target: {errno}");
                    return ExitCode::FAILURE;
                }
            }
        })
        .map_err(Error::call("fork"))?;
    let pressure = pressure()?;

    let rounds = context.rounds.div_ceil(2);
    let mut observers = [const { None }; OBSERVERS];
    for (number, observer) in (0..).zip(&mut observers) {
        let random = Random::new(context.seed, number);
        let watch = || Observer::new(info, &range, random).watch(target.pid(), rounds);
        // SAFETY: the child uses its copy of memory, and maps tables of its own.
        *observer = Some(
            unsafe { Fork::promised() }
                .spawn(watch)
                .map_err(Error::call("fork"))?,
        );
    }
    let mut ok = true;
    for observer in observers.into_iter().flatten() {
        ok &= observer.wait().map_err(Error::call("wait"))? == Status::Exited(0);
    }
    // A target that ended by itself had an error and has printed it.
    ok &= target.is_running().map_err(Error::call("wait"))?;
    ok &= pressure.is_running().map_err(Error::call("wait"))?;
    drop((target, pressure, range));
    Ok((ok & witness.all_came_back()?).into())
}

/// A thread reads a page while another exchanges the table in it for one that its process frees at once, so that
/// the table before is released and its frame is reused. A reader with a stale TLB entry would see the pattern.
fn exchanged_beside_reader(context: &mut Context) -> Result<Verdict, Error> {
    const EXCHANGES: u32 = 20;
    let info = &context.info;
    let witness = Witness::begin()?;
    let range = empty_range(info)?;
    let page = Page::read_only(info).map_err(Error::call("mmap"))?;
    let words = page_size(info) / 8;
    let rounds = context.rounds.saturating_mul(EXCHANGES);
    let pressure = pressure()?;
    // SAFETY: the child uses its copy of memory, and maps tables of its own.
    let both = unsafe { Fork::promised() }
        .spawn(|| {
            let (done, failed) = (AtomicBool::new(false), AtomicU64::new(0));
            let (exchanged, read) = (AtomicU64::new(0), AtomicU64::new(0));
            let threads = |number| {
                if number == 0 {
                    for _ in 0..rounds {
                        if let Err(errno) = operations::exchange(&range, &page) {
                            println!("# exchange: {errno}");
                            failed.fetch_add(1, Relaxed);
                            break;
                        }
                        exchanged.fetch_add(1, Relaxed);
                    }
                    done.store(true, Relaxed);
                    return;
                }
                while !done.load(Relaxed) {
                    // Invalid, a table or a page: all of the pattern's other bits cannot be in an entry.
                    let wrong = (0..words).filter(|&index| page.word(index) == PATTERN);
                    failed.fetch_add(wrong.count() as u64, Relaxed);
                    read.fetch_add(1, Relaxed);
                }
            };
            let ran = page.map(0, 0, 0).and_then(|_| thread::run_all(2, &threads));
            let (failed, read) = (failed.into_inner(), read.into_inner());
            println!(
                "# {} exchanges, read {read} times, {failed} wrong",
                exchanged.into_inner()
            );
            if ran.is_ok() && failed == 0 && read > 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        })
        .map_err(Error::call("fork"))?;
    let mut ok = both.wait().map_err(Error::call("wait"))? == Status::Exited(0);
    ok &= pressure.is_running().map_err(Error::call("wait"))?;
    drop((pressure, range, page));
    Ok((ok & witness.all_came_back()?).into())
}

fn huge(context: &mut Context) -> Result<Verdict, Error> {
    // With 64K pages, 512 MiB is more memory than there may be.
    if context.info.page_shift == 16 {
        return Ok(Verdict::Skip("a huge page takes 512 MiB here"));
    }
    match file::open(c"/sys/kernel/mm/transparent_hugepage/enabled", 0) {
        Ok(_) => race(context, operations::huge),
        Err(_) => Ok(Verdict::Skip("no transparent huge pages")),
    }
}

/// Allocates memory, fills it with the pattern and frees it, for ever, so that freed tables are soon reused.
fn fill_memory() -> ExitCode {
    const SIZE: usize = 4 << 20;
    loop {
        let Ok(memory) = Mapping::anonymous(SIZE, Protection::READ_WRITE, Sharing::Private) else {
            return ExitCode::FAILURE;
        };
        if memory.base_pages_only().is_err() {
            return ExitCode::FAILURE;
        }
        for offset in (0..SIZE).step_by(8) {
            write(&memory, offset, PATTERN);
        }
    }
}

/// Maps tables of a process that changes them, keeps some mapped, and reads them all the time.
struct Observer<'a> {
    info: &'a ExposePgtblInfo,
    range: &'a Range,
    random: Random,
    held: [Option<Page>; HELD],
    /// Frame numbers and levels of tables that existed at some time.
    seen: [(u32, u64); HELD],
    mapped: u64,
    absent: u64,
    wrong: u64,
}

impl<'a> Observer<'a> {
    fn new(info: &'a ExposePgtblInfo, range: &'a Range, random: Random) -> Self {
        Self {
            info,
            range,
            random,
            held: [const { None }; HELD],
            seen: [(3, 0); HELD],
            mapped: 0,
            absent: 0,
            wrong: 0,
        }
    }

    /// Observes process `pid` for `rounds` rounds.
    fn watch(mut self, pid: i32, rounds: u32) -> ExitCode {
        for _round in 0..rounds {
            if let Err(errno) = self.look(pid) {
                println!("# observer: {errno}");
                return ExitCode::FAILURE;
            }
        }
        let (mapped, absent, wrong) = (self.mapped, self.absent, self.wrong);
        println!("# {mapped} tables mapped, {absent} not there, {wrong} wrong");
        if wrong == 0 && mapped > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Maps one table, by one of several forms, and checks its contents and those of another table that is
    /// still mapped. Returns whether the process exists.
    fn look(&mut self, pid: i32) -> Result<bool, Errno> {
        let protection = if self.random.one_in(2) {
            Protection::READ
        } else {
            Protection::READ_WRITE
        };
        let page = Page::several(self.info, protection, TOGETHER)?;
        let address = self.range.part(self.random.below(2));
        let outcome = match self.random.below(5) {
            0 | 1 => {
                let level = self.random_level();
                page.map_address(pid, level, address)
                    .map(|frame| (level, frame))
            }
            2 => match path(pid, address) {
                Ok(path) => self.map_random_table_of(&page, pid, &path),
                Err(errno) => Err(errno),
            },
            3 => self.map_all(&page, pid),
            _ => {
                let (level, frame) = self.random.pick(&self.seen);
                page.map(pid, level, frame).map(|frame| (level, frame))
            }
        };
        let slot = usize::try_from(self.random.below(HELD as u64)).unwrap_or(0);
        if let Some(Some(held)) = self.held.get(slot) {
            self.wrong += recycled(held);
        }
        match outcome {
            Ok((level, frame)) => {
                self.mapped += 1;
                self.wrong += recycled(&page);
                if level != 0
                    && let Some(seen) = self.seen.get_mut(slot)
                {
                    *seen = (level, frame);
                }
                if let Some(held) = self.held.get_mut(slot) {
                    *held = Some(page);
                }
                Ok(true)
            }
            Err(Errno::ENOENT) => {
                self.absent += 1;
                Ok(true)
            }
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Returns 0, the root, or a level below it.
    fn random_level(&mut self) -> u32 {
        let below = u64::from(self.info.levels) - 1;
        match u32::try_from(self.random.below(below + 1)) {
            Ok(0) | Err(_) => 0,
            Ok(steps) => 4 - steps,
        }
    }

    /// Maps one of the tables in `path`, by frame number.
    fn map_random_table_of(
        &mut self,
        page: &Page,
        pid: i32,
        path: &ExposePgtblPath,
    ) -> Result<(u32, u64), Errno> {
        // A descriptor above the last level leads to a table of the next one.
        let tables = u64::from(path.last_level - path.root_level);
        let above = path.root_level + u32::try_from(self.random.below(tables)).unwrap_or(0);
        let descriptor = path.desc.get(above as usize).copied().unwrap_or(0);
        if tables == 0 {
            return Err(Errno::ENOENT);
        }
        let frame = frame_of(self.info, descriptor);
        page.map(pid, above + 1, frame)
            .map(|frame| (above + 1, frame))
    }

    /// Maps all tables of the range at once. Returns the first.
    fn map_all(&self, page: &Page, pid: i32) -> Result<(u32, u64), Errno> {
        let mut tables = [ExposePgtblTable::default(); TOGETHER];
        let mut asked = range(self.range.part(0), self.range.part(2), &mut tables);
        // SAFETY: as many pages as elements: `page` has `TOGETHER` pages.
        unsafe { page.map_range(pid, 3, &mut asked) }?;
        match tables {
            [first, ..] if asked.count > 0 => Ok((3, frame_of(self.info, first.desc))),
            _ => Err(Errno::ENOENT),
        }
    }

    /// After the end of the process: returns whether every table that is still mapped is empty.
    fn all_empty(&self) -> bool {
        let words = self.held.iter().flatten().map(Page::words_in_use);
        words.sum::<u64>() == 0
    }
}

/// Returns the frame number in a table descriptor: bits 47:page_shift, and with 52-bit output addresses bits
/// 15:12 as bits 51:48 (Arm ARM, "VMSAv8-64 translation table format descriptors").
pub(crate) fn frame_of(info: &ExposePgtblInfo, descriptor: u64) -> u64 {
    let low = descriptor & (((1 << 48) - 1) & !((1 << info.page_shift) - 1));
    let high = if info.oa_bits == 52 {
        (descriptor >> 12 & 0xf) << 48
    } else {
        0
    };
    (high | low) >> info.page_shift
}

/// Counts words of `page` that do not belong to a table: the frame was reused.
fn recycled(page: &Page) -> u64 {
    let words = page.size() / 8;
    let recycled = (0..words).filter(|&index| page.word(index) == PATTERN);
    let count = recycled.count() as u64;
    if count > 0 {
        println!("# a mapped table shows {count} words that a process has written");
    }
    count
}

/// Starts a new process in each round, and maps its tables until it has ended.
fn rounds_of(
    context: &mut Context,
    body: fn(&Range, &ExposePgtblInfo) -> ExitCode,
) -> Result<Verdict, Error> {
    let info = &context.info;
    let witness = Witness::begin()?;
    let range = Range::reserve(info).map_err(Error::call("mmap"))?;
    let pressure = pressure()?;
    let (mut mapped, mut wrong) = (0, 0);
    for round in 0..context.rounds {
        let mut observer = Observer::new(info, &range, Random::new(context.seed, round.into()));
        // SAFETY: the child uses its copy of memory, and maps tables of its own.
        let target = unsafe { Fork::promised() }
            .spawn(|| body(&range, info))
            .map_err(Error::call("fork"))?;
        while observer
            .look(target.pid())
            .map_err(Error::call("remap_page_table"))?
        {}
        target.wait().map_err(Error::call("wait"))?;
        mapped += observer.mapped;
        wrong += observer.wrong;
        if !observer.all_empty() {
            println!("# round {round}: a table of a process that is gone is not empty");
            wrong += 1;
        }
    }
    println!("# {mapped} tables mapped in {} rounds", context.rounds);
    drop((pressure, range));
    Ok((mapped > 0 && wrong == 0 && witness.all_came_back()?).into())
}

fn touch_and_exit(range: &Range, _: &ExposePgtblInfo) -> ExitCode {
    for part in 0..2 {
        if range.map(range.part(part), range.page(), 0).is_err() {
            return ExitCode::FAILURE;
        }
        range.touch(range.part(part));
    }
    ExitCode::SUCCESS
}

fn exit(context: &mut Context) -> Result<Verdict, Error> {
    rounds_of(context, touch_and_exit)
}

fn exec(context: &mut Context) -> Result<Verdict, Error> {
    const ITSELF: &CStr = c"/proc/self/exe";
    rounds_of(context, |range, info| {
        touch_and_exit(range, info);
        // Discard the output of the new program.
        if let Ok(null) = file::open(c"/dev/null", O_WRONLY) {
            // SAFETY: no value owns standard output.
            let mut output = ManuallyDrop::new(unsafe { OwnedFd::from_number(1) });
            let _ = file::duplicate_to(&null, &mut output);
            let _ = execute(ITSELF, &[ITSELF, c"--help"]);
        }
        ExitCode::FAILURE
    })
}
