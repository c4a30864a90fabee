//! Semihosting calls, which the emulator answers: they end it, or write files on its host. User space can
//! make them if QEMU runs with `-semihosting-config enable=on,target=native,userspace=on`. Otherwise the
//! instruction is undefined and the kernel kills the process.
//!
//! Source: Arm, Semihosting for AArch32 and AArch64.

#![cfg_attr(
    target_arch = "aarch64",
    expect(
        unsafe_code,
        reason = "an instruction that means something to the emulator only"
    )
)]

use core::ffi::{CStr, c_char};

/// `SYS_OPEN`.
const OPEN: u64 = 0x01;
/// `SYS_CLOSE`.
const CLOSE: u64 = 0x02;
/// `SYS_WRITE`.
const WRITE: u64 = 0x05;
/// `SYS_EXIT_EXTENDED`.
const EXIT_EXTENDED: u64 = 0x20;
/// `ADP_Stopped_ApplicationExit`: the second word is the exit status.
const APPLICATION_EXIT: u64 = 0x20026;
/// Mode of `SYS_OPEN`: as `wb` of fopen(3).
const CREATE: u64 = 5;

/// A parameter block: up to three words, some of which are pointers.
#[repr(C)]
struct Block<A, B>(A, B, u64);

/// Makes the emulator exit with `status`. Returns only if semihosting does not work.
pub fn exit(status: u8) {
    call(
        EXIT_EXTENDED,
        &Block(APPLICATION_EXIT, u64::from(status), 0),
    );
}

/// Makes the semihosting call `operation` with a parameter block. Returns its result.
#[cfg(target_arch = "aarch64")]
fn call<A, B>(operation: u64, block: &Block<A, B>) -> u64 {
    let result;
    // SAFETY: the operations used here read the block and the memory that its pointers point to, which the
    // callers borrow, and change no memory.
    unsafe {
        core::arch::asm!(
            "hlt #0xf000",                     // the A64 semihosting call
            inout("x0") operation => result,   // operation; its result
            in("x1") core::ptr::from_ref(block), // its parameter block
            options(nostack, readonly),
        );
    }
    result
}

/// Always fails: a host has no semihosting.
#[cfg(not(target_arch = "aarch64"))]
const fn call<A, B>(_: u64, _: &Block<A, B>) -> u64 {
    u64::MAX
}

/// A file on the host of the emulator, opened for writing.
#[derive(Debug)]
pub struct HostFile(u64);

impl HostFile {
    /// Creates or truncates the file; a relative name is relative to the folder in which the emulator runs.
    #[must_use]
    pub fn create(name: &CStr) -> Option<Self> {
        let block: Block<*const c_char, _> =
            Block(name.as_ptr(), CREATE, name.count_bytes() as u64);
        let handle = call(OPEN, &block);
        (handle != u64::MAX).then_some(Self(handle))
    }

    /// Writes all of `bytes`. Returns whether that succeeded.
    #[must_use]
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        // The result is the number of bytes that were not written.
        call(WRITE, &Block(self.0, bytes.as_ptr(), bytes.len() as u64)) == 0
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        call(CLOSE, &Block(self.0, 0_u64, 0));
    }
}
