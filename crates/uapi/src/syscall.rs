//! The `svc` instruction, and the conversion of values to and from registers.
//!
//! This is the only file that names the crate `sc`.
//!
//! # Safety of the wrappers
//!
//! A system call can break memory safety only through memory that it reads, writes, maps or unmaps. The
//! SAFETY comment of each wrapper names this memory. Strings, slices and structs in the arguments are
//! borrowed until the call returns, so the comments do not repeat that they are valid.

use static_assertions::const_assert_eq;

// A `u64` and a pointer each fill one argument register.
const_assert_eq!(usize::BITS, u64::BITS);

/// A value that fits into one argument register.
pub(crate) trait Argument {
    /// Returns the value of the register.
    fn register(self) -> usize;
}

impl Argument for usize {
    fn register(self) -> usize {
        self
    }
}

impl Argument for u32 {
    fn register(self) -> usize {
        self as usize
    }
}

impl Argument for u64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "usize has 64 bits, asserted above"
    )]
    fn register(self) -> usize {
        self as usize
    }
}

impl Argument for i32 {
    /// Sign-extends, as the C library does for an `int`.
    fn register(self) -> usize {
        i64::from(self).cast_unsigned().register()
    }
}

impl<T> Argument for *const T {
    fn register(self) -> usize {
        self.expose_provenance()
    }
}

impl<T> Argument for *mut T {
    fn register(self) -> usize {
        self.expose_provenance()
    }
}

/// Converts a returned `int`, which is a file descriptor or a process ID.
#[expect(clippy::cast_possible_truncation, reason = "the call returns an int")]
pub(crate) const fn int(value: usize) -> i32 {
    value as i32
}

/// Makes a system call with up to six arguments. Returns a `Result<usize, Errno>`.
macro_rules! syscall {
    ($number:expr $(, $argument:expr)*) => {
        $crate::errno::decode(raw_syscall!(
            $number as usize $(, $crate::syscall::Argument::register($argument))*
        ))
    };
}

/// Makes a system call with up to six arguments. Returns the raw value of register `x0`.
macro_rules! raw_syscall {
    ($n:expr) => {
        sc::syscall0($n)
    };
    ($n:expr, $a:expr) => {
        sc::syscall1($n, $a)
    };
    ($n:expr, $a:expr, $b:expr) => {
        sc::syscall2($n, $a, $b)
    };
    ($n:expr, $a:expr, $b:expr, $c:expr) => {
        sc::syscall3($n, $a, $b, $c)
    };
    ($n:expr, $a:expr, $b:expr, $c:expr, $d:expr) => {
        sc::syscall4($n, $a, $b, $c, $d)
    };
    ($n:expr, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr) => {
        sc::syscall5($n, $a, $b, $c, $d, $e)
    };
    ($n:expr, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr, $f:expr) => {
        sc::syscall6($n, $a, $b, $c, $d, $e, $f)
    };
}
