//! An address space whose faults are resolved: that of the pager, or that of a forked child.

use core::ops::Range;

use heapless::Vec;
use tablewalk_uapi::memory::{Protection, mprotect};
use tablewalk_uapi::userfault::UFFD_PAGEFAULT_FLAG_WRITE;
use tablewalk_uapi::{Errno, Mapping, process};

use crate::Delivery;
use crate::discards::Discards;
use crate::events::{Event, Messages, Userfault, Waking, poll};
use crate::handler::MOMENT;
use crate::layout::{Layout, Place};
use crate::mutex::{Mutex, MutexGuard};
use crate::owner::Owner;
use crate::policy::{Policy, Refusal};
use crate::sync::mutant;

/// Maximum number of events that are read together.
pub(crate) const EVENTS: usize = 64;

/// Maximum number of attempts at an ioctl while another thread changes the address space. Even a thread that
/// changes it without pause leaves short gaps.
const ATTEMPTS: usize = 64;

/// A thread waits for the page at `address`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) address: u64,
    pub(crate) write: bool,
}

/// What the kernel did for a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Provided {
    /// The page is present, and the threads that waited for it were woken.
    Page,
    /// A page was present already, or its address is unmapped. As [`Provided::Again`].
    There,
    /// The waiting threads must be woken, and repeat their accesses.
    Again,
    /// The page is refused for good. The waiting threads were woken.
    Refused,
}

/// A userfaultfd, and the addresses of the pages that it watches.
///
/// # Ordering
///
/// The kernel reports a change of the address space after it was made, so faults at new addresses can arrive
/// before the event that explains them. But from the change until the event was read, `UFFDIO_COPY` and the
/// similar ioctls fail with `EAGAIN`. So a thread that reads events holds the lock until it has updated the
/// layout, and a thread that installs a page holds it while it looks at the layout and makes the ioctl. Then
/// the page belongs to the address, or the kernel refuses, and the access is repeated.
#[derive(Debug)]
pub(crate) struct Space {
    uffd: Userfault,
    /// The process that has the pager.
    owner: Owner,
    page_shift: u32,
    delivery: Delivery,
    layout: Mutex<Layout>,
    discards: Discards,
}

impl Space {
    /// `uffd` does not block.
    pub(crate) fn new(
        uffd: Userfault,
        owner: Owner,
        delivery: Delivery,
        layout: Layout,
        discards: Discards,
        page_shift: u32,
    ) -> Self {
        Self {
            uffd,
            owner,
            page_shift,
            delivery,
            layout: Mutex::new(layout),
            discards,
        }
    }

    pub(crate) const fn uffd(&self) -> &Userfault {
        &self.uffd
    }

    pub(crate) const fn owner(&self) -> Owner {
        self.owner
    }

    /// Returns whether this process has the pager, and is not a child.
    pub(crate) fn is_owner(&self) -> bool {
        self.owner.is_here()
    }

