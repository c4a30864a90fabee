use std::collections::BTreeSet;
use std::vec::Vec;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::check;
use crate::pool::Ring;

/// A pool of two slots. loom sees to it that nobody touches a slot beside somebody else.
struct Pool {
    ring: Ring<2>,
    slots: [UnsafeCell<Option<u32>>; 2],
}

impl Pool {
    fn new() -> Self {
        Self {
            ring: Ring::new(2),
            slots: [None; 2].map(UnsafeCell::new),
        }
    }

    fn with_slot<R>(&self, slot: u64, change: impl FnOnce(&mut Option<u32>) -> R) -> R {
        let slot = usize::try_from(slot).expect("a small number");
        let slot = self.slots.get(slot).expect("a slot of the ring");
        // SAFETY: loom fails if anybody else uses the slot now.
        slot.with_mut(|page| change(unsafe { &mut *page }))
    }

    /// Fills up to `most` slots with the pages `next` and on; how many.
    fn refill(&self, next: u32, most: u64) -> u32 {
        let Some(refill) = self.ring.refill() else {
            return 0;
        };
        let mut count = 0;
        for slot in refill.empty(most) {
            let page = next + count;
            let before = self.with_slot(slot, |place| place.replace(page));
            assert_eq!(before, None, "a slot that still has its page is filled");
            count += 1;
        }
        refill.filled(count.into());
        count
    }

    /// Takes up to `most` pages out.
    fn take(&self, worker: usize, most: u64) -> Vec<u32> {
        let Some(claim) = self.ring.claim(worker, most) else {
            return Vec::new();
        };
        let take = |slot| {
            self.with_slot(slot, |place| {
                place.take().expect("a page in a claimed slot")
            })
        };
        claim.slots.clone().map(take).collect()
    }
}

/// A pool with the pages from 1 to `pages`.
fn pool_of(pages: u32) -> Arc<Pool> {
    let pool = Arc::new(Pool::new());
    assert_eq!(pool.refill(1, pages.into()), pages);
    pool
}

/// Takes what is left. Each page that was ever filled in was taken once then.
fn check_all(pool: &Pool, taken: impl IntoIterator<Item = Vec<u32>>, filled: u32) {
    let mut all: Vec<u32> = taken.into_iter().flatten().collect();
    while pool.ring.available() != 0 {
        all.extend(pool.take(0, 1));
    }
    let count = all.len();
    let pages: BTreeSet<u32> = all.into_iter().collect();
    assert_eq!(count, pages.len(), "a page was taken twice");
    assert!(pages.into_iter().eq(1..=filled), "a page was lost");
}

/// `workers` that each take a page, `times` one after the other, while another thread refills as often a
/// pool that has `pages`.
fn check_claims(pages: u32, workers: usize, times: u32) {
    check(move || {
        let pool = pool_of(pages);
        let threads = (0..workers).map(|worker| {
            let pool = pool.clone();
            thread::spawn(move || (0..times).flat_map(|_| pool.take(worker, 1)).collect())
        });
        let threads: Vec<_> = threads.collect();
        let mut filled = pages;
        for _ in 0..times {
            filled += pool.refill(filled + 1, 2);
        }
        let taken = threads
            .into_iter()
            .map(|thread| thread.join().expect("a worker"));
        check_all(&pool, taken, filled);
    });
}

#[test]
fn two_workers_beside_a_refill() {
    check_claims(2, 2, 1);
}

#[test]
fn a_worker_and_a_refill_that_come_again() {
    check_claims(1, 1, 2);
}

/// Two threads refill, of which one takes pages between.
#[test]
fn refills_beside_each_other() {
    check(|| {
        let pool = pool_of(2);
        assert_eq!(pool.take(0, 2), [1, 2]);
        let other = {
            let pool = pool.clone();
            thread::spawn(move || pool.refill(10, 1))
        };
        let mut filled = pool.refill(20, 1);
        let mut taken = pool.take(0, 1);
        filled += pool.refill(20 + filled, 1);
        filled += other.join().expect("the other");
        while pool.ring.available() != 0 {
            taken.extend(pool.take(0, 1));
        }
        let count = taken.len();
        assert_eq!(count, filled as usize);
        assert_eq!(count, taken.into_iter().collect::<BTreeSet<_>>().len());
    });
}
