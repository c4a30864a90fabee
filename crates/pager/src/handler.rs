//! Faults as events, for threads beside those that fault.

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

/// Until an event is tried again that the kernel could not hand out, or faults are read that no handler was
/// free for.
const MOMENT: Duration = Duration::from_millis(1);

impl<P: Policy> Worker<'_, P> {
    /// Resolves faults until [`Pager::stop`]. Forked children are given to `forked`, which hands each to a
    /// thread that calls [`Pager::serve_child`], and returns soon: faults wait for it.
    ///
    /// Whatever ends it, an error or a panic of the policy too, the threads whose faults it has read try
    /// their accesses again: another handler hears of them, or the next one that is started.
    ///
    /// # Errors
    ///
    /// [`PagerError::Delivery`] for a pager with signals, [`PagerError::Forked`] in a child of the process
    /// that made the pager; else as [`Worker::settle`], and [`PagerError::Call`] where the kernel has no
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

    /// Reads what there is, and does it.
    fn handle_some(
        &mut self,
        messages: &mut Messages<EVENTS>,
        forked: &mut dyn FnMut(Child),
    ) -> Result<(), PagerError> {
        let pager = self.pager;
        let mut batch = pager.space.batch();
        {
            // Also where the policy panics: that must not cost a child its pages.
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
        // What the policy waits for elsewhere may be an event that nobody else reads. The accesses are made
        // again, and another handler may be free then.
        if batch.has_faults() {
            drop(batch);
            let _ = poll(&mut [], Some(MOMENT));
        }
        Ok(())
    }

    /// Does what may wait, where the policy does.
    fn work(&mut self, batch: &mut Batch<'_>) -> Result<(), PagerError> {
        self.resolve_all(batch)?;
        self.pager.refill_if_low();
        Ok(())
    }

    /// Resolves faults that were read together, and wakes as few times as possible.
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

    /// Lets those go on that wait for something in `range`, if it is not empty.
    fn wake(&self, range: Range<u64>) -> Result<(), PagerError> {
        if range.is_empty() {
            return Ok(());
        }
        let woken = self.pager.space.wake(range);
        woken.map_err(PagerError::call("UFFDIO_WAKE"))
    }
}

/// Hands over the children in a batch when it is dropped.
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
        batch.hand_over(&mut |space| {
            add(&pager.counters.events, 1);
            forked(Child::new(space, 1 << pager.page_shift));
        });
    }
}

impl<P: Policy> Pager<P> {
    /// [`Space::read`]. Where the kernel lacks a descriptor or memory, this waits a moment: somebody may
    /// close one, and nobody else would read the event.
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
                // A signal may make it shorter.
                let _ = poll(&mut [], Some(MOMENT));
                Ok(())
            }
            result => result.map_err(PagerError::call("userfaultfd")),
        }
    }

    /// Something was done to the region.
    fn note(&self, layout: &Layout, change: &Change) {
        add(&self.counters.events, 1);
        match change {
            Change::Removed(range) => {
                layout.pages_in(range, &mut |pages| {
                    // Nobody puts there what the policy has written before it hears of this.
                    self.came.claim_all(pages.clone());
                    self.policy.discarded(pages);
                });
            }
            // The kernel knows what is where, so it copies from now on.
            Change::Moved { .. } | Change::Unmapped(_) => {
                self.moving.store(false, Ordering::SeqCst);
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
