//! `pt dirty` and `pt idle`: pages that are written, or accessed, between rounds.

use core::time::Duration;

use tablewalk_dirty::only_tracker::OnlyTracker;
use tablewalk_dirty::{DirtyError, Options as Tracking, Reasons, Tracker, What};
use tablewalk_proc::pagemap::Pagemap;
use tablewalk_rt::console::output_is_lost;
use tablewalk_rt::counter::{frequency, ticks};
use tablewalk_rt::memory::leak_zeroed;
use tablewalk_rt::{Count, ExitCode, println};
use tablewalk_uapi::{Errno, time};
use tablewalk_walker::VirtualAddress;

use crate::Ended;
use crate::error::Error;
use crate::json::Json;
use crate::options::Options;
use crate::report::{self, Name, Vma, vmas};
use crate::subject::{MAPS_ROOM, Subject, read_maps_into};

/// The default interval between rounds.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shows which pages of a process are written, or accessed, in each round.
#[inline(never)]
pub(crate) fn watch(subject: &Subject, what: What, options: &Options) -> Result<Ended, Error> {
    let pid = subject.pid().cast_signed();
    let mut heat = Heat::new(pid, subject.format.geometry.page_shift(), what)?;
    let tracked = |errno| match errno {
        Errno::EBUSY => Error::Tracked(pid),
        errno => Error::Proc(pid, "stat", errno),
    };
    let mut tracker = OnlyTracker::announce(pid, what).map_err(tracked)?;
    heat.each(options, &mut |_, tracker| tracker.start())?;
    report::begin(names(what).0, subject, options);
    let start = ticks();
    let mut last = start;
    let mut round = 0;
    // Stop when the output is lost.
    while options.count.is_none_or(|count| round < count) && !output_is_lost() {
        // Not interrupted, since there is no signal handler.
        let _ = time::sleep(options.interval.unwrap_or(INTERVAL));
        round += 1;
        let now = ticks();
        let passed = [now - start, now - last].map(|ticks| ticks / (frequency() / 1000).max(1));
        last = now;
        heat.look(round, passed, options)?;
        tracker.check().map_err(tracked)?;
    }
    heat.each(options, &mut |_, tracker| tracker.stop())?;
    Ok((ExitCode::SUCCESS, 0))
}

struct Heat {
    pid: i32,
    page_shift: u32,
    what: What,
    maps: &'static mut [u8],
}

/// The numbers of a round.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// Pages in memory.
    pages: u64,
    /// Pages that were written or accessed.
    hot: u64,
    /// Pages that may have been written or accessed.
    uncertain: u64,
}

impl Heat {
    fn new(pid: i32, page_shift: u32, what: What) -> Result<Self, Error> {
        Ok(Self {
            pid,
            page_shift,
            what,
            maps: leak_zeroed(MAPS_ROOM).map_err(|errno| Error::Memory("maps", errno))?,
        })
    }

