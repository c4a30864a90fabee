//! Checks the reports about a few pages.

use core::fmt;

use tablewalk_dirty::{Options, Reasons, Run, Tracker};
use tablewalk_rt::{Count, println};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::Mapping;
use tablewalk_walker::VirtualAddress;

/// Number of pages that are checked one by one.
const PAGES: usize = 64;

/// A tracker, and the last report of each page.
pub(crate) struct Reported {
    tracker: Tracker,
    page: u64,
    reasons: [Option<Reasons>; PAGES],
    /// Number of pages reported.
    pub(crate) pages: u64,
}

/// Returns the address range of `pages` pages.
pub(crate) fn range(start: u64, pages: usize, page: usize) -> core::ops::Range<VirtualAddress> {
    VirtualAddress(start)..VirtualAddress(start + (pages * page) as u64)
}

impl Reported {
    /// Starts tracking all of `mapping`.
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

    /// Collects the pages that were written since the last call.
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

    /// Returns whether exactly the pages with these numbers were reported, for this reason; prints the
    /// difference if not.
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
                "# {what}: {} reported, expected {expected}",
                Count(self.pages, "page", "pages")
            );
        }
        first.is_none() && (self.pages == expected || expected == PAGES as u64)
    }

    /// Returns whether this page was reported, for whatever reason.
    pub(crate) fn has(&self, number: usize) -> bool {
        self.reasons.get(number).is_some_and(Option::is_some)
    }

    /// Returns whether no page was reported.
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
