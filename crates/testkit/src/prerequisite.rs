//! Checks what a program needs from the kernel and from its user, before it starts.

use core::fmt::Display;

use tablewalk_live::copy::{Copied, Either};
use tablewalk_rt::{ExitCode, eprintln, println};
use tablewalk_uapi::Errno;
use tablewalk_uapi::remap::{ExposePgtblInfo, info as ask};
use tablewalk_uapi::userfault::Userfault;

/// Returns the geometry of this kernel's page tables. Success proves that the call exists and is permitted.
///
/// # Errors
///
/// The exit status, after the reason was printed: [`ExitCode::SKIP`] if the kernel lacks the call.
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
    /// The call: page tables are mapped, and live.
    Call,
    /// Copies of page tables, by whichever of BPF and `/proc/kcore` works, after calibration.
    Copies(Copied<Either>),
}

/// Returns the best source that this kernel has: the call, or else copies by BPF or from `/proc/kcore`.
///
/// # Errors
///
/// As [`info`]; [`ExitCode::SKIP`] if there is none, after printing why each failed.
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
