//! The first instructions of a program.

#![expect(
    unsafe_code,
    reason = "the kernel enters here, with no stack frame and no arguments"
)]

use core::arch::naked_asm;

use crate::{Args, ExitCode, console, process};

unsafe extern "Rust" {
    /// The main function of the program: see [`crate::program!`].
    fn tablewalk_main(args: Args) -> ExitCode;
}

/// The entry point: `argc`, `argv` and the rest are at the stack pointer
/// (`fs/binfmt_elf.c`, `create_elf_tables`).
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "mov x29, xzr", // no frame above this one
        "mov x30, xzr", // and nowhere to return to
        "mov x0, sp",   // the first argument: where argc is
        "b {entry}",
        entry = sym entry,
    )
}

/// Runs the main function of the program and exits.
///
/// # Safety
///
/// `stack` is the stack pointer at the entry of the program.
unsafe extern "C" fn entry(stack: *const usize) -> ! {
    console::fill_descriptors();
    // SAFETY: guaranteed by the caller.
    let args = unsafe { Args::from_stack(stack) };
    // SAFETY: `program!` defined the function with this signature.
    let status = unsafe { tablewalk_main(args) };
    process::finish(status)
}
