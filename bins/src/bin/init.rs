//! `init`: process 1. Runs the programs, reports in KTAP, and ends the machine.

#![no_std]
#![no_main]

use core::ffi::CStr;
use core::fmt;

use heapless::{CString, Vec};
use tablewalk_rt::ktap::{Suite, Verdict};
use tablewalk_rt::process::{Child, execute as execve};
use tablewalk_rt::{Args, ExitCode, eprintln, print, println, semihosting};
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_RDWR, OwnedFd};
use tablewalk_uapi::poll::{Events, PollFd, poll};
use tablewalk_uapi::process::{self, Status, pidfd_open};
use tablewalk_uapi::signal::{self, Signal};
use tablewalk_uapi::system::{self, MS_NODEV, MS_NOEXEC, MS_NOSUID, Reboot};

tablewalk_rt::program!(main);

const HELP: &str = "\
Process 1: mounts what is missing, runs programs, prints KTAP, ends the machine.
On the kernel command line: -- [OPTION…] [PROGRAM [ARGUMENT…] [+ PROGRAM …]]
  --verdict=semihosting  end the emulator with status 0, 1 or 4 for PASS, FAIL or
                         SKIP; without, the machine is powered off
Programs are those in /bin; without any: the runs in DEFAULT_RUNS, all of them.
The last line is `tablewalk: PASS`, `tablewalk: FAIL`, or `tablewalk: SKIP` if
nothing could be tried.";

/// What runs when the command line names no program.
const DEFAULT_RUNS: &[&[&str]] = &[
    &["walktest"],
    &["pt", "maps", "self"],
    &["pt", "verify", "self"],
    &["uffd"],
    &["uffd", "--alias"],
    &["uffd", "--quiet", "--pages", "1000", "--rounds", "10"],
    &[
        "uffd", "--alias", "--quiet", "--pages", "1000", "--rounds", "10",
    ],
    &["contract"],
];

/// Most programs in one run, most words of one program, longest word: the kernel passes 32 words
/// (`CONFIG_INIT_ENV_ARG_LIMIT`) of a command line of 2048 bytes (`COMMAND_LINE_SIZE`).
const RUNS: usize = 16;
const WORDS: usize = 16;
const WORD: usize = 64;

/// A program and its arguments.
type Run<'a> = Vec<&'a str, WORDS>;

/// What the command line asks for.
struct Plan<'a> {
    semihosting: bool,
    runs: Vec<Run<'a>, RUNS>,
}

fn main(args: Args) -> ExitCode {
    if process::pid() != 1 {
        println!("{HELP}");
        return ExitCode::USAGE;
    }
    mount_what_is_missing();
    let mut plan = Plan {
        semihosting: false,
        runs: Vec::new(),
    };
    let status = match plan.parse(args) {
        Ok(()) => run_all(&plan.runs),
        Err(error) => {
            println!("init: command line: {error}");
            ExitCode::FAILURE
        }
    };
    println!("tablewalk: {}", verdict_word(status));
    end_machine(plan.semihosting, status)
}

const fn verdict_word(status: ExitCode) -> &'static str {
    match status {
        ExitCode::SUCCESS => "PASS",
        ExitCode::SKIP => "SKIP",
        _ => "FAIL",
    }
}

/// Mounts what programs expect, and opens the console if the kernel found none.
fn mount_what_is_missing() {
    let safe = MS_NODEV | MS_NOEXEC | MS_NOSUID;
    for (kind, name, target, flags) in [
        (c"proc", "proc", c"/proc", safe),
        (c"sysfs", "sysfs", c"/sys", safe),
        (c"devtmpfs", "devtmpfs", c"/dev", MS_NOEXEC | MS_NOSUID),
    ] {
        // It may be there already; if it cannot be made, the mount says so.
        let _ = file::make_folder(target, 0o755);
        match system::mount(kind, target, kind, flags) {
            // EBUSY: mounted already.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(errno) => println!("# init: mount {name}: {errno}"),
        }
    }
    open_console();
}

