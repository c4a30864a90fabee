//! Frames that were allocated before they are needed.

use core::ops::Range;

use crate::sync::{AtomicBool, AtomicU64, Ordering, mutant, ordering};

/// Maximum number of workers of a pager.
pub(crate) const WORKERS: usize = 64;

/// The value for a worker that has claimed nothing.
const NOTHING: u64 = u64::MAX;

/// A ring of slots. Each is a page of address space that only the pool touches.
///
/// Slots are claimed at the head, and their pages moved away; they are refilled at the tail, in order. Head
/// and tail are counters that never wrap; the slot number is the counter modulo the capacity.
///
/// # Invariants
///
/// Slots between head and tail have a page, unless the kernel has taken it. A slot is refilled only when the
/// worker that claimed it is done with it: each worker publishes the oldest counter that it may have claimed.
#[derive(Debug)]
pub(crate) struct Ring<const CLAIMS: usize = WORKERS> {
    capacity: u64,
    head: AtomicU64,
    tail: AtomicU64,
    claimed: [AtomicU64; CLAIMS],
    refilling: AtomicBool,
}

/// Slots with consecutive numbers that one worker has claimed.
#[derive(Debug)]
pub(crate) struct Claim<'r> {
    worker: &'r AtomicU64,
    pub(crate) slots: Range<u64>,
}

/// The right to refill, which one worker has at a time.
#[derive(Debug)]
pub(crate) struct Refill<'r, const CLAIMS: usize = WORKERS>(&'r Ring<CLAIMS>);

impl<const CLAIMS: usize> Ring<CLAIMS> {
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            capacity,
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            claimed: core::array::from_fn(|_| AtomicU64::new(NOTHING)),
            refilling: AtomicBool::new(false),
        }
    }

    /// Returns the number of slots with a page.
    pub(crate) fn available(&self) -> u64 {
        let head = self.head.load(Ordering::Relaxed);
        self.tail.load(Ordering::Relaxed).saturating_sub(head)
    }

    /// Claims up to `most` slots for worker `number`, until the claim is dropped. `None` if there is none.
    pub(crate) fn claim(&self, number: usize, most: u64) -> Option<Claim<'_>> {
        let worker = self.claimed.get(number)?;
        let mut head = self.head.load(Ordering::Relaxed);
        // Before the head moves, so that a thread that sees the new head sees this store. A thread that sees
        // this store also sees the drop of the previous claim.
        if !mutant("ring: a claim not shown") {
            let order = ordering(Ordering::Release, "ring: relaxed show of a claim");
            worker.store(head, order);
        }
        loop {
            let start = head.checked_rem(self.capacity).unwrap_or(0);
            let order = ordering(Ordering::Acquire, "ring: relaxed look at the tail");
            let available = self.tail.load(order).saturating_sub(head);
            let count = available.min(most).min(self.capacity - start);
            if count == 0 {
                worker.store(NOTHING, Ordering::Release);
                return None;
            }
            let order = ordering(Ordering::Release, "ring: relaxed claim");
            match self
                .head
                .compare_exchange_weak(head, head + count, order, Ordering::Relaxed)
            {
                Ok(_) => {
                    return Some(Claim {
                        worker,
                        slots: start..start + count,
                    });
                }
                Err(moved) => head = moved,
            }
        }
    }

    /// Returns the right to refill, unless another worker has it.
    pub(crate) fn refill(&self) -> Option<Refill<'_, CLAIMS>> {
        let order = ordering(Ordering::Acquire, "ring: relaxed right to refill");
        let busy = self.refilling.swap(true, order);
        // Made only on success, since dropping it gives the right back.
        (!busy).then(|| Refill(self))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let order = ordering(Ordering::Release, "ring: relaxed drop of a claim");
        self.worker.store(NOTHING, order);
    }
}

impl<const CLAIMS: usize> Refill<'_, CLAIMS> {
    /// Returns up to `most` slots with consecutive numbers that may get a page: they were claimed, and their
    /// workers are done with them.
    pub(crate) fn empty(&self, most: u64) -> Range<u64> {
        let ring = self.0;
        let tail = ring.tail.load(Ordering::Relaxed);
        // The head is read before the claims: a claim that is missed begins after this head.
        let head = ring.head.load(ordering(
            Ordering::Acquire,
            "ring: relaxed look at the head",
        ));
        let order = ordering(Ordering::Acquire, "ring: relaxed look at the claims");
        let claims = ring.claimed.iter().map(|worker| worker.load(order));
        let done = claims.fold(head, u64::min);
        let start = tail.checked_rem(ring.capacity).unwrap_or(0);
        let count = (done + ring.capacity).saturating_sub(tail);
        start..start + count.min(most).min(ring.capacity - start)
    }

    /// Records that the first `count` slots of [`Refill::empty`] have a page.
    pub(crate) fn filled(&self, count: u64) {
        let order = ordering(Ordering::Release, "ring: relaxed filled");
        self.0.tail.fetch_add(count, order);
    }
}

impl<const CLAIMS: usize> Drop for Refill<'_, CLAIMS> {
    fn drop(&mut self) {
        let order = ordering(Ordering::Release, "ring: relaxed end of a refill");
        self.0.refilling.store(false, order);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_refilled_when_its_claim_is_done() {
        let ring = Ring::<WORKERS>::new(4);
        let refill = |count| {
            let refill = ring.refill().unwrap();
            let slots = refill.empty(count);
            refill.filled(slots.end - slots.start);
            slots
        };
        assert!(ring.claim(0, 1).is_none());
        assert_eq!(refill(8), 0..4);
        let first = ring.claim(0, 1).unwrap();
        let second = ring.claim(1, 2).unwrap();
        assert_eq!((first.slots.clone(), second.slots.clone()), (0..1, 1..3));
        drop(second);
        // The first claim blocks all slots after it.
        assert_eq!(refill(8), 0..0);
        drop(first);
        assert_eq!(refill(2), 0..2);
        assert_eq!(ring.available(), 3);
        // Up to the end of the ring.
        let third = ring.claim(1, 9).unwrap();
        assert_eq!(third.slots, 3..4);
        assert!(ring.refill().is_some());
    }

    #[test]
    fn one_refills_at_a_time() {
        let ring = Ring::<WORKERS>::new(4);
        let refill = ring.refill();
        assert!(refill.is_some() && ring.refill().is_none());
        // A failed attempt has not taken the right.
        assert!(ring.refill().is_none());
        drop(refill);
        assert!(ring.refill().is_some());
    }
}
