//! Moved pages whose frames the kernel replaces: by migration, by KSM, or by collapsing.

#![expect(unsafe_code, reason = "gives advice about memory of a pager")]

use core::ffi::CStr;
use core::time::Duration;

use tablewalk_pager::{Pager, Worker};
use tablewalk_proc::lines::{for_each_line, parse_number};
use tablewalk_proc::pagemap::PagemapEntry;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::println;
use tablewalk_testkit::error::Error;
use tablewalk_uapi::file::{self, O_WRONLY};
use tablewalk_uapi::memory::{Advice, madvise};
use tablewalk_uapi::{Errno, time};

use crate::{Marks, Moved, PAGES, advise, new_pager, read, right, touch, write};

pub(crate) const TESTS: &[Case<Moved, Error>] = &[
    Case {
        name: "an adopted page migrates to another frame, another does not",
        run: migrated,
    },
    Case {
        name: "equal adopted pages are merged, others are not; a write copies them",
        run: merged,
    },
    Case {
        name: "a region is never collapsed into huge pages",
        run: collapsed,
    },
];

/// Returns the frames of some pages.
fn frames<const COUNT: usize>(
    moved: &Moved,
    pager: &Pager<Marks>,
    pages: [usize; COUNT],
) -> Result<[u64; COUNT], Error> {
    let mut result = Ok(());
    let frames = pages.map(|page| {
        let entry = moved.entry(pager, page);
        entry.map(PagemapEntry::frame).unwrap_or_else(|errno| {
            result = Err(Error::Call("pagemap", errno));
            0
        })
    });
    result.map(|()| frames)
}

/// Takes the frame of a page out of service (`MADV_SOFT_OFFLINE`), which migrates its contents to another
/// frame.
fn offline(moved: &Moved, pager: &Pager<Marks>, page: usize) -> Result<(), Errno> {
    let place = pager.as_ptr().wrapping_add(page * moved.page_size).cast();
    // SAFETY: the contents stay.
    unsafe { madvise(place, moved.page_size, Advice::SoftOffline) }
}

fn migrated(moved: &mut Moved) -> Result<Verdict, Error> {
    let pager = new_pager()?;
    let mut worker = pager.worker()?;
    touch(&pager, &mut worker)?;
    let pages = [0, PAGES / 2, PAGES - 1];
    let before = frames(moved, &pager, pages)?;
    let mut refused = 0;
    for page in pages {
        match offline(moved, &pager, page) {
            Ok(()) => {}
            Err(Errno::EINVAL) => return Ok(Verdict::Skip("no memory failure")),
            Err(errno) => {
                println!("# page {page}, not adopted: {errno}");
                refused += 1;
            }
        }
    }
    let stayed = frames(moved, &pager, pages)? == before;
    worker.settle()?;
    for page in pages {
        offline(moved, &pager, page).map_err(Error::call("MADV_SOFT_OFFLINE"))?;
    }
    // The kernel never reuses these frames.
    moved.free = moved.free.saturating_sub(pages.len() as u64);
    let after = frames(moved, &pager, pages)?;
    let all_others = before.iter().all(|frame| !after.contains(frame));
    let right = right(&pager);
    println!("# frames {before:x?} and {after:x?}, {right} of {PAGES} have the right contents");
    Ok((refused == pages.len() && stayed && all_others && right == PAGES).into())
}

/// KSM, which runs as long as this value lives.
struct Merger;

impl Merger {
    const RUN: &CStr = c"/sys/kernel/mm/ksm/run";
    const SCANS: &CStr = c"/sys/kernel/mm/ksm/full_scans";

    /// Starts KSM. Returns `None` if the kernel has none.
    fn on() -> Option<Self> {
        for (path, value) in [
            (c"/sys/kernel/mm/ksm/pages_to_scan", b"10000".as_slice()),
            (c"/sys/kernel/mm/ksm/sleep_millisecs", b"1"),
            (Self::RUN, b"1"),
        ] {
            let file = file::open(path, O_WRONLY).ok()?;
            file::write(&file, value).ok()?;
        }
        Some(Self)
    }

    /// Waits until KSM has scanned every page often enough: it merges a page that was the same in two scans.
    fn scan(&self) -> Result<(), Errno> {
        let first = Self::scans()?;
        for _try in 0..5000 {
            if Self::scans()? >= first + 4 {
                return Ok(());
            }
            time::sleep(Duration::from_millis(2))?;
        }
        Err(Errno::ETIMEDOUT)
    }

    fn scans() -> Result<u64, Errno> {
        let mut scans = Err(Errno::ENODATA);
        for_each_line(Self::SCANS, &mut |line| {
            scans = parse_number(line, 10).ok_or(Errno::EINVAL);
            Ok(())
        })?;
        scans
    }
}

impl Drop for Merger {
    fn drop(&mut self) {
        if let Ok(file) = file::open(Self::RUN, O_WRONLY) {
            // An error leaves it running, which does no harm: no other memory is mergeable.
            let _ = file::write(&file, b"0");
        }
    }
}

/// Returns how many pages have the same frame as the first.
fn with_first(moved: &Moved, pager: &Pager<Marks>) -> Result<usize, Error> {
    let [first] = frames(moved, pager, [0])?;
    moved.count_if(pager, &|entry| Ok(entry.frame() == first))
}

fn merged(moved: &mut Moved) -> Result<Verdict, Error> {
    let Some(merger) = Merger::on() else {
        return Ok(Verdict::Skip("no KSM"));
    };
    let pager = new_pager()?;
    let mut worker = pager.worker()?;
    touch(&pager, &mut worker)?;
    for page in 0..PAGES {
        write(&pager, page, MERGED);
    }
    advise(&pager, Advice::Mergeable)?;
    merger.scan().map_err(Error::call("KSM"))?;
    let before = with_first(moved, &pager)?;
    worker.settle()?;
    merger.scan().map_err(Error::call("KSM"))?;
    let after = with_first(moved, &pager)?;
    write(&pager, 1, 1);
    let parted = with_first(moved, &pager)?;
    let kept = (0..PAGES)
        .filter(|&page| read(&pager, page) == if page == 1 { 1 } else { MERGED })
        .count();
    // A page that others map, too, stays in place; the page that was written belongs to this process only.
    let taken = pager.take_back(0..PAGES)?;
    println!("# {before} of {PAGES} in one frame, {after} when adopted, {parted} after a write");
    println!("# {kept} have the right contents, {taken} taken back");
    let met = before == 1 && after == PAGES && parted == PAGES - 1 && kept == PAGES;
    Ok((met && taken == 1).into())
}

/// Contents of all pages to be merged.
const MERGED: u64 = 0x6d65_7267_6564;

fn collapsed(moved: &mut Moved) -> Result<Verdict, Error> {
    let pager = new_pager()?;
    let mut worker: Worker<'_, Marks> = pager.worker()?;
    touch(&pager, &mut worker)?;
    worker.settle()?;
    let before = moved.count(&pager, PagemapEntry::is_present)?;
    // SAFETY: the contents stay.
    let answer = unsafe { madvise(pager.as_ptr().cast(), pager.size(), Advice::Collapse) };
    let right = right(&pager);
    println!("# MADV_COLLAPSE: {answer:?}, {right} have the right contents");
    Ok((answer == Err(Errno::EINVAL) && before == PAGES && right == PAGES).into())
}
