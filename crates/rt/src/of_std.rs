//! Start-up, threads and the clock on a host, so that users of this crate can be tested there.

#![expect(unsafe_code, reason = "reads what the kernel laid on the stack")]

use core::ffi::c_char;
use std::time::Instant;
use std::{sync, thread};

use tablewalk_uapi::Errno;

use crate::Args;

/// Returns the arguments that the C library passed to `main`.
///
/// # Safety
///
/// `arguments` points to argv as the kernel laid it out on the stack, which the C library of Linux passes on
/// in place.
#[must_use]
pub unsafe fn args(arguments: *const *const c_char) -> Args {
    // SAFETY: `argc`, in a full word, lies before argv.
    let stack = unsafe { arguments.sub(1) };
    // SAFETY: this was the stack pointer at the entry of the program.
    unsafe { Args::from_stack(stack.cast()) }
}

/// Implements [`run_beside`](crate::thread::run_beside).
pub(crate) fn run_beside<F, R>(beside: F, body: impl FnOnce() -> R) -> Result<R, Errno>
where
    F: FnOnce() + Send,
{
    thread::scope(|scope| {
        let started = thread::Builder::new().spawn_scoped(scope, beside);
        started.map(|_ends_in_scope| body())
    })
    .map_err(|error| {
        let number = error.raw_os_error().unwrap_or_default();
        Errno::from_return_value(-number as isize)
            .err()
            .unwrap_or(Errno::EAGAIN)
    })
}

/// Returns nanoseconds since the first call.
pub(crate) fn ticks() -> u64 {
    static BEGIN: sync::OnceLock<Instant> = sync::OnceLock::new();
    let elapsed = BEGIN.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the number of [`ticks`] per second.
pub(crate) const fn frequency() -> u64 {
    1_000_000_000
}
