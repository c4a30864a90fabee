//! The arguments and the environment of the program.

#![expect(unsafe_code, reason = "reads what the kernel laid on the stack")]

use core::ffi::{CStr, c_char};
use core::iter::FusedIterator;

/// Iterates over the remaining arguments. The first, the name of the program, is not among them.
#[derive(Clone, Debug)]
pub struct Args {
    program_name: &'static str,
    rest: &'static [*const c_char],
    environment: Environment,
}

impl Args {
    /// # Safety
    ///
    /// `stack` is the stack pointer at the entry of the program: `argc`, then `argc` pointers to C strings, a
    /// null pointer, pointers to the strings of the environment, and another null pointer. Nobody changes
    /// them.
    pub(crate) unsafe fn from_stack(stack: *const usize) -> Self {
        // SAFETY: the stack pointer points to `argc`.
        let argc = unsafe { stack.read() };
        // SAFETY: argv follows it.
        let argv = unsafe { stack.add(1) }.cast::<*const c_char>();
        // SAFETY: argv has `argc` pointers, and nobody changes them.
        let rest = unsafe { core::slice::from_raw_parts(argv, argc) };
        // SAFETY: the environment follows argv and the null pointer that ends it.
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

    /// Returns the last component of the path that the program was started with.
    #[must_use]
    pub const fn program_name(&self) -> &'static str {
        self.program_name
    }

    /// Returns the remaining arguments as C strings.
    pub fn c_strs(&self) -> impl Iterator<Item = &'static CStr> + use<> {
        // SAFETY: the caller of `from_stack` guarantees C strings that nobody changes.
        self.rest
            .iter()
            .map(|word| unsafe { CStr::from_ptr(*word) })
    }

    /// Returns the environment, each variable as `NAME=value`.
    #[must_use]
    pub const fn environment(&self) -> Environment {
        self.environment
    }
}

impl Iterator for Args {
    /// An argument; the raw bytes if it is not UTF-8.
    type Item = Result<&'static str, &'static CStr>;

    fn next(&mut self) -> Option<Self::Item> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        // SAFETY: the caller of `from_stack` guarantees C strings that nobody changes.
        let argument = unsafe { CStr::from_ptr(*first) };
        Some(argument.to_str().map_err(|_| argument))
    }
}

impl FusedIterator for Args {}

/// Iterates over the remaining variables of the environment.
///
/// # Invariants
///
/// The pointer points into an array of pointers to C strings that ends with a null pointer. Nobody changes
/// either.
#[derive(Clone, Copy, Debug)]
pub struct Environment(*const *const c_char);

impl Iterator for Environment {
    /// A variable; the raw bytes if it is not UTF-8.
    type Item = Result<&'static str, &'static CStr>;

    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: by the invariant there is one more pointer, at least the null pointer.
        let first = unsafe { self.0.read() };
        if first.is_null() {
            return None;
        }
        // SAFETY: this was not the null pointer, so another one follows.
        self.0 = unsafe { self.0.add(1) };
        // SAFETY: by the invariant this is a C string.
        let variable = unsafe { CStr::from_ptr(first) };
        Some(variable.to_str().map_err(|_| variable))
    }
}

impl FusedIterator for Environment {}
