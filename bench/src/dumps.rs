//! The cost of finding all pages of a process: a walk of its tables compared with pagemap.

#![expect(unsafe_code, reason = "touches memory of a child that is all its own")]

use core::hint::black_box;

use tablewalk_live::Live;
use tablewalk_proc::path::proc_path;
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{ExitCode, counter, println};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::file::{self, O_RDONLY};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::{Errno, Mapping, signal};
use tablewalk_walker::{Level, Merge, Runs, TableSource, TableVisit, VirtualAddress, Visit, Walk};

use crate::Ratio;

/// How the process has touched its memory.
#[derive(Clone, Copy)]
enum Touch {
    /// Every page written, in order.
    Written,
    /// Every page written, in an order that gives neighbours distant frames.
    Scattered,
    /// Every page read, so that all map the shared zero page.
    Read,
    /// One page read for each level-3 table.
    Sparse,
    /// Written, in blocks.
    Blocks,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The cases: how memory is touched, and its size in bytes.
const DUMPS: [(&str, Touch, u64); 12] = [
    ("written", Touch::Written, MIB),
    ("written", Touch::Written, 32 * MIB),
    ("written", Touch::Written, GIB),
    ("written, scattered", Touch::Scattered, GIB),
    ("written, blocks", Touch::Blocks, GIB),
    ("read", Touch::Read, MIB),
    ("read", Touch::Read, 32 * MIB),
    ("read", Touch::Read, GIB),
    ("read", Touch::Read, 16 * GIB),
    ("one page of a table", Touch::Sparse, 32 * MIB),
    ("one page of a table", Touch::Sparse, GIB),
    ("one page of a table", Touch::Sparse, 16 * GIB),
];

/// Level-3 tables that stay mapped: enough for 16 GiB.
const BATCH_SLOTS: usize = 8192 + 512;

/// Number of pagemap entries to read at once.
const ENTRIES: usize = 4096;

pub(crate) fn measure(page_size: u64) -> Result<(), Error> {
    println!("dump of a process, ticks per page; ratios to pagemap, {ENTRIES} entries at once");
    println!("                       MiB    first    again each page  pagemap   ratios");
    for (name, touch, size) in DUMPS {
        let target = Target::new(touch, size, page_size)?;
        let mut live = Live::with_batch(target.child.pid(), 4, BATCH_SLOTS)?;
        let first = dump(&mut live, &target)?;
        let again = dump(&mut live, &target)?;
        let words = read_words(&mut live, &target)?;
        let pagemap = read_pagemap(&target, page_size).map_err(Error::call("pagemap"))?;
        let blocks = matches!(touch, Touch::Blocks);
        if first.1 != again.1 || first.1 != pagemap.1 || (words.1 != first.1 && !blocks) {
            println!("# {first:?}, {again:?}, {words:?}, {pagemap:?}: pages and frames differ");
        }
        let pages = size / page_size;
        println!(
            "{name:<20} {:>5} {} {} {} {} {:3.2} {:3.2} {:3.2}",
            size / MIB,
            PerPage(first.0, pages),
            PerPage(again.0, pages),
            PerPage(words.0, pages),
            PerPage(pagemap.0, pages),
            Ratio(first.0, pagemap.0),
            Ratio(again.0, pagemap.0),
            Ratio(words.0, pagemap.0)
        );
    }
    Ok(())
}

/// Ticks divided by a number of pages, printed with two decimals.
pub(crate) struct PerPage(pub(crate) u64, pub(crate) u64);

impl core::fmt::Display for PerPage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let hundredths = self.0 * 100 / self.1;
        write!(f, "{:>5}.{:02}", hundredths / 100, hundredths % 100)
    }
}

/// A process that has touched its memory and waits to be killed.
struct Target {
    child: Child,
    range: Mapping,
}

impl Target {
    fn new(touch: Touch, size: u64, page_size: u64) -> Result<Self, Error> {
        // The range begins and ends on the boundary of a level-3 table and of a block.
        let span = page_size * page_size / 8;
        let bytes = |size| usize::try_from(size).map_err(|_| Error::Call("mmap", Errno::ENOMEM));
        let room = Mapping::reserve(bytes(size + span)?, Protection::NONE);
        let room = room.map_err(Error::call("mmap"))?;
        let start = room.address().next_multiple_of(span);
        drop(room);
        let size = bytes(size)?;
        let range = Mapping::reserve_at(start, size, Protection::READ_WRITE);
        let range = range.map_err(Error::call("mmap"))?;
        if let Touch::Blocks = touch {
            range
                .advise(0..size, Advice::HugePage)
                .map_err(Error::call("MADV_HUGEPAGE"))?;
        } else {
            range.base_pages_only().map_err(Error::call("madvise"))?;
        }
        let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
        // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
        let child = unsafe { Fork::promised() }
            .spawn(|| {
                touch.all(
                    &range,
                    bytes(page_size).unwrap_or(1),
                    bytes(span).unwrap_or(1),
                );
                if file::write(&writer, b".").is_ok() {
                    signal::pause();
                }
                ExitCode::FAILURE
            })
            .map_err(Error::call("fork"))?;
        drop(writer);
        match file::read(&reader, &mut [0]) {
            Ok(1) => Ok(Self { child, range }),
            _ => Err(Error::Call("memory of a process", Errno::ENOMEM)),
        }
    }
}

