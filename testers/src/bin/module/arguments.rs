//! Arguments that are refused, each with its errno.

#![expect(
    unsafe_code,
    reason = "passes pointers to the kernel that it must refuse"
)]

use core::ptr;

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_testkit::expect::{all, expect_error};
use tablewalk_testkit::page::{Page, range};
use tablewalk_uapi::remap::{
    EXPOSE_PGTBL_ADDR, EXPOSE_PGTBL_ADOPT, EXPOSE_PGTBL_FLUSH, EXPOSE_PGTBL_INFO,
    EXPOSE_PGTBL_LEND, EXPOSE_PGTBL_PATH, EXPOSE_PGTBL_RANGE, EXPOSE_PGTBL_TAKE, ExposePgtblArgs,
    ExposePgtblRange, ExposePgtblTable,
};
use tablewalk_uapi::remap_device::EXPOSE_PGTBL_LEVEL_0;
use tablewalk_uapi::track::EXPOSE_PGTBL_TRACK;
use tablewalk_uapi::{Errno, raw};

use crate::place::{call, level_number, map, root_level, touched};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "ADOPT, LEND, TAKE and TRACK are not there: EOPNOTSUPP",
        run: not_there,
    },
    Case {
        name: "levels, flags, a pid, and addresses that are not valid: EINVAL",
        run: invalid,
    },
    Case {
        name: "structs that are too small or too large, ranges, bad pointers",
        run: structs,
    },
];

fn not_there(context: &mut Context) -> Result<Verdict, Errno> {
    let page = Page::read_only(&context.info)?;
    let mut met = true;
    for flag in [
        EXPOSE_PGTBL_ADOPT,
        EXPOSE_PGTBL_LEND,
        EXPOSE_PGTBL_TAKE,
        EXPOSE_PGTBL_TRACK,
    ] {
        // SAFETY: refused; nothing else uses the page.
        let called = unsafe { call(&context.own, flag, page.address(), 1) };
        met &= expect_error("form", called, Errno::EOPNOTSUPP);
    }
    Ok(met.into())
}

fn invalid(context: &mut Context) -> Result<Verdict, Errno> {
    let info = &context.info;
    let page = Page::read_only(info)?;
    let gone = Page::read_only(info)?.address();
    let end = 1 << info.va_bits;
    // SAFETY: refused; nothing else uses the page.
    let at = |address, level, pfn| unsafe { call(&context.own, level, address, pfn) };
    let refused = |what, level, pfn| {
        let called = at(page.address(), level, pfn);
        expect_error(what, called, Errno::EINVAL)
    };
    let mut of_process = ExposePgtblArgs {
        pid: 1,
        remap_vaddr: page.address(),
        pfn: 0,
        level: 0,
    };
    // SAFETY: as above.
    let of_process = unsafe { context.own.call(&mut of_process) };
    let root = level_number(info, root_level(info));
    let mut met = true;
    if root_level(info) >= 0 {
        met &= refused("level 0 by its other name", EXPOSE_PGTBL_LEVEL_0, 0);
    }
    for level in (1..root_level(info).max(1)).map(i32::cast_unsigned) {
        met &= refused("above the root", level, 0);
    }
    all(&[
        met,
        refused("level 4", 4, 0),
        refused("level 255", 255, 0),
        refused("unknown flag", 0x20000, 0),
        refused("two flags", EXPOSE_PGTBL_ADDR | EXPOSE_PGTBL_PATH, 0),
        refused("two flags", EXPOSE_PGTBL_ADDR | EXPOSE_PGTBL_LEND, 0),
        refused("INFO of a level", EXPOSE_PGTBL_INFO | 3, 0),
        refused("beyond user space", EXPOSE_PGTBL_ADDR | 3, end),
        refused("PATH beyond user space", EXPOSE_PGTBL_PATH, end),
        refused(
            "FLUSH of too much",
            EXPOSE_PGTBL_FLUSH,
            end >> info.page_shift,
        ),
        refused("FLUSH of far too much", EXPOSE_PGTBL_FLUSH, !0),
        refused("RANGE of the root", EXPOSE_PGTBL_RANGE | root, gone),
        expect_error("a pid", of_process, Errno::EINVAL),
        expect_error("unaligned", at(page.address() + 8, 0, 0), Errno::EINVAL),
        expect_error("a hole", at(gone, 0, 0), Errno::EINVAL),
        expect_error("the kernel's half", at(!0 << 48, 0, 0), Errno::EINVAL),
        expect_error(
            "the root by another frame",
            map(&context.own, &page, 3, 0),
            Errno::ENOENT,
        ),
    ])
}

fn structs(context: &mut Context) -> Result<Verdict, Errno> {
    let info = &context.info;
    let page = Page::read_only(info)?;
    let memory = touched(info)?;
    let address = memory.address();
    let gone = Page::read_only(info)?.address();
    let mut tables = [ExposePgtblTable::default()];
    let good = range(address, address + 1, &mut tables);
    let ask = |asked: ExposePgtblRange| {
        // Words after the struct, for a size that covers them.
        let mut padded = (asked, [1_u64; 2]);
        let pfn = ptr::from_mut(&mut padded).expose_provenance() as u64;
        // SAFETY: the kernel fills the struct and its array; nothing else uses the page.
        unsafe { call(&context.own, 3 | EXPOSE_PGTBL_RANGE, page.address(), pfn) }
    };
    let at = |level, address| {
        // SAFETY: nothing is mapped there, or the page is the test's own.
        unsafe { call(&context.own, level, address, memory.address()) }
    };
    // SAFETY: nothing is mapped there.
    let args = unsafe { context.own.call_raw(ptr::with_exposed_provenance_mut(8)) };
    let number = 0xe2ff;
    // SAFETY: no such ioctl.
    let ioctl = unsafe { raw::call(raw::constants::__NR_ioctl, [0, number, 0, 0, 0, 0]) };
    all(&[
        expect_error(
            "too small",
            ask(ExposePgtblRange { size: 31, ..good }),
            Errno::EINVAL,
        ),
        expect_error(
            "not zeros behind",
            ask(ExposePgtblRange { size: 40, ..good }),
            Errno::E2BIG,
        ),
        expect_error(
            "more than a page",
            ask(ExposePgtblRange {
                size: (1 << info.page_shift) + 8,
                ..good
            }),
            Errno::E2BIG,
        ),
        expect_error(
            "no tables",
            ask(ExposePgtblRange { count: 0, ..good }),
            Errno::EINVAL,
        ),
        expect_error(
            "empty",
            ask(ExposePgtblRange {
                end: address,
                ..good
            }),
            Errno::EINVAL,
        ),
        expect_error(
            "more pages than there are",
            ask(ExposePgtblRange { count: 512, ..good }),
            Errno::EINVAL,
        ),
        expect_error(
            "array",
            ask(ExposePgtblRange { tables: 8, ..good }),
            Errno::EFAULT,
        ),
        expect_error(
            "range",
            at(3 | EXPOSE_PGTBL_RANGE, page.address()).and(at(3 | EXPOSE_PGTBL_RANGE, gone)),
            Errno::EINVAL,
        ),
        expect_error("PATH", at(EXPOSE_PGTBL_PATH, gone), Errno::EFAULT),
        expect_error("INFO", at(EXPOSE_PGTBL_INFO, gone), Errno::EFAULT),
        expect_error(
            "INFO of no size",
            at(EXPOSE_PGTBL_INFO, page.address()),
            Errno::EINVAL,
        ),
        expect_error("args", args, Errno::EFAULT),
        expect_error("ioctl of a console", ioctl, Errno::ENOTTY),
    ])
}
