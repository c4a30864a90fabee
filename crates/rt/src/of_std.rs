//! Start-up, threads and the clock of a host, for tests of what is built on this.

#![expect(unsafe_code, reason = "reads what the kernel laid on the stack")]

use core::ffi::c_char;
use std::time::Instant;
use std::{sync, thread};

use tablewalk_uapi::Errno;

use crate::Args;

/// The arguments that the main function of a C program has got.
///
/// # Safety
///
/// They are those that the kernel laid on the stack, which the C library of Linux hands on in place.
#[must_use]
pub unsafe fn args(arguments: *const *const c_char) -> Args {
    // SAFETY: `argc`, as wide as a pointer, is below them.
    let stack = unsafe { arguments.sub(1) };
    // SAFETY: the stack pointer that the program was entered with.
    unsafe { Args::from_stack(stack.cast()) }
}

/// [`run_beside`](crate::thread::run_beside).
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

/// Nanoseconds since the first call.
pub(crate) fn ticks() -> u64 {
    static BEGIN: sync::OnceLock<Instant> = sync::OnceLock::new();
    let elapsed = BEGIN.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Of [`ticks`] a second.
pub(crate) const fn frequency() -> u64 {
    1_000_000_000
}
