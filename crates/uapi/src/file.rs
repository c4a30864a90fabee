//! File descriptors.

#![expect(
    unsafe_code,
    reason = "the kernel reads and writes buffers by their address"
)]

use core::ffi::CStr;
use core::marker::PhantomData;

use linux_raw_sys::general as sys;
pub use linux_raw_sys::general::{
    O_CLOEXEC, O_EXCL, O_NOCTTY, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_SYNC, O_WRONLY,
};

use crate::errno::Errno;
use crate::syscall::{Argument, int};

/// setrlimit(2) of `RLIMIT_FSIZE`: sets how long files may become by writes of this process. A longer write
/// fails with `EFBIG`, and sends `SIGXFSZ`.
///
/// # Errors
///
/// As setrlimit(2); `EPERM` above the hard limit without `CAP_SYS_RESOURCE`.
pub fn set_size_limit(bytes: u64) -> Result<(), Errno> {
    crate::process::set_limit(sys::RLIMIT_FSIZE, bytes)
}

/// An open file descriptor, closed when dropped.
#[derive(PartialEq, Eq, Debug)]
pub struct OwnedFd(i32);

impl OwnedFd {
    /// Takes ownership of the descriptor that a system call returned.
    pub(crate) const fn from_return_value(value: usize) -> Self {
        Self(int(value))
    }

    /// Takes ownership of descriptor `number`.
    ///
    /// # Safety
    ///
    /// Nobody else owns it: dropping the value closes it, and [`duplicate_to`] replaces the file it refers
    /// to.
    #[must_use]
    pub const unsafe fn from_number(number: i32) -> Self {
        Self(number)
    }

    /// Borrows the descriptor, for functions that accept descriptors with and without an owner.
    #[must_use]
    pub const fn borrow(&self) -> BorrowedFd<'_> {
        BorrowedFd(self.0, PhantomData)
    }

    /// Returns the number, valid as long as this value lives.
    #[must_use]
    pub const fn number(&self) -> i32 {
        self.0
    }
}

/// A file descriptor that stays open for `'fd` and has another owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BorrowedFd<'fd>(i32, PhantomData<&'fd OwnedFd>);

impl BorrowedFd<'static> {
    /// Standard output. If it was closed when the program started, it is `EBADF` or the first file that was
    /// opened.
    pub const STDOUT: Self = Self(1, PhantomData);
    /// Standard error; see [`BorrowedFd::STDOUT`].
    pub const STDERR: Self = Self(2, PhantomData);
}

impl BorrowedFd<'_> {
    /// Returns the number.
    #[must_use]
    pub const fn number(&self) -> i32 {
        self.0
    }
}

impl Argument for BorrowedFd<'_> {
    fn register(self) -> usize {
        self.0.register()
    }
}

impl Argument for &OwnedFd {
    fn register(self) -> usize {
        self.0.register()
    }
}

impl Drop for OwnedFd {
    /// Closes the descriptor; it is closed whatever close(2) returns.
    fn drop(&mut self) {
        // SAFETY: nobody uses the descriptor after this.
        let _ = unsafe { syscall!(sys::__NR_close, self.0) };
    }
}

/// openat(2): opens `path`, relative to the current folder, close-on-exec; `flags` are `O_*`.
///
/// # Errors
///
/// As open(2).
pub fn open(path: &CStr, flags: u32) -> Result<OwnedFd, Errno> {
    let flags = flags | O_CLOEXEC;
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_openat, sys::AT_FDCWD, path.as_ptr(), flags, 0_u32) }
        .map(OwnedFd::from_return_value)
}

/// Creates the file at `path`, which must not exist, for writing, with permissions `mode`.
///
/// # Errors
///
/// As open(2) with `O_CREAT` and `O_EXCL`: `EEXIST` if the file exists.
pub fn create(path: &CStr, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = sys::O_CREAT | sys::O_EXCL | O_WRONLY | O_CLOEXEC;
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_openat, sys::AT_FDCWD, path.as_ptr(), flags, mode) }
        .map(OwnedFd::from_return_value)
}

/// unlink(2): removes the file at `path`.
///
/// # Errors
///
/// As unlink(2).
pub fn remove(path: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_unlinkat, sys::AT_FDCWD, path.as_ptr(), 0_u32) }.map(drop)
}

/// Renames the file at `from` to `to`, which must not exist: renameat2(2) with `RENAME_NOREPLACE`, or link(2)
/// and unlink(2) on file systems without it.
///
/// # Errors
///
/// As rename(2): `EEXIST` if `to` exists.
pub fn rename_new(from: &CStr, to: &CStr) -> Result<(), Errno> {
    let (from, to) = (from.as_ptr(), to.as_ptr());
    let here = sys::AT_FDCWD;
    let flags = sys::RENAME_NOREPLACE;
    // SAFETY: the kernel reads strings that end in NUL.
    let renamed = unsafe { syscall!(sys::__NR_renameat2, here, from, here, to, flags) };
    if renamed != Err(Errno::EINVAL) {
        return renamed.map(drop);
    }
    // SAFETY: the kernel reads strings that end in NUL.
    unsafe { syscall!(sys::__NR_linkat, here, from, here, to, 0_u32) }?;
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_unlinkat, here, from, 0_u32) }.map(drop)
}

/// open(2) with `O_TMPFILE`: creates a file without a name in the folder `path`, for reading and writing. It
/// is removed when it is closed.
///
/// # Errors
///
/// As open(2): `EOPNOTSUPP` if the file system does not support it.
pub fn create_unnamed(path: &CStr, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = sys::O_TMPFILE | O_RDWR | O_CLOEXEC;
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_openat, sys::AT_FDCWD, path.as_ptr(), flags, mode) }
        .map(OwnedFd::from_return_value)
}

