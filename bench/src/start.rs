//! The start of a program from a saved image: what it costs to have the pages that it touches.

#![expect(
    unsafe_code,
    reason = "writes to the region of a pager, and fills one by ioctl"
)]

use core::ffi::CStr;
use core::ops::Range;

use tablewalk_pager::{Delivery, Neighbours, Options, Pager, Policy, Refusal};
use tablewalk_rt::memory::write;
use tablewalk_rt::{counter, println, thread};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::file::{self, O_RDONLY, OwnedFd};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::userfault::{Event, Userfault, Waking};
use tablewalk_uapi::{Errno, Mapping, Sharing, remap};

use crate::Ratio;
use crate::faults::pin_to;

const IMAGE: &CStr = c"/image";
/// Size of the image in bytes.
const SIZE: usize = 64 << 20;
/// How many of 100 pages the program touches, in runs of [`RUN`] bytes all over the image.
const SHARES: [usize; 3] = [5, 25, 100];
const RUN: usize = 32 << 10;
/// Bytes that one fault brings, where it brings more than a page.
const AROUND: usize = 64 << 10;
/// Frames that the pager keeps ready, in bytes.
const READY: usize = 1 << 20;

/// A way to have the pages: its name, and a function that returns the ticks until all are touched.
type Way<'a> = (&'a str, &'a dyn Fn(&Program<'_>) -> Result<u64, Error>);

pub(crate) fn measure() -> Result<(), Error> {
    let info = remap::info().map_err(Error::call("INFO"))?;
    let page = 1 << info.page_shift;
    make_image().map_err(Error::call("an image"))?;
    let result = file::open(IMAGE, O_RDONLY)
        .map_err(Error::call("open"))
        .and_then(|image| compare(&image, page));
    file::remove(IMAGE).map_err(Error::call("unlink"))?;
    result
}

fn make_image() -> Result<(), Errno> {
    let image = file::create(IMAGE, 0o600)?;
    let bytes = [1; 4096];
    for _ in (0..SIZE).step_by(bytes.len()) {
        file::write(&image, &bytes)?;
    }
    Ok(())
}

fn compare(image: &OwnedFd, page: usize) -> Result<(), Error> {
    println!(
        "start from an image of 64 MiB, in thousands of ticks, by how much of it is touched; ratios to"
    );
    println!("a private mapping of the file");
    let ways: [Way<'_>; 7] = [
        ("private mapping of the file", &by_mapping),
        ("read at once", &by_reading),
        ("UFFDIO_COPY of a page", &|program| by_ioctl(program, 1)),
        ("UFFDIO_COPY of 64 KiB", &|program| {
            by_ioctl(program, AROUND / program.page)
        }),
        ("pager, a page, signal", &|program| {
            by_pager(program, Neighbours::Alone, Delivery::Signals)
        }),
        ("pager, 64 KiB, thread", &|program| {
            let pages = AROUND / program.page;
            by_pager(program, Neighbours::Block(pages), Delivery::Threads)
        }),
        ("pager, 64 KiB, signal", &|program| {
            let pages = AROUND / program.page;
            by_pager(program, Neighbours::Block(pages), Delivery::Signals)
        }),
    ];
    for share in SHARES {
        println!("{share} %:");
        let program = Program { image, page, share };
        let mut peer = None;
        for (name, way) in ways {
            let ticks = way(&program)?;
            let peer = *peer.get_or_insert(ticks);
            println!("{name:<42} {:>8} {:4.3}", ticks / 1000, Ratio(ticks, peer));
        }
    }
    Ok(())
}

/// A program that has just been started.
struct Program<'i> {
    image: &'i OwnedFd,
    page: usize,
    share: usize,
}

impl Program<'_> {
    /// Calls the function for the offset of each page that the program touches.
    fn run(&self, mut touch: impl FnMut(usize)) {
        for run in 0..SIZE / RUN {
            // 37 and 100 have no common divisor.
            if run * 37 % 100 < self.share {
                (run * RUN..(run + 1) * RUN)
                    .step_by(self.page)
                    .for_each(&mut touch);
            }
        }
    }

    fn run_in(&self, memory: &Mapping) {
        self.run(|offset| write(memory, offset, 1));
    }

    /// Reads a part of the image from `offset` on.
    fn read(&self, offset: usize, mut bytes: &mut [u8]) -> Result<(), Errno> {
        let mut offset = offset as u64;
        while !bytes.is_empty() {
            let count = file::pread(self.image, bytes, offset)?;
            let rest = bytes.get_mut(count..).filter(|_| count > 0);
            bytes = rest.ok_or(Errno::ENODATA)?;
            offset += count as u64;
        }
        Ok(())
    }
}

fn by_mapping(program: &Program<'_>) -> Result<u64, Error> {
    let start = counter::ticks();
    let memory = Mapping::file(
        program.image,
        0,
        SIZE,
        Protection::READ_WRITE,
        Sharing::Private,
    );
    program.run_in(&memory.map_err(Error::call("mmap"))?);
    Ok(counter::ticks() - start)
}

