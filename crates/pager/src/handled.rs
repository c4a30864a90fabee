//! The handler of `SIGBUS`, which a process has one of.

use core::ffi::{c_int, c_void};

use tablewalk_uapi::process;
use tablewalk_uapi::signal::{
    Action, FaultContext, Handler, SavedAction, Signal, replace_action, siginfo_t,
};

use crate::PagerError;
use crate::mutex::Mutex;

/// Threads that need the handler. Who holds the lock may change `BEFORE` and the handler.
#[cfg(not(loom))]
static USERS: Mutex<u32> = Mutex::new(0);
#[cfg(loom)]
loom::lazy_static! {
    static ref USERS: Mutex<u32> = Mutex::new(0);
}
/// What happened at a `SIGBUS` before.
static BEFORE: SavedAction = SavedAction::new();

/// The process has the handler, as long as this lives.
pub(crate) struct Handled(Handler);

impl Handled {
    /// Has `handler` called on the alternate stack of whichever thread gets a `SIGBUS`; always the same one.
    ///
    /// # Safety
    ///
    /// As [`tablewalk_uapi::signal::handle`].
    pub(crate) unsafe fn by(handler: Handler) -> Result<Self, PagerError> {
        let mut users = USERS.lock();
        let before = Action::current(Signal::Bus).map_err(PagerError::call("sigaction"))?;
        // Others may have put a handler there since the last time: that is the one to pass signals on to,
        // from the first one on.
        if !before.is(handler) {
            BEFORE.save(&before);
            // SAFETY: the caller's.
            unsafe { replace_action(Signal::Bus, &Action::apart(handler)) }
                .map_err(PagerError::call("sigaction"))?;
        }
        *users += 1;
        Ok(Self(handler))
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        let mut users = USERS.lock();
        *users -= 1;
        // Somebody may have put another handler there meanwhile, which stays.
        if *users != 0 || !Action::current(Signal::Bus).is_ok_and(|now| now.is(self.0)) {
            return;
        }
        // SAFETY: what the process had before.
        let now = unsafe { replace_action(Signal::Bus, &BEFORE.load()) };
        // Or between the two calls.
        if let Ok(now) = now
            && !now.is(self.0)
        {
            // SAFETY: as it was.
            let _ = unsafe { replace_action(Signal::Bus, &now) };
        }
    }
}

/// Has a `SIGBUS` that is not a pager's do what it did before.
pub(crate) fn pass_on(
    signal: c_int,
    fault: &FaultContext<'_>,
    info: *mut siginfo_t,
    context: *mut c_void,
) {
    let before = BEFORE.handler();
    // SAFETY: these are the arguments of the handler that it is called from.
    if unsafe { before.call(signal, info, context) } {
        return;
    }
    if before.ignores() && fault.is_asynchronous() {
        return;
    }
    // The access is made again, and ends the process; or a signal without an access is sent again.
    // SAFETY: no handler.
    let _ = unsafe { replace_action(Signal::Bus, &Action::DEFAULT) };
    if fault.is_asynchronous() {
        let _ = process::kill_thread(process::pid(), process::tid(), Signal::Bus);
    }
}
