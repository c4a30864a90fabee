//! Frames that the kernel gave out before they are needed.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Threads that may use a pager at a time.
pub(crate) const WORKERS: usize = 64;

/// Of a worker that has claimed nothing.
const NOTHING: u64 = u64::MAX;

/// A ring of slots, each the place of one page in memory that nobody else touches.
///
/// Slots are claimed at the head, which leaves them without a page, and refilled at the tail, in order.
/// Both are counts that never wrap; the slot is the remainder by the capacity.
///
/// # Invariants
///
/// What is between head and tail has a page, unless the kernel has taken it. A slot is refilled only
/// when whoever has claimed it before is done with it: each worker shows the oldest count that it may
/// have claimed.
#[derive(Debug)]
pub(crate) struct Ring {
    capacity: u64,
    head: AtomicU64,
    tail: AtomicU64,
    claimed: [AtomicU64; WORKERS],
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
pub(crate) struct Refill<'r>(&'r Ring);

impl Ring {
    pub(crate) const fn new(capacity: u64) -> Self {
        Self {
            capacity,
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            claimed: [const { AtomicU64::new(NOTHING) }; WORKERS],
            refilling: AtomicBool::new(false),
        }
    }

    /// How many slots have a page.
    pub(crate) fn available(&self) -> u64 {
        let head = self.head.load(Ordering::Relaxed);
        self.tail.load(Ordering::Relaxed).saturating_sub(head)
    }

    /// Claims up to `most` slots for worker `number`, until the claim is dropped. `None` if there is none.
    pub(crate) fn claim(&self, number: usize, most: u64) -> Option<Claim<'_>> {
        let worker = self.claimed.get(number)?;
        let mut head = self.head.load(Ordering::SeqCst);
        // Before the head moves: whoever sees it moved sees this.
        worker.store(head, Ordering::SeqCst);
        loop {
            let start = head.checked_rem(self.capacity).unwrap_or(0);
            let available = self.tail.load(Ordering::Acquire).saturating_sub(head);
            let count = available.min(most).min(self.capacity - start);
            if count == 0 {
                worker.store(NOTHING, Ordering::Release);
                return None;
            }
            match self.head.compare_exchange_weak(
                head,
                head + count,
                Ordering::SeqCst,
                Ordering::SeqCst,
            ) {
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

    /// The right to refill, unless somebody has it.
    pub(crate) fn refill(&self) -> Option<Refill<'_>> {
        let busy = self.refilling.swap(true, Ordering::Acquire);
        // Made only then: dropping one gives the right back.
        (!busy).then(|| Refill(self))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.worker.store(NOTHING, Ordering::Release);
    }
}

impl Refill<'_> {
    /// Slots with consecutive numbers that may get a page: those of the ring that are claimed and done
    /// with, up to `most`.
    pub(crate) fn empty(&self, most: u64) -> Range<u64> {
        let ring = self.0;
        let tail = ring.tail.load(Ordering::Relaxed);
        // First the head, then the claims: one that is missed begins behind this head.
        let head = ring.head.load(Ordering::SeqCst);
        let claims = ring
            .claimed
            .iter()
            .map(|worker| worker.load(Ordering::SeqCst));
        let done = claims.fold(head, u64::min);
        let start = tail.checked_rem(ring.capacity).unwrap_or(0);
        let count = (done + ring.capacity).saturating_sub(tail);
        start..start + count.min(most).min(ring.capacity - start)
    }

    /// The first `count` of the slots of [`Refill::empty`] have a page.
    pub(crate) fn filled(&self, count: u64) {
        self.0.tail.fetch_add(count, Ordering::Release);
    }
}

impl Drop for Refill<'_> {
    fn drop(&mut self) {
        self.0.refilling.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_refilled_when_its_claim_is_done() {
        let ring = Ring::new(4);
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
        // The first claim holds back all behind it.
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
        let ring = Ring::new(4);
        let refill = ring.refill();
        assert!(refill.is_some() && ring.refill().is_none());
        // Asking in vain has not taken it away.
        assert!(ring.refill().is_none());
        drop(refill);
        assert!(ring.refill().is_some());
    }
}
