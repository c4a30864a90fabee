//! `checkpoint`: an example of an incremental checkpointer.
//!
//! It saves what a process writes while that goes on: all of its memory first, and in each round what has
//! been written since the one before. The last round is short, and the process is stopped for that one
//! only. The memory is rebuilt from the increments, and compared with that of the process.

#![expect(unsafe_code, reason = "forks")]
#![no_std]
#![cfg_attr(not(test), no_main)]

use core::time::Duration;

use heapless::{CString, Vec};
use tablewalk_bins::error::Error;
use tablewalk_bins::lines::{for_each_line, parse_number, parse_range};
use tablewalk_bins::memory::{room, write};
use tablewalk_bins::only_tracker::OnlyTracker;
use tablewalk_bins::pagemap::proc_path;
use tablewalk_bins::random::Random;
use tablewalk_bins::swap::Swap;
use tablewalk_bins::{cli, prerequisite};
use tablewalk_dirty::{Blocks, DirtyError, Options, Run, Tracker, What};
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{Args, ExitCode, println};
use tablewalk_uapi::file::{self, O_RDONLY, OwnedFd};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::poll::{Events, PollFd, poll};
use tablewalk_uapi::process::{self, kill, read_memory};
use tablewalk_uapi::signal::{self, Signal};
use tablewalk_uapi::track::EXPOSE_PGTBL_TRACK;
use tablewalk_uapi::{Errno, Mapping, Sharing, time};
use tablewalk_walker::VirtualAddress;

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: checkpoint [--rounds N] [--interval MS] [PID]
Saves the memory that process PID can write to a file without a name in /tmp, while it
runs: all of it, then in each round what was written since. Stops it for the last
round, rebuilds its memory from the increments, compares the two byte for byte, and
lets it go on, also if it is killed itself.
One checkpoint or `pt dirty` at a time for a process: it refuses if /proc shows another.
Without PID, processes of its own that write, discard and move their memory.
  --rounds N     rounds before the last (20)
  --interval MS  time between them (10)
Prints KTAP. Needs a kernel with remap_page_table and its form TRACK, /proc, and root.";

const OTHER: &[Case<Plan, Error>] = &[Case {
    name: "the memory rebuilt from the increments is that of the process",
    run: |plan| {
        let pid = plan.pid;
        plan.save(pid)
    },
}];

const OWN: &[Case<Plan, Error>] = &[
    Case {
        name: "the memory rebuilt from the increments is that of the process",
        run: |plan| plan.save_own(false),
    },
    Case {
        name: "the same while its pages go to swap and come back",
        run: |plan| plan.save_own(true),
    },
    Case {
        name: "a process that another program tracks is refused until that has ended",
        run: |_| tracked_twice(),
    },
    Case {
        name: "a process that was stopped goes on when the checkpointer is killed",
        run: |_| killed_while_stopped(),
    },
];

/// Mappings of a process at most.
const MAPPINGS: usize = 256;
/// Bytes that are copied at a time.
const CHUNK: usize = 32 << 10;

struct Plan {
    rounds: u32,
    interval: Duration,
    pid: i32,
}

fn main(mut args: Args) -> ExitCode {
    let mut plan = Plan {
        rounds: 20,
        interval: Duration::from_millis(10),
        pid: 0,
    };
    if let Err(status) = parse(&mut plan, &mut args) {
        return status;
    }
    match prerequisite::info("checkpoint") {
        Ok(info) if info.flags & EXPOSE_PGTBL_TRACK == 0 => {
            println!("KTAP version 1\n1..0 # SKIP this kernel does not track (TRACK)");
            ExitCode::SKIP
        }
        Ok(_) if plan.pid == 0 => ktap::run(&mut plan, &[OWN]),
        Ok(_) => ktap::run(&mut plan, &[OTHER]),
        Err(status) => status,
    }
}

fn parse(plan: &mut Plan, args: &mut Args) -> Result<(), ExitCode> {
    while let Some(argument) = cli::next(args, HELP)? {
        match argument {
            "--rounds" => plan.rounds = cli::number(args, HELP, argument, 1_000_000)?,
            "--interval" => {
                let milliseconds = cli::number(args, HELP, argument, 1_000_000)?;
                plan.interval = Duration::from_millis(milliseconds.into());
            }
            _ => match parse_number(argument.as_bytes(), 10).and_then(|pid| pid.try_into().ok()) {
                Some(pid) if pid != 0 && pid != process::pid() => plan.pid = pid,
                _ => return Err(cli::unknown(args, argument)),
            },
        }
    }
    Ok(())
}

