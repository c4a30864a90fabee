//! Resolves userfaultfd faults by a second entry for a frame, on a thread beside the one that faults.
//!
//! A demonstration of what the kernel does not keep account of: the frame has one mapping to it, and must
//! have one again before either place is unmapped. `tablewalk_pager` moves entries instead.

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

/// Leaf tables and level-2 tables that stay mapped: 32 MiB of memory with 4K pages.
type Tables = Cache<LiveMut, 16, 4>;

/// Resolves the faults of `region` with the page of `donors` that has the same place in it.
///
/// Dropping it undoes what must not outlive it: before that, nothing may be unmapped.
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
    /// Prepares tables to stay mapped; prints a line for each fault if `print` says so.
    ///
    /// # Errors
    ///
    /// Those of [`LiveMut::new`].
    ///
    /// # Safety
    ///
    /// It is dropped, not forgotten, while both mappings are as they were, and nobody discards or moves
    /// their pages before: a frame would be given to somebody else while one entry still maps it.
    pub(crate) unsafe fn new(
        region: &'a Mapping,
        donors: &'a Donors,
        print: bool,
    ) -> Result<Self, Error> {
        let live = LiveMut::new(0, Tables::SLOTS)?;
        // The source was made with the slots that the cache asks for.
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

    /// Faults seen, and those resolved by an entry.
    #[must_use]
    pub(crate) const fn counts(&self) -> (usize, usize) {
        (self.faults, self.entries)
    }

    /// Resolves faults until the other end of the pipe `stop` is closed.
    ///
    /// # Errors
    ///
    /// Those of the userfaultfd and of mapping tables. The faults that are left wait until the region is unregistered.
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
            // No table, or no page to be had: the kernel does it, and wakes.
            // SAFETY: a page of the region, which held zeros before anything.
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

    /// The physical address that `address` is mapped to now.
    fn va_to_pa(&mut self, address: VirtualAddress) -> Result<Option<PhysicalAddress>, LiveError> {
        Ok(self.tables.translate(address)?.physical())
    }

    /// Maps the page of `donor` at `fault` too; where it is in memory. `None` if there is no page, no
    /// table, or an entry at `fault` already.
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

    /// Puts `descriptor` into the entry of `address`; whether it was free.
    fn install(
        &mut self,
        address: VirtualAddress,
        descriptor: Descriptor,
    ) -> Result<bool, LiveError> {
        let Some(entry) = self.tables.entry_mut(address)? else {
            return Ok(false);
        };
        // SAFETY: the frame is the donors', whose contents are complete. Region and donors are
        // private anonymous memory with the same protection, and both stay until the handler is
        // dropped, which undoes aliases.
        Ok(unsafe { entry.install(descriptor) }.is_ok())
    }

    /// Takes out what was put in beside an entry that stays.
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
            // SAFETY: thread A is done with the region, and the frame stays with the donors.
            if let Ok(owed) = unsafe { entry.remove(original, fault) } {
                // Below, with all others.
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
