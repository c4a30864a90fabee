//! `scene`: a process that makes a good picture, and the output of `pt` for it.

#![expect(unsafe_code, reason = "forks")]
#![no_std]
#![cfg_attr(not(test), no_main)]

use core::ffi::CStr;
use core::time::Duration;

use heapless::{CString, String, Vec, format};
use tablewalk_rt::cli;
use tablewalk_rt::memory::write;
use tablewalk_rt::process::{Fork, execute};
use tablewalk_rt::semihosting::HostFile;
use tablewalk_rt::{Args, ExitCode, eprintln, println};
use tablewalk_testkit::prerequisite;
use tablewalk_uapi::file::{self, O_RDONLY};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::process::Status;
use tablewalk_uapi::{Errno, Mapping, Sharing, process, time};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: scene FOLDER [COMMAND...]
Maps memory of many kinds, writes to it all the time, and runs `pt` on itself:
`save`, `walk`, `maps`, `diff`, and each COMMAND, whose words are separated by
commas (`dirty,--count,9`). Copies a dump from before and one from after to the
host, by semihosting, as FOLDER/before.pt and FOLDER/after.pt.
Needs a kernel with remap_page_table, /proc, root, and QEMU with semihosting.";

/// Where the dumps are until they are copied to the host.
const BEFORE: &CStr = c"/tmp/before.pt";
const AFTER: &CStr = c"/tmp/after.pt";

/// Bytes to copy at once.
const PIECE: usize = 4096;
/// Time between two steps of the writer.
const STEP: Duration = Duration::from_millis(2);

/// Pages of the mappings.
const WAVE: usize = 1024;
const COMB: usize = 192;
/// Pages at the start of a comb that are not written again once they exist.
const KEPT: usize = 64;
const BLOCKS: usize = 4096;

/// Maximum number of words of a command for `pt`.
const WORDS: usize = 16;
type Words = Vec<CString<64>, WORDS>;

/// Memory of many kinds.
struct Scene {
    page: usize,
    /// Written in order, in huge pages if the kernel has them.
    _blocks: Mapping,
    /// Two mappings whose pages are touched alternately, so that neither has consecutive frames.
    combs: [Mapping; 2],
    /// Written as a ring; pages behind the writer are discarded.
    wave: Mapping,
    /// Written, and then made read-only, executable, or inaccessible.
    _kept: Vec<Mapping, 4>,
    /// Number of steps so far.
    steps: usize,
}

impl Scene {
    fn new(page: usize) -> Result<Self, Errno> {
        let blocks = memory(page, BLOCKS)?;
        fill(&blocks, page, 0..BLOCKS * 3 / 4);
        let comb = || {
            let mapping = memory(page, COMB)?;
            mapping.base_pages_only()?;
            Ok(mapping)
        };
        let combs = [comb()?, comb()?];
        for index in 0..COMB {
            for comb in &combs {
                fill(comb, page, index..index + 1);
            }
        }
        let wave = memory(page, WAVE)?;
        wave.base_pages_only()?;
        let mut kept = Vec::new();
        for protection in [
            Protection::READ,
            Protection::READ | Protection::EXECUTE,
            Protection::NONE,
        ] {
            let mapping = memory(page, 48)?;
            fill(&mapping, page, 0..48);
            mapping.protect(0..32 * page, protection)?;
            let _room = kept.push(mapping);
        }
        Ok(Self {
            page,
            _blocks: blocks,
            combs,
            wave,
            _kept: kept,
            steps: 0,
        })
    }

    /// Writes some pages and discards others.
    fn step(&mut self) -> Result<(), Errno> {
        let (page, step) = (self.page, self.steps);
        self.steps += 1;
        // A fast front, a slow one, and a few pages that are always written.
        let front = step * 3 % WAVE;
        fill(&self.wave, page, front..(front + 12).min(WAVE));
        let tail = (front + WAVE / 2) % (WAVE - 32);
        self.wave
            .advise(tail * page..(tail + 8) * page, Advice::DontNeed)?;
        let [comb, other] = &self.combs;
        let tooth = KEPT + step / 4 % (COMB - KEPT);
        fill(comb, page, tooth..tooth + 1);
        fill(other, page, 0..4);
        Ok(())
    }

    /// Makes a difference to show between two dumps.
    fn change(&self) -> Result<(), Errno> {
        let [comb, other] = &self.combs;
        comb.protect(0..KEPT * self.page, Protection::READ)?;
        other.advise(96 * self.page..128 * self.page, Advice::DontNeed)
    }
}

/// Maps pages that no child inherits, since fork would write-protect them.
fn memory(page: usize, pages: usize) -> Result<Mapping, Errno> {
    let size = pages * page;
    let mapping = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Private)?;
    mapping.advise(0..size, Advice::DontFork)?;
    Ok(mapping)
}

