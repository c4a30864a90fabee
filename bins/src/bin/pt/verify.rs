//! `pt verify`: compares every page with pagemap.

use core::fmt;

use tablewalk_proc::pagemap::{Pagemap, PagemapEntry};
use tablewalk_rt::{Count, ExitCode, println};
use tablewalk_walker::{
    Absent, Descriptor, Format, Found, FrameNumber, Kind, Level, Path, VirtualAddress, Visit, Walk,
};

use crate::Ended;
use crate::error::Error;
use crate::json::Json;
use crate::options::{Options, SourceKind};
use crate::progress::Progress;
use crate::report::vmas;
use crate::subject::{Source, Subject, read_maps};

/// Number of pagemap entries that are read at a time.
const CHUNK: usize = 512;
/// Maximum number of times that a page is read again before it counts as different, since the process may
/// run.
const TRIES: usize = 3;

/// The location of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Nowhere,
    In(FrameNumber),
    /// In memory that pagemap does not report: device memory, or a table that is mapped.
    Special(FrameNumber),
    /// Type and offset of a swap entry.
    Swap(u64, u64),
    /// A marker, with its type and offset: no page, and none in swap.
    Marker(u64, u64),
    /// Something else, with the type of a swap entry.
    Unknown(u64),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("none"),
            Self::In(frame) | Self::Special(frame) => write!(f, "frame {frame}"),
            Self::Swap(kind, offset) | Self::Marker(kind, offset) => {
                write!(f, "swap {kind} offset {offset:#x}")
            }
            Self::Unknown(kind) => write!(f, "swap {kind}"),
        }
    }
}

impl State {
    fn of_pagemap(entry: PagemapEntry) -> Self {
        if entry.is_present() {
            Self::In(FrameNumber(entry.frame()))
        } else if entry.is_swapped() {
            let (kind, offset) = entry.swap();
            Self::Swap(kind, offset)
        } else {
            Self::Nowhere
        }
    }

    /// Returns the location of page number `page` of `descriptor`.
    fn of_entry(format: &Format, level: Level, descriptor: Descriptor, page: u64) -> Self {
        let (geometry, linux) = (&format.geometry, &format.linux);
        let valid = descriptor.kind(geometry, level) != Kind::Invalid;
        let absent = linux.absent(descriptor, geometry, level);
        match absent {
            _ if valid => {}
            Absent::NoAccess { .. } => {}
            Absent::Empty => return Self::Nowhere,
            Absent::Unknown => return Self::Unknown(linux.swap.kind(descriptor).into()),
            Absent::Swap { offset, .. } => {
                return Self::Swap(linux.swap.kind(descriptor).into(), offset + page);
            }
            Absent::Migration { frame, .. }
            | Absent::HardwarePoison { frame }
            | Absent::Device { frame } => {
                return Self::Swap(linux.swap.kind(descriptor).into(), frame.0 + page);
            }
            Absent::Marker { marks } => {
                return Self::Marker(linux.swap.kind(descriptor).into(), marks);
            }
        }
        let first = descriptor.output_address(geometry, level).frame(geometry);
        let frame = FrameNumber(first.0 + page);
        if linux.is_special(descriptor) {
            Self::Special(frame)
        } else {
            Self::In(frame)
        }
    }

    /// Returns whether this location from the tables agrees with pagemap.
    fn agrees(self, pagemap: Self) -> bool {
        match self {
            Self::Special(frame) => pagemap == Self::Nowhere || pagemap == Self::In(frame),
            // pagemap reports it as swapped.
            Self::Marker(kind, marks) => pagemap == Self::Swap(kind, marks),
            Self::Unknown(kind) => matches!(pagemap, Self::Swap(other, _) if other == kind),
            other => other == pagemap,
        }
    }
}

/// The counts.
#[derive(Default)]
struct Tally {
    pages: u64,
    special: u64,
    swapped: u64,
    markers: u64,
    /// Pages that agreed at the second attempt.
    moved: u64,
    differences: u64,
    changed: u64,
}

pub(crate) const NO_PAGEMAP: Error =
    Error::Usage("verify: only a process has a pagemap to compare with");

#[inline(never)]
pub(crate) fn run(subject: &mut Subject, options: &Options) -> Result<Ended, Error> {
    let Some(pid) = subject.live_pid() else {
        return Err(NO_PAGEMAP);
    };
    let format = subject.format;
    let pagemap = Pagemap::open(pid, format.geometry.page_shift())
        .map_err(|errno| Error::Proc(pid, "pagemap", errno))?;
    let maps = read_maps(pid)?;
    let mut verifier = Verifier {
        pid,
        format,
        pagemap,
        options,
        kind: subject.source.kind(),
        second: None,
        walk: options.walk(&mut subject.source),
        next: None,
        compared: 0,
        tally: Tally::default(),
    };
    verifier.advance()?;
    let mut progress = Progress::start();
    for vma in vmas(maps).filter(|vma| format.geometry.contains(VirtualAddress(vma.start))) {
        let start = vma
            .start
            .max(options.range.0.align_down(format.geometry.page_shift()).0);
        let end = vma.end.min(options.range.1.0.saturating_add(1));
        if start < end {
            verifier.compare(start, end, &mut progress)?;
        }
    }
    verifier.skip_to(u64::MAX)?;
    let tally = verifier.tally;
    tally.report(options);
    let status = match tally.differences {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    };
    Ok((status, tally.changed))
}

