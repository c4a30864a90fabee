//! `uffd`: resolves userfaultfd faults by writing page-table entries.
//!
//! Threads write to missing pages and block. Other threads learn of the faults from a userfaultfd, or the
//! same threads do by a signal. They take pages that were allocated before, and write their entries.

#![no_std]
#![cfg_attr(not(test), no_main)]
#![expect(unsafe_code, reason = "a second entry for a frame must not outlive it")]

mod donors;
mod handler;

use core::ops::Range;

use crate::donors::{Donors, MARK_OFFSET, mark};
use crate::handler::Handler;
use tablewalk_pager::{Delivery, Neighbours, Options, Pager, Policy, Refusal};
use tablewalk_proc::frames;
use tablewalk_proc::pagemap::Pagemap;
use tablewalk_rt::cli;
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::memory::{leak_zeroed_words, read, write};
use tablewalk_rt::sort::sort;
use tablewalk_rt::{Args, Count, ExitCode, println, thread};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::paging::{self, THREADS};
use tablewalk_testkit::prerequisite;
use tablewalk_uapi::file::{self, O_NONBLOCK};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::remap::EXPOSE_PGTBL_LEND;
use tablewalk_uapi::userfault::Userfault;
use tablewalk_uapi::{Mapping, Sharing, process};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: uffd [--alias | [--signals] [--zeros] [--threads N] [--handlers N] [--batch N]]
            [--pages N] [--rounds N] [--quiet]
Some threads write to missing pages and block. Others resolve the faults by writing
the page-table entries, and wake the writers. Prints KTAP.
  --alias       resolve faults by a second entry for an allocated page, and remove
                this entry at the end; default: move entries from a pool of pages
  --signals     resolve each fault in the faulting thread, by SIGBUS
  --zeros       fill pages with zeros; default: with a mark in each page
  --threads N   threads that write, 1 to 16 (default: 1)
  --handlers N  threads that resolve faults, 1 to 16 (default: 1)
  --batch N     pages to install for each fault, 1 to 512 (default: 1)
  --pages N     pages to fault in, 1 to 65536 (default: 16)
  --rounds N    rounds, each on fresh memory, 1 to 1000 (default: 1)
  --quiet       print no line for each page
Needs a kernel with remap_page_table and userfaultfd, /proc, and root.";

const TESTS: &[Case<Demo, Error>] = &[
    Case {
        name: "every fault is resolved by an entry that this program wrote",
        run: Demo::resolve,
    },
    Case {
        name: "no frame is leaked",
        run: Demo::compare_free_memory,
    },
];

/// The options, and the counts.
struct Demo {
    alias: bool,
    delivery: Delivery,
    zeros: bool,
    threads: usize,
    handlers: usize,
    batch: usize,
    pages: usize,
    rounds: u32,
    quiet: bool,
    page_size: usize,
    /// The verdict if this kernel does not let pages be moved.
    lacks: Option<Verdict>,
    /// Storage for the frames of a pool.
    frames: &'static mut [u64],
    /// Numbers of free frames before and after.
    free: [u64; 2],
}

fn main(args: Args) -> ExitCode {
    let mut demo = match parse(args) {
        Ok(demo) => demo,
        Err(status) => return status,
    };
    match prerequisite::info("uffd") {
        Ok(info) => {
            demo.page_size = 1 << info.page_shift;
            demo.lacks = prerequisite::lacks(&info, EXPOSE_PGTBL_LEND);
        }
        Err(status) => return status,
    }
    if let Err(status) = prerequisite::userfaultfd("uffd") {
        return status;
    }
    // Two handlers that resolve faults in the same block at once both need frames for all of it.
    let spare = if demo.threads == 1 && demo.handlers == 1 {
        0
    } else {
        demo.pages
    };
    match leak_zeroed_words(demo.pages + spare) {
        Ok(words) => demo.frames = words,
        Err(errno) => {
            tablewalk_rt::eprintln!("uffd: mmap: {errno}");
            return ExitCode::FAILURE;
        }
    }
    ktap::run(&mut demo, &[TESTS])
}

fn parse(mut args: Args) -> Result<Demo, ExitCode> {
    let mut demo = Demo {
        alias: false,
        delivery: Delivery::Threads,
        zeros: false,
        threads: 1,
        handlers: 1,
        batch: 1,
        pages: 16,
        rounds: 1,
        quiet: false,
        page_size: 0,
        lacks: None,
        frames: &mut [],
        free: [0; 2],
    };
    let threads = u32::try_from(THREADS).unwrap_or(1);
    while let Some(argument) = cli::next(&mut args, HELP)? {
        match argument {
            "--alias" => demo.alias = true,
            "--signals" => demo.delivery = Delivery::Signals,
            "--zeros" => demo.zeros = true,
            "--quiet" => demo.quiet = true,
            "--threads" => demo.threads = number(&mut args, argument, threads)? as usize,
            "--handlers" => demo.handlers = number(&mut args, argument, threads)? as usize,
            "--batch" => demo.batch = number(&mut args, argument, 512)? as usize,
            "--pages" => demo.pages = number(&mut args, argument, 65536)? as usize,
            "--rounds" => demo.rounds = number(&mut args, argument, 1000)?,
            _ => return Err(cli::unknown(&args, argument)),
        }
    }
    let moves = demo.delivery == Delivery::Signals || demo.zeros;
    if demo.alias && (moves || demo.threads > 1 || demo.handlers > 1 || demo.batch > 1) {
        let what = format_args!("--alias: of the others only --pages, --rounds and --quiet");
        return Err(cli::refuse(&args, what));
    }
    Ok(demo)
}

