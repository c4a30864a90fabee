//! Child processes and other programs.

#![expect(
    unsafe_code,
    reason = "fork makes two of every value, and execve takes arrays of pointers"
)]

use core::ffi::{CStr, c_char};
use core::{fmt, ptr};

use tablewalk_uapi::Errno;
use tablewalk_uapi::process::{self, Status};
use tablewalk_uapi::signal::Signal;

use crate::{ExitCode, console};

/// The name of the calling thread, for messages, up to 15 bytes: the program's name unless another was set.
pub(crate) struct Name([u8; 16]);

impl Name {
    pub(crate) fn new() -> Self {
        Self(process::thread_name())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = CStr::from_bytes_until_nul(&self.0).ok();
        f.write_str(name.and_then(|name| name.to_str().ok()).unwrap_or("?"))
    }
}

/// Ends the process with `status`, or with [`ExitCode::FAILURE`] if output was lost.
pub(crate) fn finish(status: ExitCode) -> ! {
    process::exit(console::settle(status).0.into())
}

/// A child process, killed and reaped when dropped.
#[derive(Debug)]
pub struct Child {
    pid: i32,
}

/// Permission to start one [`Child`].
#[derive(Debug)]
pub struct Fork(());

impl Fork {
    /// Returns the permission.
    ///
    /// # Safety
    ///
    /// The `body` that is passed to [`Fork::spawn`] neither uses nor drops the values that [`process::fork`]
    /// lists.
    #[must_use]
    pub const unsafe fn promised() -> Self {
        Self(())
    }

    /// Forks. The child runs `body`, exits with the returned status, and is killed when its parent dies.
    ///
    /// # Errors
    ///
    /// As fork(2).
    pub fn spawn(self, body: impl FnOnce() -> ExitCode) -> Result<Child, Errno> {
        // SAFETY: the child runs nothing but `body` and exits; the caller of `promised` guarantees the rest.
        match unsafe { process::fork() }? {
            Some(pid) => Ok(Child { pid }),
            None => {
                let status = match process::set_parent_death_signal(Signal::Kill) {
                    Ok(()) => body(),
                    Err(_) => ExitCode::FAILURE,
                };
                finish(status)
            }
        }
    }
}

impl Child {
    /// Returns the process ID.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until the child has ended. Returns how it ended.
    ///
    /// # Errors
    ///
    /// As wait(2).
    pub fn wait(self) -> Result<Status, Errno> {
        let status = process::wait(self.pid).map(|(_, status)| status);
        core::mem::forget(self);
        status
    }

    /// Returns whether the child has not ended yet.
    ///
    /// # Errors
    ///
    /// As waitid(2).
    pub fn is_running(&self) -> Result<bool, Errno> {
        process::has_ended(self.pid).map(|ended| !ended)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Errors are ignored: the child may have ended already, and nothing else could be done.
        let _ = process::kill(self.pid, Signal::Kill);
        let _ = process::wait(self.pid);
    }
}

/// Maximum number of arguments that [`execute`] passes on.
const WORDS: usize = 32;

/// Replaces the process by the program at `path`, with `words` as its name and arguments and no environment.
/// Returns only on failure, with the error: `E2BIG` for more than 32 words, otherwise as execve(2).
#[must_use]
pub fn execute(path: &CStr, words: &[&CStr]) -> Errno {
    let mut pointers = [ptr::null::<c_char>(); WORDS + 1];
    if words.len() > WORDS {
        return Errno::E2BIG;
    }
    for (pointer, word) in pointers.iter_mut().zip(words) {
        *pointer = word.as_ptr();
    }
    let environment = [ptr::null::<c_char>()];
    // SAFETY: both are arrays of C strings that end with a null pointer.
    unsafe { process::execve(path, pointers.as_ptr(), environment.as_ptr()) }
}
