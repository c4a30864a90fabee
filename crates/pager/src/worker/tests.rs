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
