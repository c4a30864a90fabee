//! Test results in the Kernel Test Anything Protocol, version 1 (`Documentation/dev-tools/ktap.rst`).

use core::fmt::Display;

use crate::{ExitCode, println};

/// The result of one test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The test passed.
    Ok,
    /// The test failed, and printed why as a diagnostic.
    NotOk,
    /// The test could not run, for this reason.
    Skip(&'static str),
}

impl From<bool> for Verdict {
    fn from(ok: bool) -> Self {
        if ok { Self::Ok } else { Self::NotOk }
    }
}

/// Counts the results so far.
#[derive(Debug)]
pub struct Suite {
    planned: usize,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Suite {
    /// Prints the KTAP header and the plan.
    #[must_use]
    pub fn begin(planned: usize) -> Self {
        println!("KTAP version 1\n1..{planned}");
        Self {
            planned,
            passed: 0,
            failed: 0,
            skipped: 0,
        }
    }

    /// Prints and counts the result of the next test.
    pub fn report(&mut self, name: &dyn Display, verdict: Verdict) {
        let number = self.reported() + 1;
        match verdict {
            Verdict::Ok => {
                self.passed += 1;
                println!("ok {number} {name}");
            }
            Verdict::NotOk => {
                self.failed += 1;
                println!("not ok {number} {name}");
            }
            Verdict::Skip(reason) => {
                self.skipped += 1;
                println!("ok {number} {name} # SKIP {reason}");
            }
        }
    }

    /// Prints the totals. Returns success if all planned tests passed, or [`ExitCode::SKIP`] if none ran.
    #[must_use]
    pub fn end(self) -> ExitCode {
        let Self {
            planned,
            passed,
            failed,
            skipped,
        } = self;
        println!("# Totals: pass:{passed} fail:{failed} skip:{skipped}");
        if failed > 0 || self.reported() != planned {
            ExitCode::FAILURE
        } else if passed == 0 {
            ExitCode::SKIP
        } else {
            ExitCode::SUCCESS
        }
    }

    const fn reported(&self) -> usize {
        self.passed + self.failed + self.skipped
    }
}

/// A test that works on a `C`: a name and a function. An error that it returns is printed and counts as a
/// failure.
pub struct Case<C, E> {
    /// What the test expects, in words.
    pub name: &'static str,
    /// Runs the test.
    pub run: fn(&mut C) -> Result<Verdict, E>,
}

/// Prints the plan and runs the cases of all `groups` in order.
pub fn run<C, E: Display>(context: &mut C, groups: &[&[Case<C, E>]]) -> ExitCode {
    let mut suite = Suite::begin(groups.iter().map(|cases| cases.len()).sum());
    for case in groups.iter().copied().flatten() {
        let verdict = (case.run)(context).unwrap_or_else(|error| {
            println!("# {error}");
            Verdict::NotOk
        });
        suite.report(&case.name, verdict);
    }
    suite.end()
}
