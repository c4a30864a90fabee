//! Progress lines on standard error, for commands that take long.

use core::fmt::Arguments;

use tablewalk_rt::counter::{frequency, ticks};
use tablewalk_rt::eprintln;
use tablewalk_walker::VirtualAddress;

/// Prints the progress once a second, from the second second on.
pub(crate) struct Progress {
    next: u64,
    calls: u32,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self {
            next: ticks().saturating_add(frequency()),
            calls: 0,
        }
    }

    /// Records that the work is at `address`. Reads the clock every 64 calls.
    pub(crate) fn at(&mut self, address: VirtualAddress) {
        self.calls = self.calls.wrapping_add(1);
        if self.calls.is_multiple_of(64) {
            self.look(format_args!("{address}"));
        }
    }

    /// Records that the work is at process `pid`.
    pub(crate) fn at_process(&mut self, pid: i32) {
        self.look(format_args!("process {}", pid.cast_unsigned()));
    }

    #[cold]
    fn look(&mut self, place: Arguments<'_>) {
        let now = ticks();
        if now >= self.next {
            eprintln!("pt: at {place}");
            self.next = now.saturating_add(frequency());
        }
    }
}
