//! The target whose tables are shown: a process, the kernel, or a file.

use core::fmt;

use tablewalk_live::copy::{Copied, Either};
use tablewalk_live::{Live, LiveError};
use tablewalk_proc::lines::parse_number;
use tablewalk_proc::path::{PathBuffer, proc_path};
use tablewalk_rt::eprintln;
use tablewalk_rt::memory::leak_zeroed;
use tablewalk_uapi::file::{self, O_RDONLY, OwnedFd};
use tablewalk_uapi::{Errno, process, remap};
use tablewalk_walker::dump::{Dump, DumpError, HEADER_SIZE};
use tablewalk_walker::{
    Batched, Format, FrameNumber, Geometry, Level, Path, Table, TableId, TableSource,
    VirtualAddress, path,
};

use crate::error::Error;
use crate::options::SourceKind;
use crate::report::FileName;

/// One slot for each level, as a walk needs.
const SLOTS: usize = Level::ALL.len();
/// Number of tables mapped with one call: the maximum.
const BATCH_SLOTS: usize = 512;
/// Address space for a file.
const FILE_ROOM: usize = 8 << 30;
/// Address space for `/proc/PID/maps`: 65,530 lines of some 100 bytes, and some with long paths.
pub(crate) const MAPS_ROOM: usize = 64 << 20;

/// A target, open.
pub(crate) struct Subject {
    pub(crate) source: Source,
    pub(crate) format: Format,
    pub(crate) name: &'static str,
}

/// A source of tables.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of them, or two, and no heap to put it on"
)]
pub(crate) enum Source {
    Live(i32, Live),
    Copied(Copied<Either>),
    Saved(Dump<'static>),
}

impl Subject {
    /// Opens what `target` names: digits are a process, `self` is this process, `kernel` the kernel's own
    /// tables, anything else a file, except `all`, which is handled before. A file `beside` a process has no
    /// source of that `kind`.
    pub(crate) fn open(
        target: &'static str,
        beside: Option<&'static str>,
        kind: Option<SourceKind>,
    ) -> Result<Self, Error> {
        if target == "all" || beside == Some("all") {
            return Err(Error::Usage("`all` is only for `find all --frame PFN`"));
        }
        let pid = process_of(target)?;
        let source = match pid {
            Some(pid) => Source::of_process(pid, kind)?,
            None if target == "kernel" => Source::of_kernel(kind)?,
            None if kind.is_some() && beside.is_none_or(is_file) => {
                return Err(Error::Usage("--source: a file is its own source"));
            }
            None => Source::Saved(open_dump(target)?),
        };
        Ok(Self {
            format: source.format(),
            source,
            name: target,
        })
    }

    /// Returns the process, unless it is a file or the kernel.
    pub(crate) const fn live_pid(&self) -> Option<i32> {
        match &self.source {
            Source::Live(pid, _) => Some(*pid),
            Source::Copied(copied) => copied.pid(),
            Source::Saved(_) => None,
        }
    }

    /// Returns the process, or for a file the process that was saved.
    pub(crate) fn pid(&self) -> u32 {
        match &self.source {
            Source::Live(pid, _) => pid.cast_unsigned(),
            Source::Copied(copied) => copied.pid().unwrap_or(0).cast_unsigned(),
            Source::Saved(dump) => dump.pid(),
        }
    }

    /// Returns `/proc/PID/maps`, live or saved. If it cannot be read, prints a warning and continues without
    /// names.
    pub(crate) fn maps(&self) -> Result<&'static [u8], Error> {
        match &self.source {
            Source::Saved(dump) => return Ok(dump.text()),
            Source::Copied(copied) if copied.pid().is_none() => return Ok(&[]),
            Source::Live(..) | Source::Copied(_) => {}
        }
        match read_maps(self.pid().cast_signed()) {
            Err(error @ Error::Proc(..)) => {
                eprintln!("pt: {error}: no names");
                Ok(&[])
            }
            result => result,
        }
    }

