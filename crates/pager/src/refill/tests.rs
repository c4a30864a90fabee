#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::vec::Vec;

use super::*;
use crate::kernel::faked::{self, Call};
use crate::{Delivery, Options};
use tablewalk_walker::{Format, Geometry, Linux};

const PAGES: usize = 4096;
const FRAMES: u64 = 16;
const PAGE: u64 = 4096;
const POPULATE: Call = Call::Advise(Advice::PopulateWrite);
const DISCARD: Call = Call::Advise(Advice::DontNeedLocked);

/// Gives pages back for ever.
#[derive(Debug, Default)]
pub(crate) struct Gives(AtomicUsize);

impl Policy for Gives {
    fn victims(&self, most: usize) -> Option<Range<usize>> {
        let start = self.0.fetch_add(most, Ordering::Relaxed) % PAGES;
        Some(start..start + most)
    }
}

const OPTIONS: Options = Options {
    pages: PAGES,
    frames: 16,
    low_water: 8,
    locked: false,
    delivery: Delivery::Threads,
};

fn format() -> Format {
    Format {
        geometry: Geometry::new(12, 39, 48).unwrap(),
        linux: Linux::V6_1,
        mair: 0,
    }
}

/// A pager that has no frame yet, and believes that it can move entries.
pub(crate) fn pager() -> Pager<Gives> {
    let mut pager = Pager::with_format(OPTIONS, Gives::default(), None).unwrap();
    pager.format = Some(format());
    pager.moving.store(true, Ordering::Relaxed);
    pager
}

/// The calls of a refill of the whole pool by the kernel, with these answers; and the frames there are.
fn refilled(answers: &[(Call, Result<u64, Errno>)]) -> (Vec<(Call, u64)>, Pager<Gives>) {
    let pager = pager();
    faked::begin(answers);
    pager.not_fatal(pager.refill(u64::MAX, 0));
    (faked::end(), pager)
}

#[test]
fn a_refill_that_is_interrupted_goes_on() {
    let interrupted = Err(Errno::EINTR);
    let (made, pager) = refilled(&[
        (POPULATE, interrupted),
        (POPULATE, interrupted),
        (Call::Lend, interrupted),
        (Call::Lend, Ok(FRAMES)),
    ]);
    assert_eq!(made.len(), 5);
    assert_eq!(pager.frames(), FRAMES);
    assert_eq!(pager.counts().errors, 0);
}

#[test]
fn a_refill_gets_as_many_frames_as_there_are() {
    let (made, pager) = refilled(&[
        (POPULATE, Err(Errno::ENOMEM)),
        (Call::Lend, Ok(FRAMES / 2)),
        (POPULATE, Ok(0)),
        (POPULATE, Err(Errno::ENOMEM)),
        (Call::Lend, Ok(FRAMES / 4)),
    ]);
    let asked: Vec<_> = made.iter().filter(|(call, _)| *call == POPULATE).collect();
    assert_eq!(asked[0].1, FRAMES * PAGE);
    assert_eq!(asked[1].1, FRAMES / 2 * PAGE);
    assert!(pager.frames() >= FRAMES / 2);
}

#[test]
fn without_memory_there_is_no_frame_and_the_pager_goes_on() {
    let (_, pager) = refilled(&[(POPULATE, Err(Errno::ENOMEM)); 5]);
    assert_eq!(pager.frames(), 0);
    assert_eq!(pager.counts().errors, 1);
    faked::begin(&[(Call::Lend, Ok(FRAMES))]);
    pager.refill_if_low();
    assert_eq!(pager.frames(), FRAMES);
    faked::end();
}

#[test]
fn a_slot_that_is_not_lent_is_made_anew() {
    let (made, pager) = refilled(&[(Call::Lend, Ok(FRAMES - 1)), (Call::Lend, Ok(FRAMES))]);
    let calls: Vec<_> = made.iter().map(|(call, _)| *call).collect();
    assert_eq!(calls, [POPULATE, Call::Lend, DISCARD, POPULATE, Call::Lend]);
    assert_eq!(pager.frames(), FRAMES);
}

