//! Threads that fault, threads that resolve faults, and the memory between them.

#![expect(unsafe_code, reason = "reads and writes memory of a pager")]

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

/// The word at `offset`, a multiple of 8, of page `page` of a pager: it is there when this returns. 0
/// beyond the region.
pub fn read<P: Policy>(pager: &Pager<P>, page: usize, offset: usize) -> u64 {
    // SAFETY: a word of the region, where nobody has a reference.
    place(pager, page, offset).map_or(0, |place| unsafe { place.read_volatile() })
}

/// Writes the word that [`read`] reads. Nothing beyond the region is written.
pub fn write<P: Policy>(pager: &Pager<P>, page: usize, offset: usize, value: u64) {
    if let Some(place) = place(pager, page, offset) {
        // SAFETY: as in `read`.
        unsafe { place.write_volatile(value) };
    }
}

/// Where a word of the region is.
fn place<P: Policy>(pager: &Pager<P>, page: usize, offset: usize) -> Option<*mut u64> {
    let start = page.checked_mul(pager.page_size())?.checked_add(offset)?;
    let inside = offset.is_multiple_of(8) && start < pager.size();
    inside.then(|| pager.as_ptr().wrapping_add(start).cast())
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
