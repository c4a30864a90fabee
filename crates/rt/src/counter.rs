//! The generic timer's virtual counter, readable in user space (`arch/arm64/kernel`, `CNTKCTL_EL1`);
//! on hosts that have none, nanoseconds.
//!
//! Under `-icount shift=0` and `cntfrq=1000000000` QEMU advances it by one tick an instruction.

#[cfg(not(target_arch = "aarch64"))]
use crate::of_std as timer;

/// The counter, in ticks, after everything before it has been executed.
#[must_use]
pub fn ticks() -> u64 {
    timer::ticks()
}

/// Ticks a second.
#[must_use]
pub fn frequency() -> u64 {
    timer::frequency()
}

#[cfg(target_arch = "aarch64")]
#[expect(unsafe_code, reason = "reads system registers")]
mod timer {
    use core::arch::asm;

    pub(super) fn ticks() -> u64 {
        let ticks;
        // SAFETY: reads a register; the barrier keeps the read in place.
        unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack)) };
        ticks
    }

    pub(super) fn frequency() -> u64 {
        let frequency;
        // SAFETY: reads a register.
        unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
        frequency
    }
}
