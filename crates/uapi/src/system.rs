//! The system as a whole.

#![expect(
    unsafe_code,
    reason = "the kernel reads and writes arguments by their address"
)]

use core::ffi::CStr;
use core::ptr;

use linux_raw_sys::general as sys;
pub use linux_raw_sys::general::{MS_NODEV, MS_NOEXEC, MS_NOSUID};
use linux_raw_sys::system::new_utsname;

use crate::errno::Errno;

/// What reboot(2) does: `include/uapi/linux/reboot.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Reboot {
    /// `LINUX_REBOOT_CMD_RESTART`.
    Restart = 0x0123_4567,
    /// `LINUX_REBOOT_CMD_HALT`.
    Halt = 0xcdef_0123,
    /// `LINUX_REBOOT_CMD_POWER_OFF`.
    PowerOff = 0x4321_fedc,
}

/// reboot(2); does not return if it succeeds.
///
/// # Errors
///
/// As reboot(2).
pub fn reboot(action: Reboot) -> Result<(), Errno> {
    let (magic1, magic2) = (sys::LINUX_REBOOT_MAGIC1, sys::LINUX_REBOOT_MAGIC2);
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_reboot, magic1, magic2, action as u32, 0_usize) }.map(drop)
}

/// sync(2): writes all files back.
pub fn sync() {
    // SAFETY: touches no memory; it always succeeds.
    let _ = unsafe { syscall!(sys::__NR_sync) };
}

/// mount(2) of a file system that has no options; `flags` are `MS_*`.
///
/// # Errors
///
/// As mount(2); `EBUSY` where it is mounted already, `ENODEV` if the kernel has no such type.
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u32) -> Result<(), Errno> {
    let (source, target, kind) = (source.as_ptr(), target.as_ptr(), kind.as_ptr());
    // SAFETY: the kernel reads strings that end in NUL.
    unsafe { syscall!(sys::__NR_mount, source, target, kind, flags, 0_usize) }.map(drop)
}

/// mount(2) with `MS_REMOUNT`: other options for a file system that is mounted.
///
/// # Errors
///
/// As mount(2).
pub fn remount(target: &CStr, flags: u32, options: &CStr) -> Result<(), Errno> {
    let (target, options) = (target.as_ptr(), options.as_ptr());
    // SAFETY: the kernel reads strings that end in NUL.
    unsafe {
        syscall!(
            sys::__NR_mount,
            target,
            target,
            target,
            flags | sys::MS_REMOUNT,
            options
        )
    }
    .map(drop)
}

/// swapon(2): pages may be moved to the file or device at `path`, which has the header of a swap area.
///
/// # Errors
///
/// As swapon(2).
pub fn swap_on(path: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_swapon, path.as_ptr(), 0_u32) }.map(drop)
}

/// swapoff(2): the opposite of [`swap_on`].
///
/// # Errors
///
/// As swapoff(2).
pub fn swap_off(path: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_swapoff, path.as_ptr()) }.map(drop)
}

/// What uname(2) says of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Utsname(new_utsname);

impl Utsname {
    /// The release, such as `6.1.0-37-arm64`.
    #[must_use]
    pub fn release(&self) -> &CStr {
        // SAFETY: the kernel ends the string in NUL within the array.
        unsafe { CStr::from_ptr(self.0.release.as_ptr().cast()) }
    }

    /// The machine, such as `aarch64`.
    #[must_use]
    pub fn machine(&self) -> &CStr {
        // SAFETY: the kernel ends the string in NUL within the array.
        unsafe { CStr::from_ptr(self.0.machine.as_ptr().cast()) }
    }
}

/// uname(2).
///
/// # Errors
///
/// None that is documented.
pub fn uname() -> Result<Utsname, Errno> {
    // SAFETY: arrays of characters, for which 0 is a value.
    let mut name: new_utsname = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel writes the struct.
    unsafe { syscall!(sys::__NR_uname, ptr::from_mut(&mut name)) }.map(|_| Utsname(name))
}
