//! I/O that writes pages through references, while another process maps and unmaps them and they are tracked.
//!
//! In each round, a read from the device takes references to the pages first, and writes the pages one after
//! the other. `collect` runs twice: once during the read, and once after it. A page whose first word has
//! changed in between was written in between, so the second `collect` must report it.

#![expect(
    unsafe_code,
    reason = "forks, and reads a device into memory of its own"
)]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tablewalk_dirty::{Options, Tracker};
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::memory::{leak_zeroed_words, read, write};
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{ExitCode, println, thread};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::random::Random;
use tablewalk_testkit::swap::AREA;
use tablewalk_uapi::file::{self, O_RDWR, OwnedFd};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::raw::{self, constants};
use tablewalk_uapi::{Errno, Mapping, Sharing, process};

use crate::reported::range;
use crate::{Test, Tracked};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "I/O into shared memory that others map and unmap: no write is missed",
        run: |tracked| run(tracked, Sharing::Shared),
    },
    Case {
        name: "I/O into private memory",
        run: |tracked| run(tracked, Sharing::Private),
    },
];

/// Bytes that one read from the device writes.
const SIZE: usize = 512 << 10;
/// Maximum number of pages of these bytes.
const PIECES: usize = SIZE >> 12;
/// Number of pictures of the memory on the device, one after the other.
const PICTURES: u64 = 7;

/// Pages that a device writes.
struct Disk {
    fd: OwnedFd,
    memory: Mapping,
    page: usize,
    /// Numbers of reads that were requested, that have begun, and that have finished.
    started: AtomicU64,
    begun: AtomicU64,
    done: AtomicU64,
    ended: AtomicBool,
}

impl Disk {
    fn new(fd: OwnedFd, page: usize, sharing: Sharing) -> Result<Self, Error> {
        let memory = Mapping::anonymous(SIZE, Protection::READ_WRITE, sharing)
            .map_err(Error::call("mmap"))?;
        memory
            .base_pages_only()
            .map_err(Error::call("MADV_NOHUGEPAGE"))?;
        let disk = Self {
            fd,
            memory,
            page,
            started: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            done: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        };
        for picture in 0..PICTURES {
            for number in 0..disk.pages() {
                write(&disk.memory, number * page, picture + 1);
            }
            disk.transfer(constants::__NR_pwritev, 0, picture)
                .map_err(Error::call("pwritev"))?;
        }
        Ok(disk)
    }

    const fn pages(&self) -> usize {
        SIZE / self.page
    }

    /// Reads or writes the pages of a picture, starting with page `first`, by `O_DIRECT`. The last page comes
    /// first, so that a scan in address order meets the transfer in the middle.
    fn transfer(&self, number: u32, first: usize, picture: u64) -> Result<(), Errno> {
        let mut pieces = heapless::Vec::<[u64; 2], PIECES>::new();
        for page in (first..self.pages()).rev() {
            let address = self.memory.address() + (page * self.page) as u64;
            // There is room for all pages.
            let _room = pieces.push([address, self.page as u64]);
        }
        let arguments = [
            self.fd.number().cast_unsigned().into(),
            pieces.as_ptr().expose_provenance() as u64,
            pieces.len() as u64,
            picture * SIZE as u64,
            0,
            0,
        ];
        // SAFETY: pieces of the mapping, which is accessed only as single words.
        unsafe { raw::call(number, arguments) }.map(drop)
    }

    /// Makes one read in each round, as soon as the round begins.
    fn write(&self, seed: u64) {
        let mut random = Random::new(seed, 1);
        let mut done = 0;
        while !self.ended.load(Ordering::Acquire) {
            if self.started.load(Ordering::Acquire) == done {
                process::yield_now();
                continue;
            }
            let first = usize::try_from(random.below(self.pages() as u64)).unwrap_or(0);
            self.begun.store(done + 1, Ordering::Release);
            spin(&mut random);
            if let Err(errno) = self.transfer(constants::__NR_preadv, first, done % PICTURES) {
                println!("# O_DIRECT: {errno}");
            }
            done += 1;
            self.done.store(done, Ordering::Release);
        }
    }

    /// Waits until the count `reads` reaches the number of requested reads.
    fn wait(&self, reads: &AtomicU64) {
        while reads.load(Ordering::Acquire) != self.started.load(Ordering::Acquire) {
            process::yield_now();
        }
    }

    /// Copies the first word of each page.
    fn words(&self, to: &mut [u64]) {
        for (number, word) in to.iter_mut().enumerate() {
            *word = read(&self.memory, number * self.page);
        }
    }

