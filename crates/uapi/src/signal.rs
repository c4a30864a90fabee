//! Signals.

#![expect(unsafe_code, reason = "a handler runs between any two instructions")]

use core::ffi::{c_int, c_void};
use core::mem::{size_of, transmute};
use core::ptr;

use linux_raw_sys::general as sys;
pub use linux_raw_sys::general::siginfo_t;

use crate::errno::Errno;

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
    unsafe { act(signal, Some(handler), 0) }
}

/// As [`handle`], on the alternate stack of the thread, if it has one.
///
/// # Errors
///
/// As sigaction(2).
///
/// # Safety
///
/// As [`handle`].
pub unsafe fn handle_apart(signal: Signal, handler: Handler) -> Result<(), Errno> {
    // SAFETY: the caller's.
    unsafe { act(signal, Some(handler), sys::SA_ONSTACK) }
}

/// rt_sigaction(2): what the kernel does by itself happens for each `signal` from now on.
///
/// # Errors
///
/// As sigaction(2).
pub fn restore_default(signal: Signal) -> Result<(), Errno> {
    // SAFETY: no handler runs.
    unsafe { act(signal, None, 0) }
}

/// # Safety
///
/// As [`handle`].
unsafe fn act(signal: Signal, handler: Option<Handler>, flags: u32) -> Result<(), Errno> {
    let action = sys::kernel_sigaction {
        // SAFETY: both are pointers to functions or none, and SA_SIGINFO says which the kernel has.
        sa_handler_kernel: unsafe {
            transmute::<Option<Handler>, Option<unsafe extern "C" fn(c_int)>>(handler)
        },
        sa_flags: u64::from(sys::SA_SIGINFO | flags),
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

/// sigaltstack(2): handlers of [`handle_apart`] run on these bytes when this thread gets the signal; on its
/// own stack again with an empty slice.
///
/// # Errors
///
/// As sigaltstack(2); `ENOMEM` if they are too few.
///
/// # Safety
///
/// Nobody else uses the bytes until they are taken back.
pub unsafe fn set_alternate_stack(stack: *mut [u8]) -> Result<(), Errno> {
    let stack = sys::sigaltstack {
        ss_sp: stack.cast(),
        ss_flags: if stack.is_empty() {
            sys::SS_DISABLE.cast_signed()
        } else {
            0
        },
        ss_size: stack.len() as u64,
    };
    let old: *mut sys::sigaltstack = ptr::null_mut();
    // SAFETY: the kernel reads the struct; the stack is the caller's promise.
    unsafe { syscall!(sys::__NR_sigaltstack, ptr::from_ref(&stack), old) }.map(drop)
}

/// Where and how a thread was interrupted by a fault: what a handler is told.
#[derive(Clone, Copy, Debug)]
pub struct FaultContext<'a> {
    address: u64,
    context: &'a Context,
}

/// `struct ucontext` of arm64, as far as it is needed.
#[repr(C)]
#[derive(Debug)]
struct Context {
    flags: u64,
    link: u64,
    stack: sys::sigaltstack,
    /// Signal mask, and room for a larger one.
    mask: [u8; 128],
    /// `struct sigcontext`, which is aligned to 16 bytes: address, x0 to x30, sp, pc, pstate.
    registers: Registers,
    /// `__reserved`: records, each with its magic number and size.
    records: Records,
}

#[repr(C, align(16))]
#[derive(Debug)]
struct Registers {
    fault_address: u64,
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
}

#[repr(C, align(16))]
#[derive(Debug)]
struct Records([u8; 4096]);

/// `ESR_MAGIC`: the record with the fault syndrome.
const ESR_MAGIC: u32 = 0x4553_5201;
/// ESR_EL1.WnR of a data abort: it was a write.
const ESR_WRITE: u64 = 1 << 6;

impl FaultContext<'_> {
    /// What the arguments of a handler say.
    ///
    /// # Safety
    ///
    /// They are those that the kernel has called the handler with, which has not returned.
    #[must_use]
    pub unsafe fn new(info: *mut sys::siginfo_t, context: *mut c_void) -> Self {
        // The fields of faults are behind three numbers and padding, for all of them.
        let address = info.cast::<u64>().wrapping_add(2);
        // SAFETY: inside the struct, which the kernel has filled.
        let address = unsafe { address.read() };
        // SAFETY: as above.
        let context = unsafe { &*context.cast() };
        Self { address, context }
    }

    /// `si_addr`: the address of the access.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Whether it was a write; as good as its own word if the kernel does not tell.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.syndrome().is_none_or(|esr| esr & ESR_WRITE != 0)
    }

    /// The start and the size of the alternate stack, if the thread has one.
    #[must_use]
    pub fn alternate_stack(&self) -> Option<(*mut u8, u64)> {
        let stack = &self.context.stack;
        let disabled = stack.ss_flags.cast_unsigned() & sys::SS_DISABLE != 0;
        (!disabled).then(|| (stack.ss_sp.cast(), stack.ss_size))
    }

    fn syndrome(&self) -> Option<u64> {
        let mut records = &self.context.records.0[..];
        loop {
            let (head, rest) = records.split_first_chunk::<8>()?;
            let [a, b, c, d, size @ ..] = *head;
            let size = u32::from_le_bytes(size) as usize;
            if u32::from_le_bytes([a, b, c, d]) == ESR_MAGIC {
                return rest.first_chunk().copied().map(u64::from_le_bytes);
            }
            // The last one has no size.
            records = records.get(size.max(8)..).filter(|_| size != 0)?;
        }
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
    let set = bits.fold(0, |set, bit: u64| set | bit);
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
