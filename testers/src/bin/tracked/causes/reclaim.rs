//! What reclaim, KSM and advice do to entries.

use core::sync::atomic::{AtomicU64, Ordering};

use tablewalk_dirty::{Options, Reasons, Tracker};
use tablewalk_live::{format as format_of_kernel, path};
use tablewalk_rt::ktap::Verdict;
use tablewalk_rt::memory::{read, write};
use tablewalk_rt::{Count, thread};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::swap::Swap;
use tablewalk_uapi::file::{self, O_RDWR};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::{Errno, Mapping, Sharing, process};
use tablewalk_walker::VirtualAddress;

use super::{advise, all, fill, holds, map, settle};
use crate::Tracked;
use crate::reported::{Reported, range};

pub(super) fn swapped(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let Some(_swap) = Swap::on() else {
        return Ok(Verdict::Skip("no swap area"));
    };
    let page = tracked.page_size();
    let mut met = true;
    for sharing in [Sharing::Private, Sharing::Shared] {
        let mapping = map(page, sharing)?;
        let mut reported = Reported::start(&mapping, page, Options::WRITTEN)?;
        settle(&mut reported)?;
        write(&mapping, page, 100);
        advise(&mapping, Advice::PageOut)?;
        match sharing {
            Sharing::Private => {
                let first = reported.collect()?.are("in swap", &[1], Reasons::is_away);
                met &= first && reported.collect()?.none("in swap as before");
                met &= holds(&mapping, page, &[(1, 100)]);
                met &= reported.collect()?.none("read again");
            }
            // The entries are empty, and tell nothing.
            Sharing::Shared => {
                met &= reported.collect()?.are("in swap", &all(), Reasons::is_away);
                met &= reported.collect()?.are("still", &all(), Reasons::is_away);
                met &= holds(&mapping, page, &[(1, 100)]);
            }
        }
        // The page may be busy while it is read back.
        settle(&mut reported)?;
        // The page is clean in the swap cache; a write to it now must not be lost.
        write(&mapping, 2 * page, 200);
        met &= reported
            .collect()?
            .are("written again", &[2], Reasons::is_written);
        advise(&mapping, Advice::PageOut)?;
        met &= holds(&mapping, page, &[(1, 100), (2, 200)]);
    }
    Ok(met.into())
}

