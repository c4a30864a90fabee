//! What a program needs of the kernel and of its user, asked for before anything is tried.

use core::fmt::Display;

use tablewalk_rt::{ExitCode, eprintln, println};
use tablewalk_uapi::Errno;
use tablewalk_uapi::remap::{ExposePgtblInfo, info as ask};
use tablewalk_uapi::userfault::Userfault;

use crate::pt;

/// The geometry of the page tables of this kernel; proof that the call is there and permitted.
///
/// # Errors
///
/// The status to exit with, after the reason was printed: skipped if the kernel lacks the call.
pub fn info(program: &str) -> Result<ExposePgtblInfo, ExitCode> {
    ask().map_err(|errno| match errno {
        Errno::ENOSYS => skip(&NO_CALL),
        Errno::EPERM => {
            eprintln!("{program}: remap_page_table: {errno}: needs CAP_SYS_ADMIN, run it as root");
            ExitCode::FAILURE
        }
        _ => {
            eprintln!("{program}: remap_page_table: {errno}");
            ExitCode::FAILURE
        }
    })
}

const NO_CALL: &str = "this kernel has no remap_page_table (CONFIG_REMAP_PAGE_TABLE)";

/// Whether there is the call, and permitted; false if the kernel lacks it, but `pt` is there, which copies.
///
/// # Errors
///
/// As [`info`]; skipped if there is neither.
pub fn call_or_pt(program: &str) -> Result<bool, ExitCode> {
    if ask() == Err(Errno::ENOSYS) && pt::is_there() {
        return Ok(false);
    }
    info(program).map(|_| true)
}

/// A KTAP plan of no tests, with the reason.
fn skip(reason: &dyn Display) -> ExitCode {
    println!("KTAP version 1\n1..0 # SKIP {reason}");
    ExitCode::SKIP
}

/// That there is a userfaultfd(2) and the program may use it.
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