impl Plan {
    fn save_own(&self, swapped: bool) -> Result<Verdict, Error> {
        let swap = if swapped { Swap::on() } else { None };
        if swapped && swap.is_none() {
            return Ok(Verdict::Skip("no swap area"));
        }
        let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
        // SAFETY: the child has a copy of memory, pipes, and what it makes itself.
        let child = unsafe { Fork::promised() }
            .spawn(|| match subject(swapped, &writer) {
                Ok(()) => ExitCode::SUCCESS,
                Err(errno) => {
                    println!("# subject: {errno}");
                    ExitCode::FAILURE
                }
            })
            .map_err(Error::call("fork"))?;
        // Only the child has one now, so that its end is seen.
        drop(writer);
        if file::read(&reader, &mut [0]).map_err(Error::call("pipe"))? == 0 {
            return Err(Error::Call("subject", Errno::ECHILD));
        }
        self.save(child.pid())
    }

    fn save(&self, pid: i32) -> Result<Verdict, Error> {
        let mut checkpoint = Checkpoint::create(pid)?;
        let only = only_tracker(pid)?;
        let first = checkpoint.round(true)?;
        for _ in 1..self.rounds {
            // Not woken before: there is no signal handler.
            let _ = time::sleep(self.interval);
            checkpoint.round(false)?;
            only.check().map_err(Error::call(TRACKED))?;
        }
        let increments = checkpoint.saved - first;
        let _stopped = Stopped::stop(pid)?;
        let last = checkpoint.round(false)?;
        println!(
            "# saved: all {} KiB, then {} KiB in {} rounds, {} KiB while stopped",
            first >> 10,
            increments >> 10,
            self.rounds - 1,
            last >> 10
        );
        Ok((checkpoint.compare()? && first > 0).into())
    }
}

/// What was being done when another tracker was found.
const TRACKED: &str = "another pt or checkpoint may track the process";

/// That the caller is the only one to track the process, as far as can be seen.
fn only_tracker(pid: i32) -> Result<OnlyTracker, Error> {
    let only = OnlyTracker::announce(pid, What::Written).map_err(Error::call("process"))?;
    only.check().map_err(Error::call(TRACKED))?;
    Ok(only)
}

/// A process that is stopped, and goes on when this is dropped or the caller ends, however it does.
struct Stopped {
    pid: i32,
    /// Waits for the end of the caller. Killed when this is dropped.
    _guard: Child,
}

impl Stopped {
    /// Stops a process.
    fn stop(pid: i32) -> Result<Self, Error> {
        let own = process::pidfd_open(process::pid()).map_err(Error::call("pidfd_open"))?;
        // SAFETY: the child uses a descriptor and a number.
        let guard = unsafe { Fork::promised() }
            .spawn(|| match guard(pid, &own) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            })
            .map_err(Error::call("fork"))?;
        let stopped = Self { pid, _guard: guard };
        stop(pid)?;
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // One that is no more needs nothing.
        let _ = kill(self.pid, Signal::Continue);
    }
}

/// Lets the process go on when the one of `parent` ends.
fn guard(pid: i32, parent: &OwnedFd) -> Result<(), Errno> {
    // It outlives its parent, and the Ctrl-C that ends that: SIGCONT does nothing to one that runs.
    signal::block(&[Signal::Hangup, Signal::Interrupt, Signal::Term])?;
    process::set_parent_death_signal(Signal::Continue)?;
    process::set_thread_name(b"guard\0\0\0\0\0\0\0\0\0\0\0")?;
    poll(&mut [PollFd::new(parent, Events::READABLE)], None)?;
    kill(pid, Signal::Continue)
}

/// Stops a process; its threads are stopped when `/proc` says so.
fn stop(pid: i32) -> Result<(), Error> {
    kill(pid, Signal::Stop).map_err(Error::call("SIGSTOP"))?;
    while !is_stopped(pid)? {
        process::yield_now();
    }
    Ok(())
}

/// Whether the process is stopped, as `/proc` says it.
fn is_stopped(pid: i32) -> Result<bool, Error> {
    let path = proc_path(pid, "status").map_err(Error::call("/proc"))?;
    let (mut stopped, mut ended) = (false, false);
    for_each_line(&path, &mut |line| {
        stopped |= line.starts_with(b"State:\tT");
        ended |= line.starts_with(b"State:\tZ") || line.starts_with(b"State:\tX");
        Ok(())
    })
    .map_err(Error::call("/proc/PID/status"))?;
    if ended {
        return Err(Error::Call("process has ended", Errno::ESRCH));
    }
    Ok(stopped)
}

