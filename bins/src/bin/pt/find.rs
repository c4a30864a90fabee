//! `pt find`: entries of a kind.

use core::ops::ControlFlow;

use tablewalk_live::copy::CopyError;
use tablewalk_proc::pagemap::FrameFlags;
use tablewalk_proc::processes::for_each_process;
use tablewalk_rt::memory::leak_zeroed_words;
use tablewalk_rt::sort::sort;
use tablewalk_rt::{ExitCode, eprintln, print, println};
use tablewalk_uapi::Errno;
use tablewalk_walker::{
    Format, FrameNumber, Kind, Merge, Run, Runs, VirtualAddress, Visit, WalkError,
};

use crate::Ended;
use crate::attributes::Attributes;
use crate::command::What;
use crate::error::Error;
use crate::json::Json;
use crate::options::Options;
use crate::progress::Progress;
use crate::report::{self, vmas};
use crate::subject::Subject;
use crate::walk;

/// Maximum number of runs in a search for aliases: 4 GiB of memory.
const RUNS: usize = (4 << 30) / size_of::<Mapped>();

/// Consecutive pages in consecutive frames: first frame, first address, number of pages.
type Mapped = [u64; 3];

#[inline(never)]
pub(crate) fn run(subject: &mut Subject, what: What, options: &Options) -> Result<Ended, Error> {
    let changed = match what {
        What::Frame(frame) => find_frame(subject, frame, None, options),
        What::Alias => find_aliases(subject, options),
        _ => find_runs(subject, what, options),
    };
    Ok((ExitCode::SUCCESS, changed?))
}

/// Shows the entries that map `frame`, in every process.
#[inline(never)]
pub(crate) fn everywhere(frame: FrameNumber, options: &Options) -> Result<ExitCode, Error> {
    let mut subject = Subject::open("self", None, options.source)?;
    let options = &options.fit(&subject.format.geometry)?;
    report::begin("find", &subject, options);
    let mut progress = Progress::start();
    let (mut changed, mut unproved, mut status) = (0, 0, ExitCode::SUCCESS);
    let processes = for_each_process(&mut |pid| {
        progress.at_process(pid);
        match find_in(&mut subject, pid, frame, options) {
            Ok(of_this) => changed += of_this,
            Err(Error::Copy(CopyError::Unproved { .. })) => unproved += 1,
            // The process has changed its tables, so the output about it is not reliable.
            Err(error @ Error::Ended(_)) => eprintln!("pt: {error}"),
            Err(error) if error.is_gone() => {}
            Err(error) => {
                eprintln!("pt: {error}");
                status = ExitCode::FAILURE;
            }
        }
        ControlFlow::Continue(())
    });
    processes.map_err(|errno| Error::File("/proc", errno))?;
    report::end_of_all(options, changed, unproved);
    Ok(status)
}

/// Shows the entries that map `frame` in process `pid`.
fn find_in(
    subject: &mut Subject,
    pid: i32,
    frame: FrameNumber,
    options: &Options,
) -> Result<u64, Error> {
    if subject.live_pid() != Some(pid) {
        subject.source.retarget(pid)?;
    }
    let changed = find_frame(subject, frame, Some(pid), options)?;
    subject.check()?;
    Ok(changed)
}

/// Calls `visit` with every run.
fn for_each_run(
    subject: &mut Subject,
    merge: Merge,
    options: &Options,
    visit: &mut dyn FnMut(&Run) -> Result<(), Error>,
) -> Result<u64, Error> {
    let mut progress = Progress::start();
    let mut changed = 0;
    for run in Runs::new(options.walk(&mut subject.source).gathering(), merge) {
        match run {
            Ok(run) => {
                progress.at(run.address);
                visit(&run)?;
            }
            Err(WalkError::Changed(_)) => changed += 1,
            Err(WalkError::Source(error)) => return Err(error),
        }
    }
    Ok(changed)
}

/// Shows the runs with the attributes of `what`.
fn find_runs(subject: &mut Subject, what: What, options: &Options) -> Result<u64, Error> {
    let format = subject.format;
    let mut vmas = vmas(subject.maps()?).peekable();
    report::print_range_titles(&format, options);
    for_each_run(subject, Merge::Attributes, options, &mut |run| {
        let attributes = Attributes {
            format: &format,
            level: run.level,
            descriptor: run.descriptor,
            limits: run.limits,
        };
        let present = format.linux.is_present(run.descriptor, run.level);
        let valid = run.descriptor.is_valid();
        let wanted = match what {
            What::WritableExecutable => {
                valid && attributes.access().execute && attributes.is_writable()
            }
            What::Block => attributes.kind() == Kind::Block,
            What::Dirty => present && format.linux.is_dirty(run.descriptor),
            What::Young => present && run.descriptor.is_accessed(),
            What::Frame(_) | What::Alias => false,
        };
        if wanted {
            report::print_run(&format, run, &mut vmas, options);
        }
        Ok(())
    })
}

