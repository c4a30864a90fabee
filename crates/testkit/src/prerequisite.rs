//! What a program needs of the kernel and of its user, asked for before anything is tried.

use core::fmt::Display;

use tablewalk_live::copy::{Copied, Either};
use tablewalk_rt::{ExitCode, eprintln, println};
use tablewalk_uapi::Errno;
use tablewalk_uapi::remap::{ExposePgtblInfo, info as ask};
use tablewalk_uapi::userfault::Userfault;

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

/// A source of tables that this kernel has.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a program")]
pub enum Source {
    /// The call: tables are mapped, and live.
    Call,
    /// Copies, by what is there and was calibrated.
    Copies(Copied<Either>),
}

/// The first source that this kernel has: the call, or else copies by BPF or by `/proc/kcore`.
///
/// # Errors
///
/// As [`info`]; skipped if there is none, with the reason of each.
pub fn source(program: &str) -> Result<Source, ExitCode> {
    if ask() != Err(Errno::ENOSYS) {
        return info(program).map(|_| Source::Call);
    }
    let bpf = Either::bpf().and_then(Copied::calibrated);
    bpf.map(Source::Copies).or_else(|bpf| {
        Either::kcore()
            .and_then(Copied::calibrated)
            .map(Source::Copies)
            .map_err(|kcore| skip(&format_args!("{NO_CALL}; {bpf}; {kcore}")))
    })
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
