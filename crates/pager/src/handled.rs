//! The `SIGBUS` handler of the process.

use core::ffi::{c_int, c_void};

use tablewalk_uapi::process;
use tablewalk_uapi::signal::{
    Action, FaultContext, Handler, SavedAction, Signal, replace_action, send_again, siginfo_t,
};

use crate::PagerError;
use crate::mutex::MutexGuard;
use crate::owner::Owner;

/// The number of threads that need the handler. The lock protects `BEFORE` and the handler. `None` before the
/// first pager is made.
#[cfg(not(loom))]
fn users() -> Option<MutexGuard<'static, u32>> {
    crate::owner::users().map(crate::mutex::Mutex::lock)
}
#[cfg(loom)]
fn users() -> Option<MutexGuard<'static, u32>> {
    loom::lazy_static! {
        static ref USERS: crate::mutex::Mutex<u32> = crate::mutex::Mutex::new(0);
    }
    Some(USERS.lock())
}
/// The previous action for `SIGBUS`.
static BEFORE: SavedAction = SavedAction::new();

/// Keeps the handler installed as long as this value lives.
///
/// A thread that forks while it has this value also has it in the child, whose count begins at 0: it is not
/// counted there, and dropping it removes the handler unless a thread of the child needs it.
pub(crate) struct Handled {
    handler: Handler,
    owner: Owner,
}

impl Handled {
    /// Installs `handler`, which runs on the alternate stack of the thread that gets a `SIGBUS`. All callers
    /// pass the same handler, and the process that they are in.
    ///
    /// # Safety
    ///
    /// As [`tablewalk_uapi::signal::handle`].
    pub(crate) unsafe fn by(handler: Handler, owner: Owner) -> Result<Self, PagerError> {
        let mut users = users().ok_or(PagerError::Forked)?;
        let before = Action::current(Signal::Bus).map_err(PagerError::call("sigaction"))?;
        // Other code may have installed a handler since the last time. Signals of others are passed on to it,
        // from the first one on.
        if !before.is(handler) {
            BEFORE.save(&before);
            // SAFETY: the caller's.
            unsafe { replace_action(Signal::Bus, &Action::apart(handler)) }
                .map_err(PagerError::call("sigaction"))?;
        }
        *users += 1;
        Ok(Self { handler, owner })
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        let Some(mut users) = users() else {
            return;
        };
        if self.owner.is_here() {
            *users -= 1;
        }
        // Other code may have installed a handler in the meantime, which stays.
        if *users != 0 || !Action::current(Signal::Bus).is_ok_and(|now| now.is(self.handler)) {
            return;
        }
        // SAFETY: restores the previous action of the process.
        let now = unsafe { replace_action(Signal::Bus, &BEFORE.load()) };
        // Or between the two calls.
        if let Ok(now) = now
            && !now.is(self.handler)
        {
            // SAFETY: as it was.
            let _ = unsafe { replace_action(Signal::Bus, &now) };
        }
    }
}

/// Passes a `SIGBUS` that is not for a pager on to the previous action.
pub(crate) fn pass_on(
    signal: c_int,
    fault: &FaultContext<'_>,
    info: *mut siginfo_t,
    context: *mut c_void,
) {
    let before = BEFORE.next_handler();
    // SAFETY: these are the arguments of the handler that it is called from.
    if unsafe { before.call(signal, info, context) } {
        return;
    }
    if before.ignores() && fault.is_asynchronous() {
        return;
    }
    // The default action does not end the first process of a PID namespace, unless an access has failed.
    if fault.is_asynchronous() && process::pid() == 1 {
        return;
    }
    // The signal arrives again when this handler returns, before the access is repeated, which may succeed by
    // then: so the process ends in any case, before it could go on without a handler. SAFETY: no handler.
    let _ = unsafe { replace_action(Signal::Bus, &Action::DEFAULT) };
    // SAFETY: the information that the kernel gave to the handler.
    let _ = unsafe { send_again(Signal::Bus, info) };
}
