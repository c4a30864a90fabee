//! Starts a thread: `clone` returns twice, and the second time on another stack.

#![expect(unsafe_code, reason = "no Rust frame may be active on the new stack")]

use core::arch::naked_asm;

/// Starts a thread that runs `entry(argument)` on `stack`; returns its ID, or minus an errno.
///
/// The thread's ID is stored at `tid` before it runs and cleared, with a futex wake, after it ended
/// (`flags` with `CLONE_PARENT_SETTID` and `CLONE_CHILD_CLEARTID`).
///
/// # Safety
///
/// `stack` is the end of memory that nobody else uses while the thread runs, aligned to 16 bytes;
/// `tid` stays valid as long; `entry` accepts `argument`.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn clone_thread(
    flags: usize,
    stack: *mut u8,
    tid: *const u32,
    entry: unsafe extern "C" fn(*mut u8) -> !,
    argument: *mut u8,
) -> isize {
    naked_asm!(
        "mov x5, x3",   // entry and argument, out of the way of
        "mov x6, x4",   // what the system call takes in their places
        "mov x3, xzr",  // x3: thread pointer, unused
        "mov x4, x2",   // x4: where the ID is cleared; x2: where it is stored
        "mov x8, #220", // __NR_clone
        "svc #0",
        "cbz x0, 1f",
        "ret",          // the caller
        "1:",           // the thread: all registers but x0 and sp are the caller's
        "mov x29, xzr", // no frame above this one
        "mov x30, xzr",
        "mov x0, x6",
        "blr x5",
        "udf #0", // entry does not return
    )
}
