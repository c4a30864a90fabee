//! Threads that share the stack frame of their creator.

use tablewalk_uapi::Errno;

#[cfg(target_arch = "aarch64")]
use crate::clone as threads;
#[cfg(not(target_arch = "aarch64"))]
use crate::of_std as threads;

/// Runs `beside` on a new thread while `body` runs here. Returns the result of `body` when both are done.
/// Makes eight system calls, those of the thread included.
///
/// # Errors
///
/// `ENOMEM` or `EAGAIN`: no memory for a stack, or too many threads. Neither function ran.
pub fn run_beside<F, R>(beside: F, body: impl FnOnce() -> R) -> Result<R, Errno>
where
    F: FnOnce() + Send,
{
    threads::run_beside(beside, body)
}

/// Runs `threads` with the numbers from 0 to `count - 1`, each on a new thread except the last. Returns when
/// all are done.
///
/// # Errors
///
/// As [`run_beside`]; some of the threads may have run.
pub fn run_all(count: usize, threads: &(dyn Fn(usize) + Sync)) -> Result<(), Errno> {
    match count.checked_sub(1) {
        None => Ok(()),
        Some(0) => {
            threads(0);
            Ok(())
        }
        Some(last) => run_beside(|| threads(last), || run_all(last, threads))?,
    }
}
