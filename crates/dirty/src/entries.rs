//! The same from user space, through writable tables.

#![expect(unsafe_code, reason = "changes entries of tables that are mapped here")]

use core::sync::atomic::AtomicU64;

use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::remap::{self, ExposePgtblInfo, ExposePgtblTable};
use tablewalk_uapi::track::EXPOSE_PGTBL_TRACK;
use tablewalk_uapi::{Errno, Mapping, Sharing};
use tablewalk_walker::VirtualAddress;

use crate::DirtyError;
use crate::round::{Round, restore};

/// Private anonymous memory of one's own, locked, of which this knows what was written, by its entries and
/// without the kernel: no system call but one FLUSH for each [`Entries::collect`].
///
/// # The race with those who write
///
/// An entry is loaded, and exchanged against a clean one if it is still the same.
///
/// - A write between load and exchange makes a clean entry dirty (the CPU or the kernel's fault does): the
///   exchange fails, and the entry is looked at again. A dirty entry stays as it is: the write belongs to
///   the pages that are being told.
/// - A write behind the exchange may go by a TLB entry that is still writable, and leaves no trace. There
///   is such a TLB entry only if the entry was dirty: the page is being told. One FLUSH behind all
///   exchanges and before anything is told is enough; after it, a write makes the entry dirty again.
/// - So contents are read when they are told, not before.
///
/// # The race with the kernel
///
/// The kernel takes the dirty state out of an entry before it lets go of a page, and drops the page if
/// neither the entry nor the page is dirty. This clears the former and cannot set the latter. Hence only
/// memory that is locked (mlock(2)) and not shared, which reclaim leaves alone: migration carries an entry
/// over as it is, and [`Entries::stop`] makes it dirty again before the memory is unlocked. All else is
/// [`Tracker`](crate::Tracker)'s.
///
/// System calls that write by references to pages make the entry dirty, as the kernel knows the marks; one
/// that holds a reference meanwhile, direct I/O or a device, is not told, as it is by the kernel.
///
/// # Invariants
///
/// `tables` maps the level-3 tables of `memory`, one for each page, in order and without a gap.
#[derive(Debug)]
pub struct Entries<'m> {
    memory: &'m Mapping,
    tables: Mapping,
    /// A bit for each page: written, and not told yet.
    told: Mapping,
    /// The entry of the first page, among all of `tables`.
    first: usize,
    page_shift: u32,
    write: u64,
    dirty: u64,
}

impl<'m> Entries<'m> {
    /// Locks `memory` and begins. Its pages are there then, all of them. Some five system calls, and one
    /// for each 512 tables.
    ///
    /// # Errors
    ///
    /// [`DirtyError::Entries`]: `ENOSYS` from a kernel without TRACK; `ENOENT` for memory that has blocks;
    /// what the system calls give otherwise.
    ///
    /// # Safety
    ///
    /// The memory is private and anonymous. Until [`Entries::stop`] or the end of the process nobody
    /// unlocks it, moves it, makes blocks of it, or forks: pages could lose what was written.
    pub unsafe fn start(memory: &'m Mapping) -> Result<Self, DirtyError> {
        let refused = |errno| DirtyError::Entries { errno };
        let info = remap::info().map_err(refused)?;
        if info.flags & EXPOSE_PGTBL_TRACK == 0 {
            return Err(refused(Errno::ENOSYS));
        }
        memory.base_pages_only().map_err(refused)?;
        memory.lock(0..memory.size(), true).map_err(refused)?;
        let mut entries = Self::map(memory, &info).map_err(|errno| {
            // It is locked: the range is good.
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
        let told = (size >> info.page_shift).div_ceil(64) * 8;
        let told = Mapping::anonymous(told, Protection::READ_WRITE, Sharing::Private)?;
        let mut mapped = 0;
        let mut next = begin;
        while mapped < count {
            let mut list = [ExposePgtblTable::default(); 64];
            let room = list.get_mut(..(count - mapped).min(64)).unwrap_or_default();
            let place = tables.as_ptr().wrapping_add(mapped * page).cast();
            let end = start + size as u64;
            // SAFETY: pages of `tables`, which nobody has seen yet.
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
            told,
            first: usize::try_from((start - begin) >> info.page_shift).unwrap_or(0),
            page_shift: info.page_shift,
            write: 1 << info.bit_write,
            dirty: 1 << info.bit_dirty,
        })
    }

    /// The entries of the pages, in order.
    fn entries(&self) -> &[AtomicU64] {
        let all = words(&self.tables);
        let pages = self.memory.size() >> self.page_shift;
        all.get(self.first..self.first + pages).unwrap_or_default()
    }

    /// Calls `each` with the first address and the number of pages that were written since the last time,
    /// in order, and begins anew. One system call; for each page a load, and an exchange if it was written.
    ///
    /// # Errors
    ///
    /// [`DirtyError::Entries`]: FLUSH failed. Nothing was told: the next time tells it.
    pub fn collect(
        &mut self,
        mut each: impl FnMut((VirtualAddress, u64)),
    ) -> Result<(), DirtyError> {
        let (start, shift) = (self.memory.address(), self.page_shift);
        let pages = (self.memory.size() >> shift) as u64;
        let flush = || remap::flush(0, start, pages);
        let round = Round {
            entries: self.entries(),
            told: words(&self.told),
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

    /// Ends: entries are dirty as they would be, without marks, and the memory is unlocked. One system
    /// call.
    pub fn stop(self) {}
}

impl Drop for Entries<'_> {
    fn drop(&mut self) {
        restore(self.entries(), self.write, self.dirty);
        // It was locked: the range is good.
        let _ = self.memory.lock(0..self.memory.size(), false);
    }
}

/// A mapping as words that others change.
fn words(mapping: &Mapping) -> &[AtomicU64] {
    let start = mapping.as_ptr().cast_const().cast::<AtomicU64>();
    // SAFETY: the mapping can be read and written, is aligned to pages, and lives as long as the borrow;
    // what is there is only ever used as atomic words.
    unsafe { core::slice::from_raw_parts(start, mapping.size() / 8) }
}