    /// Makes new entries: clean, writable and without a mark.
    fn map_anew(&self, random: &mut Random) -> Result<(), Error> {
        let first = usize::try_from(random.below(self.pages() as u64)).unwrap_or(0);
        self.memory
            .advise(first * self.page..SIZE, Advice::DontNeed)
            .map_err(Error::call("MADV_DONTNEED"))?;
        for number in first..self.pages() {
            let _ = read(&self.memory, number * self.page);
        }
        Ok(())
    }
}

/// Waits for a random time, so that the read or `collect` starts first, or both at once.
fn spin(random: &mut Random) {
    for _ in 0..random.below(8000) {
        core::hint::spin_loop();
    }
}

/// Starts another process that maps and unmaps the same pages.
fn churn(disk: &Disk, seed: u64) -> Result<Child, Error> {
    // SAFETY: the child reads the shared memory and calls madvise on it.
    unsafe { Fork::promised() }
        .spawn(|| {
            let mut random = Random::new(seed, 2);
            loop {
                let first = usize::try_from(random.below(disk.pages() as u64)).unwrap_or(0);
                for number in first..disk.pages() {
                    let _ = read(&disk.memory, number * disk.page);
                }
                let part = first * disk.page..SIZE;
                if disk.memory.advise(part, Advice::DontNeed).is_err() {
                    return ExitCode::FAILURE;
                }
            }
        })
        .map_err(Error::call("fork"))
}

/// Counts of all rounds.
#[derive(Default)]
struct Found {
    reported: u64,
    changed: u64,
    missed: u64,
}

fn rounds(disk: &Disk, rounds: u32, sharing: Sharing, seed: u64) -> Result<Found, Error> {
    let all = range(disk.memory.address(), disk.pages(), disk.page);
    let tracker = Tracker::new(0, all, Options::WRITTEN);
    let words = || leak_zeroed_words(disk.pages()).map_err(Error::call("mmap"));
    let (before, behind, reported) = (words()?, words()?, words()?);
    let mut random = Random::new(seed, 3);
    let mut found = Found::default();
    for _ in 0..rounds {
        // Private pages would be lost.
        if matches!(sharing, Sharing::Shared) && random.one_in(2) {
            disk.map_anew(&mut random)?;
        }
        disk.started.fetch_add(1, Ordering::Release);
        disk.wait(&disk.begun);
        spin(&mut random);
        tracker.collect(|_| {})?;
        disk.words(behind);
        disk.wait(&disk.done);
        disk.words(before);
        reported.fill(0);
        tracker.collect(|run| {
            let first = disk.memory.address();
            let number = |at: u64| usize::try_from(at - first).unwrap_or(0) / disk.page;
            if let Some(reported) = reported.get_mut(number(run.start.0)..number(run.end.0)) {
                reported.fill(1);
            }
        })?;
        for ((before, behind), reported) in before.iter().zip(&*behind).zip(&*reported) {
            found.reported += reported;
            found.changed += u64::from(before != behind);
            found.missed += u64::from(before != behind && *reported == 0);
        }
    }
    tracker.stop()?;
    Ok(found)
}

fn run(tracked: &mut Tracked, sharing: Sharing) -> Result<Verdict, Error> {
    let fd = match file::open(AREA, O_RDWR | constants::O_DIRECT) {
        Ok(fd) => fd,
        Err(_) => return Ok(Verdict::Skip("no /dev/ram0 for O_DIRECT")),
    };
    let plan = &tracked.journal;
    let disk = Disk::new(fd, 1 << tracked.info.page_shift, sharing)?;
    let churner = churn(&disk, plan.seed)?;
    let found = thread::run_beside(
        || disk.write(plan.seed),
        || {
            let found = rounds(&disk, plan.rounds, sharing, plan.seed);
            disk.ended.store(true, Ordering::Release);
            found
        },
    )
    .map_err(Error::call("clone"))??;
    drop(churner);
    println!(
        "# {} rounds, {} reads, {} pages reported, {} written in between, {} of those missed",
        plan.rounds,
        disk.done.load(Ordering::Relaxed),
        found.reported,
        found.changed,
        found.missed
    );
    // On a single CPU, a read is rarely interrupted.
    let raced =
        found.changed > 0 || process::cpus().map_err(Error::call("sched_getaffinity"))? == 1;
    Ok((found.missed == 0 && found.reported > 0 && raced).into())
}
