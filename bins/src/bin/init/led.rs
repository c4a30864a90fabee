//! An LED that shows the verdict on boards without a console.

use core::time::Duration;

use tablewalk_rt::{ExitCode, println};
use tablewalk_uapi::file::{self, O_WRONLY, OwnedFd};
use tablewalk_uapi::{Errno, signal, time};

use crate::path;

/// An LED of `/sys/class/leds` (`Documentation/leds/leds-class.rst`).
pub(crate) struct Led(OwnedFd);

impl Led {
    /// Opens the LED `name`, detaches it from its trigger, and turns it off.
    pub(crate) fn open(name: &str) -> Result<Self, Errno> {
        // Accept a name, not a path.
        if name.is_empty() || name.contains('/') {
            return Err(Errno::EINVAL);
        }
        let path = path::join(&["/sys/class/leds/", name, "/brightness"]);
        let led = Self(file::open(&path.ok_or(Errno::ENAMETOOLONG)?, O_WRONLY)?);
        // Writing a brightness also removes the trigger.
        led.set(false)?;
        Ok(led)
    }

    /// Sets full brightness, or turns the LED off. The kernel limits 255 to the maximum of the LED.
    fn set(&self, on: bool) -> Result<(), Errno> {
        let brightness: &[u8] = if on { b"255" } else { b"0" };
        file::write(&self.0, brightness).map(drop)
    }

    /// Turns the LED on for PASS, otherwise off.
    pub(crate) fn show(&self, status: ExitCode) {
        self.try_set(status == ExitCode::SUCCESS);
    }

    /// Shows the verdict for ever: on for PASS, otherwise blinking.
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
                // An error was reported when the LED was set the first time.
                let _ = self.set(lit);
                // If a signal ends the sleep early, the LED changes early.
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