impl Tally {
    fn report(&self, options: &Options) {
        let Self {
            pages,
            special,
            swapped,
            markers,
            moved,
            differences,
            ..
        } = *self;
        if options.json {
            Json::new("verified")
                .number("pages", pages)
                .number("special", special)
                .number("swapped", swapped)
                .number("markers", markers)
                .number("moved", moved)
                .number("differences", differences);
        } else {
            println!(
                "{}, {special} special, {swapped} swapped, {}, {moved} moved meanwhile: {}",
                Count(pages, "page", "pages"),
                Count(markers, "marker", "markers"),
                Count(differences, "difference", "differences")
            );
        }
    }
}

/// A walk that runs in parallel with pagemap, in address order.
struct Verifier<'a> {
    pid: i32,
    format: Format,
    pagemap: Pagemap,
    options: &'a Options,
    kind: Option<SourceKind>,
    /// A second source of the same tables, for reading a page again in the middle of the walk. Made when it
    /// is needed.
    second: Option<Source>,
    walk: Walk<'a, Source>,
    /// The next entry of the walk.
    next: Option<Found>,
    /// The address after the last page that was compared.
    compared: u64,
    tally: Tally,
}

impl Verifier<'_> {
    /// Goes to the next entry.
    fn advance(&mut self) -> Result<(), Error> {
        self.next = loop {
            match self.walk.next().transpose()? {
                None => break None,
                Some(Visit::Leaf(found) | Visit::NotValid(found)) => break Some(found),
                Some(Visit::Table(_)) => {}
                Some(Visit::Changed(_)) => self.tally.changed += 1,
            }
        };
        Ok(())
    }

    /// Compares the pages from `start` to `end`, which are in one mapping.
    fn compare(&mut self, start: u64, end: u64, progress: &mut Progress) -> Result<(), Error> {
        let size = self.format.geometry.page_size();
        let mut entries = [PagemapEntry::default(); CHUNK];
        let mut address = start;
        while address < end {
            progress.at(VirtualAddress(address));
            let wanted = usize::try_from((end - address).div_ceil(size)).unwrap_or(CHUNK);
            let chunk = entries.get_mut(..wanted.min(CHUNK)).unwrap_or_default();
            let read = self.pagemap.read(address, chunk);
            let read = read.map_err(|errno| Error::Proc(self.pid, "pagemap", errno))?;
            for &entry in entries.iter().take(read) {
                let state = self.expected(address)?;
                self.compare_page(VirtualAddress(address), state, entry)?;
                address += size;
                self.compared = address;
            }
            if read == 0 {
                // The end of the address space.
                break;
            }
        }
        Ok(())
    }

    /// Returns the entry of the walk for `address`.
    fn expected(&mut self, address: u64) -> Result<State, Error> {
        self.skip_to(address)?;
        let geometry = self.format.geometry;
        Ok(match self.next {
            Some(found) if found.address.0 <= address => {
                let page = (address - found.address.0) >> geometry.page_shift();
                State::of_entry(&self.format, found.level, found.descriptor, page)
            }
            _ => State::Nowhere,
        })
    }

    /// Advances to the first entry that ends after `address`. Entries that are passed without having been
    /// compared are in no mapping.
    fn skip_to(&mut self, address: u64) -> Result<(), Error> {
        let geometry = self.format.geometry;
        while let Some(found) = self.next
            && found.address.0 + geometry.entry_size(found.level) <= address
        {
            if found.address.0 >= self.compared {
                for page in 0..found.pages(&geometry) {
                    let place = found.address.wrapping_add(page << geometry.page_shift());
                    let state = State::of_entry(&self.format, found.level, found.descriptor, page);
                    self.compare_page(place, state, PagemapEntry::default())?;
                }
            }
            self.advance()?;
        }
        Ok(())
    }

    fn path(&mut self, address: VirtualAddress) -> Result<Path, Error> {
        let source = match self.second.take() {
            Some(source) => source,
            None => Source::of_process(self.pid, self.kind)?,
        };
        self.second.insert(source).path(address)
    }

    fn compare_page(
        &mut self,
        address: VirtualAddress,
        mut state: State,
        entry: PagemapEntry,
    ) -> Result<(), Error> {
        let mut witness = State::of_pagemap(entry);
        for _try in 0..TRIES {
            if state.agrees(witness) {
                break;
            }
            // One of the two was read before the page was mapped, unmapped or moved.
            let path = self.path(address)?;
            state = match path.steps().last() {
                Some(step) => {
                    let geometry = &self.format.geometry;
                    let start = address.align_down(geometry.level_shift(step.level));
                    let page = (address.0 - start.0) >> geometry.page_shift();
                    State::of_entry(&self.format, step.level, step.descriptor, page)
                }
                None => State::Nowhere,
            };
            let entry = self.pagemap.entry(address.0);
            let entry = entry.map_err(|errno| Error::Proc(self.pid, "pagemap", errno))?;
            witness = State::of_pagemap(entry);
            self.tally.moved += u64::from(state.agrees(witness));
        }
        match state {
            State::In(_) => self.tally.pages += 1,
            State::Special(_) => self.tally.special += 1,
            State::Swap(..) | State::Unknown(_) => self.tally.swapped += 1,
            State::Marker(..) => self.tally.markers += 1,
            State::Nowhere => {}
        }
        if !state.agrees(witness) {
            self.tally.differences += 1;
            if self.options.json {
                Json::new("difference")
                    .hex("address", address.0)
                    .text("tables", state)
                    .text("pagemap", witness);
            } else {
                println!("{address}: {state}, pagemap has {witness}");
            }
        }
        Ok(())
    }
}