/// Shared memory stays in memory when its entries are removed: its pages are reported until they are mapped.
pub(super) fn unmapped(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Shared)?;
    let mut reported = Reported::start(&mapping, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    advise(&mapping, Advice::DontNeed)?;
    let mut met = reported
        .collect()?
        .are("discarded", &all(), Reasons::is_away);
    met &= reported
        .collect()?
        .are("as before", &all(), Reasons::is_away);
    met &= last_entry(&mapping)? == 0;
    // Mapped from the page cache, some by fault-around.
    write(&mapping, 3 * page, 300);
    met &= holds(&mapping, page, &[(3, 300)]);
    let mapped = |reasons: Reasons| reasons.is_new() || reasons.is_written();
    met &= reported.collect()?.are("mapped again", &all(), mapped);
    settle(&mut reported)?;
    write(&mapping, 3 * page, 301);
    met &= reported
        .collect()?
        .are("written", &[3], Reasons::is_written);
    let target = map(page, Sharing::Shared)?;
    let mut reported = Reported::start(&target, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    let target = mapping.move_onto(target).map_err(Error::call("mremap"))?;
    let unknown = |reasons: Reasons| reasons.is_new() || reasons.is_away();
    met &= reported.collect()?.are("moved", &all(), unknown);
    Ok((met && holds(&target, page, &[(3, 301)])).into())
}

/// Returns the last descriptor of the path to the first page.
pub(super) fn last_entry(mapping: &Mapping) -> Result<u64, Error> {
    let geometry = format_of_kernel()?.geometry;
    let path = path(0, &geometry, VirtualAddress(mapping.address()))?;
    Ok(path.steps().last().map_or(0, |step| step.descriptor.0))
}

pub(super) fn discarded(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let options = Options {
        absent: true,
        ..Options::WRITTEN
    };
    let mut reported = Reported::start(&mapping, page, options)?;
    settle(&mut reported)?;
    write(&mapping, page, 100);
    advise(&mapping, Advice::Free)?;
    write(&mapping, 3 * page, 300);
    let collected = reported.collect()?;
    // The entries were cleaned by others, so the state of the first one is unknown.
    let mut met = collected.pages >= 2;
    settle(&mut reported)?;
    advise(&mapping, Advice::PageOut)?;
    // A write after MADV_FREE, cleaned since, must not be lost.
    met &= read(&mapping, 3 * page) == 300;
    settle(&mut reported)?;
    fill(&mapping, page);
    settle(&mut reported)?;
    mapping
        .advise(4 * page..6 * page, Advice::DontNeed)
        .map_err(Error::call("madvise"))?;
    met &= reported
        .collect()?
        .are("discarded", &[4, 5], Reasons::is_absent);
    let _ = read(&mapping, 4 * page);
    write(&mapping, 5 * page, 1);
    reported.collect()?;
    met &= reported.are("zeros, and written", &[4, 5], |reasons| {
        reasons.is_new() || reasons.is_written()
    });
    settle(&mut reported)?;
    Ok((met && reported.collect()?.none("afterwards")).into())
}

/// Writes a page through a TLB entry that is still valid between the moment when `MADV_FREE` cleans the entry
/// and its TLB flush at the end of the mapping. In QEMU, the CPU `max` keeps TLB entries over system calls.
pub(super) fn discarded_beside(tracked: &mut Tracked) -> Result<Verdict, Error> {
    /// Enough pages for several tables.
    const MANY: usize = 2048;
    const DISCARDS: u64 = 1500;
    let page = tracked.page_size();
    let mapping = Mapping::anonymous(MANY * page, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    mapping
        .base_pages_only()
        .map_err(Error::call("MADV_NOHUGEPAGE"))?;
    for number in 0..MANY {
        write(&mapping, number * page, 1);
    }
    let discards = AtomicU64::new(0);
    // Each on a CPU of its own, if there are two.
    let pin = |cpus| {
        let _ = process::set_affinity(0, cpus);
    };
    let discard = || {
        pin(0b10);
        while discards.fetch_add(1, Ordering::Relaxed) < DISCARDS {
            if let Err(error) = advise(&mapping, Advice::Free) {
                tablewalk_rt::println!("# {error}");
                discards.store(DISCARDS, Ordering::Relaxed);
            }
        }
    };
    let first = range(mapping.address(), 1, page);
    let tracker = Tracker::new(0, first, Options::WRITTEN);
    let is_reported = |value| {
        let mut reported = false;
        write(&mapping, 0, value);
        tracker.collect(|_| reported = true).map(|()| reported)
    };
    let (mut rounds, mut missed) = (0, 0);
    pin(0b01);
    thread::run_beside(discard, || {
        while discards.load(Ordering::Relaxed) < DISCARDS {
            rounds += 1;
            is_reported(2 * rounds)?;
            missed += u64::from(!is_reported(2 * rounds + 1)?);
        }
        Ok::<_, Error>(())
    })
    .map_err(Error::call("clone"))??;
    pin(u64::MAX);
    tablewalk_rt::println!(
        "# {}, {} missed",
        Count(rounds, "round", "rounds"),
        Count(missed, "write", "writes")
    );
    Ok((missed == 0).into())
}

/// Lets KSM scan until it has merged something, at most 200 times.
fn merge() -> Result<bool, Errno> {
    let set = |path, value: &[u8]| {
        let file = file::open(path, O_RDWR)?;
        file::write(&file, value).map(drop)
    };
    set(c"/sys/kernel/mm/ksm/pages_to_scan", b"10000")?;
    set(c"/sys/kernel/mm/ksm/sleep_millisecs", b"1")?;
    set(c"/sys/kernel/mm/ksm/run", b"1")?;
    let shared = file::open(c"/sys/kernel/mm/ksm/pages_sharing", O_RDWR)
        .or_else(|_| file::open(c"/sys/kernel/mm/ksm/pages_sharing", file::O_RDONLY))?;
    for _ in 0..2000 {
        let mut digits = [0; 8];
        file::pread(&shared, &mut digits, 0)?;
        if digits[0] > b'0' {
            return Ok(true);
        }
        tablewalk_uapi::time::sleep(core::time::Duration::from_millis(1))?;
    }
    Ok(false)
}

pub(super) fn merged(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let mut reported = Reported::start(&mapping, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    // Two equal pages, and one that differs.
    for number in [2, 3] {
        write(&mapping, number * page, 7);
    }
    write(&mapping, 5 * page, 500);
    match advise(&mapping, Advice::Mergeable) {
        Err(Error::Call(_, Errno::EINVAL)) => return Ok(Verdict::Skip("no KSM")),
        result => result?,
    }
    let merged = merge().map_err(Error::call("KSM"))?;
    reported.collect()?;
    let met = reported.are("written, looked at, merged", &[2, 3, 5], |_| true)
        || [2, 3, 5].iter().all(|&number| reported.has(number));
    settle(&mut reported)?;
    write(&mapping, 2 * page, 8);
    reported.collect()?;
    let unmerged = reported.has(2);
    let holds = holds(&mapping, page, &[(2, 8), (3, 7), (5, 500)]);
    Ok((merged && met && unmerged && holds).into())
}
