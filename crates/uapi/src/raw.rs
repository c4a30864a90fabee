//! System calls that have no wrapper.

#![expect(unsafe_code, reason = "any system call at all")]

pub use linux_raw_sys::{auxvec as auxv, general as constants};

use crate::errno::Errno;

/// System call `number` (`__NR_*` of [`constants`]) with `arguments`; what it returned. For tests,
/// which try what no program would.
///
/// # Errors
///
/// Those of the call; `ENOSYS` if the kernel has none of that number.
///
/// # Safety
///
/// Those of the call: nothing relies on memory that it writes, unmaps or replaces.
pub unsafe fn call(number: u32, arguments: [u64; 6]) -> Result<u64, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the caller's promise.
    unsafe { syscall!(number, a, b, c, d, e, f) }.map(|value| value as u64)
}