#[test]
fn a_slot_that_is_never_lent_has_no_frame() {
    let (_, pager) = refilled(&[(Call::Lend, Ok(FRAMES - 1)); 5]);
    assert_eq!(pager.frames(), 0);
    assert_eq!(pager.counts().errors, 1);
}

#[test]
fn a_fault_that_waits_does_not_pay_for_a_search_of_the_region() {
    let pager = pager();
    faked::begin(&[(Call::Lend, Ok(1))]);
    pager.refill_for(1);
    let made = faked::end();
    let taken = made.iter().filter(|(call, _)| *call == Call::Take).count();
    assert!((1..=VICTIMS_WHILE_WAITING).contains(&taken), "{taken}");
    assert_eq!(pager.frames(), 1);
    // Beside it, once round.
    faked::begin(&[(Call::Lend, Ok(FRAMES - 1))]);
    pager.refill_if_low();
    let made = faked::end();
    let taken = made.iter().filter(|(call, _)| *call == Call::Take).count();
    assert!(taken > VICTIMS_WHILE_WAITING, "{taken}");
    assert_eq!(pager.frames(), FRAMES);
}

#[test]
fn an_error_of_a_call_is_not_one_of_a_fault() {
    let pager = pager();
    faked::begin(&[(Call::Take, Err(Errno::EFAULT))]);
    pager.refill_for(1);
    faked::end();
    assert_eq!(pager.counts().errors, 1);
    assert_eq!(pager.frames(), 0);
}

#[test]
fn pages_behind_one_that_is_refused_are_taken_back() {
    let pager = pager();
    faked::begin(&[(Call::Take, Err(Errno::EINVAL))]);
    assert_eq!(pager.take_back(0..4), Ok(0));
    let made = faked::end();
    let taken = made.iter().filter(|(call, _)| *call == Call::Take);
    assert_eq!(taken.count(), 2);
    // All of them are.
    faked::begin(&[(Call::Take, Err(Errno::EINVAL)); 4]);
    assert_eq!(pager.take_back(0..4), Ok(0));
    faked::end();
}

#[test]
fn who_may_not_lend_has_the_kernel_copy() {
    faked::begin(&[(Call::Lend, Err(Errno::EPERM))]);
    let pager = Pager::with_format(OPTIONS, Gives::default(), Some(format()));
    faked::end();
    let pager = pager.unwrap();
    assert_eq!((pager.moves(), pager.frames()), (false, 0));
    // There are no entries of the kernel's to flush.
    std::mem::forget(pager);
}

/// Has pages of zeros, and panics when it hears that one was taken back.
struct Zeros;

impl Policy for Zeros {
    fn zeros(&self) -> bool {
        true
    }

    fn taken_back(&self, _: usize, bytes: &[u8], _: bool) {
        assert_eq!(bytes.first(), Some(&1));
        panic!("on purpose");
    }
}

/// The next page with this frame is not filled.
#[test]
fn a_frame_of_zeros_has_nothing_old_when_the_policy_panics() {
    let pager = Pager::with_format(OPTIONS, Zeros, None).unwrap();
    let refill = pager.ring.refill().unwrap();
    // SAFETY: nobody claims a slot here.
    unsafe { pager.slot_bytes(0) }.fill(1);
    let format = format();
    let from = pager.region.address(0).0;
    let place = ExposePgtblTable {
        addr: from,
        desc: 0,
    };
    let told = catch_unwind(AssertUnwindSafe(|| {
        let mut taken = Taken {
            pager: &pager,
            refill: &refill,
            format: &format,
            first: 0,
            from,
            filled: 1,
            count: 0,
            slots: [(0, &place)].into_iter(),
        };
        taken.tell_all();
    }));
    assert!(told.is_err());
    assert_eq!(pager.frames(), 1);
    // SAFETY: as above.
    assert!(unsafe { pager.slot_bytes(0) }.iter().all(|byte| *byte == 0));
}
