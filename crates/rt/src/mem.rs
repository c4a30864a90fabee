//! The memory functions that the compiler generates calls to.
//!
//! They are naked assembly: in Rust, the compiler would recognise the loop of each function and replace it by
//! a call to the function itself. Unaligned accesses are allowed: Linux runs user space with `SCTLR_EL1.A` 0,
//! and the memory is Normal.

#![expect(unsafe_code, reason = "symbols with fixed names, on raw memory")]

use core::arch::naked_asm;

/// Copies `n` bytes from `src` to `dst`, lowest address first; returns `dst`.
///
/// # Safety
///
/// As in C: both ranges valid; if they overlap, `dst` lies below `src`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(dst: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    naked_asm!(
        "mov x3, x0", // x0 stays, it is the result
        "cmp x2, #16",
        "b.lo 2f",
        "1:", // sixteen bytes at a time
        "ldp x4, x5, [x1], #16",
        "stp x4, x5, [x3], #16",
        "sub x2, x2, #16",
        "cmp x2, #16",
        "b.hs 1b",
        "2:",
        "cbz x2, 4f",
        "3:", // the last fifteen or less
        "ldrb w4, [x1], #1",
        "strb w4, [x3], #1",
        "subs x2, x2, #1",
        "b.ne 3b",
        "4:",
        "ret",
    )
}

/// Copies `n` bytes from `src` to `dst`, which may overlap; returns `dst`.
///
/// # Safety
///
/// As in C: both ranges valid.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(dst: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    naked_asm!(
        "sub x3, x0, x1", // unsigned: huge where dst is below src
        "cmp x3, x2",
        "b.hs {memcpy}", // dst does not begin inside src
        "add x1, x1, x2", // else from the end
        "add x3, x0, x2",
        "1:",
        "cmp x2, #16",
        "b.lo 2f",
        "ldp x4, x5, [x1, #-16]!",
        "stp x4, x5, [x3, #-16]!",
        "sub x2, x2, #16",
        "b 1b",
        "2:",
        "cbz x2, 4f",
        "3:",
        "ldrb w4, [x1, #-1]!",
        "strb w4, [x3, #-1]!",
        "subs x2, x2, #1",
        "b.ne 3b",
        "4:",
        "ret",
        memcpy = sym memcpy,
    )
}

/// Fills `n` bytes at `dst` with the low byte of `value`; returns `dst`.
///
/// # Safety
///
/// As in C: the range valid.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(dst: *mut u8, value: i32, n: usize) -> *mut u8 {
    naked_asm!(
        "mov x3, x0", // x0 stays, it is the result
        "and x1, x1, #0xff",
        "mov x4, #0x0101010101010101",
        "mul x1, x1, x4", // the byte in all eight places
        "cmp x2, #64",
        "b.lo 5f",
        "6:", // pages, most of all
        "stp x1, x1, [x3]",
        "stp x1, x1, [x3, #16]",
        "stp x1, x1, [x3, #32]",
        "stp x1, x1, [x3, #48]",
        "add x3, x3, #64",
        "sub x2, x2, #64",
        "cmp x2, #64",
        "b.hs 6b",
        "5:",
        "cmp x2, #16",
        "b.lo 2f",
        "1:",
        "stp x1, x1, [x3], #16",
        "sub x2, x2, #16",
        "cmp x2, #16",
        "b.hs 1b",
        "2:",
        "cbz x2, 4f",
        "3:",
        "strb w1, [x3], #1",
        "subs x2, x2, #1",
        "b.ne 3b",
        "4:",
        "ret",
    )
}

/// Compares `n` bytes: returns a negative value, 0, or a positive value if the first different byte is less
/// in `a`, there is none, or it is greater.
///
/// # Safety
///
/// As in C: both ranges valid.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    naked_asm!(
        "1:",
        "cbz x2, 2f",
        "ldrb w3, [x0], #1",
        "ldrb w4, [x1], #1",
        "sub x2, x2, #1",
        "subs w3, w3, w4",
        "b.eq 1b",
        "mov w0, w3", // the difference of the bytes
        "ret",
        "2:",
        "mov w0, wzr", // none
        "ret",
    )
}

/// Compares `n` bytes: returns 0 if they are equal.
///
/// # Safety
///
/// As in C: both ranges valid.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    naked_asm!("b {memcmp}", memcmp = sym memcmp)
}

/// Returns the number of bytes before the first 0.
///
/// # Safety
///
/// `string` is a C string.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(string: *const u8) -> usize {
    naked_asm!(
        "mov x1, x0",
        "1:",
        "ldrb w2, [x1], #1",
        "cbnz w2, 1b",
        "sub x0, x1, x0", // one too many: x1 is past the 0
        "sub x0, x0, #1",
        "ret",
    )
}
