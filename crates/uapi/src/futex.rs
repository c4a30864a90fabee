//! futex(2): waits for a word of memory to change.
//!
//! These are the forms for memory shared between processes, which also work within one. The kernel wakes the
//! word of `CLONE_CHILD_CLEARTID` in this form (`kernel/fork.c`, `mm_release`).

#![expect(unsafe_code, reason = "the kernel reads a word by its address")]

use core::ptr;
use core::sync::atomic::AtomicU32;

use linux_raw_sys::general as sys;

use crate::errno::Errno;

/// Waits until another thread wakes `word`, unless it does not hold `expected`.
///
/// # Errors
///
/// `EAGAIN` if the word does not hold `expected`, `EINTR`.
pub fn wait(word: &AtomicU32, expected: u32) -> Result<(), Errno> {
    let timeout: *const sys::__kernel_timespec = ptr::null();
    // SAFETY: the kernel reads the word.
    unsafe {
        syscall!(
            sys::__NR_futex,
            word.as_ptr(),
            sys::FUTEX_WAIT,
            expected,
            timeout
        )
    }
    .map(drop)
}

/// Wakes one thread that waits for `word`. Returns the number of threads woken, 0 or 1.
///
/// # Errors
///
/// `ENOSYS` from a kernel without `CONFIG_FUTEX`.
pub fn wake_one(word: &AtomicU32) -> Result<usize, Errno> {
    wake(word, 1)
}

/// Wakes all threads that wait for `word`. Returns their number.
///
/// # Errors
///
/// `ENOSYS` from a kernel without `CONFIG_FUTEX`.
pub fn wake_all(word: &AtomicU32) -> Result<usize, Errno> {
    wake(word, i32::MAX)
}

fn wake(word: &AtomicU32, most: i32) -> Result<usize, Errno> {
    // SAFETY: the kernel uses the address as a key and does not access the word.
    unsafe { syscall!(sys::__NR_futex, word.as_ptr(), sys::FUTEX_WAKE, most) }
}