    pub(crate) const fn discards(&self) -> &Discards {
        &self.discards
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Layout> {
        self.layout.lock()
    }

    /// Returns an empty batch.
    pub(crate) const fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Reads pending events into an empty `batch` and updates the layout. Calls `changed` with each change,
    /// in order, under the lock. The batch stays empty if another thread has read the events.
    ///
    /// # Errors
    ///
    /// As read(2). After `EMFILE`, `ENFILE` and `ENOMEM` the kernel still has the event of a fork, which
    /// needs a descriptor: read it again.
    pub(crate) fn read(
        &self,
        messages: &mut Messages<EVENTS>,
        batch: &mut Batch<'_>,
        changed: &mut dyn FnMut(&Layout, &Change),
    ) -> Result<(), Errno> {
        let _installs = self.discards.reading();
        let mut layout = self.lock();
        let events = loop {
            match self.uffd.events(messages) {
                Ok(events) => break events,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        };
        // Each descriptor gets an owner before anything else is done: a child would wait for ever for a
        // descriptor that is not closed.
        let mut unread = Unread {
            events: events.collect::<Vec<_, EVENTS>>().into_iter(),
            batch,
            layout: &mut layout,
            changed,
        };
        unread.note_all();
        Ok(())
    }

    /// Has the kernel make the page of `fault` with the contents that `policy` writes to `scratch`. `parent`
    /// is the space from which a child was forked.
    ///
    /// Calls the policy without the lock, since it may wait for a thread that waits until an event is read.
    pub(crate) fn provide<P: Policy>(
        &self,
        policy: &P,
        fault: Fault,
        scratch: &mut Mapping,
        parent: Option<&Self>,
    ) -> Result<Provided, Errno> {
        let layout = self.lock();
        let length = 1 << self.page_shift;
        let (place, seen) = (layout.find(fault.address), self.discards.seen());
        let page = match place {
            Place::Page(page) if !policy.zeros() => page,
            Place::New if let Some(unknown) = parent.and_then(Self::unknown_in_child) => {
                return match unknown {
                    Refusal::Again => Ok(again()),
                    Refusal::Never => self.refuse(fault.address, true),
                };
            }
            Place::Page(_) | Place::New => {
                // SAFETY: a page that holds zeros, as the policy says, or mremap(2).
                let made = self
                    .make(|| unsafe { self.uffd.zeropage(fault.address, length, Waking::Wake) })?;
                if let (Place::Page(page), Provided::Page) = (place, made) {
                    self.discards.made(page);
                }
                return Ok(made);
            }
            Place::Lost => return self.refuse(fault.address, parent.is_some()),
        };
        drop(layout);
        // SAFETY: the bytes of a mapping that is borrowed alone.
        let bytes =
            unsafe { core::slice::from_raw_parts_mut(scratch.as_ptr(), 1 << self.page_shift) };
        let filled = fill(policy, page, bytes);
        let layout = self.lock();
        if layout.find(fault.address) != place || self.discards.seen() != seen {
            // Another page belongs there now, or may.
            return Ok(Provided::Again);
        }
        match filled {
            Ok(()) => {
                // SAFETY: a page of the region, which holds what the policy says.
                let made =
                    self.make(|| unsafe { self.uffd.copy(fault.address, bytes, Waking::Wake) })?;
                if made == Provided::Page {
                    self.discards.made(page);
                }
                Ok(made)
            }
            Err(Refusal::Again) => Ok(again()),
            Err(Refusal::Never) => self.refuse(fault.address, parent.is_some()),
        }
    }

    /// What a child of this space gets at an address that no event explains: `None` if it is certainly zeros.
    /// If the parent has ever moved a part, the child may have been forked before the move and the layout
    /// copied after it, or vice versa.
    fn unknown_in_child(&self) -> Option<Refusal> {
        if self.is_changing() {
            return Some(Refusal::Again);
        }
        self.lock().was_moved().then_some(Refusal::Never)
    }

    /// Returns whether the address space was changed and the event was not read yet.
    fn is_changing(&self) -> bool {
        // The kernel checks this before it checks the range. SAFETY: no range at all, so no page is made.
        let nothing = unsafe { self.uffd.zeropage(0, 0, Waking::Wake) };
        nothing == Err(Errno::EAGAIN)
    }

    /// Calls an ioctl that makes a page.
    fn make(&self, mut ioctl: impl FnMut() -> Result<i64, Errno>) -> Result<Provided, Errno> {
        for attempt in 0..ATTEMPTS {
            match ioctl() {
                Ok(_) => return Ok(Provided::Page),
                // Another thread changes the address space, or was just woken after its event was read.
                Err(Errno::EAGAIN) if attempt % 8 == 7 => process::yield_now(),
                Err(Errno::EAGAIN) => core::hint::spin_loop(),
                // A page is present already; or its address is unmapped, which the repeated access finds out.
                Err(Errno::EEXIST | Errno::ENOENT) => return Ok(Provided::There),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        // The event is still to be read.
        Ok(Provided::Again)
    }

    /// Makes accesses to the page at `address` end in a signal.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for a child before Linux 6.6, which has no call for another process's memory.
    fn refuse(&self, address: u64, is_child: bool) -> Result<Provided, Errno> {
        if self.delivery == Delivery::Signals {
            // It has one.
            return Ok(Provided::Refused);
        }
        match self.make(|| self.uffd.poison(address, 1 << self.page_shift)) {
            Ok(Provided::Page) => return Ok(Provided::Refused),
            // Before Linux 6.6.
            Err(Errno::EINVAL) if is_child => return Err(Errno::EOPNOTSUPP),
            Err(Errno::EINVAL) => {}
            result => return result,
        }
        if self.is_changing() {
            // The page may have been moved, and another one be there.
            return Ok(again());
        }
        let place = core::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0));
        // SAFETY: an address of this process, where the page is, unless somebody moves it just now, which
        // `Refusal::Never` warns of. There is no page, nor will there be one: nobody has read or written it.
        unsafe { mprotect(place, 1 << self.page_shift, Protection::NONE) }?;
        Ok(Provided::Again)
    }

    /// Unregisters the memory, so that the kernel reports no more events. Returns whether that succeeded.
    /// Missing pages are zeros from then on. Closing the descriptor is not enough: children of this process
    /// that were forked in the meantime have it, too.
    ///
    /// # Safety
    ///
    /// No code relies on the contents of missing pages.
    pub(crate) unsafe fn unregister(&self, is_child: bool) -> bool {
        loop {
            // The current addresses of the pieces. Missing pages of children that were not served are zeros
            // from now on.
            self.read_all();
            // SAFETY: the caller's promise.
            let is_done = unsafe { self.unregister_pieces(is_child) };
            // A thread that has changed the address space in the meantime waits until the event is read, or
            // is about to; it may have moved a piece, or forked.
            if !self.is_changing() {
                return is_done;
            }
            // It continues, or a descriptor is closed, which the event of a fork needs.
            let _ = poll(&mut [], Some(MOMENT));
        }
    }

    /// Unregisters the pieces at their current addresses. Returns whether that succeeded.
    ///
    /// # Safety
    ///
    /// As [`Space::unregister`].
    unsafe fn unregister_pieces(&self, is_child: bool) -> bool {
        let mut is_done = true;
        let layout = self.lock();
        layout.left_behind(&mut |range| {
            let length = range.end - range.start;
            // It fails where nothing was left behind. SAFETY: the caller's promise; there are zeros.
            let _ = unsafe { self.uffd.unregister_range(range.start, length) };
        });
        layout.mapped(&mut |range| {
            let length = range.end - range.start;
            // SAFETY: the caller's promise.
            let done = unsafe { self.uffd.unregister_range(range.start, length) };
            is_done &= match done {
                Ok(()) => true,
                // It has ended.
                Err(Errno::ENOMEM) if is_child => true,
                // With signals only faults are reported.
                Err(_) => self.delivery == Delivery::Signals,
            };
        });
        is_done
    }

    /// Reads and drops all pending events.
    fn read_all(&self) {
        let mut messages = Messages::<EVENTS>::new();
        loop {
            let mut batch = self.batch();
            let read = self.read(&mut messages, &mut batch, &mut |_, _| {});
            if read.is_err() || batch.is_empty() {
                break;
            }
        }
    }

    /// Wakes the threads that wait for a page in `range`.
    pub(crate) fn wake(&self, range: Range<u64>) -> Result<(), Errno> {
        self.uffd.wake(range.start, range.end - range.start)
    }
}

/// Gives the CPU to another thread, which has to act first.
fn again() -> Provided {
    process::yield_now();
    Provided::Again
}

/// Repeats `call` until no signal interrupts it.
pub(crate) fn retry<R>(mut call: impl FnMut() -> Result<R, Errno>) -> Result<R, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Has `policy` write the contents of `page`, and fills the rest with zeros.
pub(crate) fn fill<P: Policy>(policy: &P, page: usize, bytes: &mut [u8]) -> Result<(), Refusal> {
    let filled = policy.fill(page, bytes)?;
    if let Some(rest) = bytes.get_mut(filled..) {
        rest.fill(0);
    }
    Ok(())
}

/// A change of the address space.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A range was discarded.
    Removed(Range<u64>),
    /// `length` bytes were moved.
    Moved { from: u64, to: u64, length: u64 },
    /// A range was unmapped.
    Unmapped(Range<u64>),
}

/// Events that were read together. Dropping it wakes all faults that were not woken before, so that their
/// accesses are repeated, and unregisters the children that nobody has: none of them waits for ever.
#[derive(Debug)]
pub(crate) struct Batch<'s> {
    space: &'s Space,
    faults: Vec<Fault, EVENTS>,
    /// The layout at the first fork, and the changes after it.
    before: Option<Layout>,
    told: Vec<Told, EVENTS>,
    /// Events that were read.
    read: usize,
}

