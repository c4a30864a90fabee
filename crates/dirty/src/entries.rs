//! Dirty tracking from user space, through writable page tables.

#![expect(unsafe_code, reason = "changes entries of tables that are mapped here")]

use core::sync::atomic::AtomicU64;

use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::remap::{self, ExposePgtblInfo, ExposePgtblTable};
use tablewalk_uapi::track::EXPOSE_PGTBL_TRACK;
use tablewalk_uapi::{Errno, Mapping, Sharing};
use tablewalk_walker::VirtualAddress;

use crate::DirtyError;
use crate::round::{Round, restore};

/// Tracks writes to private, anonymous, locked memory of the caller by changing its page-table entries,
/// without the kernel: [`Entries::collect`] makes one system call, FLUSH.
///
/// # The race with writers
///
/// `collect` loads each entry, and replaces it by a clean one with a compare-and-exchange.
///
/// - A write between load and exchange makes a clean entry dirty (by the CPU or by the kernel's fault
///   handler). The exchange fails, and the entry is read again. An entry that is dirty already does not
///   change: the write belongs to the page that this `collect` reports.
/// - A write after the exchange may use a TLB entry that is still writable, and leaves no trace in the page
///   table. Such a TLB entry exists only if the entry was dirty, so this `collect` reports the page. One
///   FLUSH after all exchanges and before the first report is enough: after it, a write makes the entry dirty
///   again.
/// - Therefore the caller reads the contents of a page when it is reported, not before.
///
/// # The race with the kernel
///
/// Before the kernel reclaims a page, it moves the dirty state from the entry to the page, and it drops the
/// page if neither is dirty. This code clears the entry and cannot set the page. So the memory must be locked
/// (mlock(2)) and not shared, which reclaim leaves alone. Migration copies an entry unchanged, and
/// [`Entries::stop`] makes entries dirty again before it unlocks the memory. For all other memory use
/// [`Tracker`](crate::Tracker).
///
/// System calls that write through page references make the entry dirty, because the kernel knows the marks.
/// A write through a reference that is held during `collect`, by direct I/O or a device, is missed. The
/// kernel's tracking reports it.
///
/// # Invariants
///
/// `tables` maps the level-3 tables of `memory`, one for each page, in order and without a gap.
#[derive(Debug)]
pub struct Entries<'m> {
    memory: &'m Mapping,
    tables: Mapping,
    /// A bit for each page: written, and not reported yet.
    reported: Mapping,
    /// Index, in all of `tables`, of the entry of the first page.
    first: usize,
    page_shift: u32,
    write: u64,
    dirty: u64,
}

impl<'m> Entries<'m> {
    /// Locks `memory`, which makes all of its pages present, and starts tracking. Makes about five system
    /// calls, and one more for each 512 tables.
    ///
    /// # Errors
    ///
    /// [`DirtyError::Entries`]: `ENOSYS` from a kernel without TRACK; `ENOENT` if the memory contains blocks;
    /// otherwise the error of a system call.
    ///
    /// # Safety
    ///
    /// The memory is private and anonymous. Until [`Entries::stop`] or the end of the process nobody unlocks
    /// it, moves it, collapses it into huge pages, or forks: writes could be lost.
    pub unsafe fn start(memory: &'m Mapping) -> Result<Self, DirtyError> {
        let refused = |errno| DirtyError::Entries { errno };
        let info = remap::info().map_err(refused)?;
        if info.flags & EXPOSE_PGTBL_TRACK == 0 {
            return Err(refused(Errno::ENOSYS));
        }
        memory.base_pages_only().map_err(refused)?;
        memory.lock(0..memory.size(), true).map_err(refused)?;
        let mut entries = Self::map(memory, &info).map_err(|errno| {
            // The range was locked before, so it is valid.
            let _ = memory.lock(0..memory.size(), false);
            refused(errno)
        })?;
        entries.collect(|_| {})?;
        Ok(entries)
    }

