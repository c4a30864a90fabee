//! What was told of a few pages.

use core::fmt;

use tablewalk_dirty::{Options, Run, Tracker, Why};
use tablewalk_rt::println;
use tablewalk_testkit::error::Error;
use tablewalk_uapi::Mapping;
use tablewalk_walker::VirtualAddress;

/// Pages that are looked at apart.
const PAGES: usize = 64;

/// Pages that are tracked, and what was told of each.
pub(crate) struct Told {
    tracker: Tracker,
    page: u64,
    why: [Option<Why>; PAGES],
    /// Pages that were told.
    pub(crate) pages: u64,
}

/// The pages of a mapping, or of a part of it.
pub(crate) fn range(start: u64, pages: usize, page: usize) -> core::ops::Range<VirtualAddress> {
    VirtualAddress(start)..VirtualAddress(start + (pages * page) as u64)
}

impl Told {
    /// All of `mapping`, from now on.
    pub(crate) fn start(mapping: &Mapping, page: usize, options: Options) -> Result<Self, Error> {
        let all = range(mapping.address(), mapping.size() / page, page);
        let told = Self {
            tracker: Tracker::new(0, all, options),
            page: page as u64,
            why: [None; PAGES],
            pages: 0,
        };
        told.tracker.start()?;
        Ok(told)
    }

    pub(crate) const fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// What was written since the last time.
    pub(crate) fn collect(&mut self) -> Result<&mut Self, Error> {
        self.why = [None; PAGES];
        self.pages = 0;
        let (first, page) = (self.tracker.range().start.0, self.page);
        let (why, pages) = (&mut self.why, &mut self.pages);
        self.tracker.collect(|run: Run| {
            *pages += (run.end.0 - run.start.0) / page;
            let start = usize::try_from((run.start.0 - first) / page).unwrap_or(PAGES);
            let end = usize::try_from((run.end.0 - first) / page).unwrap_or(PAGES);
            let told = start.min(PAGES)..end.min(PAGES);
            for slot in why.get_mut(told).unwrap_or_default() {
                *slot = Some(run.why);
            }
        })?;
        Ok(self)
    }

    /// That exactly the pages with these numbers were told, for this reason.
    pub(crate) fn are(&self, what: &str, numbers: &[usize], reason: fn(Why) -> bool) -> bool {
        let wrong = |(number, why): &(usize, &Option<Why>)| match why {
            Some(why) => !numbers.contains(number) || !reason(*why),
            None => numbers.contains(number),
        };
        let expected = numbers.len() as u64;
        let first = self.why.iter().enumerate().find(wrong);
        if let Some((number, why)) = first {
            println!("# {what}: page {number}: {}", Shown(*why));
        }
        if self.pages != expected && expected < PAGES as u64 {
            println!("# {what}: {} pages told, expected {expected}", self.pages);
        }
        first.is_none() && (self.pages == expected || expected == PAGES as u64)
    }

    /// Whether this page was told, for whatever reason.
    pub(crate) fn has(&self, number: usize) -> bool {
        self.why.get(number).is_some_and(Option::is_some)
    }

    /// That none was told.
    pub(crate) fn none(&self, what: &str) -> bool {
        self.are(what, &[], |_| true)
    }
}

struct Shown(Option<Why>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(why) => write!(f, "{why:?}"),
            None => f.write_str("not told"),
        }
    }
}
