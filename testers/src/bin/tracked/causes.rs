//! Tests that each way to write a page or to change an entry is reported as it should be.

mod blocks;
mod memory;
mod reclaim;

use heapless::Vec;
use tablewalk_dirty::{Entries, Options, Reasons, Tracker, What};
use tablewalk_live::format as format_of_kernel;
use tablewalk_rt::ExitCode;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::memory::{read, write};
use tablewalk_rt::process::Fork;
use tablewalk_testkit::error::Error;
use tablewalk_uapi::file::{self};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::track::EXPOSE_PGTBL_BIT_TRACK_W;
use tablewalk_uapi::{Mapping, Sharing, process};
use tablewalk_walker::Descriptor;

use crate::reported::{Reported, range};
use crate::{Test, Tracked};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "a write is reported once, and a read is not",
        run: memory::written,
    },
    Case {
        name: "the same in shared memory and in private file mappings",
        run: memory::other_memory,
    },
    Case {
        name: "writes by system calls through page references are reported",
        run: memory::referenced,
    },
    Case {
        name: "a page with another reference is reported until the reference is dropped",
        run: memory::busy,
    },
    Case {
        name: "a page in swap keeps its contents and its state",
        run: reclaim::swapped,
    },
    Case {
        name: "shared memory that is not mapped is reported until it is",
        run: reclaim::unmapped,
    },
    Case {
        name: "MADV_FREE, MADV_DONTNEED and new zero pages",
        run: reclaim::discarded,
    },
    Case {
        name: "mremap counts as a write to the pages that it moves",
        run: memory::moved,
    },
    Case {
        name: "mremap in a child of pages that the parent tracked",
        run: memory::moved_in_child,
    },
    Case {
        name: "a change of protection does not matter",
        run: memory::protected,
    },
    Case {
        name: "fork: both processes have the pages, and each reports its own writes",
        run: memory::forked,
    },
    Case {
        name: "KSM: a merge is reported, and a write before it is not lost",
        run: reclaim::merged,
    },
    Case {
        name: "blocks are reported whole, and page by page once they are split",
        run: blocks::blocks,
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
        run: reclaim::discarded_beside,
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
    let before = reclaim::last_entry(&mapping)?;
    let mut reported = Reported::start(&mapping, page, Options::WRITTEN)?;
    settle(&mut reported)?;
    let marked = reclaim::last_entry(&mapping)?;
    let mark = 1 << EXPOSE_PGTBL_BIT_TRACK_W;
    let unwritten = marked & mark != 0 && !format.linux.is_dirty(Descriptor(marked));
    reported.tracker().stop()?;
    let after = reclaim::last_entry(&mapping)?;
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
