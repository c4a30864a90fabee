//! Signals.

#![expect(unsafe_code, reason = "a handler runs between any two instructions")]

use core::ffi::{c_int, c_void};
use core::mem::{size_of, transmute};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use linux_raw_sys::general as sys;
pub use linux_raw_sys::general::siginfo_t;

use crate::errno::Errno;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
use aarch64::Machine;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64::{Machine, restorer};

/// A signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Signal {
    /// An access that the hardware or userfaultfd refused.
    Bus = sys::SIGBUS,
    /// A child has ended or stopped.
    Child = sys::SIGCHLD,
    /// Lets a stopped process go on.
    Continue = sys::SIGCONT,
    /// Ends a process at once.
    Kill = sys::SIGKILL,
    /// An access to memory that is not mapped or protected.
    Segv = sys::SIGSEGV,
    /// Stops a process at once.
    Stop = sys::SIGSTOP,
    /// Ends a process whose terminal is gone.
    Hangup = sys::SIGHUP,
    /// Ends a process at the terminal's Ctrl-C.
    Interrupt = sys::SIGINT,
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
    // SAFETY: the caller's.
    unsafe { replace_action(signal, &Action::new(handler, 0)) }.map(drop)
}

/// rt_sigaction(2): what the kernel does by itself happens for each `signal` from now on.
///
/// # Errors
///
/// As sigaction(2).
pub fn restore_default(signal: Signal) -> Result<(), Errno> {
    // SAFETY: no handler runs.
    unsafe { replace_action(signal, &Action::DEFAULT) }.map(drop)
}

/// rt_sigaction(2): `action` is done for each `signal` from now on; what was done before.
///
/// # Errors
///
/// As sigaction(2).
///
/// # Safety
///
/// As [`handle`], for the handler of the action.
pub unsafe fn replace_action(signal: Signal, action: &Action) -> Result<Action, Errno> {
    // SAFETY: the handler is the caller's promise.
    unsafe { exchange_action(signal, &action.0) }
}

unsafe fn exchange_action(
    signal: Signal,
    new: *const sys::kernel_sigaction,
) -> Result<Action, Errno> {
    let mut old = Action::DEFAULT;
    let size = size_of::<sys::kernel_sigset_t>();
    // SAFETY: the kernel reads one action, if any, and writes the other; the rest is the caller's promise.
    unsafe {
        syscall!(
            sys::__NR_rt_sigaction,
            signal as u32,
            new,
            ptr::from_mut(&mut old.0),
            size
        )
    }
    .map(|_| old)
}

/// What is done at a signal: `struct sigaction` of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Action(sys::kernel_sigaction);

/// `SIG_IGN` of include/uapi/asm-generic/signal-defs.h.
const IGNORE: usize = 1;

impl Action {
    /// What the kernel does by itself.
    pub const DEFAULT: Self = Self(sys::kernel_sigaction {
        sa_handler_kernel: None,
        sa_flags: 0,
        sa_restorer: None,
        sa_mask: sys::kernel_sigset_t { sig: [0] },
    });

    /// rt_sigaction(2): what is done at `signal` now.
    ///
    /// # Errors
    ///
    /// None that is documented for a valid signal.
    pub fn current(signal: Signal) -> Result<Self, Errno> {
        // SAFETY: nothing is changed.
        unsafe { exchange_action(signal, ptr::null()) }
    }

    /// `handler` runs, on the alternate stack of the thread, if it has one.
    #[must_use]
    pub fn apart(handler: Handler) -> Self {
        Self::new(handler, sys::SA_ONSTACK)
    }

    fn new(handler: Handler, flags: u32) -> Self {
        Self(sys::kernel_sigaction {
            // SAFETY: pointers to functions; SA_SIGINFO says which the kernel has.
            sa_handler_kernel: unsafe {
                transmute::<Option<Handler>, Option<unsafe extern "C" fn(c_int)>>(Some(handler))
            },
            sa_flags: u64::from(sys::SA_SIGINFO | flags | RESTORER_FLAG),
            sa_restorer: RESTORER,
            ..Self::DEFAULT.0
        })
    }

    /// The address of the handler; 0 for what the kernel does by itself.
    fn address(&self) -> usize {
        self.0
            .sa_handler_kernel
            .map_or(0, |handler| handler as usize)
    }

    /// Whether it is a call of `handler`.
    #[must_use]
    pub fn is(&self, handler: Handler) -> bool {
        self.address() == handler as usize
    }

    /// Whether the signal is ignored.
    #[must_use]
    pub fn ignores(&self) -> bool {
        self.address() == IGNORE
    }

