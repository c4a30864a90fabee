//! Processes and threads.

#![expect(
    unsafe_code,
    reason = "the kernel reads and writes arguments by their address"
)]

use core::ffi::{CStr, c_char};
use core::ptr;

use linux_raw_sys::general as sys;
use linux_raw_sys::prctl::{PR_GET_NAME, PR_SET_NAME, PR_SET_PDEATHSIG};
use linux_raw_sys::ptrace::PTRACE_TRACEME;

use crate::errno::Errno;
use crate::file::OwnedFd;
use crate::signal::Signal;
use crate::syscall::int;

/// How a process ended, as reported by wait(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It exited with this code.
    Exited(u8),
    /// This signal killed it.
    Killed(u8),
}

impl Status {
    /// Decodes the status of wait4(2) for a process that has ended: `include/uapi/linux/wait.h`, and
    /// `WIFEXITED` of the C library.
    const fn from_word(word: i32) -> Self {
        let [low, high, ..] = word.to_le_bytes();
        // Bit 7 means that a core dump was written.
        match low & 0x7f {
            0 => Self::Exited(high),
            signal => Self::Killed(signal),
        }
    }
}

/// fork(2): copies the calling process, with its calling thread only. Returns the child's process ID in the
/// parent, and `None` in the child.
///
/// # Errors
///
/// As fork(2).
///
/// # Safety
///
/// Every value then has two owners, one in each process. The child neither uses nor drops a value that stands
/// for something that both processes share, or that the child lacks:
///
/// - shared memory with an exclusive reference to it: the other process changes it meanwhile;
/// - a userfaultfd: its ioctls change the memory of the parent;
/// - mapped page tables, and memory with `MADV_DONTFORK`: the child has nothing at these addresses, or
///   whatever it maps there next.
///
/// Locks that other threads hold are never released in the child, since these threads do not exist there.
pub unsafe fn fork() -> Result<Option<i32>, Errno> {
    // SAFETY: the child has a copy of the memory, and the caller guarantees how it uses it; without CLONE_VM
    // the stack stays where it is. The order of the last two arguments differs by architecture, and both are
    // 0.
    unsafe {
        syscall!(
            sys::__NR_clone,
            sys::SIGCHLD,
            0_usize,
            0_usize,
            0_usize,
            0_usize
        )
    }
    .map(|value| match int(value) {
        0 => None,
        pid => Some(pid),
    })
}

/// execve(2). Returns only on failure, with the error.
///
/// # Safety
///
/// `arguments` and `environment` are arrays of NUL-terminated strings, each array ended by a null pointer.
pub unsafe fn execve(
    path: &CStr,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> Errno {
    // SAFETY: the kernel reads a string that ends in NUL, and the caller's arrays.
    let result = unsafe { syscall!(sys::__NR_execve, path.as_ptr(), arguments, environment) };
    // It does not return on success.
    result.err().unwrap_or(Errno::ENOSYS)
}

/// exit(2): ends the calling thread.
///
/// # Safety
///
/// Nothing on the stack of the thread needs to be dropped, and nobody has a reference to it: its frames are
/// abandoned, and the creator of the thread may unmap them.
pub unsafe fn exit_thread() -> ! {
    // SAFETY: ends the thread; the caller guarantees the rest.
    let _ = unsafe { syscall!(sys::__NR_exit, 0_u32) };
    unreachable!()
}

/// exit_group(2): ends the process with the low eight bits of `status`.
pub fn exit(status: i32) -> ! {
    // SAFETY: ends the process.
    let _ = unsafe { syscall!(sys::__NR_exit_group, status) };
    unreachable!()
}

/// wait4(2): waits for the end of child `pid`, or of any child for -1. Returns its process ID and status.
///
/// # Errors
///
/// As wait(2).
pub fn wait(pid: i32) -> Result<(i32, Status), Errno> {
    let mut word = 0_i32;
    let usage: *mut sys::rusage = ptr::null_mut();
    // SAFETY: the kernel writes the word, and no usage.
    unsafe { syscall!(sys::__NR_wait4, pid, ptr::from_mut(&mut word), 0_u32, usage) }
        .map(|value| (int(value), Status::from_word(word)))
}

/// waitid(2): waits for the end of child `pid`, and leaves it a zombie.
///
/// # Errors
///
/// As waitid(2).
pub fn wait_without_reaping(pid: i32) -> Result<(), Errno> {
    let options = sys::WEXITED | sys::WNOWAIT;
    // SAFETY: the kernel writes neither siginfo nor usage.
    unsafe { syscall!(sys::__NR_waitid, sys::P_PID, pid, 0_usize, options, 0_usize) }.map(drop)
}

/// waitid(2): returns whether child `pid` has ended, and leaves it a zombie.
///
/// # Errors
///
/// As waitid(2).
pub fn has_ended(pid: i32) -> Result<bool, Errno> {
    let options = sys::WEXITED | sys::WNOWAIT | sys::WNOHANG;
    wait_for(sys::P_PID, pid, options).map(|what| what.pid != 0)
}

/// waitid(2): returns a child that has ended, if there is one, and leaves it a zombie.
///
/// # Errors
///
/// As waitid(2); `ECHILD` if there are no children.
pub fn first_ended() -> Result<Option<i32>, Errno> {
    let options = sys::WEXITED | sys::WNOWAIT | sys::WNOHANG;
    wait_for(sys::P_ALL, 0, options).map(|what| (what.pid != 0).then_some(what.pid))
}

/// ptrace(2), `PTRACE_TRACEME`: makes the parent the tracer of the caller.
///
/// # Errors
///
/// As ptrace(2).
pub fn trace_me() -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_ptrace, PTRACE_TRACEME, 0_usize, 0_usize, 0_usize) }.map(drop)
}

