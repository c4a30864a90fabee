//! Finds the number of the system call, which differs between kernels.

#![expect(unsafe_code, reason = "makes the call to see whether it is there")]

use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::errno::Errno;
use crate::remap::{
    EXPOSE_PGTBL_INFO, EXPOSE_PGTBL_INFO_SIZE_VER0, ExposePgtblArgs, ExposePgtblInfo,
};

/// The numbers in the kernel series: 451 for Linux 6.1, and 463 for 6.12, where 451 is cachestat(2).
pub const NUMBERS: [u32; 2] = [451, 463];

/// The number, `UNKNOWN` until the kernel was asked, or `ABSENT`.
static NUMBER: AtomicU32 = AtomicU32::new(UNKNOWN);
const UNKNOWN: u32 = 0;
const ABSENT: u32 = u32::MAX;

/// Returns the number of the call in this kernel, or `None` if the kernel lacks the call. Costs one system
/// call for each of [`NUMBERS`] the first time, and one load afterwards.
#[must_use]
pub fn number() -> Option<u32> {
    match NUMBER.load(Ordering::Relaxed) {
        UNKNOWN => {
            let found = NUMBERS.into_iter().find(|&number| is_ours(number));
            // Threads that ask at the same time store the same number.
            NUMBER.store(found.unwrap_or(ABSENT), Ordering::Relaxed);
            found
        }
        ABSENT => None,
        number => Some(number),
    }
}

/// Returns whether `number` is the call, by trying INFO. A kernel with the call answers it, or fails with
/// `EPERM`. Other calls with that number fail otherwise: cachestat(2), 451, takes the pointer for a file
/// descriptor (`EBADF`), and setxattrat(2), 463 since 6.13, rejects a struct of 0 bytes (`EINVAL`).
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
    // SAFETY: this form writes to `info` only; other calls with one of these numbers write nothing.
    let asked = unsafe { syscall!(number, args, none, none, none, none, none) };
    matches!(asked, Ok(_) | Err(Errno::EPERM))
}