/// Events that were read and are being recorded: all of them, even if a policy panics at one.
struct Unread<'b, 's, 'c> {
    events: heapless::vec::IntoIter<Event, EVENTS, usize>,
    batch: &'b mut Batch<'s>,
    layout: &'b mut Layout,
    changed: &'b mut (dyn FnMut(&Layout, &Change) + 'c),
}

impl Unread<'_, '_, '_> {
    fn note_all(&mut self) {
        for event in self.events.by_ref() {
            self.batch.note(event, self.layout, self.changed);
        }
    }
}

impl Drop for Unread<'_, '_, '_> {
    fn drop(&mut self) {
        self.note_all();
    }
}

/// A change that a child may have to apply.
#[derive(Debug)]
enum Told {
    Fork(Userfault),
    Change(Change),
}

impl<'s> Batch<'s> {
    const fn new(space: &'s Space) -> Self {
        Self {
            space,
            faults: Vec::new(),
            before: None,
            told: Vec::new(),
            read: 0,
        }
    }

    /// Records an event. There is room for as many as are read.
    fn note(
        &mut self,
        event: Event,
        layout: &mut Layout,
        changed: &mut dyn FnMut(&Layout, &Change),
    ) {
        self.read += 1;
        let change = match event {
            Event::Pagefault { address, flags, .. } => {
                let page = (1 << self.space.page_shift) - 1;
                let _room = self.faults.push(Fault {
                    address: address & !page,
                    write: flags & u64::from(UFFD_PAGEFAULT_FLAG_WRITE) != 0,
                });
                return;
            }
            Event::Fork(uffd) => {
                self.before.get_or_insert_with(|| layout.clone());
                let _room = self.told.push(Told::Fork(uffd));
                return;
            }
            Event::Remove(range) => Change::Removed(range),
            Event::Remap { from, to, length } => Change::Moved { from, to, length },
            Event::Unmap(range) => Change::Unmapped(range),
            Event::Other(_) => return,
        };
        change.apply(layout);
        if self.before.is_some() {
            let _room = self.told.push(Told::Change(change.clone()));
        }
        // Last: it may panic.
        let _counted = matches!(change, Change::Removed(_)).then(|| self.space.discards.count());
        changed(layout, &change);
    }

