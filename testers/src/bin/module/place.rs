//! Targets, and pages that tables are mapped over by the module.

#![expect(unsafe_code, reason = "makes the call on pages of its own, and forks")]

use tablewalk_proc::pagemap::Pagemap;
use tablewalk_proc::path::proc_path;
use tablewalk_rt::ExitCode;
use tablewalk_rt::memory::write;
use tablewalk_rt::process::{Child, Fork};
use tablewalk_testkit::page::{Page, page_size};
use tablewalk_uapi::file::{self, O_RDWR, OwnedFd};
use tablewalk_uapi::memory::{Protection, munmap};
use tablewalk_uapi::remap::{EXPOSE_PGTBL_ADDR, ExposePgtblArgs, ExposePgtblInfo};
use tablewalk_uapi::remap_device::{Device, EXPOSE_PGTBL_LEVEL_0, Target};
use tablewalk_uapi::{Errno, Mapping, Sharing, process};

/// Returns the target for process `pid` (0: this one), by its memory, opened for reading and writing.
pub(crate) fn open_target(device: &Device, pid: i32) -> Result<Target, Errno> {
    device.target(memory_of(pid, O_RDWR)?.borrow())
}

/// Opens `/proc/PID/mem`.
pub(crate) fn memory_of(pid: i32, flags: u32) -> Result<OwnedFd, Errno> {
    let pid = if pid == 0 { process::pid() } else { pid };
    file::open(&proc_path(pid, "mem")?, flags)
}

/// Makes the call, and returns the frame number that the kernel wrote back.
///
/// # Safety
///
/// As for [`Target::call`].
pub(crate) unsafe fn call(
    target: &Target,
    level: u32,
    remap_vaddr: u64,
    pfn: u64,
) -> Result<u64, Errno> {
    let mut args = ExposePgtblArgs {
        pid: 0,
        remap_vaddr,
        pfn,
        level,
    };
    // SAFETY: guaranteed by the caller.
    unsafe { target.call(&mut args) }.map(|()| args.pfn)
}

/// Maps a table over `page`, in the base form or by address.
pub(crate) fn map(target: &Target, page: &Page, level: u32, pfn: u64) -> Result<u64, Errno> {
    // SAFETY: these forms replace the page and nothing else, and no Rust reference points to it.
    unsafe { call(target, level, page.address(), pfn) }
}

/// As [`map`], of the table of lookup level `level`, -1 to 3, that translates `address`.
pub(crate) fn map_address(
    context: &ExposePgtblInfo,
    target: &Target,
    page: &Page,
    level: i32,
    address: u64,
) -> Result<u64, Errno> {
    let level = level_number(context, level) | EXPOSE_PGTBL_ADDR;
    map(target, page, level, address)
}

/// Returns the lookup level of the root table.
pub(crate) fn root_level(info: &ExposePgtblInfo) -> i32 {
    4 - info.levels.cast_signed()
}

/// Returns the number that the call has for lookup level `level`.
pub(crate) fn level_number(info: &ExposePgtblInfo, level: i32) -> u32 {
    if level == root_level(info) {
        0
    } else if level == 0 {
        EXPOSE_PGTBL_LEVEL_0
    } else {
        level.cast_unsigned()
    }
}

/// Returns log2 of the bytes that an entry of `level` translates.
pub(crate) fn entry_shift(info: &ExposePgtblInfo, level: i32) -> u32 {
    (info.page_shift - 3) * (3 - level).cast_unsigned() + info.page_shift
}

/// Returns the index of the entry for `address` in its table of `level`.
pub(crate) fn index(info: &ExposePgtblInfo, level: i32, address: u64) -> usize {
    let entries = 1 << (info.page_shift - 3);
    usize::try_from(address >> entry_shift(info, level) & (entries - 1)).unwrap_or(usize::MAX)
}

/// Returns the frame number in a table or page descriptor. The machine has no memory beyond 48 bits.
pub(crate) const fn frame_of(info: &ExposePgtblInfo, descriptor: u64) -> u64 {
    (descriptor & ((1 << 48) - 1)) >> info.page_shift
}

/// Returns the frame that pagemap reports.
pub(crate) fn witness(info: &ExposePgtblInfo, pid: i32, address: u64) -> Result<u64, Errno> {
    let pid = if pid == 0 { process::pid() } else { pid };
    let entry = Pagemap::open(pid, info.page_shift)?.entry(address)?;
    if entry.is_present() {
        Ok(entry.frame())
    } else {
        Err(Errno::ENODATA)
    }
}

/// Maps private memory without huge pages.
pub(crate) fn private(size: usize) -> Result<Mapping, Errno> {
    let mapping = Mapping::reserve(size, Protection::READ_WRITE)?;
    mapping.base_pages_only()?;
    Ok(mapping)
}

/// Maps private memory that fills `count` tables of level 3, whole, and writes to the first page of each.
/// Returns the memory and the address of the first table.
pub(crate) fn tables(info: &ExposePgtblInfo, count: usize) -> Result<(Mapping, u64), Errno> {
    let size = 1_usize << entry_shift(info, 2);
    let memory = private((count + 1) * size)?;
    let start = memory.address().next_multiple_of(size as u64);
    let offset = usize::try_from(start - memory.address()).unwrap_or(0);
    for table in 0..count {
        write(&memory, offset + table * size, 1 + table as u64);
    }
    Ok((memory, start))
}

/// A child with memory of its own at the address of its parent's, which unmaps it on request.
pub(crate) struct Other {
    pub(crate) child: Child,
    /// The first address that a table of level 3 translates; its page is present.
    pub(crate) address: u64,
    requests: OwnedFd,
    answers: OwnedFd,
    /// Keeps the address free in the parent.
    _memory: Mapping,
}

impl Other {
    pub(crate) fn new(info: &ExposePgtblInfo) -> Result<Self, Errno> {
        let (memory, address) = tables(info, 1)?;
        let (request, requests) = file::pipe()?;
        let (answers, answer) = file::pipe()?;
        let (start, size) = (memory.as_ptr(), memory.size());
        // SAFETY: the child uses its copy of memory, and the pipes.
        let child = unsafe { Fork::promised() }.spawn(|| {
            let offset = usize::try_from(address - memory.address()).unwrap_or(0);
            write(&memory, offset, 7);
            let run = || {
                file::write(&answer, b"w")?;
                file::read(&request, &mut [0])?;
                // SAFETY: the child's copy, which nobody uses after this.
                unsafe { munmap(start.cast(), size) }?;
                file::write(&answer, b"u")?;
                file::read(&request, &mut [0])
            };
            ExitCode(u8::from(run().is_err()))
        })?;
        let other = Self {
            child,
            address,
            requests,
            answers,
            _memory: memory,
        };
        other.wait_for_answer()?;
        Ok(other)
    }

    fn wait_for_answer(&self) -> Result<(), Errno> {
        let mut answer = [0];
        match file::read(&self.answers, &mut answer)? {
            1 => Ok(()),
            _ => Err(Errno::ECHILD),
        }
    }

    /// Lets the child unmap its memory.
    pub(crate) fn unmap(&self) -> Result<(), Errno> {
        file::write(&self.requests, b".")?;
        self.wait_for_answer()
    }
}

/// Maps one private page and writes to it.
pub(crate) fn touched(info: &ExposePgtblInfo) -> Result<Mapping, Errno> {
    let mapping = Mapping::anonymous(page_size(info), Protection::READ_WRITE, Sharing::Private)?;
    write(&mapping, 0, 1);
    Ok(mapping)
}
