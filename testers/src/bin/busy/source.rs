//! The sources of a process's tables.

use tablewalk_live::copy::{Copied, CopyError, Either};
use tablewalk_live::{Live, LiveError};
use tablewalk_rt::println;
use tablewalk_testkit::error::Error;
use tablewalk_uapi::{Errno, process, remap};
use tablewalk_walker::{Format, TableSource, VirtualAddress, Visit, Walk};

/// One mapped table for each level, so that only a few tables are read at a time.
const SLOTS: usize = 5;
const BATCH_SLOTS: usize = 16;

/// A kind of source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// The call, or the module where there is no call.
    Live,
    Bpf,
    Kcore,
}

impl Way {
    /// Returns its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Live if remap::number().is_some() => "call",
            Self::Live => "module",
            Self::Bpf => "bpf",
            Self::Kcore => "kcore",
        }
    }
}

/// An open source.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub(crate) enum Source {
    Live(Live),
    Copied(Copied<Either>),
}

/// Opens a source of this process's tables. Returns `None` if there is none, after printing why.
pub(crate) fn open(way: Way) -> Result<Option<Source>, Error> {
    let own = process::pid();
    let copied = match way {
        Way::Live => {
            return match Live::with_batch(own, SLOTS, BATCH_SLOTS) {
                Ok(live) => Ok(Some(Source::Live(live))),
                Err(LiveError::Info(Errno::ENOSYS)) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        Way::Bpf => Either::bpf(),
        Way::Kcore => Either::kcore(),
    };
    match copied {
        Ok(kernel) => Ok(Some(Source::Copied(
            Copied::new(kernel, own).map_err(copy_error)?,
        ))),
        Err(error @ CopyError::Open { .. }) => {
            println!("# {error}");
            Ok(None)
        }
        Err(error) => Err(copy_error(error)),
    }
}

/// Prints why copying tables failed.
fn copy_error(error: CopyError) -> Error {
    println!("# {error}");
    Error::Call("copies of tables", Errno::EIO)
}

impl Source {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Live(live) => live.format(),
            Self::Copied(copied) => copied.format(),
        }
    }

    /// Switches to another process.
    pub(crate) fn follow(&mut self, pid: i32) -> Result<(), Error> {
        match self {
            Self::Live(live) => *live = Live::with_batch(pid, SLOTS, BATCH_SLOTS)?,
            Self::Copied(copied) => copied.retarget(pid).map_err(copy_error)?,
        }
        Ok(())
    }

    /// Returns whether these are the tables that the process has now. Mapped tables are always the current ones.
    pub(crate) fn is_current(&mut self) -> Result<bool, Error> {
        match self {
            Self::Live(_) => Ok(false),
            Self::Copied(copied) => copied.is_current().map_err(copy_error),
        }
    }

    /// Walks `[first, last]`.
    pub(crate) fn walk(
        &mut self,
        range: (VirtualAddress, VirtualAddress),
        visit: impl FnMut(Visit),
    ) -> Result<(), Error> {
        match self {
            Self::Live(live) => match walk(live, range, visit) {
                // The process has ended.
                Err(LiveError::Map {
                    errno: Errno::ESRCH,
                    ..
                }) => Ok(()),
                result => Ok(result?),
            },
            Self::Copied(copied) => walk(copied, range, visit).map_err(copy_error),
        }
    }

    /// Counts the accessed pages of `[first, last]`.
    pub(crate) fn count_accessed(
        &mut self,
        range: (VirtualAddress, VirtualAddress),
        gathering: bool,
    ) -> Result<u64, Error> {
        match self {
            Self::Live(live) => Ok(count_accessed(live, range, gathering)?),
            Self::Copied(copied) => count_accessed(copied, range, gathering).map_err(copy_error),
        }
    }
}

fn count_accessed<S: TableSource>(
    source: &mut S,
    range: (VirtualAddress, VirtualAddress),
    gathering: bool,
) -> Result<u64, S::Error> {
    let geometry = source.geometry();
    let mut walk = Walk::new(source).within(range.0, range.1);
    if gathering {
        walk = walk.gathering();
    }
    let mut accessed = 0;
    for visit in walk {
        if let Visit::Leaf(leaf) = visit?
            && leaf.descriptor.is_accessed()
        {
            accessed += leaf.pages(&geometry);
        }
    }
    Ok(accessed)
}

fn walk<S: TableSource>(
    source: &mut S,
    range: (VirtualAddress, VirtualAddress),
    mut visit: impl FnMut(Visit),
) -> Result<(), S::Error> {
    for found in Walk::new(source).within(range.0, range.1) {
        visit(found?);
    }
    Ok(())
}
