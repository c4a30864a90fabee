//! Tables of level 2 that processes share: hugetlbfs.

#![expect(unsafe_code, reason = "forks, and makes the call")]

use core::fmt::Write;
use core::ptr;

use tablewalk_proc::path::PathBuffer;
use tablewalk_rt::ExitCode;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::memory::{read, write};
use tablewalk_rt::process::Fork;
use tablewalk_testkit::expect::{all, expect, expect_error};
use tablewalk_testkit::page::{Page, range};
use tablewalk_uapi::file::{self, O_WRONLY};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::remap::{EXPOSE_PGTBL_RANGE, ExposePgtblTable};
use tablewalk_uapi::{Errno, Mapping, Sharing};

use crate::place::{call, entry_shift, map_address, open_target};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[Case {
    name: "a table of level 2 that is or may be shared is mapped read-only, writable is EBUSY",
    run: shared,
}];

/// More than there are before it.
const TABLES: usize = 8;

/// Sets the number of huge pages of `1 << shift` bytes.
fn reserve(shift: u32, pages: u32) -> Result<(), Errno> {
    let mut path = PathBuffer::new();
    let kib = 1_u64 << (shift - 10);
    write!(
        path,
        "/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages"
    )
    .map_err(|_| Errno::ENAMETOOLONG)?;
    let file = file::open(&path, O_WRONLY)?;
    let digit = [b'0' + u8::try_from(pages).map_err(|_| Errno::EINVAL)?];
    file::write(&file, &digit).map(drop)
}

fn shared(context: &mut Context) -> Result<Verdict, Errno> {
    let info = &context.info;
    let (page_shift, table_shift) = (entry_shift(info, 2), entry_shift(info, 1));
    if info.levels < 3 || info.page_shift == 16 {
        return Ok(Verdict::Skip("this kernel shares no tables"));
    }
    if reserve(page_shift, 2).is_err() {
        return Ok(Verdict::Skip("no hugetlbfs"));
    }
    let memory = Mapping::huge(2 << table_shift, page_shift, Sharing::Shared)?;
    // The kernel shares tables that one mapping fills.
    let address = memory.address().next_multiple_of(1 << table_shift);
    let offset = usize::try_from(address - memory.address()).unwrap_or(0);
    write(&memory, offset, 5);
    let (page, ours) = (Page::read_only(info)?, Page::read_only(info)?);
    let alone = map_address(info, &context.own, &page, 2, address);
    // Nobody shares it yet.
    let again = Page::writable(info)?;
    let early = map_address(info, &context.own, &again, 2, address);
    // Those before it can be mapped.
    let (several, mut found) = (
        Page::several(info, Protection::READ_WRITE, TABLES)?,
        [ExposePgtblTable::default(); TABLES],
    );
    let mut asked = range(0, address + (1 << table_shift), &mut found);
    let pfn = ptr::from_mut(&mut asked).expose_provenance() as u64;
    // SAFETY: the pages are the test's own, and the kernel fills the struct and the array.
    let by_range =
        || unsafe { call(&context.own, 2 | EXPOSE_PGTBL_RANGE, several.address(), pfn) }.map(|_| 0);
    let (first, then) = (by_range(), by_range());
    let (reader, writer) = file::pipe()?;
    // SAFETY: the child uses shared memory, to which no reference exists, and the pipe.
    let child = unsafe { Fork::promised() }.spawn(|| {
        let met = read(&memory, offset) == 5 && file::write(&writer, b".").is_ok();
        if met {
            tablewalk_uapi::signal::pause();
        }
        ExitCode::FAILURE
    })?;
    drop(writer);
    file::read(&reader, &mut [0])?;
    let target = open_target(&context.device, child.pid())?;
    let refused = [
        map_address(info, &context.own, &again, 2, address),
        map_address(info, &target, &again, 2, address),
    ];
    let theirs = map_address(info, &target, &ours, 2, address);
    let value = read(&memory, offset);
    drop(child);
    drop((page, ours, memory));
    reserve(page_shift, 0)?;
    all(&[
        expect("the same table", theirs, alone),
        expect_error("alone, writable", early, Errno::EBUSY),
        expect("RANGE before it", first, Ok(0)),
        expect("goes on with it", Ok(asked.start), Ok(address)),
        expect_error("which is", then, Errno::EBUSY),
        expect_error("ours, writable", refused[0], Errno::EBUSY),
        expect_error("theirs, writable", refused[1], Errno::EBUSY),
        expect("what is there", Ok(value), Ok(5)),
    ])
}
