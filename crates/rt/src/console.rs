//! Standard output and standard error.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use core::time::Duration;

use heapless::Vec;
use tablewalk_uapi::file::{self, BorrowedFd};
use tablewalk_uapi::{Errno, poll, process, terminal};

use crate::ExitCode;

/// Bytes to write with one system call.
const LINE: usize = 256;

/// How long a terminal may accept no output before [`never_give_up`] restarts it.
const STALLED: Duration = Duration::from_secs(1);

/// A descriptor, and whether output to it was lost.
#[derive(Debug)]
struct Output {
    fd: BorrowedFd<'static>,
    name: &'static str,
    /// The errno of the first write that failed, 0 if none did.
    lost: AtomicU16,
    /// Whether the descriptor was closed when the program was started.
    closed: AtomicBool,
}

static STDOUT: Output = Output::new(BorrowedFd::STDOUT, "standard output");
static STDERR: Output = Output::new(BorrowedFd::STDERR, "standard error");

/// Whether [`never_give_up`] was called.
static ENDLESS: AtomicBool = AtomicBool::new(false);

impl Output {
    const fn new(fd: BorrowedFd<'static>, name: &'static str) -> Self {
        Self {
            fd,
            name,
            lost: AtomicU16::new(0),
            closed: AtomicBool::new(false),
        }
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed) != 0
    }

    /// Writes all bytes, or nothing once a write has failed: what arrives is a prefix of the output, without
    /// a gap.
    fn write(&self, mut bytes: &[u8]) {
        // The descriptor is `/dev/null` now, so a write would succeed although nobody gets the output. In
        // process 1 it is the console, which init has opened meanwhile.
        if self.closed.load(Ordering::Relaxed) && !ENDLESS.load(Ordering::Relaxed) {
            return self.lose(Errno::EBADF);
        }
        while !bytes.is_empty() && !self.is_lost() {
            match file::write_to(self.fd, bytes) {
                Ok(written) if written > 0 => bytes = bytes.get(written..).unwrap_or_default(),
                Ok(_) => return self.lose(Errno::EIO),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait(),
                Err(errno) => return self.lose(errno),
            }
        }
    }

    /// Waits until the descriptor accepts bytes again.
    fn wait(&self) {
        let endless = ENDLESS.load(Ordering::Relaxed);
        match poll::wait_until_writable(self.fd, endless.then_some(STALLED)) {
            Ok(true) | Err(Errno::EINTR) => {}
            // A descriptor that is not a terminal cannot be restarted; wait on.
            Ok(false) => drop(terminal::keep_going(self.fd)),
            Err(errno) => self.lose(errno),
        }
    }

    /// Notes that output was lost. Exits if the reader is gone.
    fn lose(&self, errno: Errno) {
        if ENDLESS.load(Ordering::Relaxed) {
            return;
        }
        self.lost.store(errno.number(), Ordering::Relaxed);
        if errno == Errno::EPIPE && self.fd == BorrowedFd::STDOUT {
            process::exit(settle(ExitCode::FAILURE).0.into());
        }
    }
}

/// An output stream that writes whole lines if they fit into 256 bytes, so that lines of several processes do
/// not mix.
///
/// If the descriptor is non-blocking and accepts nothing at the moment, the stream waits. Any other error is
/// remembered: nothing more is written to that descriptor, and the exit status of the program is a failure.
/// If the reader is gone (`EPIPE` of descriptor 1, where `SIGPIPE` is ignored), the program ends.
#[derive(Debug)]
pub struct Stream {
    output: &'static Output,
    line: Vec<u8, LINE>,
}

impl Stream {
    /// Returns the stream to descriptor 1.
    #[must_use]
    pub const fn stdout() -> Self {
        Self {
            output: &STDOUT,
            line: Vec::new(),
        }
    }

    /// Returns the stream to descriptor 2.
    #[must_use]
    pub const fn stderr() -> Self {
        Self {
            output: &STDERR,
            line: Vec::new(),
        }
    }

    fn flush(&mut self) {
        self.output.write(&self.line);
        self.line.clear();
    }
}

impl Write for Stream {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.line.push(byte).is_err() {
                self.flush();
                let _emptied = self.line.push(byte);
            }
            if byte == b'\n' {
                self.flush();
            }
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Returns whether output to descriptor 1 was lost. Most programs need not ask: the exit status reports it.
#[must_use]
pub fn output_is_lost() -> bool {
    STDOUT.is_lost()
}

/// Returns whether descriptor 1 was closed when the program started. It is `/dev/null` since then, or a
/// folder.
#[must_use]
pub fn stdout_was_closed() -> bool {
    STDOUT.closed.load(Ordering::Relaxed)
}

/// Makes the streams retry for ever, for process 1, which must not end and has nobody to report to. Errors
/// are not remembered, and a non-blocking terminal that accepts nothing for a second is restarted, whoever
/// has stopped it.
pub fn never_give_up() {
    ENDLESS.store(true, Ordering::Relaxed);
}

/// Opens `/dev/null` for each of descriptors 0 to 2 that is closed, or the root folder if there is no
/// `/dev/null`, so that no file of the program gets such a number and receives the program's messages. What
/// is printed to such a descriptor is lost.
#[cfg(target_arch = "aarch64")]
pub(crate) fn fill_descriptors() {
    for fd in 0..=2 {
        if file::is_open(fd) {
            continue;
        }
        for output in [&STDOUT, &STDERR] {
            if fd == output.fd.number() {
                output.closed.store(true, Ordering::Relaxed);
            }
        }
        // Opens under the lowest free number, which is this one. Nothing can be written to a folder, but it
        // keeps the number.
        let _ = file::open_for_good(c"/dev/null", file::O_RDWR)
            .or_else(|_| file::open_for_good(c"/", file::O_RDONLY));
    }
}

/// Returns the exit status of a program that ends with `status`: a failure if output was lost, which standard
/// error then reports.
pub(crate) fn settle(status: ExitCode) -> ExitCode {
    for output in [&STDOUT, &STDERR] {
        let lost = i32::from(output.lost.load(Ordering::Relaxed));
        if let Err(errno) = Errno::from_return_value(-(lost as isize)) {
            crate::eprintln!("{}: {}: {errno}", crate::process::Name::new(), output.name);
        }
    }
    let lost = STDOUT.is_lost() || STDERR.is_lost();
    if lost && matches!(status, ExitCode::SUCCESS | ExitCode::SKIP) {
        return ExitCode::FAILURE;
    }
    status
}

/// Called by [`print!`](crate::print) and [`println!`](crate::println).
#[doc(hidden)]
#[inline(never)]
pub fn print(text: fmt::Arguments<'_>, end: &str) {
    write(Stream::stdout(), text, end);
}

/// Called by [`eprintln!`](crate::eprintln).
#[doc(hidden)]
#[inline(never)]
pub fn eprint(text: fmt::Arguments<'_>, end: &str) {
    write(Stream::stderr(), text, end);
}

fn write(mut stream: Stream, text: fmt::Arguments<'_>, end: &str) {
    // Writing to a stream never fails; the stream remembers lost output.
    let _ = stream.write_fmt(text);
    let _ = stream.write_str(end);
}

/// Writes to standard output.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {
        $crate::console::print(::core::format_args!($($argument)*), "")
    };
}

/// Writes a line to standard output.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::console::print(::core::format_args!($($argument)*), "\n")
    };
}

/// Writes a line to standard error.
#[macro_export]
macro_rules! eprintln {
    ($($argument:tt)*) => {
        $crate::console::eprint(::core::format_args!($($argument)*), "\n")
    };
}
