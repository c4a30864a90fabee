//! Which processes may be the target, and which may be the caller.

#![expect(unsafe_code, reason = "forks")]

use tablewalk_proc::lines::{for_each_line, parse_range};
use tablewalk_proc::pagemap::Pagemap;
use tablewalk_proc::path::proc_path;
use tablewalk_rt::ExitCode;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::Fork;
use tablewalk_uapi::Errno;
use tablewalk_uapi::credentials::{
    CAP_SYS_ADMIN, CAP_SYS_RAWIO, set_capabilities, set_gids, set_uids,
};
use tablewalk_uapi::file;
use tablewalk_uapi::process;
use tablewalk_uapi::remap::{ExposePgtblInfo, flush, info as ask_info, path};

use crate::Test;
use tablewalk_testkit::expect::{all, expect, expect_error, failed_with, in_child};
use tablewalk_testkit::page::Page;

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "no such process: ESRCH",
        run: missing,
    },
    Case {
        name: "a kernel thread: ESRCH",
        run: kernel_thread,
    },
    Case {
        name: "a zombie: ESRCH",
        run: zombie,
    },
    Case {
        name: "user 1000: EPERM",
        run: unprivileged,
    },
    Case {
        name: "CAP_SYS_ADMIN alone maps read-only, writable is EPERM",
        run: admin_alone,
    },
    Case {
        name: "a frame that is not a table of that level: ENOENT",
        run: not_a_table,
    },
    Case {
        name: "a frame of the kernel's text: ENOENT",
        run: kernel_text,
    },
    Case {
        name: "a table of another process: ENOENT",
        run: other_process,
    },
];

fn missing(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = Page::writable(info)?;
    all(&[
        expect_error("highest pid", page.map(i32::MAX, 0, 0), Errno::ESRCH),
        expect_error("negative pid", page.map(-1, 0, 0), Errno::ESRCH),
        expect_error("PATH", path(i32::MAX, 0), Errno::ESRCH),
        expect_error("FLUSH", flush(i32::MAX, 0, 0), Errno::ESRCH),
    ])
}

/// `kthreadd` (`init/main.c`, `rest_init`), except in a PID namespace.
const KTHREADD: i32 = 2;

fn kernel_thread(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let mut is_kthreadd = false;
    let comm = proc_path(KTHREADD, "comm")?;
    for_each_line(&comm, &mut |line| {
        is_kthreadd = line == b"kthreadd";
        Ok(())
    })?;
    if !is_kthreadd {
        return Ok(Verdict::Skip("process 2 is no kernel thread here"));
    }
    let page = Page::writable(info)?;
    all(&[
        expect_error("map", page.map(KTHREADD, 0, 0), Errno::ESRCH),
        expect_error("PATH", path(KTHREADD, 0), Errno::ESRCH),
    ])
}

fn zombie(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = Page::writable(info)?;
    // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }.spawn(|| ExitCode::SUCCESS)?;
    process::wait_without_reaping(child.pid())?;
    all(&[
        expect_error("map", page.map(child.pid(), 0, 0), Errno::ESRCH),
        expect_error("PATH", path(child.pid(), 0), Errno::ESRCH),
    ])
}

fn unprivileged(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let read_only = Page::read_only(info)?;
    let calls: [&dyn Fn() -> Result<(), Errno>; 4] = [
        &|| read_only.map(0, 0, 0).map(drop),
        &|| ask_info().map(drop),
        &|| path(0, 0).map(drop),
        &|| flush(0, 0, 0),
    ];
    let mut met = true;
    for call in calls {
        // SAFETY: the child makes calls that fail, or that map over its copy of a page.
        let status = in_child(unsafe { Fork::promised() }, || {
            set_gids(1000)?;
            set_uids(1000)?;
            call()
        });
        met &= expect("child", status, failed_with(Errno::EPERM));
    }
    Ok(met.into())
}

fn admin_alone(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let (read_only, writable) = (Page::read_only(info)?, Page::writable(info)?);
    let as_admin = |capabilities, page: &Page| {
        // SAFETY: the child makes calls that fail, or that map over its copy of a page.
        in_child(unsafe { Fork::promised() }, || {
            set_capabilities(capabilities)?;
            page.map(0, 0, 0).map(drop)
        })
    };
    let (admin, raw_io) = (1 << CAP_SYS_ADMIN, 1 << CAP_SYS_RAWIO);
    all(&[
        expect("read-only", as_admin(admin, &read_only), Ok(0)),
        expect(
            "writable",
            as_admin(admin, &writable),
            failed_with(Errno::EPERM),
        ),
        expect(
            "writable, CAP_SYS_RAWIO",
            as_admin(admin | raw_io, &writable),
            Ok(0),
        ),
        expect(
            "CAP_SYS_RAWIO alone",
            as_admin(raw_io, &read_only),
            failed_with(Errno::EPERM),
        ),
    ])
}

fn not_a_table(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = Page::written(info)?;
    let data = Pagemap::open(process::pid(), info.page_shift)?
        .entry(page.address())?
        .frame();
    let target = Page::writable(info)?;
    let leaf_table = target.map_address(0, 3, page.address())?;
    let last = (1 << (info.oa_bits - info.page_shift)) - 1;
    all(&[
        expect_error("a data page", target.map(0, 3, data), Errno::ENOENT),
        expect_error(
            "a level-3 table as level 2",
            target.map(0, 2, leaf_table),
            Errno::ENOENT,
        ),
        expect(
            "the same as level 3",
            target.map(0, 3, leaf_table),
            Ok(leaf_table),
        ),
        expect_error("frame 0", target.map(0, 3, 0), Errno::ENOENT),
        expect_error(
            "the last output address",
            target.map(0, 3, last),
            Errno::ENOENT,
        ),
        expect_error("past all memory", target.map(0, 3, !0), Errno::ENOENT),
    ])
}

fn kernel_text(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let mut start = 0;
    for_each_line(c"/proc/iomem", &mut |line| {
        if line.ends_with(b" : Kernel code") {
            start = parse_range(line).map_or(0, |(start, _)| start);
        }
        Ok(())
    })?;
    if start == 0 {
        return Ok(Verdict::Skip("/proc/iomem does not say where it is"));
    }
    let page = Page::writable(info)?;
    Ok((1..4)
        .all(|level| {
            // With two levels there is no level 1.
            let exists = level + info.levels >= 4;
            let errno = if exists { Errno::ENOENT } else { Errno::EINVAL };
            expect_error("level", page.map(0, level, start >> info.page_shift), errno)
        })
        .into())
}

fn other_process(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = Page::writable(info)?;
    let (reader, _writer) = file::pipe()?;
    // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }.spawn(|| {
        // Nobody writes to the pipe: waits until it is killed.
        let _ = file::read(&reader, &mut [0]);
        ExitCode::SUCCESS
    })?;
    // The stack: both processes have it at the same address, and fork copied its table.
    let stack = core::ptr::from_ref(&page).expose_provenance() as u64;
    let theirs = page.map_address(child.pid(), 3, stack)?;
    let ours = page.map_address(0, 3, stack)?;
    all(&[
        expect(
            "by frame, in its own process",
            page.map(child.pid(), 3, theirs),
            Ok(theirs),
        ),
        expect_error("theirs in ours", page.map(0, 3, theirs), Errno::ENOENT),
        expect_error(
            "ours in theirs",
            page.map(child.pid(), 3, ours),
            Errno::ENOENT,
        ),
    ])
}