    fn map(memory: &'m Mapping, info: &ExposePgtblInfo) -> Result<Self, Errno> {
        let (start, size) = (memory.address(), memory.size());
        let span = 1_u64 << (2 * info.page_shift - 3);
        let begin = start / span * span;
        let count = (start + size as u64).div_ceil(span) - begin / span;
        let count = usize::try_from(count).map_err(|_| Errno::ENOMEM)?;
        let page = 1_usize << info.page_shift;
        let tables = Mapping::anonymous(count * page, Protection::READ_WRITE, Sharing::Shared)?;
        let reported = (size >> info.page_shift).div_ceil(64) * 8;
        let reported = Mapping::anonymous(reported, Protection::READ_WRITE, Sharing::Private)?;
        let mut mapped = 0;
        let mut next = begin;
        while mapped < count {
            let mut list = [ExposePgtblTable::default(); 64];
            let room = list.get_mut(..(count - mapped).min(64)).unwrap_or_default();
            let place = tables.as_ptr().wrapping_add(mapped * page).cast();
            let end = start + size as u64;
            // SAFETY: these are pages of `tables`, to which no reference exists yet.
            let (filled, after) = unsafe { remap::map_range(0, 3, next..end, place, room) }?;
            for (number, table) in list.iter().take(filled).enumerate() {
                if table.addr != begin + (mapped + number) as u64 * span {
                    return Err(Errno::ENOENT);
                }
            }
            if filled == 0 {
                return Err(Errno::ENOENT);
            }
            mapped += filled;
            next = after;
        }
        Ok(Self {
            memory,
            tables,
            reported,
            first: usize::try_from((start - begin) >> info.page_shift).unwrap_or(0),
            page_shift: info.page_shift,
            write: 1 << info.bit_write,
            dirty: 1 << info.bit_dirty,
        })
    }

    /// Returns the entries of the pages, in order.
    fn entries(&self) -> &[AtomicU64] {
        let all = words(&self.tables);
        let pages = self.memory.size() >> self.page_shift;
        all.get(self.first..self.first + pages).unwrap_or_default()
    }

    /// Calls `each` with the first address and the number of pages of each run of pages that was written
    /// since the last `collect`, in address order, and starts the next round. Makes one system call; costs a
    /// load for each page, and an exchange for each written one.
    ///
    /// # Errors
    ///
    /// [`DirtyError::Entries`]: FLUSH failed. Nothing was reported; the next call reports these pages.
    pub fn collect(
        &mut self,
        mut each: impl FnMut((VirtualAddress, u64)),
    ) -> Result<(), DirtyError> {
        let (start, shift) = (self.memory.address(), self.page_shift);
        let pages = (self.memory.size() >> shift) as u64;
        let flush = || remap::flush(0, start, pages);
        let round = Round {
            entries: self.entries(),
            reported: words(&self.reported),
            dirty: self.dirty,
        };
        round
            .collect(flush, &mut |run| {
                each((
                    VirtualAddress(start + (run.start << shift)),
                    run.end - run.start,
                ));
            })
            .map_err(|errno| DirtyError::Entries { errno })
    }

    /// Stops tracking: removes the marks, restores the dirty state, and unlocks the memory with one system
    /// call.
    pub fn stop(self) {}
}

impl Drop for Entries<'_> {
    fn drop(&mut self) {
        restore(self.entries(), self.write, self.dirty);
        // The range was locked before, so it is valid.
        let _ = self.memory.lock(0..self.memory.size(), false);
    }
}

/// Returns the contents of a mapping as atomic words, since the CPU and the kernel change them.
fn words(mapping: &Mapping) -> &[AtomicU64] {
    let start = mapping.as_ptr().cast_const().cast::<AtomicU64>();
    // SAFETY: the mapping can be read and written, is page-aligned, and lives as long as the borrow. Its
    // contents are only ever accessed as atomic words.
    unsafe { core::slice::from_raw_parts(start, mapping.size() / 8) }
}
