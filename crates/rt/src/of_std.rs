//! Threads and the clock of a host, for tests of what is built on this.

use std::time::Instant;
use std::{sync, thread};

use tablewalk_uapi::Errno;

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
