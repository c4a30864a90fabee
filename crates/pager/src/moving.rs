//! Moves entries from slots of the pool to places in the region.

use core::ops::Range;

use tablewalk_live::LiveError;
use tablewalk_walker::{Descriptor, EntryMut, Format, Linux, PublishOwed, TableMut};

use crate::counts::add;
use crate::discards::Discards;
use crate::kernel;
use crate::pages::PageSet;
use crate::region::{LEAF, offset_of};
use crate::space::fill;
use crate::tables::Tables;
use crate::{Pager, Policy};

/// Entries of the region and their pages, in the order in which they get frames.
pub(crate) struct Places<'t> {
    pages: Range<usize>,
    entries: TableMut<'t>,
    came: &'t PageSet,
}

impl<'t> Places<'t> {
    /// The entries of `pages`; `index` is the index of the first one.
    pub(crate) fn new(
        table: TableMut<'t>,
        index: usize,
        pages: Range<usize>,
        came: &'t PageSet,
    ) -> Self {
        Self {
            came,
            entries: table.part(index..index + pages.len()),
            pages,
        }
    }

    /// Returns the next page that was not mapped yet, without advancing.
    #[inline]
    pub(crate) fn next_empty(&mut self) -> Option<(usize, EntryMut<'t>)> {
        while let Some((entry, rest)) = self.entries.split_first() {
            if entry.is_empty() && !self.came.contains(self.pages.start) {
                return Some((self.pages.start, entry));
            }
            self.entries = rest;
            self.pages.start += 1;
        }
        None
    }

    /// Advances past the next page, which has a frame now.
    #[inline]
    fn skip(&mut self) {
        if let Some((_, rest)) = self.entries.split_first() {
            self.entries = rest;
            self.pages.start += 1;
        }
    }

    /// The number of remaining pages that were not mapped yet.
    pub(crate) fn empty(&self) -> usize {
        let mut left = self.entries;
        let mut count = 0;
        for page in self.pages.clone() {
            let Some((entry, rest)) = left.split_first() else {
                break;
            };
            count += usize::from(entry.is_empty() && !self.came.contains(page));
            left = rest;
        }
        count
    }

    /// Maps the zero page at all empty entries. Returns how many.
    pub(crate) fn share(mut self, zeros: Descriptor, discards: &Discards) -> u64 {
        let mut moved = Moved::default();
        while let Some((page, entry)) = self.next_empty() {
            // Zeros are never old.
            discards.install(discards.seen(), page, || {
                // SAFETY: Linux maps the same frame with the same entry for a read of private anonymous
                // memory, and counts neither references nor mappings of it.
                self.came.insert(page) && moved.note(unsafe { entry.put(zeros) })
            });
            self.skip();
        }
        moved.publish()
    }
}

/// Entries that were moved and not published yet. Dropping this publishes them.
#[derive(Default)]
pub(crate) struct Moved {
    count: u64,
    publish: Option<PublishOwed>,
}

impl Moved {
    /// Returns whether the entry was installed.
    #[inline]
    fn note(&mut self, put: Result<PublishOwed, Descriptor>) -> bool {
        let Ok(owed) = put else {
            return false;
        };
        self.count += 1;
        self.publish = Some(owed);
        true
    }

    /// Publishes the entries to all CPUs. Returns how many there are.
    pub(crate) fn publish(mut self) -> u64 {
        self.publish_now();
        self.count
    }

    fn publish_now(&mut self) {
        if let Some(publish) = self.publish.take() {
            kernel::publish(publish);
        }
    }

