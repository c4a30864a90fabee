//! Views of table pages: only this file and `scan.rs` beside it load from them, and only this one stores.
//!
//! The kernel, hardware and other processes change a table while it is read. So it is a slice of atomic
//! words, never of plain ones; each word is read once, and the copy is decoded. Loads are relaxed and
//! followed by an acquire fence, so that the next table, which the entry published, is seen complete.
//!
//! Stores change the memory that every thread of the process sees. They are `unsafe`, and each documents its
//! hazards.

#![expect(
    unsafe_code,
    reason = "what a store to a live table may break is for the caller to rule out"
)]

mod scan;

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::barrier::publish;
use crate::{Descriptor, Format, Level, VirtualAddress};

/// A table that can be read.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a>(&'a [AtomicU64]);

/// One entry of a table that can be read.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a>(&'a AtomicU64);

/// A table that can be written too.
#[derive(Clone, Copy, Debug)]
pub struct TableMut<'a>(&'a [AtomicU64]);

/// One entry of a table that can be written.
#[derive(Clone, Copy, Debug)]
pub struct EntryMut<'a>(&'a AtomicU64);

/// A valid descriptor was removed from a table, and TLBs may still hold it.
///
/// Until the address is flushed, accesses to it may reach the old frame: do not install another descriptor
/// for it, map other memory at it, or reuse the frame.
#[must_use = "the TLB entries of the address have to be invalidated"]
#[derive(PartialEq, Eq, Debug)]
pub struct FlushOwed(VirtualAddress);

impl FlushOwed {
    /// The caller promises to invalidate the address, alone or in a range with others.
    #[must_use]
    pub const fn address(self) -> VirtualAddress {
        self.0
    }
}

/// A descriptor was stored in a table, and table walks may not see it yet.
///
/// Until it is published, an access to the address may fault as if the entry were empty.
#[must_use = "table walks do not see the entry before it is published"]
#[derive(PartialEq, Eq, Debug)]
pub struct PublishOwed(());

impl PublishOwed {
    /// Makes this entry, and all earlier ones of this thread, visible to all accesses.
    #[inline]
    pub fn publish(self) {
        publish();
    }

    /// Leaves publishing to a later entry.
    #[inline]
    pub const fn with_a_later_one(self) {}
}

/// A pointer to an entry, without a borrow of its source: for a cache, which owns the source.
///
/// # Invariants
///
/// With an entry number, leads to an entry of a table in a slot of a [`TableSource`](crate::TableSource), or
/// to a word that is always 0. Made from a slice of all words that it is used for, not from a reference to
/// one: a pointer may access only the memory that it was made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryPointer(*const AtomicU64);

// SAFETY: what it points to is an atomic word.
unsafe impl Send for EntryPointer {}
// SAFETY: as above.
unsafe impl Sync for EntryPointer {}

impl EntryPointer {
    /// Points to a constant word that holds 0.
    pub(crate) const fn nothing() -> Self {
        static NOTHING: AtomicU64 = AtomicU64::new(0);
        Self(&raw const NOTHING)
    }

    /// Points to one entry, with the number 0.
    pub(crate) const fn new(entry: Entry<'_>) -> Self {
        Self(core::ptr::from_ref(entry.0))
    }

    /// Points to the first `entries` entries of `table`, numbered from 0; `None` if it has fewer.
    pub(crate) fn of_table(table: Table<'_>, entries: usize) -> Option<Self> {
        let words = table.0.get(..entries)?;
        (!words.is_empty()).then_some(Self(words.as_ptr()))
    }

    /// Renumbers the entries from `first` on, instead of from 0.
    pub(crate) const fn numbered_from(self, first: usize) -> Self {
        Self(self.0.wrapping_sub(first))
    }

