//! What a mapping of a table must not be used for.

#![expect(unsafe_code, reason = "tries what must be refused")]

use tablewalk_proc::lines::{for_each_line, parse_range};
use tablewalk_proc::path::proc_path;
use tablewalk_rt::ExitCode;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::Fork;
use tablewalk_uapi::Errno;
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::process::{self, read_memory};
use tablewalk_uapi::remap::ExposePgtblInfo;

use crate::Test;
use tablewalk_testkit::expect::status_number;
use tablewalk_testkit::expect::{all, expect, expect_error, expect_ok};
use tablewalk_testkit::page::Page;

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "a table mapped read-only cannot be made writable: EACCES",
        run: read_only,
    },
    Case {
        name: "a mapped table cannot be made executable: EACCES",
        run: executable,
    },
    Case {
        name: "a child does not inherit the mapping",
        run: fork,
    },
    Case {
        name: "madvise cannot make it inherited or dumped: EINVAL",
        run: advise,
    },
    Case {
        name: "no system call reads through it: EFAULT",
        run: read_through,
    },
    Case {
        name: "it shows as anon_inode:[page_table] in maps",
        run: shows,
    },
];

/// Returns a page over which the root table of this process is mapped.
fn root(info: &ExposePgtblInfo, protection: Protection) -> Result<Page, Errno> {
    let page = Page::new(info, protection)?;
    page.map(0, 0, 0)?;
    Ok(page)
}

fn protect(page: &Page, protection: Protection) -> Result<(), Errno> {
    page.protect(protection)
}

fn read_only(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let (read_only, writable) = (
        root(info, Protection::READ)?,
        root(info, Protection::READ_WRITE)?,
    );
    all(&[
        expect_error(
            "read-only",
            protect(&read_only, Protection::READ_WRITE),
            Errno::EACCES,
        ),
        expect_ok("writable, less", protect(&writable, Protection::READ)),
        expect_ok(
            "writable, again",
            protect(&writable, Protection::READ_WRITE),
        ),
    ])
}

fn executable(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = root(info, Protection::READ)?;
    let result = protect(&page, Protection::READ | Protection::EXECUTE);
    all(&[expect_error("PROT_EXEC", result, Errno::EACCES)])
}

fn fork(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = root(info, Protection::READ_WRITE)?;
    let address = page.address();
    // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }.spawn(|| {
        let mut found = false;
        let path = proc_path(process::pid(), "maps");
        let result = path.and_then(|path| {
            for_each_line(&path, &mut |line| {
                found |=
                    parse_range(line).is_some_and(|(start, end)| (start..end).contains(&address));
                Ok(())
            })
        });
        if result.is_ok() && !found {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    })?;
    all(&[expect("the child", child.wait().map(status_number), Ok(0))])
}

fn advise(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = root(info, Protection::READ_WRITE)?;
    let refused = |advice| expect_error("advice", page.advise(advice), Errno::EINVAL);
    Ok([Advice::DoFork, Advice::DoDump, Advice::DontNeed]
        .into_iter()
        .all(refused)
        .into())
}

fn read_through(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = root(info, Protection::READ_WRITE)?;
    let mut bytes = [0; 8];
    match read_memory(process::pid(), page.address(), &mut bytes) {
        Err(Errno::ENOSYS) => Ok(Verdict::Skip("CONFIG_CROSS_MEMORY_ATTACH is off")),
        result => all(&[expect_error("process_vm_readv", result, Errno::EFAULT)]),
    }
}

fn shows(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = root(info, Protection::READ)?;
    let mut lines = 0;
    for_each_line(&proc_path(process::pid(), "maps")?, &mut |line| {
        let here = parse_range(line).is_some_and(|(start, _)| start == page.address());
        lines += u64::from(here && line.ends_with(b" anon_inode:[page_table]"));
        Ok(())
    })?;
    all(&[expect("lines of maps", Ok(lines), Ok(1))])
}
