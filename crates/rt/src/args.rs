//! The arguments of the program.

#![expect(unsafe_code, reason = "reads what the kernel laid on the stack")]

use core::ffi::{CStr, c_char};
use core::iter::FusedIterator;

/// The arguments that have not been taken yet, as an iterator; the first one is the program's name
/// and is not among them.
#[derive(Clone, Debug)]
pub struct Args {
    program_name: &'static str,
    rest: &'static [*const c_char],
}

impl Args {
    /// # Safety
    ///
    /// `stack` is the stack pointer that the kernel entered the program with: `argc`, then `argc`
    /// pointers to C strings. Nobody changes them.
    pub(crate) unsafe fn from_stack(stack: *const usize) -> Self {
        // SAFETY: argc is there.
        let argc = unsafe { stack.read() };
        // SAFETY: argv follows it.
        let argv = unsafe { stack.add(1) }.cast::<*const c_char>();
        // SAFETY: it has argc pointers and stays as it is.
        let rest = unsafe { core::slice::from_raw_parts(argv, argc) };
        let mut args = Self {
            program_name: "tablewalk",
            rest,
        };
        if let Some(Ok(path)) = args.next() {
            let name = path.bytes().rposition(|byte| byte == b'/');
            args.program_name = name.and_then(|slash| path.get(slash + 1..)).unwrap_or(path);
        }
        args
    }

    /// The last component of the path that the program was started by.
    #[must_use]
    pub const fn program_name(&self) -> &'static str {
        self.program_name
    }
}

impl Iterator for Args {
    /// An argument; one that is not UTF-8 comes as it is.
    type Item = Result<&'static str, &'static CStr>;

    fn next(&mut self) -> Option<Self::Item> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        // SAFETY: `from_stack` was promised C strings that stay as they are.
        let argument = unsafe { CStr::from_ptr(*first) };
        Some(argument.to_str().map_err(|_| argument))
    }
}

impl FusedIterator for Args {}