    /// Reads the descriptor of entry `number`: one relaxed load.
    ///
    /// # Safety
    ///
    /// The table of the entry is still in its slot.
    #[inline(always)]
    pub(crate) unsafe fn load(self, number: usize) -> Descriptor {
        let entry = self.0.wrapping_add(number);
        // SAFETY: the caller's, and `TableSource` promises that the words of a table stay until its
        // slot is reused.
        let word = unsafe { &*entry };
        Descriptor(word.load(Ordering::Relaxed))
    }
}

impl<'a> Table<'a> {
    /// Makes a table of these words. If there are too few for its level, the rest reads as zeros.
    #[must_use]
    pub const fn new(words: &'a [AtomicU64]) -> Self {
        Self(words)
    }

    /// Reads the descriptor at `index`, 0 beyond the end: one load.
    #[must_use]
    #[inline]
    pub fn load(self, index: usize) -> Descriptor {
        self.entry(index).map_or(Descriptor::ZERO, Entry::load)
    }

    /// Iterates over the descriptors, in order: one load each. The table or page of one may be gone.
    pub fn iter(self) -> impl Iterator<Item = Descriptor> {
        let words = self.0.iter();
        words.map(|word| Descriptor(word.load(Ordering::Relaxed)))
    }

    /// Returns the entry at `index`.
    #[must_use]
    #[inline]
    pub fn entry(self, index: usize) -> Option<Entry<'a>> {
        self.0.get(index).map(Entry)
    }

    /// Returns `leaf`, the descriptor at `index` of a table of `level`, as Linux reads it: if it is
    /// contiguous, accessed or dirty if any entry of its contiguous block is (`contpte_ptep_get`,
    /// `arch/arm64/mm/contpte.c`), since hardware marks any one of them. One load for each entry of the
    /// block.
    #[must_use]
    pub fn gather(
        self,
        format: &Format,
        level: Level,
        index: usize,
        leaf: Descriptor,
    ) -> Descriptor {
        if !leaf.is_valid() || !leaf.is_contiguous() {
            return leaf;
        }
        let block = format.geometry.contiguous_block(level, index);
        let others = self.0.get(block).unwrap_or_default().iter();
        others.fold(leaf, |leaf, other| {
            let other = Descriptor(other.load(Ordering::Relaxed));
            // The block may be taken apart meanwhile.
            if other.is_valid() && other.is_contiguous() {
                format.linux.with_state_of(leaf, other)
            } else {
                leaf
            }
        })
    }
}

impl Entry<'_> {
    /// Reads the descriptor: one load.
    #[must_use]
    #[inline]
    pub fn load(self) -> Descriptor {
        let word = self.0.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        Descriptor(word)
    }
}

impl<'a> TableMut<'a> {
    /// Makes a table of these words, in writable memory.
    #[must_use]
    pub const fn new(words: &'a [AtomicU64]) -> Self {
        Self(words)
    }

    /// Returns the same table, for reading.
    #[must_use]
    pub const fn as_table(self) -> Table<'a> {
        Table(self.0)
    }

    /// Returns the entry at `index`.
    #[must_use]
    #[inline]
    pub fn entry(self, index: usize) -> Option<EntryMut<'a>> {
        self.0.get(index).map(EntryMut)
    }

    /// Returns the entries in `range` as a separate table, which is empty if the range exceeds the end.
    #[must_use]
    #[inline]
    pub fn part(self, range: Range<usize>) -> Self {
        Self(self.0.get(range).unwrap_or_default())
    }

    /// Splits off the first entry; `None` if there is none.
    #[must_use]
    #[inline]
    pub fn split_first(self) -> Option<(EntryMut<'a>, Self)> {
        let (first, rest) = self.0.split_first()?;
        Some((EntryMut(first), Self(rest)))
    }
}

