//! The generic timer's virtual counter, readable in user space (`arch/arm64/kernel`, `CNTKCTL_EL1`).
//!
//! Under `-icount shift=0` and `cntfrq=1000000000` QEMU advances it by one tick an instruction.

#![expect(unsafe_code, reason = "reads system registers")]

use core::arch::asm;

/// The counter, in ticks, after everything before it has been executed.
#[must_use]
pub fn ticks() -> u64 {
    let ticks;
    // SAFETY: reads a register; the barrier keeps the read in place.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack)) };
    ticks
}

/// Ticks a second.
#[must_use]
pub fn frequency() -> u64 {
    let frequency;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    frequency
}
