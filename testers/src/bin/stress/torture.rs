//! Runs the rounds of the pager's torture test with the threads and the console of this program.

use core::time::Duration;

use tablewalk_pager::Delivery;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::{println, thread};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::{process, time};

use crate::Stress;
use crate::rounds::{Machine, Round, run};

pub(crate) const TESTS: &[Case<Stress<'_>, Error>] = &[Case {
    name: "nothing hangs and no page is wrong, whatever is done at once",
    run: torture,
}];

/// Seconds that a thread may wait: the emulator may run many CPUs on one.
const PATIENCE: u32 = 10;

struct Target;

impl Machine for Target {
    fn run(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        if let Err(errno) = thread::run_all(count, body) {
            println!("# clone: {errno}");
            process::exit(1);
        }
    }

    fn contain(&self, body: &mut dyn FnMut()) {
        body();
    }

    fn say(&self, line: core::fmt::Arguments<'_>) {
        println!("# {line}");
    }

    fn panics(&self) -> bool {
        // A panic ends the process.
        false
    }
}

fn torture(stress: &mut Stress<'_>) -> Result<Verdict, Error> {
    let now = || time::monotonic().map_err(Error::call("clock_gettime"));
    let end = now()? + Duration::from_secs(stress.torture.into());
    let mut right = true;
    // Long tests have longer rounds too, for kernels that are slow.
    let length = Duration::from_secs((stress.torture / 60).clamp(1, 10).into());
    for seed in (stress.seed..).step_by(3) {
        for (delivery, remaps, seed) in [
            (Delivery::Threads, false, seed),
            (Delivery::Signals, false, seed + 1),
            (Delivery::Threads, true, seed + 2),
        ] {
            right &= run(
                &Target,
                Round {
                    delivery,
                    remaps,
                    seed,
                    length,
                    patience: PATIENCE,
                },
            )?;
        }
        if !right || now()? >= end {
            break;
        }
    }
    Ok(right.into())
}
