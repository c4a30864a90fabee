//! Virtual machines (KVM). They have translations of their own for the memory of their process, so the kernel
//! notifies them of each change of its page tables.

#![expect(unsafe_code, reason = "the kernel reads the struct of an ioctl")]

use core::ptr;

use linux_raw_sys::general as sys;

use crate::file::{self, O_RDWR, OwnedFd};
use crate::{Errno, Mapping};

/// `_IO(KVMIO, 0x01)` of include/uapi/linux/kvm.h.
const KVM_CREATE_VM: u32 = 0xae01;
/// `_IOW(KVMIO, 0x46, struct kvm_userspace_memory_region)`.
const KVM_SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;

/// `struct kvm_userspace_memory_region`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct MemoryRegion {
    pub(crate) slot: u32,
    pub(crate) flags: u32,
    pub(crate) guest_phys_addr: u64,
    pub(crate) memory_size: u64,
    pub(crate) userspace_addr: u64,
}

/// A virtual machine without CPUs.
#[derive(Debug)]
pub struct VirtualMachine(OwnedFd);

impl VirtualMachine {
    /// Creates a virtual machine.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the kernel or the CPU has no KVM; otherwise as open(2) of `/dev/kvm`, or `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        let kvm = file::open(c"/dev/kvm", O_RDWR)?;
        // SAFETY: touches no memory.
        unsafe { syscall!(sys::__NR_ioctl, &kvm, KVM_CREATE_VM, 0_usize) }
            .map(OwnedFd::from_return_value)
            .map(Self)
    }

    /// Makes `mapping` the memory of the machine from address 0 on. The machine has no CPU that would use it.
    ///
    /// # Errors
    ///
    /// `EEXIST` the second time.
    pub fn set_memory(&self, mapping: &Mapping) -> Result<(), Errno> {
        let region = MemoryRegion {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: mapping.size() as u64,
            userspace_addr: mapping.address(),
        };
        // SAFETY: the kernel reads the struct.
        unsafe {
            syscall!(
                sys::__NR_ioctl,
                &self.0,
                KVM_SET_USER_MEMORY_REGION,
                ptr::from_ref(&region)
            )
        }
        .map(drop)
    }
}
