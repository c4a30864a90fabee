//! Where lines go: to the console, or to what there is instead.

#![expect(unsafe_code, reason = "replaces what standard output leads to")]

use core::ffi::CStr;
use core::mem::ManuallyDrop;

use tablewalk_rt::console::stdout_was_closed;
use tablewalk_rt::{ExitCode, println};
use tablewalk_uapi::file::{
    self, BorrowedFd, O_NOCTTY, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY, OwnedFd,
};
use tablewalk_uapi::{Errno, terminal};

use crate::path;

/// What standard output is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// The console.
    Console,
    /// There is none, and the kernel log has the lines: consoles that the kernel alone writes to show
    /// them (`earlycon`, netconsole), and so does what reads the log later (pstore).
    KernelLog,
    /// Nothing takes lines; the verdict goes out another way.
    Nowhere,
}

const CONSOLE: &CStr = c"/dev/console";
const KERNEL_LOG: &CStr = c"/dev/kmsg";

impl Output {
    /// Fills descriptors 0 to 2, if the kernel found no console for them.
    pub(crate) fn open() -> Self {
        let taken = match stdout_was_closed() {
            true => take(CONSOLE, O_RDWR),
            false => Ok(()),
        };
        let Err(why) = taken else {
            unblock();
            return Self::Console;
        };
        if take(KERNEL_LOG, O_RDWR).is_ok() {
            println!("init: /dev/console: {why}; the kernel log has the lines of init");
            return Self::KernelLog;
        }
        // Something has to be there, or pipes would get the numbers. A folder takes no lines either.
        let _ = take(c"/dev/null", O_RDWR).or_else(|_| take(c"/", O_RDONLY));
        Self::Nowhere
    }

    /// The last word.
    pub(crate) fn say(self, status: ExitCode) {
        let word = match status {
            ExitCode::SUCCESS => "PASS",
            ExitCode::SKIP => "SKIP",
            _ => "FAIL",
        };
        // The kernel takes ten lines in five seconds from one opener (`printk.devkmsg=ratelimit`).
        if self == Self::KernelLog
            && let Ok(fd) = file::open(KERNEL_LOG, O_WRONLY)
        {
            let _ = replace(&fd, 1);
        }
        // A program may have stopped the terminal, or set IXON again.
        let _ = terminal::keep_going(BorrowedFd::STDOUT);
        println!("tablewalk: {word}");
        if self == Self::Console {
            say_on_others(word);
        }
    }
}

/// Opens `path` as descriptors 0, 1 and 2.
fn take(path: &CStr, flags: u32) -> Result<(), Errno> {
    let fd = file::open(path, flags)?;
    for number in 0..=2 {
        if number != fd.number() {
            replace(&fd, number)?;
        }
    }
    if fd.number() <= 2 {
        // Where there is no /dev/null, its number is one of the three: kept open for good.
        core::mem::forget(fd);
    }
    Ok(())
}

/// Opens the console again as descriptors 1 and 2, so that a write to it does not wait: a terminal that is
/// stopped, by a Ctrl-S or by a program, would hold up init and all that it watches. Programs have
/// descriptor 0 as it was.
fn unblock() {
    // Without the device, in a read-only root, the kernel's descriptor stays.
    if let Ok(fd) = file::open(CONSOLE, O_WRONLY | O_NOCTTY | O_NONBLOCK) {
        for number in [1, 2] {
            // They are open, so this does not fail.
            let _ = replace(&fd, number);
        }
    }
    // No terminal: nothing to stop.
    let _ = terminal::keep_going(BorrowedFd::STDOUT);
}

/// Standard output or error, `number`, leads from now on to what `fd` does.
pub(crate) fn replace(fd: &OwnedFd, number: i32) -> Result<(), Errno> {
    // SAFETY: nobody owns it: `Output::open` has seen to it that no file got the number. Stays open.
    let mut standard = ManuallyDrop::new(unsafe { OwnedFd::from_number(number) });
    file::duplicate_to(fd, &mut standard)
}

/// Says the verdict on the consoles that `/dev/console` does not lead to.
fn say_on_others(word: &str) {
    let mut bytes = [0; 256];
    let read = file::open(c"/sys/class/tty/console/active", O_RDONLY)
        .and_then(|fd| file::read(&fd, &mut bytes))
        .unwrap_or(0);
    let active = bytes.get(..read).unwrap_or_default().trim_ascii_end();
    // The last is the one of /dev/console: drivers/tty/tty_io.c, show_cons_active().
    for name in active.rsplit(|&byte| byte == b' ').skip(1) {
        let name = core::str::from_utf8(name).unwrap_or_default();
        let (Some(path), Some(line)) = (
            path::join(&["/dev/", name]),
            path::join(&["tablewalk: ", word, "\n"]),
        ) else {
            continue;
        };
        // One that does not take it now does not hold up the others, nor the end.
        if let Ok(fd) = file::open(&path, O_WRONLY | O_NOCTTY | O_NONBLOCK) {
            let _ = terminal::keep_going(fd.borrow());
            let _ = file::write(&fd, line.to_bytes());
        }
    }
}
