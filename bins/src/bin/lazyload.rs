//! `lazyload`: maps a file lazily. A page of the file is read when the program touches it first.

#![no_std]
#![cfg_attr(not(test), no_main)]

use core::ffi::CStr;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use heapless::CString;
use tablewalk_pager::{Clock, Delivery, Neighbours, Options, Pager, Policy, Refusal, Sequential};
use tablewalk_rt::cli;
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::{Args, Count, ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::paging;
use tablewalk_testkit::prerequisite;
use tablewalk_testkit::random::Random;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_RDONLY, OwnedFd};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: lazyload [--frames N] [FILE]
Maps FILE (default: /init), of at most 256 MiB, lazily: each page is read on its first
access, by a pager with fewer frames than the file has pages. Compares all pages, in
order and in random order, with the result of read(2). Prints KTAP.
  --frames N  frames in the pool (default: 8); each time it is refilled, pages are
              taken back until half as many stay mapped
Needs a kernel with remap_page_table and userfaultfd, and root.";

const TESTS: &[Case<Lazy, Error>] = &[
    Case {
        name: "events, in order: pages have the contents of the file",
        run: |lazy| lazy.check(Delivery::Threads, Walk::InOrder),
    },
    Case {
        name: "events, in random order: pages have the contents of the file",
        run: |lazy| lazy.check(Delivery::Threads, Walk::HereAndThere),
    },
    Case {
        name: "signals, in order: pages have the contents of the file",
        run: |lazy| lazy.check(Delivery::Signals, Walk::InOrder),
    },
    Case {
        name: "signals, in random order: pages have the contents of the file",
        run: |lazy| lazy.check(Delivery::Signals, Walk::HereAndThere),
    },
];

/// The most bytes of a file.
const LARGEST: u64 = 256 << 20;

/// The order in which pages are touched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    InOrder,
    HereAndThere,
}

struct Lazy {
    file: OwnedFd,
    size: u64,
    page_size: usize,
    frames: usize,
}

fn main(mut args: Args) -> ExitCode {
    let mut frames = 8;
    let mut name = None;
    loop {
        match cli::next(&mut args, HELP) {
            Ok(None) => break,
            Ok(Some("--frames")) => match cli::number(&mut args, HELP, "--frames", 1 << 16) {
                Ok(number) => frames = number as usize,
                Err(status) => return status,
            },
            Ok(Some(option)) if option.starts_with('-') => return cli::unknown(&args, option),
            Ok(Some(file)) if name.is_none() => name = Some(file),
            Ok(Some(file)) => return cli::refuse(&args, format_args!("{file}: a second file")),
            Err(status) => return status,
        }
    }
    let name = name.unwrap_or("/init");
    let mut path = CString::<256>::new();
    if path.extend_from_bytes(name.as_bytes()).is_err() {
        return cli::refuse(&args, format_args!("{name}: too long"));
    }
    let info = match prerequisite::moving("lazyload") {
        Ok(info) => info,
        Err(status) => return status,
    };
    if let Err(status) = prerequisite::userfaultfd("lazyload") {
        return status;
    }
    match open(&path) {
        Ok((file, size)) => ktap::run(
            &mut Lazy {
                file,
                size,
                page_size: 1 << info.page_shift,
                frames,
            },
            &[TESTS],
        ),
        Err(errno) => {
            tablewalk_rt::eprintln!("lazyload: {path:?}: {errno}");
            ExitCode::FAILURE
        }
    }
}

/// Opens a file. Returns it with its size, as found by read(2).
fn open(path: &CStr) -> Result<(OwnedFd, u64), Errno> {
    let file = file::open(path, O_RDONLY)?;
    let mut size = 0;
    let mut bytes = [0; 4096];
    loop {
        match file::pread(&file, &mut bytes, size)? {
            0 if size == 0 => return Err(Errno::ENODATA),
            0 => return Ok((file, size)),
            count => size += count as u64,
        }
        // A device such as /dev/zero has no end.
        if size > LARGEST {
            return Err(Errno::EFBIG);
        }
    }
}

