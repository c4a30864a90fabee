//! bpf(2): maps whose values user space can map with mmap(2), and programs that are run once, on request.
//!
//! Numbers and layouts: `include/uapi/linux/bpf.h`. [`linux_raw_sys`] does not have them.

#![expect(
    unsafe_code,
    reason = "the kernel reads and writes structs by their address"
)]

use core::ptr;

use linux_raw_sys::general as sys;

use crate::errno::Errno;
use crate::file::OwnedFd;

/// `BPF_MAP_CREATE`, a command of bpf(2).
const BPF_MAP_CREATE: u32 = 0;
/// `BPF_PROG_LOAD`.
const BPF_PROG_LOAD: u32 = 5;
/// `BPF_PROG_TEST_RUN`.
const BPF_PROG_TEST_RUN: u32 = 10;

/// `BPF_MAP_TYPE_ARRAY`.
const BPF_MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_F_MMAPABLE`: mmap(2) of the map's descriptor shows its values.
const BPF_F_MMAPABLE: u32 = 1 << 10;
/// `BPF_PROG_TYPE_RAW_TRACEPOINT`.
const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;

/// `struct bpf_insn`: one instruction of eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Instruction {
    /// The opcode: `BPF_*` class, operation and source.
    pub code: u8,
    /// Destination register in bits 3:0, source register in bits 7:4.
    pub registers: u8,
    /// Offset of a load, store or jump.
    pub offset: i16,
    /// Immediate value.
    pub immediate: i32,
}

/// The part of `union bpf_attr` that BPF_MAP_CREATE reads.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct MapCreate {
    pub(crate) map_type: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) map_flags: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ProgLoad {
    pub(crate) prog_type: u32,
    pub(crate) insn_cnt: u32,
    pub(crate) insns: *const Instruction,
    pub(crate) license: *const core::ffi::c_char,
    pub(crate) log_level: u32,
    pub(crate) log_size: u32,
    pub(crate) log_buf: *mut u8,
}

/// The part of `union bpf_attr` that BPF_PROG_TEST_RUN reads and writes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct TestRun {
    pub(crate) prog_fd: i32,
    pub(crate) retval: u32,
    pub(crate) data_size_in: u32,
    pub(crate) data_size_out: u32,
    pub(crate) data_in: u64,
    pub(crate) data_out: u64,
    pub(crate) repeat: u32,
    pub(crate) duration: u32,
    pub(crate) ctx_size_in: u32,
    pub(crate) ctx_size_out: u32,
    pub(crate) ctx_in: u64,
    pub(crate) ctx_out: u64,
    pub(crate) flags: u32,
    pub(crate) cpu: u32,
}

/// Creates an array map with one value of `bytes` bytes, for [`Mapping::file`](crate::Mapping::file).
///
/// # Errors
///
/// As bpf(2): `EPERM` without `CAP_BPF` or `CAP_SYS_ADMIN`, `ENOSYS` in a kernel without bpf(2).
pub fn create_array(bytes: u32) -> Result<OwnedFd, Errno> {
    let attributes = MapCreate {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: bytes,
        max_entries: 1,
        map_flags: BPF_F_MMAPABLE,
    };
    let size = size_of::<MapCreate>();
    // SAFETY: the kernel reads the struct.
    unsafe { syscall!(sys::__NR_bpf, BPF_MAP_CREATE, &raw const attributes, size) }
        .map(OwnedFd::from_return_value)
}

/// Loads a program of type raw tracepoint, licensed under the GPL. The verifier writes its messages to `log`
/// unless that is empty.
///
/// # Errors
///
/// As bpf(2): `EPERM` without `CAP_BPF` and `CAP_PERFMON`, or under lockdown for confidentiality; `EACCES` or
/// `EINVAL` if the verifier rejects the program; `ENOSPC` if `log` is too small.
pub fn load_raw_tracepoint(program: &[Instruction], log: &mut [u8]) -> Result<OwnedFd, Errno> {
    let too_long = |_| Errno::E2BIG;
    let attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_RAW_TRACEPOINT,
        insn_cnt: program.len().try_into().map_err(too_long)?,
        insns: program.as_ptr(),
        license: c"GPL".as_ptr(),
        log_level: (!log.is_empty()).into(),
        log_size: log.len().try_into().map_err(too_long)?,
        log_buf: if log.is_empty() {
            ptr::null_mut()
        } else {
            log.as_mut_ptr()
        },
    };
    let size = size_of::<ProgLoad>();
    // SAFETY: the kernel reads the struct, the instructions and the license, and writes to the log.
    unsafe { syscall!(sys::__NR_bpf, BPF_PROG_LOAD, &raw const attributes, size) }
        .map(OwnedFd::from_return_value)
}

/// Runs a program from [`load_raw_tracepoint`] once, on this thread. Returns the program's return value.
///
/// # Errors
///
/// As bpf(2).
///
/// # Safety
///
/// Nothing relies on the memory that the program writes.
pub unsafe fn run_raw_tracepoint(program: &OwnedFd) -> Result<u32, Errno> {
    let mut attributes = TestRun {
        prog_fd: program.number(),
        retval: 0,
        data_size_in: 0,
        data_size_out: 0,
        data_in: 0,
        data_out: 0,
        repeat: 0,
        duration: 0,
        ctx_size_in: 0,
        ctx_size_out: 0,
        ctx_in: 0,
        ctx_out: 0,
        flags: 0,
        cpu: 0,
    };
    let size = size_of::<TestRun>();
    // SAFETY: the kernel reads and writes the struct; the caller guarantees the rest.
    unsafe { syscall!(sys::__NR_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size) }
        .map(|_| attributes.retval)
}
