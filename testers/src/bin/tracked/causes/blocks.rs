//! Blocks of huge pages.

use tablewalk_dirty::{Blocks, Options, Tracker};
use tablewalk_live::{format as format_of_kernel, path};
use tablewalk_rt::ktap::Verdict;
use tablewalk_rt::memory::write;
use tablewalk_testkit::error::Error;
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::{Mapping, process};
use tablewalk_walker::VirtualAddress;

use super::{advise, settle_by};
use crate::Tracked;
use crate::reported::range;

pub(super) fn blocks(tracked: &mut Tracked) -> Result<Verdict, Error> {
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
