//! Errors of `pt`.

use core::fmt;

use tablewalk_dirty::DirtyError;
use tablewalk_live::LiveError;
use tablewalk_live::copy::CopyError;
use tablewalk_uapi::Errno;
use tablewalk_walker::dump::{DumpError, InvalidSlot, WriteError};
use tablewalk_walker::{Geometry, VirtualAddress};

use crate::report::FileName;

/// An error, with the information to find its cause.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Error {
    /// Mapping tables.
    Live(LiveError),
    /// Copying tables.
    Copy(CopyError),
    /// Tracking written pages.
    Dirty(DirtyError),
    /// A file that is not a dump.
    Dump(&'static str, DumpError),
    /// A file that cannot be read or written.
    File(&'static str, Errno),
    /// A file of a process.
    Proc(i32, &'static str, Errno),
    /// There is not enough memory for this purpose.
    Memory(&'static str, Errno),
    /// A dump has fewer slots than were requested.
    Slot(InvalidSlot),
    /// A process without user tables.
    NoTables(i32),
    /// A process that has ended while its tables were shown.
    Gone(i32),
    /// A process that ended, or started another program, while its tables were copied.
    Ended(u32),
    /// No source of tables works. True if the kernel has none, false if none is permitted.
    NoSource(bool),
    /// A command that needs the call.
    Call(&'static str),
    /// The module is the source, and there is the call, or no module.
    Module(&'static str),
    /// Another program tracks the process.
    Tracked(i32),
    /// A file that is longer than its dump, which has this many bytes.
    Longer(&'static str, u64),
    /// An address that tables of this geometry do not translate.
    Address(VirtualAddress, Geometry),
    /// Two dumps that cannot be compared.
    Formats,
    /// The target or an option does not fit the command.
    Usage(&'static str),
}

impl From<LiveError> for Error {
    fn from(error: LiveError) -> Self {
        Self::Live(error)
    }
}

impl From<CopyError> for Error {
    fn from(error: CopyError) -> Self {
        Self::Copy(error)
    }
}

impl From<DirtyError> for Error {
    fn from(error: DirtyError) -> Self {
        Self::Dirty(error)
    }
}

impl From<InvalidSlot> for Error {
    fn from(error: InvalidSlot) -> Self {
        Self::Slot(error)
    }
}

impl<S: Into<Error>> From<WriteError<S, Error>> for Error {
    fn from(error: WriteError<S, Error>) -> Self {
        match error {
            WriteError::Source(error) => error.into(),
            WriteError::Sink(error) => error,
        }
    }
}

impl Error {
    /// Returns whether the process has no tables, or has ended.
    pub(crate) const fn is_gone(&self) -> bool {
        matches!(
            self,
            Self::NoTables(_)
                | Self::Live(LiveError::Map {
                    errno: Errno::ESRCH,
                    ..
                })
                | Self::Copy(CopyError::Process {
                    errno: Errno::ESRCH,
                    ..
                })
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy(CopyError::Process {
                pid,
                file: "mem",
                errno: Errno::ESRCH,
            }) => Self::NoTables(*pid).fmt(f),
            Self::Copy(error) => error.fmt(f),
            Self::Gone(pid) => write!(f, "process {} has ended", pid.cast_unsigned()),
            Self::Ended(pid) => write!(
                f,
                "process {pid} ended or started another program meanwhile: do not rely on what was shown"
            ),
            Self::NoSource(true) => f.write_str(
                "no way to page tables; CONFIG_BPF_SYSCALL with CONFIG_BPF_EVENTS, or CONFIG_PROC_KCORE, \
                 would be one",
            ),
            Self::NoSource(false) => f.write_str("no way to page tables is permitted"),
            Self::Call(command) => write!(
                f,
                "{command}: needs remap_page_table, which this kernel lacks: {}",
                match *command {
                    "dirty" => "PAGEMAP_SCAN tells only of writes to one's own memory",
                    _ => "page_idle tells only whether any process used a frame",
                }
            ),
            Self::Module(reason) => write!(f, "--source module: {reason}"),
            Self::Live(error) => error.fmt(f),
            Self::Dirty(error) => error.fmt(f),
            Self::Dump(file, error) => write!(f, "{}: {error}", FileName(file)),
            Self::File(file, errno) => write!(f, "{}: {errno}", FileName(file)),
            Self::Proc(pid, name, errno) => {
                write!(f, "/proc/{}/{name}: {errno}", pid.cast_unsigned())
            }
            Self::Memory(purpose, errno) => write!(f, "memory for {purpose}: {errno}"),
            Self::Slot(error) => error.fmt(f),
            Self::Address(address, geometry) => write!(
                f,
                "{address}: these tables have {} bits from {}",
                geometry.va_bits(),
                geometry.base()
            ),
            Self::NoTables(pid) => write!(
                f,
                "process {} has no user tables: {}",
                pid.cast_unsigned(),
                Errno::ESRCH
            ),
            Self::Tracked(pid) => write!(
                f,
                "process {}: {}: another pt or checkpoint tracks it",
                pid.cast_unsigned(),
                Errno::EBUSY
            ),
            Self::Longer(file, bytes) => {
                let file = FileName(file);
                write!(f, "{file}: more than the {bytes} bytes of its dump")
            }
            Self::Formats => f.write_str("the two are tables of different kernels"),
            Self::Usage(text) => f.write_str(text),
        }
    }
}

impl core::error::Error for Error {}