fn fill(mapping: &Mapping, page: usize, pages: core::ops::Range<usize>) {
    for index in pages {
        write(mapping, index * page, index as u64 + 1);
    }
}

fn main(mut args: Args) -> ExitCode {
    let (folder, commands) = match parse(&mut args) {
        Ok(parsed) => parsed,
        Err(status) => return status,
    };
    if let Err(status) = prerequisite::info("scene") {
        return status;
    }
    run(folder, &commands).unwrap_or_else(|(what, errno)| {
        eprintln!("scene: {what}: {errno}");
        ExitCode::FAILURE
    })
}

/// Returns the folder on the host, and the commands for `pt`.
fn parse(args: &mut Args) -> Result<(&'static str, Vec<&'static str, 8>), ExitCode> {
    let Some(folder) = cli::next(args, HELP)? else {
        return Err(cli::refuse(args, format_args!("no folder")));
    };
    let mut commands = Vec::new();
    while let Some(command) = cli::next(args, HELP)? {
        if commands.push(command).is_err() {
            return Err(cli::refuse(
                args,
                format_args!("{command}: too many commands"),
            ));
        }
    }
    Ok((folder, commands))
}

/// The operation that failed, and its error.
type Failed = (&'static str, Errno);

fn run(folder: &str, commands: &[&'static str]) -> Result<ExitCode, Failed> {
    let format = tablewalk_live::format().map_err(|_| ("the format of tables", Errno::ENOSYS))?;
    let page = 1 << format.geometry.page_shift();
    let mut scene = Scene::new(page).map_err(|errno| ("memory", errno))?;
    for _ in 0..120 {
        scene.step().map_err(|errno| ("memory", errno))?;
    }
    show(&mut scene, "save,/tmp/before.pt")?;
    scene.change().map_err(|errno| ("memory", errno))?;
    let own = ["diff,--count,40,--interval,25,--json"];
    for command in own.iter().chain(commands) {
        show(&mut scene, command)?;
    }
    for command in ["save,/tmp/after.pt", "walk,--json", "maps,--json"] {
        show(&mut scene, command)?;
    }
    for (path, name) in [(BEFORE, "before.pt"), (AFTER, "after.pt")] {
        let copied: CString<128> = c_string(&[folder, "/", name]).map_err(|errno| (name, errno))?;
        let bytes = copy(path, &copied).map_err(|errno| (name, errno))?;
        println!("{folder}/{name}: {bytes} bytes");
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `pt` with `command` on this process, which writes meanwhile. While `pt` saves a dump, the process
/// does not write.
fn show(scene: &mut Scene, command: &'static str) -> Result<(), Failed> {
    let words = words(command).map_err(|errno| (command, errno))?;
    let goes_on = !command.starts_with("save");
    let failed = |errno| (command, errno);
    // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }
        .spawn(|| {
            let words: Vec<&CStr, WORDS> = words.iter().map(CString::as_c_str).collect();
            let errno = execute(c"/bin/pt", &words);
            eprintln!("scene: /bin/pt: {errno}");
            ExitCode(127)
        })
        .map_err(failed)?;
    while goes_on && child.is_running().map_err(failed)? {
        scene.step().map_err(failed)?;
        // The sleep is not interrupted, since there is no signal handler.
        let _ = time::sleep(STEP);
    }
    match child.wait().map_err(failed)? {
        Status::Exited(0) => Ok(()),
        Status::Exited(_) | Status::Killed(_) => Err((command, Errno::ECHILD)),
    }
}

/// Turns `COMMAND,OPTION,...` into `pt COMMAND PID OPTION...`.
fn words(command: &str) -> Result<Words, Errno> {
    let pid: String<16> = format!("{}", process::pid()).map_err(|_| Errno::EOVERFLOW)?;
    let mut parts = command.split(',');
    let name = parts.next().unwrap_or_default();
    let mut words = Words::new();
    for word in ["pt", name, &pid].into_iter().chain(parts) {
        words.push(c_string(&[word])?).map_err(|_| Errno::E2BIG)?;
    }
    Ok(words)
}

fn c_string<const N: usize>(parts: &[&str]) -> Result<CString<N>, Errno> {
    let mut string = CString::new();
    for part in parts {
        let added = string.extend_from_bytes(part.as_bytes());
        added.map_err(|_| Errno::ENAMETOOLONG)?;
    }
    Ok(string)
}

/// Copies a file to the host. Returns the number of bytes.
fn copy(path: &CStr, name: &CStr) -> Result<usize, Errno> {
    let fd = file::open(path, O_RDONLY)?;
    let mut host = HostFile::create(name).ok_or(Errno::EIO)?;
    let mut piece = [0; PIECE];
    let mut copied = 0;
    loop {
        let read = file::read(&fd, &mut piece)?;
        let Some(bytes @ [_, ..]) = piece.get(..read) else {
            return Ok(copied);
        };
        if !host.write(bytes) {
            return Err(Errno::EIO);
        }
        copied += read;
    }
}
