//! An address space whose faults are resolved: that of the pager, or that of a forked child.

use core::ops::Range;

use heapless::Vec;
use tablewalk_uapi::memory::{Protection, mprotect};
use tablewalk_uapi::userfault::UFFD_PAGEFAULT_FLAG_WRITE;
use tablewalk_uapi::{Errno, Mapping, process};

use crate::Delivery;
use crate::events::{Event, Messages, Userfault, Waking};
use crate::layout::{Layout, Place};
use crate::mutex::{Mutex, MutexGuard};
use crate::policy::{Policy, Refusal};
use crate::sync::mutant;

/// Events that are read together.
pub(crate) const EVENTS: usize = 64;

/// How often an ioctl is tried while another thread changes the address space. One that does so over and
/// over leaves short moments in between.
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
    /// The page is there, and whoever waited for it was woken.
    Page,
    /// There was one already, or there is no place for one any more. As [`Provided::Again`].
    There,
    /// Whoever waits is to be woken, and tries again.
    Again,
    /// There is no page, and never will be. Whoever waited was woken.
    Refused,
}

/// A userfaultfd, and where the pages are that it watches.
///
/// # What is in order
///
/// The kernel reports a change of the address space when it is done, so that faults at new addresses come
/// before the event that explains them. But from the change until the event was read, `UFFDIO_COPY` and
/// its kin fail with `EAGAIN`. So whoever reads events takes the lock, and lets it go when the layout has
/// changed; and whoever has the kernel make a page looks at the layout and makes it under the lock. Then
/// the page belongs to the address, or the kernel refuses, and the access is tried again.
#[derive(Debug)]
pub(crate) struct Space {
    uffd: Userfault,
    page_shift: u32,
    delivery: Delivery,
    layout: Mutex<Layout>,
}

impl Space {
    /// `uffd` does not block.
    pub(crate) fn new(
        uffd: Userfault,
        delivery: Delivery,
        layout: Layout,
        page_shift: u32,
    ) -> Self {
        Self {
            uffd,
            page_shift,
            delivery,
            layout: Mutex::new(layout),
        }
    }

    pub(crate) const fn uffd(&self) -> &Userfault {
        &self.uffd
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Layout> {
        self.layout.lock()
    }

    /// A batch to read into.
    pub(crate) const fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Reads what has come into an empty `batch`, and takes note of it; `changed` is told of each change, in
    /// order, under the lock. Nothing if another thread has read it.
    ///
    /// # Errors
    ///
    /// As read(2); with `EMFILE`, `ENFILE` and `ENOMEM` the kernel keeps the event of a fork, which needs a
    /// descriptor: it is to be read again.
    pub(crate) fn read(
        &self,
        messages: &mut Messages<EVENTS>,
        batch: &mut Batch<'_>,
        changed: &mut dyn FnMut(&Layout, &Change),
    ) -> Result<(), Errno> {
        let mut layout = self.lock();
        let events = loop {
            match self.uffd.events(messages) {
                Ok(events) => break events,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        };
        // Each has its owner before anything is done: a descriptor that nobody closes keeps a child waiting.
        let mut unread = Unread {
            events: events.collect::<Vec<_, EVENTS>>().into_iter(),
            batch,
            layout: &mut layout,
            changed,
        };
        unread.note_all();
        Ok(())
    }

    /// Has the kernel make the page that `fault` waits for, as `policy` says; with a copy of `scratch`.
    /// `parent` is where a child comes from.
    ///
    /// The policy is asked without the lock: it may wait for somebody who waits until an event is read.
    pub(crate) fn provide<P: Policy>(
        &self,
        policy: &P,
        fault: Fault,
        scratch: &mut Mapping,
        parent: Option<&Self>,
    ) -> Result<Provided, Errno> {
        let layout = self.lock();
        let length = 1 << self.page_shift;
        let (place, discards) = (layout.find(fault.address), layout.discards());
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
                return self
                    .make(|| unsafe { self.uffd.zeropage(fault.address, length, Waking::Wake) });
            }
            Place::Lost => return self.refuse(fault.address, parent.is_some()),
        };
        drop(layout);
        // SAFETY: the bytes of a mapping that is borrowed alone.
        let bytes =
            unsafe { core::slice::from_raw_parts_mut(scratch.as_ptr(), 1 << self.page_shift) };
        let filled = fill(policy, page, bytes);
        let layout = self.lock();
        if layout.find(fault.address) != place || layout.discards() != discards {
            // Something else belongs there now, or may.
            return Ok(Provided::Again);
        }
        match filled {
            // SAFETY: a page of the region, which holds what the policy says.
            Ok(()) => self.make(|| unsafe { self.uffd.copy(fault.address, bytes, Waking::Wake) }),
            Err(Refusal::Again) => Ok(again()),
            Err(Refusal::Never) => self.refuse(fault.address, parent.is_some()),
        }
    }

    /// What a child of this space gets at an address of which no event tells: `None` if it is zeros for
    /// sure. Where the parent has ever moved a part, the child may have been forked before the move and the
    /// layout copied after it, or the other way round.
    fn unknown_in_child(&self) -> Option<Refusal> {
        if self.is_changing() {
            return Some(Refusal::Again);
        }
        self.lock().was_moved().then_some(Refusal::Never)
    }

    /// Whether something was done to the address space of which no event was read yet.
    fn is_changing(&self) -> bool {
        // The kernel looks at that before it looks at the range.
        // SAFETY: no range at all, so no page is made.
        let nothing = unsafe { self.uffd.zeropage(0, 0, Waking::Wake) };
        nothing == Err(Errno::EAGAIN)
    }