fn number(args: &mut Args, option: &str, most: u32) -> Result<u32, ExitCode> {
    cli::number(args, HELP, option, most)
}

/// Fills the pages of a pager with marks.
struct Marks {
    neighbours: Neighbours,
    zeros: bool,
}

impl Policy for Marks {
    fn waits(&self) -> bool {
        false
    }

    fn zeros(&self) -> bool {
        self.zeros
    }

    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        bytes.fill(0);
        if let Some(place) = bytes.get_mut(MARK_OFFSET..MARK_OFFSET + 8) {
            place.copy_from_slice(&mark(page).to_ne_bytes());
        }
        Ok(bytes.len())
    }

    fn around(&self, page: usize) -> Range<usize> {
        self.neighbours.around(page)
    }
}

/// Errors of a round, as counts.
#[derive(Default)]
struct Tally {
    faults: usize,
    entries: usize,
    differences: usize,
}

impl Demo {
    fn resolve(&mut self) -> Result<Verdict, Error> {
        if !self.alias
            && let Some(skip) = self.lacks
        {
            return Ok(skip);
        }
        // Run one round that does not count, to fill the kernel's caches.
        self.round(false)?;
        self.free[0] = frames::free().map_err(Error::call("zoneinfo"))?;
        let mut all = Tally::default();
        for round in 1..=self.rounds {
            let tally = self.round(!self.quiet)?;
            all.faults += tally.faults;
            all.entries += tally.entries;
            all.differences += tally.differences;
            if self.rounds > 1 {
                println!(
                    "# round {round} of {}: {}",
                    self.rounds,
                    Count(tally.faults, "fault", "faults")
                );
            }
        }
        self.free[1] = frames::free().map_err(Error::call("zoneinfo"))?;
        println!(
            "# {}, {} by {}, {}",
            Count(all.faults, "fault", "faults"),
            Count(all.entries, "page", "pages"),
            if self.alias { "alias" } else { "move" },
            Count(all.differences, "difference", "differences")
        );
        let expected = self.pages * self.rounds as usize;
        // With batches there are fewer faults, and with many threads several may wait for the same page.
        let faults = match (self.batch, self.threads) {
            (1, 1) => all.faults == expected,
            _ => all.faults > 0,
        };
        Ok((faults && all.entries == expected && all.differences == 0).into())
    }

    /// Runs one round on fresh memory and checks the result. All memory is freed at the end.
    fn round(&mut self, print: bool) -> Result<Tally, Error> {
        let marks = Marks {
            neighbours: match self.batch {
                1 => Neighbours::Alone,
                batch => Neighbours::Block(batch),
            },
            zeros: self.zeros,
        };
        if self.alias {
            self.alias_round(print)
        } else {
            self.move_round(marks, print)
        }
    }

    /// A round in which pages are moved.
    fn move_round(&mut self, policy: Marks, print: bool) -> Result<Tally, Error> {
        let frames = self.frames.len();
        let options = Options {
            pages: self.pages,
            frames,
            low_water: 0,
            locked: true,
            delivery: self.delivery,
        };
        let pager = Pager::new(options, policy)?;
        let pagemap = Pagemap::open(process::pid(), self.page_size.trailing_zeros())
            .map_err(Error::call("pagemap"))?;
        let page_size = self.page_size as u64;
        let frame = |address: u64| {
            let entry = pagemap.entry(address).map_err(Error::call("pagemap"))?;
            Ok::<_, Error>(entry.is_present().then_some(entry.frame()))
        };
        // Read the frames of the pool in pagemap, to find out which pages have them afterwards.
        let pool = pager.pool();
        for (slot, place) in self.frames.iter_mut().enumerate() {
            *place = frame(pool.start + slot as u64 * page_size)?.unwrap_or(0);
        }
        sort(&mut *self.frames);

        let (pages, threads) = (self.pages, self.threads);
        paging::run(&pager, self.delivery, self.handlers, threads, &|number| {
            for page in (number..pages).step_by(threads) {
                paging::write(&pager, page, 0, value(page));
            }
        })?;
        let mut differences = 0;
        for page in 0..pages {
            let found = frame(pager.address() + page as u64 * page_size)?;
            differences += usize::from(!self.is_right(&pager, page, found, print));
        }
        let counts = pager.counts();
        let mut left = 0;
        for slot in 0..frames as u64 {
            left += u64::from(frame(pool.start + slot * page_size)?.is_some());
        }
        if left + counts.moved != frames as u64 {
            println!(
                "# {left} left of {}, {} moved",
                Count(frames, "frame", "frames"),
                counts.moved
            );
            differences += 1;
        }
        // All moved pages must have been adopted when the workers have ended.
        differences += usize::from(counts.adopted != counts.moved);
        Ok(Tally {
            faults: usize::try_from(counts.faults).unwrap_or(0),
            entries: usize::try_from(counts.moved).unwrap_or(0),
            differences,
        })
    }