    /// Returns what has gone wrong: if the process has ended, that is the reason for errors of its tables and
    /// its files.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match (&self.source, error) {
            (
                Source::Live(pid, _),
                Error::Live(_) | Error::Dirty(_) | Error::Proc(..) | Error::NoTables(_),
            ) if matches!(remap::path(*pid, 0), Err(Errno::ESRCH)) => Error::Gone(*pid),
            (_, error) => error,
        }
    }

    /// Checks that the process still has the tables that were copied: it has neither ended nor executed
    /// another program.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        if let Source::Copied(copied) = &mut self.source
            && !copied.is_current()?
        {
            return Err(Error::Ended(self.pid()));
        }
        Ok(())
    }
}

/// `process 29`, or `FILE (process 29)`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Copied(copied) if copied.pid().is_none() => f.write_str("kernel"),
            Source::Live(..) | Source::Copied(_) => write!(f, "process {}", self.pid()),
            Source::Saved(_) => write!(f, "{} (process {})", FileName(self.name), self.pid()),
        }
    }
}

impl Source {
    /// Opens the tables of a process.
    pub(crate) fn of_process(pid: i32, kind: Option<SourceKind>) -> Result<Self, Error> {
        if kind.is_none_or(SourceKind::is_live) {
            match (kind, live_kind()) {
                (Some(SourceKind::Module), SourceKind::Call) => {
                    return Err(Error::Module("this kernel has the call, remap_page_table"));
                }
                (Some(SourceKind::Call), SourceKind::Module) => {
                    return Err(LiveError::Info(Errno::ENOSYS).into());
                }
                _ => {}
            }
            match Live::with_batch(pid, SLOTS, BATCH_SLOTS) {
                Err(LiveError::Info(Errno::ENOSYS)) if kind.is_none() => {}
                Err(LiveError::Info(Errno::ENOSYS)) => {
                    return Err(Error::Module("no /dev/remap_page_table: it is not loaded"));
                }
                live => {
                    let live = live?;
                    // Checked before anything is printed.
                    if matches!(remap::path(pid, 0), Err(Errno::ESRCH)) {
                        return Err(Error::NoTables(pid));
                    }
                    return Ok(Self::Live(pid, live));
                }
            }
        }
        let mut copied = copied(kind, true)?;
        copied.retarget(pid)?;
        Ok(Self::Copied(copied))
    }

    /// Opens the tables of the kernel.
    fn of_kernel(kind: Option<SourceKind>) -> Result<Self, Error> {
        if kind.is_some_and(SourceKind::is_live) {
            return Err(Error::Usage(
                "kernel: remap_page_table gives tables of processes alone",
            ));
        }
        let mut copied = copied(kind, false)?;
        copied.retarget_to_kernel()?;
        Ok(Self::Copied(copied))
    }

    /// Returns the kind of source.
    pub(crate) fn kind(&self) -> Option<SourceKind> {
        match self {
            Self::Live(..) => Some(live_kind()),
            Self::Copied(copied) => match copied.kernel() {
                Either::Bpf(_) => Some(SourceKind::Bpf),
                Either::Kcore(_) => Some(SourceKind::Kcore),
            },
            Self::Saved(_) => None,
        }
    }

    /// Returns its name and its guarantee. The kernel frees its own tables without RCU.
    pub(crate) fn promise(&self) -> (&'static str, &'static str) {
        match self.kind() {
            Some(SourceKind::Call) => ("call", "live"),
            Some(SourceKind::Module) => ("module", "live"),
            Some(SourceKind::Bpf) if self.format().geometry.is_kernel() => ("bpf", "checked copy"),
            Some(SourceKind::Bpf) => ("bpf", "copy under RCU"),
            Some(SourceKind::Kcore) => ("kcore", "checked copy"),
            None => ("file", "saved"),
        }
    }

    /// Switches to another process, with the same kind of source.
    pub(crate) fn retarget(&mut self, pid: i32) -> Result<(), Error> {
        match self {
            Self::Copied(copied) => Ok(copied.retarget(pid)?),
            _ => {
                *self = Self::of_process(pid, self.kind())?;
                Ok(())
            }
        }
    }

