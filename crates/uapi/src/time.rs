//! Clocks.

#![expect(unsafe_code, reason = "the kernel writes the time")]

use core::ptr;
use core::time::Duration;

use linux_raw_sys::general as sys;

use crate::errno::Errno;

/// Converts a duration to the kernel's type; a longer one becomes the longest possible.
pub(crate) fn timespec(duration: Duration) -> sys::__kernel_timespec {
    sys::__kernel_timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// clock_gettime(2) of `CLOCK_MONOTONIC`: returns the time since an arbitrary point before the program
/// started.
///
/// # Errors
///
/// `ENOSYS` from a kernel without `CONFIG_POSIX_TIMERS`.
pub fn monotonic() -> Result<Duration, Errno> {
    let mut now = timespec(Duration::ZERO);
    // SAFETY: the kernel writes a timespec.
    unsafe {
        syscall!(
            sys::__NR_clock_gettime,
            sys::CLOCK_MONOTONIC,
            ptr::from_mut(&mut now)
        )
    }?;
    let seconds = u64::try_from(now.tv_sec).map_err(|_| Errno::EOVERFLOW)?;
    let nanoseconds = u32::try_from(now.tv_nsec).map_err(|_| Errno::EOVERFLOW)?;
    Ok(Duration::new(seconds, nanoseconds))
}

/// nanosleep(2).
///
/// # Errors
///
/// `EINTR` if a signal was handled before.
pub fn sleep(duration: Duration) -> Result<(), Errno> {
    let duration = timespec(duration);
    let remaining: *mut sys::__kernel_timespec = ptr::null_mut();
    // SAFETY: the kernel reads the timespec, and writes nothing.
    unsafe { syscall!(sys::__NR_nanosleep, ptr::from_ref(&duration), remaining) }.map(drop)
}
