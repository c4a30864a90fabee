//! Handles faults that arrive as signals, in the thread that faults.

use core::ffi::{c_int, c_void};
use core::ptr;

use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::signal::{AlternateStack, FaultContext, replace_alternate_stack, siginfo_t};
use tablewalk_uapi::{Mapping, process};

use crate::counts::add;
use crate::handled::Handled;
use crate::space::Fault;
use crate::worker::Resolved;
use crate::{Delivery, PagerError, Policy, Worker};

/// Bytes of the alternate signal stack: room for the kernel's signal frame with all SVE registers, and for
/// [`Policy::fill`].
const STACK: usize = 128 << 10;
/// Bytes of the guard area below it: one page of the largest size.
const GUARD: usize = 64 << 10;

/// The header at the low end of such a stack, by which the handler finds its worker.
#[repr(C)]
struct Header {
    magic: u64,
    worker: *mut (),
    resolve: unsafe fn(*mut (), u64, bool) -> bool,
    /// The previous stack of the thread, if it has such a header.
    outer: *const Header,
}

/// Maximum number of attempts at a page before the access fails.
const READ_ATTEMPTS: usize = 8;

const MAGIC: u64 = u64::from_le_bytes(*b"pgrstack");

impl<P: Policy> Worker<'_, P> {
    /// Calls `body`, and resolves the faults of this thread in the region until it returns. This does not
    /// work for accesses by the kernel: a system call that gets a missing page fails with `EFAULT`.
    ///
    /// `body` may call this for another worker: faults in both regions are resolved then. It runs with an
    /// alternate signal stack of the pager; afterwards, even after a panic, the thread has its previous one
    /// again. While any thread is inside this function, the pager has the `SIGBUS` handler of the process. It
    /// passes signals with another cause on to the previous handler, which is restored when the last thread
    /// leaves. If there is none, or it ignores the signal and an access has caused it, the process ends, as it
    /// does when the kernel has no memory for a page. Other signals of this thread wait while a page is made, so their handlers may touch the region.
    ///
    /// # Errors
    ///
    /// `body` was not called: [`PagerError::Delivery`] for a pager with events, [`PagerError::Forked`] in a
    /// child of the process that made the pager, [`PagerError::Call`].
    pub fn resolve_own<R>(&mut self, body: impl FnOnce() -> R) -> Result<R, PagerError> {
        if self.pager.options.delivery != Delivery::Signals {
            return Err(PagerError::Delivery);
        }
        self.pager.check_owner()?;
        let _stack = Stack::install(ptr::from_mut(self).cast(), resolve::<P>)?;
        // SAFETY: the handler touches only workers, each of which is borrowed exclusively by a call of this
        // function, and the page for which the interrupted access waits.
        let _handled = unsafe { Handled::by(on_bus, self.pager.space.owner()) }?;
        Ok(body())
    }

    /// Resolves one fault. Returns whether to repeat the access.
    fn resolve_fault(&mut self, address: u64, write: bool) -> bool {
        let pager = self.pager;
        // A child that was forked in `body` may have something else there.
        if pager.region.page_at(address).is_none() || !pager.is_owner() {
            return false;
        }
        add(&pager.counters.faults, 1);
        let address = address & !(pager.page_size() as u64 - 1);
        let resolved = self.resolve(Fault { address, write });
        pager.refill_if_low();
        if !resolved.is_ok_and(|resolved| resolved != Resolved::Refused) {
            return false;
        }
        // A page that cannot be read from swap counts as present, and every access to it is a fault. But a
        // page that other threads map and take back may also be missing again at each attempt.
        !(self.in_vain.is_hopeless(address) && self.is_unreadable(address))
    }

    /// Returns whether the page at `address` cannot be read, after so many faults at which it was present.
    fn is_unreadable(&mut self, address: u64) -> bool {
        let fault = Fault {
            address,
            write: false,
        };
        (0..READ_ATTEMPTS).all(|_| {
            let _there = self.resolve(fault);
            // Not by an access, which would cause the next signal.
            process::read_memory(process::pid(), address, &mut [0]) != Ok(1)
        })
    }
}

