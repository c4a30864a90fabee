//! Text files of `/proc`, line by line.

use core::ffi::CStr;

use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_RDONLY};

/// Bytes of a line that are kept. A line of `/proc/<pid>/maps` ends in a path of any length.
const LINE: usize = 1024;

/// Calls `visit` with every line of the file at `path`, without the newline; with the first 1023 bytes of a
/// longer line.
///
/// # Errors
///
/// As open(2) and read(2); the error that `visit` returns.
pub fn for_each_line(
    path: &CStr,
    visit: &mut dyn FnMut(&[u8]) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let fd = file::open(path, O_RDONLY)?;
    let mut buffer = [0; LINE];
    let mut filled = 0;
    // Whether the beginning of the current line was visited already, so that the rest is skipped.
    let mut passing = false;
    loop {
        let free = buffer.get_mut(filled..).unwrap_or_default();
        let read = file::read(&fd, free)?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut rest = buffer.get(..filled).unwrap_or_default();
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, with_end) = rest.split_at(end);
            if !passing {
                visit(line)?;
            }
            passing = false;
            rest = with_end.get(1..).unwrap_or_default();
        }
        if rest.len() == LINE {
            if !passing {
                visit(rest)?;
            }
            passing = true;
        }
        let left = if passing { 0 } else { rest.len() };
        buffer.copy_within(filled - left..filled, 0);
        filled = left;
    }
}

/// Returns the range at the beginning of a line, after spaces, in the form `start-end` in hexadecimal.
#[must_use]
pub fn parse_range(line: &[u8]) -> Option<(u64, u64)> {
    let mut ends = line
        .trim_ascii_start()
        .split(|&byte| byte == b'-' || byte == b' ');
    Some((
        parse_number(ends.next()?, 16)?,
        parse_number(ends.next()?, 16)?,
    ))
}

/// Returns the value of `digits` in base `radix`; `None` if it is 2^64 or more.
#[must_use]
pub fn parse_number(digits: &[u8], radix: u32) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, &digit| {
        let digit = char::from(digit).to_digit(radix)?;
        value.checked_mul(radix.into())?.checked_add(digit.into())
    })
}
