//! What a freestanding program needs around its `main`: start-up, console, panic handler, memory, processes,
//! threads, test output, and a way to end the emulator.
//!
//! For arm64 Linux. On other hosts start-up, threads, panics and memory functions come from std, so that
//! users of this crate can be tested there. A program names its main function with [`program!`]:
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//!
//! tablewalk_rt::program!(main);
//!
//! fn main(args: Args) -> ExitCode {
//!     ExitCode::SUCCESS
//! }
//! ```

#![no_std]
#![cfg(target_os = "linux")]

#[cfg(not(target_arch = "aarch64"))]
extern crate std;

mod args;
pub mod cli;
#[cfg(target_arch = "aarch64")]
mod clone;
pub mod console;
mod count;
pub mod counter;
pub mod ktap;
#[cfg(target_arch = "aarch64")]
mod mem;
pub mod memory;
#[cfg(not(target_arch = "aarch64"))]
#[doc(hidden)]
pub mod of_std;
#[cfg(target_arch = "aarch64")]
mod panic;
pub mod process;
pub mod semihosting;
pub mod sort;
#[cfg(target_arch = "aarch64")]
mod start;
pub mod thread;

pub use args::{Args, Environment};
pub use count::Count;

/// The exit status of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitCode(pub u8);

impl ExitCode {
    /// Success.
    pub const SUCCESS: Self = Self(0);
    /// The program ran and the answer is no, or it could not do its work.
    pub const FAILURE: Self = Self(1);
    /// The arguments are wrong.
    pub const USAGE: Self = Self(2);
    /// A prerequisite of the program is missing: `KSFT_SKIP` of `tools/testing/selftests/kselftest.h`.
    pub const SKIP: Self = Self(4);
}

/// Makes `$main`, a `fn(Args) -> ExitCode`, the main function of the program.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        #[expect(
            unsafe_code,
            reason = "the runtime calls this symbol, with this signature"
        )]
        #[unsafe(no_mangle)]
        extern "Rust" fn tablewalk_main(args: $crate::Args) -> $crate::ExitCode {
            $main(args)
        }

        #[cfg(not(any(target_arch = "aarch64", test)))]
        #[expect(unsafe_code, reason = "what the C library calls")]
        #[unsafe(export_name = "main")]
        extern "C" fn main_of_c(
            _: ::core::ffi::c_int,
            arguments: *const *const ::core::ffi::c_char,
        ) -> ::core::ffi::c_int {
            // SAFETY: the arguments are those that the C library passed to `main`, as the kernel laid them
            // out.
            let args = unsafe { $crate::of_std::args(arguments) };
            $main(args).0.into()
        }
    };
}
