//! Kinds of memory, and ways to write or move it.

use tablewalk_dirty::{Options, Reasons, Tracker};
use tablewalk_rt::ktap::Verdict;
use tablewalk_rt::memory::{read, write};
use tablewalk_rt::process::Fork;
use tablewalk_rt::{Count, ExitCode};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::file::{self, O_RDWR};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::process::Status;
use tablewalk_uapi::raw::{self, constants};
use tablewalk_uapi::{Mapping, Sharing, process};

use super::{PAGES, all, fill, holds, map, settle};
use crate::Tracked;
use crate::references::refer;
use crate::reported::{Reported, range};

pub(super) fn tell_written(mapping: &Mapping, page: usize) -> Result<bool, Error> {
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

pub(super) fn written(tracked: &mut Tracked) -> Result<Verdict, Error> {
    let page = tracked.page_size();
    Ok(tell_written(&map(page, Sharing::Private)?, page)?.into())
}

pub(super) fn other_memory(tracked: &mut Tracked) -> Result<Verdict, Error> {
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

pub(super) fn referenced(tracked: &mut Tracked) -> Result<Verdict, Error> {
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

pub(super) fn busy(tracked: &mut Tracked) -> Result<Verdict, Error> {
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

pub(super) fn moved(tracked: &mut Tracked) -> Result<Verdict, Error> {
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
pub(super) fn moved_in_child(tracked: &mut Tracked) -> Result<Verdict, Error> {
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
            tablewalk_rt::println!("# {} reported", Count(pages, "page", "pages"));
            ExitCode(u8::from(reported.is_err() || pages != PAGES as u64))
        })
        .map_err(Error::call("fork"))?;
    let status = child.wait().map_err(Error::call("wait"))?;
    Ok((status == Status::Exited(0)).into())
}

pub(super) fn protected(tracked: &mut Tracked) -> Result<Verdict, Error> {
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

pub(super) fn forked(tracked: &mut Tracked) -> Result<Verdict, Error> {
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