/// Shows every table in `frame`, and every entry that leads to it; with the process ID in a search through
/// all processes.
fn find_frame(
    subject: &mut Subject,
    frame: FrameNumber,
    pid: Option<i32>,
    options: &Options,
) -> Result<u64, Error> {
    let format = subject.format;
    let geometry = &format.geometry;
    let mut progress = Progress::start();
    let mut changed = 0;
    for visit in options.walk(&mut subject.source) {
        let visit = visit?;
        let (level, address) = match visit {
            Visit::Table(table) => {
                progress.at(table.address);
                if table.frame != frame {
                    continue;
                }
                (table.level, table.address)
            }
            Visit::Leaf(found) | Visit::NotValid(found) => {
                let attributes = walk::attributes(&format, &found);
                let Some(first) = attributes.frame() else {
                    continue;
                };
                let page = frame.0.wrapping_sub(first.0);
                if page >= found.pages(geometry) {
                    continue;
                }
                let offset = page << geometry.page_shift();
                (found.level, found.address.wrapping_add(offset))
            }
            Visit::Changed(_) => {
                changed += 1;
                continue;
            }
        };
        if options.json {
            walk::write(&format, &visit, pid);
            continue;
        }
        if let Some(pid) = pid {
            print!("process {}: ", pid.cast_unsigned());
        }
        match visit {
            Visit::Leaf(found) | Visit::NotValid(found) => {
                let attributes = walk::attributes(&format, &found);
                let word = attributes.word();
                println!("{frame}: {level} {word} of {address} {attributes}");
            }
            Visit::Table(_) | Visit::Changed(_) => println!("{frame}: {level} table of {address}"),
        }
    }
    Ok(changed)
}

/// Shows frames that more than one entry maps. Skips special pages such as the zero page, and the huge zero
/// page if the kernel reports its frame.
fn find_aliases(subject: &mut Subject, options: &Options) -> Result<u64, Error> {
    let format = subject.format;
    let memory = |errno| Error::Memory("runs of frames", errno);
    let (runs, _) = leak_zeroed_words(RUNS * 3)
        .map_err(memory)?
        .as_chunks_mut::<3>();
    let mut count = 0;
    let changed = for_each_run(subject, Merge::Frames, options, &mut |run| {
        let descriptor = run.descriptor;
        if format.linux.is_present(descriptor, run.level) && !format.linux.is_special(descriptor) {
            let place = runs.get_mut(count).ok_or(memory(Errno::ENOMEM))?;
            *place = [run.frame(&format).0, run.address.0, run.pages(&format)];
            count += 1;
        }
        Ok(())
    })?;
    let runs = runs.get_mut(..count).unwrap_or_default();
    sort(runs);
    // Unknown for a dump of another kernel, or another boot.
    let flags = subject.live_pid().and_then(|_| FrameFlags::open().ok());
    let is_zeros = |frame| {
        flags
            .as_ref()
            .is_some_and(|flags| flags.is_zeros(frame) == Ok(true))
    };
    let mut rest: &[Mapped] = runs;
    while let Some((&[frame, _, pages], _)) = rest.split_first() {
        // The cluster ends at the first run that overlaps no earlier one.
        let mut end = frame + pages;
        let mut together = 0;
        for &[frame, _, pages] in rest {
            if frame >= end && together > 0 {
                break;
            }
            end = end.max(frame + pages);
            together += 1;
        }
        let (cluster, behind) = rest.split_at_checked(together).unwrap_or((rest, &[]));
        rest = behind;
        if cluster.len() > 1 {
            show_cluster(&format, cluster, &is_zeros, options);
        }
    }
    Ok(changed)
}

/// Shows the parts of `cluster`, sorted by frame, that are mapped more than once and not skipped.
fn show_cluster(
    format: &Format,
    cluster: &[Mapped],
    left_out: &dyn Fn(u64) -> bool,
    options: &Options,
) {
    let covers = |&[frame, _, pages]: &Mapped, at: u64| frame <= at && at < frame + pages;
    let mut start = cluster.first().map_or(0, |&[frame, ..]| frame);
    // The same runs cover all frames between two adjacent borders.
    while let Some(end) = cluster
        .iter()
        .flat_map(|&[frame, _, pages]| [frame, frame + pages])
        .filter(|&border| border > start)
        .min()
    {
        let mappings = cluster.iter().filter(|mapped| covers(mapped, start));
        if mappings.clone().count() > 1 && !left_out(start) {
            for &[frame, address, _] in mappings.clone() {
                let offset = (start - frame) << format.geometry.page_shift();
                let address = VirtualAddress(address).wrapping_add(offset);
                let frame = FrameNumber(start);
                let (pages, times) = (end - start, mappings.clone().count());
                if options.json {
                    Json::new("alias")
                        .hex("frame", start)
                        .number("pages", pages)
                        .number("mappings", times as u64)
                        .hex("address", address.0);
                } else {
                    println!("{frame} {pages:8} pages at {address}, one of {times}");
                }
            }
        }
        start = end;
    }
}
