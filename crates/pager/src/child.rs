//! Children that have inherited the region.

use tablewalk_uapi::file::OwnedFd;
use tablewalk_uapi::poll::{Events, PollFd, poll};
use tablewalk_uapi::userfault::{Event, Userfault, Waking};
use tablewalk_uapi::{Errno, Mapping, memory::Protection};

use crate::{Pager, PagerError, Policy};

impl<P: Policy> Pager<P> {
    /// Resolves the faults of a forked child until `ended`, its pidfd say, is readable or hung up. The
    /// kernel copies: entries are moved inside one process only. Children of the child are not served.
    ///
    /// To be called on a thread of its own, with what [`Worker::handle`](crate::Worker::handle) hands over;
    /// a child that nobody serves sees zeros, once its userfaultfd is dropped.
    ///
    /// # Errors
    ///
    /// [`PagerError::Call`].
    pub fn serve_child(&self, child: &Userfault, ended: &OwnedFd) -> Result<(), PagerError> {
        let size = self.page_size();
        let scratch =
            Mapping::reserve(size, Protection::READ_WRITE).map_err(PagerError::call("mmap"))?;
        loop {
            let mut fds = [
                PollFd::new(child.fd(), Events::READABLE),
                PollFd::new(ended, Events::READABLE),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(PagerError::Call("ppoll", errno)),
            }
            let [event, end] = fds.map(|fd| fd.events());
            if !end.is_empty() {
                return Ok(());
            }
            if event.is_empty() {
                continue;
            }
            match child.event() {
                Ok(Event::Pagefault { address, .. }) => {
                    let page = address & !(size as u64 - 1);
                    // SAFETY: this function's alone.
                    let bytes = unsafe { core::slice::from_raw_parts_mut(scratch.as_ptr(), size) };
                    match self.page_at(self.address(), page) {
                        Some(number) if !self.policy.zeros() => self.policy.fill(number, bytes),
                        _ => bytes.fill(0),
                    }
                    // SAFETY: what the policy says of a page that is missing, as in the parent.
                    match unsafe { child.copy(page, bytes, Waking::Wake) } {
                        Ok(_) | Err(Errno::EEXIST | Errno::ENOENT | Errno::EAGAIN) => {}
                        // It has ended meanwhile.
                        Err(Errno::ESRCH) => return Ok(()),
                        Err(errno) => return Err(PagerError::Call("UFFDIO_COPY", errno)),
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(PagerError::Call("userfaultfd", errno)),
            }
        }
    }
}