/// A mapping that can be written.
#[derive(Clone, Copy)]
struct Area {
    start: u64,
    end: u64,
    /// What is not there is what the file holds, not zeros.
    of_file: bool,
}

/// What stands before the bytes of some pages: where they are, and how many; whether they follow, or
/// are zeros.
#[derive(Clone, Copy)]
struct Record {
    start: u64,
    size: u64,
    zeros: bool,
}

impl Record {
    const SIZE: usize = 24;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let words = [self.start, self.size, u64::from(self.zeros)];
        let mut bytes = [0; Self::SIZE];
        let (chunks, _) = bytes.as_chunks_mut::<8>();
        for (chunk, word) in chunks.iter_mut().zip(words) {
            *chunk = word.to_ne_bytes();
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let (chunks, _) = bytes.as_chunks::<8>();
        let mut words = chunks.iter().map(|chunk| u64::from_ne_bytes(*chunk));
        let mut next = || words.next().unwrap_or(0);
        Self {
            start: next(),
            size: next(),
            zeros: next() != 0,
        }
    }
}

struct Checkpoint {
    pid: i32,
    file: OwnedFd,
    saved: u64,
}

impl Checkpoint {
    fn create(pid: i32) -> Result<Self, Error> {
        Ok(Self {
            pid,
            file: file::create_unnamed(c"/tmp", 0o600).map_err(Error::call("a file in /tmp"))?,
            saved: 0,
        })
    }

    /// The mappings of the process that can be read and written.
    fn areas(&self) -> Result<Vec<Area, MAPPINGS>, Error> {
        let mut areas = Vec::new();
        let path = proc_path(self.pid, "maps").map_err(Error::call("/proc"))?;
        for_each_line(&path, &mut |line| {
            let (start, end) = parse_range(line).ok_or(Errno::EINVAL)?;
            let mut fields = line.split(|&byte| byte == b' ');
            let writable = fields.nth(1).is_some_and(|word| word.starts_with(b"rw"));
            let of_file = fields.nth(2).is_some_and(|inode| inode != b"0");
            let area = Area {
                start,
                end,
                of_file,
            };
            if writable {
                areas.push(area).map_err(|_| Errno::ENOMEM)?;
            }
            Ok(())
        })
        .map_err(Error::call("/proc/PID/maps"))?;
        Ok(areas)
    }

    /// Saves what was written since the last round, or all of it; how many bytes.
    fn round(&mut self, all: bool) -> Result<u64, Error> {
        let before = self.saved;
        let options = Options {
            blocks: Blocks::Split,
            absent: true,
            ..Options::WRITTEN
        };
        for area in self.areas()? {
            let range = VirtualAddress(area.start)..VirtualAddress(area.end);
            let tracker = Tracker::new(self.pid, range, options);
            let mut result = Ok(());
            // Without a mark, a page is told.
            let begun = if all { tracker.stop() } else { Ok(()) };
            let told = begun.and_then(|()| {
                tracker.collect(|run| {
                    if result.is_ok() {
                        result = self.save(&area, &run);
                    }
                })
            });
            match told {
                // The process has unmapped it, or it is of a kind that cannot be tracked.
                Err(DirtyError::Track {
                    errno: Errno::EINVAL,
                    ..
                }) => {}
                told => told?,
            }
            result?;
        }
        Ok(self.saved - before)
    }

    fn save(&mut self, area: &Area, run: &Run) -> Result<(), Error> {
        let zeros = run.why.is_absent() && !area.of_file;
        if zeros {
            return self.append(run.start.0, run.end.0 - run.start.0, None);
        }
        let mut start = run.start.0;
        let mut buffer = [0; CHUNK];
        while start < run.end.0 {
            let size = usize::try_from(run.end.0 - start)
                .unwrap_or(CHUNK)
                .min(CHUNK);
            let bytes = buffer.get_mut(..size).unwrap_or_default();
            match read_memory(self.pid, start, bytes) {
                Ok(read) if read == size => self.append(start, size as u64, Some(bytes))?,
                // The process has unmapped it: it is in none of its mappings then.
                Ok(_) | Err(Errno::EFAULT) => return Ok(()),
                Err(errno) => return Err(Error::Call("process_vm_readv", errno)),
            }
            start += size as u64;
        }
        Ok(())
    }

