//! Any system call, without a wrapper.

#![expect(unsafe_code, reason = "any system call at all")]

pub use linux_raw_sys::{
    auxvec as auxv, elf_uapi as elf, errno, general as constants, prctl, ptrace,
};

use crate::errno::Errno;

/// Makes system call `number` (`__NR_*` of [`constants`]) with `arguments`, and returns its result. For
/// tests, which make calls that no program would.
///
/// # Errors
///
/// The errors of the call; `ENOSYS` if the kernel has no call with that number.
///
/// # Safety
///
/// Nothing relies on memory that the call writes, unmaps or replaces.
pub unsafe fn call(number: u32, arguments: [u64; 6]) -> Result<u64, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: guaranteed by the caller.
    unsafe { syscall!(number, a, b, c, d, e, f) }.map(|value| value as u64)
}