/// waitid(2): waits until child `pid` is stopped. Returns false if it has ended instead; it stays a zombie.
///
/// # Errors
///
/// As waitid(2).
pub fn wait_until_stopped(pid: i32) -> Result<bool, Errno> {
    let options = sys::WEXITED | sys::WSTOPPED | sys::WNOWAIT;
    wait_for(sys::P_PID, pid, options).map(|what| what.code == sys::CLD_STOPPED)
}

/// A change of a child's state: `si_code` and `si_pid`, both 0 if there is none.
struct Happened {
    code: u32,
    pid: i32,
}

/// waitid(2) for one child or for all, by `which`.
fn wait_for(which: u32, pid: i32, options: u32) -> Result<Happened, Errno> {
    // `struct siginfo` has 128 bytes (`SI_MAX_SIZE`) and begins with si_signo, si_errno, si_code, four bytes
    // of padding, and si_pid.
    let mut siginfo = [0_u32; 32];
    let (start, usage) = (siginfo.as_mut_ptr(), ptr::null_mut::<sys::rusage>());
    // SAFETY: the kernel writes the siginfo, and no usage.
    unsafe { syscall!(sys::__NR_waitid, which, pid, start, options, usage) }?;
    let [_, _, code, _, pid, ..] = siginfo;
    let pid = pid.cast_signed();
    Ok(Happened { code, pid })
}

/// kill(2).
///
/// # Errors
///
/// As kill(2).
pub fn kill(pid: i32, signal: Signal) -> Result<(), Errno> {
    // SAFETY: a signal can only run a handler, whose installer guarantees that it is sound.
    unsafe { syscall!(sys::__NR_kill, pid, signal as u32) }.map(drop)
}

/// tgkill(2): sends a signal to thread `tid` of process `pid`.
///
/// # Errors
///
/// As tgkill(2).
pub fn kill_thread(pid: i32, tid: i32, signal: Signal) -> Result<(), Errno> {
    // SAFETY: a signal can only run a handler, whose installer guarantees that it is sound.
    unsafe { syscall!(sys::__NR_tgkill, pid, tid, signal as u32) }.map(drop)
}

/// getpid(2).
#[must_use]
pub fn pid() -> i32 {
    // SAFETY: touches no memory.
    int(unsafe { raw_syscall!(sys::__NR_getpid as usize) })
}

/// getppid(2).
#[must_use]
pub fn parent_pid() -> i32 {
    // SAFETY: touches no memory.
    int(unsafe { raw_syscall!(sys::__NR_getppid as usize) })
}

/// gettid(2).
#[must_use]
pub fn tid() -> i32 {
    // SAFETY: touches no memory.
    int(unsafe { raw_syscall!(sys::__NR_gettid as usize) })
}

/// pidfd_open(2). Returns a descriptor that becomes readable when process `pid` ends.
///
/// # Errors
///
/// As pidfd_open(2).
pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_pidfd_open, pid, 0_u32) }.map(OwnedFd::from_return_value)
}

/// unshare(2): moves the process into a new user namespace, in which it has every capability.
///
/// # Errors
///
/// As unshare(2).
pub fn unshare_user() -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_unshare, sys::CLONE_NEWUSER) }.map(drop)
}

/// prctl(2), `PR_SET_PDEATHSIG`: the caller gets `signal` when the thread that created it ends.
///
/// # Errors
///
/// None is documented for a valid signal.
pub fn set_parent_death_signal(signal: Signal) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { syscall!(sys::__NR_prctl, PR_SET_PDEATHSIG, signal as u32) }.map(drop)
}

