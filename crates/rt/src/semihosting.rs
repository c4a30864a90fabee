//! Ends the emulator: semihosting calls reach it from user space where it was told to allow that
//! (`-semihosting-config enable=on,target=native,userspace=on`). Without, the instruction is
//! undefined and the process is killed.
//!
//! Source: Arm, Semihosting for AArch32 and AArch64, `SYS_EXIT_EXTENDED`.

#![expect(
    unsafe_code,
    reason = "an instruction that means something to the emulator only"
)]

use core::arch::asm;

/// `SYS_EXIT_EXTENDED`.
const EXIT_EXTENDED: u64 = 0x20;
/// `ADP_Stopped_ApplicationExit`: the second word is the exit status.
const APPLICATION_EXIT: u64 = 0x20026;

/// Makes the emulator exit with `status`; returns if it did not.
pub fn exit(status: u8) {
    let block = [APPLICATION_EXIT, u64::from(status)];
    // SAFETY: the emulator reads the block and changes no memory.
    unsafe {
        asm!(
            "hlt #0xf000",                         // the A64 semihosting call
            inout("x0") EXIT_EXTENDED => _,        // operation; its result
            in("x1") block.as_ptr(),               // its parameter block
            options(nostack, readonly),
        );
    }
}