impl Touch {
    /// Touches the memory of `range` in this process.
    fn all(self, range: &Mapping, page: usize, span: usize) {
        let at = |offset| range.as_ptr().wrapping_add(offset);
        let (size, stride) = (
            range.size(),
            if matches!(self, Self::Sparse) {
                span
            } else {
                page
            },
        );
        match self {
            Self::Written | Self::Blocks => {
                for offset in (0..size).step_by(stride) {
                    // SAFETY: the address lies inside the range, which only this process uses.
                    unsafe { at(offset).write_volatile(1) };
                }
            }
            Self::Scattered => {
                // Every second page first, then the others.
                for first in [0, page] {
                    for offset in (first..size).step_by(2 * stride) {
                        // SAFETY: the address lies inside the range, which only this process uses.
                        unsafe { at(offset).write_volatile(1) };
                    }
                }
            }
            Self::Read | Self::Sparse => {
                for offset in (0..size).step_by(stride) {
                    // SAFETY: the address lies inside the range, which can be read.
                    unsafe { at(offset).read_volatile() };
                }
            }
        }
    }
}

/// Number of pages, and the sum of their frame numbers.
type Content = (u64, u64);

/// Walks the range. Returns the ticks and the content.
fn dump(live: &mut Live, target: &Target) -> Result<(u64, Content), Error> {
    let format = live.format();
    let start = VirtualAddress(target.range.address());
    let last = start.wrapping_add(target.range.size() as u64 - 1);
    let begin = counter::ticks();
    let (mut pages, mut frames) = (0, 0_u64);
    for run in Runs::new(Walk::new(live).within(start, last), Merge::Frames) {
        let run = run.map_err(|_| Error::Call("walk", Errno::EAGAIN))?;
        let count = run.pages(&format);
        pages += count;
        // The sum of `count` consecutive numbers.
        let first = run.frame(&format).0;
        frames = frames.wrapping_add(first * count + count * (count - 1) / 2);
    }
    let content = black_box((pages, frames));
    Ok((counter::ticks() - begin, content))
}

/// Reads every word of every level-3 table, all mapped before. Returns the ticks and the content, without
/// blocks.
fn read_words(live: &mut Live, target: &Target) -> Result<(u64, Content), Error> {
    let geometry = live.geometry();
    let start = VirtualAddress(target.range.address());
    let last = start.wrapping_add(target.range.size() as u64 - 1);
    let begin = counter::ticks();
    let (mut pages, mut frames) = (0, 0_u64);
    let mut walk = Walk::new(live).within(start, last);
    while let Some(visit) = walk.next() {
        if let Visit::Table(TableVisit {
            level: Level::L3, ..
        }) = visit?
            && let Some(table) = walk.table()
        {
            for descriptor in table.iter().filter(|descriptor| descriptor.is_valid()) {
                pages += 1;
                frames = frames.wrapping_add(descriptor.next_table(&geometry).0);
            }
            walk.leave_table();
        }
    }
    let content = black_box((pages, frames));
    Ok((counter::ticks() - begin, content))
}

/// Reads pagemap for the range, many entries at once. Returns the ticks and the content.
fn read_pagemap(target: &Target, page_size: u64) -> Result<(u64, Content), Errno> {
    let path = proc_path(target.child.pid(), "pagemap")?;
    let pagemap = file::open(&path, O_RDONLY)?;
    let mut bytes = [0; 8 * ENTRIES];
    let first = target.range.address() / page_size * 8;
    let end = first + target.range.size() as u64 / page_size * 8;
    let begin = counter::ticks();
    let (mut pages, mut frames) = (0, 0_u64);
    let mut offset = first;
    while offset < end {
        let wanted = usize::try_from(end - offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let read = file::pread(
            &pagemap,
            bytes.get_mut(..wanted).unwrap_or_default(),
            offset,
        )?;
        let (entries, _) = bytes.get(..read).unwrap_or_default().as_chunks();
        for entry in entries {
            let entry = u64::from_ne_bytes(*entry);
            // Documentation/admin-guide/mm/pagemap.rst: present, frame number.
            if entry >> 63 != 0 {
                pages += 1;
                frames = frames.wrapping_add(entry & ((1 << 55) - 1));
            }
        }
        if read == 0 {
            return Err(Errno::ENODATA);
        }
        offset += read as u64;
    }
    let content = black_box((pages, frames));
    Ok((counter::ticks() - begin, content))
}
