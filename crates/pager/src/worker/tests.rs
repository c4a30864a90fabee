#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;
use crate::kernel::faked::{self, Call};
use crate::refill::tests::pager;

const RUN: Pending = Pending {
    start: 0x1000,
    end: 0x5000,
    moved: 4,
};

#[test]
fn pages_that_were_not_adopted_are_the_next_time() {
    let pager = pager();
    let mut run = RUN;
    faked::begin(&[
        (Call::Adopt, Err(Errno::EINTR)),
        (Call::Adopt, Err(Errno::ENOMEM)),
    ]);
    assert!(adopt(&pager, &mut run).is_err());
    assert_eq!(run.moved, 4);
    assert_eq!(faked::end(), [(Call::Adopt, 4); 2]);
    faked::begin(&[(Call::Adopt, Ok(4))]);
    assert_eq!(adopt(&pager, &mut run), Ok(()));
    assert_eq!((run.moved, pager.counts().adopted), (0, 4));
    faked::end();
}

#[test]
fn pages_beside_a_hole_are_adopted() {
    let pager = pager();
    let mut run = RUN;
    let hole = Err(Errno::EINVAL);
    // Page 2 of 4 is not mapped.
    faked::begin(&[
        (Call::Adopt, hole),
        (Call::Adopt, Ok(2)),
        (Call::Adopt, hole),
        (Call::Adopt, hole),
        (Call::Adopt, Ok(1)),
    ]);
    assert_eq!(adopt(&pager, &mut run), Ok(()));
    let pages: std::vec::Vec<_> = faked::end().iter().map(|(_, pages)| *pages).collect();
    assert_eq!(pages, [4, 2, 2, 1, 1]);
    assert_eq!((run.moved, pager.counts().adopted), (0, 3));
}

#[test]
fn what_was_adopted_before_an_error_is_not_again() {
    let pager = pager();
    let mut run = RUN;
    faked::begin(&[
        (Call::Adopt, Err(Errno::EINVAL)),
        (Call::Adopt, Ok(2)),
        (Call::Adopt, Err(Errno::ENOMEM)),
    ]);
    assert!(adopt(&pager, &mut run).is_err());
    faked::end();
    faked::begin(&[(Call::Adopt, Ok(2))]);
    assert_eq!(adopt(&pager, &mut run), Ok(()));
    assert_eq!(faked::end(), [(Call::Adopt, 2)]);
}

#[test]
fn pages_that_were_moved_before_a_panic_are_adopted() {
    let pager = pager();
    let mut pending = [Pending::NONE; PENDING];
    run_of(&pager, &mut pending, &(3..5))
        .unwrap()
        .note(&pager, 2);
    // As where the policy panics: nobody takes note of how many there were.
    run_of(&pager, &mut pending, &(600..604)).unwrap();
    faked::begin(&[]);
    for run in &mut pending {
        assert_eq!(adopt(&pager, run), Ok(()));
    }
    assert_eq!(faked::end(), [(Call::Adopt, 4), (Call::Adopt, 2)]);
    // Where nothing was moved, nothing is.
    run_of(&pager, &mut pending, &(3..5))
        .unwrap()
        .note(&pager, 0);
    faked::begin(&[]);
    for run in &mut pending {
        assert_eq!(adopt(&pager, run), Ok(()));
    }
    assert!(faked::end().is_empty());
}