    fn append(&mut self, start: u64, size: u64, bytes: Option<&[u8]>) -> Result<(), Error> {
        let record = Record {
            start,
            size,
            zeros: bytes.is_none(),
        };
        for part in [&record.to_bytes()[..], bytes.unwrap_or_default()] {
            let written = file::write(&self.file, part).map_err(Error::call("the file in /tmp"))?;
            if written != part.len() {
                return Err(Error::Call("the file in /tmp", Errno::ENOSPC));
            }
            self.saved += written as u64;
        }
        Ok(())
    }

    /// Rebuilds each mapping that there is now from the file, and compares it with what it holds.
    fn compare(&self) -> Result<bool, Error> {
        let (mut bytes, mut wrong) = (0, 0);
        for area in self.areas()? {
            let range = VirtualAddress(area.start)..VirtualAddress(area.end);
            if Tracker::new(self.pid, range, Options::WRITTEN)
                .stop()
                .is_err()
            {
                continue;
            }
            let size = usize::try_from(area.end - area.start).unwrap_or(0);
            let image = room(size).map_err(Error::call("mmap"))?;
            rebuild(&self.file, &area, image)?;
            bytes += image.len();
            wrong += self.differences(&area, image)?;
        }
        println!("# {bytes} bytes compared, {wrong} differ");
        Ok(wrong == 0 && bytes > 0)
    }

    fn differences(&self, area: &Area, image: &[u8]) -> Result<usize, Error> {
        let mut buffer = [0; CHUNK];
        let mut wrong = 0;
        let mut address = area.start;
        for part in image.chunks(CHUNK) {
            let bytes = buffer.get_mut(..part.len()).unwrap_or_default();
            let read =
                read_memory(self.pid, address, bytes).map_err(Error::call("process_vm_readv"))?;
            wrong += part.len() - read;
            let differ = part.iter().zip(&*bytes).filter(|(one, other)| one != other);
            let differ = differ.count();
            if differ > 0 && wrong == 0 {
                println!("# {differ} bytes differ from {address:#x} on");
            }
            wrong += differ;
            address += part.len() as u64;
        }
        Ok(wrong)
    }
}

/// Fills `image` with what the records say of `area`, the later the better.
fn rebuild(file: &OwnedFd, area: &Area, image: &mut [u8]) -> Result<(), Error> {
    let mut offset = 0;
    let mut header = [0; Record::SIZE];
    loop {
        let read = file::pread(file, &mut header, offset).map_err(Error::call("pread"))?;
        if read != Record::SIZE {
            return Ok(());
        }
        let record = Record::from_bytes(&header);
        offset += Record::SIZE as u64;
        let start = record.start.max(area.start);
        let end = (record.start + record.size).min(area.end);
        if start < end {
            let at = |address: u64| usize::try_from(address - area.start).unwrap_or(0);
            let part = image.get_mut(at(start)..at(end)).unwrap_or_default();
            if record.zeros {
                part.fill(0);
            } else {
                let read = file::pread(file, part, offset + (start - record.start))
                    .map_err(Error::call("pread"))?;
                if read != part.len() {
                    return Err(Error::Call("the file in /tmp", Errno::ENODATA));
                }
            }
        }
        offset += if record.zeros { 0 } else { record.size };
    }
}

/// Memory of each kind, which is written, discarded, moved, and swapped out, until it is stopped.
fn subject(swapped: bool, ready: &OwnedFd) -> Result<(), Errno> {
    const SIZE: usize = 4 << 20;
    let private = |size| Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Private);
    let base = private(SIZE)?;
    base.base_pages_only()?;
    let huge = private(2 * SIZE)?;
    let shared = Mapping::anonymous(SIZE / 4, Protection::READ_WRITE, Sharing::Shared)?;
    let mut moving = private(SIZE / 4)?;
    // Not larger than the file.
    let file = file::open(c"/proc/self/exe", O_RDONLY)?;
    let of_file = Mapping::file(&file, 0, 16 << 10, Protection::READ_WRITE, Sharing::Private)?;
    let _of_long_path = of_long_path()?;
    // Some of it, so that the rest is absent.
    for mapping in [&base, &huge, &shared, &moving] {
        for offset in (0..mapping.size() / 2).step_by(4096) {
            write(mapping, offset, offset as u64);
        }
    }
    file::write(ready, b".")?;
    let mut random = Random::new(1, 0);
    let mut below = move |end: usize| usize::try_from(random.below(end as u64)).unwrap_or(0);
    loop {
        for mapping in [&base, &huge, &shared, &moving, &of_file] {
            for _ in 0..below(8) {
                let value = below(1 << 30) as u64;
                write(mapping, below(mapping.size() / 8) * 8, value);
            }
        }
        let page = 64 << 10;
        let first = below(SIZE / page - 1) * page;
        match below(16) {
            0 => base.advise(first..first + page, Advice::DontNeed)?,
            1 if swapped => base.advise(first..first + page, Advice::PageOut)?,
            2 => {
                let target = private(SIZE / 4)?;
                moving = moving.move_onto(target)?;
            }
            _ => time::sleep(Duration::from_micros(500))?,
        }
    }
}

