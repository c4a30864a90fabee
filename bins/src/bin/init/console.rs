//! Standard output of init: the console, or a substitute.

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

/// The destination of standard output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// The console.
    Console,
    /// There is no console, and the kernel log gets the lines. It appears on consoles that only the kernel
    /// writes to (`earlycon`, netconsole), and in crash logs (pstore).
    KernelLog,
    /// Nowhere; the verdict is signalled in another way.
    Nowhere,
}

const CONSOLE: &CStr = c"/dev/console";
const KERNEL_LOG: &CStr = c"/dev/kmsg";

impl Output {
    /// Opens descriptors 0 to 2, unless the kernel opened the console for them.
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
        // Without an open file, pipes would get these numbers. A folder discards output like `/dev/null`.
        let _ = take(c"/dev/null", O_RDWR).or_else(|_| take(c"/", O_RDONLY));
        Self::Nowhere
    }

    /// Prints the verdict on all consoles.
    pub(crate) fn say(self, status: ExitCode) {
        let word = match status {
            ExitCode::SUCCESS => "PASS",
            ExitCode::SKIP => "SKIP",
            _ => "FAIL",
        };
        // The kernel accepts ten lines in five seconds from each opener (`printk.devkmsg=ratelimit`).
        if self == Self::KernelLog
            && let Ok(fd) = file::open(KERNEL_LOG, O_WRONLY)
        {
            let _ = replace(&fd, 1);
        }
        // A program may have stopped the terminal, or have set IXON again.
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
        // Without /dev/null, the descriptor is one of the three: leave it open.
        core::mem::forget(fd);
    }
    Ok(())
}

/// Opens the console again as descriptors 1 and 2, non-blocking. A terminal that is stopped, by a Ctrl-S or
/// by a program, would otherwise block init and its time-outs. Programs inherit descriptor 0 unchanged.
fn unblock() {
    // If the device file is missing, as in a read-only root, the kernel's descriptor stays.
    if let Ok(fd) = file::open(CONSOLE, O_WRONLY | O_NOCTTY | O_NONBLOCK) {
        for number in [1, 2] {
            // Cannot fail, since both are open.
            let _ = replace(&fd, number);
        }
    }
    // An error means that it is not a terminal, which cannot be stopped.
    let _ = terminal::keep_going(BorrowedFd::STDOUT);
}

/// Makes descriptor `number`, standard output or error, refer to the file of `fd`.
pub(crate) fn replace(fd: &OwnedFd, number: i32) -> Result<(), Errno> {
    // SAFETY: no value owns the descriptor, since `Output::open` made sure that no file got its number. It
    // stays open.
    let mut standard = ManuallyDrop::new(unsafe { OwnedFd::from_number(number) });
    file::duplicate_to(fd, &mut standard)
}

/// Prints the verdict on the consoles other than `/dev/console`.
fn say_on_others(word: &str) {
    let mut bytes = [0; 256];
    let read = file::open(c"/sys/class/tty/console/active", O_RDONLY)
        .and_then(|fd| file::read(&fd, &mut bytes))
        .unwrap_or(0);
    let active = bytes.get(..read).unwrap_or_default().trim_ascii_end();
    // The last one is /dev/console: drivers/tty/tty_io.c, show_cons_active().
    for name in active.rsplit(|&byte| byte == b' ').skip(1) {
        let name = core::str::from_utf8(name).unwrap_or_default();
        let (Some(path), Some(line)) = (
            path::join(&["/dev/", name]),
            path::join(&["tablewalk: ", word, "\n"]),
        ) else {
            continue;
        };
        // Non-blocking: a console that is stopped delays neither the others nor the end.
        if let Ok(fd) = file::open(&path, O_WRONLY | O_NOCTTY | O_NONBLOCK) {
            let _ = terminal::keep_going(fd.borrow());
            let _ = file::write(&fd, line.to_bytes());
        }
    }
}
