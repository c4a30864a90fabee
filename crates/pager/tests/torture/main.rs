//! The torture of the pager on a host, where the kernel copies. `TORTURE_SECONDS` says for how long (20),
//! `TORTURE_SEED` where to begin, and `TORTURE_PATIENCE` how many seconds a thread may wait (1): on a
//! machine that is busy with other things, more.

#![allow(missing_docs, reason = "tests")]
#![allow(
    unsafe_code,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests"
)]

mod rounds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rounds::{Machine, Round, run};
use tablewalk_pager::Delivery;

struct Host;

impl Machine for Host {
    fn run(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for number in 0..count {
                scope.spawn(move || body(number));
            }
        });
    }

    fn contain(&self, body: &mut dyn FnMut()) {
        let _panicked = catch_unwind(AssertUnwindSafe(body));
    }

    fn say(&self, line: std::fmt::Arguments<'_>) {
        println!("{line}");
    }

    fn panics(&self) -> bool {
        true
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_hangs_and_no_page_is_wrong() {
    let length = Duration::from_secs(variable("TORTURE_SECONDS").unwrap_or(20));
    let patience = u32::try_from(variable("TORTURE_PATIENCE").unwrap_or(1)).unwrap();
    let mut seed = variable("TORTURE_SEED").unwrap_or(1);
    // Those on purpose are not worth a line each.
    std::panic::set_hook(Box::new(|info| {
        let what = info.to_string();
        if !what.contains("on purpose") {
            eprintln!("{what}");
        }
    }));
    let start = Instant::now();
    while start.elapsed() < length {
        for (delivery, remaps) in [
            (Delivery::Threads, true),
            (Delivery::Threads, false),
            (Delivery::Signals, false),
        ] {
            let round = Round {
                delivery,
                remaps,
                seed,
                length: Duration::from_millis(500),
                patience,
            };
            assert!(run(&Host, round).unwrap(), "{round:?}");
            seed += 1;
        }
    }
}