fn fresh() -> Result<Mapping, Error> {
    let memory = Mapping::anonymous(SIZE, Protection::READ_WRITE, Sharing::Private);
    let memory = memory.map_err(Error::call("mmap"))?;
    memory.base_pages_only().map_err(Error::call("madvise"))?;
    Ok(memory)
}

fn by_reading(program: &Program<'_>) -> Result<u64, Error> {
    let start = counter::ticks();
    let memory = fresh()?;
    // SAFETY: the mapping is new, and nobody else knows it.
    let bytes = unsafe { core::slice::from_raw_parts_mut(memory.as_ptr(), SIZE) };
    program.read(0, bytes).map_err(Error::call("pread"))?;
    program.run_in(&memory);
    Ok(counter::ticks() - start)
}

/// A thread answers each fault with this number of pages.
fn by_ioctl(program: &Program<'_>, pages: usize) -> Result<u64, Error> {
    let start = counter::ticks();
    // A fault on a page behind the image ends the thread.
    let memory = Mapping::anonymous(
        SIZE + program.page,
        Protection::READ_WRITE,
        Sharing::Private,
    );
    let memory = memory.map_err(Error::call("mmap"))?;
    memory.base_pages_only().map_err(Error::call("madvise"))?;
    let uffd = Userfault::open(0).map_err(Error::call("userfaultfd"))?;
    uffd.enable(0).map_err(Error::call("UFFDIO_API"))?;
    uffd.register(&memory)
        .map_err(Error::call("UFFDIO_REGISTER"))?;
    let mut answered = Ok(());
    let ticks = thread::run_beside(
        || {
            pin_to(1);
            answered = answer(program, &uffd, &memory, pages);
        },
        || {
            pin_to(0);
            program.run_in(&memory);
            let ticks = counter::ticks() - start;
            write(&memory, SIZE, 1);
            ticks
        },
    );
    answered.map_err(Error::call("an answer to a fault"))?;
    ticks.map_err(Error::call("clone"))
}

fn answer(
    program: &Program<'_>,
    uffd: &Userfault,
    memory: &Mapping,
    pages: usize,
) -> Result<(), Errno> {
    let mut buffer = [0; AROUND];
    let size = pages * program.page;
    let (bytes, _) = buffer.split_at_mut_checked(size).ok_or(Errno::EINVAL)?;
    loop {
        let Event::Pagefault { address, .. } = uffd.event()? else {
            continue;
        };
        let offset = usize::try_from(address - memory.address()).map_err(|_| Errno::EINVAL)?;
        let offset = offset - offset % size;
        let to = memory.address() + offset as u64;
        if offset >= SIZE {
            // SAFETY: a page of the region, which is accessed by raw pointers only.
            return unsafe { uffd.zeropage(to, program.page as u64, Waking::Wake) }.map(drop);
        }
        program.read(offset, bytes)?;
        // SAFETY: pages of the region, which is accessed by raw pointers only.
        unsafe { uffd.copy(to, bytes, Waking::Wake) }?;
    }
}

/// The pages of the image.
struct Pages<'p> {
    program: &'p Program<'p>,
    neighbours: Neighbours,
}

impl Policy for Pages<'_> {
    fn waits(&self) -> bool {
        false
    }

    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        let offset = page * self.program.page;
        self.program
            .read(offset, bytes)
            .map_err(|_| Refusal::Never)?;
        Ok(bytes.len())
    }

    fn around(&self, page: usize) -> Range<usize> {
        self.neighbours.around(page)
    }
}

fn by_pager(
    program: &Program<'_>,
    neighbours: Neighbours,
    delivery: Delivery,
) -> Result<u64, Error> {
    let start = counter::ticks();
    let frames = READY / program.page;
    let options = Options {
        pages: SIZE / program.page,
        frames,
        low_water: frames / 2,
        locked: false,
        delivery,
    };
    let policy = Pages {
        program,
        neighbours,
    };
    let pager = Pager::new(options, policy)?;
    let region = pager.as_ptr();
    let run = || {
        program.run(|offset| {
            let word = region.wrapping_add(offset);
            // SAFETY: the address lies inside the region, to which no Rust reference exists.
            unsafe { word.cast::<u64>().write_volatile(1) };
        });
    };
    let mut worker = pager.worker()?;
    match delivery {
        Delivery::Signals => {
            pin_to(0);
            worker.resolve_own(run)?;
            worker.settle()?;
        }
        Delivery::Threads => {
            let mut handled = Ok(());
            let ran = thread::run_beside(
                || {
                    pin_to(1);
                    handled = worker.handle(&mut drop);
                },
                || {
                    pin_to(0);
                    run();
                    pager.stop(1);
                },
            );
            ran.map_err(Error::call("clone"))?;
            handled?;
        }
    }
    Ok(counter::ticks() - start)
}
