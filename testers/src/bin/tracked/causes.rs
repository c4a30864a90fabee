//! Tests that each way to write a page or to change an entry is reported as it should be.

use core::sync::atomic::{AtomicU64, Ordering};

use heapless::Vec;
use tablewalk_dirty::{Blocks, Entries, Options, Reasons, Tracker, What};
use tablewalk_live::{format as format_of_kernel, path};
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::memory::{read, write};
use tablewalk_rt::process::Fork;
use tablewalk_rt::{ExitCode, thread};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::swap::Swap;
use tablewalk_uapi::file::{self, O_RDWR};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::process::Status;
use tablewalk_uapi::raw::{self, constants};
use tablewalk_uapi::track::EXPOSE_PGTBL_BIT_TRACK_W;
use tablewalk_uapi::{Errno, Mapping, Sharing, process};
use tablewalk_walker::{Descriptor, VirtualAddress};

use crate::references::refer;
use crate::reported::{Reported, range};
use crate::{Test, Tracked};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "a write is reported once, and a read is not",
        run: written,
    },
    Case {
        name: "the same in shared memory and in private file mappings",
        run: other_memory,
    },
    Case {
        name: "writes by system calls through page references are reported",
        run: referenced,
    },
    Case {
        name: "a page with another reference is reported until the reference is dropped",
        run: busy,
    },
    Case {
        name: "a page in swap keeps its contents and its state",
        run: swapped,
    },
    Case {
        name: "shared memory that is not mapped is reported until it is",
        run: unmapped,
    },
    Case {
        name: "MADV_FREE, MADV_DONTNEED and new zero pages",
        run: discarded,
    },
    Case {
        name: "mremap counts as a write to the pages that it moves",
        run: moved,
    },
    Case {
        name: "mremap in a child of pages that the parent tracked",
        run: moved_in_child,
    },
    Case {
        name: "a change of protection does not matter",
        run: protected,
    },
    Case {
        name: "fork: both processes have the pages, and each reports its own writes",
        run: forked,
    },
    Case {
        name: "KSM: a merge is reported, and a write before it is not lost",
        run: merged,
    },
    Case {
        name: "blocks are reported whole, and page by page once they are split",
        run: blocks,
    },
    Case {
        name: "accesses are reported, reads as well as writes",
        run: accessed,
    },
    Case {
        name: "stop leaves nothing behind",
        run: stopped,
    },
    Case {
        name: "by entries, from user space: the same for locked memory",
        run: by_entries,
    },
    Case {
        name: "memory of another process is tracked; other kinds of memory: EINVAL",
        run: refused,
    },
    Case {
        name: "MADV_FREE by another thread, which flushes TLBs later: no write is missed",
        run: discarded_beside,
    },
];

const PAGES: usize = 16;

pub(crate) fn map(page: usize, sharing: Sharing) -> Result<Mapping, Error> {
    let mapping = Mapping::anonymous(PAGES * page, Protection::READ_WRITE, sharing)
        .map_err(Error::call("mmap"))?;
    mapping
        .base_pages_only()
        .map_err(Error::call("MADV_NOHUGEPAGE"))?;
    fill(&mapping, page);
    Ok(mapping)
}

/// Writes to each page its number and one.
pub(crate) fn fill(mapping: &Mapping, page: usize) {
    for number in 0..mapping.size() / page {
        write(mapping, number * page, number as u64 + 1);
    }
}

fn advise(mapping: &Mapping, advice: Advice) -> Result<(), Error> {
    mapping
        .advise(0..mapping.size(), advice)
        .map_err(Error::call("madvise"))
}

/// Returns whether all pages have the contents of [`fill`], except for `others`.
fn holds(mapping: &Mapping, page: usize, others: &[(usize, u64)]) -> bool {
    (0..mapping.size() / page).all(|number| {
        let other = others.iter().find(|(other, _)| *other == number);
        read(mapping, number * page) == other.map_or(number as u64 + 1, |&(_, value)| value)
    })
}

/// Collects until nothing is reported any more. A new page waits on a per-CPU list for the LRU, with a
/// reference, and is reported as busy until then.
pub(crate) fn settle(reported: &mut Reported) -> Result<(), Error> {
    settle_by(|| Ok(reported.collect()?.pages))
}