/// prctl(2), `PR_GET_NAME`: returns the name of the calling thread, up to 15 bytes and a NUL.
#[must_use]
pub fn thread_name() -> [u8; 16] {
    let mut name = [0; 16];
    // SAFETY: the kernel writes sixteen bytes.
    let _ = unsafe { syscall!(sys::__NR_prctl, PR_GET_NAME, name.as_mut_ptr()) };
    name
}

/// prctl(2), `PR_SET_NAME`: names the calling thread; the name ends at the first NUL, after at most 15 bytes.
///
/// # Errors
///
/// None is documented.
pub fn set_thread_name(name: &[u8; 16]) -> Result<(), Errno> {
    // SAFETY: the kernel reads at most 15 bytes (`kernel/sys.c`, `PR_SET_NAME`).
    unsafe { syscall!(sys::__NR_prctl, PR_SET_NAME, name.as_ptr()) }.map(drop)
}

/// process_vm_readv(2): reads the memory of process `pid` at `address`. Returns the number of bytes read.
///
/// # Errors
///
/// As process_vm_readv(2).
pub fn read_memory(pid: i32, address: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
    let local = (bytes.as_mut_ptr(), bytes.len());
    // SAFETY: the kernel writes to the slice only.
    unsafe { access_memory(sys::__NR_process_vm_readv, pid, local, address) }
}

/// process_vm_writev(2): writes `bytes` to the memory of process `pid` at `address`. Returns the number of
/// bytes written.
///
/// # Errors
///
/// As process_vm_writev(2).
///
/// # Safety
///
/// Nothing in that process, which may be the caller, relies on the previous contents.
pub unsafe fn write_memory(pid: i32, address: u64, bytes: &[u8]) -> Result<usize, Errno> {
    let local = (bytes.as_ptr().cast_mut(), bytes.len());
    // SAFETY: the kernel only reads the slice; the caller guarantees the rest.
    unsafe { access_memory(sys::__NR_process_vm_writev, pid, local, address) }
}

/// process_vm_readv(2) or process_vm_writev(2).
unsafe fn access_memory(
    number: u32,
    pid: i32,
    (start, size): (*mut u8, usize),
    address: u64,
) -> Result<usize, Errno> {
    let local = sys::iovec {
        iov_base: start.cast(),
        iov_len: size as u64,
    };
    let remote = sys::iovec {
        iov_base: ptr::without_provenance_mut(crate::syscall::Argument::register(address)),
        iov_len: size as u64,
    };
    let (local, remote) = (ptr::from_ref(&local), ptr::from_ref(&remote));
    // SAFETY: the kernel reads one iovec on each side; the caller guarantees the rest.
    unsafe { syscall!(number, pid, local, 1_usize, remote, 1_usize, 0_usize) }
}

/// sched_yield(2).
pub fn yield_now() {
    // SAFETY: touches no memory; on Linux it always succeeds.
    let _ = unsafe { syscall!(sys::__NR_sched_yield) };
}

/// sched_setaffinity(2): restricts thread `tid` (0: the caller) to the CPUs whose bits are set in `cpus`.
///
/// # Errors
///
/// As sched_setaffinity(2); `EINVAL` if none of the CPUs exists.
pub fn set_affinity(tid: i32, cpus: u64) -> Result<(), Errno> {
    let size = size_of_val(&cpus);
    // SAFETY: the kernel reads the word.
    unsafe { syscall!(sys::__NR_sched_setaffinity, tid, size, ptr::from_ref(&cpus)) }.map(drop)
}

/// sched_getaffinity(2): returns the number of CPUs on which the caller may run, up to 1024.
///
/// # Errors
///
/// As sched_getaffinity(2); `EINVAL` on a system with more CPUs.
pub fn cpus() -> Result<u32, Errno> {
    let mut mask = [0_u64; 16];
    let (size, start) = (size_of_val(&mask), mask.as_mut_ptr());
    // SAFETY: the kernel writes to the array only.
    unsafe { syscall!(sys::__NR_sched_getaffinity, 0_i32, size, start) }?;
    Ok(mask.iter().map(|word| word.count_ones()).sum())
}

/// setrlimit(2): sets the soft and the hard limit of a resource.
pub(crate) fn set_limit(resource: u32, limit: u64) -> Result<(), Errno> {
    let limits = [limit; 2];
    let old: *mut u64 = core::ptr::null_mut();
    // SAFETY: the kernel reads the new limits, and writes no old ones.
    unsafe { syscall!(sys::__NR_prlimit64, 0_i32, resource, limits.as_ptr(), old) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_decoded_as_the_c_library_does() {
        assert_eq!(Status::from_word(0x0000), Status::Exited(0));
        assert_eq!(Status::from_word(0x6500), Status::Exited(101));
        assert_eq!(Status::from_word(0x0009), Status::Killed(9));
        assert_eq!(Status::from_word(0x008b), Status::Killed(11));
    }
}
