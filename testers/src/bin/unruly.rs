//! `unruly`: misbehaving programs that init must survive. tests/init.py boots each of them.

#![no_std]
#![cfg_attr(not(test), no_main)]
#![expect(
    unsafe_code,
    reason = "forks; no value here has something that a child lacks"
)]

use core::ffi::CStr;
use core::mem::ManuallyDrop;

use heapless::{CString, String, Vec, format};
use tablewalk_proc::path::proc_path;
use tablewalk_rt::process::{Child, Fork, execute};
use tablewalk_rt::{Args, ExitCode, println};
use tablewalk_testkit::swap::{AREA, Swap};
use tablewalk_uapi::file::{self, O_NOCTTY, O_RDONLY, O_WRONLY, OwnedFd};
use tablewalk_uapi::process::Status;
use tablewalk_uapi::signal::Signal;
use tablewalk_uapi::{Errno, process, remap, signal, terminal};

tablewalk_rt::program!(main);

const HELP: &str = "\
unruly shout      prints without pause
unruly haunt      leaves an orphan that prints without pause, and exits
unruly orphans    makes 1,000 orphans, and counts those that are not reaped
unruly stop       stops the console, and prints more than the kernel buffers
unruly forge      prints characters that look like the end of a line
unruly full PROGRAM [ARGUMENT...]
                  executes /bin/PROGRAM with a full device as its output
unruly gone       kills a process while pt shows which of its pages are written
unruly trackers   runs two trackers of one process at a time, pt or checkpoint
unruly swap       tries to swap to the RAM disk while it is in use
unruly zram       swaps to zram after swapon has refused a disk of one page";

/// Number of orphans.
const ORPHANS: u32 = 1_000;

/// Maximum number of orphans that wait to be reaped: init needs CPU time for it.
const MOST_ZOMBIES: u64 = 200;

fn main(mut args: Args) -> ExitCode {
    let result = match args.next() {
        Some(Ok("shout")) => shout(),
        Some(Ok("haunt")) => haunt(),
        Some(Ok("orphans")) => make_orphans(),
        Some(Ok("stop")) => stop(),
        Some(Ok("forge")) => {
            println!("one\rok 1 forged\n\x1b[2K\x0bok 2 forged\r\n\u{85}not ok 3 forged\ttab");
            Ok(ExitCode::SUCCESS)
        }
        Some(Ok("swap")) => swap(),
        Some(Ok("zram")) => zram(),
        Some(Ok("gone")) => gone(),
        Some(Ok("trackers")) => trackers(),
        Some(Ok("full")) => Err(full(args)),
        _ => {
            println!("{HELP}");
            return ExitCode::USAGE;
        }
    };
    result.unwrap_or_else(|errno| {
        println!("# {errno}");
        ExitCode::FAILURE
    })
}

fn shout() -> ! {
    loop {
        println!("shout");
    }
}

fn haunt() -> Result<ExitCode, Errno> {
    // SAFETY: the child prints, and uses no value of the parent.
    match unsafe { process::fork() }? {
        None => shout(),
        Some(_) => Ok(ExitCode::SUCCESS),
    }
}

