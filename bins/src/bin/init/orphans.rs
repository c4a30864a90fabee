//! Reaps orphans as soon as they end: a program that creates many of them would otherwise run out of process
//! IDs.

#![expect(
    unsafe_code,
    reason = "a signal handler, so that orphans are reaped whatever init waits for"
)]

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicI32, Ordering};

use tablewalk_uapi::Errno;
use tablewalk_uapi::process;
use tablewalk_uapi::signal::{self, Signal, siginfo_t};

/// The process ID of the program that runs. It is not an orphan: its own waiter reaps it.
static PROGRAM: AtomicI32 = AtomicI32::new(0);

/// Reaps all children except one as they end, as long as this value lives.
pub(crate) struct Reaper;

impl Reaper {
    /// Starts reaping, with the children that have ended already.
    pub(crate) fn new(program: i32) -> Result<Self, Errno> {
        PROGRAM.store(program, Ordering::Relaxed);
        // SAFETY: the handler makes system calls, and otherwise accesses only an atomic.
        unsafe { signal::handle(Signal::Child, reap) }?;
        reap_ended();
        Ok(Self)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        // Cannot fail, since setting a handler succeeded.
        let _ = signal::restore_default(Signal::Child);
    }
}

extern "C" fn reap(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    reap_ended();
}

/// Reaps the children that have ended. The kernel reports the oldest first, which is the program: once it has
/// ended, the others wait until init has reaped it.
fn reap_ended() {
    while let Ok(Some(pid)) = process::first_ended()
        && pid != PROGRAM.load(Ordering::Relaxed)
    {
        // An error means that the signal handler reaped it first.
        let _ = process::wait(pid);
    }
}
