//! Forked children that inherited the region.

use tablewalk_uapi::file::OwnedFd;
use tablewalk_uapi::{Errno, Mapping, memory::Protection};

use crate::events::{Events, Messages, PollFd, poll};
use crate::space::{Batch, EVENTS, Provided, Space, retry};
use crate::{Pager, PagerError, Policy};

/// A forked child whose faults wait for [`Pager::serve_child`].
///
/// After it is dropped, missing pages of the child are zeros, and the child waits for no page. In a process
/// that was forked later, dropping it does nothing.
#[derive(Debug)]
pub struct Child(Space);

impl Child {
    pub(crate) const fn new(space: Space) -> Self {
        Self(space)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.0.is_owner() {
            // SAFETY: nobody serves the child any more, as documented.
            unsafe { self.0.unregister(true) };
        }
    }
}

impl<P: Policy> Pager<P> {
    /// Resolves the faults of a forked child until `ended` (for example its pidfd) is readable or hung up.
    /// The kernel copies the pages, since entries can be moved only inside one process. Children of the child
    /// are not served: their missing pages are zeros.
    ///
    /// Call it on a separate thread, with the [`Child`] that [`Worker::handle`](crate::Worker::handle) passes
    /// on. The child may discard, move and unmap pages as the parent may, but [`Policy::discarded`] is not
    /// called for it. The policy is asked for the contents of a missing page when the child touches it, not
    /// when the child is forked: if the contents change with time, or with what the parent discards, the
    /// child sees these changes until it has the page.
    ///
    /// # Errors
    ///
    /// [`PagerError::Call`]: `ENODEV` if `ended` is not an open descriptor; before Linux 6.6 `EOPNOTSUPP` if
    /// a page is refused ([`Refusal::Never`](crate::Refusal::Never)): the child waits for it until `child` is
    /// dropped, so kill the child first. [`PagerError::Forked`] in a child of the process that made the
    /// pager.
    pub fn serve_child(&self, child: &Child, ended: &OwnedFd) -> Result<(), PagerError> {
        self.check_owner()?;
        let mut scratch = Mapping::reserve(self.page_size(), Protection::READ_WRITE)
            .map_err(PagerError::call("mmap"))?;
        let mut messages = Messages::<EVENTS>::new();
        loop {
            let mut fds = [
                PollFd::new(child.0.uffd().fd(), Events::READABLE),
                PollFd::new(ended, Events::READABLE),
            ];
            retry(|| poll(&mut fds, None)).map_err(PagerError::call("ppoll"))?;
            let [event, end] = fds.map(|fd| fd.events());
            if end.intersects(Events::INVALID) {
                return Err(PagerError::Call("ppoll", Errno::ENODEV));
            }
            if !end.is_empty() {
                return Ok(());
            }
            if event.is_empty() {
                continue;
            }
            let mut batch = child.0.batch();
            self.read(&child.0, &mut messages, &mut batch, &mut |_, _| {})?;
            // Before the policy may wait: a fork in the meantime would copy their descriptors.
            batch.release_children();
            match self.provide_all(&child.0, batch, &mut scratch) {
                // It has ended meanwhile.
                Err(Errno::ESRCH | Errno::ENOSPC) => return Ok(()),
                result => result.map_err(PagerError::call("UFFDIO_COPY"))?,
            }
        }
    }

    fn provide_all(
        &self,
        space: &Space,
        mut batch: Batch<'_>,
        scratch: &mut Mapping,
    ) -> Result<(), Errno> {
        for fault in batch.sorted() {
            let provided = space.provide(&self.policy, *fault, scratch, Some(&self.space))?;
            if matches!(provided, Provided::Again | Provided::There) {
                space.wake(fault.address..fault.address + self.page_size() as u64)?;
            }
        }
        batch.all_are_woken();
        Ok(())
    }
}
