//! Frames that nobody uses, for tests that look for leaks.

use tablewalk_uapi::Errno;

use crate::lines::{for_each_line, parse_number};

/// Frames that nobody uses: those of the free lists of every zone, and those that each CPU keeps
/// aside for itself (`struct per_cpu_pages`), which `sysinfo` and `MemFree` leave out. A CPU may keep
/// as many as the low watermark of the zone, a thousand and more, so that a count without them says
/// nothing of a leak.
///
/// What is left is noise of less than [`SLACK_OF_CPU`] frames a CPU: counters that a CPU has not
/// added up yet (`vm_stat_diff`), and pages that wait in its lists for the LRU.
///
/// # Errors
///
/// As [`for_each_line`]; `ENODATA` where `/proc/zoneinfo` says nothing of the kind.
pub fn free() -> Result<u64, Errno> {
    let mut frames = None;
    for_each_line(c"/proc/zoneinfo", &mut |line| {
        let line = line.trim_ascii();
        let number = [b"pages free".as_slice(), b"count:"]
            .iter()
            .find_map(|name| line.strip_prefix(*name));
        if let Some(number) = number {
            let number = parse_number(number.trim_ascii(), 10).ok_or(Errno::EINVAL)?;
            *frames.get_or_insert(0) += number;
        }
        Ok(())
    })?;
    frames.ok_or(Errno::ENODATA)
}

/// By how many frames two counts may differ without a leak, for each CPU.
pub const SLACK_OF_CPU: u64 = 64;
