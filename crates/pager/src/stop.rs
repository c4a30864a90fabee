//! Stops handlers.

use tablewalk_uapi::Errno;

use crate::events::{OwnedFd, pipe_without_waiting, read, write};
use crate::sync::{AtomicU64, Ordering, mutant};

/// The number of handlers that should end, and a descriptor that is readable while it is not 0. A pipe, since
/// small kernels have no eventfd.
#[derive(Debug)]
pub(crate) struct Stops {
    count: AtomicU64,
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Stops {
    pub(crate) fn new() -> Result<Self, Errno> {
        let (reader, writer) = pipe_without_waiting()?;
        Ok(Self {
            count: AtomicU64::new(0),
            reader,
            writer,
        })
    }

    /// The descriptor to wait for. It may be readable although the number is 0.
    pub(crate) const fn fd(&self) -> &OwnedFd {
        &self.reader
    }

    /// Adds to the number of handlers that should end.
    pub(crate) fn add(&self, count: u64) {
        if count != 0 {
            self.count.fetch_add(count, Ordering::SeqCst);
            self.make_readable();
        }
    }

    /// Returns whether the caller should end, and counts it.
    pub(crate) fn take(&self) -> bool {
        loop {
            let fewer = u64::from(!mutant("stop: one ends all"));
            let one_fewer = |count: u64| (count != 0).then(|| count - fewer);
            let taken = self
                .count
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_fewer);
            if taken.is_ok() {
                return true;
            }
            // The pipe is drained, so that handlers do not wake up for nothing.
            while matches!(read(&self.reader, &mut [0; 64]), Ok(_) | Err(Errno::EINTR)) {}
            if mutant("stop: no second look") || self.count.load(Ordering::SeqCst) == 0 {
                return false;
            }
            // Another stop was counted in the meantime; the byte that was read may belong to it.
            self.make_readable();
        }
    }

    fn make_readable(&self) {
        // A pipe that is full is readable.
        while write(&self.writer, &[0]) == Err(Errno::EINTR) {}
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use tablewalk_uapi::poll::{Events, PollFd, poll};

    use super::*;

    fn is_readable(stops: &Stops) -> bool {
        let fd = PollFd::new(stops.fd(), Events::READABLE);
        poll(&mut [fd], Some(core::time::Duration::ZERO)) == Ok(1)
    }

    #[test]
    fn as_many_end_as_were_told() {
        let stops = Stops::new().unwrap();
        assert!(!stops.take());
        stops.add(2);
        stops.add(1);
        for _ in 0..3 {
            assert!(is_readable(&stops) && stops.take());
        }
        assert!(!stops.take());
        assert!(!is_readable(&stops));
        stops.add(0);
        assert!(!is_readable(&stops));
    }

    #[test]
    fn there_is_no_limit() {
        let stops = Stops::new().unwrap();
        for _ in 0..100_000 {
            stops.add(1);
        }
        let taken = (0..100_001).filter(|_| stops.take()).count();
        assert_eq!(taken, 100_000);
    }
}