    /// Returns the descriptors that translate `address`.
    pub(crate) fn path(&mut self, address: VirtualAddress) -> Result<Path, Error> {
        match self {
            Self::Live(pid, live) => Ok(tablewalk_live::path(*pid, &live.geometry(), address)?),
            source => path(source, address),
        }
    }
}

/// Returns which of the two live sources this kernel has: the module is used if there is no call.
fn live_kind() -> SourceKind {
    match remap::number() {
        Some(_) => SourceKind::Call,
        None => SourceKind::Module,
    }
}

/// Returns the process that `target` names, if it names one.
fn process_of(target: &'static str) -> Result<Option<i32>, Error> {
    match target {
        "self" => Ok(Some(process::pid())),
        _ if is_number(target) => {
            let pid = parse_number(target.as_bytes(), 10).and_then(|pid| pid.try_into().ok());
            // To the call, 0 is the caller.
            let pid = pid.filter(|&pid| pid != 0);
            pid.ok_or(Error::File(target, Errno::ESRCH)).map(Some)
        }
        _ => Ok(None),
    }
}

/// Returns whether a target is a process by its number.
fn is_number(target: &str) -> bool {
    target.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether a target is neither a process nor the kernel.
pub(crate) fn is_file(target: &str) -> bool {
    !is_number(target) && !matches!(target, "self" | "kernel")
}

/// Opens the first source of copies that works, of those that were requested. If none works, prints the
/// reason for each, and that there is no call, which was `tried` first.
fn copied(kind: Option<SourceKind>, tried: bool) -> Result<Copied<Either>, Error> {
    let bpf = match kind {
        None | Some(SourceKind::Bpf) => Either::bpf().and_then(Copied::calibrated),
        _ => return Ok(Either::kcore().and_then(Copied::calibrated)?),
    };
    let bpf = match bpf {
        Err(error) if kind.is_none() => error,
        result => return Ok(result?),
    };
    Either::kcore()
        .and_then(Copied::calibrated)
        .map_err(|kcore| {
            if tried {
                eprintln!("pt: remap_page_table: {}", Errno::ENOSYS);
            }
            eprintln!("pt: {bpf}");
            eprintln!("pt: {kcore}");
            Error::NoSource(bpf.is_missing() && kcore.is_missing())
        })
}

/// Reads `/proc/PID/maps`.
pub(crate) fn read_maps(pid: i32) -> Result<&'static [u8], Error> {
    let room = leak_zeroed(MAPS_ROOM).map_err(|errno| Error::Memory("maps", errno))?;
    read_maps_into(pid, room)
}

/// The same, in `room` of [`MAPS_ROOM`].
pub(crate) fn read_maps_into(pid: i32, room: &mut [u8]) -> Result<&[u8], Error> {
    let error = |errno| Error::Proc(pid, "maps", errno);
    let path = proc_path(pid, "maps").map_err(error)?;
    let fd = file::open(&path, O_RDONLY).map_err(error)?;
    read_all(&fd, room).map_err(error).map(|text| &*text)
}

fn open_dump(name: &'static str) -> Result<Dump<'static>, Error> {
    let error = |errno| Error::File(name, errno);
    let fd = file::open(&c_path(name)?, O_RDONLY).map_err(error)?;
    let room = leak_zeroed(FILE_ROOM).map_err(|errno| Error::Memory("a file", errno))?;
    let dump_error = |dump_error| Error::Dump(name, dump_error);
    let (header, _) = room.split_at_mut_checked(HEADER_SIZE).unwrap_or_default();
    let read = read_up_to(&fd, header).map_err(error)?;
    // Parsing the header alone returns the size of the dump, or that it is not a dump.
    let size = match Dump::from_bytes(header.get_mut(..read).unwrap_or_default()) {
        Err(DumpError::Length {
            expected: Some(size),
            ..
        }) => size,
        Ok(_) => HEADER_SIZE as u64,
        Err(error) => return Err(dump_error(error)),
    };
    // One more byte than the dump has, to detect a longer file.
    let all = usize::try_from(size)
        .ok()
        .and_then(|size| size.checked_add(1));
    let all = all.and_then(|all| room.get_mut(HEADER_SIZE..all));
    let all = all.ok_or_else(|| error(Errno::EFBIG))?;
    let read = HEADER_SIZE + read_up_to(&fd, all).map_err(error)?;
    if read as u64 > size {
        return Err(Error::Longer(name, size));
    }
    Dump::from_bytes(room.get_mut(..read).unwrap_or_default()).map_err(dump_error)
}

pub(crate) fn c_path(name: &'static str) -> Result<PathBuffer, Error> {
    PathBuffer::of(name).map_err(|errno| Error::File(name, errno))
}

/// Reads to the end. Returns the part of `room` that was filled; `EFBIG` if that is all of it.
fn read_all<'r>(fd: &OwnedFd, room: &'r mut [u8]) -> Result<&'r mut [u8], Errno> {
    let filled = read_up_to(fd, room)?;
    let filled = Some(filled).filter(|&filled| filled < room.len());
    filled
        .and_then(|filled| room.get_mut(..filled))
        .ok_or(Errno::EFBIG)
}

