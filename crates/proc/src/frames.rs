//! Frames that nobody uses, for tests that look for leaks.

use tablewalk_uapi::Errno;

use crate::lines::{for_each_line, parse_number};

/// Frames that neither a process nor its tables have: those of the free lists of every zone, those
/// that each CPU keeps aside for itself (`struct per_cpu_pages`), and those of the kernel's slabs.
///
/// `sysinfo` and `MemFree` leave out what CPUs keep aside, as many as the low watermark of the zone,
/// a thousand and more: a count without them says nothing of a leak. Slabs grow and shrink with no
/// relation to frames, most of all where KASAN keeps freed objects; for leaks inside them there is
/// kmemleak.
///
/// What is left is noise of less than [`SLACK_OF_CPU`] frames a CPU: counters that a CPU has not
/// added up yet (`vm_stat_diff`), and pages that wait in its lists for the LRU.
///
/// # Errors
///
/// As [`for_each_line`]; `ENODATA` where `/proc/zoneinfo` says nothing of the kind.
pub fn free() -> Result<u64, Errno> {
    count(&[b"pages free", b"count:", b"nr_slab_"])
}

/// Frames that are page tables in use, of all processes.
///
/// # Errors
///
/// As [`free`].
pub fn tables() -> Result<u64, Errno> {
    count(&[b"nr_page_table_pages"])
}

/// The sum of the numbers in all lines of `/proc/zoneinfo` that begin with one of `names`.
fn count(names: &[&[u8]]) -> Result<u64, Errno> {
    let mut frames = None;
    for_each_line(c"/proc/zoneinfo", &mut |line| {
        let line = line.trim_ascii();
        if names.iter().any(|name| line.starts_with(name)) {
            let number = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
            *frames.get_or_insert(0) += parse_number(number, 10).ok_or(Errno::EINVAL)?;
        }
        Ok(())
    })?;
    frames.ok_or(Errno::ENODATA)
}

/// By how many frames two counts may differ without a leak, for each CPU.
pub const SLACK_OF_CPU: u64 = 64;