/// [`Worker::resolve_fault`] of the worker, without its type.
///
/// # Safety
///
/// `worker` is a `Worker<P>` that no other code uses during the call.
unsafe fn resolve<P: Policy>(worker: *mut (), address: u64, write: bool) -> bool {
    // SAFETY: the caller's.
    let worker = unsafe { &mut *worker.cast::<Worker<'_, P>>() };
    worker.resolve_fault(address, write)
}

/// The alternate stack of this thread, installed as long as this value lives.
struct Stack {
    memory: core::mem::ManuallyDrop<Mapping>,
    before: AlternateStack,
}

impl Stack {
    fn install(
        worker: *mut (),
        resolve: unsafe fn(*mut (), u64, bool) -> bool,
    ) -> Result<Self, PagerError> {
        let memory =
            Mapping::reserve(GUARD + STACK, Protection::NONE).map_err(PagerError::call("mmap"))?;
        memory
            .protect(GUARD..GUARD + STACK, Protection::READ_WRITE)
            .map_err(PagerError::call("mprotect"))?;
        let start = memory.as_ptr().wrapping_add(GUARD);
        let header = start.cast::<Header>();
        let outer = AlternateStack::current().map_err(PagerError::call("sigaltstack"))?;
        // SAFETY: the low end of a mapping that only this value uses; the stack does not reach it.
        unsafe {
            header.write(Header {
                magic: MAGIC,
                worker,
                resolve,
                outer: header_of(&outer),
            });
        }
        let bytes = ptr::slice_from_raw_parts_mut(start, STACK);
        // SAFETY: the mapping lives until the stack is uninstalled, when this is dropped.
        let before = unsafe { replace_alternate_stack(&AlternateStack::new(bytes)) }
            .map_err(PagerError::call("sigaltstack"))?;
        Ok(Self {
            memory: core::mem::ManuallyDrop::new(memory),
            before,
        })
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the previous stack of the thread.
        if unsafe { replace_alternate_stack(&self.before) }.is_ok() {
            // SAFETY: once; the thread has another stack now.
            unsafe { core::mem::ManuallyDrop::drop(&mut self.memory) };
            return;
        }
        // The stack stays installed, but its worker is removed.
        let magic = self.memory.as_ptr().wrapping_add(GUARD).cast::<u64>();
        // SAFETY: the first field of what `install` has written.
        unsafe { magic.write_volatile(0) };
    }
}

/// The header of a stack that [`Stack::install`] made; null for another stack.
fn header_of(stack: &AlternateStack) -> *const Header {
    // After execve(2) the stack has no address, but is not marked as disabled.
    let Some((start, size)) = stack.bytes().filter(|(start, _)| !start.is_null()) else {
        return ptr::null();
    };
    let header = start.cast::<Header>().cast_const();
    // SAFETY: the low end of the thread's alternate stack, which is large enough.
    let is_ours =
        size == STACK as u64 && header.is_aligned() && unsafe { (*header).magic } == MAGIC;
    if is_ours { header } else { ptr::null() }
}

/// The handler of all pagers.
extern "C" fn on_bus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: these are the arguments of the handler.
    let fault = unsafe { FaultContext::new(info, context) };
    // A damaged page, or a signal that a process sent, is not a missing page.
    let mut header = if fault.is_missing() {
        header_of(&fault.alternate_stack())
    } else {
        ptr::null()
    };
    while !header.is_null() {
        // SAFETY: `resolve_own` of this thread has written it, and waits in `body`.
        let Header {
            worker,
            resolve,
            outer,
            ..
        } = unsafe { header.read() };
        // SAFETY: as above; it does not use the worker meanwhile.
        if unsafe { resolve(worker, fault.address(), fault.is_write()) } {
            return;
        }
        header = outer;
    }
    crate::handled::pass_on(signal, &fault, info, context);
}
