//! `bench`: counts instructions per operation, and compares with the kernel's own methods, in one boot.

#![no_std]
#![cfg_attr(not(test), no_main)]
#![expect(unsafe_code, reason = "maps tables over a page of its own")]

mod dirty;
mod dumps;
mod faults;
mod start;

use core::hint::black_box;
use core::time::Duration;

use heapless::{String, format};

use tablewalk_live::{Live, LiveError, path};
use tablewalk_proc::pagemap::{Pagemap, PagemapEntry};
use tablewalk_rt::cli;
use tablewalk_rt::memory::write;
use tablewalk_rt::{Args, ExitCode, counter, eprintln, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::page::Page;
use tablewalk_testkit::prerequisite;
use tablewalk_testkit::sparse::Sparse;
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::time::sleep;
use tablewalk_uapi::{Errno, Mapping, Sharing, process, remap};
use tablewalk_walker::{
    Cache, PhysicalAddress, TableSource, Translation, VirtualAddress, translate,
};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: bench [calls | dumps | faults | start | dirty]...
Measures what operations cost, all or some kinds, in ticks of the virtual counter. A tick is one
instruction if QEMU runs with -icount shift=0 and cntfrq=1000000000. See tests/bench.";

/// A system call to measure.
type Call<'a> = &'a dyn Fn() -> Result<(), Errno>;

/// How often to repeat a short operation.
const REPEATS: u64 = 1000;

/// Time before each part, in which the machine gets quiet.
const QUIET: Duration = Duration::from_secs(1);

/// A part of the measurements: its name and function.
type Part = (&'static str, fn() -> Result<(), Error>);

const PARTS: [Part; 5] = [
    ("calls", measure_all_calls),
    ("dumps", || dumps::measure(live_page_size()?)),
    ("faults", faults::measure),
    ("start", start::measure),
    ("dirty", dirty::measure),
];

fn main(mut args: Args) -> ExitCode {
    let mut wanted = [false; PARTS.len()];
    loop {
        match cli::next(&mut args, HELP) {
            Ok(None) => break,
            Ok(Some(name)) if PARTS.iter().any(|(part, _)| *part == name) => {
                for (wanted, (part, _)) in wanted.iter_mut().zip(PARTS) {
                    *wanted |= part == name;
                }
            }
            Ok(Some(argument)) => return cli::unknown(&args, argument),
            Err(status) => return status,
        }
    }
    if !wanted.contains(&true) {
        wanted = [true; PARTS.len()];
    }
    if let Err(status) = prerequisite::info("bench") {
        return status;
    }
    for ((_, measure), _) in PARTS.iter().zip(wanted).filter(|(_, wanted)| *wanted) {
        // What the part before has left to the kernel: other CPUs free its 100,000 tables for some
        // milliseconds, and each instruction counts.
        let measured = sleep(QUIET)
            .map_err(Error::call("nanosleep"))
            .and_then(|()| measure());
        if let Err(error) = measured {
            eprintln!("bench: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measure_all_calls() -> Result<(), Error> {
    let peers = measure_peers()?;
    measure_calls(&peers)?;
    measure_translations(&peers)?;
    // Last: the kernel is busy with its many tables for a while after it.
    measure_searches(&peers)
}

/// Runs `operation` once to warm up and then `REPEATS` times. Returns the ticks of one, loop included.
fn measure<E>(mut operation: impl FnMut() -> Result<(), E>) -> Result<u64, E> {
    operation()?;
    let start = counter::ticks();
    for _ in 0..REPEATS {
        operation()?;
    }
    Ok(per_operation(counter::ticks() - start, REPEATS))
}

const fn per_operation(ticks: u64, operations: u64) -> u64 {
    (ticks + operations / 2) / operations
}

/// The cost of other ways to find where a page is: ticks of one pagemap entry by pread(2), of one entry when
/// many are read at once, and of PATH.
struct Peers([u64; 3]);

impl Peers {
    /// Prints a line: the ticks, and their ratio to those of each peer.
    fn print(&self, name: &str, ticks: u64) {
        let [one, bulk, path] = self.0.map(|peer| Ratio(ticks, peer));
        println!("{name:<42} {ticks:>8} {one:4.3} {bulk:6.2} {path:4.3}");
    }
}

/// The first number divided by the second, printed with the formatter's width and precision.
struct Ratio(u64, u64);

impl core::fmt::Display for Ratio {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (before, behind) = (f.width().unwrap_or(1), f.precision().unwrap_or(0));
        let scale = (0..behind).fold(1, |scale, _| scale * 10);
        let scaled = self.0 * scale / self.1.max(1);
        write!(f, "{:>before$}.{:0behind$}", scaled / scale, scaled % scale)
    }
}

/// Number of pagemap entries to read at once.
const BULK: usize = 512;

fn measure_peers() -> Result<Peers, Error> {
    println!(
        "ticks per operation, at {} Hz; ratios to:",
        counter::frequency()
    );
    println!(
        "{:<42} {:>8} {:>8} {:>9} {:>8}",
        "", "ticks", "pread", "bulk", "PATH"
    );
    let info = remap::info().map_err(Error::call("INFO"))?;
    let pagemap = Pagemap::open(process::pid(), info.page_shift).map_err(Error::call("pagemap"))?;
    // Memory with all pages present.
    let size = BULK << info.page_shift;
    let memory = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    for offset in (0..size).step_by(1 << info.page_shift) {
        write(&memory, offset, 1);
    }
    let address = memory.address();
    // A word of the stack, a mapping of few pages: pagemap reads on to the end of the level-3 table.
    let alone = core::ptr::from_ref(&info).expose_provenance() as u64;
    let mut entries = [PagemapEntry::default(); BULK];
    let one = measure(|| pagemap.entry(alone).map(drop)).map_err(Error::call("pagemap"))?;
    let full = measure(|| pagemap.entry(address).map(drop)).map_err(Error::call("pagemap"))?;
    let bulk = measure(|| pagemap.read(address, &mut entries).map(drop));
    let bulk = per_operation(bulk.map_err(Error::call("pagemap"))?, BULK as u64);
    let path = measure(|| remap::path(0, address).map(drop)).map_err(Error::call("PATH"))?;
    let peers = Peers([one, bulk, path]);
    peers.print("pagemap: pread of one entry", one);
    peers.print("pagemap: pread of one, among many pages", full);
    peers.print("pagemap: one of 512 entries", bulk);
    peers.print("PATH", path);
    Ok(peers)
}

fn measure_calls(peers: &Peers) -> Result<(), Error> {
    let info = remap::info().map_err(Error::call("INFO"))?;
    let page = Mapping::anonymous(1 << info.page_shift, Protection::READ, Sharing::Shared)
        .map_err(Error::call("mmap"))?;
    // Some mapped address: a word of the stack.
    let address = core::ptr::from_ref(&info).expose_provenance() as u64;
    let place = page.as_ptr().cast();
    // SAFETY: only this function uses the page.
    let map = || unsafe { remap::map_by_address(0, 3, address, place) };
    let frame = map().map_err(Error::call("ADDR"))?;
    let calls: [(&str, Call<'_>); 5] = [
        ("getppid", &|| {
            let _parent = black_box(process::parent_pid());
            Ok(())
        }),
        ("INFO", &|| remap::info().map(drop)),
        ("FLUSH of one page", &|| remap::flush(0, page.address(), 1)),
        ("map a level-3 table by address", &|| map().map(drop)),
        ("map a level-3 table by frame number", &|| {
            // SAFETY: only this function uses the page.
            unsafe { remap::map_by_frame(0, 3, frame, place) }
        }),
    ];
    for (name, call) in calls {
        peers.print(name, measure(call).map_err(Error::call("a measured call"))?);
    }
    Ok(())
}

/// The processes to search: their numbers of level-3 tables, and how often to search each.
const SEARCHED: [(u64, u64); 3] = [(10, 1000), (1000, 1000), (100_000, 20)];

/// Measures mapping the last table, in address order, of another process: the search by frame number, and the
/// lookup by address, whose cost does not depend on the number of tables.
fn measure_searches(peers: &Peers) -> Result<(), Error> {
    let info = remap::info().map_err(Error::call("INFO"))?;
    let page = Page::read_only(&info).map_err(Error::call("mmap"))?;
    for (tables, repeats) in SEARCHED {
        let sparse = Sparse::new(&info, tables)?;
        let (pid, address) = (sparse.pid(), sparse.address_of_table(tables - 1));
        let frame = page
            .map_address(pid, 3, address)
            .map_err(Error::call("ADDR"))?;
        let by_address = measure_map(repeats, &|| page.map_address(pid, 3, address))?;
        let by_frame = measure_map(repeats, &|| page.map(pid, 3, frame))?;
        for (form, ticks) in [("address", by_address), ("frame number", by_frame)] {
            let name: String<48> = format!("map one of {tables:>6} tables, by {form}")
                .map_err(|_| Error::Call("a name", Errno::EOVERFLOW))?;
            peers.print(&name, ticks);
        }
    }
    Ok(())
}

fn measure_map(repeats: u64, map: &dyn Fn() -> Result<u64, Errno>) -> Result<u64, Error> {
    let start = counter::ticks();
    for _ in 0..repeats {
        map().map_err(Error::call("a measured call"))?;
    }
    Ok((counter::ticks() - start) / repeats)
}

fn live_page_size() -> Result<u64, Error> {
    let info = remap::info().map_err(Error::call("INFO"))?;
    Ok(1 << info.page_shift)
}

/// Makes the compiler believe that the answer is used.
fn consume(translation: Translation) {
    black_box(translation);
}

fn measure_translations(peers: &Peers) -> Result<(), Error> {
    let mut live = Live::new(0, 1)?;
    let page_size = live.geometry().page_size();
    let size = usize::try_from(16 * page_size).unwrap_or(usize::MAX);
    let memory = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    for offset in (0..size).step_by(size / 16) {
        write(&memory, offset, 1);
    }
    let start = VirtualAddress(memory.address());
    let geometry = live.geometry();
    let cold = measure(|| tablewalk_live::translate(0, &geometry, black_box(start)).map(consume))?;
    peers.print("translate, cold: PATH, and decoded", cold);
    let steps = measure(|| {
        black_box(path(0, &geometry, black_box(start))?);
        Ok::<(), LiveError>(())
    })?;
    peers.print("all steps of it", steps);
    let mapped = measure(|| translate(&mut live, black_box(start)).map(consume))?;
    peers.print("translate, cold: one table for each level", mapped);
    let source = Live::new(0, Tables::SLOTS)?;
    let mut tables = Tables::new(source).map_err(|_| Error::Call("cache", Errno::ENOMEM))?;
    for page in 0..16 {
        tables.translate(start.wrapping_add(page * page_size))?;
    }
    let lap = |translate: &dyn Fn(VirtualAddress) -> u64| {
        let begin = counter::ticks();
        let sum = translate(start);
        black_box(sum);
        counter::ticks() - begin
    };
    let loop_alone = lap(&|start| {
        (0..REPEATS).fold(0, |sum, page| {
            let address = black_box(start.wrapping_add(page % 16 * page_size));
            black_box(Some(PhysicalAddress(address.0)));
            sum ^ page
        })
    });
    let with_calls = lap(&|start| {
        (0..REPEATS).fold(0, |sum, page| {
            let address = black_box(start.wrapping_add(page % 16 * page_size));
            black_box(translate_warm(&tables, address));
            sum ^ page
        })
    });
    let warm = with_calls - loop_alone;
    peers.print("a loop", per_operation(loop_alone, REPEATS));
    peers.print("translate, warm, with call", per_operation(warm, REPEATS));
    let missed = (0..16)
        .filter(|page| translate_warm(&tables, start.wrapping_add(page * page_size)).is_none());
    println!("# {} of 16 pages not in the cache", missed.count());
    Ok(())
}

/// Cache of leaf tables for 32 MiB, with 4K pages.
type Tables = Cache<Live, 16, 4>;

/// One call of the walker, as in a program that does not inline it.
#[inline(never)]
fn translate_warm(tables: &Tables, address: VirtualAddress) -> Option<PhysicalAddress> {
    tables.physical(address)
}
