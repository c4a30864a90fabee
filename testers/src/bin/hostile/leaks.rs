//! Leaks that the kernel finds itself.

use core::time::Duration;

use tablewalk_proc::lines::for_each_line;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::println;
use tablewalk_testkit::error::Error;
use tablewalk_uapi::file::{self, O_WRONLY};
use tablewalk_uapi::system::mount;
use tablewalk_uapi::{Errno, time};

use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[Case {
    name: "kmemleak finds nothing",
    run: scan,
}];

/// A younger object is not reported: `MSECS_MIN_AGE`, 5 seconds, of `mm/kmemleak.c`.
const AGE: Duration = Duration::from_secs(6);

fn scan(_: &mut Context) -> Result<Verdict, Error> {
    const KMEMLEAK: &core::ffi::CStr = c"/sys/kernel/debug/kmemleak";
    match mount(c"debugfs", c"/sys/kernel/debug", c"debugfs", 0) {
        Ok(()) | Err(Errno::EBUSY) => {}
        Err(_) => return Ok(Verdict::Skip("no debugfs")),
    }
    let Ok(control) = file::open(KMEMLEAK, O_WRONLY) else {
        return Ok(Verdict::Skip("no kmemleak"));
    };
    // Scan twice: a pointer that was being moved during the first scan is not a leak.
    for _scan in 0..2 {
        time::sleep(AGE).map_err(Error::call("nanosleep"))?;
        file::write(&control, b"scan").map_err(Error::call("kmemleak"))?;
    }
    let mut lines = 0;
    for_each_line(KMEMLEAK, &mut |line| {
        lines += 1;
        if let Ok(line) = str::from_utf8(line) {
            println!("# {line}");
        }
        Ok(())
    })
    .map_err(Error::call("kmemleak"))?;
    Ok((lines == 0).into())
}
