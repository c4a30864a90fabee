//! The arm64 part of `struct ucontext`: says whether a fault was a write.

/// Signal mask, registers and records.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Machine {
    /// Signal mask, and reserved space for a larger one.
    mask: [u8; 128],
    /// `struct sigcontext`, aligned to 16 bytes: fault address, x0 to x30, sp, pc, pstate.
    registers: Registers,
    /// `__reserved`: records, each with its magic number and size.
    records: Records,
}

#[repr(C, align(16))]
#[derive(Debug)]
struct Registers {
    fault_address: u64,
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
}

#[repr(C, align(16))]
#[derive(Debug)]
struct Records([u8; 4096]);

/// `ESR_MAGIC`: the record with the fault syndrome.
const ESR_MAGIC: u32 = 0x4553_5201;
/// ESR_EL1.WnR of a data abort: it was a write.
const ESR_WRITE: u64 = 1 << 6;

impl Machine {
    pub(super) fn is_write(&self) -> bool {
        self.syndrome().is_none_or(|esr| esr & ESR_WRITE != 0)
    }

    fn syndrome(&self) -> Option<u64> {
        let mut records = &self.records.0[..];
        loop {
            let (head, rest) = records.split_first_chunk::<8>()?;
            let [a, b, c, d, size @ ..] = *head;
            let size = u32::from_le_bytes(size) as usize;
            if u32::from_le_bytes([a, b, c, d]) == ESR_MAGIC {
                return rest.first_chunk().copied().map(u64::from_le_bytes);
            }
            // The last record has size 0.
            records = records.get(size.max(8)..).filter(|_| size != 0)?;
        }
    }
}
