//! Parses the words for init on the kernel command line.

use core::ffi::CStr;
use core::fmt;
use core::time::Duration;

use heapless::{CString, Vec};
use tablewalk_rt::{Args, cli};
use tablewalk_uapi::Errno;
use tablewalk_uapi::file;

use crate::ending::End;
use crate::path::{self, LONGEST};

/// The programs that run if the command line names none.
const DEFAULT_RUNS: &[&[&CStr]] = &[
    &[c"walktest"],
    &[c"pt", c"maps", c"self"],
    &[c"pt", c"verify", c"self"],
    &[c"uffd"],
    &[c"uffd", c"--alias"],
    &[c"uffd", c"--quiet", c"--pages", c"1000", c"--rounds", c"10"],
    &[
        c"uffd",
        c"--alias",
        c"--quiet",
        c"--pages",
        c"1000",
        c"--rounds",
        c"10",
    ],
];

/// Maximum number of programs, and of words of one program. The kernel passes at most 32 words
/// (`CONFIG_INIT_ENV_ARG_LIMIT`), and panics if there are more.
const RUNS: usize = 16;
const WORDS: usize = 16;

/// A program to run.
#[derive(Default)]
pub(crate) struct Run {
    pub(crate) path: CString<LONGEST>,
    /// Its name and its arguments.
    pub(crate) words: Vec<&'static CStr, WORDS>,
}

/// The words that start it.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.words.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{}", word.to_str().unwrap_or("?"))?;
        }
        Ok(())
    }
}

/// The parsed command line.
pub(crate) struct CommandLine<'a> {
    pub(crate) semihosting: bool,
    pub(crate) panic: bool,
    pub(crate) end: Option<End>,
    pub(crate) led: Option<&'a str>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) runs: Vec<Run, RUNS>,
}

