//! Threads that fault, and threads that resolve faults.

use heapless::Vec;
use tablewalk_pager::{Delivery, Pager, Policy, Worker};
use tablewalk_rt::{eprintln, thread};
use tablewalk_uapi::{Errno, process};

use crate::error::Error;

/// Threads of each kind at most.
pub const THREADS: usize = 16;

/// Runs `body` with the numbers from 0 to `threads - 1`, on a thread for each, in whose faults `pager` is
/// asked: beside `handlers` threads that read events or, with signals, in the thread itself.
///
/// # Errors
///
/// Those of workers and threads.
pub fn run<P: Policy>(
    pager: &Pager<P>,
    delivery: Delivery,
    handlers: usize,
    threads: usize,
    body: &(dyn Fn(usize) + Sync),
) -> Result<(), Error> {
    let started = match delivery {
        Delivery::Threads => {
            let mut workers = Vec::<_, THREADS>::new();
            for _ in 0..handlers {
                let _room = workers.push(pager.worker()?);
            }
            let mut started = Ok(());
            run_handlers(pager, &mut workers, 0, &mut || {
                started = thread::run_all(threads, body);
            })
            .and(started)
        }
        Delivery::Signals => thread::run_all(threads, &|number| {
            let resolved = pager
                .worker()
                .and_then(|mut worker| worker.resolve_own(|| body(number)));
            if let Err(error) = resolved {
                give_up(error.into());
            }
        }),
    };
    started.map_err(Error::call("clone"))
}

/// Runs `body` with all of `workers` beside it; `running` are there already.
fn run_handlers<P: Policy>(
    pager: &Pager<P>,
    workers: &mut [Worker<'_, P>],
    running: usize,
    body: &mut dyn FnMut(),
) -> Result<(), Errno> {
    let Some((worker, rest)) = workers.split_first_mut() else {
        body();
        pager.stop(running);
        return Ok(());
    };
    let handle = || {
        // A child that nobody serves sees zeros.
        if let Err(error) = worker.handle(&mut drop) {
            give_up(error.into());
        }
    };
    match thread::run_beside(handle, || run_handlers(pager, rest, running + 1, body)) {
        Ok(result) => result,
        Err(errno) => {
            pager.stop(running);
            Err(errno)
        }
    }
}

/// Nobody would resolve the faults of the others.
fn give_up(error: Error) -> ! {
    eprintln!("pager: {error}");
    process::exit(1)
}
