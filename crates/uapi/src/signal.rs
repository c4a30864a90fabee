//! Signals.

#![expect(unsafe_code, reason = "a handler runs between any two instructions")]

use core::ffi::{c_int, c_void};
use core::mem::{size_of, transmute};
use core::ptr;

use linux_raw_sys::general as sys;

use crate::errno::Errno;

/// A signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Signal {
    /// An access that the hardware or userfaultfd refused.
    Bus = sys::SIGBUS,
    /// Lets a stopped process go on.
    Continue = sys::SIGCONT,
    /// Ends a process at once.
    Kill = sys::SIGKILL,
    /// An access to memory that is not mapped or protected.
    Segv = sys::SIGSEGV,
    /// Stops a process at once.
    Stop = sys::SIGSTOP,
    /// Asks a process to end.
    Term = sys::SIGTERM,
    /// For the program to use.
    Usr1 = sys::SIGUSR1,
}

/// A signal handler: the signal, its siginfo, and the interrupted context.
pub type Handler = extern "C" fn(c_int, *mut sys::siginfo_t, *mut c_void);

/// rt_sigaction(2): `handler` runs for each `signal` from now on.
///
/// The kernel returns from the handler through its vDSO, as arm64 does without `SA_RESTORER`
/// (`arch/arm64/kernel/signal.c`, `setup_return`).
///
/// # Errors
///
/// As sigaction(2).
///
/// # Safety
///
/// The handler does nothing that is wrong between any two instructions of the program.
pub unsafe fn handle(signal: Signal, handler: Handler) -> Result<(), Errno> {
    let action = sys::kernel_sigaction {
        // SAFETY: both are pointers to functions, and SA_SIGINFO says which the kernel has.
        sa_handler_kernel: Some(unsafe {
            transmute::<Handler, unsafe extern "C" fn(c_int)>(handler)
        }),
        sa_flags: u64::from(sys::SA_SIGINFO),
        sa_restorer: None,
        sa_mask: sys::kernel_sigset_t { sig: [0] },
    };
    let old: *mut sys::kernel_sigaction = ptr::null_mut();
    let size = size_of::<sys::kernel_sigset_t>();
    // SAFETY: the kernel reads the action; the handler is the caller's promise.
    unsafe {
        syscall!(
            sys::__NR_rt_sigaction,
            signal as u32,
            ptr::from_ref(&action),
            old,
            size
        )
    }
    .map(drop)
}

/// ppoll(2) of nothing, for ever: returns when a signal was handled.
pub fn pause() {
    // Interrupted or not, there is nothing to say.
    let _ = crate::poll::poll(&mut [], None);
}
