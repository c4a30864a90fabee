//! Compile-time proof that each struct passed to the kernel has the layout of its header.
//!
//! The numbers come from a C compiler for a 64-bit architecture.

use linux_raw_sys::general::{
    __kernel_timespec, __user_cap_data_struct, __user_cap_header_struct, iovec, kernel_sigaction,
    kernel_sigset_t, pollfd, termios, uffd_msg, uffdio_api, uffdio_copy, uffdio_range,
    uffdio_register, uffdio_zeropage,
};
use linux_raw_sys::system::new_utsname;

use crate::bpf::{Instruction, MapCreate, ProgLoad, TestRun};
use crate::poll::PollFd;
use crate::remap::{
    EXPOSE_PGTBL_INFO_SIZE_VER0, EXPOSE_PGTBL_PATH_SIZE_VER0, EXPOSE_PGTBL_RANGE_SIZE_VER0,
    ExposePgtblArgs, ExposePgtblInfo, ExposePgtblPath, ExposePgtblRange, ExposePgtblTable,
};
use crate::remap_device::{EXPOSE_PGTBL_PATH5_SIZE, ExposePgtblPath5};
use crate::track::{EXPOSE_PGTBL_TRACK_SIZE_VER0, ExposePgtblRun, ExposePgtblTrack};
use crate::virtual_machine::MemoryRegion;

/// Checks size and alignment of a struct and the offset of each of its fields.
macro_rules! check_struct {
    ($name:ident, size $size:literal, align $align:literal, { $($field:ident: $offset:literal),* }) => {
        static_assertions::const_assert_eq!(size_of::<$name>(), $size);
        static_assertions::const_assert_eq!(align_of::<$name>(), $align);
        $(static_assertions::const_assert_eq!(core::mem::offset_of!($name, $field), $offset);)*
        // Fails to compile if a field is missing above.
        const _: fn($name) = |$name { $($field: _),* }| ();
    };
}

check_struct!(Instruction, size 8, align 4, { code: 0, registers: 1, offset: 2, immediate: 4 });
check_struct!(MapCreate, size 20, align 4, {
    map_type: 0, key_size: 4, value_size: 8, max_entries: 12, map_flags: 16
});
check_struct!(ProgLoad, size 40, align 8, {
    prog_type: 0, insn_cnt: 4, insns: 8, license: 16, log_level: 24, log_size: 28, log_buf: 32
});
check_struct!(TestRun, size 72, align 8, {
    prog_fd: 0, retval: 4, data_size_in: 8, data_size_out: 12, data_in: 16, data_out: 24, repeat: 32,
    duration: 36, ctx_size_in: 40, ctx_size_out: 44, ctx_in: 48, ctx_out: 56, flags: 64, cpu: 68
});
check_struct!(termios, size 36, align 4, {
    c_iflag: 0, c_oflag: 4, c_cflag: 8, c_lflag: 12, c_line: 16, c_cc: 17
});
check_struct!(ExposePgtblArgs, size 32, align 8, { pid: 0, remap_vaddr: 8, pfn: 16, level: 24 });
check_struct!(ExposePgtblInfo, size 56, align 8, {
    size: 0, page_shift: 4, va_bits: 8, levels: 12, root_entries: 16, oa_bits: 20, mair: 24,
    features: 32, flags: 36, bit_write: 40, bit_dirty: 41, bit_special: 42, bit_devmap: 43,
    bit_prot_none: 44, bit_present_invalid: 45, bit_swp_exclusive: 46, bit_uffd_wp: 47,
    swp_type_shift: 48, swp_type_bits: 49, swp_offset_shift: 50, swp_offset_bits: 51,
    swp_hwpoison: 52, swp_migration: 53, swp_device: 54, swp_marker: 55
});
check_struct!(ExposePgtblPath, size 56, align 8, {
    size: 0, root_level: 4, last_level: 8, reserved: 12, root_pfn: 16, desc: 24
});
check_struct!(ExposePgtblPath5, size 64, align 8, { path: 0, desc_root: 56 });
check_struct!(ExposePgtblTable, size 16, align 8, { addr: 0, desc: 8 });
check_struct!(ExposePgtblRange, size 32, align 8, {
    size: 0, count: 4, start: 8, end: 16, tables: 24
});
static_assertions::const_assert_eq!(
    size_of::<ExposePgtblPath5>(),
    EXPOSE_PGTBL_PATH5_SIZE as usize
);
static_assertions::const_assert_eq!(
    size_of::<ExposePgtblRange>(),
    EXPOSE_PGTBL_RANGE_SIZE_VER0 as usize
);
check_struct!(ExposePgtblRun, size 24, align 8, { start: 0, end: 8, kind: 16, reserved: 20 });
check_struct!(ExposePgtblTrack, size 40, align 8, {
    size: 0, mode: 4, start: 8, end: 16, runs: 24, count: 32, reserved: 36
});
static_assertions::const_assert_eq!(
    size_of::<ExposePgtblTrack>(),
    EXPOSE_PGTBL_TRACK_SIZE_VER0 as usize
);
static_assertions::const_assert_eq!(
    size_of::<ExposePgtblInfo>(),
    EXPOSE_PGTBL_INFO_SIZE_VER0 as usize
);
static_assertions::const_assert_eq!(
    size_of::<ExposePgtblPath>(),
    EXPOSE_PGTBL_PATH_SIZE_VER0 as usize
);

