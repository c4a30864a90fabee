//! The command line.

use core::time::Duration;

use heapless::Vec;
use tablewalk_dirty::What as Tracked;
use tablewalk_proc::lines::parse_number;
use tablewalk_rt::cli;
use tablewalk_rt::{Args, ExitCode};
use tablewalk_walker::{FrameNumber, Level, VirtualAddress};

use crate::options::{Options, SourceKind};

const HELP: &str = "\
Usage: pt COMMAND TARGET [OPTION...]
Shows page tables. TARGET is the number of a process, `self`, `kernel` for the
kernel's own tables (only with bpf and kcore), or a file that `pt save` wrote.
  walk TARGET [--level N]       the tree, down to tables of level N
  maps TARGET [--frames]        ranges of equal attributes, with the names from
                                /proc/PID/maps; --frames: of consecutive frames
  translate TARGET ADDRESS...   each address, one line per level
  find TARGET WHAT              WHAT: --wx (writable and executable), --alias (frames
                                mapped twice), --frame PFN, --block, --dirty, --young
  find all --frame PFN          the same in every process
  diff PID [--interval MS] [--count N]
                                entries that change, every second, for ever
  diff TARGET TARGET            entries that differ; 1 if any does
  dirty PID [--interval MS] [--count N]
                                pages that are written, every second, for ever
  idle PID [--interval MS] [--count N]
                                pages that are used; all others are idle
                                (dirty and idle fail with EBUSY if /proc shows
                                another pt or checkpoint that tracks the process)
  stat TARGET                   statistics by level, size, permission, memory type
  verify PID                    compares every page with pagemap; 1 if any differs
  save PID FILE                 writes all tables to FILE, which must not exist
Options of all:
  --json                        JSON lines: see docs/json.md
  --range START-END             addresses from START to before END; not for translate
  --source call|module|bpf|kcore
                                how to read tables; default: the first that works
                                call   map the live tables: remap_page_table
                                module the same by /dev/remap_page_table
                                bpf    copy each with a BPF program, under RCU
                                kcore  copy each from /proc/kcore, and read the
                                       descriptors that lead to it twice
Addresses and frame numbers are hexadecimal, with or without 0x. A tag in the top
byte of an address is removed, and shown separately.
Columns: EL0 is what user space may do now, EL1 what the kernel may.
FLAGS: A accessed, D dirty, W Linux lets it be written, C contiguous, S special,
V memory of a device, B guarded (BTI), G global, U write-protected by userfaultfd.
maps, find and stat show A and D of the whole contiguous block, as Linux does.
After the flags: the memory type if not Normal, GCS for a guarded control stack
(only the instructions for such stacks write it), the protection key if not 0
(POR_EL0 may permit less than EL0 says), the shareability if not ISH.
Needs root, except for a file.";

/// Maximum number of addresses on one command line: the kernel passes at most 32 words to init.
const ADDRESSES: usize = 32;
/// Maximum number of words besides command and options.
const WORDS: usize = ADDRESSES + 1;

/// The parsed command line.
pub(crate) struct Request {
    pub(crate) name: &'static str,
    pub(crate) command: Command,
    pub(crate) target: &'static str,
    /// The addresses to translate.
    pub(crate) addresses: Vec<VirtualAddress, ADDRESSES>,
    pub(crate) options: Options,
}