    /// Returns whether no event was read.
    pub(crate) const fn is_empty(&self) -> bool {
        self.read == 0
    }

    pub(crate) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Returns the faults, sorted by address.
    pub(crate) fn sorted(&mut self) -> &[Fault] {
        sort(&mut self.faults);
        &self.faults
    }

    /// Forgets the faults: no thread waits any more.
    pub(crate) fn all_are_woken(&mut self) {
        self.faults.clear();
    }

    /// Returns the space of the next forked child, which belongs to the caller then.
    pub(crate) fn next_child(&mut self) -> Option<Space> {
        let layout = self.before.as_mut()?;
        while !self.told.is_empty() {
            match self.told.remove(0) {
                Told::Fork(uffd) => {
                    return Some(Space::new(
                        uffd,
                        self.space.owner,
                        self.space.delivery,
                        layout.for_child(),
                        Discards::unheard(),
                        self.space.page_shift,
                    ));
                }
                Told::Change(change) => change.apply(layout),
            }
        }
        None
    }

    /// Unregisters the children that nobody has: their missing pages are zeros.
    pub(crate) fn release_children(&mut self) {
        while let Some(child) = self.next_child() {
            // SAFETY: nobody will serve it, as documented.
            unsafe { child.unregister(true) };
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if mutant("batch: no wake when it is dropped") {
            return;
        }
        // A policy may have forked.
        if !self.space.is_owner() {
            return;
        }
        for fault in &self.faults {
            // The error has no receiver, and nothing else can be done.
            let page = 1 << self.space.page_shift;
            let _ = self.space.wake(fault.address..fault.address + page);
        }
        self.release_children();
    }
}

impl Change {
    fn apply(&self, layout: &mut Layout) {
        match self {
            // The pages are missing again, where they are.
            Self::Removed(_) => {}
            Self::Moved { from, to, length } => layout.moved(*from, *to, *length),
            Self::Unmapped(range) => layout.unmapped(range),
        }
    }
}

/// Sorts faults by address: there are few, and mostly in order. The sort of the standard library is larger
/// than all of this module.
fn sort(faults: &mut [Fault]) {
    for end in 1..faults.len() {
        for place in (1..=end).rev() {
            let Some([before, after]) = faults.get_mut(place - 1..=place) else {
                return;
            };
            if before.address <= after.address {
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
    fn faults_are_sorted_by_address() {
        let mut faults = [5, 1, 4, 1, 9, 0].map(|address| Fault {
            address,
            write: false,
        });
        sort(&mut faults);
        assert_eq!(faults.map(|fault| fault.address), [0, 1, 1, 4, 5, 9]);
        sort(&mut []);
    }
}
