//! Faults as signals, in the thread that faults.

use core::ffi::{c_int, c_void};
use core::ptr;

use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::signal::{
    FaultContext, Signal, handle_apart, restore_default, set_alternate_stack, siginfo_t,
};
use tablewalk_uapi::{Mapping, Sharing};

use crate::counts::add;
use crate::{Delivery, PagerError, Policy, Worker};

/// Bytes of the stack that a signal is handled on: the kernel's frame, with all registers of SVE, and a
/// [`Policy::fill`].
const STACK: usize = 128 << 10;

/// What is at the low end of such a stack: how the handler finds its worker.
struct Header {
    magic: u64,
    worker: *mut (),
    resolve: unsafe fn(*mut (), u64, bool) -> bool,
}

const MAGIC: u64 = u64::from_le_bytes(*b"pgrstack");

impl<P: Policy> Worker<'_, P> {
    /// Calls `body`, and resolves the faults that this thread has in the region meanwhile. Not for
    /// faults of the kernel: a system call that is given a page which is not there fails with `EFAULT`.
    ///
    /// Takes `SIGBUS` and the alternate signal stack of the thread. A `SIGBUS` for another reason ends
    /// the process, as it does by default.
    ///
    /// # Errors
    ///
    /// [`PagerError::Delivery`] for a pager with events, [`PagerError::Call`]: `body` was not called.
    pub fn resolve_own<R>(&mut self, body: impl FnOnce() -> R) -> Result<R, PagerError> {
        if self.pager.options.delivery != Delivery::Signals {
            return Err(PagerError::Delivery);
        }
        let stack = Mapping::anonymous(STACK, Protection::READ_WRITE, Sharing::Private)
            .map_err(PagerError::call("mmap"))?;
        let header = stack.as_ptr().cast::<Header>();
        // SAFETY: the low end of a mapping that nobody else uses; a stack does not reach it.
        unsafe {
            header.write(Header {
                magic: MAGIC,
                worker: ptr::from_mut(self).cast(),
                resolve: resolve::<P>,
            });
        }
        let bytes = ptr::slice_from_raw_parts_mut(stack.as_ptr(), STACK);
        // SAFETY: the mapping lives until the stack is taken back, in this function.
        unsafe { set_alternate_stack(bytes) }.map_err(PagerError::call("sigaltstack"))?;
        // SAFETY: the handler touches nothing but the worker, which is borrowed alone by this function,
        // and what the interrupted access waits for.
        let handled = unsafe { handle_apart(Signal::Bus, on_bus) };
        let result = match handled {
            Ok(()) => Ok(body()),
            Err(errno) => Err(PagerError::Call("sigaction", errno)),
        };
        let none = ptr::slice_from_raw_parts_mut(ptr::null_mut(), 0);
        // SAFETY: no stack.
        if unsafe { set_alternate_stack(none) }.is_err() {
            // It stays the thread's.
            core::mem::forget(stack);
        }
        result
    }

    /// Resolves one fault; whether the access may be tried again.
    fn resolve_fault(&mut self, address: u64, write: bool) -> bool {
        let pager = self.pager;
        let Some(page) = pager.page_at(pager.address(), address) else {
            return false;
        };
        add(&pager.counters.faults, 1);
        self.resolve(page, write).is_ok() && pager.refill_if_low().is_ok()
    }
}

/// [`Worker::resolve_fault`] of whichever worker.
///
/// # Safety
///
/// `worker` is a `Worker<P>` that nobody else uses now.
unsafe fn resolve<P: Policy>(worker: *mut (), address: u64, write: bool) -> bool {
    // SAFETY: the caller's.
    let worker = unsafe { &mut *worker.cast::<Worker<'_, P>>() };
    worker.resolve_fault(address, write)
}

/// The handler of all pagers.
extern "C" fn on_bus(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: these are the arguments of the handler.
    let fault = unsafe { FaultContext::new(info, context) };
    let resolved = fault.alternate_stack().is_some_and(|(stack, size)| {
        let header = stack.cast::<Header>().cast_const();
        // SAFETY: the stack that this thread runs on begins there, and none is smaller.
        let header = unsafe { &*header };
        size == STACK as u64
            && header.magic == MAGIC
            // SAFETY: `resolve_own` of this thread waits in `body`, and does not use the worker.
            && unsafe { (header.resolve)(header.worker, fault.address(), fault.is_write()) }
    });
    if !resolved {
        // The access is made again, and ends the process.
        let _ = restore_default(Signal::Bus);
    }
}
