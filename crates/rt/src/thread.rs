//! A second thread.

#![expect(unsafe_code, reason = "starts a thread on a stack of its own")]

use core::mem::ManuallyDrop;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::general::{
    CLONE_CHILD_CLEARTID, CLONE_FILES, CLONE_FS, CLONE_PARENT_SETTID, CLONE_SIGHAND, CLONE_SYSVSEM,
    CLONE_THREAD, CLONE_VM,
};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Errno, Mapping, Sharing, futex, process};

use crate::clone::clone_thread;

/// What a thread shares with the one that starts it, and what is done with its ID: all that a
/// thread of the C library has, but thread-local storage.
const FLAGS: u32 = CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID;

/// Bytes of a thread's stack: a multiple of every page size.
const STACK: usize = 128 << 10;
/// Bytes below it that nobody can touch: one page of the largest size.
const GUARD: usize = 64 << 10;

/// Runs `beside` on a thread of its own while `body` runs here; returns when both are done, with
/// what `body` returned. Eight system calls, with the thread's own.
///
/// # Errors
///
/// `ENOMEM` or `EAGAIN`: no memory for a stack, no room for a thread. Neither ran then.
pub fn run_beside<F, R>(beside: F, body: impl FnOnce() -> R) -> Result<R, Errno>
where
    F: FnOnce() + Send,
{
    let stack = Mapping::anonymous(GUARD + STACK, Protection::NONE, Sharing::Private)?;
    stack.protect(GUARD..GUARD + STACK, Protection::READ_WRITE)?;
    let id = AtomicU32::new(0);
    let mut beside = ManuallyDrop::new(beside);

    // SAFETY: the stack is the thread's until `join` returns, and so are `id` and the closure,
    // which `run` takes out once.
    let result = unsafe {
        clone_thread(
            FLAGS as usize,
            stack.as_ptr().wrapping_add(stack.size()),
            id.as_ptr(),
            run::<F>,
            ptr::from_mut(&mut beside).cast(),
        )
    };
    if let Err(errno) = Errno::from_return_value(result) {
        drop(ManuallyDrop::into_inner(beside));
        return Err(errno);
    }
    let result = body();
    join(&id);
    Ok(result)
}

/// Runs `threads` with the numbers from 0 to `count - 1`, each on a thread of its own but the last one;
/// returns when all are done.
///
/// # Errors
///
/// As [`run_beside`]; those that have run then, have run.
pub fn run_all(count: usize, threads: &(dyn Fn(usize) + Sync)) -> Result<(), Errno> {
    match count.checked_sub(1) {
        None => Ok(()),
        Some(0) => {
            threads(0);
            Ok(())
        }
        Some(last) => run_beside(|| threads(last), || run_all(last, threads))?,
    }
}

/// Waits until the thread has ended and the kernel has cleared its ID: it uses no memory after that.
fn join(id: &AtomicU32) {
    loop {
        match id.load(Ordering::Acquire) {
            0 => return,
            // A wake, a signal or a value that changed meanwhile: look again.
            running => drop(futex::wait(id, running)),
        }
    }
}

/// The first function of a thread.
///
/// # Safety
///
/// `closure` is an `F` that nobody else takes.
unsafe extern "C" fn run<F: FnOnce()>(closure: *mut u8) -> ! {
    // SAFETY: the caller's.
    let closure = unsafe { closure.cast::<F>().read() };
    closure();
    process::exit_thread()
}
