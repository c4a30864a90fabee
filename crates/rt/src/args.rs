//! The arguments and the environment of the program.

#![expect(unsafe_code, reason = "reads what the kernel laid on the stack")]

use core::ffi::{CStr, c_char};
use core::iter::FusedIterator;

/// The arguments that have not been taken yet, as an iterator; the first one is the program's name
/// and is not among them.
#[derive(Clone, Debug)]
pub struct Args {
    program_name: &'static str,
    rest: &'static [*const c_char],
    environment: Environment,
}

impl Args {
    /// # Safety
    ///
    /// `stack` is the stack pointer that the kernel entered the program with: `argc`, then `argc`
    /// pointers to C strings, a null pointer, more such pointers, and another null pointer. Nobody
    /// changes them.
    pub(crate) unsafe fn from_stack(stack: *const usize) -> Self {
        // SAFETY: argc is there.
        let argc = unsafe { stack.read() };
        // SAFETY: argv follows it.
        let argv = unsafe { stack.add(1) }.cast::<*const c_char>();
        // SAFETY: it has argc pointers and stays as it is.
        let rest = unsafe { core::slice::from_raw_parts(argv, argc) };
        // SAFETY: the null pointer that ends argv is in between.
        let environment = unsafe { argv.add(argc + 1) };
        let mut args = Self {
            program_name: "tablewalk",
            rest,
            environment: Environment(environment),
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

    /// The environment, each variable as `NAME=value`.
    #[must_use]
    pub const fn environment(&self) -> Environment {
        self.environment
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

/// The variables of the environment that have not been taken yet, as an iterator.
///
/// # Invariants
///
/// The pointer leads to pointers to C strings that stay as they are, of which a null pointer is the last.
#[derive(Clone, Copy, Debug)]
pub struct Environment(*const *const c_char);

impl Iterator for Environment {
    /// A variable; one that is not UTF-8 comes as it is.
    type Item = Result<&'static str, &'static CStr>;

    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: by the invariant there is one more, if only the null pointer.
        let first = unsafe { self.0.read() };
        if first.is_null() {
            return None;
        }
        // SAFETY: it was not the last.
        self.0 = unsafe { self.0.add(1) };
        // SAFETY: by the invariant.
        let variable = unsafe { CStr::from_ptr(first) };
        Some(variable.to_str().map_err(|_| variable))
    }
}

impl FusedIterator for Environment {}