    /// Moves the pages of claimed slots to places until either runs out. Returns false if no more can be
    /// moved.
    pub(crate) fn move_slots<P: Policy>(
        &mut self,
        pager: &Pager<P>,
        format: &Format,
        pool: &mut Tables,
        slots: Range<u64>,
        places: &mut Places<'_>,
    ) -> Result<bool, LiveError> {
        let own = OwnPage::new(&format.linux);
        let mut slot = slots.start;
        while slot < slots.end {
            let address = pager.slot_address(slot);
            let Some(table) = pool.table_mut(address)? else {
                return Ok(false);
            };
            let index = format.geometry.index(LEAF, address);
            // As far as the table reaches.
            let end = format
                .geometry
                .entries(LEAF)
                .min(index + offset_of(slots.end - slot));
            self.move_part(pager, own, slot, table.part(index..end), places);
            slot += (end - index) as u64;
        }
        Ok(true)
    }

    /// Like [`Moved::move_slots`], for the slots from `slot` on, whose entries are `donors`. Skips a page
    /// that the policy refuses; the policy is asked again if a thread waits for that page.
    pub(crate) fn move_part<P: Policy>(
        &mut self,
        pager: &Pager<P>,
        own: OwnPage,
        mut slot: u64,
        mut donors: TableMut<'_>,
        places: &mut Places<'_>,
    ) {
        // Until they are counted.
        let mut part = Self::default();
        while let Some((donor, rest)) = donors.split_first()
            && let Some((page, place)) = places.next_empty()
        {
            let seen = pager.space.discards().seen();
            if !pager.policy.zeros() && own.is(donor.load()) {
                // SAFETY: the slot is claimed, and its page is there.
                let bytes = unsafe { pager.slot_bytes(slot) };
                if fill(&pager.policy, page, bytes).is_err() {
                    places.skip();
                    continue;
                }
            }
            // SAFETY: the slot is claimed and its page lent: nobody else uses either. It is flushed
            // before it has a page again, or is unmapped.
            let taken = unsafe { donor.take_lent(pager.slot_address(slot), |found| own.is(found)) };
            if let Some((descriptor, _flushed_before_reuse)) = taken {
                let is_installed = pager.space.discards().install(seen, page, || {
                    // SAFETY: the contents are complete. Pool and region are private anonymous memory with
                    // the same protection: `Pager::protect` ends moves before it changes the region's.
                    pager.came.insert(page) && part.note(unsafe { place.put(descriptor) })
                });
                if is_installed {
                    places.skip();
                } else {
                    add(&pager.counters.races, 1);
                    // SAFETY: back to where it was, an entry that TLBs may still have.
                    let _kept = unsafe { donor.put(descriptor) };
                }
            }
            donors = rest;
            slot += 1;
        }
        self.count += part.count;
        self.publish = part.publish.take().or(self.publish.take());
    }
}

impl Drop for Moved {
    /// If an error or a panic has ended a move, the entries installed so far must still be visible.
    fn drop(&mut self) {
        self.publish_now();
    }
}

/// The bits of an entry for a page that only this process has: Linux lets only such a page be written.
#[derive(Clone, Copy)]
pub(crate) struct OwnPage {
    mask: u64,
    value: u64,
}

impl OwnPage {
    pub(crate) const fn new(linux: &Linux) -> Self {
        let value = Descriptor::VALID | linux.write;
        Self {
            mask: value | linux.special,
            value,
        }
    }

    #[cfg(test)]
    pub(crate) const fn value(self) -> u64 {
        self.value
    }

    #[inline]
    const fn is(self, found: Descriptor) -> bool {
        found.0 & self.mask == self.value
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;

    use super::*;
    use crate::kernel::faked::{self, Call};

    #[test]
    fn what_was_put_is_published_when_a_move_ends_early() {
        let words = [const { AtomicU64::new(0) }; 4];
        let mut moved = Moved::default();
        let place = TableMut::new(&words).entry(1);
        // SAFETY: the word translates nothing.
        let put = place.map(|place| unsafe { place.put(Descriptor(3)) });
        assert_eq!(put.map(|put| moved.note(put)), Some(true));
        faked::begin(&[]);
        // As an error or a panic does.
        drop(moved);
        assert_eq!(faked::end(), [(Call::Publish, 1)]);
    }
}
