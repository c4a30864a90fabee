//! `/dev/remap_page_table`: the forms of [`remap`](crate::remap) that a kernel module offers on kernels without
//! the call. The functions of `remap` use it there; who has a [`Target`] makes each call with one system call
//! instead of seven, and only for the program that the process executes now.
//!
//! The module is `kernel/module/`; the constants mirror its header `ioctl.h`.

#![expect(unsafe_code, reason = "maps a table over a page of the caller")]

use core::ffi::c_void;
use core::ptr;

use linux_raw_sys::general as sys;

use crate::errno::Errno;
use crate::file::{self, BorrowedFd, O_RDONLY, O_RDWR, OwnedFd};
use crate::path::proc_path;
use crate::remap::{
    EXPOSE_PGTBL_INFO, EXPOSE_PGTBL_INFO_SIZE_VER0, EXPOSE_PGTBL_LEVEL_MASK, ExposePgtblArgs,
    ExposePgtblInfo, ExposePgtblPath,
};

/// `_IO(0xe2, 0)`: `REMAP_PAGE_TABLE_OPEN`.
const OPEN: u32 = 0xe200;
/// `_IOWR(0xe2, 1, struct expose_pgtbl_args)`: `REMAP_PAGE_TABLE_CALL`.
const CALL: u32 = 0xc020_e201;

/// [`ExposePgtblArgs::level`]: lookup level 0, where the root is at level -1.
pub const EXPOSE_PGTBL_LEVEL_0: u32 = 0x80;
/// Bit of [`ExposePgtblInfo::features`]: mremap(2) moves tables of level 2. A path is right if all its slots are.
pub const EXPOSE_PGTBL_MOVING_L2: u32 = 0x100;
/// Bit of [`ExposePgtblInfo::features`]: a root table is no page of its own. A read-only copy of it is mapped.
pub const EXPOSE_PGTBL_ROOT_COPY: u32 = 0x200;

/// Size of [`ExposePgtblPath5`] in bytes.
pub const EXPOSE_PGTBL_PATH5_SIZE: u32 = 64;

/// `struct expose_pgtbl_path5`: a path with five levels.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposePgtblPath5 {
    /// `size` is that of this struct; `root_level` is -1 as an unsigned number.
    pub path: ExposePgtblPath,
    /// The descriptor read at level -1.
    pub desc_root: u64,
}

/// Makes the call, by a [`Target`] of its own.
///
/// # Errors
///
/// As [`remap_page_table`](crate::remap::remap_page_table); `ENOSYS` without the device.
///
/// # Safety
///
/// As for [`remap_page_table`](crate::remap::remap_page_table).
#[cold]
#[inline(never)]
pub(crate) unsafe fn call(args: &mut ExposePgtblArgs) -> Result<(), Errno> {
    let target = Target::for_call(args.pid, args.level)?;
    let mut own = ExposePgtblArgs { pid: 0, ..*args };
    // SAFETY: guaranteed by the caller.
    let made = unsafe { target.call(&mut own) };
    args.pfn = own.pfn;
    made
}

/// Opens the memory of process `pid` (0: the caller).
fn memory(pid: i32) -> Result<OwnedFd, Errno> {
    let path = proc_path(pid, "mem")?;
    let opened = match file::open(&path, O_RDWR) {
        // Who may not write it gets no writable tables.
        Err(Errno::EROFS | Errno::EACCES) => file::open(&path, O_RDONLY),
        opened => opened,
    };
    opened.map_err(|errno| match errno {
        Errno::ENOENT => Errno::ESRCH,
        Errno::EACCES => Errno::EPERM,
        errno => errno,
    })
}

