//! Builds paths of files.

use core::ffi::CStr;
use core::fmt::{self, Write};
use core::ops::Deref;

use crate::{Errno, process};

/// Maximum length of a path in bytes, with the NUL at its end.
const SIZE: usize = 256;

/// A path of at most 255 bytes, none of them NUL.
#[derive(Clone, Debug)]
pub struct PathBuffer {
    /// The path, followed by zeros, at least one.
    bytes: [u8; SIZE],
    length: usize,
}

impl PathBuffer {
    /// Returns an empty path, to be written with [`Write`].
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; SIZE],
            length: 0,
        }
    }

    /// Returns the path `text`.
    ///
    /// # Errors
    ///
    /// `ENAMETOOLONG` for more than 255 bytes.
    pub fn of(text: &str) -> Result<Self, Errno> {
        let mut path = Self::new();
        path.write_str(text).map_err(|_| Errno::ENAMETOOLONG)?;
        Ok(path)
    }
}

impl Default for PathBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for PathBuffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            let place = self.bytes.get_mut(self.length).ok_or(fmt::Error)?;
            *place = byte;
            self.length += 1;
        }
        // The last byte must stay a NUL.
        if self.length < SIZE {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

impl Deref for PathBuffer {
    type Target = CStr;

    fn deref(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

/// Returns `/proc/<pid>/<name>`; for the calling process, or 0, `/proc/self/<name>`, since a `/proc` of another PID
/// namespace may not have its number.
///
/// # Errors
///
/// `ENAMETOOLONG` for more than 255 bytes.
pub fn proc_path(pid: i32, name: &str) -> Result<PathBuffer, Errno> {
    let mut path = PathBuffer::new();
    let written = if pid == 0 || pid == process::pid() {
        write!(path, "/proc/self/{name}")
    } else {
        write!(path, "/proc/{}/{name}", pid.cast_unsigned())
    };
    written.map(|()| path).map_err(|_| Errno::ENAMETOOLONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_what_was_written_and_ends() {
        let path = proc_path(7, "mem").unwrap();
        assert_eq!(&*path, c"/proc/7/mem");
        assert_eq!(&*proc_path(0, "mem").unwrap(), c"/proc/self/mem");
        let path = proc_path(process::pid(), "task/1").unwrap();
        assert_eq!(&*path, c"/proc/self/task/1");
        assert_eq!(PathBuffer::new().to_bytes(), b"");
        let long = core::str::from_utf8(&[b'x'; 256]).unwrap();
        let longest = PathBuffer::of(long.get(1..).unwrap()).unwrap();
        assert_eq!(longest.to_bytes().len(), 255);
        assert_eq!(PathBuffer::of(long).map(drop), Err(Errno::ENAMETOOLONG));
    }
}
