//! Reaps orphans as soon as they end: a program that makes many would run out of process IDs otherwise.

#![expect(
    unsafe_code,
    reason = "a signal handler, so that orphans are reaped whatever init waits for"
)]

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicI32, Ordering};

use tablewalk_uapi::Errno;
use tablewalk_uapi::process;
use tablewalk_uapi::signal::{self, Signal, siginfo_t};

/// The program that runs: no orphan, and left for who waits for it.
static PROGRAM: AtomicI32 = AtomicI32::new(0);

/// Reaps all children but one as they end, as long as this lives.
pub(crate) struct Reaper;

impl Reaper {
    /// Begins, with those that have ended already.
    pub(crate) fn new(program: i32) -> Result<Self, Errno> {
        PROGRAM.store(program, Ordering::Relaxed);
        // SAFETY: the handler makes system calls and touches nothing else but an atomic.
        unsafe { signal::handle(Signal::Child, reap) }?;
        reap_ended();
        Ok(Self)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        // It has taken a handler, so it takes none.
        let _ = signal::restore_default(Signal::Child);
    }
}

extern "C" fn reap(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    reap_ended();
}

/// Children are looked at in the order of their age, of which the program is the oldest: once it has
/// ended, the others wait until init has seen that.
fn reap_ended() {
    while let Ok(Some(pid)) = process::first_ended()
        && pid != PROGRAM.load(Ordering::Relaxed)
    {
        // Reaped already, where the handler came in between.
        let _ = process::wait(pid);
    }
}
