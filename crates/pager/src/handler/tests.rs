#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::Options;

/// Panics when it hears of a discard.
struct Panics;

impl Policy for Panics {
    fn hears_of_discards(&self) -> bool {
        true
    }

    fn discarded(&self, _: Range<usize>) {
        panic!("on purpose");
    }
}

#[test]
fn no_entry_is_put_where_the_policy_hears_of_a_discard() {
    let options = Options {
        pages: 200,
        frames: 2,
        low_water: 0,
        locked: false,
        delivery: Delivery::Threads,
    };
    let pager = Pager::new(options, Panics).unwrap();
    let address = |page| pager.page_address(page).0;
    let range = address(60)..address(130);
    // Before it hears of it: what it writes until then may be old.
    let heard = catch_unwind(AssertUnwindSafe(|| {
        pager.note(&pager.space.lock(), &Change::Removed(range));
    }));
    assert!(heard.is_err());
    let came: std::vec::Vec<_> = (0..200).filter(|page| pager.came.has(*page)).collect();
    assert_eq!(came, (60..130).collect::<std::vec::Vec<_>>());
}
