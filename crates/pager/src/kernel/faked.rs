//! What system calls answer in a test: a script for the thread that makes them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::vec::Vec;

use tablewalk_uapi::Errno;
use tablewalk_uapi::memory::Advice;

/// A call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Advise(Advice),
    Lend,
    Take,
    Adopt,
    Publish,
    Flush,
}

/// What a call answers, and that it has been made for so many bytes, pages or places.
type Answer = Result<u64, Errno>;

#[derive(Default)]
struct Script {
    is_on: bool,
    answers: VecDeque<(Call, Answer)>,
    made: Vec<(Call, u64)>,
}

std::thread_local! {
    static SCRIPT: RefCell<Script> = RefCell::default();
}

/// From now on no call of this thread gets to the kernel. The first ones of each kind answer as in
/// `answers`; the others succeed, and lend or take nothing.
pub(crate) fn begin(answers: &[(Call, Answer)]) {
    SCRIPT.with_borrow_mut(|script| {
        *script = Script {
            is_on: true,
            answers: answers.iter().copied().collect(),
            made: Vec::new(),
        };
    });
}

/// The calls that were made, but for FLUSH, and for how much. Calls get to the kernel again.
pub(crate) fn end() -> Vec<(Call, u64)> {
    let script = SCRIPT.take();
    assert!(script.answers.is_empty(), "{:?}", script.answers);
    script.made
}

/// What a call answers; `None` if it gets to the kernel.
pub(crate) fn next(call: Call, amount: u64) -> Option<Answer> {
    SCRIPT.with_borrow_mut(|script| {
        if !script.is_on {
            return None;
        }
        if call != Call::Flush {
            script.made.push((call, amount));
        }
        let place = script
            .answers
            .iter()
            .position(|(wanted, _)| *wanted == call);
        let answer = place.and_then(|place| script.answers.remove(place));
        Some(answer.map_or(Ok(0), |(_, answer)| answer))
    })
}