fn make_orphans() -> Result<ExitCode, Errno> {
    let before = tasks()?;
    let mut most = 0;
    for _ in 0..ORPHANS {
        // SAFETY: the child uses nothing of the parent.
        match unsafe { process::fork() }? {
            Some(child) => process::wait(child)?,
            None => {
                // The orphan ends as soon as it runs, whatever happens to its parent.
                // SAFETY: it ends at once.
                let _ = unsafe { process::fork() };
                process::exit(0)
            }
        };
        most = most.max(tasks()?.saturating_sub(before));
    }
    println!("# at most {most} of {ORPHANS} orphans were not reaped");
    Ok(if most <= MOST_ZOMBIES {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Returns the number of threads and zombies in the system: the number after the slash in `/proc/loadavg`.
fn tasks() -> Result<u64, Errno> {
    let mut bytes = [0; 64];
    let read = file::read(&file::open(c"/proc/loadavg", O_RDONLY)?, &mut bytes)?;
    let text = core::str::from_utf8(bytes.get(..read).unwrap_or_default());
    text.ok()
        .and_then(|text| text.split(['/', ' ']).nth(4)?.parse().ok())
        .ok_or(Errno::EINVAL)
}

fn stop() -> Result<ExitCode, Errno> {
    let console = file::open(c"/dev/console", O_WRONLY | O_NOCTTY)?;
    terminal::stop(console.borrow())?;
    // The kernel buffers a page for a serial port that is stopped.
    for line in 0..100 {
        println!("{line:100}");
    }
    // Stop it again, for the verdict.
    terminal::stop(console.borrow()).map(|()| ExitCode::SUCCESS)
}

/// Executes a program whose standard output is a full device. Returns only on failure, with the error.
fn full(args: Args) -> Errno {
    let mut words = Vec::<CString<64>, 16>::new();
    let mut path = CString::<72>::new();
    for word in args {
        let mut string = CString::new();
        let copied = word.is_ok_and(|word| string.extend_from_bytes(word.as_bytes()).is_ok());
        if !copied || words.push(string).is_err() {
            return Errno::E2BIG;
        }
    }
    let program = words.first().map_or(&[][..], |name| name.to_bytes());
    if [b"/bin/", program]
        .iter()
        .any(|part| path.extend_from_bytes(part).is_err())
    {
        return Errno::E2BIG;
    }
    let full = match file::open(c"/dev/full", O_WRONLY) {
        Ok(full) => full,
        Err(errno) => return errno,
    };
    // SAFETY: no value owns it, and nothing is printed before the other program runs.
    let mut stdout = ManuallyDrop::new(unsafe { OwnedFd::from_number(1) });
    if let Err(errno) = file::duplicate_to(&full, &mut stdout) {
        return errno;
    }
    let words: Vec<&CStr, 16> = words.iter().map(CString::as_c_str).collect();
    execute(&path, &words)
}

/// Starts two programs that track one process: the second must be refused, and the first must go on.
fn trackers() -> Result<ExitCode, Errno> {
    let (_idler, pid) = idler()?;
    let dirty = |count| {
        start(
            c"/bin/pt",
            &[
                c"pt",
                c"dirty",
                &pid,
                c"--interval",
                c"50",
                c"--count",
                count,
            ],
        )
    };
    let checkpoint = |rounds| {
        let words = [
            c"checkpoint",
            c"--interval",
            c"50",
            c"--rounds",
            rounds,
            &pid,
        ];
        start(c"/bin/checkpoint", &words)
    };
    let mut as_expected = true;
    for is_checkpoint in [false, true] {
        let first = if is_checkpoint {
            checkpoint(c"100")?
        } else {
            dirty(c"100")?
        };
        while !is_tracker(first.pid())? {
            process::yield_now();
        }
        let second = [dirty(c"1")?.wait()?, checkpoint(c"1")?.wait()?];
        let first = first.wait()?;
        println!("# first {first:?}, then {second:?}");
        as_expected &= first == Status::Exited(0) && second == [Status::Exited(1); 2];
    }
    Ok(if as_expected {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Starts a process that waits. Returns it, with its number.
fn idler() -> Result<(Child, CString<16>), Errno> {
    // SAFETY: the child uses nothing of its parent.
    let idler = unsafe { Fork::promised() }.spawn(|| {
        loop {
            signal::pause();
        }
    })?;
    let mut pid = CString::new();
    let digits: String<16> = format!("{}", idler.pid()).map_err(|_| Errno::EINVAL)?;
    pid.extend_from_bytes(digits.as_bytes())
        .map_err(|_| Errno::EINVAL)?;
    Ok((idler, pid))
}

/// Starts a program.
fn start(path: &CStr, words: &[&CStr]) -> Result<Child, Errno> {
    // SAFETY: the child only reads strings.
    unsafe { Fork::promised() }.spawn(|| {
        let errno = execute(path, words);
        println!("# {errno}");
        ExitCode(127)
    })
}

/// Checks that `pt` reports the end of the process that it watches.
fn gone() -> Result<ExitCode, Errno> {
    let (idler, pid) = idler()?;
    let pt = start(c"/bin/pt", &[c"pt", c"dirty", &pid, c"--interval", c"50"])?;
    while !is_tracker(pt.pid())? {
        process::yield_now();
    }
    process::kill(idler.pid(), Signal::Kill)?;
    idler.wait()?;
    Ok(if pt.wait()? == Status::Exited(1) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Returns whether a process has the name of a tracker, or has ended.
fn is_tracker(pid: i32) -> Result<bool, Errno> {
    let mut bytes = [0; 64];
    let read = file::read(&file::open(&proc_path(pid, "stat")?, O_RDONLY)?, &mut bytes)?;
    let stat = bytes.get(..read).unwrap_or_default();
    Ok(stat.windows(7).any(|part| part == b"(dirty@") || process::has_ended(pid)?)
}

/// Checks that the swap area is neither taken nor written while it is in use.
fn swap() -> Result<ExitCode, Errno> {
    let mut contents = [[0; 4096]; 2];
    let [before, after] = &mut contents;
    file::read(&file::open(AREA, O_RDONLY)?, before)?;
    let taken = Swap::on().is_some();
    file::read(&file::open(AREA, O_RDONLY)?, after)?;
    println!("# swap: {taken}, written: {}", before != after);
    Ok(if taken || before != after {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Checks that zram can be used after swapon has refused it: swap of one page, which is the header, is empty.
fn zram() -> Result<ExitCode, Errno> {
    let page = 1 << remap::info()?.page_shift;
    let empty = Swap::compressed(page).is_some();
    let next = Swap::compressed(1024 * page).is_some();
    println!("# zram: empty {empty}, next {next}");
    Ok(if next && !empty {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
