//! `pt maps`: ranges of equal attributes, with the names of mappings.

use tablewalk_rt::ExitCode;
use tablewalk_walker::{Merge, Runs, WalkError};

use crate::Ended;
use crate::error::Error;
use crate::options::Options;
use crate::progress::Progress;
use crate::report::{self, vmas};
use crate::subject::Subject;

#[inline(never)]
pub(crate) fn run(subject: &mut Subject, options: &Options) -> Result<Ended, Error> {
    let format = subject.format;
    report::print_range_titles(&format, options);
    let mut vmas = vmas(subject.maps()?).peekable();
    let merge = if options.frames {
        Merge::Frames
    } else {
        Merge::Attributes
    };
    let mut progress = Progress::start();
    let mut changed = 0;
    for run in Runs::new(options.walk(&mut subject.source).gathering(), merge) {
        let run = match run {
            Ok(run) => run,
            Err(WalkError::Changed(_)) => {
                changed += 1;
                continue;
            }
            Err(WalkError::Source(error)) => return Err(error),
        };
        progress.at(run.address);
        report::print_run(&format, &run, &mut vmas, options);
    }
    Ok((ExitCode::SUCCESS, changed))
}
