//! `/proc/<pid>/smaps`: the kernel's counts for each mapping.
//!
//! Format: `Documentation/filesystems/proc.rst`.

use tablewalk_uapi::Errno;

use crate::lines::{for_each_line, parse_number, parse_range};
use crate::path::proc_path;

/// Returns `field`, such as `Rss`, of the mapping that contains `address` in process `pid`, in KiB; 0 if the
/// kernel does not report it.
///
/// # Errors
///
/// As [`for_each_line`].
pub fn kib(pid: i32, address: u64, field: &str) -> Result<u64, Errno> {
    let mut inside = false;
    let mut found = 0;
    for_each_line(&proc_path(pid, "smaps")?, &mut |line| {
        if let Some((start, end)) = parse_range(line) {
            inside = (start..end).contains(&address);
        } else if inside
            && let Some(rest) = line.strip_prefix(field.as_bytes())
            && let Some(rest) = rest.strip_prefix(b":")
        {
            let number = rest.trim_ascii().split(|&byte| byte == b' ').next();
            found = number
                .and_then(|digits| parse_number(digits, 10))
                .ok_or(Errno::EINVAL)?;
        }
        Ok(())
    })?;
    Ok(found)
}
