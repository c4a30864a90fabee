//! What a mapping of a table must not be used for.

#![expect(unsafe_code, reason = "tries what must be refused")]

use tablewalk_proc::lines::{for_each_line, parse_range};
use tablewalk_proc::path::proc_path;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::Fork;
use tablewalk_testkit::expect::{all, expect, expect_error, in_child};
use tablewalk_testkit::page::Page;
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::process::{self, read_memory};
use tablewalk_uapi::{Errno, file, raw};

use crate::place::{map_address, memory_of, touched};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "a table mapped read-only cannot be made writable, none executable: EACCES",
        run: protection,
    },
    Case {
        name: "a child does not inherit it, and no advice changes that",
        run: inheritance,
    },
    Case {
        name: "no system call reads through it",
        run: read_through,
    },
    Case {
        name: "mremap makes no second mapping and does not grow it: EFAULT",
        run: growth,
    },
    Case {
        name: "it shows as anon_inode:[page_table] in maps, without core dump",
        run: shows,
    },
];

/// Returns a page over which a table of this process is mapped.
fn mapped(context: &Context, page: Page) -> Result<Page, Errno> {
    let memory = touched(&context.info)?;
    map_address(&context.info, &context.own, &page, 3, memory.address())?;
    Ok(page)
}

fn protection(context: &mut Context) -> Result<Verdict, Errno> {
    let small = mapped(context, Page::read_only(&context.info)?)?;
    let large = mapped(context, Page::writable(&context.info)?)?;
    let executable = Protection::READ | Protection::EXECUTE;
    all(&[
        expect_error(
            "writable",
            small.protect(Protection::READ_WRITE),
            Errno::EACCES,
        ),
        expect_error("executable", small.protect(executable), Errno::EACCES),
        expect_error("executable", large.protect(executable), Errno::EACCES),
    ])
}

/// Returns whether this process has a mapping at `address`.
fn is_mapped(address: u64) -> Result<bool, Errno> {
    let mut found = false;
    for_each_line(&proc_path(process::pid(), "maps")?, &mut |line| {
        found |= parse_range(line).is_some_and(|(start, end)| (start..end).contains(&address));
        Ok(())
    })?;
    Ok(found)
}

fn inheritance(context: &mut Context) -> Result<Verdict, Errno> {
    let page = mapped(context, Page::writable(&context.info)?)?;
    let beside = touched(&context.info)?;
    // SAFETY: the child reads a file.
    let status = in_child(unsafe { Fork::promised() }, || {
        match (is_mapped(page.address())?, is_mapped(beside.address())?) {
            (false, true) => Ok(()),
            (true, _) => Err(Errno::EEXIST),
            (false, false) => Err(Errno::ENOENT),
        }
    });
    const MADV_DOFORK: u64 = raw::constants::MADV_DOFORK as u64;
    const MADV_DODUMP: u64 = raw::constants::MADV_DODUMP as u64;
    let advise = |advice| {
        let arguments = [page.address(), page.size() as u64, advice, 0, 0, 0];
        // SAFETY: does not change memory.
        unsafe { raw::call(raw::constants::__NR_madvise, arguments) }
    };
    all(&[
        expect("child", status, Ok(0)),
        expect_error("DOFORK", advise(MADV_DOFORK), Errno::EINVAL),
        expect_error("DODUMP", advise(MADV_DODUMP), Errno::EINVAL),
        expect_error(
            "POPULATE_READ",
            page.advise(Advice::PopulateRead),
            Errno::EINVAL,
        ),
    ])
}

fn read_through(context: &mut Context) -> Result<Verdict, Errno> {
    let page = mapped(context, Page::writable(&context.info)?)?;
    let memory = memory_of(0, file::O_RDWR)?;
    let mut word = [0; 8];
    let (_reader, writer) = file::pipe()?;
    let mut iovec = [page.address(), 8];
    let iovec = core::ptr::from_mut(&mut iovec).expose_provenance() as u64;
    let number = writer.number().cast_unsigned().into();
    // SAFETY: reads memory of the test.
    let spliced = unsafe { raw::call(raw::constants::__NR_vmsplice, [number, iovec, 1, 0, 0, 0]) };
    all(&[
        expect_error(
            "process_vm_readv",
            read_memory(process::pid(), page.address(), &mut word),
            Errno::EFAULT,
        ),
        expect_error(
            "/proc/PID/mem",
            file::pread(&memory, &mut word, page.address()),
            Errno::EIO,
        ),
        expect_error("vmsplice", spliced, Errno::EFAULT),
    ])
}

fn growth(context: &mut Context) -> Result<Verdict, Errno> {
    let page = mapped(context, Page::writable(&context.info)?)?;
    let (address, size) = (page.address(), page.size() as u64);
    let remap = |old, new| {
        let may_move = raw::constants::MREMAP_MAYMOVE.into();
        let arguments = [address, old, new, may_move, 0, 0];
        // SAFETY: fails; otherwise the test does.
        unsafe { raw::call(raw::constants::__NR_mremap, arguments) }
    };
    all(&[
        expect_error("two pages", remap(size, 2 * size), Errno::EFAULT),
        expect_error("no bytes", remap(0, size), Errno::EFAULT),
    ])
}

fn shows(context: &mut Context) -> Result<Verdict, Errno> {
    let page = mapped(context, Page::writable(&context.info)?)?;
    let (mut named, mut here) = (false, false);
    let mut flags = 0;
    for_each_line(&proc_path(process::pid(), "smaps")?, &mut |line| {
        if let Some((start, _)) = parse_range(line) {
            here = start == page.address();
            named |= here && line.ends_with(b"anon_inode:[page_table]");
        }
        if here && line.starts_with(b"VmFlags:") {
            // Do not copy, do not expand, do not dump; pages by their frame numbers, I/O.
            for wanted in [&b" dc"[..], b" de", b" dd", b" pf", b" io"] {
                flags += u64::from(line.windows(3).any(|flag| flag == wanted));
            }
        }
        Ok(())
    })?;
    all(&[
        expect("name", Ok(u64::from(named)), Ok(1)),
        expect("flags", Ok(flags), Ok(5)),
    ])
}