/// A command.
#[derive(Clone, Copy)]
pub(crate) enum Command {
    Walk,
    Maps,
    Translate,
    Find(What),
    /// Compares the target with its later state, or with another target.
    Diff(Option<&'static str>),
    /// Shows pages that are written, or accessed.
    Heat(Tracked),
    Stat,
    Verify,
    /// Saves the tables to a file.
    Save(&'static str),
}

/// What to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    WritableExecutable,
    Alias,
    Frame(FrameNumber),
    Block,
    Dirty,
    Young,
}

/// Parses the command line, strictly.
///
/// # Errors
///
/// The status to exit with, after the reason was printed.
pub(crate) fn parse(mut args: Args) -> Result<Request, ExitCode> {
    let Some(name) = cli::next(&mut args, HELP)? else {
        return Err(cli::refuse(&args, format_args!("no command")));
    };
    let mut options = Options::DEFAULT;
    let mut what = None;
    let mut words = Vec::<&'static str, WORDS>::new();
    while let Some(argument) = cli::next(&mut args, HELP)? {
        if argument.starts_with('-') {
            let found = parse_option(&mut args, name, argument, &mut options)?;
            if found.is_some() && what.is_some() {
                return Err(cli::refuse(
                    &args,
                    format_args!("{argument}: one thing at a time"),
                ));
            }
            what = what.or(found);
        } else if words.push(argument).is_err() {
            return Err(cli::refuse(&args, format_args!("too many words")));
        }
    }
    let once = options.interval.is_none() && options.count.is_none();
    let (command, target, addresses) = match (name, words.as_slice(), what) {
        ("walk", &[target], _) => (Command::Walk, target, &[][..]),
        ("maps", &[target], _) => (Command::Maps, target, &[][..]),
        ("translate", &[target, _, ..], _) => (
            Command::Translate,
            target,
            words.get(1..).unwrap_or_default(),
        ),
        ("find", &[target], Some(what)) => (Command::Find(what), target, &[][..]),
        ("diff", &[target], _) => (Command::Diff(None), target, &[][..]),
        ("diff", &[target, other], _) if once => (Command::Diff(Some(other)), target, &[][..]),
        ("dirty", &[target], _) => (Command::Heat(Tracked::Written), target, &[][..]),
        ("idle", &[target], _) => (Command::Heat(Tracked::Accessed), target, &[][..]),
        ("stat", &[target], _) => (Command::Stat, target, &[][..]),
        ("verify", &[target], _) => (Command::Verify, target, &[][..]),
        ("save", &[target, file], _) => (Command::Save(file), target, &[][..]),
        _ => {
            let needs = match name {
                "walk" | "maps" | "stat" => "TARGET",
                "translate" => "TARGET ADDRESS...",
                "find" => "TARGET WHAT",
                "diff" => "PID or TARGET TARGET",
                "dirty" | "idle" | "verify" => "PID",
                "save" => "PID FILE",
                _ => return Err(cli::unknown(&args, name)),
            };
            let most = if matches!(name, "diff" | "save") {
                2
            } else {
                1
            };
            if let Some(word) = words.get(most) {
                return Err(cli::unknown(&args, word));
            }
            if name == "diff" && words.len() == most {
                let refused = format_args!("diff of two targets: no --interval or --count");
                return Err(cli::refuse(&args, refused));
            }
            return Err(cli::refuse(&args, format_args!("{name} needs {needs}")));
        }
    };
    if target.is_empty() {
        return Err(cli::unknown(&args, target));
    }
    let mut request = Request {
        name,
        command,
        target,
        addresses: Vec::new(),
        options,
    };
    for word in addresses {
        let Some(address) = parse_hexadecimal(word) else {
            return Err(cli::refuse(&args, format_args!("{word}: not an address")));
        };
        // As many as there are words.
        let _room = request.addresses.push(VirtualAddress(address));
    }
    Ok(request)
}

/// Parses an option of the command `name`. Returns what to find, if the option says that.
fn parse_option(
    args: &mut Args,
    name: &str,
    option: &'static str,
    options: &mut Options,
) -> Result<Option<What>, ExitCode> {
    match (name, option) {
        (_, "--json") => options.json = true,
        // `translate` has addresses instead.
        (name, "--range") if name != "translate" => {
            let word = value(args, option)?;
            match parse_range(word) {
                Some(range) => options.range = range,
                None => return Err(not(args, option, word, "START-END")),
            }
        }
        ("walk", "--level") => {
            let word = value(args, option)?;
            let level = match word.as_bytes() {
                b"-1" => Some(Level::LMinus1),
                [digit @ b'0'..=b'3'] => Level::try_from(digit.cast_signed() - 48).ok(),
                _ => None,
            };
            match level {
                Some(level) => options.level = level,
                None => return Err(not(args, option, word, "a level from -1 to 3")),
            }
        }
        (_, "--source") => {
            let word = value(args, option)?;
            options.source = Some(match word {
                "call" => SourceKind::Call,
                "module" => SourceKind::Module,
                "bpf" => SourceKind::Bpf,
                "kcore" => SourceKind::Kcore,
                _ => return Err(not(args, option, word, "call, module, bpf or kcore")),
            });
        }
        ("maps", "--frames") => options.frames = true,
        ("diff" | "dirty" | "idle", "--interval") => {
            let milliseconds = cli::number(args, HELP, option, 1_000_000)?;
            options.interval = Some(Duration::from_millis(milliseconds.into()));
        }
        ("diff" | "dirty" | "idle", "--count") => {
            options.count = Some(cli::number(args, HELP, option, u32::MAX)?);
        }
        ("find", "--wx") => return Ok(Some(What::WritableExecutable)),
        ("find", "--alias") => return Ok(Some(What::Alias)),
        ("find", "--block") => return Ok(Some(What::Block)),
        ("find", "--dirty") => return Ok(Some(What::Dirty)),
        ("find", "--young") => return Ok(Some(What::Young)),
        ("find", "--frame") => {
            let word = value(args, option)?;
            return match parse_hexadecimal(word) {
                Some(frame) => Ok(Some(What::Frame(FrameNumber(frame)))),
                None => Err(not(args, option, word, "a frame number")),
            };
        }
        _ => return Err(cli::unknown(args, option)),
    }
    Ok(None)
}

/// Prints that the value of `option` is invalid.
fn not(args: &Args, option: &str, word: &str, expected: &str) -> ExitCode {
    cli::refuse(args, format_args!("{option} {word}: not {expected}"))
}

/// Returns the value of `option`.
fn value(args: &mut Args, option: &str) -> Result<&'static str, ExitCode> {
    cli::next(args, HELP)?.ok_or_else(|| cli::refuse(args, format_args!("{option} needs a value")))
}

/// Returns the first and last address of `START-END`.
fn parse_range(word: &str) -> Option<(VirtualAddress, VirtualAddress)> {
    let dash = word.bytes().position(|byte| byte == b'-')?;
    let (start, end) = word.split_at_checked(dash)?;
    let (start, end) = (parse_hexadecimal(start)?, parse_hexadecimal(end.get(1..)?)?);
    (start < end).then_some((VirtualAddress(start), VirtualAddress(end - 1)))
}

fn parse_hexadecimal(word: &str) -> Option<u64> {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    if digits.is_empty() {
        return None;
    }
    parse_number(digits.as_bytes(), 16)
}
