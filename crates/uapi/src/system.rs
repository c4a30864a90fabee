//! The system as a whole: reboot, mounts, kernel modules, swap, and the kernel's name.

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
use crate::file::OwnedFd;

/// What reboot(2) does: `include/uapi/linux/reboot.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Reboot {
    /// `LINUX_REBOOT_CMD_RESTART`.
    Restart = sys::LINUX_REBOOT_CMD_RESTART,
    /// `LINUX_REBOOT_CMD_HALT`.
    Halt = sys::LINUX_REBOOT_CMD_HALT,
    /// `LINUX_REBOOT_CMD_POWER_OFF`.
    PowerOff = sys::LINUX_REBOOT_CMD_POWER_OFF,
}

/// reboot(2). Does not return on success.
///
/// # Errors
///
/// As reboot(2).
pub fn reboot(action: Reboot) -> Result<(), Errno> {
    let (magic1, magic2) = (sys::LINUX_REBOOT_MAGIC1, sys::LINUX_REBOOT_MAGIC2);
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_reboot, magic1, magic2, action as u32, 0_usize) }.map(drop)
}

/// sync(2): writes all dirty data to disk.
pub fn sync() {
    // SAFETY: touches no memory; always succeeds.
    let _ = unsafe { syscall!(sys::__NR_sync) };
}

/// mount(2) of a file system without options; `flags` are `MS_*`.
///
/// # Errors
///
/// As mount(2); `EBUSY` if it is mounted there already, `ENODEV` if the kernel has no such file system.
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u32) -> Result<(), Errno> {
    let (source, target, kind) = (source.as_ptr(), target.as_ptr(), kind.as_ptr());
    // SAFETY: the kernel reads strings that end in NUL.
    unsafe { syscall!(sys::__NR_mount, source, target, kind, flags, 0_usize) }.map(drop)
}

/// mount(2) with `MS_REMOUNT`: changes the options of a mounted file system.
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

/// finit_module(2): loads the kernel module in `file`, without parameters.
///
/// # Errors
///
/// As finit_module(2): `EEXIST` if it is loaded, `ENOEXEC` if it is for another kernel, `EPERM` under lockdown.
pub fn load_module(file: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_finit_module, file, c"".as_ptr(), 0_u32) }.map(drop)
}

/// delete_module(2) with `O_NONBLOCK`: removes the kernel module `name`.
///
/// # Errors
///
/// As delete_module(2): `EAGAIN` if it is in use.
pub fn remove_module(name: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_delete_module, name.as_ptr(), sys::O_NONBLOCK) }.map(drop)
}

/// swapon(2): starts swapping to the file or device at `path`, which has the header of a swap area.
///
/// # Errors
///
/// As swapon(2).
pub fn swap_on(path: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_swapon, path.as_ptr(), 0_u32) }.map(drop)
}

/// swapoff(2): stops swapping to `path`.
///
/// # Errors
///
/// As swapoff(2).
pub fn swap_off(path: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_swapoff, path.as_ptr()) }.map(drop)
}

/// The kernel's name and version, from uname(2).
#[derive(Clone, Copy, Debug)]
pub struct Utsname(new_utsname);

impl Utsname {
    /// Returns the release, such as `6.1.0-37-arm64`.
    #[must_use]
    pub fn release(&self) -> &CStr {
        // SAFETY: the kernel writes a NUL-terminated string into the array.
        unsafe { CStr::from_ptr(self.0.release.as_ptr().cast()) }
    }

    /// Returns the machine, such as `aarch64`.
    #[must_use]
    pub fn machine(&self) -> &CStr {
        // SAFETY: the kernel writes a NUL-terminated string into the array.
        unsafe { CStr::from_ptr(self.0.machine.as_ptr().cast()) }
    }
}

/// uname(2).
///
/// # Errors
///
/// None is documented.
pub fn uname() -> Result<Utsname, Errno> {
    // SAFETY: arrays of characters may be all 0.
    let mut name: new_utsname = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel writes the struct.
    unsafe { syscall!(sys::__NR_uname, ptr::from_mut(&mut name)) }.map(|_| Utsname(name))
}
