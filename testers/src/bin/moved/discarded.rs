//! Pages that are discarded while they are filled.

#![expect(unsafe_code, reason = "gives advice about memory of a pager")]

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tablewalk_pager::{Delivery, Options, Pager, Policy, Refusal};
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::println;
use tablewalk_testkit::error::Error;
use tablewalk_testkit::paging;
use tablewalk_uapi::memory::{Advice, madvise};
use tablewalk_uapi::process;

use crate::{MARK, Moved};

pub(crate) const TESTS: &[Case<Moved, Error>] = &[Case {
    name: "a page that is discarded while a batch is filled has the right contents afterwards",
    run: discarded,
}];

/// Steps of the test, in order.
const FILLING: u32 = 1;
const DISCARDED: u32 = 2;
const DONE: u32 = 3;

/// A policy that installs two pages with one fault. Discarded pages are filled with zeros.
#[derive(Default)]
struct Pair {
    is_discarded: AtomicBool,
    step: AtomicU32,
}

impl Pair {
    fn reach(&self, step: u32) {
        self.step.store(step, Ordering::SeqCst);
    }

    fn wait(&self, step: u32) {
        while self.step.load(Ordering::SeqCst) < step {
            process::yield_now();
        }
    }
}

impl Policy for Pair {
    fn fill(&self, page: usize, bytes: &mut [u8]) -> Result<usize, Refusal> {
        if self.is_discarded.load(Ordering::SeqCst) {
            return Ok(0);
        }
        if page == 1 {
            self.reach(FILLING);
            self.wait(DISCARDED);
        }
        let Some(word) = bytes.first_chunk_mut() else {
            return Ok(0);
        };
        *word = MARK.to_ne_bytes();
        Ok(word.len())
    }

    fn around(&self, _: usize) -> Range<usize> {
        0..2
    }

    fn hears_of_discards(&self) -> bool {
        true
    }

    fn discarded(&self, _: Range<usize>) {
        self.is_discarded.store(true, Ordering::SeqCst);
    }
}

fn discarded(_: &mut Moved) -> Result<Verdict, Error> {
    let options = Options {
        pages: 2,
        frames: 4,
        low_water: 0,
        locked: false,
        delivery: Delivery::Threads,
    };
    let pager = Pager::new(options, Pair::default())?;
    if !pager.moves() {
        return Ok(Verdict::Skip("no entries are moved"));
    }
    let found = [const { AtomicU64::new(u64::MAX) }; 2];
    let pair = pager.policy();
    let note = |page: usize| {
        if let Some(place) = found.get(page) {
            place.store(paging::read(&pager, page, 0), Ordering::SeqCst);
        }
    };
    paging::run(&pager, Delivery::Threads, 2, 2, &|number| {
        if number == 0 {
            note(0);
            pair.reach(DONE);
            return;
        }
        pair.wait(FILLING);
        let second = pager.as_ptr().wrapping_add(pager.page_size()).cast();
        // SAFETY: nobody relies on the contents of the page.
        let _kept = unsafe { madvise(second, pager.page_size(), Advice::DontNeed) };
        pair.reach(DISCARDED);
        pair.wait(DONE);
        note(1);
    })?;
    let [first, second] = found.map(AtomicU64::into_inner);
    println!("# {first:#x}, and {second:#x} where it was discarded");
    Ok((first == MARK && second == 0).into())
}
