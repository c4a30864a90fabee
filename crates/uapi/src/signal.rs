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
    /// A bus error: the access reached no memory, or userfaultfd refused the page.
    Bus = sys::SIGBUS,
    /// A child has ended or stopped.
    Child = sys::SIGCHLD,
    /// Continues a stopped process.
    Continue = sys::SIGCONT,
    /// Kills a process.
    Kill = sys::SIGKILL,
    /// An access to memory that is not mapped, or that its protection forbids.
    Segv = sys::SIGSEGV,
    /// Stops a process.
    Stop = sys::SIGSTOP,
    /// Ends a process whose terminal is gone.
    Hangup = sys::SIGHUP,
    /// Ends a process on Ctrl-C at its terminal.
    Interrupt = sys::SIGINT,
    /// Asks a process to end.
    Term = sys::SIGTERM,
    /// A signal for the program's own use.
    Usr1 = sys::SIGUSR1,
}

/// A signal handler. Its arguments are the signal, its siginfo, and the interrupted context.
pub type Handler = extern "C" fn(c_int, *mut sys::siginfo_t, *mut c_void);

/// rt_sigaction(2): installs `handler` for `signal`.
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
/// The handler is sound between any two instructions of the program.
pub unsafe fn handle(signal: Signal, handler: Handler) -> Result<(), Errno> {
    // SAFETY: guaranteed by the caller.
    unsafe { replace_action(signal, &Action::new(handler, 0)) }.map(drop)
}

/// rt_sigaction(2): restores the default action of `signal`.
///
/// # Errors
///
/// As sigaction(2).
pub fn restore_default(signal: Signal) -> Result<(), Errno> {
    // SAFETY: no handler runs.
    unsafe { replace_action(signal, &Action::DEFAULT) }.map(drop)
}

/// rt_sigaction(2): installs `action` for `signal`. Returns the previous action.
///
/// # Errors
///
/// As sigaction(2).
///
/// # Safety
///
/// As [`handle`], for the handler of the action.
pub unsafe fn replace_action(signal: Signal, action: &Action) -> Result<Action, Errno> {
    // SAFETY: the caller guarantees the handler.
    unsafe { exchange_action(signal, &action.0) }
}