    /// Calls the handler, if there is one; whether there is.
    ///
    /// # Safety
    ///
    /// The arguments are those that the kernel has called another handler with, which has not returned.
    pub unsafe fn call(
        &self,
        signal: c_int,
        info: *mut sys::siginfo_t,
        context: *mut c_void,
    ) -> bool {
        let Some(handler) = self.0.sa_handler_kernel.filter(|_| !self.ignores()) else {
            return false;
        };
        if self.0.sa_flags & u64::from(sys::SA_SIGINFO) != 0 {
            // SAFETY: the flag says that the function is one of this type.
            let handler = unsafe { transmute::<unsafe extern "C" fn(c_int), Handler>(handler) };
            handler(signal, info, context);
        } else {
            // SAFETY: somebody has set it for this signal.
            unsafe { handler(signal) };
        }
        true
    }
}

/// An [`Action`] whose handler may be called while another thread saves one.
#[derive(Debug)]
pub struct SavedAction {
    words: [AtomicUsize; 4],
    /// The address of the handler, with [`TAKES_INFO`] if it takes what `SA_SIGINFO` says.
    handler: AtomicUsize,
}

/// No address of user space.
const TAKES_INFO: usize = 1 << 63;

impl SavedAction {
    /// [`Action::DEFAULT`].
    #[must_use]
    #[expect(clippy::new_without_default, reason = "for statics")]
    pub const fn new() -> Self {
        Self {
            words: [const { AtomicUsize::new(0) }; 4],
            handler: AtomicUsize::new(0),
        }
    }

    /// Saves an action. By one thread at a time.
    pub fn save(&self, action: &Action) {
        // SAFETY: four words, without padding: asserted below.
        let words = unsafe { transmute::<Action, [usize; 4]>(*action) };
        for (place, word) in self.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        let takes_info = action.0.sa_flags & u64::from(sys::SA_SIGINFO) != 0;
        let flag = if takes_info { TAKES_INFO } else { 0 };
        self.handler
            .store(action.address() | flag, Ordering::Release);
    }

    /// The handler that was saved, as an action to be called: without its mask and other flags. One word, so
    /// that another thread may save one meanwhile.
    #[must_use]
    pub fn handler(&self) -> Action {
        let word = self.handler.load(Ordering::Acquire);
        let takes_info = word & TAKES_INFO != 0;
        Action(sys::kernel_sigaction {
            // SAFETY: the address of a function that was saved, 0 or 1.
            sa_handler_kernel: unsafe {
                transmute::<usize, Option<unsafe extern "C" fn(c_int)>>(word & !TAKES_INFO)
            },
            sa_flags: if takes_info {
                sys::SA_SIGINFO.into()
            } else {
                0
            },
            ..Action::DEFAULT.0
        })
    }

    /// The action that was saved. By the thread that may save one.
    #[must_use]
    pub fn load(&self) -> Action {
        let words = self
            .words
            .each_ref()
            .map(|word| word.load(Ordering::Relaxed));
        // SAFETY: the words of an action, or 0, which is the default one.
        unsafe { transmute::<[usize; 4], Action>(words) }
    }
}

// Flags, mask and two pointers.
static_assertions::const_assert_eq!(size_of::<Action>(), 32);

/// x86-64 has no code of its own that ends a handler.
#[cfg(target_arch = "x86_64")]
const RESTORER: Option<unsafe extern "C" fn()> = Some(restorer::restore);
#[cfg(target_arch = "x86_64")]
const RESTORER_FLAG: u32 = sys::SA_RESTORER;
#[cfg(not(target_arch = "x86_64"))]
const RESTORER: Option<unsafe extern "C" fn()> = None;
#[cfg(not(target_arch = "x86_64"))]
const RESTORER_FLAG: u32 = 0;

/// An alternate signal stack of a thread, or none: `stack_t`.
#[derive(Clone, Copy, Debug)]
pub struct AlternateStack(sys::sigaltstack);

impl AlternateStack {
    /// These bytes.
    #[must_use]
    pub const fn new(stack: *mut [u8]) -> Self {
        Self(sys::sigaltstack {
            ss_sp: stack.cast(),
            ss_flags: 0,
            ss_size: stack.len() as u64,
        })
    }

    /// sigaltstack(2): that of the calling thread.
    ///
    /// # Errors
    ///
    /// None that is documented.
    pub fn current() -> Result<Self, Errno> {
        // SAFETY: nothing is changed.
        unsafe { exchange_alternate_stack(ptr::null()) }
    }

    /// Where it is and its size in bytes; `None` if there is none.
    #[must_use]
    pub fn bytes(&self) -> Option<(*mut u8, u64)> {
        let disabled = self.0.ss_flags.cast_unsigned() & sys::SS_DISABLE != 0;
        (!disabled).then(|| (self.0.ss_sp.cast(), self.0.ss_size))
    }
}

/// sigaltstack(2): handlers of [`Action::apart`] run on `stack` when this thread gets the signal; the stack
/// that was there before.
///
/// # Errors
///
/// As sigaltstack(2): `EPERM` on the alternate stack itself.
///
/// # Safety
///
/// The bytes are nobody else's, until the thread has another stack.
pub unsafe fn replace_alternate_stack(stack: &AlternateStack) -> Result<AlternateStack, Errno> {
    // What the kernel says of the thread is not what it takes.
    let stack = sys::sigaltstack {
        ss_flags: stack.0.ss_flags & !sys::SS_ONSTACK.cast_signed(),
        ..stack.0
    };
    // SAFETY: the caller's.
    unsafe { exchange_alternate_stack(&stack) }
}

