//! Counts of free frames and of page tables, for tests that look for leaks.

use tablewalk_uapi::Errno;

use crate::lines::{for_each_line, parse_number};

/// Returns the number of free frames: on the free lists of every zone, on the per-CPU lists (`struct
/// per_cpu_pages`), and in the kernel's slabs.
///
/// `sysinfo` and `MemFree` leave out the per-CPU lists, which hold up to the low watermark of the zone, a
/// thousand frames and more: a count without them cannot show a leak. Slabs are added because they grow and
/// shrink for other reasons, most of all where KASAN keeps freed objects; kmemleak finds leaks in slabs.
///
/// The remaining noise is less than [`SLACK_OF_CPU`] frames for each CPU: counters that a CPU has not added
/// up yet (`vm_stat_diff`), and pages that wait on per-CPU lists for the LRU.
///
/// # Errors
///
/// As [`for_each_line`]; `ENODATA` if `/proc/zoneinfo` has no such lines.
pub fn free() -> Result<u64, Errno> {
    count(&[b"pages free", b"count:", b"nr_slab_"])
}

/// Returns the number of frames that are page tables, of all processes.
///
/// # Errors
///
/// As [`free`].
pub fn tables() -> Result<u64, Errno> {
    count(&[b"nr_page_table_pages"])
}

/// Returns the sum of the numbers in all lines of `/proc/zoneinfo` that begin with one of `names`.
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

/// Frames for each CPU by which two counts may differ without a leak.
pub const SLACK_OF_CPU: u64 = 64;
