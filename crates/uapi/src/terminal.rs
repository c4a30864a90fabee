//! Terminals.

#![expect(unsafe_code, reason = "the kernel reads and writes the settings")]

use core::ptr;

use linux_raw_sys::general::{IXON, TCOOFF, TCOON, termios};
use linux_raw_sys::{general as sys, ioctl};

use crate::errno::Errno;
use crate::file::BorrowedFd;

/// tcdrain(3): waits until the terminal `fd` has sent all output.
///
/// # Errors
///
/// `ENOTTY` if it is not a terminal.
pub fn drain(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_ioctl, fd, ioctl::TCSBRK, 1_usize) }.map(drop)
}

/// Clears `IXON`, so that a received Ctrl-S does not stop the output, and restarts output that a Ctrl-S or
/// tcflow(3) has stopped.
///
/// # Errors
///
/// `ENOTTY` if it is not a terminal.
pub fn keep_going(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut settings = termios {
        c_iflag: 0,
        c_oflag: 0,
        c_cflag: 0,
        c_lflag: 0,
        c_line: 0,
        c_cc: [0; 19],
    };
    // SAFETY: the kernel writes the struct.
    unsafe {
        syscall!(
            sys::__NR_ioctl,
            fd,
            ioctl::TCGETS,
            ptr::from_mut(&mut settings)
        )
    }?;
    settings.c_iflag &= !IXON;
    // This restarts output that a Ctrl-S has stopped: drivers/tty/n_tty.c, n_tty_set_termios().
    // SAFETY: the kernel reads the struct.
    unsafe { syscall!(sys::__NR_ioctl, fd, ioctl::TCSETS, ptr::from_ref(&settings)) }?;
    // TCOON restarts only output that TCOOFF has stopped: drivers/tty/tty_ioctl.c, n_tty_ioctl_helper().
    stop(fd)?;
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_ioctl, fd, ioctl::TCXONC, TCOON) }.map(drop)
}

/// tcflow(3), `TCOOFF`: stops output to the terminal until it is restarted.
///
/// # Errors
///
/// `ENOTTY` if it is not a terminal.
pub fn stop(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_ioctl, fd, ioctl::TCXONC, TCOOFF) }.map(drop)
}
