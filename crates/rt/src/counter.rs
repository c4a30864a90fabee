//! The virtual counter of the generic timer, which user space may read (`CNTKCTL_EL1`, `arch/arm64/kernel`);
//! on other hosts, nanoseconds.
//!
//! QEMU with `-icount shift=0` and `cntfrq=1000000000` advances it by one tick for each instruction.

#[cfg(not(target_arch = "aarch64"))]
use crate::of_std as timer;

/// Returns the counter, in ticks, after all earlier instructions have been executed.
#[must_use]
pub fn ticks() -> u64 {
    timer::ticks()
}

/// Returns the frequency of the counter, in ticks per second.
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
