//! Standard output and standard error.

use core::fmt::{self, Write};

use heapless::Vec;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, BorrowedFd};

/// Bytes that are written with one system call.
const LINE: usize = 256;

/// An output stream that writes whole lines where they fit 256 bytes, so that lines of several
/// processes do not mix.
///
/// What the descriptor does not take is lost: there is nowhere to say so.
#[derive(Debug)]
pub struct Stream {
    fd: BorrowedFd<'static>,
    line: Vec<u8, LINE>,
}

impl Stream {
    /// Descriptor 1.
    #[must_use]
    pub const fn stdout() -> Self {
        Self {
            fd: BorrowedFd::STDOUT,
            line: Vec::new(),
        }
    }

    /// Descriptor 2.
    #[must_use]
    pub const fn stderr() -> Self {
        Self {
            fd: BorrowedFd::STDERR,
            line: Vec::new(),
        }
    }

    fn flush(&mut self) {
        let mut rest = self.line.as_slice();
        while !rest.is_empty() {
            match file::write_to(self.fd, rest) {
                Ok(written) if written > 0 => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                _ => break,
            }
        }
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

/// What [`print!`](crate::print) and [`println!`](crate::println) call.
#[doc(hidden)]
#[inline(never)]
pub fn print(text: fmt::Arguments<'_>, end: &str) {
    write(Stream::stdout(), text, end);
}

/// What [`eprintln!`](crate::eprintln) calls.
#[doc(hidden)]
#[inline(never)]
pub fn eprint(text: fmt::Arguments<'_>, end: &str) {
    write(Stream::stderr(), text, end);
}

fn write(mut stream: Stream, text: fmt::Arguments<'_>, end: &str) {
    // What is lost is lost: see `Stream`.
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
