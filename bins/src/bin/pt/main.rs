//! `pt`: shows, translates, searches, compares and saves the page tables of a process or a file.

#![no_std]
#![cfg_attr(not(test), no_main)]

mod attributes;
mod command;
mod diff;
mod error;
mod find;
mod heat;
mod json;
mod maps;
mod options;
mod progress;
mod report;
mod save;
mod stat;
mod subject;
mod translate;
mod verify;
mod walk;

use tablewalk_live::LiveError;
use tablewalk_live::copy::CopyError;
use tablewalk_rt::{Args, ExitCode, eprintln};
use tablewalk_uapi::{Errno, remap};

use crate::command::{Command, Request, What};
use crate::error::Error;
use crate::options::untag;
use crate::subject::{Source, Subject, is_file};

tablewalk_rt::program!(main);

/// The result of a command: the exit status, and the number of tables that vanished before they could be
/// read.
type Ended = (ExitCode, u64);

fn main(args: Args) -> ExitCode {
    match command::parse(args) {
        Ok(request) => run(&request).unwrap_or_else(|error| {
            eprintln!("pt: {error}");
            match error {
                Error::Usage(_) | Error::Address(..) => ExitCode::USAGE,
                Error::Live(LiveError::Info(Errno::ENOSYS))
                | Error::NoSource(true)
                | Error::Module(_)
                | Error::Call(_) => ExitCode::SKIP,
                // The source of `--source` is missing.
                Error::Copy(error @ CopyError::Open { .. }) if error.is_missing() => ExitCode::SKIP,
                _ => ExitCode::FAILURE,
            }
        }),
        Err(status) => status,
    }
}

fn run(request: &Request) -> Result<ExitCode, Error> {
    if let (Command::Find(What::Frame(frame)), "all") = (request.command, request.target) {
        return find::everywhere(frame, &request.options);
    }
    // No copy says what was written or accessed since, so do not look for a source of copies.
    if matches!(request.command, Command::Heat(_))
        && !is_file(request.target)
        && remap::number().is_none()
    {
        return Err(Error::Call(request.name));
    }
    let beside = match request.command {
        Command::Diff(other) => other,
        _ => None,
    };
    let subject = &mut Subject::open(request.target, beside, request.options.source)?;
    let options = &request.options.fit(&subject.format.geometry)?;
    let geometry = &subject.format.geometry;
    for &address in &request.addresses {
        if !geometry.contains(untag(geometry, address).0) {
            return Err(Error::Address(address, *geometry));
        }
    }
    refuse(request, subject)?;
    // These check more before anything is printed: the second target, the file, other trackers.
    if !matches!(
        request.command,
        Command::Diff(Some(_)) | Command::Save(_) | Command::Heat(_)
    ) {
        report::begin(request.name, subject, options);
    }
    let (status, changed) = match request.command {
        Command::Walk => walk::run(subject, options),
        Command::Maps => maps::run(subject, options),
        Command::Translate => translate::run(subject, &request.addresses, options),
        Command::Find(what) => find::run(subject, what, options),
        Command::Diff(None) => diff::watch(subject, options),
        Command::Diff(Some(other)) => diff::compare(subject, other, options),
        Command::Heat(what) => heat::watch(subject, what, options),
        Command::Stat => stat::run(subject, options),
        Command::Verify => verify::run(subject, options),
        Command::Save(file) => save::run(subject, file, options),
    }
    .map_err(|error| subject.explain(error))?;
    subject.check()?;
    report::end(options, changed, matches!(subject.source, Source::Saved(_)));
    Ok(status)
}

/// Refuses a command that this source does not support, before anything is printed.
fn refuse(request: &Request, subject: &Subject) -> Result<(), Error> {
    let copied = matches!(subject.source, Source::Copied(_));
    match request.command {
        Command::Verify if subject.live_pid().is_none() => Err(verify::NO_PAGEMAP),
        Command::Diff(_) | Command::Save(_) | Command::Heat(_)
            if subject.format.geometry.is_kernel() =>
        {
            Err(diff::OF_KERNEL)
        }
        Command::Heat(_) if copied => Err(Error::Usage("dirty and idle need --source call")),
        Command::Diff(None) | Command::Heat(_) if subject.live_pid().is_none() => {
            Err(Error::Usage("a file does not change: give a process"))
        }
        _ => Ok(()),
    }
}
