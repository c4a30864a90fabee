//! Who may do what.

#![expect(unsafe_code, reason = "forks")]

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::Fork;
use tablewalk_testkit::expect::{Outcome, all, expect, expect_error, failed_with, in_child};
use tablewalk_testkit::page::Page;
use tablewalk_uapi::Errno;
use tablewalk_uapi::credentials::{
    CAP_SYS_ADMIN, CAP_SYS_RAWIO, set_capabilities, set_gids, set_uids,
};
use tablewalk_uapi::file::O_RDONLY;
use tablewalk_uapi::remap_device::Device;

use crate::place::{map, memory_of};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "without CAP_SYS_ADMIN: EPERM, also with a descriptor of root's",
        run: no_admin,
    },
    Case {
        name: "a writable table without CAP_SYS_RAWIO: EPERM",
        run: no_raw_io,
    },
    Case {
        name: "user 1000 cannot open the device: EACCES",
        run: user,
    },
    Case {
        name: "a writable table of a process whose memory was opened for reading: EACCES",
        run: opened_for_reading,
    },
];

/// Runs `body` in a child with these capabilities.
fn with(capabilities: u64, body: impl FnOnce() -> Result<(), Errno>) -> Outcome {
    // SAFETY: the child makes calls that fail, or that map over its copy of a page.
    in_child(unsafe { Fork::promised() }, || {
        set_capabilities(capabilities)?;
        body()
    })
}

const ADMIN: u64 = 1 << CAP_SYS_ADMIN;
const RAW_IO: u64 = 1 << CAP_SYS_RAWIO;

fn no_admin(context: &mut Context) -> Result<Verdict, Errno> {
    let page = Page::read_only(&context.info)?;
    let open = || {
        let memory = memory_of(0, O_RDONLY)?;
        context.device.target(memory.borrow()).map(drop)
    };
    let map = || map(&context.own, &page, 0, 0).map(drop);
    let info = || context.own.info().map(drop);
    let denied = || failed_with(Errno::EPERM);
    all(&[
        expect("open", with(RAW_IO, open), denied()),
        expect("map", with(RAW_IO, map), denied()),
        expect("INFO", with(RAW_IO, info), denied()),
        expect("open, permitted", with(ADMIN, open), Ok(0)),
        expect("map, permitted", with(ADMIN, map), Ok(0)),
        expect("INFO, permitted", with(ADMIN, info), Ok(0)),
    ])
}

/// The tables of this process, which a child inherits the descriptor of, over pages of the child.
fn no_raw_io(context: &mut Context) -> Result<Verdict, Errno> {
    let (small, large) = (
        Page::read_only(&context.info)?,
        Page::writable(&context.info)?,
    );
    let address = large.address();
    // A page of the table's own, so that it is there.
    let table = |page| {
        let level = 3 | tablewalk_uapi::remap::EXPOSE_PGTBL_ADDR;
        map(&context.own, page, level, address).map(drop)
    };
    // SAFETY: no table is mapped there.
    unsafe { large.set_word(0, 1) };
    all(&[
        expect(
            "writable",
            with(ADMIN, || table(&large)),
            failed_with(Errno::EPERM),
        ),
        expect("read-only", with(ADMIN, || table(&small)), Ok(0)),
        expect("permitted", with(ADMIN | RAW_IO, || table(&large)), Ok(0)),
    ])
}

fn user(_: &mut Context) -> Result<Verdict, Errno> {
    // SAFETY: the child opens a file.
    let status = in_child(unsafe { Fork::promised() }, || {
        set_gids(1000)?;
        set_uids(1000)?;
        Device::open().map(drop)
    });
    all(&[expect("open", status, failed_with(Errno::EACCES))])
}

fn opened_for_reading(context: &mut Context) -> Result<Verdict, Errno> {
    let target = context.device.target(memory_of(0, O_RDONLY)?.borrow())?;
    let (small, large) = (
        Page::read_only(&context.info)?,
        Page::writable(&context.info)?,
    );
    all(&[
        expect_error("writable", map(&target, &large, 0, 0), Errno::EACCES),
        expect("read-only", map(&target, &small, 0, 0).map(|_| 0), Ok(0)),
    ])
}
