//! An LED that says the verdict where there is no console.

use core::time::Duration;

use tablewalk_rt::{ExitCode, println};
use tablewalk_uapi::file::{self, O_WRONLY, OwnedFd};
use tablewalk_uapi::{Errno, signal, time};

use crate::path;

/// An LED of `/sys/class/leds` (`Documentation/leds/leds-class.rst`).
pub(crate) struct Led(OwnedFd);

impl Led {
    /// Takes the LED `name` from whatever drives it, and turns it off.
    pub(crate) fn open(name: &str) -> Result<Self, Errno> {
        // A name, not a path.
        if name.is_empty() || name.contains('/') {
            return Err(Errno::EINVAL);
        }
        let path = path::join(&["/sys/class/leds/", name, "/brightness"]);
        let led = Self(file::open(&path.ok_or(Errno::ENAMETOOLONG)?, O_WRONLY)?);
        // This takes it from its trigger too.
        led.set(false)?;
        Ok(led)
    }

    /// As bright as it gets, or off; the kernel takes 255 for the most that there is.
    fn set(&self, on: bool) -> Result<(), Errno> {
        let brightness: &[u8] = if on { b"255" } else { b"0" };
        file::write(&self.0, brightness).map(drop)
    }

    /// On for PASS, otherwise off.
    pub(crate) fn show(&self, status: ExitCode) {
        self.try_set(status == ExitCode::SUCCESS);
    }

    /// Goes on for ever: stays on for PASS, otherwise blinks.
    pub(crate) fn blink(&self, status: ExitCode) -> ! {
        // On for a quarter of a second; off for as long, or for the rest of two seconds.
        let off = match status {
            ExitCode::SUCCESS => loop {
                signal::pause();
            },
            ExitCode::SKIP => 1750,
            _ => 250,
        };
        loop {
            for (lit, milliseconds) in [(true, 250), (false, off)] {
                // What it showed first was said if it failed.
                let _ = self.set(lit);
                // Ends early if a signal comes; then it blinks sooner.
                let _ = time::sleep(Duration::from_millis(milliseconds));
            }
        }
    }

    fn try_set(&self, on: bool) {
        if let Err(errno) = self.set(on) {
            println!("init: LED: {errno}");
        }
    }
}
