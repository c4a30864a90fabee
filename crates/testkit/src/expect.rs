//! Expectations: compare a result with the expected one, and print both if they differ.

use core::fmt;

use tablewalk_rt::ktap::Verdict;
use tablewalk_rt::process::Fork;
use tablewalk_rt::{ExitCode, println};
use tablewalk_uapi::Errno;
use tablewalk_uapi::process::Status;

/// The result of a call or of a measurement, as a number.
pub type Outcome = Result<u64, Errno>;

/// Returns whether `outcome` is `expected`; prints both if not.
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

/// Returns [`Verdict::Ok`] if all expectations were met.
///
/// # Errors
///
/// Never fails; the type is that of a test.
pub fn all(expectations: &[bool]) -> Result<Verdict, Errno> {
    Ok(expectations.iter().all(|&met| met).into())
}

/// Returns [`Verdict::Ok`] if `met` returns true for each of `values`.
///
/// # Errors
///
/// Never fails; the type is that of a test.
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

/// Runs `body` in a child started by `fork`. Returns the exit status of the child: 0, or the errno if `body`
/// failed.
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

/// Returns the result of [`in_child`] for a body that failed with `errno`.
///
/// # Errors
///
/// Never fails; the type is that of [`in_child`].
pub fn failed_with(errno: Errno) -> Result<u64, Errno> {
    Ok(errno.number().into())
}

/// Returns the exit status of a child, or 256 plus the number of the signal that killed it.
#[must_use]
pub fn status_number(status: Status) -> u64 {
    match status {
        Status::Exited(status) => status.into(),
        Status::Killed(signal) => 256 + u64::from(signal),
    }
}
