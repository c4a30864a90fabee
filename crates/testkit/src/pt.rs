//! Runs `pt`, which copies page tables on kernels without the call.

#![expect(unsafe_code, reason = "forks")]

use core::ffi::CStr;

use heapless::Vec;
use tablewalk_rt::process::{Fork, execute};
use tablewalk_rt::{ExitCode, eprintln};
use tablewalk_uapi::process::Status;
use tablewalk_uapi::{Errno, file};

use crate::error::Error;

const PATH: &CStr = c"/bin/pt";
/// Maximum number of arguments.
const WORDS: usize = 15;

/// Returns whether `pt` is at its path in the initramfs.
#[must_use]
pub fn is_there() -> bool {
    file::check_executable(PATH).is_ok()
}

/// Runs `pt` with these arguments, and waits for it.
///
/// # Errors
///
/// As fork(2) and wait(2); `E2BIG` for more than 15 arguments.
pub fn run(words: &[&CStr]) -> Result<Status, Error> {
    let mut all = Vec::<&CStr, { WORDS + 1 }>::new();
    for word in [c"pt"].iter().chain(words) {
        all.push(word)
            .map_err(|_| Error::Call("pt", Errno::E2BIG))?;
    }
    // SAFETY: the child executes another program.
    let child = unsafe { Fork::promised() }
        .spawn(|| {
            eprintln!("/bin/pt: {}", execute(PATH, &all));
            ExitCode(127)
        })
        .map_err(Error::call("fork"))?;
    child.wait().map_err(Error::call("wait"))
}