/// Reads until `room` is full, or to the end. Returns the number of bytes.
fn read_up_to(fd: &OwnedFd, room: &mut [u8]) -> Result<usize, Errno> {
    let mut filled = 0;
    loop {
        let free = room.get_mut(filled..).unwrap_or_default();
        if free.is_empty() {
            return Ok(filled);
        }
        match file::read(fd, free) {
            Ok(0) => return Ok(filled),
            Ok(read) => filled += read,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[expect(unsafe_code, reason = "passes on what the two sources promise")]
mod source {
    use super::{
        Batched, Error, Format, FrameNumber, Geometry, Level, Source, Table, TableId, TableSource,
        VirtualAddress,
    };

    // SAFETY: both promise it.
    unsafe impl TableSource for Source {
        type Error = Error;

        fn format(&self) -> Format {
            match self {
                Self::Live(_, live) => live.format(),
                Self::Copied(copied) => copied.format(),
                Self::Saved(dump) => dump.format(),
            }
        }

        fn geometry(&self) -> Geometry {
            match self {
                Self::Live(_, live) => live.geometry(),
                Self::Copied(copied) => copied.geometry(),
                Self::Saved(dump) => dump.geometry(),
            }
        }

        fn slots(&self) -> usize {
            match self {
                Self::Live(_, live) => live.slots(),
                Self::Copied(copied) => copied.slots(),
                Self::Saved(dump) => dump.slots(),
            }
        }

        fn map(&mut self, slot: usize, id: TableId) -> Result<Option<FrameNumber>, Error> {
            match self {
                Self::Live(_, live) => Ok(live.map(slot, id)?),
                Self::Copied(copied) => Ok(copied.map(slot, id)?),
                Self::Saved(dump) => Ok(dump.map(slot, id)?),
            }
        }

        fn table(&self, slot: usize) -> Table<'_> {
            match self {
                Self::Live(_, live) => live.table(slot),
                Self::Copied(copied) => copied.table(slot),
                Self::Saved(dump) => dump.table(slot),
            }
        }

        fn batch_slots(&self) -> usize {
            match self {
                Self::Live(_, live) => live.batch_slots(),
                Self::Copied(copied) => copied.batch_slots(),
                Self::Saved(_) => 0,
            }
        }

        fn map_batch(
            &mut self,
            slot: usize,
            level: Level,
            start: VirtualAddress,
            last: VirtualAddress,
        ) -> Result<usize, Error> {
            match self {
                Self::Live(_, live) => Ok(live.map_batch(slot, level, start, last)?),
                Self::Copied(copied) => Ok(copied.map_batch(slot, level, start, last)?),
                Self::Saved(_) => Ok(0),
            }
        }

        fn batched(&self, slot: usize) -> Option<Batched> {
            match self {
                Self::Live(_, live) => live.batched(slot),
                Self::Copied(copied) => copied.batched(slot),
                Self::Saved(_) => None,
            }
        }

        fn batch_table(&self, slot: usize) -> Table<'_> {
            match self {
                Self::Live(_, live) => live.batch_table(slot),
                Self::Copied(copied) => copied.batch_table(slot),
                Self::Saved(dump) => dump.batch_table(slot),
            }
        }
    }
}
