//! Error numbers of system calls.

use core::fmt;

use linux_raw_sys::errno as sys;

/// The largest error number: `include/linux/err.h`, `MAX_ERRNO`.
const MAX: u16 = 4095;

/// An error number, 1 to 4095.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(u16);

/// Decodes the return value of a system call: -4095 to -1 are errors, everything else is success.
pub(crate) fn decode(value: usize) -> Result<usize, Errno> {
    match u16::try_from(value.wrapping_neg()) {
        Ok(number @ 1..=MAX) => Err(Errno(number)),
        _ => Ok(value),
    }
}

/// Defines a constant and a text for each error number that the programs may see.
macro_rules! errnos {
    ($($name:ident $text:literal,)*) => {
        impl Errno {
            $(
                #[doc = concat!($text, ".")]
                pub const $name: Self = Self::from_number(sys::$name);
            )*

        }

        /// The error numbers that have a constant, each with its name and text as printed.
        const TEXTS: &[(Errno, &str)] = &[
            $((Errno::$name, concat!(stringify!($name), " (", $text, ")")),)*
        ];
    };
}

errnos! {
    EPERM "Operation not permitted",
    ENOENT "No such file or directory",
    ESRCH "No such process",
    EINTR "Interrupted system call",
    EIO "Input/output error",
    E2BIG "Argument list too long",
    ENOEXEC "Exec format error",
    EBADF "Bad file descriptor",
    ECHILD "No child processes",
    EAGAIN "Resource temporarily unavailable",
    ENOMEM "Cannot allocate memory",
    EACCES "Permission denied",
    EFAULT "Bad address",
    EBUSY "Device or resource busy",
    EEXIST "File exists",
    ENODEV "No such device",
    ENOTDIR "Not a directory",
    EISDIR "Is a directory",
    EINVAL "Invalid argument",
    ENFILE "Too many open files in system",
    EMFILE "Too many open files",
    ENOTTY "Inappropriate ioctl for device",
    EFBIG "File too large",
    ENOSPC "No space left on device",
    EROFS "Read-only file system",
    EPIPE "Broken pipe",
    ENAMETOOLONG "File name too long",
    ENOSYS "Function not implemented",
    ENODATA "No data available",
    EOVERFLOW "Value too large for defined data type",
    ETIMEDOUT "Connection timed out",
    EOPNOTSUPP "Operation not supported",
}

impl Errno {
    /// Decodes a return value that assembly passes on: 0 or more, or a negative error number.
    ///
    /// # Errors
    ///
    /// The error number.
    pub fn from_return_value(value: isize) -> Result<usize, Self> {
        decode(value.cast_unsigned())
    }

    #[expect(clippy::cast_possible_truncation, reason = "asserted: at most MAX")]
    const fn from_number(number: u32) -> Self {
        assert!(number != 0 && number <= MAX as u32);
        Self(number as u16)
    }

    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match TEXTS.iter().find(|(errno, _)| errno == self) {
            Some((_, text)) => f.write_str(text),
            None => write!(f, "errno {}", u32::from(self.0)),
        }
    }
}

/// Prints the same as [`Display`](fmt::Display).
impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn only_the_last_4095_values_are_errors() {
        assert_eq!(decode(0), Ok(0));
        assert_eq!(decode(1), Ok(1));
        assert_eq!(decode(4095), Ok(4095));
        assert_eq!(decode(isize::MIN.cast_unsigned()), Ok(1 << 63));
        assert_eq!(
            decode((-4096_isize).cast_unsigned()),
            Ok((-4096_isize).cast_unsigned())
        );
        assert_eq!(decode((-4095_isize).cast_unsigned()), Err(Errno(4095)));
        assert_eq!(decode((-2_isize).cast_unsigned()), Err(Errno::ENOENT));
        assert_eq!(decode(usize::MAX), Err(Errno::EPERM));
    }

    #[test]
    fn known_errors_print_name_and_text() {
        assert_eq!(
            Errno::ENOENT.to_string(),
            "ENOENT (No such file or directory)"
        );
        assert_eq!(
            Errno::ENOSYS.to_string(),
            "ENOSYS (Function not implemented)"
        );
    }

    #[test]
    fn other_errors_print_their_number() {
        assert_eq!(Errno(512).to_string(), "errno 512");
    }
}
