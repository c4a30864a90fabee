//! Handles faults that arrive as events, on other threads than those that fault.

use core::ops::Range;
use core::sync::atomic::Ordering;
use core::time::Duration;

use tablewalk_uapi::Errno;

use crate::counts::add;
use crate::events::{Events, Messages, PollFd, poll};
use crate::layout::Layout;
use crate::space::{Batch, Change, EVENTS, Space, retry};
use crate::worker::Resolved;
use crate::{Child, Delivery, Pager, PagerError, Policy, Worker};

/// The time before reading again when the kernel could not deliver an event, or when no handler was free for
/// faults.
pub(crate) const MOMENT: Duration = Duration::from_millis(1);

impl<P: Policy> Worker<'_, P> {
    /// Resolves faults until [`Pager::stop`]. Calls `forked` with each forked child; `forked` must pass it to
    /// a thread that calls [`Pager::serve_child`], and return soon, since faults wait for it. If it panics, the
    /// children that were to be passed to it next are as those whose [`Child`] is dropped.
    ///
    /// When this function ends, even by an error or a panic of the policy, the threads whose faults it has
    /// read repeat their accesses. Another handler gets these faults, or the next one that is started.
    ///
    /// # Errors
    ///
    /// [`PagerError::Delivery`] for a pager with signals, [`PagerError::Forked`] in a child of the process
    /// that made the pager; otherwise as [`Worker::settle`], and [`PagerError::Call`] if the kernel has no
    /// memory for a page.
    pub fn handle(&mut self, forked: &mut dyn FnMut(Child)) -> Result<(), PagerError> {
        let pager = self.pager;
        if pager.options.delivery != Delivery::Threads {
            return Err(PagerError::Delivery);
        }
        pager.check_owner()?;
        let _handling = pager.readers.handle();
        let mut messages = Messages::<EVENTS>::new();
        loop {
            let mut fds = [
                PollFd::new(pager.space.uffd().fd(), Events::READABLE),
                PollFd::new(pager.stop.fd(), Events::READABLE),
            ];
            retry(|| poll(&mut fds, None)).map_err(PagerError::call("ppoll"))?;
            let [events, stop] = fds.map(|fd| fd.events());
            if !events.is_empty() {
                self.handle_some(&mut messages, forked)?;
            }
            if !stop.is_empty() && pager.stop.take() {
                return self.settle();
            }
        }
    }

    /// Reads the pending events and handles them.
    fn handle_some(
        &mut self,
        messages: &mut Messages<EVENTS>,
        forked: &mut dyn FnMut(Child),
    ) -> Result<(), PagerError> {
        let pager = self.pager;
        let mut batch = pager.space.batch();
        {
            // Also if the policy panics, so that no child loses its pages.
            let heirs = Heirs {
                pager,
                batch: &mut batch,
                forked,
            };
            pager.read(
                &pager.space,
                messages,
                heirs.batch,
                &mut |layout, change| {
                    pager.note(layout, change);
                },
            )?;
        }
        if !pager.policy.waits() {
            return self.work(&mut batch);
        }
        if let Some(_working) = pager.readers.work() {
            return self.work(&mut batch);
        }
        // The policy may wait, on another handler, for an event that only this one can read. The accesses are
        // repeated, and another handler may be free then.
        if batch.has_faults() {
            drop(batch);
            let _ = poll(&mut [], Some(MOMENT));
        }
        Ok(())
    }

    /// Resolves the faults and refills the pool. The policy may wait here.
    fn work(&mut self, batch: &mut Batch<'_>) -> Result<(), PagerError> {
        self.resolve_all(batch)?;
        self.pager.refill_if_low();
        Ok(())
    }

    /// Resolves faults that were read together, with as few wake-ups as possible.
    fn resolve_all(&mut self, batch: &mut Batch<'_>) -> Result<(), PagerError> {
        let mut there = 0..0;
        let faults = batch.sorted();
        add(&self.pager.counters.faults, faults.len() as u64);
        for fault in faults {
            if there.contains(&fault.address) {
                continue;
            }
            let more = match self.resolve(*fault)? {
                Resolved::Woken | Resolved::Refused => continue,
                Resolved::Mapped(range) => range,
            };
            if more.start == there.end {
                there.end = more.end;
            } else {
                self.wake(there)?;
                there = more;
            }
        }
        self.wake(there)?;
        batch.all_are_woken();
        Ok(())
    }

    /// Wakes the threads that wait for a page in `range`, if it is not empty.
    fn wake(&self, range: Range<u64>) -> Result<(), PagerError> {
        if range.is_empty() {
            return Ok(());
        }
        let woken = self.pager.space.wake(range);
        woken.map_err(PagerError::call("UFFDIO_WAKE"))
    }
}

/// Passes on the children in a batch when it is dropped.
struct Heirs<'h, 's, 'f, P> {
    pager: &'h Pager<P>,
    batch: &'h mut Batch<'s>,
    forked: &'h mut (dyn FnMut(Child) + 'f),
}

impl<P> Drop for Heirs<'_, '_, '_, P> {
    fn drop(&mut self) {
        let Self {
            pager,
            batch,
            forked,
        } = self;
        while let Some(space) = batch.next_child() {
            add(&pager.counters.events, 1);
            forked(Child::new(space));
        }
    }
}

/// Pages that were discarded. The policy is called for all pieces, even if it panics at one.
struct Discarded<'p, P: Policy, I: Iterator<Item = Range<usize>>> {
    pager: &'p Pager<P>,
    pieces: I,
}

impl<P: Policy, I: Iterator<Item = Range<usize>>> Discarded<'_, P, I> {
    fn tell_all(&mut self) {
        for pages in self.pieces.by_ref() {
            self.pager.space.discards().note(pages.clone());
            self.pager.policy.discarded(pages);
        }
    }
}

impl<P: Policy, I: Iterator<Item = Range<usize>>> Drop for Discarded<'_, P, I> {
    fn drop(&mut self) {
        self.tell_all();
    }
}

impl<P: Policy> Pager<P> {
    /// [`Space::read`]. If the kernel has no free descriptor or memory, this waits a moment: a descriptor may
    /// be closed, and no other thread would read the event.
    pub(crate) fn read(
        &self,
        space: &Space,
        messages: &mut Messages<EVENTS>,
        batch: &mut Batch<'_>,
        changed: &mut dyn FnMut(&Layout, &Change),
    ) -> Result<(), PagerError> {
        match space.read(messages, batch, changed) {
            Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => {
                add(&self.counters.errors, 1);
                // A signal may shorten the wait.
                let _ = poll(&mut [], Some(MOMENT));
                Ok(())
            }
            result => result.map_err(PagerError::call("userfaultfd")),
        }
    }

    /// Handles a change of the region.
    pub(crate) fn note(&self, layout: &Layout, change: &Change) {
        add(&self.counters.events, 1);
        match change {
            Change::Removed(range) => {
                let pieces = layout.pages_in(range);
                Discarded {
                    pager: self,
                    pieces,
                }
                .tell_all();
            }
            // The kernel knows what is mapped where, so it copies pages from now on.
            Change::Moved { .. } | Change::Unmapped(_) => {
                self.moving.store(false, Ordering::SeqCst);
            }
        }
    }
}
