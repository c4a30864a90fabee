//! Expectations: what a test asked for beside what came.

use core::fmt;

use tablewalk_rt::ktap::Verdict;
use tablewalk_rt::process::Fork;
use tablewalk_rt::{ExitCode, println};
use tablewalk_uapi::Errno;
use tablewalk_uapi::process::Status;

/// What a call returned or a look found, as a number.
pub type Outcome = Result<u64, Errno>;

/// Says what came where something else was expected.
pub fn expect(what: &str, outcome: Outcome, expected: Outcome) -> bool {
    let same = outcome == expected;
    if !same {
        println!("# {what}: {}, expected {}", Shown(outcome), Shown(expected));
    }
    same
}

/// As [`expect`], for a success whose value does not matter.
pub fn expect_ok<T>(what: &str, result: Result<T, Errno>) -> bool {
    expect(what, result.map(|_| 0), Ok(0))
}

/// As [`expect`], for an error.
pub fn expect_error<T>(what: &str, result: Result<T, Errno>, errno: Errno) -> bool {
    expect(what, result.map(|_| 0), Err(errno))
}

/// The verdict of a test that is a list of expectations.
///
/// # Errors
///
/// None.
pub fn all(expectations: &[bool]) -> Result<Verdict, Errno> {
    Ok(expectations.iter().all(|&met| met).into())
}

/// The verdict of a test that is one expectation for each of several values.
///
/// # Errors
///
/// None.
pub fn each(values: &[u64], met: &mut dyn FnMut(u64) -> bool) -> Result<Verdict, Errno> {
    Ok(values.iter().all(|&value| met(value)).into())
}

struct Shown(Outcome);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(value) => write!(f, "{value:#x}"),
            Err(errno) => errno.fmt(f),
        }
    }
}

/// Runs `body` in a child, started by `fork`; its exit status, which is the number of the error if it failed.
///
/// # Errors
///
/// As fork(2) and wait(2).
pub fn in_child(fork: Fork, body: impl FnOnce() -> Result<(), Errno>) -> Result<u64, Errno> {
    let status = fork
        .spawn(|| match body() {
            Ok(()) => ExitCode::SUCCESS,
            Err(errno) => ExitCode(u8::try_from(errno.number()).unwrap_or(u8::MAX)),
        })?
        .wait()?;
    Ok(status_number(status))
}

/// What [`in_child`] returns where the body failed with `errno`.
///
/// # Errors
///
/// None.
pub fn failed_with(errno: Errno) -> Result<u64, Errno> {
    Ok(errno.number().into())
}

/// The exit status of a child, or 256 and the signal that killed it.
#[must_use]
pub fn status_number(status: Status) -> u64 {
    match status {
        Status::Exited(status) => status.into(),
        Status::Killed(signal) => 256 + u64::from(signal),
    }
}
