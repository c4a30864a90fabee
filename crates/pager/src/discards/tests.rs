#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use core::sync::atomic::AtomicU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock};
use std::vec::Vec;

use tablewalk_uapi::remap::ExposePgtblTable;
use tablewalk_walker::{Descriptor, Format, Geometry, Linux, TableMut};

use super::*;
use crate::moving::{Moved, OwnPage, Places};
use crate::refill::Taken;
use crate::space::Change;
use crate::{Delivery, Options, Pager, Policy, Refusal};

const PAGE: usize = 5;

/// What a policy is called for.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Call {
    Filled(usize),
    TakenBack(usize),
    Discarded(usize, usize),
}

/// Discards a page while it is filled the first time.
#[derive(Default)]
struct Discarding {
    pager: OnceLock<&'static Pager<Self>>,
    calls: Mutex<Vec<Call>>,
    panics: bool,
    panics_at_a_page: bool,
}

impl Policy for Discarding {
    fn fill(&self, page: usize, _: &mut [u8]) -> Result<usize, Refusal> {
        self.calls.lock().unwrap().push(Call::Filled(page));
        if let Some(pager) = self.pager.get()
            && self.calls.lock().unwrap().len() == 1
        {
            discard(pager, page);
        }
        Ok(0)
    }

    fn hears_of_discards(&self) -> bool {
        true
    }

    fn discarded(&self, pages: Range<usize>) {
        assert!(!self.panics, "on purpose");
        let call = Call::Discarded(pages.start, pages.end);
        self.calls.lock().unwrap().push(call);
    }

    fn taken_back(&self, page: usize, _: &[u8], _: bool) {
        self.calls.lock().unwrap().push(Call::TakenBack(page));
        assert!(!self.panics_at_a_page, "on purpose");
    }
}

fn pager(policy: Discarding) -> &'static Pager<Discarding> {
    let options = Options {
        pages: 200,
        frames: 4,
        low_water: 0,
        locked: false,
        delivery: Delivery::Threads,
    };
    std::boxed::Box::leak(std::boxed::Box::new(Pager::new(options, policy).unwrap()))
}

/// As a handler that reads the message.
fn discard(pager: &Pager<Discarding>, page: usize) {
    let range = pager.region.address(page).0..pager.region.address(page + 1).0;
    let discards = pager.space.discards();
    let _installs = discards.reading();
    let layout = pager.space.lock();
    let _counted = discards.count();
    pager.note(&layout, &Change::Removed(range));
}

#[test]
fn what_was_filled_before_a_discard_is_filled_again() {
    let pager = pager(Discarding::default());
    pager.policy.pager.set(pager).ok().unwrap();
    let own = OwnPage::new(&Linux::V6_1);
    let (donors, places) = (
        [0x1000_u64, 0x2000].map(|frame| AtomicU64::new(frame | own.value())),
        [AtomicU64::new(0)],
    );
    let came = &pager.came;
    let mut moved = Moved::default();
    let mut wanted = Places::new(TableMut::new(&places), 0, PAGE..PAGE + 1, came);
    moved.move_part(pager, own, 0, TableMut::new(&donors), &mut wanted);
    assert_eq!(
        *pager.policy.calls.lock().unwrap(),
        [
            Call::Filled(PAGE),
            Call::Discarded(PAGE, PAGE + 1),
            Call::Filled(PAGE)
        ]
    );
    // The second frame, and the first is back in its slot.
    let [place] = places.map(AtomicU64::into_inner);
    assert_eq!(Descriptor(place).0 & 0xf000, 0x2000);
    let [first, second] = donors.map(AtomicU64::into_inner);
    assert_eq!((first & 0xf000, second & 1), (0x1000, 0));
}

/// Has the policy hear of a page that was taken back.
fn take_back(pager: &Pager<Discarding>) {
    let refill = pager.ring.refill().unwrap();
    let format = Format {
        geometry: Geometry::new(12, 39, 48).unwrap(),
        linux: Linux::V6_1,
        mair: 0,
    };
    let from = pager.region.address(0).0;
    let place = ExposePgtblTable {
        addr: pager.region.address(PAGE).0,
        desc: 0,
    };
    drop(Taken {
        pager,
        refill: &refill,
        format: &format,
        first: 0,
        from,
        filled: 0,
        count: 0,
        slots: [(0, &place)].into_iter(),
    });
}

#[test]
fn of_a_page_that_is_taken_after_it_was_discarded_the_policy_hears_the_discard_last() {
    let pager = pager(Discarding::default());
    let discarded = Call::Discarded(PAGE, PAGE + 1);
    let calls = || core::mem::take(&mut *pager.policy.calls.lock().unwrap());
    discard(pager, PAGE);
    take_back(pager);
    assert_eq!(calls(), [discarded, Call::TakenBack(PAGE), discarded]);
    // Once for each discard, and not for a page that was made since.
    take_back(pager);
    assert_eq!(calls(), [Call::TakenBack(PAGE)]);
    discard(pager, PAGE);
    let discards = pager.space.discards();
    assert!(discards.install(discards.seen(), PAGE, || true));
    take_back(pager);
    assert_eq!(calls(), [discarded, Call::TakenBack(PAGE)]);
}

#[test]
fn a_discard_counts_if_the_policy_panics() {
    let pager = pager(Discarding {
        panics: true,
        ..Discarding::default()
    });
    let seen = pager.space.discards().seen();
    catch_unwind(AssertUnwindSafe(|| discard(pager, PAGE))).unwrap_err();
    assert!(!pager.space.discards().install(seen, PAGE, || true));
}

#[test]
fn the_policy_hears_the_discard_last_if_it_panics_at_the_page() {
    let pager = pager(Discarding {
        panics_at_a_page: true,
        ..Discarding::default()
    });
    discard(pager, PAGE);
    pager.policy.calls.lock().unwrap().clear();
    catch_unwind(AssertUnwindSafe(|| take_back(pager))).unwrap_err();
    assert_eq!(
        *pager.policy.calls.lock().unwrap(),
        [Call::TakenBack(PAGE), Call::Discarded(PAGE, PAGE + 1)]
    );
}
