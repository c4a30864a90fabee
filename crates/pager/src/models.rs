//! Models of the shared data structures. loom runs each with all interleavings of its threads: `make loom`.
//!
//! Each model is small and runs the real code. `MUTANTS` are errors that the code makes if the variable of
//! that name selects them: a model must find its own mutants.

mod discards;
mod handler;
mod mutex;
mod readers;
mod ring;
mod rwlock;

use std::process::Command;
use std::string::String;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{env, println};

use loom::model::Builder;

/// Maximum number of preemptions of runnable threads in one run.
const PREEMPTIONS: usize = 3;

/// Runs `threads` with all interleavings.
fn check(threads: impl Fn() + Sync + Send + 'static) {
    check_with(PREEMPTIONS, threads);
}

fn check_with(preemptions: usize, threads: impl Fn() + Sync + Send + 'static) {
    let mut model = Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(preemptions));
    let begin = Instant::now();
    let orders = Arc::new(AtomicUsize::new(0));
    let counted = orders.clone();
    model.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        threads();
    });
    let orders = orders.load(Ordering::Relaxed);
    println!("{orders} orders, {:.1} s", begin.elapsed().as_secs_f32());
}

/// loom's message for a data race.
const RACE: &str = "Causality violation";
/// loom's message for a deadlock.
const DEADLOCK: &str = "deadlock";

const RING: [&str; 3] = [
    "ring::two_workers_beside_a_refill",
    "ring::a_worker_and_a_refill_that_come_again",
    "ring::refills_beside_each_other",
];
const LOCK: &str = "rwlock::two_readers_beside_a_writer";
const HANDLER: [&str; 3] = [
    "handler::a_handler_that_fails_beside_another",
    "handler::a_page_that_the_kernel_does_not_make_at_first",
    "handler::two_handlers_that_are_stopped_one_by_one",
];
const READERS: &str = "readers::two_handlers_beside_a_fork";
const MUTEX: &str = "mutex::two_threads";
const DISCARDS: &str = "discards::a_worker_beside_a_discard";
const OLD: &str = "the old contents came back";

/// The mutants, each with the model that finds it and the expected message.
const MUTANTS: &[(&str, &str, &str)] = &[
    ("ring: a claim not shown", RING[0], RACE),
    ("ring: relaxed show of a claim", RING[1], RACE),
    ("ring: relaxed claim", RING[0], RACE),
    ("ring: relaxed drop of a claim", RING[0], RACE),
    ("ring: relaxed look at the claims", RING[0], RACE),
    ("ring: relaxed look at the head", RING[0], RACE),
    ("ring: relaxed look at the tail", RING[1], RACE),
    ("ring: relaxed filled", RING[1], RACE),
    ("ring: relaxed right to refill", RING[2], RACE),
    ("ring: relaxed end of a refill", RING[2], RACE),
    ("lock: relaxed read", LOCK, RACE),
    ("lock: relaxed look at the phase", LOCK, RACE),
    ("lock: relaxed write", LOCK, RACE),
    ("lock: relaxed look at the last reader", LOCK, RACE),
    ("lock: relaxed unlock of a reader", LOCK, RACE),
    ("lock: relaxed unlock of a writer", LOCK, RACE),
    ("lock: relaxed store of the last reader", LOCK, RACE),
    ("lock: no fence of the last reader", LOCK, RACE),
    ("lock: no wake of the writer", LOCK, DEADLOCK),
    ("lock: no wake of readers", LOCK, DEADLOCK),
    ("mutex: relaxed lock", MUTEX, RACE),
    ("mutex: relaxed lock after a wait", MUTEX, RACE),
    ("mutex: relaxed unlock", MUTEX, RACE),
    ("mutex: no wake", MUTEX, DEADLOCK),
    ("batch: no wake when it is dropped", HANDLER[0], DEADLOCK),
    (
        "handler: no wake after a page was not made",
        HANDLER[1],
        DEADLOCK,
    ),
    ("readers: the last free one works", READERS, DEADLOCK),
    ("readers: no longer free when done", READERS, DEADLOCK),
    ("discards: installed while messages are read", DISCARDS, OLD),
    ("discards: old contents are installed", DISCARDS, OLD),
    ("discards: relaxed count", DISCARDS, OLD),
    ("discards: relaxed look at the count", DISCARDS, OLD),
    ("stop: one ends all", HANDLER[2], DEADLOCK),
    ("stop: no second look", HANDLER[2], DEADLOCK),
];

/// Runs the model of each mutant in a separate process, since a failure ends the process.
#[test]
fn mutants_are_found() {
    let program = env::current_exe().expect("the path of this program");
    let mut survived = std::vec::Vec::new();
    for &(mutant, model, complaint) in MUTANTS {
        let run = Command::new(&program)
            .args(["--exact", &std::format!("models::{model}")])
            .env("MUTANT", mutant)
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("the model runs");
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        let said = said + &String::from_utf8_lossy(&run.stderr);
        if run.status.success() || !said.contains(complaint) {
            println!("{mutant}: {}\n{said}", run.status);
            survived.push(mutant);
        }
    }
    assert!(survived.is_empty(), "not found: {survived:?}");
}
