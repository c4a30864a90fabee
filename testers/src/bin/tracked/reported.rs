//! What was reported of a few pages.

use core::fmt;

use tablewalk_dirty::{Options, Reasons, Run, Tracker};
use tablewalk_rt::println;
use tablewalk_testkit::error::Error;
use tablewalk_uapi::Mapping;
use tablewalk_walker::VirtualAddress;

/// Pages that are looked at apart.
const PAGES: usize = 64;

/// Pages that are tracked, and what was reported of each.
pub(crate) struct Reported {
    tracker: Tracker,
    page: u64,
    reasons: [Option<Reasons>; PAGES],
    /// Pages that were reported.
    pub(crate) pages: u64,
}

/// The pages of a mapping, or of a part of it.
pub(crate) fn range(start: u64, pages: usize, page: usize) -> core::ops::Range<VirtualAddress> {
    VirtualAddress(start)..VirtualAddress(start + (pages * page) as u64)
}

impl Reported {
    /// All of `mapping`, from now on.
    pub(crate) fn start(mapping: &Mapping, page: usize, options: Options) -> Result<Self, Error> {
        let all = range(mapping.address(), mapping.size() / page, page);
        let reported = Self {
            tracker: Tracker::new(0, all, options),
            page: page as u64,
            reasons: [None; PAGES],
            pages: 0,
        };
        reported.tracker.start()?;
        Ok(reported)
    }

    pub(crate) const fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// What was written since the last time.
    pub(crate) fn collect(&mut self) -> Result<&mut Self, Error> {
        self.reasons = [None; PAGES];
        self.pages = 0;
        let (first, page) = (self.tracker.range().start.0, self.page);
        let (reasons, pages) = (&mut self.reasons, &mut self.pages);
        self.tracker.collect(|run: Run| {
            *pages += (run.end.0 - run.start.0) / page;
            let start = usize::try_from((run.start.0 - first) / page).unwrap_or(PAGES);
            let end = usize::try_from((run.end.0 - first) / page).unwrap_or(PAGES);
            let reported = start.min(PAGES)..end.min(PAGES);
            for slot in reasons.get_mut(reported).unwrap_or_default() {
                *slot = Some(run.reasons);
            }
        })?;
        Ok(self)
    }

    /// That exactly the pages with these numbers were reported, for this reason.
    pub(crate) fn are(&self, what: &str, numbers: &[usize], reason: fn(Reasons) -> bool) -> bool {
        let wrong = |(number, reasons): &(usize, &Option<Reasons>)| match reasons {
            Some(reasons) => !numbers.contains(number) || !reason(*reasons),
            None => numbers.contains(number),
        };
        let expected = numbers.len() as u64;
        let first = self.reasons.iter().enumerate().find(wrong);
        if let Some((number, reasons)) = first {
            println!("# {what}: page {number}: {}", Shown(*reasons));
        }
        if self.pages != expected && expected < PAGES as u64 {
            println!(
                "# {what}: {} pages reported, expected {expected}",
                self.pages
            );
        }
        first.is_none() && (self.pages == expected || expected == PAGES as u64)
    }

    /// Whether this page was reported, for whatever reason.
    pub(crate) fn has(&self, number: usize) -> bool {
        self.reasons.get(number).is_some_and(Option::is_some)
    }

    /// That none was reported.
    pub(crate) fn none(&self, what: &str) -> bool {
        self.are(what, &[], |_| true)
    }
}

struct Shown(Option<Reasons>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(reasons) => write!(f, "{reasons:?}"),
            None => f.write_str("not reported"),
        }
    }
}