/// The kernel opens `/dev/console` for process 1 if the initramfs has it; otherwise descriptors 0
/// to 2 are closed, and devtmpfs has it now.
fn open_console() {
    if file::write_to(1, &[]) != Err(Errno::EBADF) {
        return;
    }
    for _descriptor in 0..3 {
        match file::open(c"/dev/console", O_RDWR) {
            // The lowest free number: 0, 1, 2. Kept open for good.
            Ok(fd) => core::mem::forget(fd),
            // No console at all: the verdict goes out by the other way.
            Err(_) => return,
        }
    }
}

/// What is wrong with the command line.
enum PlanError<'a> {
    NotUtf8(usize),
    UnknownOption(&'a str),
    TooMany(&'static str, usize),
    EmptyProgram,
}

impl fmt::Display for PlanError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8(position) => write!(f, "word {position} is not UTF-8"),
            Self::UnknownOption(word) => {
                write!(f, "unknown option `{word}`; there is --verdict=semihosting")
            }
            Self::TooMany(what, most) => write!(f, "too many {what}, at most {most}"),
            Self::EmptyProgram => write!(f, "no program before or after +"),
        }
    }
}

impl<'a> Plan<'a> {
    /// Parses the words after `--`. Strictly: a word that makes no sense is an error.
    fn parse(&mut self, args: Args) -> Result<(), PlanError<'a>> {
        let mut run = Run::new();
        let mut separated = false;
        for (position, word) in (1..).zip(args) {
            let word = word.map_err(|_| PlanError::NotUtf8(position))?;
            if word == "+" {
                self.push(core::mem::take(&mut run))?;
                separated = true;
            } else if run.is_empty() && self.runs.is_empty() && word.starts_with('-') {
                match word {
                    "--verdict=semihosting" => self.semihosting = true,
                    _ => return Err(PlanError::UnknownOption(word)),
                }
            } else {
                run.push(word)
                    .map_err(|_| PlanError::TooMany("words", WORDS))?;
            }
        }
        if separated || !run.is_empty() {
            self.push(run)?;
        } else {
            for words in DEFAULT_RUNS {
                let run = Run::from_slice(words);
                self.push(run.map_err(|_| PlanError::TooMany("words", WORDS))?)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, run: Run<'a>) -> Result<(), PlanError<'a>> {
        if run.is_empty() {
            return Err(PlanError::EmptyProgram);
        }
        self.runs
            .push(run)
            .map_err(|_| PlanError::TooMany("programs", RUNS))
    }
}

/// A run, as the words that started it.
struct Name<'a>(&'a Run<'a>);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            write!(f, "{}{word}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

fn run_all(runs: &[Run<'_>]) -> ExitCode {
    let mut suite = Suite::begin(runs.len());
    for run in runs {
        let verdict = match run_one(run) {
            Ok(Status::Exited(0)) => Verdict::Ok,
            Ok(Status::Exited(status)) if status == ExitCode::SKIP.0 => {
                Verdict::Skip("the program says why")
            }
            Ok(Status::Exited(status)) => {
                println!("# {}: exit status {status}", Name(run));
                Verdict::NotOk
            }
            Ok(Status::Killed(signal)) => {
                println!("# {}: killed by signal {signal}", Name(run));
                Verdict::NotOk
            }
            Err(errno) => {
                println!("# {}: {errno}", Name(run));
                Verdict::NotOk
            }
        };
        suite.report(&Name(run), verdict);
    }
    suite.end()
}

/// Runs one program and passes on what it prints, each line two columns further in: a KTAP subtest.
fn run_one(run: &Run<'_>) -> Result<Status, Errno> {
    let (output, input) = file::pipe()?;
    let child = Child::spawn(|| {
        let errno = execute(run, &input);
        eprintln!("init: {}: {errno}", Name(run));
        ExitCode(127)
    })?;
    drop(input);
    let ended = pidfd_open(child.pid())?;
    let mut lines = IndentedLines::new();
    relay(&output, &ended, &mut lines)?;
    let status = child.wait();
    reap_orphans();
    // Nobody can write any more: the rest is in the pipe.
    while lines.copy(&output)? > 0 {}
    lines.finish();
    status
}

/// Passes the output on until the program has ended.
fn relay(output: &OwnedFd, ended: &OwnedFd, lines: &mut IndentedLines) -> Result<(), Errno> {
    loop {
        let mut fds = [
            PollFd::new(output, Events::READABLE),
            PollFd::new(ended, Events::READABLE),
        ];
        match poll(&mut fds, None) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let [output_events, ended_events] = fds.map(|fd| fd.events());
        if output_events.intersects(Events::READABLE) {
            lines.copy(output)?;
        } else if !ended_events.is_empty() {
            return Ok(());
        } else {
            // The program closed its output and runs on.
            lines.finish();
            let mut fds = [PollFd::new(ended, Events::READABLE)];
            while poll(&mut fds, None) == Err(Errno::EINTR) {}
            return Ok(());
        }
    }
}

/// Kills what the program left behind and reaps it; nothing but process 1 is left then.
fn reap_orphans() {
    // Process 1 itself is not among the targets of -1.
    let _ = process::kill(-1, Signal::Kill);
    while process::wait(-1).is_ok() {}
}

/// Replaces the process by the program, its output going to `output`; returns to say what went wrong.
fn execute(run: &Run<'_>, output: &OwnedFd) -> Errno {
    let mut words = Vec::<CString<WORD>, WORDS>::new();
    for word in run {
        if c_string(&[word])
            .and_then(|word| words.push(word).ok())
            .is_none()
        {
            return Errno::E2BIG;
        }
    }
    let words: Vec<&CStr, WORDS> = words.iter().map(CString::as_c_str).collect();
    let Some(path) = run
        .first()
        .and_then(|program| c_string(&["/bin/", program]))
    else {
        return Errno::ENAMETOOLONG;
    };
    for descriptor in [1, 2] {
        if let Err(errno) = file::duplicate_to(output, descriptor) {
            return errno;
        }
    }
    execve(&path, &words)
}

fn c_string(parts: &[&str]) -> Option<CString<WORD>> {
    let mut string = CString::new();
    for part in parts {
        string.extend_from_bytes(part.as_bytes()).ok()?;
    }
    Some(string)
}

/// Lines on their way to the console, each after two spaces.
struct IndentedLines {
    line: Vec<u8, 256>,
    /// Whether the beginning of the line has been printed.
    begun: bool,
}

impl IndentedLines {
    const fn new() -> Self {
        Self {
            line: Vec::new(),
            begun: false,
        }
    }

    /// Passes on what one read returns; the number of bytes, 0 at the end.
    fn copy(&mut self, from: &OwnedFd) -> Result<usize, Errno> {
        let mut bytes = [0; 512];
        let read = file::read(from, &mut bytes)?;
        for &byte in bytes.iter().take(read) {
            if byte == b'\n' {
                self.finish();
            } else if self.line.push(byte).is_err() {
                self.print();
                let _emptied = self.line.push(byte);
            }
        }
        Ok(read)
    }

    /// Prints what there is of a line, as far as it is whole characters.
    fn print(&mut self) {
        let indentation = if self.begun { "" } else { "  " };
        let whole = match core::str::from_utf8(&self.line) {
            Ok(_) => self.line.len(),
            // The rest of a character comes with the next bytes.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => 0,
        };
        let (text, rest) = self.line.split_at_checked(whole).unwrap_or_default();
        match core::str::from_utf8(text) {
            Ok(text) if !text.is_empty() => print!("{indentation}{text}"),
            _ => print!("{indentation}# not UTF-8"),
        }
        let rest = Vec::from_slice(if whole == 0 { &[] } else { rest });
        self.line = rest.unwrap_or_default();
        self.begun = true;
    }

    /// Ends a line, if there is one.
    fn finish(&mut self) {
        if !self.line.is_empty() {
            self.print();
        }
        if self.begun {
            println!("");
        }
        self.line.clear();
        self.begun = false;
    }
}

/// Says goodbye: what was printed has left the machine when the power goes.
fn end_machine(semihosting: bool, status: ExitCode) -> ! {
    // No terminal, nothing to wait for.
    let _ = file::drain_terminal(1);
    system::sync();
    if semihosting {
        semihosting::exit(status.0);
    }
    if let Err(errno) = system::reboot(Reboot::PowerOff) {
        println!("init: power-off: {errno}");
    }
    // Not reached where power-off works. Process 1 must not end: that is a kernel panic.
    loop {
        signal::pause();
    }
}