impl EntryMut<'_> {
    /// Reads the descriptor: one load.
    #[must_use]
    #[inline]
    pub fn load(self) -> Descriptor {
        Entry(self.0).load()
    }

    /// Returns whether the entry holds 0: one relaxed load.
    #[must_use]
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Installs `descriptor` if the entry holds 0. When it returns, accesses to the address see it.
    ///
    /// # Errors
    ///
    /// The value of the entry, if it is not 0: another thread was first, and nothing is changed.
    ///
    /// # Safety
    ///
    /// The memory of the descriptor becomes memory of the process, with the permissions of the descriptor.
    ///
    /// * Its contents are complete, and no code relies on exclusive write access to them.
    /// * If another entry maps the frame too (an alias), this one is cleared and flushed before the
    ///   kernel unmaps either: it counts references, and finds one too few (`Bad page map`).
    /// * If the descriptor was taken from another entry (a move), both places are private anonymous
    ///   memory of the same process with the same protection, and the mapping it was taken from
    ///   stays until the page is gone: the page's reverse map names it.
    #[inline]
    pub unsafe fn install(self, descriptor: Descriptor) -> Result<(), Descriptor> {
        // SAFETY: the caller's.
        unsafe { self.put(descriptor) }.map(PublishOwed::publish)
    }

    /// Like [`EntryMut::install`], but accesses to the address need not see the entry yet: for many entries,
    /// of which the last one is published.
    ///
    /// # Errors
    ///
    /// As [`EntryMut::install`].
    ///
    /// # Safety
    ///
    /// As [`EntryMut::install`].
    #[inline]
    pub unsafe fn put(self, descriptor: Descriptor) -> Result<PublishOwed, Descriptor> {
        self.0
            .compare_exchange(0, descriptor.0, Ordering::Release, Ordering::Relaxed)
            .map_err(Descriptor)?;
        Ok(PublishOwed(()))
    }

    /// Like [`EntryMut::take`], if `wanted` returns true for the value of the entry; otherwise nothing is
    /// changed. A load and a store: not for an entry that anything else may change.
    ///
    /// # Safety
    ///
    /// As [`EntryMut::take`]. Neither another thread nor the kernel changes the entry during the call: its
    /// page is lent (`EXPOSE_PGTBL_LEND`). Changes by hardware, of the access flag and the dirty state, may
    /// be lost.
    #[inline]
    pub unsafe fn take_lent(
        self,
        address: VirtualAddress,
        wanted: impl Fn(Descriptor) -> bool,
    ) -> Option<(Descriptor, FlushOwed)> {
        let found = Descriptor(self.0.load(Ordering::Relaxed));
        wanted(found).then(|| {
            self.0.store(0, Ordering::Relaxed);
            (found, FlushOwed(address))
        })
    }

    /// Takes the descriptor of `address` out: the entry holds 0 then. One atomic exchange, which returns the
    /// value at that instant.
    ///
    /// # Safety
    ///
    /// The memory is unmapped: no thread relies on what was mapped at `address`. If the descriptor is not
    /// installed elsewhere, its frame is lost until the process ends, and then missing from its counts.
    #[inline]
    pub unsafe fn take(self, address: VirtualAddress) -> (Descriptor, FlushOwed) {
        (
            Descriptor(self.0.swap(0, Ordering::AcqRel)),
            FlushOwed(address),
        )
    }

    /// Takes `descriptor` out again after [`EntryMut::install`]: the entry of `address` holds 0 then,
    /// if it mapped that frame. Bits that hardware or the kernel changed meanwhile do not matter.
    ///
    /// # Errors
    ///
    /// The value of the entry, if it has another frame or none; nothing is changed.
    ///
    /// # Safety
    ///
    /// As [`EntryMut::take`].
    pub unsafe fn remove(
        self,
        descriptor: Descriptor,
        address: VirtualAddress,
    ) -> Result<FlushOwed, Descriptor> {
        let mut found = self.0.load(Ordering::Relaxed);
        // Output address and validity: bits 49:12 and 1:0, and 9:8, which are address or shareability.
        const SAME: u64 = ((1 << 50) - 1) & !0xcfc;
        while (found ^ descriptor.0) & SAME == 0 {
            match self
                .0
                .compare_exchange_weak(found, 0, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Ok(FlushOwed(address)),
                Err(changed) => found = changed,
            }
        }
        Err(Descriptor(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: VirtualAddress = VirtualAddress(0x5000);

    #[test]
    fn a_table_is_zeros_beyond_its_end() {
        let words = [AtomicU64::new(7)];
        assert_eq!(Table::new(&words).load(0), Descriptor(7));
        assert_eq!(Table::new(&words).load(1), Descriptor::ZERO);
        assert!(Table::new(&words).entry(1).is_none());
        assert!(TableMut::new(&words).entry(usize::MAX).is_none());
    }

    #[test]
    fn install_changes_only_an_entry_that_holds_0() {
        let word = AtomicU64::new(0);
        // SAFETY: a word of this test.
        let first = unsafe { EntryMut(&word).install(Descriptor(3)) };
        // SAFETY: as above.
        let second = unsafe { EntryMut(&word).install(Descriptor(5)) };
        assert_eq!((first, second), (Ok(()), Err(Descriptor(3))));
        assert_eq!(EntryMut(&word).load(), Descriptor(3));
    }

    #[test]
    fn take_lent_takes_what_is_wanted_alone() {
        let word = AtomicU64::new(3);
        // SAFETY: a word of this test.
        let refused = unsafe { EntryMut(&word).take_lent(ADDRESS, |found| found.0 == 5) };
        assert_eq!((refused, EntryMut(&word).load()), (None, Descriptor(3)));
        // SAFETY: as above.
        let taken = unsafe { EntryMut(&word).take_lent(ADDRESS, Descriptor::is_valid) };
        let taken = taken.map(|(descriptor, owed)| (descriptor, owed.address()));
        assert_eq!(taken, Some((Descriptor(3), ADDRESS)));
        assert!(EntryMut(&word).is_empty());
    }

    #[test]
    fn a_part_has_its_entries_alone() {
        let words = [0, 1, 2, 3].map(AtomicU64::new);
        let loads = |range| {
            let mut rest = TableMut::new(&words).part(range);
            let mut found = [0; 4];
            for place in &mut found {
                if let Some((first, others)) = rest.split_first() {
                    *place = first.load().0;
                    rest = others;
                }
            }
            found
        };
        assert_eq!(loads(1..3), [1, 2, 0, 0]);
        assert_eq!(loads(3..5), [0; 4]);
    }

    #[test]
    fn take_leaves_0_and_a_debt() {
        let word = AtomicU64::new(3);
        // SAFETY: a word of this test.
        let (descriptor, owed) = unsafe { EntryMut(&word).take(ADDRESS) };
        assert_eq!((descriptor, owed.address()), (Descriptor(3), ADDRESS));
        assert_eq!(EntryMut(&word).load(), Descriptor::ZERO);
    }

    #[test]
    fn remove_takes_the_same_frame_whatever_its_attributes_and_no_other() {
        let installed = Descriptor(0x1234_5000 | Descriptor::AP_READ_ONLY | 0b11);
        let dirtied = 0x1234_5000 | Descriptor::AF | 1 << 55 | 0b11;
        let word = AtomicU64::new(dirtied);
        // SAFETY: a word of this test.
        let removed = unsafe { EntryMut(&word).remove(installed, ADDRESS) };
        assert_eq!(removed.map(FlushOwed::address), Ok(ADDRESS));
        assert_eq!(EntryMut(&word).load(), Descriptor::ZERO);

        for other in [
            0x1234_6000 | 0b11,
            0x1234_5000,
            0,
            // The frame has other bits 51:50, or 49:48, of a 52-bit address.
            0x1234_5000 | 1 << 9 | 0b11,
            0x1234_5000 | 1 << 49 | 0b11,
        ] {
            let word = AtomicU64::new(other);
            // SAFETY: as above.
            let removed = unsafe { EntryMut(&word).remove(installed, ADDRESS) };
            assert_eq!(removed, Err(Descriptor(other)));
            assert_eq!(EntryMut(&word).load(), Descriptor(other));
        }
    }
}
