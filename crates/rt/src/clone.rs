//! Threads without a library: `clone` returns twice, in the new thread on another stack.

#![expect(unsafe_code, reason = "starts a thread on a stack of its own")]

use core::arch::naked_asm;
use core::mem::ManuallyDrop;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::general::{
    __NR_clone, CLONE_CHILD_CLEARTID, CLONE_FILES, CLONE_FS, CLONE_PARENT_SETTID, CLONE_SIGHAND,
    CLONE_SYSVSEM, CLONE_THREAD, CLONE_VM,
};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Errno, Mapping, Sharing, futex, process};

/// What a thread shares with its creator, and what happens to its ID: the flags of a C library's thread,
/// without thread-local storage.
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
/// Bytes of inaccessible memory below the stack: one page of the largest size.
const GUARD: usize = 64 << 10;

/// Implements [`run_beside`](crate::thread::run_beside).
pub(crate) fn run_beside<F, R>(beside: F, body: impl FnOnce() -> R) -> Result<R, Errno>
where
    F: FnOnce() + Send,
{
    let stack = Mapping::anonymous(GUARD + STACK, Protection::NONE, Sharing::Private)?;
    stack.protect(GUARD..GUARD + STACK, Protection::READ_WRITE)?;
    let id = AtomicU32::new(0);
    let mut beside = ManuallyDrop::new(beside);

    // SAFETY: the stack, `id` and the closure belong to the thread until `join` returns, and `run` takes the
    // closure out once.
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
    let beside = Beside(&id);
    let result = body();
    drop(beside);
    Ok(result)
}

/// A running thread that uses the stack and the closure of its creator.
struct Beside<'i>(&'i AtomicU32);

impl Drop for Beside<'_> {
    /// Waits also when `body` unwinds.
    fn drop(&mut self) {
        join(self.0);
    }
}

/// Waits until the thread has ended and the kernel has cleared its ID. After that it uses no memory.
fn join(id: &AtomicU32) {
    loop {
        match id.load(Ordering::Acquire) {
            0 => return,
            // A wake-up, a signal, or a changed value: check again.
            running => drop(futex::wait(id, running)),
        }
    }
}

/// The first function of a thread.
///
/// # Safety
///
/// `closure` points to an `F`, and no other code moves it out.
unsafe extern "C" fn run<F: FnOnce()>(closure: *mut u8) -> ! {
    // SAFETY: guaranteed by the caller.
    let closure = unsafe { closure.cast::<F>().read() };
    closure();
    // SAFETY: the closure was dropped, and this is the first frame of the thread.
    unsafe { process::exit_thread() }
}

/// Starts a thread that runs `entry(argument)` on `stack`. Returns its ID, or a negative errno.
///
/// The kernel stores the thread's ID at `tid` before the thread runs, and clears it and wakes a futex waiter
/// after it has ended (`CLONE_PARENT_SETTID` and `CLONE_CHILD_CLEARTID` in `flags`).
///
/// # Safety
///
/// `stack` is the end of memory that nobody else uses while the thread runs, aligned to 16 bytes; `tid` is
/// valid for the same time; `entry` accepts `argument`.
#[unsafe(naked)]
unsafe extern "C" fn clone_thread(
    flags: usize,
    stack: *mut u8,
    tid: *const u32,
    entry: unsafe extern "C" fn(*mut u8) -> !,
    argument: *mut u8,
) -> isize {
    naked_asm!(
        "mov x5, x3",   // save entry and argument: the system call
        "mov x6, x4",   // takes other values in their registers
        "mov x3, xzr",  // x3: thread pointer, unused
        "mov x4, x2",   // x4: address of the ID to clear at the end; x2: to store now
        "mov x8, #{number}",
        "svc #0",
        "cbz x0, 1f",
        "ret",          // in the creator
        "1:",           // in the thread: all registers but x0 and sp are the creator's
        "mov x29, xzr", // no frame above this one
        "mov x30, xzr",
        "mov x0, x6",
        "blr x5",
        "udf #0", // entry does not return
        number = const __NR_clone,
    )
}