/// getdents64(2): reads folder entries, each a `struct linux_dirent64`. Returns the number of bytes, 0 at the
/// end.
///
/// # Errors
///
/// As getdents(2).
pub fn read_folder(fd: &OwnedFd, bytes: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes to the slice only.
    unsafe { syscall!(sys::__NR_getdents64, fd, bytes.as_mut_ptr(), bytes.len()) }
}

/// pwrite(2). Returns the number of bytes written.
///
/// # Errors
///
/// As pwrite(2).
pub fn pwrite(fd: &OwnedFd, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
    // SAFETY: the kernel reads the slice.
    unsafe { syscall!(sys::__NR_pwrite64, fd, bytes.as_ptr(), bytes.len(), offset) }
}

/// read(2). Returns the number of bytes read, 0 at the end.
///
/// # Errors
///
/// As read(2).
pub fn read(fd: &OwnedFd, bytes: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes to the slice only.
    unsafe { syscall!(sys::__NR_read, fd, bytes.as_mut_ptr(), bytes.len()) }
}

/// pread(2) at `offset`. Returns the number of bytes read, 0 at the end.
///
/// # Errors
///
/// As pread(2).
pub fn pread(fd: &OwnedFd, bytes: &mut [u8], offset: u64) -> Result<usize, Errno> {
    // SAFETY: the kernel writes to the slice only.
    unsafe {
        syscall!(
            sys::__NR_pread64,
            fd,
            bytes.as_mut_ptr(),
            bytes.len(),
            offset
        )
    }
}

/// write(2). Returns the number of bytes written.
///
/// # Errors
///
/// As write(2).
pub fn write(fd: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    write_to(fd.borrow(), bytes)
}

/// write(2) to a descriptor with another owner, such as standard output. Returns the number of bytes written.
///
/// # Errors
///
/// As write(2); `EBADF` if the descriptor was closed when the program started.
pub fn write_to(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel reads the slice.
    unsafe { syscall!(sys::__NR_write, fd, bytes.as_ptr(), bytes.len()) }
}

/// fcntl(2), `F_GETFD`: returns whether descriptor number `fd` is open.
#[must_use]
pub fn is_open(fd: i32) -> bool {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_fcntl, fd, sys::F_GETFD) }.is_ok()
}

/// openat(2): opens `path` under the lowest free number, never closes it, and keeps it over execve(2): for
/// descriptors 0 to 2. Returns the number.
///
/// # Errors
///
/// As open(2).
pub fn open_for_good(path: &CStr, flags: u32) -> Result<i32, Errno> {
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_openat, sys::AT_FDCWD, path.as_ptr(), flags, 0_u32) }.map(int)
}

/// pipe2(2), close-on-exec. Returns the read end and the write end.
///
/// # Errors
///
/// As pipe(2).
pub fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    pipe_with(0)
}

/// As [`pipe`], with `O_NONBLOCK` on both ends.
///
/// # Errors
///
/// As pipe(2).
pub fn pipe_without_waiting() -> Result<(OwnedFd, OwnedFd), Errno> {
    pipe_with(O_NONBLOCK)
}

fn pipe_with(flags: u32) -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut ends = [0_i32; 2];
    let flags = flags | O_CLOEXEC;
    // SAFETY: the kernel writes two numbers.
    unsafe { syscall!(sys::__NR_pipe2, ends.as_mut_ptr(), flags) }?;
    let [reader, writer] = ends;
    Ok((OwnedFd(reader), OwnedFd(writer)))
}

/// dup3(2): makes `to` a copy of `fd` that is kept over execve(2), and closes the file that `to` referred to.
///
/// # Errors
///
/// As dup3(2); `EINVAL` if both are the same descriptor.
pub fn duplicate_to(fd: &OwnedFd, to: &mut OwnedFd) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_dup3, fd, &*to, 0_u32) }.map(drop)
}

/// rmdir(2): removes the empty folder at `path`.
///
/// # Errors
///
/// As rmdir(2).
pub fn remove_folder(path: &CStr) -> Result<(), Errno> {
    let flags = sys::AT_REMOVEDIR;
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_unlinkat, sys::AT_FDCWD, path.as_ptr(), flags) }.map(drop)
}

/// mkdirat(2): creates a folder, relative to the current one.
///
/// # Errors
///
/// As mkdir(2); `EEXIST` if it exists.
pub fn make_folder(path: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_mkdirat, sys::AT_FDCWD, path.as_ptr(), mode) }.map(drop)
}

/// fchmodat(2): sets the permissions of a file, relative to the current folder.
///
/// # Errors
///
/// As chmod(2).
pub fn set_mode(path: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_fchmodat, sys::AT_FDCWD, path.as_ptr(), mode) }.map(drop)
}

/// mknodat(2): creates a character device, relative to the current folder.
///
/// # Errors
///
/// As mknod(2); `EEXIST` if it exists.
pub fn make_character_device(path: &CStr, mode: u32, major: u32, minor: u32) -> Result<(), Errno> {
    let mode = sys::S_IFCHR | mode;
    // Encoded as new_encode_dev() of `include/linux/kdev_t.h`.
    let device = (minor & 0xff) | major << 8 | (minor & !0xff) << 12;
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe {
        syscall!(
            sys::__NR_mknodat,
            sys::AT_FDCWD,
            path.as_ptr(),
            mode,
            device
        )
    }
    .map(drop)
}

/// faccessat(2): checks that the file at `path` exists and that the caller may execute it.
///
/// # Errors
///
/// As access(2); `ENOENT` if it does not exist, `EACCES` if it is not executable.
pub fn check_executable(path: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads a string that ends in NUL.
    unsafe { syscall!(sys::__NR_faccessat, sys::AT_FDCWD, path.as_ptr(), sys::X_OK) }.map(drop)
}