/// An error in the command line.
pub(crate) enum CommandLineError<'a> {
    NotUtf8(usize),
    UnknownOption(&'a str),
    Value(&'a str, &'static str),
    Twice(&'a str),
    Early(&'a str),
    Late(&'a str, &'a str),
    SecondSeparator,
    Quoted,
    TooMany(&'static str, usize),
    TooLong(&'a str),
    EmptyProgram,
    Program(&'a str, Errno),
    Led(&'a str, Errno),
}

impl fmt::Display for CommandLineError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8(position) => write!(f, "word {position} is not UTF-8"),
            Self::UnknownOption(word) => write!(
                f,
                "unknown option `{word}`; there are --end=, --verdict=, --led= and --timeout="
            ),
            Self::Value(word, values) => write!(f, "`{word}` is not one of {values}"),
            Self::Twice(word) => write!(f, "`{word}` is the second of its kind"),
            Self::Early(word) => write!(
                f,
                "`{word}` is for init and has to stand after ` -- `, where the kernel leaves it alone"
            ),
            Self::Late(word, program) => write!(
                f,
                "`{word}` is for init and has to stand before the program `{program}`"
            ),
            Self::SecondSeparator => f.write_str(
                "there is a second ` -- `: the kernel keeps it and all that follows for itself",
            ),
            Self::Quoted => f.write_str(
                "the ` -- ` stands inside quotes, and so is a part of the word before it; bootargs= of \
                 uEnv.txt takes no quotes",
            ),
            Self::TooMany(what, most) => write!(f, "too many {what}, at most {most}"),
            Self::TooLong(word) => write!(
                f,
                "`{word}` has more than {} bytes",
                LONGEST - 1 - "/bin/".len()
            ),
            Self::EmptyProgram => write!(f, "no program before or after +"),
            Self::Program(name, errno) => write!(f, "no program `{name}` in /bin: {errno}"),
            Self::Led(name, errno) => write!(f, "no LED `{name}` in /sys/class/leds: {errno}"),
        }
    }
}

/// Returns whether a word has the form of an option of init. No program has options of this form.
fn is_option(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name);
    matches!(name, Some("--end" | "--verdict" | "--led" | "--timeout"))
}

impl<'a> CommandLine<'a> {
    pub(crate) const fn new() -> Self {
        Self {
            semihosting: false,
            panic: false,
            end: None,
            led: None,
            timeout: None,
            runs: Vec::new(),
        }
    }

    /// Parses the words after `--`. Anything unknown is an error. Parsing goes on after an error to find the
    /// option that says how the machine ends, so that the error is reported that way, too.
    pub(crate) fn parse(&mut self, args: Args) -> Result<(), CommandLineError<'a>> {
        let words = args.clone().flatten();
        let environment = args.environment().flatten();
        let result = self.parse_strictly(args);
        if result.is_err() {
            for word in words.chain(environment) {
                // Other words are not options, or repeat an error that is reported already.
                let _ = self.set(word);
            }
        }
        result
    }

    fn parse_strictly(&mut self, args: Args) -> Result<(), CommandLineError<'a>> {
        // The kernel turns unknown words with a `=` into environment variables.
        for word in args.environment().flatten() {
            if word.starts_with("--") {
                return Err(CommandLineError::Early(word));
            }
        }
        let mut run = Run::default();
        let mut separated = false;
        for (position, c_str) in (1..).zip(args.c_strs()) {
            let word = c_str
                .to_str()
                .map_err(|_| CommandLineError::NotUtf8(position))?;
            if word == "+" {
                self.push(core::mem::take(&mut run))?;
                separated = true;
            } else if run.words.is_empty() && self.runs.is_empty() && word.starts_with('-') {
                self.set(word)?;
            } else {
                run.add(c_str, word)?;
            }
        }
        if separated || !run.words.is_empty() {
            return self.push(run);
        }
        for words in DEFAULT_RUNS {
            let mut run = Run::default();
            for word in *words {
                run.add(word, word.to_str().unwrap_or_default())?;
            }
            self.push(run)?;
        }
        Ok(())
    }

    /// Parses an option.
    fn set(&mut self, word: &'a str) -> Result<(), CommandLineError<'a>> {
        let Some((option, value)) = word.split_once('=') else {
            return Err(CommandLineError::UnknownOption(word));
        };
        let twice = match option {
            "--end" => {
                let end = End::from_name(value).ok_or(CommandLineError::Value(word, End::NAMES))?;
                self.end.replace(end).is_some()
            }
            "--verdict" => match value {
                "semihosting" => core::mem::replace(&mut self.semihosting, true),
                "panic" => core::mem::replace(&mut self.panic, true),
                _ => return Err(CommandLineError::Value(word, "semihosting or panic")),
            },
            "--led" => self.led.replace(value).is_some(),
            "--timeout" => {
                let seconds = cli::unsigned::<u16>(value).filter(|&seconds| seconds > 0);
                let error = CommandLineError::Value(word, "the seconds from 1 to 65535");
                let timeout = Duration::from_secs(seconds.ok_or(error)?.into());
                self.timeout.replace(timeout).is_some()
            }
            _ => return Err(CommandLineError::UnknownOption(word)),
        };
        if twice {
            return Err(CommandLineError::Twice(word));
        }
        Ok(())
    }

    /// Adds a program with its arguments.
    fn push(&mut self, run: Run) -> Result<(), CommandLineError<'a>> {
        if run.words.is_empty() {
            return Err(CommandLineError::EmptyProgram);
        }
        self.runs
            .push(run)
            .map_err(|_| CommandLineError::TooMany("programs", RUNS))
    }
}

impl Run {
    /// Adds a word, first that of the program, which must exist. `word` is the same as `c_str`.
    fn add(
        &mut self,
        c_str: &'static CStr,
        word: &'static str,
    ) -> Result<(), CommandLineError<'static>> {
        if word.len() >= LONGEST - "/bin/".len() {
            return Err(CommandLineError::TooLong(word));
        }
        match self.words.first() {
            None => self.path = path_of(word)?,
            Some(program) if is_option(word) => {
                let program = program.to_str().unwrap_or_default();
                return Err(CommandLineError::Late(word, program));
            }
            Some(_) => {}
        }
        self.words
            .push(c_str)
            .map_err(|_| CommandLineError::TooMany("words of a program", WORDS))
    }
}

/// Returns the path of a program, which exists.
fn path_of(name: &str) -> Result<CString<LONGEST>, CommandLineError<'_>> {
    if name.is_empty() {
        return Err(CommandLineError::EmptyProgram);
    }
    let path = path::join(&["/bin/", name]).ok_or(CommandLineError::TooLong(name))?;
    file::check_executable(&path).map_err(|errno| CommandLineError::Program(name, errno))?;
    Ok(path)
}
