//! The barrier that is needed after page-table writes.

#![cfg_attr(
    target_arch = "aarch64",
    expect(unsafe_code, reason = "barrier instructions")
)]

/// Makes stores to page tables visible to the table walks of all CPUs, before any later instruction
/// of this one.
///
/// Arm ARM DDI 0487, "Ordering of translation table walks", and `__set_pte` with its barriers in
/// arch/arm64/include/asm/pgtable.h: `dsb ishst` completes the stores, `isb` makes this CPU fetch
/// again what follows.
#[cfg(target_arch = "aarch64")]
pub(crate) fn publish() {
    // SAFETY: barriers change no register and no memory.
    unsafe { core::arch::asm!("dsb ishst", "isb", options(nostack, preserves_flags)) }
}

/// The substitute on other hosts, where the tables are memory of a test.
#[cfg(not(target_arch = "aarch64"))]
pub(crate) fn publish() {
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}
