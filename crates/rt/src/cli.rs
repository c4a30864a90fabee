//! Command lines: `--help`, `--version`, and errors.

use core::fmt::Arguments;
use core::str::FromStr;

use crate::{Args, ExitCode, eprintln, println};

/// Returns the next argument, or `None` after the last. Prints `help` for `--help`, and the version for
/// `--version`.
///
/// # Errors
///
/// The status to exit with: 0 after `--help` and `--version`, 2 for an argument that is not UTF-8, and for an
/// option that is given a second time.
pub fn next(args: &mut Args, help: &str) -> Result<Option<&'static str>, ExitCode> {
    match args.next() {
        None => Ok(None),
        Some(Ok("--help")) => {
            println!("{help}");
            Err(ExitCode::SUCCESS)
        }
        Some(Ok("--version")) => {
            println!("{} {}", args.program_name(), env!("CARGO_PKG_VERSION"));
            Err(ExitCode::SUCCESS)
        }
        // Which of two values counts?
        Some(Ok(option))
            if option.starts_with("--")
                && args
                    .c_strs()
                    .any(|later| later.to_bytes() == option.as_bytes()) =>
        {
            Err(refuse(args, format_args!("{option}: given twice")))
        }
        Some(Ok(argument)) => Ok(Some(argument)),
        Some(Err(_)) => Err(refuse(args, format_args!("an argument is not UTF-8"))),
    }
}

/// Handles the command line of a program that accepts only `--help` and `--version`.
///
/// # Errors
///
/// As [`next`]; 2 for any other argument.
pub fn no_arguments(mut args: Args, help: &str) -> Result<(), ExitCode> {
    match next(&mut args, help)? {
        None => Ok(()),
        Some(argument) => Err(unknown(&args, argument)),
    }
}

/// Returns the number that follows `option`, from 1 to `most`.
///
/// # Errors
///
/// As [`next`]; 2 if a number is missing, malformed, or out of range.
pub fn number(args: &mut Args, help: &str, option: &str, most: u32) -> Result<u32, ExitCode> {
    let Some(argument) = next(args, help)? else {
        return Err(refuse(args, format_args!("{option} needs a number")));
    };
    match unsigned(argument) {
        Some(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(refuse(
            args,
            format_args!("{option} {argument}: not a number from 1 to {most}"),
        )),
    }
}

/// Returns the value of a decimal number without a sign, which `parse` accepts.
#[must_use]
pub fn unsigned<T: FromStr>(digits: &str) -> Option<T> {
    digits.parse().ok().filter(|_| !digits.starts_with('+'))
}

/// Prints that the argument is unknown and returns the exit status.
pub fn unknown(args: &Args, argument: &str) -> ExitCode {
    refuse(args, format_args!("unknown argument `{argument}`"))
}

/// Prints what is wrong with the arguments and returns the exit status.
pub fn refuse(args: &Args, what: Arguments<'_>) -> ExitCode {
    let name = args.program_name();
    eprintln!("{name}: {what}; {name} --help lists what there is");
    ExitCode::USAGE
}
