//! Strings for system calls.

use heapless::CString;

/// Longest string with its NUL, in bytes: a word of the command line, or a path with one.
pub(crate) const LONGEST: usize = 128;

/// The parts in one string; `None` if that is too long, or has a NUL.
pub(crate) fn join(parts: &[&str]) -> Option<CString<LONGEST>> {
    let mut string = CString::new();
    for part in parts {
        string.extend_from_bytes(part.as_bytes()).ok()?;
    }
    Some(string)
}
