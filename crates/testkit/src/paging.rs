//! Threads that fault, threads that resolve the faults, and the memory that both use.

#![expect(unsafe_code, reason = "reads and writes memory of a pager")]

use heapless::Vec;
use tablewalk_pager::{Delivery, Pager, Policy, Worker};
use tablewalk_rt::{eprintln, thread};
use tablewalk_uapi::{Errno, process};

use crate::error::Error;

/// Maximum number of threads of each kind.
pub const THREADS: usize = 16;

/// Runs `body` with the numbers from 0 to `threads - 1`, each on a thread of its own. `pager` resolves their
/// faults: on `handlers` threads that read userfaultfd events or, with signals, in the faulting thread
/// itself.
///
/// # Errors
///
/// The errors of the handlers and of starting threads.
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

/// Returns the word at `offset`, a multiple of 8, of page `page` of the region, or 0 beyond the region. The
/// page is present when this returns.
pub fn read<P: Policy>(pager: &Pager<P>, page: usize, offset: usize) -> u64 {
    // SAFETY: the word lies in the region, to which no Rust reference exists.
    place(pager, page, offset).map_or(0, |place| unsafe { place.read_volatile() })
}

/// Writes the word that [`read`] reads. Does nothing beyond the region.
pub fn write<P: Policy>(pager: &Pager<P>, page: usize, offset: usize, value: u64) {
    if let Some(place) = place(pager, page, offset) {
        // SAFETY: the word lies in the region, to which no Rust reference exists.
        unsafe { place.write_volatile(value) };
    }
}

/// Returns the address of a word of the region.
fn place<P: Policy>(pager: &Pager<P>, page: usize, offset: usize) -> Option<*mut u64> {
    let start = page.checked_mul(pager.page_size())?.checked_add(offset)?;
    let inside = offset.is_multiple_of(8) && start < pager.size();
    inside.then(|| pager.as_ptr().wrapping_add(start).cast())
}

/// Starts a handler thread for each of `workers`, of which the first `running` are started already, then runs
/// `body`.
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
        // A forked child, whose faults nobody resolves, reads zeros.
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

/// Exits: without this handler, the other threads would wait for their faults forever.
fn give_up(error: Error) -> ! {
    eprintln!("pager: {error}");
    process::exit(1)
}