    /// Visits the mappings, or their parts in the range, that can be tracked.
    fn each(
        &mut self,
        options: &Options,
        visit: &mut dyn FnMut(&Vma<'_>, &Tracker) -> Result<(), DirtyError>,
    ) -> Result<(), Error> {
        let page = 1 << self.page_shift;
        let tracking = Tracking {
            what: self.what,
            absent: true,
            ..Tracking::WRITTEN
        };
        let maps = read_maps_into(self.pid, self.maps)?;
        if maps.is_empty() {
            return Err(Error::NoTables(self.pid));
        }
        for vma in vmas(maps) {
            let (first, last) = options.range;
            let start = vma.start.max(first.0 / page * page);
            let end = vma
                .end
                .min((last.0 / page).saturating_add(1).saturating_mul(page));
            if start >= end {
                continue;
            }
            let range = VirtualAddress(start)..VirtualAddress(end);
            match visit(&vma, &Tracker::new(self.pid, range, tracking)) {
                Ok(()) => {}
                // A mapping of another kind, or one that is gone.
                Err(DirtyError::Track {
                    errno: Errno::EINVAL,
                    ..
                }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Shows what has happened since the previous round.
    fn look(
        &mut self,
        round: u32,
        [since_start, since_last]: [u64; 2],
        options: &Options,
    ) -> Result<(), Error> {
        let (what, shift) = (self.what, self.page_shift);
        let pagemap = Pagemap::open(self.pid, shift)
            .map_err(|errno| Error::Proc(self.pid, "pagemap", errno))?;
        let mut all = Seen::default();
        let rate = |pages: u64| pages * 1000 / since_last.max(1);
        self.each(options, &mut |vma, tracker| {
            let Seen { hot, uncertain, .. } = collect(tracker, what, shift, options, round)?;
            let range = tracker.range();
            let (start, end) = (range.start.0, range.end.0);
            all.hot += hot;
            all.uncertain += uncertain;
            // A mapping that is gone has no pages.
            all.pages += pagemap.count_present(start, end).unwrap_or(0);
            if hot + uncertain > 0 && !options.json {
                let (pages, rate) = ((end - start) >> shift, rate(hot));
                let name = Name(Some(vma.name));
                println!(
                    "{start:12x}-{end:<12x} {pages:8} {hot:8} {uncertain:8} {rate:8}{name:.15}"
                );
            }
            Ok(())
        })?;
        self.end_round(round, since_start, rate(all.hot), &all, options);
        Ok(())
    }

    fn end_round(&self, round: u32, time: u64, rate: u64, seen: &Seen, options: &Options) {
        let (kind, hot) = names(self.what);
        if options.json {
            Json::new("round")
                .number("time_ms", time)
                .number("round", round.into())
                .text("kind", kind)
                .number("pages", seen.pages)
                .number(hot, seen.hot)
                .number("uncertain", seen.uncertain);
        } else {
            let Seen {
                pages,
                hot: many,
                uncertain,
            } = seen;
            println!(
                "# {time} ms: {many} of {} {hot}, {uncertain} uncertain, {rate} a second",
                Count(*pages, "page", "pages")
            );
        }
    }
}

/// Returns the name of the command, and what its pages are.
const fn names(what: What) -> (&'static str, &'static str) {
    match what {
        What::Written => ("dirty", "written"),
        What::Accessed => ("idle", "accessed"),
    }
}

/// Shows what has happened to the pages of a tracker. Returns how many are hot, or may be.
fn collect(
    tracker: &Tracker,
    what: What,
    shift: u32,
    options: &Options,
    round: u32,
) -> Result<Seen, DirtyError> {
    let mut seen = Seen::default();
    tracker.collect(|run| {
        let pages = (run.end.0 - run.start.0) >> shift;
        let Some(kind) = kind(what, run.reasons) else {
            return;
        };
        match kind {
            "dirty" | "accessed" => seen.hot += pages,
            ABSENT => {}
            _ => seen.uncertain += pages,
        }
        if options.json {
            Json::new("run")
                .number("round", round.into())
                .hex("start", run.start.0)
                .hex("end", run.end.0)
                .number("pages", pages)
                .text("kind", kind);
        }
    })?;
    Ok(seen)
}

/// The kind of a run without a page that could have been written. Runs of the other kinds, apart from `dirty`
/// and `accessed`, may have been written or accessed.
const ABSENT: &str = "absent";

/// Returns the kind of a run: the most certain one.
fn kind(what: What, reasons: Reasons) -> Option<&'static str> {
    let hot = match what {
        What::Written => reasons.is_written().then_some("dirty"),
        What::Accessed => reasons.is_accessed().then_some("accessed"),
    };
    let others = [
        (reasons.is_absent(), ABSENT),
        (reasons.is_away(), "away"),
        (reasons.is_busy(), "busy"),
        (reasons.is_new(), "new"),
    ];
    hot.or_else(|| others.iter().find(|(is, _)| *is).map(|&(_, kind)| kind))
}