unsafe fn exchange_action(
    signal: Signal,
    new: *const sys::kernel_sigaction,
) -> Result<Action, Errno> {
    let mut old = Action::DEFAULT;
    let size = size_of::<sys::kernel_sigset_t>();
    // SAFETY: the kernel reads one action, if any, and writes the other; the caller guarantees the rest.
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

/// The action for a signal: `struct sigaction` of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Action(sys::kernel_sigaction);

/// The signals that instructions cause, as a `sigset_t`: where they are blocked, they end the process.
const BY_INSTRUCTIONS: u64 = {
    const fn bit(signal: u32) -> u64 {
        1 << (signal - 1)
    }
    bit(sys::SIGSEGV)
        | bit(sys::SIGBUS)
        | bit(sys::SIGILL)
        | bit(sys::SIGFPE)
        | bit(sys::SIGTRAP)
        | bit(sys::SIGSYS)
};

/// `SIG_IGN` of include/uapi/asm-generic/signal-defs.h.
const IGNORE: usize = 1;

impl Action {
    /// The default action of the signal.
    pub const DEFAULT: Self = Self(sys::kernel_sigaction {
        sa_handler_kernel: None,
        sa_flags: 0,
        sa_restorer: None,
        sa_mask: sys::kernel_sigset_t { sig: [0] },
    });

    /// rt_sigaction(2): returns the current action for `signal`.
    ///
    /// # Errors
    ///
    /// None is documented for a valid signal.
    pub fn current(signal: Signal) -> Result<Self, Errno> {
        // SAFETY: nothing is changed.
        unsafe { exchange_action(signal, ptr::null()) }
    }

    /// Returns the action that runs `handler`, on the alternate stack of the thread if it has one. Signals that
    /// no instruction causes wait until it returns.
    #[must_use]
    pub fn apart(handler: Handler) -> Self {
        let mut action = Self::new(handler, sys::SA_ONSTACK);
        action.0.sa_mask.sig = [!BY_INSTRUCTIONS];
        action
    }

    fn new(handler: Handler, flags: u32) -> Self {
        Self(sys::kernel_sigaction {
            // SAFETY: both are pointers to functions; SA_SIGINFO tells the kernel which one it is.
            sa_handler_kernel: unsafe {
                transmute::<Option<Handler>, Option<unsafe extern "C" fn(c_int)>>(Some(handler))
            },
            sa_flags: u64::from(sys::SA_SIGINFO | flags | RESTORER_FLAG),
            sa_restorer: RESTORER,
            ..Self::DEFAULT.0
        })
    }

    /// Returns the address of the handler; 0 for the default action.
    fn address(&self) -> usize {
        self.0
            .sa_handler_kernel
            .map_or(0, |handler| handler as usize)
    }

    /// Returns whether the action runs `handler`.
    #[must_use]
    pub fn is(&self, handler: Handler) -> bool {
        self.address() == handler as usize
    }

    /// Returns whether the signal is ignored.
    #[must_use]
    pub fn ignores(&self) -> bool {
        self.address() == IGNORE
    }

    /// Calls the handler, if there is one. Returns whether there is one.
    ///
    /// # Safety
    ///
    /// The arguments are those of another handler that the kernel has called and that has not returned yet.
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
            // SAFETY: the flag says that the function has this type.
            let handler = unsafe { transmute::<unsafe extern "C" fn(c_int), Handler>(handler) };
            handler(signal, info, context);
        } else {
            // SAFETY: this handler was installed for this signal.
            unsafe { handler(signal) };
        }
        true
    }
}

/// A stored [`Action`]. Its handler may be called while another thread stores a new action.
#[derive(Debug)]
pub struct SavedAction {
    words: [AtomicUsize; 4],
    /// The address of the handler, with [`TAKES_INFO`] if it was installed with `SA_SIGINFO`, and [`ONCE`] if
    /// with `SA_RESETHAND`.
    handler: AtomicUsize,
}

/// Bit 63, which no address in user space has.
const TAKES_INFO: usize = 1 << 63;
/// Bit 62, likewise.
const ONCE: usize = 1 << 62;

impl SavedAction {
    /// Stores [`Action::DEFAULT`].
    #[must_use]
    #[expect(clippy::new_without_default, reason = "for statics")]
    pub const fn new() -> Self {
        Self {
            words: [const { AtomicUsize::new(0) }; 4],
            handler: AtomicUsize::new(0),
        }
    }

    /// Stores an action. Only one thread may do this at a time.
    pub fn save(&self, action: &Action) {
        // SAFETY: an action is four words without padding, as asserted below.
        let words = unsafe { transmute::<Action, [usize; 4]>(*action) };
        for (place, word) in self.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        let takes_info = action.0.sa_flags & u64::from(sys::SA_SIGINFO) != 0;
        let once = action.0.sa_flags & u64::from(sys::SA_RESETHAND) != 0;
        let flags = if takes_info { TAKES_INFO } else { 0 } | if once { ONCE } else { 0 };
        self.handler
            .store(action.address() | flags, Ordering::Release);
    }

    /// Returns an action that runs the stored handler for the next signal, without its mask and other flags.
    /// With `SA_RESETHAND` the stored action is the default one then. Uses one word, so another thread may
    /// store an action meanwhile.
    #[must_use]
    pub fn next_handler(&self) -> Action {
        let reset = |word| (word & ONCE != 0).then_some(0);
        let before = self
            .handler
            .fetch_update(Ordering::Acquire, Ordering::Acquire, reset);
        let (Ok(word) | Err(word)) = before;
        let takes_info = word & TAKES_INFO != 0;
        Action(sys::kernel_sigaction {
            // SAFETY: the address of a stored function, or 0 or 1.
            sa_handler_kernel: unsafe {
                transmute::<usize, Option<unsafe extern "C" fn(c_int)>>(word & !(TAKES_INFO | ONCE))
            },
            sa_flags: if takes_info {
                sys::SA_SIGINFO.into()
            } else {
                0
            },
            ..Action::DEFAULT.0
        })
    }

