//! `pt maps`: ranges of equal attributes, with the names of mappings.

use tablewalk_rt::ExitCode;
use tablewalk_walker::{Merge, Runs, WalkError};

use crate::Ended;
use crate::error::Error;
use crate::options::Options;
use crate::progress::Progress;
use crate::report::{self, Range, vmas};
use crate::subject::Subject;

#[inline(never)]
pub(crate) fn run(subject: &mut Subject, options: &Options) -> Result<Ended, Error> {
    report::print_range_titles(options);
    let format = subject.format;
    let mut vmas = vmas(subject.maps()?).peekable();
    let merge = if options.frames {
        Merge::Frames
    } else {
        Merge::Attributes
    };
    let mut progress = Progress::start();
    let mut changed = 0;
    for run in Runs::new(options.walk(&mut subject.source), merge) {
        let run = match run {
            Ok(run) => run,
            Err(WalkError::Changed(_)) => {
                changed += 1;
                continue;
            }
            Err(WalkError::Source(error)) => return Err(error),
        };
        progress.at(run.address);
        // A run goes on where a mapping ends and the next one is the same to the tables.
        let (mut start, last) = (run.address.0, run.end(&format).0);
        while start < last {
            while vmas.next_if(|vma| vma.end <= start).is_some() {}
            let (end, vma) = match vmas.peek() {
                Some(vma) if vma.start <= start => (last.min(vma.end), Some(vma)),
                Some(vma) => (last.min(vma.start), None),
                None => (last, None),
            };
            let range = Range {
                run: &run,
                start,
                end,
                vma,
            };
            report::print_range(&format, &range, options);
            start = end;
        }
    }
    Ok((ExitCode::SUCCESS, changed))
}
