//! What x86-64 tells a handler of a fault, where the crates are tested, and how the handler ends.

/// `struct sigcontext`: r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, flags, segments, and the
/// error code.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Machine {
    registers: [u64; 19],
    error: u64,
}

/// `X86_PF_WRITE` of arch/x86/include/asm/trap_pf.h.
const WRITE: u64 = 1 << 1;

impl Machine {
    pub(super) const fn is_write(&self) -> bool {
        self.error & WRITE != 0
    }
}

pub(super) mod restorer {
    /// rt_sigreturn(2). The kernel has put its address where the handler returns to.
    #[unsafe(naked)]
    pub(in super::super) unsafe extern "C" fn restore() {
        // Number 15.
        core::arch::naked_asm!("mov eax, 15", "syscall")
    }
}
