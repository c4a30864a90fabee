//! TLB maintenance, which user space cannot do itself.

use core::ops::Range;

use tablewalk_uapi::remap;
use tablewalk_walker::{Geometry, VirtualAddress};

use crate::LiveError;

/// Invalidates the TLB entries of the pages of process `pid` (0: the caller) in `range`, whose start
/// is page-aligned. One system call; none for an empty range.
///
/// # Errors
///
/// [`LiveError::Flush`].
pub fn flush(pid: i32, geometry: &Geometry, range: Range<VirtualAddress>) -> Result<(), LiveError> {
    let bytes = range.end.0.saturating_sub(range.start.0);
    let pages = bytes.div_ceil(1 << geometry.page_shift());
    // To the kernel, 0 pages means all pages.
    if pages == 0 {
        return Ok(());
    }
    remap::flush(pid, range.start.0, pages).map_err(|errno| LiveError::Flush {
        pid,
        address: range.start,
        errno,
    })
}
