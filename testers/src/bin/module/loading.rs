//! Loading and removing the module, and lockdown.

#![expect(
    unsafe_code,
    reason = "puts other descriptors in the place of those of the module"
)]

use core::ffi::CStr;

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_testkit::expect::{all, expect, expect_error, expect_ok};
use tablewalk_testkit::page::Page;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_RDONLY, O_WRONLY};
use tablewalk_uapi::remap::EXPOSE_PGTBL_ADDR;
use tablewalk_uapi::remap_device::{Device, Target};
use tablewalk_uapi::system::{load_module, mount, remove_module};

use crate::place::{map, open_target, touched};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "it is not removed while a descriptor or a table is there: EAGAIN",
        run: removal,
    },
    Case {
        name: "lockdown=integrity: no writable table",
        run: lockdown,
    },
];

/// Where the initramfs has the module.
pub(crate) const PATH: &str = "/lib/modules/remap_page_table.ko";
const NAME: &CStr = c"remap_page_table";

/// Loads the module, unless init has done that.
pub(crate) fn load() -> Result<(), Errno> {
    let file = file::open(&tablewalk_proc::path::PathBuffer::of(PATH)?, O_RDONLY)?;
    match load_module(&file) {
        Err(Errno::EEXIST) => Ok(()),
        loaded => loaded,
    }
}

fn removal(context: &mut Context) -> Result<Verdict, Errno> {
    let remove = || remove_module(NAME);
    let memory = touched(&context.info)?;
    let table = |target: &Target| {
        let page = Page::read_only(&context.info)?;
        let frame = map(target, &page, 3 | EXPOSE_PGTBL_ADDR, memory.address())?;
        Ok::<_, Errno>((page, frame))
    };
    let null = || file::open(c"/dev/null", O_RDONLY);
    let (page, frame) = table(&context.own)?;
    let all_three = remove();
    // SAFETY: no ioctl is made with it.
    context.device = unsafe { Device::from_descriptor(null()?) };
    drop(page);
    let target = remove();
    let (page, _) = table(&context.own)?;
    // SAFETY: no ioctl is made with it.
    context.own = unsafe { Target::from_descriptor(null()?) };
    let alone = remove();
    let entries = page.words_in_use();
    drop(page);
    let nothing = remove();
    let gone = Device::open().map(drop);
    load()?;
    context.device = Device::open()?;
    let device = remove();
    context.own = open_target(&context.device, 0)?;
    let again = table(&context.own).map(|(_, frame)| frame);
    all(&[
        expect_error("descriptors and a table", all_three, Errno::EAGAIN),
        expect_error("the descriptor of a process", target, Errno::EAGAIN),
        expect_error("a table", alone, Errno::EAGAIN),
        expect("it is still there", Ok(u64::from(entries > 0)), Ok(1)),
        expect_ok("nothing", nothing),
        expect_error("the device then", gone, Errno::ENOENT),
        expect_error("the device", device, Errno::EAGAIN),
        expect("loaded again", again, Ok(frame)),
    ])
}

fn lockdown(context: &mut Context) -> Result<Verdict, Errno> {
    match mount(c"securityfs", c"/sys/kernel/security", c"securityfs", 0) {
        Ok(()) | Err(Errno::EBUSY) => {}
        Err(_) => return Ok(Verdict::Skip("no securityfs")),
    }
    let Ok(file) = file::open(c"/sys/kernel/security/lockdown", O_WRONLY) else {
        return Ok(Verdict::Skip("no lockdown"));
    };
    let (small, large) = (
        Page::read_only(&context.info)?,
        Page::writable(&context.info)?,
    );
    let memory = touched(&context.info)?;
    let table = |page: &Page| {
        let level = 3 | EXPOSE_PGTBL_ADDR;
        map(&context.own, page, level, memory.address()).map(drop)
    };
    let before = table(&large);
    let other = Page::writable(&context.info)?;
    file::write(&file, b"integrity")?;
    all(&[
        expect_ok("writable before", before),
        expect_error("writable", table(&other), Errno::EPERM),
        expect_ok("read-only", table(&small)),
    ])
}
