//! The number of the system call, which is not the same in every kernel that has it.

#![expect(unsafe_code, reason = "makes the call to see whether it is there")]

use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::errno::Errno;
use crate::remap::{
    EXPOSE_PGTBL_INFO, EXPOSE_PGTBL_INFO_SIZE_VER0, ExposePgtblArgs, ExposePgtblInfo,
};

/// The numbers that the series gives it: 451 for Linux 6.1, 463 for 6.12, where 451 is
/// cachestat(2).
pub const NUMBERS: [u32; 2] = [451, 463];

/// Not asked yet, or the number.
static NUMBER: AtomicU32 = AtomicU32::new(UNKNOWN);
const UNKNOWN: u32 = 0;

/// The number of the call in this kernel; none if it lacks the call. The first time one system call
/// for each of [`NUMBERS`], later one load.
#[must_use]
pub fn number() -> Option<u32> {
    match NUMBER.load(Ordering::Relaxed) {
        UNKNOWN => {
            let found = NUMBERS.into_iter().find(|&number| is_ours(number));
            // Threads that ask at the same time get the same answer.
            NUMBER.store(found.unwrap_or(UNKNOWN), Ordering::Relaxed);
            found
        }
        number => Some(number),
    }
}

/// Asks for INFO. A kernel with the call gives it, or `EPERM`. Of others, cachestat(2) at 451 takes
/// the pointer for a file descriptor (`EBADF`), and setxattrat(2), from 6.13 on at 463, refuses a
/// struct of no bytes (`EINVAL`).
fn is_ours(number: u32) -> bool {
    let mut info = ExposePgtblInfo {
        size: EXPOSE_PGTBL_INFO_SIZE_VER0,
        ..Default::default()
    };
    let args = ExposePgtblArgs {
        pid: 0,
        remap_vaddr: ptr::from_mut(&mut info).expose_provenance() as u64,
        pfn: 0,
        level: EXPOSE_PGTBL_INFO,
    };
    let (args, none) = (ptr::from_ref(&args), 0_usize);
    // SAFETY: this form writes to `info` only; the others that may have the number, to nothing.
    let asked = unsafe { syscall!(number, args, none, none, none, none, none) };
    matches!(asked, Ok(_) | Err(Errno::EPERM))
}