    /// Returns whether a page has a frame of the pool, and the right contents.
    fn is_right(&self, pager: &Pager<Marks>, page: usize, found: Option<u64>, print: bool) -> bool {
        let mark = if self.zeros { 0 } else { mark(page) };
        let ours = found.is_some_and(|frame| self.frames.binary_search(&frame).is_ok());
        let written = paging::read(pager, page, 0) == value(page);
        let kept = paging::read(pager, page, MARK_OFFSET) == mark;
        let right = ours && written && kept;
        if print || !right {
            let from = if ours {
                "of the pool"
            } else {
                "of somebody else"
            };
            let address = pager.address() + (page * self.page_size) as u64;
            println!(
                "page at {address:#x}: frame {:#x} {from}, moved",
                found.unwrap_or(0)
            );
        }
        right
    }

    /// A round in which second entries are written.
    fn alias_round(&self, print: bool) -> Result<Tally, Error> {
        let size = self.pages * self.page_size;
        let donors = Donors::new(self.pages, self.page_size)?;
        let region = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Private)
            .map_err(Error::call("mmap"))?;
        region.base_pages_only().map_err(Error::call("madvise"))?;
        let uffd = Userfault::open(O_NONBLOCK).map_err(Error::call("userfaultfd"))?;
        uffd.enable(0).map_err(Error::call("UFFDIO_API"))?;
        uffd.register(&region)
            .map_err(Error::call("UFFDIO_REGISTER"))?;
        let (stop, running) = file::pipe().map_err(Error::call("pipe"))?;
        // SAFETY: the handler is dropped below, before both mappings, which nobody changes until then.
        let mut handler = unsafe { Handler::new(&region, &donors, print) }?;

        let mut handled = Ok(());
        let written = thread::run_beside(
            || {
                handled = handler.run(&uffd, &stop);
                if handled.is_err() {
                    // No handler resolves faults any more: the kernel maps zeros.
                    let _ = uffd.unregister(&region);
                }
            },
            || {
                let differences = self.write_pages(&region);
                // Closing the pipe tells the handler that no more faults come.
                drop(running);
                differences
            },
        );
        let differences = written.map_err(Error::call("clone"))?;
        handled?;

        let misplaced = self.compare_with_pagemap(&region, &donors)?;
        let (faults, entries) = handler.counts();
        // Remove the second entries before anything is unmapped.
        drop(handler);
        Ok(Tally {
            faults,
            entries,
            differences: differences + misplaced,
        })
    }

    /// Writes to each page. Returns how many pages are wrong afterwards.
    fn write_pages(&self, region: &Mapping) -> usize {
        for page in 0..self.pages {
            write(region, page * self.page_size, value(page));
        }
        let as_it_should = |&page: &usize| {
            let offset = page * self.page_size;
            read(region, offset) == value(page) && read(region, offset + MARK_OFFSET) == mark(page)
        };
        self.pages - (0..self.pages).filter(as_it_should).count()
    }

    /// Checks with the independent witness that both addresses of an alias have the same frame.
    fn compare_with_pagemap(&self, region: &Mapping, donors: &Donors) -> Result<usize, Error> {
        let page_shift = self.page_size.trailing_zeros();
        let pagemap = Pagemap::open(process::pid(), page_shift).map_err(Error::call("pagemap"))?;
        let mut differences = 0;
        for page in 0..self.pages {
            let entry = |start: u64| {
                let address = start + (page * self.page_size) as u64;
                pagemap.entry(address).map_err(Error::call("pagemap"))
            };
            let (here, donor) = (entry(region.address())?, entry(donors.mapping().address())?);
            if !here.is_present() || here.frame() != donor.frame() {
                differences += 1;
                println!("# page {page}: {here} in the region, {donor} with the donor");
            }
        }
        Ok(differences)
    }

    /// Compares the numbers of free frames before and after. A leak grows with the number of faults, noise
    /// does not.
    fn compare_free_memory(&mut self) -> Result<Verdict, Error> {
        let [before, after] = self.free;
        let faults = self.pages as u64 * u64::from(self.rounds);
        let cpus = process::cpus().map_err(Error::call("sched_getaffinity"))?;
        let slack = frames::SLACK_OF_CPU * u64::from(cpus);
        println!(
            "# free frames: {before} before, {after} after {}",
            Count(faults, "fault", "faults")
        );
        if faults < 4 * slack {
            return Ok(Verdict::Skip(
                "too few faults to tell a leak from the kernel's own lists",
            ));
        }
        Ok((after + slack >= before).into())
    }
}

/// Returns the value that a thread writes to `page`.
const fn value(page: usize) -> u64 {
    0xa11c_e000_0000_0000 | page as u64
}
