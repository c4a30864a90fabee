//! Faults as events, for threads beside those that fault.

use core::sync::atomic::Ordering;

use heapless::Vec;
use tablewalk_uapi::userfault::{Event, Messages, UFFD_PAGEFAULT_FLAG_WRITE, Userfault, Waking};

use crate::counts::add;
use crate::worker::Resolved;
use crate::{Delivery, PagerError, Policy, Worker};

/// Events that are read together.
const EVENTS: usize = 64;

/// A page that is waited for.
#[derive(Clone, Copy)]
struct Fault {
    page: usize,
    write: bool,
}

impl<P: Policy> Worker<'_, P> {
    /// Resolves faults until [`Pager::stop`](crate::Pager::stop). Forked children get `forked`, see
    /// [`Pager::serve_child`](crate::Pager::serve_child).
    ///
    /// # Errors
    ///
    /// [`PagerError::Delivery`] for a pager with signals; else as [`Worker::settle`], and errors of the userfaultfd. Threads that wait then wait for another
    /// worker.
    pub fn handle(&mut self, forked: &mut dyn FnMut(Userfault)) -> Result<(), PagerError> {
        let pager = self.pager;
        if pager.options.delivery != Delivery::Threads {
            return Err(PagerError::Delivery);
        }
        let mut messages = Messages::<EVENTS>::new();
        loop {
            let events = pager
                .uffd
                .events(&mut messages)
                .map_err(PagerError::call("userfaultfd"))?;
            let mut faults = Vec::<Fault, EVENTS>::new();
            let mut stop = None;
            for event in events {
                match event {
                    Event::Pagefault { address, flags, .. } => {
                        let start = pager.start.load(Ordering::Relaxed);
                        let write = flags & u64::from(UFFD_PAGEFAULT_FLAG_WRITE) != 0;
                        match pager.page_at(start, address) {
                            // There is room for as many as were read.
                            Some(page) => drop(faults.push(Fault { page, write })),
                            None => stop = Some(address),
                        }
                    }
                    event => self.note(event, forked),
                }
            }
            self.resolve_all(&mut faults)?;
            self.pager.refill_if_low()?;
            if let Some(address) = stop {
                self.settle()?;
                return self.leave(address);
            }
        }
    }

    /// Resolves faults that were read together, in the order of their pages, and wakes as few times as
    /// possible.
    fn resolve_all(&mut self, faults: &mut [Fault]) -> Result<(), PagerError> {
        sort(faults);
        add(&self.pager.counters.faults, faults.len() as u64);
        let mut there = 0..0;
        for fault in faults {
            if there.contains(&fault.page) {
                continue;
            }
            let Resolved::Mapped(pages) = self.resolve(fault.page, fault.write)? else {
                continue;
            };
            if pages.start == there.end {
                there.end = pages.end;
            } else {
                if !there.is_empty() {
                    self.wake(there)?;
                }
                there = pages;
            }
        }
        if there.is_empty() {
            return Ok(());
        }
        self.wake(there)
    }

    /// Something was done to the region.
    fn note(&self, event: Event, forked: &mut dyn FnMut(Userfault)) {
        let pager = self.pager;
        add(&pager.counters.events, 1);
        match event {
            Event::Fork(uffd) => forked(uffd),
            // The pages are missing again, as their entries tell.
            Event::Remove(_) => {}
            Event::Remap { from, to, .. } => {
                // The kernel knows what is where, so it copies from now on.
                pager.moving.store(false, Ordering::SeqCst);
                let start = pager.start.load(Ordering::Relaxed);
                if start == from {
                    pager.start.store(to, Ordering::Relaxed);
                }
            }
            Event::Unmap(_) => pager.moving.store(false, Ordering::SeqCst),
            Event::Pagefault { .. } | Event::Other(_) => {}
        }
    }

    /// Lets [`Pager::stop`](crate::Pager::stop) go on, which has touched a page behind the region.
    fn leave(&self, address: u64) -> Result<(), PagerError> {
        let pager = self.pager;
        let page = address & !(pager.page_size() as u64 - 1);
        // SAFETY: a page behind the region, which nobody reads.
        unsafe {
            pager
                .uffd
                .zeropage(page, pager.page_size() as u64, Waking::Wake)
        }
        .map(drop)
        .map_err(PagerError::call("UFFDIO_ZEROPAGE"))
    }
}

/// Sorts faults by their pages: few, and mostly in order. What the library has is larger than all of this.
fn sort(faults: &mut [Fault]) {
    for end in 1..faults.len() {
        for place in (1..=end).rev() {
            let Some([before, after]) = faults.get_mut(place - 1..=place) else {
                return;
            };
            if before.page <= after.page {
                break;
            }
            core::mem::swap(before, after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_sorted_by_page() {
        let mut faults = [5, 1, 4, 1, 9, 0].map(|page| Fault { page, write: false });
        sort(&mut faults);
        assert_eq!(faults.map(|fault| fault.page), [0, 1, 1, 4, 5, 9]);
        sort(&mut []);
    }
}