/// The pages of a file, as the contents of a pager's region.
struct Pages<'f> {
    file: &'f OwnedFd,
    page_size: usize,
    neighbours: Neighbours,
    clock: Clock,
}

impl Policy for Pages<'_> {
    fn waits(&self) -> bool {
        false
    }

    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        self.clock.mapped(page..page + 1);
        // As with a file mapping: an access to a page that cannot be read raises SIGBUS.
        read_at(self.file, (page * self.page_size) as u64, bytes).ok_or(Refusal::Never)
    }

    fn around(&self, page: usize) -> Range<usize> {
        self.neighbours.around(page)
    }

    fn victims(&self, most: usize) -> Option<Range<usize>> {
        self.clock.next(most.min(4))
    }

    fn taken_back(&self, page: usize, _: &[u8], _: bool) {
        self.clock.taken_back(page);
    }
}

/// Fills `bytes`, or reads to the end of the file. Returns the number of bytes; `None` on an error.
fn read_at(file: &OwnedFd, offset: u64, bytes: &mut [u8]) -> Option<usize> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file::pread(file, rest, offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
    Some(done)
}

impl Lazy {
    /// Returns how many pages stay mapped when the pool is refilled: the last one does at least, since the
    /// thread that touched it may not have gone on yet.
    const fn keep(&self) -> usize {
        if self.frames < 2 { 1 } else { self.frames / 2 }
    }

    fn check(&mut self, delivery: Delivery, walk: Walk) -> Result<Verdict, Error> {
        let pages = usize::try_from(self.size.div_ceil(self.page_size as u64)).unwrap_or(0);
        let policy = Pages {
            file: &self.file,
            page_size: self.page_size,
            // More would be taken back before they are touched.
            neighbours: Neighbours::Sequential(Sequential::new(self.keep().min(4))),
            clock: Clock::new(pages, self.keep())?,
        };
        let options = Options {
            pages,
            frames: self.frames,
            low_water: self.keep(),
            locked: false,
            delivery,
        };
        let pager = Pager::new(options, policy)?;
        let wrong = AtomicU64::new(0);
        let touches = match walk {
            Walk::InOrder => pages,
            Walk::HereAndThere => 4 * pages,
        };
        paging::run(&pager, delivery, 1, 1, &|_| {
            let mut random = Random::new(1, 0);
            for touch in 0..touches {
                let page = match walk {
                    Walk::InOrder => touch,
                    Walk::HereAndThere => usize::try_from(random.below(pages as u64)).unwrap_or(0),
                };
                if !self.is_right(&pager, page) {
                    println!("# page {page} differs");
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
            }
        })?;
        let (counts, wrong) = (pager.counts(), wrong.into_inner());
        println!(
            "# {}, {}, {touches} touched: {}, {} moved, {} taken back, {wrong} wrong",
            Count(self.size, "byte", "bytes"),
            Count(pages, "page", "pages"),
            Count(counts.faults, "fault", "faults"),
            counts.moved,
            counts.taken_back
        );
        // Those that stay, and as many as the pool had since.
        let most = (self.frames + self.keep()) as u64;
        let few = counts.moved - counts.taken_back <= most;
        Ok((wrong == 0 && counts.moved > 0 && few).into())
    }

    /// Returns whether a page has the contents that read(2) returns, to the last byte.
    fn is_right(&self, pager: &Pager<Pages<'_>>, page: usize) -> bool {
        let mut bytes = [0; 512];
        let start = (page * self.page_size) as u64;
        (0..self.page_size).step_by(bytes.len()).all(|offset| {
            // Zeros after the end of the file.
            bytes.fill(0);
            let (words, _) = bytes.as_chunks_mut::<8>();
            read_at(&self.file, start + offset as u64, words.as_flattened_mut()).is_some()
                && words
                    .iter()
                    .zip((offset..).step_by(8))
                    .all(|(word, offset)| {
                        paging::read(pager, page, offset) == u64::from_ne_bytes(*word)
                    })
        })
    }
}
