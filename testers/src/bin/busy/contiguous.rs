//! Accesses one page of each contiguous block of a large folio, and compares what walks and smaps find.

use heapless::{String, format};
use tablewalk_proc::path::{PathBuffer, proc_path};
use tablewalk_proc::smaps;
use tablewalk_rt::ktap::Verdict;
use tablewalk_rt::memory::{read, write};
use tablewalk_rt::println;
use tablewalk_testkit::error::Error;
use tablewalk_uapi::file::{self, O_WRONLY};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::{Errno, Mapping, Sharing, process};
use tablewalk_walker::{Level, VirtualAddress};

use crate::source::Source;

/// The number of contiguous blocks.
const BLOCKS: usize = 8;

/// Compares the accessed pages of a walk that gathers the state of contiguous entries with those of smaps.
pub(crate) fn compare(source: &mut Source) -> Result<Verdict, Error> {
    let geometry = source.format().geometry;
    let entries = geometry.contiguous_entries(Level::L3);
    let page = 1 << geometry.page_shift();
    let block = entries * page;
    if !allow_folios_of(block >> 10).map_err(Error::call("hugepages-*kB/enabled"))? {
        return Ok(Verdict::Skip("this kernel has no folios of that size"));
    }
    source.follow(process::pid())?;
    let size = BLOCKS * block;
    let mapping = Mapping::anonymous(size + block, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    let start = mapping.as_ptr().addr().next_multiple_of(block);
    let offset = start - mapping.as_ptr().addr();
    for at in (0..size).step_by(page) {
        write(&mapping, offset + at, 1);
    }
    clear_accessed().map_err(Error::call("/proc/self/clear_refs"))?;
    // The kernel leaves translations in TLBs where it clears access flags; a change of protection removes them.
    for protection in [Protection::READ, Protection::READ_WRITE] {
        mapping
            .protect(0..mapping.size(), protection)
            .map_err(Error::call("mprotect"))?;
    }
    for number in 0..BLOCKS {
        let _value = read(&mapping, offset + number * block + number % entries * page);
    }
    let first = VirtualAddress(start as u64);
    let range = (first, first.wrapping_add(size as u64 - 1));
    let marked = source.count_accessed(range, false)?;
    let gathered = source.count_accessed(range, true)?;
    let referenced = smaps::kib(process::pid(), start as u64, "Referenced")
        .map_err(Error::call("/proc/self/smaps"))?;
    let pages = (referenced << 10) / page as u64;
    println!(
        "# {BLOCKS} pages accessed: {marked} entries marked, {gathered} pages, {pages} in smaps"
    );
    Ok(Verdict::from(
        pages >= BLOCKS as u64 && gathered == pages && marked <= gathered,
    ))
}

/// Clears the access flag of all pages of this process.
fn clear_accessed() -> Result<(), Errno> {
    let path = proc_path(process::pid(), "clear_refs")?;
    file::write(&file::open(&path, O_WRONLY)?, b"1").map(drop)
}

/// Has the kernel use folios of this size for anonymous memory. Returns whether it has them.
fn allow_folios_of(kib: usize) -> Result<bool, Errno> {
    let path: String<96> = format!("/sys/kernel/mm/transparent_hugepage/hugepages-{kib}kB/enabled")
        .map_err(|_| Errno::ENAMETOOLONG)?;
    match file::open(&PathBuffer::of(&path)?, O_WRONLY) {
        Ok(setting) => file::write(&setting, b"always").map(|_| true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}
