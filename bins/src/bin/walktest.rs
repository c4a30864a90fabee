//! `walktest`: walks live page tables, prints them, and compares them with pagemap.

#![expect(unsafe_code, reason = "forks")]
#![no_std]
#![cfg_attr(not(test), no_main)]

use heapless::{CString, String, format};
use tablewalk_live::Live;
use tablewalk_proc::pagemap::Pagemap;
use tablewalk_rt::cli;
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::memory::write;
use tablewalk_rt::process::Fork;
use tablewalk_rt::{Args, ExitCode, println};
use tablewalk_testkit::compare::compare_all;
use tablewalk_testkit::error::Error;
use tablewalk_testkit::prerequisite::call_or_pt;
use tablewalk_testkit::pt;
use tablewalk_uapi::file;
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::process::Status;
use tablewalk_uapi::{Errno, Mapping, Sharing, process, signal};
use tablewalk_walker::{Format, Level, TableSource, VirtualAddress, entry};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: walktest [--pid PID]
Walks the page tables of a child process and of itself, prints them as trees,
compares every page with /proc/PID/pagemap, and watches the kernel change a table
while it is mapped. Prints KTAP.
  --pid PID  walk process PID instead of a child
  --help     print this text
Needs /proc and root. On a kernel without remap_page_table it runs `pt verify` from
/bin instead, which compares copies of the tables; the last test is then skipped.";

const TESTS: &[Case<Context, Error>] = &[
    Case {
        name: "every page of another process is where pagemap says",
        run: walk_other,
    },
    Case {
        name: "every page of this process is where pagemap says",
        run: walk_self,
    },
    Case {
        name: "a mapped table shows what the kernel does",
        run: watch,
    },
];

struct Context {
    /// The process to walk; `None` creates a child.
    pid: Option<i32>,
    /// Whether this program maps the tables; otherwise `pt` copies them.
    live: bool,
}

impl Context {
    /// Compares the tables of a process with pagemap.
    fn compare(&self, pid: i32) -> Result<Verdict, Error> {
        if self.live {
            return compare_all(pid, true).map(Verdict::from);
        }
        let mut number = CString::<16>::new();
        let digits: String<16> = format!("{pid}").unwrap_or_default();
        // Sixteen are enough.
        let _room = number.extend_from_bytes(digits.as_bytes());
        Ok(match pt::run(&[c"verify", &number])? {
            Status::Exited(0) => Verdict::Ok,
            Status::Exited(status) if status == ExitCode::SKIP.0 => {
                Verdict::Skip("this kernel has no remap_page_table, and pt no source")
            }
            _ => Verdict::NotOk,
        })
    }
}

fn main(args: Args) -> ExitCode {
    let live = |pid| call_or_pt("walktest").map(|live| Context { pid, live });
    match parse(args).and_then(live) {
        Ok(mut context) => ktap::run(&mut context, &[TESTS]),
        Err(status) => status,
    }
}

fn parse(mut args: Args) -> Result<Option<i32>, ExitCode> {
    let mut pid = None;
    while let Some(argument) = cli::next(&mut args, HELP)? {
        match argument {
            "--pid" => {
                let number = cli::number(&mut args, HELP, "--pid", i32::MAX.cast_unsigned())?;
                pid = Some(number.cast_signed());
            }
            _ => return Err(cli::unknown(&args, argument)),
        }
    }
    Ok(pid)
}

fn walk_other(context: &mut Context) -> Result<Verdict, Error> {
    if let Some(pid) = context.pid {
        return context
            .compare(pid)
            .inspect_err(|_| println!("# process {pid}"));
    }
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    // SAFETY: the child has a copy of memory, pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }
        .spawn(|| {
            let memory = Specimens::new();
            if memory.is_ok() && file::write(&writer, b".").is_ok() {
                // Its tables stay as they are until it is killed.
                signal::pause();
            }
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
    drop(writer);
    match file::read(&reader, &mut [0]) {
        Ok(1) => context.compare(child.pid()),
        Ok(_) => Err(Error::Call("the child's memory", Errno::ENOMEM)),
        Err(errno) => Err(Error::Call("pipe", errno)),
    }
}

/// Memory with one page of each kind: written, read-only, without access, and a huge page if the kernel
/// allocates one.
struct Specimens {
    _small: Mapping,
    _large: Mapping,
}

impl Specimens {
    fn new() -> Result<Self, Errno> {
        // A multiple of every page size, and a size that contains aligned 2 MiB, which are a block with 4K pages.
        const PAGE: usize = 64 << 10;
        const LARGE: usize = 4 << 20;
        let small = Mapping::anonymous(3 * PAGE, Protection::READ_WRITE, Sharing::Private)?;
        small.base_pages_only()?;
        for offset in [0, PAGE, 2 * PAGE] {
            write(&small, offset, 1);
        }
        small.protect(PAGE..2 * PAGE, Protection::READ)?;
        small.protect(2 * PAGE..3 * PAGE, Protection::NONE)?;
        let large = Mapping::anonymous(LARGE, Protection::READ_WRITE, Sharing::Private)?;
        // Fails on a kernel without huge pages.
        let _advised = large.advise(0..LARGE, Advice::HugePage);
        for offset in (0..LARGE).step_by(LARGE / 4) {
            write(&large, offset, 1);
        }
        Ok(Self {
            _small: small,
            _large: large,
        })
    }
}

fn walk_self(context: &mut Context) -> Result<Verdict, Error> {
    context.compare(process::pid())
}

/// Keeps a leaf table mapped while the kernel adds a page to it and takes it away.
fn watch(context: &mut Context) -> Result<Verdict, Error> {
    if !context.live {
        return Ok(Verdict::Skip(
            "tables are copied here, and a copy does not change",
        ));
    }
    let mut live = Live::new(0, 1)?;
    let Format {
        geometry, linux, ..
    } = live.format();
    let page = usize::try_from(geometry.page_size()).unwrap_or(usize::MAX);
    let memory = Mapping::anonymous(2 * page, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    memory.base_pages_only().map_err(Error::call("madvise"))?;
    // The first page makes the kernel allocate the level-3 table, except when the second page has another table.
    write(&memory, 0, 1);
    write(&memory, page, 1);
    let address = VirtualAddress(memory.address() + page as u64);
    memory
        .advise(page..2 * page, Advice::DontNeed)
        .map_err(Error::call("madvise"))?;

    let pagemap = Pagemap::open(process::pid(), geometry.page_shift());
    let pagemap = pagemap.map_err(Error::call("pagemap"))?;
    let Some(entry) = entry(&mut live, 0, address)? else {
        println!("# no table for {address}");
        return Ok(Verdict::NotOk);
    };
    let before = entry.load();
    write(&memory, page, 2);
    let after = entry.load();
    let witness = pagemap.entry(address.0).map_err(Error::call("pagemap"))?;
    let appeared = !linux.is_present(before, Level::L3) && after.is_valid();
    let frame = after.next_table(&geometry).0;
    if appeared {
        println!("Can see kernel's modification: {address} is frame {frame:#x} now");
    }
    drop(memory);
    let gone = !linux.is_present(entry.load(), Level::L3);
    if gone {
        println!("Can see it vanish with munmap");
    }
    Ok((appeared && gone && witness.is_present() && witness.frame() == frame).into())
}