    /// Makes an ioctl that makes a page.
    fn make(&self, mut ioctl: impl FnMut() -> Result<i64, Errno>) -> Result<Provided, Errno> {
        for attempt in 0..ATTEMPTS {
            match ioctl() {
                Ok(_) => return Ok(Provided::Page),
                // Another thread changes the address space, or has just been told that its event was read.
                Err(Errno::EAGAIN) if attempt % 8 == 7 => process::yield_now(),
                Err(Errno::EAGAIN) => core::hint::spin_loop(),
                // There is one already; or no place for it any more, which the access finds out.
                Err(Errno::EEXIST | Errno::ENOENT) => return Ok(Provided::There),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        // Its event is still to be read.
        Ok(Provided::Again)
    }

    /// Has accesses to the page at `address` end in a signal.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for a child before Linux 6.6: nobody changes the memory of another process.
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
            // The page may have been moved, and something else be there.
            return Ok(again());
        }
        let place = core::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0));
        // SAFETY: an address of this process, where the page is, unless somebody moves it just now, which
        // `Refusal::Never` warns of. There is no page, nor will there be one: nobody has read or written it.
        unsafe { mprotect(place, 1 << self.page_shift, Protection::NONE) }?;
        Ok(Provided::Again)
    }

    /// Has the kernel report nothing any more, as nobody reads it; whether that is so. Pages that are missing
    /// are zeros from then on. To close the descriptor is not enough: each child of this process that was
    /// forked meanwhile has it, too.
    ///
    /// # Safety
    ///
    /// Nobody relies on what missing pages hold.
    pub(crate) unsafe fn unregister(&self, is_child: bool) -> bool {
        // Where pieces are now. Children that nobody has served have zeros from now on.
        self.read_all();
        let mut is_done = true;
        self.lock().mapped(&mut |range| {
            let length = range.end - range.start;
            // SAFETY: the caller's promise.
            let done = unsafe { self.uffd.unregister_range(range.start, length) };
            is_done &= match done {
                Ok(()) => true,
                // It has ended.
                Err(Errno::ENOMEM) if is_child => true,
                // With signals nothing is reported but faults.
                Err(_) => self.delivery == Delivery::Signals,
            };
        });
        // Whoever has changed something meanwhile waits until that is read.
        self.read_all();
        is_done
    }

    /// Reads what there is to be read, and forgets it.
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

    /// Lets those go on that wait for a page in `range`.
    pub(crate) fn wake(&self, range: Range<u64>) -> Result<(), Errno> {
        self.uffd.wake(range.start, range.end - range.start)
    }
}

/// Another thread has to do something first.
fn again() -> Provided {
    process::yield_now();
    Provided::Again
}

/// Makes `call` until no signal interrupts it.
pub(crate) fn retry<R>(mut call: impl FnMut() -> Result<R, Errno>) -> Result<R, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Has `policy` write what `page` holds, and zeros behind it.
pub(crate) fn fill<P: Policy>(policy: &P, page: usize, bytes: &mut [u8]) -> Result<(), Refusal> {
    let filled = policy.fill(page, bytes)?;
    if let Some(rest) = bytes.get_mut(filled..) {
        rest.fill(0);
    }
    Ok(())
}

/// What was done to the address space.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// The pages of a range are discarded.
    Removed(Range<u64>),
    /// `length` bytes were moved.
    Moved { from: u64, to: u64, length: u64 },
    /// A range is not mapped any more.
    Unmapped(Range<u64>),
}

/// What was read together. Each fault is woken when it is dropped, if not before: whatever happens, an
/// access is tried again rather than waited for in vain.
#[derive(Debug)]
pub(crate) struct Batch<'s> {
    space: &'s Space,
    faults: Vec<Fault, EVENTS>,
    /// The layout at the first fork, and what was done from then on.
    before: Option<Layout>,
    told: Vec<Told, EVENTS>,
    /// Events that were read.
    read: usize,
}

/// Events that were read, and of which note is taken: of each, also where a policy panics at one.
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

/// Something that a child may have to know.
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

    /// Takes note of an event. There is room for as many as are read.
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
        changed(layout, &change);
    }

    /// Whether nothing was read.
    pub(crate) const fn is_empty(&self) -> bool {
        self.read == 0
    }

    pub(crate) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// The faults, in the order of their addresses.
    pub(crate) fn sorted(&mut self) -> &[Fault] {
        sort(&mut self.faults);
        &self.faults
    }

    /// Nobody waits any more.
    pub(crate) fn all_are_woken(&mut self) {
        self.faults.clear();
    }

    /// Calls `each` with the space of each forked child.
    pub(crate) fn hand_over(&mut self, each: &mut dyn FnMut(Space)) {
        let Some(mut layout) = self.before.take() else {
            return;
        };
        for told in core::mem::take(&mut self.told) {
            match told {
                Told::Fork(uffd) => {
                    let Space {
                        delivery,
                        page_shift,
                        ..
                    } = *self.space;
                    each(Space::new(uffd, delivery, layout.for_child(), page_shift));
                }
                Told::Change(change) => change.apply(&mut layout),
            }
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if mutant("batch: no wake when it is dropped") {
            return;
        }
        for fault in &self.faults {
            // There is nobody to tell, and nothing else to be done.
            let page = 1 << self.space.page_shift;
            let _ = self.space.wake(fault.address..fault.address + page);
        }
    }
}

impl Change {
    fn apply(&self, layout: &mut Layout) {
        match self {
            // The pages are missing again, where they are.
            Self::Removed(_) => layout.discarded(),
            Self::Moved { from, to, length } => layout.moved(*from, *to, *length),
            Self::Unmapped(range) => layout.unmapped(range),
        }
    }
}

/// Sorts faults by their addresses: few, and mostly in order. What the library has is larger than all of
/// this.
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