unsafe fn exchange_alternate_stack(new: *const sys::sigaltstack) -> Result<AlternateStack, Errno> {
    let mut old = AlternateStack::new(ptr::slice_from_raw_parts_mut(ptr::null_mut(), 0));
    // SAFETY: the kernel reads one struct, if any, and writes the other; the stack is the caller's promise.
    unsafe { syscall!(sys::__NR_sigaltstack, new, ptr::from_mut(&mut old.0)) }.map(|_| old)
}

/// Where and how a thread was interrupted by a fault: what a handler is told.
#[derive(Clone, Copy, Debug)]
pub struct FaultContext<'a> {
    code: i32,
    address: u64,
    context: &'a Context,
}

/// The start of `struct ucontext`, the same everywhere, and what this architecture has behind it.
#[repr(C)]
#[derive(Debug)]
struct Context {
    flags: u64,
    link: u64,
    stack: sys::sigaltstack,
    machine: Machine,
}

impl FaultContext<'_> {
    /// What the arguments of a handler say.
    ///
    /// # Safety
    ///
    /// They are those that the kernel has called the handler with, which has not returned.
    #[must_use]
    pub unsafe fn new(info: *mut sys::siginfo_t, context: *mut c_void) -> Self {
        // si_signo, si_errno, si_code; the fields of faults are behind them and padding.
        let code = info.cast::<i32>().wrapping_add(2);
        let address = info.cast::<u64>().wrapping_add(2);
        // SAFETY: inside the struct, which the kernel has filled.
        let code = unsafe { code.read() };
        // SAFETY: as above.
        let address = unsafe { address.read() };
        // SAFETY: as above.
        let context = unsafe { &*context.cast() };
        Self {
            code,
            address,
            context,
        }
    }

    /// `si_addr`: the address of the access.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Whether a process has sent the signal, and no access has caused it: `SI_FROMUSER`.
    #[must_use]
    pub const fn is_sent(&self) -> bool {
        self.code <= 0
    }

    /// Whether no access has caused the signal, so that none is made again when the handler returns: it was
    /// sent, or tells of memory that is damaged and that nobody has touched (`BUS_MCEERR_AO`).
    #[must_use]
    pub const fn is_asynchronous(&self) -> bool {
        self.is_sent() || self.code == sys::BUS_MCEERR_AO.cast_signed()
    }

    /// Whether there is nothing at the address: `BUS_ADRERR`, not a page that is damaged.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        self.code == sys::BUS_ADRERR.cast_signed()
    }

    /// Whether it was a write; as good as its own word if the kernel does not tell.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.context.machine.is_write()
    }

    /// The alternate stack of the thread.
    #[must_use]
    pub const fn alternate_stack(&self) -> AlternateStack {
        AlternateStack(self.context.stack)
    }
}

/// rt_sigprocmask(2): the calling thread, and the children that it makes, get none of `signals` from now
/// on; they wait.
///
/// # Errors
///
/// None that is documented.
pub fn block(signals: &[Signal]) -> Result<(), Errno> {
    let bits = signals.iter().map(|&signal| 1 << (signal as u32 - 1));
    block_set(bits.fold(0, |set, bit: u64| set | bit))
}

/// As [`block`], of all signals that can be blocked.
///
/// # Errors
///
/// None that is documented.
pub fn block_all() -> Result<(), Errno> {
    block_set(u64::MAX)
}

fn block_set(set: u64) -> Result<(), Errno> {
    let old: *mut u64 = ptr::null_mut();
    // SAFETY: the kernel reads one word.
    unsafe {
        syscall!(
            sys::__NR_rt_sigprocmask,
            sys::SIG_BLOCK,
            ptr::from_ref(&set),
            old,
            size_of::<u64>()
        )
    }
    .map(drop)
}

/// ppoll(2) of nothing, for ever: returns when a signal was handled.
pub fn pause() {
    // Interrupted or not, there is nothing to say.
    let _ = crate::poll::poll(&mut [], None);
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    extern "C" fn nothing(_: c_int, _: *mut sys::siginfo_t, _: *mut c_void) {}

    #[test]
    fn a_handler_that_is_read_beside_a_save_is_one_that_was_saved() {
        let saved = SavedAction::new();
        let actions = [Action::apart(nothing), Action::DEFAULT];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..200_000 {
                    saved.save(&actions[round % 2]);
                }
            });
            for _ in 0..200_000 {
                let found = saved.handler();
                let takes_info = found.0.sa_flags & u64::from(sys::SA_SIGINFO) != 0;
                assert_eq!(found.is(nothing), takes_info);
            }
        });
        for action in actions {
            saved.save(&action);
            assert_eq!(saved.load().address(), action.address());
            assert_eq!(saved.load().0.sa_flags, action.0.sa_flags);
        }
    }
}
