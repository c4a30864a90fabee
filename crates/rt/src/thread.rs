//! A second thread.

use tablewalk_uapi::Errno;

#[cfg(target_arch = "aarch64")]
use crate::clone as threads;
#[cfg(not(target_arch = "aarch64"))]
use crate::of_std as threads;

/// Runs `beside` on a thread of its own while `body` runs here; returns when both are done, with
/// what `body` returned. Eight system calls, with the thread's own.
///
/// # Errors
///
/// `ENOMEM` or `EAGAIN`: no memory for a stack, no room for a thread. Neither ran then.
pub fn run_beside<F, R>(beside: F, body: impl FnOnce() -> R) -> Result<R, Errno>
where
    F: FnOnce() + Send,
{
    threads::run_beside(beside, body)
}

/// Runs `threads` with the numbers from 0 to `count - 1`, each on a thread of its own but the last one;
/// returns when all are done.
///
/// # Errors
///
/// As [`run_beside`]; those that have run then, have run.
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
