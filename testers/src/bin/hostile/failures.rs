//! Makes each allocation of a call fail, one after the other.

#![expect(unsafe_code, reason = "forks")]

use core::ffi::CStr;

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::Fork;
use tablewalk_rt::{ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::page::{Page, range};
use tablewalk_testkit::witness::Witness;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_RDWR, O_WRONLY, OwnedFd};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::remap::{
    ExposePgtblInfo, ExposePgtblTable, flush, info as ask_info, number, path,
};
use tablewalk_uapi::signal;
use tablewalk_uapi::system::mount;

use crate::races::frame_of;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "mapping a table by address, each allocation failing",
        run: |context| fail_each(context, Protection::READ_WRITE, by_address),
    },
    Case {
        name: "mapping a table by frame number, each allocation failing",
        run: |context| fail_each(context, Protection::READ_WRITE, by_frame),
    },
    Case {
        name: "mapping tables by range, each allocation failing",
        run: |context| fail_each(context, Protection::READ_WRITE, by_range),
    },
    Case {
        name: "mapping the root read-only, each allocation failing",
        run: |context| fail_each(context, Protection::READ, root),
    },
    Case {
        name: "INFO, PATH and FLUSH allocate nothing",
        run: allocate_nothing,
    },
];

/// Fault injection settings (`Documentation/fault-injection/fault-injection.rst`): allocations of every order
/// fail, also those that may wait, and nothing is printed about it.
const SETTINGS: [(&CStr, &[u8]); 6] = [
    (c"/sys/kernel/debug/failslab/ignore-gfp-wait", b"N"),
    (c"/sys/kernel/debug/failslab/verbose", b"0"),
    (c"/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", b"N"),
    (
        c"/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem",
        b"N",
    ),
    (c"/sys/kernel/debug/fail_page_alloc/min-order", b"0"),
    (c"/sys/kernel/debug/fail_page_alloc/verbose", b"0"),
];

/// Sets which allocation of this thread fails: `/proc/thread-self/fail-nth`.
struct FailNth(OwnedFd);

impl FailNth {
    /// Returns `None` if the kernel has no fault injection.
    fn open() -> Option<Self> {
        match mount(c"debugfs", c"/sys/kernel/debug", c"debugfs", 0) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(_) => return None,
        }
        for (path, value) in SETTINGS {
            let file = file::open(path, O_WRONLY).ok()?;
            file::write(&file, value).ok()?;
        }
        file::open(c"/proc/thread-self/fail-nth", O_RDWR)
            .ok()
            .map(Self)
    }

    /// Runs `body` with its allocation number `n` failing. Returns the result, and whether there were that
    /// many allocations.
    fn with(
        &self,
        n: u8,
        body: &dyn Fn() -> Result<(), Errno>,
    ) -> Result<(Result<(), Errno>, bool), Errno> {
        let digits = [b'0' + n / 10, b'0' + n % 10];
        // A leading 0 would make the number octal.
        let number = digits.strip_prefix(b"0").unwrap_or(&digits);
        file::write(&self.0, number)?;
        let result = body();
        // The remaining count: 0 if the allocation was reached.
        let mut left = [0; 8];
        let length = file::pread(&self.0, &mut left, 0)?;
        file::write(&self.0, b"0")?;
        let failed = left.get(..length).unwrap_or_default().trim_ascii() == b"0";
        Ok((result, failed))
    }
}

/// Returns an address that has a table, on the stack.
fn mapped_address(info: &ExposePgtblInfo) -> u64 {
    core::ptr::from_ref(info).expose_provenance() as u64
}

/// Maps a table of process `pid`.
type Map = fn(&ExposePgtblInfo, &Page, pid: i32) -> Result<(), Errno>;

fn by_address(info: &ExposePgtblInfo, page: &Page, pid: i32) -> Result<(), Errno> {
    page.map_address(pid, 3, mapped_address(info)).map(drop)
}

fn by_frame(info: &ExposePgtblInfo, page: &Page, pid: i32) -> Result<(), Errno> {
    let path = path(pid, mapped_address(info))?;
    let descriptor = path.desc.get(2).copied().unwrap_or(0);
    page.map(pid, 3, frame_of(info, descriptor)).map(drop)
}

fn by_range(_: &ExposePgtblInfo, page: &Page, pid: i32) -> Result<(), Errno> {
    let mut tables = [ExposePgtblTable::default()];
    // SAFETY: there is one page and one element.
    unsafe { page.map_range(pid, 3, &mut range(0, 1 << 36, &mut tables)) }
}

fn root(_: &ExposePgtblInfo, page: &Page, pid: i32) -> Result<(), Errno> {
    page.map(pid, 0, 0).map(drop)
}

/// More allocations than any call makes.
const MOST: u8 = 99;

fn fail_each(context: &mut Context, protection: Protection, map: Map) -> Result<Verdict, Error> {
    let info = &context.info;
    let Some(fail) = FailNth::open() else {
        return Ok(Verdict::Skip("no fault injection (CONFIG_FAULT_INJECTION)"));
    };
    let witness = Witness::begin()?;
    let (mut met, mut whole_again, mut refused) = (true, false, 0);
    // Repeat until a leak would show, each time with another process: its tables would leak.
    for round in 0..context.rounds {
        // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
        let target = unsafe { Fork::promised() }
            .spawn(|| {
                signal::pause();
                ExitCode::SUCCESS
            })
            .map_err(Error::call("fork"))?;
        for n in 1..=MOST {
            let page = Page::new(info, protection).map_err(Error::call("mmap"))?;
            let (result, failed) = fail
                .with(n, &|| map(info, &page, target.pid()))
                .map_err(Error::call("fail-nth"))?;
            // Some failed allocations are retried in another way.
            let expected = result.is_ok() || (failed && result == Err(Errno::ENOMEM));
            if !expected {
                println!("# allocation {n} of the call fails: {result:?}");
                met = false;
            }
            refused += u64::from(result.is_err());
            if !failed {
                if round == 0 {
                    println!("# {} allocations, {refused} of them needed", n - 1);
                }
                whole_again = refused > 0;
                break;
            }
        }
    }
    Ok((met && whole_again && witness.all_came_back()?).into())
}

fn allocate_nothing(_: &mut Context) -> Result<Verdict, Error> {
    if number().is_none() {
        return Ok(Verdict::Skip(
            "the device and the process are opened for each call",
        ));
    }
    let Some(fail) = FailNth::open() else {
        return Ok(Verdict::Skip("no fault injection (CONFIG_FAULT_INJECTION)"));
    };
    let calls: [&dyn Fn() -> Result<(), Errno>; 3] =
        [&|| ask_info().map(drop), &|| path(0, 0).map(drop), &|| {
            flush(0, 0, 1)
        }];
    let mut met = true;
    for call in calls {
        let (result, failed) = fail.with(1, call).map_err(Error::call("fail-nth"))?;
        met &= result == Ok(()) && !failed;
    }
    Ok(met.into())
}
