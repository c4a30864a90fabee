//! Resolves userfaultfd faults by a second entry for a frame, on a thread beside the faulting one.
//!
//! This demonstrates an entry that the kernel does not account for: the frame's map count stays 1, so one of
//! the two entries must be removed before either mapping is unmapped. `tablewalk_pager` moves entries
//! instead.

#![expect(unsafe_code, reason = "writes page-table entries")]

use tablewalk_live::{LiveError, LiveMut};
use tablewalk_rt::{eprintln, println};
use tablewalk_uapi::file::OwnedFd;
use tablewalk_uapi::poll::{Events, PollFd, poll};
use tablewalk_uapi::userfault::{Event, Userfault, Waking};
use tablewalk_uapi::{Errno, Mapping};
use tablewalk_walker::{Cache, Descriptor, Geometry, PhysicalAddress, VirtualAddress};

use crate::donors::{Donors, flush_mapping};
use tablewalk_testkit::error::Error;

/// Leaf tables and level-2 tables that stay mapped, for 32 MiB of memory with 4K pages.
type Tables = Cache<LiveMut, 16, 4>;

/// Resolves each fault in `region` with the page at the same offset in `donors`.
///
/// Dropping it removes the second entries. Nothing may be unmapped before.
#[derive(Debug)]
pub(crate) struct Handler<'a> {
    tables: Tables,
    region: &'a Mapping,
    donors: &'a Donors,
    print: bool,
    faults: usize,
    entries: usize,
}

impl<'a> Handler<'a> {
    /// Prepares the cache of mapped tables. Prints a line for each fault if `print` is set.
    ///
    /// # Errors
    ///
    /// The errors of [`LiveMut::new`].
    ///
    /// # Safety
    ///
    /// The value is dropped, not forgotten, while both mappings are unchanged, and nobody discards or moves
    /// their pages before that: a frame could be reused while an entry still maps it.
    pub(crate) unsafe fn new(
        region: &'a Mapping,
        donors: &'a Donors,
        print: bool,
    ) -> Result<Self, Error> {
        let live = LiveMut::new(0, Tables::SLOTS)?;
        // The source has as many slots as the cache asks for.
        let tables = Cache::new(live).map_err(|_| Error::Call("cache", Errno::ENOMEM))?;
        Ok(Self {
            tables,
            region,
            donors,
            print,
            faults: 0,
            entries: 0,
        })
    }

    /// Returns the number of faults seen, and of faults resolved by an entry.
    #[must_use]
    pub(crate) const fn counts(&self) -> (usize, usize) {
        (self.faults, self.entries)
    }

    /// Resolves faults until the other end of the pipe `stop` is closed.
    ///
    /// # Errors
    ///
    /// The errors of the userfaultfd and of mapping tables. Threads whose faults are still unresolved wait
    /// until the region is unregistered.
    pub(crate) fn run(&mut self, uffd: &Userfault, stop: &OwnedFd) -> Result<(), Error> {
        loop {
            let mut fds = [
                PollFd::new(uffd.fd(), Events::READABLE),
                PollFd::new(stop, Events::READABLE),
            ];
            match poll(&mut fds, None) {
                Err(Errno::EINTR) => continue,
                result => result.map_err(Error::call("ppoll"))?,
            };
            let [fault, stopped] = fds.map(|fd| fd.events());
            if fault.intersects(Events::READABLE) {
                self.handle(uffd)?;
            } else if !stopped.is_empty() {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, uffd: &Userfault) -> Result<(), Error> {
        let address = match uffd.event() {
            Ok(Event::Pagefault { address, .. }) => address,
            Ok(_) | Err(Errno::EAGAIN) => return Ok(()),
            Err(errno) => return Err(Error::Call("userfaultfd", errno)),
        };
        let page_size = self.tables.geometry().page_size();
        let fault = VirtualAddress(address & !(page_size - 1));
        let offset = fault.0 - self.region.address();
        let donor = VirtualAddress(self.donors.mapping().address() + offset);
        self.faults += 1;
        let installed = self.alias_entry(donor, fault)?;
        match installed {
            Some(physical) => {
                self.entries += 1;
                uffd.wake(fault.0, page_size)
                    .map_err(Error::call("UFFDIO_WAKE"))?;
                if self.print {
                    println!("fault at {address:#x}: page {physical} of donor {donor}, by alias");
                }
            }
            // No table or no donor page: the kernel resolves the fault and wakes the thread.
            // SAFETY: a page of the region, which had never been written.
            None => match unsafe { uffd.zeropage(fault.0, page_size, Waking::Wake) } {
                Ok(_) => {}
                Err(Errno::EEXIST) => {
                    uffd.wake(fault.0, page_size)
                        .map_err(Error::call("UFFDIO_WAKE"))?;
                }
                Err(errno) => return Err(Error::Call("UFFDIO_ZEROPAGE", errno)),
            },
        }
        Ok(())
    }

    /// Translates `address` to the physical address that it is mapped to now.
    fn va_to_pa(&mut self, address: VirtualAddress) -> Result<Option<PhysicalAddress>, LiveError> {
        Ok(self.tables.translate(address)?.physical())
    }

    /// Maps the page of `donor` also at `fault`. Returns its physical address, or `None` if there is no page,
    /// no table, or an entry at `fault` already.
    fn alias_entry(
        &mut self,
        donor: VirtualAddress,
        fault: VirtualAddress,
    ) -> Result<Option<PhysicalAddress>, LiveError> {
        let Some(physical) = self.va_to_pa(donor)? else {
            return Ok(None);
        };
        let Some(donor_entry) = self.tables.entry_mut(donor)? else {
            return Ok(None);
        };
        let descriptor = donor_entry.load();
        Ok(self.install(fault, descriptor)?.then_some(physical))
    }

    /// Writes `descriptor` to the entry of `address`. Returns whether the entry was free.
    fn install(
        &mut self,
        address: VirtualAddress,
        descriptor: Descriptor,
    ) -> Result<bool, LiveError> {
        let Some(entry) = self.tables.entry_mut(address)? else {
            return Ok(false);
        };
        // SAFETY: the frame belongs to the donors, and its contents are complete. Region and donors are
        // private anonymous memory with the same protection, and both stay until the handler is dropped,
        // which removes the second entries.
        Ok(unsafe { entry.install(descriptor) }.is_ok())
    }

    /// Removes the second entries.
    fn undo_aliases(&mut self) -> Result<(), LiveError> {
        let geometry: Geometry = *self.tables.geometry();
        let step = 1 << geometry.page_shift();
        for offset in (0..self.region.size() as u64).step_by(step) {
            let address = |mapping: &Mapping| VirtualAddress(mapping.address() + offset);
            let (donor, fault) = (address(self.donors.mapping()), address(self.region));
            let Some(original) = self.tables.entry_mut(donor)?.map(|entry| entry.load()) else {
                continue;
            };
            let Some(entry) = self.tables.entry_mut(fault)? else {
                continue;
            };
            // SAFETY: thread A no longer uses the region, and the donors keep the frame.
            if let Ok(owed) = unsafe { entry.remove(original, fault) } {
                // Its TLB entry is invalidated below, with all others.
                let _later = owed.address();
            }
        }
        flush_mapping(&geometry, self.region)
    }
}

impl Drop for Handler<'_> {
    fn drop(&mut self) {
        let undone = self.undo_aliases();
        if let Err(error) = undone {
            eprintln!("uffd: {error}");
        }
    }
}