/// A mapping of a file whose path, in `/proc/PID/maps`, is longer than a line that is read at once.
fn of_long_path() -> Result<Mapping, Errno> {
    const FOLDERS: usize = 5;
    let mut path = CString::<2048>::new();
    let mut lengths = [0; FOLDERS];
    let add = |path: &mut CString<2048>, bytes: &[u8]| {
        let added = path.extend_from_bytes(bytes);
        added.map_err(|_| Errno::ENAMETOOLONG)
    };
    add(&mut path, b"/tmp")?;
    for length in &mut lengths {
        add(&mut path, b"/")?;
        add(&mut path, &[b'x'; 250])?;
        file::make_folder(&path, 0o700)?;
        *length = path.as_bytes().len();
    }
    let mut file = path.clone();
    add(&mut file, b"/file")?;
    file::write(&file::create(&file, 0o600)?, &[1; 4096])?;
    let fd = file::open(&file, O_RDONLY)?;
    let mapping = Mapping::file(&fd, 0, 4096, Protection::READ_WRITE, Sharing::Private)?;
    // The mapping keeps the path.
    file::remove(&file)?;
    for &length in lengths.iter().rev() {
        let mut folder = CString::<2048>::new();
        add(
            &mut folder,
            path.as_bytes().get(..length).unwrap_or_default(),
        )?;
        file::remove_folder(&folder)?;
    }
    Ok(mapping)
}

/// A process that does nothing until it is killed.
fn idler() -> Result<Child, Error> {
    // SAFETY: the child uses nothing of its parent's.
    unsafe { Fork::promised() }
        .spawn(|| {
            loop {
                signal::pause();
            }
        })
        .map_err(Error::call("fork"))
}

/// Two trackers of one process: the second is refused while the first is there.
fn tracked_twice() -> Result<Verdict, Error> {
    let idler = idler()?;
    let pid = idler.pid();
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    // SAFETY: the child uses a number and a pipe.
    let first = unsafe { Fork::promised() }
        .spawn(|| {
            let only = OnlyTracker::announce(pid, What::Written);
            if only.is_ok() && file::write(&writer, b".").is_ok() {
                signal::pause();
            }
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
    drop(writer);
    file::read(&reader, &mut [0]).map_err(Error::call("pipe"))?;
    let call = Error::call("announce");
    let second = OnlyTracker::announce(pid, What::Written).map_err(&call)?;
    let refused = second.check() == Err(Errno::EBUSY);
    // What is accessed is another thing, and so is another process.
    drop(second);
    let accessed = OnlyTracker::announce(pid, What::Accessed)
        .map_err(&call)?
        .check();
    let other = OnlyTracker::announce(0, What::Written)
        .map_err(&call)?
        .check();
    // Ended, and not waited for: a zombie tracks nothing.
    kill(first.pid(), Signal::Kill).map_err(Error::call("kill"))?;
    process::wait_without_reaping(first.pid()).map_err(Error::call("wait"))?;
    let alone = OnlyTracker::announce(pid, What::Written)
        .map_err(&call)?
        .check();
    println!("# refused {refused}, accessed {accessed:?}, other {other:?}, alone {alone:?}");
    Ok((refused && [accessed, other, alone] == [Ok(()); 3]).into())
}

/// A checkpointer is killed while its process is stopped.
fn killed_while_stopped() -> Result<Verdict, Error> {
    let idler = idler()?;
    let pid = idler.pid();
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    // SAFETY: the child uses a number and a pipe.
    let checkpointer = unsafe { Fork::promised() }
        .spawn(|| {
            let stopped = Stopped::stop(pid);
            if stopped.is_ok() && file::write(&writer, b".").is_ok() {
                signal::pause();
            }
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
    drop(writer);
    if file::read(&reader, &mut [0]).map_err(Error::call("pipe"))? == 0 {
        return Err(Error::Call("stop", Errno::ECHILD));
    }
    let before = is_stopped(pid)?;
    kill(checkpointer.pid(), Signal::Kill).map_err(Error::call("kill"))?;
    while is_stopped(pid)? {
        process::yield_now();
    }
    Ok(before.into())
}
