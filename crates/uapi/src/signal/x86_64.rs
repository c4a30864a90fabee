//! The x86-64 part of `struct ucontext`, for tests on a host, and the code that returns from a handler.

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
    /// rt_sigreturn(2). The kernel stores this function's address as the return address of a handler.
    #[unsafe(naked)]
    pub(in super::super) unsafe extern "C" fn restore() {
        core::arch::naked_asm!(
            "mov eax, {number}",
            "syscall",
            number = const linux_raw_sys::general::__NR_rt_sigreturn,
        )
    }
}
