//! Users, groups and capabilities of the calling process.

#![expect(
    unsafe_code,
    reason = "the kernel reads the arguments by their address"
)]

use core::ptr;

use linux_raw_sys::general as sys;
pub use linux_raw_sys::general::{
    CAP_DAC_OVERRIDE, CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_SYS_RAWIO,
};
use linux_raw_sys::prctl::{PR_CAPBSET_DROP, PR_SET_DUMPABLE, PR_SET_KEEPCAPS};

use crate::errno::Errno;
use crate::syscall::int;

/// getuid(2): returns the real user ID.
#[must_use]
pub fn uid() -> u32 {
    // SAFETY: touches no memory.
    int(unsafe { raw_syscall!(sys::__NR_getuid as usize) }).cast_unsigned()
}

/// setresuid(2): sets all three user IDs.
///
/// # Errors
///
/// As setresuid(2).
pub fn set_uids(uid: u32) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_setresuid, uid, uid, uid) }.map(drop)
}

/// setresgid(2): sets all three group IDs.
///
/// # Errors
///
/// As setresgid(2).
pub fn set_gids(gid: u32) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_setresgid, gid, gid, gid) }.map(drop)
}

/// setgroups(2).
///
/// # Errors
///
/// As setgroups(2).
pub fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the kernel reads the slice.
    unsafe { syscall!(sys::__NR_setgroups, groups.len(), groups.as_ptr()) }.map(drop)
}

/// prctl(2), `PR_SET_KEEPCAPS`: keeps the permitted capabilities when the user ID changes.
///
/// # Errors
///
/// As prctl(2).
pub fn keep_capabilities() -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_prctl, PR_SET_KEEPCAPS, 1_u32) }.map(drop)
}

/// prctl(2), `PR_SET_DUMPABLE`: sets whether other processes of the user may access the memory of this one.
///
/// # Errors
///
/// As prctl(2).
pub fn set_dumpable(dumpable: bool) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_prctl, PR_SET_DUMPABLE, u32::from(dumpable)) }.map(drop)
}

/// prctl(2), `PR_CAPBSET_DROP`: no program that is executed later gets this capability.
///
/// # Errors
///
/// As prctl(2); `EINVAL` for a capability that the kernel does not know.
pub fn drop_from_bounding_set(capability: u32) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_prctl, PR_CAPBSET_DROP, capability) }.map(drop)
}

/// capset(2): makes the capabilities in the bit set (bit `CAP_*`, below 64) permitted and effective, and
/// drops all others. None is inheritable.
///
/// # Errors
///
/// `EPERM` for a capability that the caller does not have.
pub fn set_capabilities(capabilities: u64) -> Result<(), Errno> {
    let mut header = sys::__user_cap_header_struct {
        version: sys::_LINUX_CAPABILITY_VERSION_3,
        pid: 0,
    };
    let data = [low_half(capabilities), low_half(capabilities >> 32)].map(|half| {
        sys::__user_cap_data_struct {
            effective: half,
            permitted: half,
            inheritable: 0,
        }
    });
    // SAFETY: version 3 has two data structs; the kernel reads them, and writes to the header only.
    unsafe { syscall!(sys::__NR_capset, ptr::from_mut(&mut header), data.as_ptr()) }.map(drop)
}

#[expect(clippy::cast_possible_truncation, reason = "the half that is wanted")]
const fn low_half(value: u64) -> u32 {
    value as u32
}
