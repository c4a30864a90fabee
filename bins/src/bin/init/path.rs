//! Builds C strings for system calls.

use heapless::CString;

/// Maximum length with NUL, in bytes: for a word of the command line, or a path that contains one.
pub(crate) const LONGEST: usize = 128;

/// Concatenates `parts`. Returns `None` if the result is too long or contains a NUL.
pub(crate) fn join(parts: &[&str]) -> Option<CString<LONGEST>> {
    let mut string = CString::new();
    for part in parts {
        string.extend_from_bytes(part.as_bytes()).ok()?;
    }
    Some(string)
}
