//! `uffd`: resolves userfaultfd faults by writing page-table entries.
//!
//! Thread A writes to memory that has no pages and blocks. Thread B hears of it through a
//! userfaultfd, takes a page that the kernel gave it before, and writes the entry for it.

#![no_std]
#![no_main]

use tablewalk_bins::donors::{Donors, MARK_OFFSET, mark};
use tablewalk_bins::error::Error;
use tablewalk_bins::handler::{Handler, Way};
use tablewalk_bins::memory::{base_pages_only, read, write};
use tablewalk_bins::pagemap::Pagemap;
use tablewalk_bins::{cli, frames, prerequisite};
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::{Args, ExitCode, println, thread};
use tablewalk_uapi::file::{self, O_NONBLOCK};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::userfault::Userfault;
use tablewalk_uapi::{Mapping, Sharing, process};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: uffd [--alias] [--pages N] [--rounds N] [--quiet]
Thread A writes to fresh memory and blocks; thread B resolves the fault by writing
the page-table entry itself, then wakes A. Prints KTAP.
  --alias     map a donor page at a second place, and undo it at the end;
              without: move it, which is safe to be killed in
  --pages N   pages to fault in, 1 to 65536 (16)
  --rounds N  how often, each with fresh memory, 1 to 1000 (1)
  --quiet     no line for each fault
Needs a kernel with remap_page_table and userfaultfd, /proc, and root.";

const TESTS: &[Case<Demo, Error>] = &[
    Case {
        name: "every fault is resolved by an entry of ours",
        run: Demo::resolve,
    },
    Case {
        name: "no frame is leaked",
        run: Demo::compare_free_memory,
    },
];

/// What is asked for, and what has been seen.
struct Demo {
    way: Way,
    pages: usize,
    rounds: u32,
    quiet: bool,
    page_size: usize,
    /// Free frames before and after.
    free: [u64; 2],
}

fn main(args: Args) -> ExitCode {
    let mut demo = match parse(args) {
        Ok(demo) => demo,
        Err(status) => return status,
    };
    match prerequisite::info("uffd") {
        Ok(info) => demo.page_size = 1 << info.page_shift,
        Err(status) => return status,
    }
    if let Err(status) = prerequisite::userfaultfd("uffd") {
        return status;
    }
    ktap::run(&mut demo, &[TESTS])
}

fn parse(mut args: Args) -> Result<Demo, ExitCode> {
    let mut demo = Demo {
        way: Way::Move,
        pages: 16,
        rounds: 1,
        quiet: false,
        page_size: 0,
        free: [0; 2],
    };
    while let Some(argument) = cli::next(&mut args, HELP)? {
        match argument {
            "--alias" => demo.way = Way::Alias,
            "--quiet" => demo.quiet = true,
            "--pages" => demo.pages = cli::number(&mut args, HELP, argument, 65536)? as usize,
            "--rounds" => demo.rounds = cli::number(&mut args, HELP, argument, 1000)?,
            _ => return Err(cli::unknown(&args, argument)),
        }
    }
    Ok(demo)
}

/// What went wrong in a round, as counts.
#[derive(Default)]
struct Tally {
    faults: usize,
    entries: usize,
    differences: usize,
}

impl Demo {
    fn resolve(&mut self) -> Result<Verdict, Error> {
        // One round that does not count: the kernel's caches fill up.
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
                    "# round {round} of {}: {} faults",
                    self.rounds, tally.faults
                );
            }
        }
        self.free[1] = frames::free().map_err(Error::call("zoneinfo"))?;
        println!(
            "# {} faults, {} resolved by {}, {} differences",
            all.faults,
            all.entries,
            self.way.name(),
            all.differences
        );
        let expected = self.pages * self.rounds as usize;
        Ok((all.faults == expected && all.entries == expected && all.differences == 0).into())
    }

    /// One round: memory, donors, two threads, a look at what came of it. All is gone at the end.
    fn round(&self, print: bool) -> Result<Tally, Error> {
        let size = self.pages * self.page_size;
        // First made, last gone: the reverse map of a moved page names the donors' mapping.
        let donors = Donors::new(self.pages, self.page_size)?;
        let region = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Private)
            .map_err(Error::call("mmap"))?;
        base_pages_only(&region).map_err(Error::call("madvise"))?;
        let uffd = Userfault::open(O_NONBLOCK).map_err(Error::call("userfaultfd"))?;
        uffd.enable(0).map_err(Error::call("UFFDIO_API"))?;
        uffd.register(&region)
            .map_err(Error::call("UFFDIO_REGISTER"))?;
        let (stop, running) = file::pipe().map_err(Error::call("pipe"))?;
        let mut handler = Handler::new(&region, &donors, self.way, print)?;

        let mut handled = Ok(());
        let written = thread::run_beside(
            || handled = handler.run(&uffd, &stop),
            || {
                let differences = self.write_pages(&region);
                // The end of the pipe tells B that there will be no more faults.
                drop(running);
                differences
            },
        );
        let differences = written.map_err(Error::call("clone"))?;
        handled?;

        let misplaced = self.compare_with_pagemap(&region, &donors)?;
        let (faults, entries) = handler.counts();
        // Before anything is unmapped.
        drop(handler);
        Ok(Tally {
            faults,
            entries,
            differences: differences + misplaced,
        })
    }

    /// Thread A: writes to each page, then looks whether all is as it should be.
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

    /// The independent witness: a moved page is in the region and no longer with the donors, an alias
    /// is one frame at both places.
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
            let as_it_should = here.is_present()
                && match self.way {
                    Way::Move => !donor.is_present(),
                    Way::Alias => here.frame() == donor.frame(),
                    Way::Copy => here.frame() != donor.frame(),
                };
            if !as_it_should {
                differences += 1;
                println!("# page {page}: {here} in the region, {donor} with the donor");
            }
        }
        Ok(differences)
    }

    /// Free frames before and after. A leak grows with the faults, noise does not.
    fn compare_free_memory(&mut self) -> Result<Verdict, Error> {
        let [before, after] = self.free;
        let faults = self.pages as u64 * u64::from(self.rounds);
        let cpus = process::cpus().map_err(Error::call("sched_getaffinity"))?;
        let slack = frames::SLACK_OF_CPU * u64::from(cpus);
        println!("# free frames: {before} before, {after} after {faults} faults");
        if faults < 4 * slack {
            return Ok(Verdict::Skip(
                "too few faults to tell a leak from the kernel's own lists",
            ));
        }
        Ok((after + slack >= before).into())
    }
}

/// What A writes to `page`.
const fn value(page: usize) -> u64 {
    0xa11c_e000_0000_0000 | page as u64
}