    /// Returns the stored action. Only the thread that may store actions calls this.
    #[must_use]
    pub fn load(&self) -> Action {
        if self.handler.load(Ordering::Relaxed) == 0 {
            return Action::DEFAULT;
        }
        let words = self
            .words
            .each_ref()
            .map(|word| word.load(Ordering::Relaxed));
        // SAFETY: these are the words of an action; all 0 is the default action.
        unsafe { transmute::<[usize; 4], Action>(words) }
    }
}

// Flags, mask and two pointers.
static_assertions::const_assert_eq!(size_of::<Action>(), 32);

/// On x86-64 the program must provide the code that returns from a handler.
#[cfg(target_arch = "x86_64")]
const RESTORER: Option<unsafe extern "C" fn()> = Some(restorer::restore);
#[cfg(target_arch = "x86_64")]
const RESTORER_FLAG: u32 = sys::SA_RESTORER;
#[cfg(not(target_arch = "x86_64"))]
const RESTORER: Option<unsafe extern "C" fn()> = None;
#[cfg(not(target_arch = "x86_64"))]
const RESTORER_FLAG: u32 = 0;

/// rt_tgsigqueueinfo(2): sends `signal` to the calling thread, with the information of one that it got before.
/// While it is blocked, as in its own handler, it stays pending.
///
/// # Errors
///
/// As rt_sigqueueinfo(2).
///
/// # Safety
///
/// `info` is that of a handler that the kernel has called and that has not returned yet. The handler of the
/// signal is sound when the same information arrives twice.
pub unsafe fn send_again(signal: Signal, info: *mut siginfo_t) -> Result<(), Errno> {
    let (pid, tid) = (crate::process::pid(), crate::process::tid());
    // SAFETY: the kernel reads the information; the caller guarantees the rest.
    unsafe { syscall!(sys::__NR_rt_tgsigqueueinfo, pid, tid, signal as u32, info) }.map(drop)
}

/// An alternate signal stack of a thread, or none: `stack_t`.
#[derive(Clone, Copy, Debug)]
pub struct AlternateStack(sys::sigaltstack);

impl AlternateStack {
    /// Uses these bytes as the stack.
    #[must_use]
    pub const fn new(stack: *mut [u8]) -> Self {
        Self(sys::sigaltstack {
            ss_sp: stack.cast(),
            ss_flags: 0,
            ss_size: stack.len() as u64,
        })
    }

    /// sigaltstack(2): returns the alternate stack of the calling thread.
    ///
    /// # Errors
    ///
    /// None is documented.
    pub fn current() -> Result<Self, Errno> {
        // SAFETY: nothing is changed.
        unsafe { exchange_alternate_stack(ptr::null()) }
    }

    /// Returns its address and size in bytes; `None` if there is none.
    #[must_use]
    pub fn bytes(&self) -> Option<(*mut u8, u64)> {
        let disabled = self.0.ss_flags.cast_unsigned() & sys::SS_DISABLE != 0;
        (!disabled).then(|| (self.0.ss_sp.cast(), self.0.ss_size))
    }
}

/// sigaltstack(2): runs handlers of [`Action::apart`] on `stack` when this thread gets the signal. Returns
/// the previous alternate stack.
///
/// # Errors
///
/// As sigaltstack(2): `EPERM` while running on the alternate stack.
///
/// # Safety
///
/// Nobody else uses these bytes until the thread has another alternate stack.
pub unsafe fn replace_alternate_stack(stack: &AlternateStack) -> Result<AlternateStack, Errno> {
    // The kernel reports flags that it does not accept.
    let stack = sys::sigaltstack {
        ss_flags: stack.0.ss_flags & !sys::SS_ONSTACK.cast_signed(),
        ..stack.0
    };
    // SAFETY: guaranteed by the caller.
    unsafe { exchange_alternate_stack(&stack) }
}