/// The device.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// As open(2): `ENOENT` if the module is not loaded, `EACCES` for others than root.
    pub fn open() -> Result<Self, Errno> {
        file::open(c"/dev/remap_page_table", O_RDONLY).map(Self)
    }

    /// Takes a descriptor of the device, for example one that another process has passed on.
    ///
    /// # Safety
    ///
    /// It is one: the ioctls of other files do other things.
    #[must_use]
    pub const unsafe fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Returns the descriptor.
    #[must_use]
    pub const fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// Returns the tables of the process of which `memory`, an open file `/proc/PID/mem`, is the memory.
    ///
    /// # Errors
    ///
    /// `EBADF` if it is not open for reading, `EINVAL` if it is another file, `EPERM` without `CAP_SYS_ADMIN`,
    /// `EMFILE` and `ENFILE`.
    pub fn target(&self, memory: BorrowedFd<'_>) -> Result<Target, Errno> {
        // SAFETY: touches no memory.
        unsafe { syscall!(sys::__NR_ioctl, &self.0, OPEN, memory) }
            .map(OwnedFd::from_return_value)
            .map(Target)
    }
}

/// The tables of a process, until it ends or executes another program.
#[derive(Debug)]
pub struct Target(OwnedFd);

impl Target {
    /// Opens the device and the memory of process `pid` (0: the caller), for writing too if `/proc` permits it. INFO,
    /// as `level` says, is the same for all processes, and is asked of the caller.
    ///
    /// # Errors
    ///
    /// `ENOSYS` without the device, `EPERM` without permission to open it or that memory, `ESRCH`; as
    /// [`Device::target`].
    pub fn for_call(pid: i32, level: u32) -> Result<Self, Errno> {
        let info = level & !EXPOSE_PGTBL_LEVEL_MASK == EXPOSE_PGTBL_INFO;
        let pid = if info { 0 } else { pid };
        let device = Device::open().map_err(|errno| match errno {
            Errno::ENOENT => Errno::ENOSYS,
            Errno::EACCES => Errno::EPERM,
            errno => errno,
        })?;
        device.target(memory(pid)?.borrow())
    }

    /// Takes a descriptor that [`Device::target`] has returned to another process.
    ///
    /// # Safety
    ///
    /// It is one: the ioctls of other files do other things.
    #[must_use]
    pub const unsafe fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Returns the descriptor.
    #[must_use]
    pub const fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// Makes the call with the struct at `args`, which may be any address; an unmapped one gives `EFAULT`.
    ///
    /// # Errors
    ///
    /// As [`Target::call`].
    ///
    /// # Safety
    ///
    /// As for [`remap_page_table_raw`](crate::remap::remap_page_table_raw).
    pub unsafe fn call_raw(&self, args: *mut c_void) -> Result<(), Errno> {
        // SAFETY: guaranteed by the caller.
        unsafe { syscall!(sys::__NR_ioctl, &self.0, CALL, args) }.map(drop)
    }

    /// Makes the call; `pid` is 0.
    ///
    /// # Errors
    ///
    /// As [`remap_page_table`](crate::remap::remap_page_table); `EACCES` for a writable table if the memory was
    /// not opened for writing, `EBUSY` for a writable table of level 2 that other processes share and for FLUSH
    /// of a process with a virtual machine, `EOPNOTSUPP` for the forms that the module does not have and for a
    /// writable copy of a root table.
    ///
    /// # Safety
    ///
    /// As for [`remap_page_table`](crate::remap::remap_page_table).
    pub unsafe fn call(&self, args: &mut ExposePgtblArgs) -> Result<(), Errno> {
        // SAFETY: the struct is valid and exclusive; the caller guarantees the rest.
        unsafe { self.call_raw(ptr::from_mut(args).cast()) }
    }

    /// Returns the geometry of the page tables.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_SYS_ADMIN`.
    pub fn info(&self) -> Result<ExposePgtblInfo, Errno> {
        let mut info = ExposePgtblInfo {
            size: EXPOSE_PGTBL_INFO_SIZE_VER0,
            ..Default::default()
        };
        let mut args = ExposePgtblArgs {
            pid: 0,
            remap_vaddr: ptr::from_mut(&mut info).expose_provenance() as u64,
            pfn: 0,
            level: EXPOSE_PGTBL_INFO,
        };
        // SAFETY: the kernel fills the struct.
        unsafe { self.call(&mut args) }?;
        Ok(info)
    }
}
