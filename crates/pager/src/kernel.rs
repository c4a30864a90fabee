//! The system calls of the pool and of moves, repeated when a signal interrupts them. Tests make them fail.

use core::ops::Range;

use tablewalk_live::LiveError;
use tablewalk_uapi::memory::Advice;
use tablewalk_uapi::remap::ExposePgtblTable;
use tablewalk_uapi::{Errno, Mapping, remap};
use tablewalk_walker::{Geometry, PublishOwed, VirtualAddress};

use crate::space::retry;

/// madvise(2).
pub(crate) fn advise(memory: &Mapping, range: Range<usize>, advice: Advice) -> Result<(), Errno> {
    retry(|| {
        #[cfg(test)]
        if let Some(result) = faked::next(faked::Call::Advise(advice), range.len() as u64) {
            return result.map(drop);
        }
        memory.advise(range.clone(), advice)
    })
}

/// LEND. Returns how many pages were not lent before.
///
/// # Safety
///
/// As [`remap::lend`].
pub(crate) unsafe fn lend(address: u64, pages: u64) -> Result<u64, Errno> {
    retry(|| {
        #[cfg(test)]
        if let Some(result) = faked::next(faked::Call::Lend, pages) {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { remap::lend(0, address, pages) }
    })
}

/// ADOPT. Returns how many pages were adopted.
///
/// # Safety
///
/// As [`remap::adopt`].
pub(crate) unsafe fn adopt(address: u64, pages: u64) -> Result<u64, Errno> {
    retry(|| {
        #[cfg(test)]
        if let Some(result) = faked::next(faked::Call::Adopt, pages) {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { remap::adopt(0, address, pages) }
    })
}

/// Makes the entries that this thread has installed visible to all accesses.
#[inline]
pub(crate) fn publish(owed: PublishOwed) {
    #[cfg(test)]
    let _counted = faked::next(faked::Call::Publish, 1);
    owed.publish();
}

/// TAKE.
///
/// # Safety
///
/// As [`remap::take`].
pub(crate) unsafe fn take(
    from: Range<u64>,
    to: u64,
    places: &mut [ExposePgtblTable],
) -> Result<(usize, u64), Errno> {
    retry(|| {
        #[cfg(test)]
        if let Some(result) = faked::next(faked::Call::Take, places.len() as u64) {
            return result.map(|_| (0, from.end));
        }
        // SAFETY: the caller's promise.
        unsafe { remap::take(0, from.clone(), to, places) }
    })
}

/// FLUSH.
pub(crate) fn flush(geometry: &Geometry, range: Range<VirtualAddress>) -> Result<(), LiveError> {
    #[cfg(test)]
    if faked::next(faked::Call::Flush, 0).is_some() {
        return Ok(());
    }
    tablewalk_live::flush(0, geometry, range)
}

#[cfg(test)]
pub(crate) mod faked;