unsafe fn exchange_alternate_stack(new: *const sys::sigaltstack) -> Result<AlternateStack, Errno> {
    let mut old = AlternateStack::new(ptr::slice_from_raw_parts_mut(ptr::null_mut(), 0));
    // SAFETY: the kernel reads one struct, if any, and writes the other; the caller guarantees the stack.
    unsafe { syscall!(sys::__NR_sigaltstack, new, ptr::from_mut(&mut old.0)) }.map(|_| old)
}

/// Where and how a fault interrupted a thread: the arguments of its signal handler.
#[derive(Clone, Copy, Debug)]
pub struct FaultContext<'a> {
    code: i32,
    address: u64,
    context: &'a Context,
}

/// The start of `struct ucontext`, the same on all architectures, and the part of this architecture after it.
#[repr(C)]
#[derive(Debug)]
struct Context {
    flags: u64,
    link: u64,
    stack: sys::sigaltstack,
    machine: Machine,
}

impl FaultContext<'_> {
    /// Decodes the arguments of a signal handler.
    ///
    /// # Safety
    ///
    /// They are the arguments of a handler that the kernel has called and that has not returned yet.
    #[must_use]
    pub unsafe fn new(info: *mut sys::siginfo_t, context: *mut c_void) -> Self {
        // si_signo, si_errno, si_code, then padding and the fields of faults.
        let code = info.cast::<i32>().wrapping_add(2);
        let address = info.cast::<u64>().wrapping_add(2);
        // SAFETY: the field lies inside the struct, which the kernel has filled.
        let code = unsafe { code.read() };
        // SAFETY: the field lies inside the struct, which the kernel has filled.
        let address = unsafe { address.read() };
        // SAFETY: the kernel has filled the context, and the handler has not returned.
        let context = unsafe { &*context.cast() };
        Self {
            code,
            address,
            context,
        }
    }

    /// Returns `si_addr`: the address of the access.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Returns whether a process sent the signal, so that no access caused it: `SI_FROMUSER`.
    #[must_use]
    pub const fn is_sent(&self) -> bool {
        self.code <= 0
    }

    /// Returns whether no access caused the signal, so that none is repeated when the handler returns: a
    /// process sent it, or it reports a memory error that no access has hit yet (`BUS_MCEERR_AO`).
    #[must_use]
    pub const fn is_asynchronous(&self) -> bool {
        self.is_sent() || self.code == sys::BUS_MCEERR_AO.cast_signed()
    }

    /// Returns whether there is no memory at the address (`BUS_ADRERR`), in contrast to a memory error.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        self.code == sys::BUS_ADRERR.cast_signed()
    }

    /// Returns whether the access was a write; true if the kernel does not report it.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.context.machine.is_write()
    }

    /// Returns the alternate stack of the thread.
    #[must_use]
    pub const fn alternate_stack(&self) -> AlternateStack {
        AlternateStack(self.context.stack)
    }
}

/// rt_sigprocmask(2): blocks `signals` in the calling thread and in the children that it creates later; they
/// stay pending.
///
/// # Errors
///
/// None is documented.
pub fn block(signals: &[Signal]) -> Result<(), Errno> {
    let bits = signals.iter().map(|&signal| 1 << (signal as u32 - 1));
    block_set(bits.fold(0, |set, bit: u64| set | bit))
}

/// As [`block`], for all signals that can be blocked.
///
/// # Errors
///
/// None is documented.
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

/// ppoll(2) without descriptors or time-out: returns after a signal was handled.
pub fn pause() {
    // The result is always EINTR.
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
                let found = saved.next_handler();
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