/// The same for any `collect`, which returns the number of pages reported.
fn settle_by(mut collect: impl FnMut() -> Result<u64, Error>) -> Result<(), Error> {
    for _ in 0..20 {
        if collect()? == 0 {
            return Ok(());
        }
        process::yield_now();
    }
    Ok(())
}

fn all() -> [usize; PAGES] {
    core::array::from_fn(|number| number)
}

fn tell_written(mapping: &Mapping, page: usize) -> Result<bool, Error> {
    let mut reported = Reported::start(mapping, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    let nothing = reported.collect()?.none("nothing was done");
    for number in [0, 3, 4, PAGES - 1] {
        write(mapping, number * page + 8, 1);
    }
    let some = reported
        .collect()?
        .are("written", &[0, 3, 4, PAGES - 1], Reasons::is_written);
    for number in 0..PAGES {
        let _ = read(mapping, number * page);
    }
    let after = reported.collect()?.none("only read");
    write(mapping, 3 * page, 4);
    let again = reported.collect()?.are("again", &[3], Reasons::is_written);
    reported.tracker().stop()?;
    Ok(nothing && some && after && again)
}

fn written(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    Ok(tell_written(&map(page, Sharing::Private)?, page)?.into())
}

fn other_memory(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let shared = tell_written(&map(page, Sharing::Shared)?, page)?;
    let file = file::create(c"/tmp/tracked", 0o600).map_err(Error::call("/tmp/tracked"))?;
    let zeros = [0; 4096];
    for offset in (0..PAGES * page).step_by(zeros.len()) {
        file::pwrite(&file, &zeros, offset as u64).map_err(Error::call("pwrite"))?;
    }
    let file = file::open(c"/tmp/tracked", O_RDWR).map_err(Error::call("/tmp/tracked"))?;
    let private = |sharing| {
        Mapping::file(&file, 0, PAGES * page, Protection::READ_WRITE, sharing)
            .map_err(Error::call("mmap"))
    };
    let mapping = private(Sharing::Private)?;
    fill(&mapping, page);
    let of_file = tell_written(&mapping, page)?;
    let unwritten = private(Sharing::Private)?;
    for number in 0..PAGES {
        let _ = read(&unwritten, number * page);
    }
    let mut reported = Reported::start(&unwritten, page, Options::WRITTEN)?;
    write(&unwritten, 2 * page, 1);
    let copied = reported.collect()?.are("a copy", &[2], Reasons::is_written);
    let refused = Reported::start(&private(Sharing::Shared)?, page, Options::WRITTEN).is_err();
    file::remove(c"/tmp/tracked").map_err(Error::call("unlink"))?;
    Ok((shared && of_file && copied && refused).into())
}

fn referenced(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let at = |number: usize| mapping.address() + (number * page) as u64;
    let mut reported = Reported::start(&mapping, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    let value = 77_u64.to_ne_bytes();
    let memory = file::open(c"/proc/self/mem", O_RDWR).map_err(Error::call("/proc/self/mem"))?;
    mapping
        .protect(9 * page..10 * page, Protection::READ)
        .map_err(Error::call("mprotect"))?;
    file::pwrite(&memory, &99_u64.to_ne_bytes(), at(9)).map_err(Error::call("/proc/self/mem"))?;
    let by_force = reported
        .collect()?
        .are("as a debugger", &[9], Reasons::is_written);
    // SAFETY: a page of the mapping, to which no Rust reference exists.
    unsafe { process::write_memory(process::pid(), at(5), &value) }
        .map_err(Error::call("process_vm_writev"))?;
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    file::write(&writer, &value).map_err(Error::call("pipe"))?;
    let mut bytes = [0; 8];
    file::read(&reader, &mut bytes).map_err(Error::call("pipe"))?;
    let by_writev = reported
        .collect()?
        .are("process_vm_writev", &[5], Reasons::is_written);
    let mut met = by_force && by_writev && holds(&mapping, page, &[(5, 77), (9, 99)]);
    match file::open(c"/dev/ram0", O_RDWR | constants::O_DIRECT) {
        Ok(disk) => {
            let arguments = [
                disk.number().cast_unsigned().into(),
                at(7),
                page as u64,
                0,
                0,
                0,
            ];
            // SAFETY: a page of the mapping, to which no Rust reference exists.
            unsafe { raw::call(constants::__NR_pread64, arguments) }
                .map_err(Error::call("O_DIRECT"))?;
            met &= reported
                .collect()?
                .are("O_DIRECT", &[7], Reasons::is_written);
        }
        Err(errno) => tablewalk_rt::println!("# no /dev/ram0 for O_DIRECT: {errno}"),
    }
    settle(&mut reported)?;
    Ok((met && reported.collect()?.none("afterwards")).into())
}

fn busy(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let mut reported = Reported::start(&mapping, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    write(&mapping, 6 * page, 1);
    let (reader, _writer) = refer(mapping.address() + 6 * page as u64)?;
    let first = reported
        .collect()?
        .are("written", &[6], Reasons::is_written);
    // The page is still dirty: its entry was not changed.
    let second = reported
        .collect()?
        .are("referred to", &[6], Reasons::is_written);
    file::read(&reader, &mut [0; 8]).map_err(Error::call("pipe"))?;
    let third = reported
        .collect()?
        .are("no longer", &[6], Reasons::is_written);
    Ok((first && second && third && reported.collect()?.none("afterwards")).into())
}

fn swapped(tracked: &mut Tracked) -> Result<Verdict, Error> {
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
fn unmapped(tracked: &mut Tracked) -> Result<Verdict, Error> {
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
fn last_entry(mapping: &Mapping) -> Result<u64, Error> {
    let geometry = format_of_kernel()?.geometry;
    let path = path(0, &geometry, VirtualAddress(mapping.address()))?;
    Ok(path.steps().last().map_or(0, |step| step.descriptor.0))
}

fn discarded(tracked: &mut Tracked) -> Result<Verdict, Error> {
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
fn discarded_beside(tracked: &mut Tracked) -> Result<Verdict, Error> {
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
    tablewalk_rt::println!("# {rounds} rounds, {missed} writes missed");
    Ok((missed == 0).into())
}

fn moved(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let target = map(page, Sharing::Private)?;
    let mut reported = Reported::start(&target, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    settle(&mut Reported::start(&mapping, page, Options::WRITTEN)?)?;
    // Neither was written since, but `target` has other contents now.
    let target = mapping.move_onto(target).map_err(Error::call("mremap"))?;
    let all_reported = reported
        .collect()?
        .are("moved", &all(), |reasons| !reasons.is_absent());
    settle(&mut reported)?;
    let settled = reported.collect()?.none("afterwards");
    Ok((all_reported && settled && holds(&target, page, &[])).into())
}

/// A child inherits the marks of its parent. They must not count for pages that it moves.
fn moved_in_child(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let target = map(page, Sharing::Private)?;
    settle(&mut Reported::start(&mapping, page, Options::WRITTEN)?)?;
    // SAFETY: the child uses its copy of memory, and what it makes itself.
    let child = unsafe { Fork::promised() }
        .spawn(|| {
            let Ok(target) = mapping.move_onto(target) else {
                return ExitCode::FAILURE;
            };
            let all = range(target.address(), PAGES, page);
            let mut pages = 0;
            let reported = Tracker::new(0, all, Options::WRITTEN)
                .collect(|run| pages += (run.end.0 - run.start.0) / page as u64);
            tablewalk_rt::println!("# {pages} pages reported");
            ExitCode(u8::from(reported.is_err() || pages != PAGES as u64))
        })
        .map_err(Error::call("fork"))?;
    let status = child.wait().map_err(Error::call("wait"))?;
    Ok((status == Status::Exited(0)).into())
}

fn protected(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let mut reported = Reported::start(&mapping, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    write(&mapping, page, 100);
    let mut met = true;
    for protection in [Protection::READ, Protection::NONE, Protection::READ_WRITE] {
        mapping
            .protect(0..mapping.size(), protection)
            .map_err(Error::call("mprotect"))?;
        let expected: &[usize] = if protection == Protection::READ {
            &[1]
        } else {
            &[]
        };
        met &= reported
            .collect()?
            .are("changed", expected, Reasons::is_written);
    }
    write(&mapping, 2 * page, 200);
    Ok((met
        && reported
            .collect()?
            .are("written", &[2], Reasons::is_written))
    .into())
}

fn forked(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let mut reported = Reported::start(&mapping, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    write(&mapping, page, 100);
    // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }
        .spawn(|| {
            let Ok(mut own) = Reported::start(&mapping, page, Options::WRITTEN) else {
                return ExitCode::FAILURE;
            };
            write(&mapping, 2 * page, 200);
            let reported = own
                .collect()
                .is_ok_and(|own| own.are("in the child", &[2], |reasons| !reasons.is_absent()));
            ExitCode(u8::from(
                !reported || !holds(&mapping, page, &[(1, 100), (2, 200)]),
            ))
        })
        .map_err(Error::call("fork"))?;
    let status = child.wait().map_err(Error::call("wait"))?;
    let before = reported.collect()?.are("before", &[1], Reasons::is_written);
    write(&mapping, 3 * page, 300);
    let after = reported
        .collect()?
        .are("after", &[3], |reasons| !reasons.is_absent());
    let holds = holds(&mapping, page, &[(1, 100), (3, 300)]);
    Ok((status == Status::Exited(0) && before && after && holds).into())
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

fn merged(tracked: &mut Tracked) -> Result<Verdict, Error> {
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

fn blocks(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let span = page << (tracked.info.page_shift - 3);
    let mapping =
        Mapping::reserve(3 * span, Protection::READ_WRITE).map_err(Error::call("mmap"))?;
    let first = mapping.address().next_multiple_of(span as u64);
    let offset = usize::try_from(first - mapping.address()).unwrap_or(0);
    advise(&mapping, Advice::HugePage).ok();
    write(&mapping, offset, 1);
    let format = format_of_kernel()?;
    let is_block = || -> Result<bool, Error> {
        let path = path(0, &format.geometry, VirtualAddress(first))?;
        Ok(path
            .steps()
            .last()
            .is_some_and(|step| step.level.number() < 3))
    };
    if !is_block()? {
        return Ok(Verdict::Skip("no huge page"));
    }
    let pages = span / page;
    let of = |blocks| {
        let options = Options {
            blocks,
            ..Options::WRITTEN
        };
        Tracker::new(0, range(first, pages, page), options)
    };
    let count = |tracker: &Tracker| -> Result<(u64, bool), Error> {
        let (mut reported, mut block) = (0, false);
        tracker.collect(|run| {
            reported += (run.end.0 - run.start.0) / page as u64;
            block |= run.reasons.is_block();
        })?;
        Ok((reported, block))
    };
    let tells = |what: &str, tracker: &Tracker, expected: (u64, bool)| -> Result<bool, Error> {
        let found = count(tracker)?;
        if found != expected {
            tablewalk_rt::println!("# {what}: {found:?} pages, in a block; expected {expected:?}");
        }
        Ok(found == expected)
    };
    let all = (pages as u64, true);
    let whole = of(Blocks::Whole);
    whole.start()?;
    settle_by(|| Ok(count(&whole)?.0))?;
    let mut met = tells("settled", &whole, (0, false))?;
    write(&mapping, offset + 5 * page, 1);
    met &= tells("written", &whole, all)? && tells("afterwards", &whole, (0, false))?;
    // SAFETY: the address belongs to a page of the mapping.
    unsafe { process::write_memory(process::pid(), first + 8, &[1; 8]) }
        .map_err(Error::call("process_vm_writev"))?;
    met &= tells("by reference", &whole, all)? && is_block()?;
    let split = of(Blocks::Split);
    split.start()?;
    met &= tells("split", &split, (0, false))? && !is_block()?;
    write(&mapping, offset + 7 * page, 1);
    met &= tells("a page", &split, (1, false))?;
    Ok(met.into())
}

fn accessed(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let mut reported = Reported::start(&mapping, page, Options::ACCESSED)?;
    let nothing = reported.collect()?.none("nothing was done");
    let _ = read(&mapping, 2 * page);
    write(&mapping, 3 * page, 1);
    let some = reported
        .collect()?
        .are("accessed", &[2, 3], Reasons::is_accessed);
    let again = reported.collect()?.none("once");
    // Reclaim clears the flag, too, in the same way as `clear_refs`.
    let _ = read(&mapping, 4 * page);
    let cleared = file::open(c"/proc/self/clear_refs", file::O_WRONLY)
        .and_then(|file| file::write(&file, b"1"));
    let lost = reported.collect()?.are("cleared by others", &[4], |_| true);
    Ok((nothing && some && again && (lost || cleared.is_err())).into())
}

fn stopped(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let format = format_of_kernel()?;
    let before = last_entry(&mapping)?;
    let mut reported = Reported::start(&mapping, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    let marked = last_entry(&mapping)?;
    let mark = 1 << EXPOSE_PGTBL_BIT_TRACK_W;
    let unwritten = marked & mark != 0 && !format.linux.is_dirty(Descriptor(marked));
    reported.tracker().stop()?;
    let after = last_entry(&mapping)?;
    tablewalk_rt::println!("# {before:#x} before, {marked:#x}, {after:#x} after");
    Ok((before == after && unwritten).into())
}

fn by_entries(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    // SAFETY: private memory, which is only written.
    let mut entries = unsafe { Entries::start(&mapping) }?;
    let mut first = Vec::<_, PAGES>::new();
    let mut collect = |reported: &mut Vec<(u64, u64), PAGES>| -> Result<(), Error> {
        reported.clear();
        entries.collect(|(start, pages)| {
            let number = (start.0 - mapping.address()) / page as u64;
            // There is room for all pages.
            let _room = reported.push((number, pages));
        })?;
        Ok(())
    };
    collect(&mut first)?;
    let nothing = first.is_empty();
    for number in [0, 3, 4, PAGES - 1] {
        write(&mapping, number * page + 8, 1);
    }
    // SAFETY: a page of the mapping, to which no Rust reference exists.
    unsafe { process::write_memory(process::pid(), mapping.address() + 6 * page as u64, &[1; 8]) }
        .map_err(Error::call("process_vm_writev"))?;
    collect(&mut first)?;
    let some = first.as_slice() == [(0, 1), (3, 2), (6, 1), (PAGES as u64 - 1, 1)];
    collect(&mut first)?;
    let once = first.is_empty();
    entries.stop();
    tablewalk_rt::println!("# {nothing}, {some}, {once}");
    // A page that is dirty again is swapped out and read back.
    advise(&mapping, Advice::PageOut)?;
    let kept = read(&mapping, 3 * page + 8) == 1;
    Ok((nothing && some && once && kept).into())
}

fn refused(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    let mapping = map(page, Sharing::Private)?;
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    let (wait, go) = file::pipe().map_err(Error::call("pipe"))?;
    // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }
        .spawn(|| {
            let _ = file::read(&wait, &mut [0]);
            write(&mapping, 9 * page, 900);
            let _ = file::write(&writer, b".");
            let _ = file::read(&wait, &mut [0]);
            ExitCode::SUCCESS
        })
        .map_err(Error::call("fork"))?;
    let other = Tracker::new(
        child.pid(),
        range(mapping.address(), PAGES, page),
        Options {
            what: What::Written,
            ..Options::WRITTEN
        },
    );
    other.start()?;
    file::write(&go, b".").map_err(Error::call("pipe"))?;
    file::read(&reader, &mut [0]).map_err(Error::call("pipe"))?;
    let mut ours = [false; PAGES];
    other.collect(|run| {
        let first = (run.start.0 - mapping.address()) / page as u64;
        if let Some(reported) = usize::try_from(first)
            .ok()
            .and_then(|first| ours.get_mut(first))
        {
            *reported = true;
        }
    })?;
    let reported = ours.get(9) == Some(&true);
    drop(go);
    let zero = file::open(c"/dev/mem", file::O_RDONLY).ok();
    let device = zero.and_then(|file| {
        Mapping::file(&file, 0x4000_0000, page, Protection::READ, Sharing::Shared).ok()
    });
    let device =
        device.is_none_or(|mapping| Reported::start(&mapping, page, Options::WRITTEN).is_err());
    Ok((reported && device).into())
}
