//! Checks what a program needs from the kernel and from its user, before it starts.

use core::fmt::Display;

use tablewalk_live::LiveError;
use tablewalk_rt::ktap::Verdict;
use tablewalk_rt::{ExitCode, eprintln, println};
use tablewalk_uapi::Errno;
use tablewalk_uapi::remap::{EXPOSE_PGTBL_LEND, ExposePgtblInfo, info as ask, number};
use tablewalk_uapi::track::EXPOSE_PGTBL_TRACK;
use tablewalk_uapi::userfault::Userfault;

use crate::pt;

/// Returns the geometry of this kernel's page tables. Success proves that the call exists and is permitted.
///
/// # Errors
///
/// The exit status, after the reason was printed: [`ExitCode::SKIP`] if the kernel lacks the call.
pub fn info(program: &str) -> Result<ExposePgtblInfo, ExitCode> {
    ask().map_err(|errno| {
        let error = LiveError::Info(errno);
        if errno == Errno::ENOSYS {
            return skip(&error);
        }
        eprintln!("{program}: {error}");
        ExitCode::FAILURE
    })
}

/// Returns the verdict of a test of `form`, a flag of the call, if the kernel lacks that: the call lacks at most TRACK,
/// its module all forms that need a change of the kernel.
#[must_use]
pub fn lacks(info: &ExposePgtblInfo, form: u32) -> Option<Verdict> {
    match number() {
        _ if info.flags & form != 0 => None,
        None => Some(Verdict::Skip("the module lacks this form")),
        Some(_) if form == EXPOSE_PGTBL_TRACK => Some(Verdict::Skip("this kernel has no TRACK")),
        Some(_) => None,
    }
}

/// The same for a program that moves pages by their entries, for which there are LEND, ADOPT and TAKE.
///
/// # Errors
///
/// As [`info`]; [`ExitCode::SKIP`] also from the module, which lacks these.
pub fn moving(program: &str) -> Result<ExposePgtblInfo, ExitCode> {
    let info = info(program)?;
    match lacks(&info, EXPOSE_PGTBL_LEND) {
        Some(_) => Err(skip(&"the module has no LEND, ADOPT and TAKE")),
        None => Ok(info),
    }
}

/// Checks that the call exists and is permitted. Returns false if the kernel lacks it and `pt` is installed,
/// which can copy tables instead.
///
/// # Errors
///
/// As [`info`]; [`ExitCode::SKIP`] if there is neither.
pub fn call_or_pt(program: &str) -> Result<bool, ExitCode> {
    if ask() == Err(Errno::ENOSYS) && pt::is_there() {
        return Ok(false);
    }
    info(program).map(|_| true)
}

/// Prints a KTAP plan of no tests, with the reason.
fn skip(reason: &dyn Display) -> ExitCode {
    println!("KTAP version 1\n1..0 # SKIP {reason}");
    ExitCode::SKIP
}

/// Checks that the kernel has userfaultfd(2) and that the program may use it.
///
/// # Errors
///
/// As [`info`].
pub fn userfaultfd(program: &str) -> Result<(), ExitCode> {
    match Userfault::open(0) {
        Ok(_) => Ok(()),
        Err(Errno::ENOSYS) => Err(skip(&"this kernel has no userfaultfd (CONFIG_USERFAULTFD)")),
        Err(errno) => {
            eprintln!("{program}: userfaultfd: {errno}");
            Err(ExitCode::FAILURE)
        }
    }
}