check_struct!(pollfd, size 8, align 4, { fd: 0, events: 4, revents: 6 });
static_assertions::assert_eq_size!(PollFd<'static>, pollfd);
static_assertions::assert_eq_align!(PollFd<'static>, pollfd);

check_struct!(__kernel_timespec, size 16, align 8, { tv_sec: 0, tv_nsec: 8 });
check_struct!(iovec, size 16, align 8, { iov_base: 0, iov_len: 8 });
check_struct!(kernel_sigset_t, size 8, align 8, { sig: 0 });
check_struct!(kernel_sigaction, size 32, align 8, {
    sa_handler_kernel: 0, sa_flags: 8, sa_restorer: 16, sa_mask: 24
});
check_struct!(__user_cap_header_struct, size 8, align 4, { version: 0, pid: 4 });
check_struct!(__user_cap_data_struct, size 12, align 4, {
    effective: 0, permitted: 4, inheritable: 8
});
check_struct!(new_utsname, size 390, align 1, {
    sysname: 0, nodename: 65, release: 130, version: 195, machine: 260, domainname: 325
});

check_struct!(MemoryRegion, size 32, align 8, {
    slot: 0, flags: 4, guest_phys_addr: 8, memory_size: 16, userspace_addr: 24
});
check_struct!(uffdio_api, size 24, align 8, { api: 0, features: 8, ioctls: 16 });
check_struct!(uffdio_range, size 16, align 8, { start: 0, len: 8 });
check_struct!(uffdio_register, size 32, align 8, { range: 0, mode: 16, ioctls: 24 });
check_struct!(uffdio_copy, size 40, align 8, { dst: 0, src: 8, len: 16, mode: 24, copy: 32 });
check_struct!(uffdio_zeropage, size 32, align 8, { range: 0, mode: 16, zeropage: 24 });
// `__packed` in the header changes no offset, but the alignment of the struct.
check_struct!(uffd_msg, size 32, align 1, {
    event: 0, reserved1: 1, reserved2: 2, reserved3: 4, arg: 8
});
static_assertions::const_assert_eq!(core::mem::offset_of!(uffd_msg, arg.pagefault.flags), 8);
static_assertions::const_assert_eq!(core::mem::offset_of!(uffd_msg, arg.pagefault.address), 16);
static_assertions::const_assert_eq!(core::mem::offset_of!(uffd_msg, arg.pagefault.feat), 24);

// Types that threads may share.
static_assertions::assert_impl_all!(crate::Mapping: Send, Sync);
static_assertions::assert_impl_all!(crate::file::OwnedFd: Send, Sync);
static_assertions::assert_impl_all!(crate::file::BorrowedFd<'static>: Send, Sync);
static_assertions::assert_impl_all!(crate::userfault::Userfault: Send, Sync);
static_assertions::assert_impl_all!(crate::Errno: Send, Sync);
// A fault context belongs to the interrupted thread.
static_assertions::assert_not_impl_any!(crate::signal::FaultContext<'static>: Send, Sync);
