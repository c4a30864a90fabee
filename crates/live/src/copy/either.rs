//! Either source of kernel memory, chosen at run time.

#![expect(unsafe_code, reason = "passes on what both promise")]

use core::sync::atomic::AtomicU64;

use heapless::Vec;

use super::own::page_shift;
use super::{Bpf, CopyError, Kcore, Kernel, Link, OFFSETS, Wanted};

/// BPF or `/proc/kcore`.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of them, and no heap to put it on"
)]
#[derive(Debug)]
pub enum Either {
    /// Copies under RCU.
    Bpf(Bpf),
    /// Checked copies.
    Kcore(Kcore),
}

impl Either {
    /// Opens BPF, with the page size of this kernel.
    ///
    /// # Errors
    ///
    /// As [`Bpf::new`].
    pub fn bpf() -> Result<Self, CopyError> {
        Bpf::new(page_shift()?).map(Self::Bpf)
    }

    /// Opens `/proc/kcore`, with the page size of this kernel.
    ///
    /// # Errors
    ///
    /// As [`Kcore::new`].
    pub fn kcore() -> Result<Self, CopyError> {
        Kcore::new(page_shift()?).map(Self::Kcore)
    }
}

// SAFETY: both promise it.
unsafe impl Kernel for Either {
    fn own_task(&mut self, words: &mut [u64]) -> Result<usize, CopyError> {
        match self {
            Self::Bpf(bpf) => bpf.own_task(words),
            Self::Kcore(kcore) => kcore.own_task(words),
        }
    }

    fn offsets(&mut self, page_shift: u32) -> Result<Vec<u64, OFFSETS>, CopyError> {
        match self {
            Self::Bpf(bpf) => bpf.offsets(page_shift),
            Self::Kcore(kcore) => kcore.offsets(page_shift),
        }
    }

    fn vmcoreinfo(&mut self, offset: u64, text: &mut [u8]) -> Result<usize, CopyError> {
        match self {
            Self::Bpf(bpf) => bpf.vmcoreinfo(offset, text),
            Self::Kcore(kcore) => kcore.vmcoreinfo(offset, text),
        }
    }

    fn read(&mut self, address: u64, words: &mut [u64]) -> Result<bool, CopyError> {
        match self {
            Self::Bpf(bpf) => bpf.read(address, words),
            Self::Kcore(kcore) => kcore.read(address, words),
        }
    }

    fn copy(&mut self, chain: &[Link], wanted: &[Wanted], page: usize) -> Result<bool, CopyError> {
        match self {
            Self::Bpf(bpf) => bpf.copy(chain, wanted, page),
            Self::Kcore(kcore) => kcore.copy(chain, wanted, page),
        }
    }

    fn is_copied(&self, number: usize) -> bool {
        match self {
            Self::Bpf(bpf) => bpf.is_copied(number),
            Self::Kcore(kcore) => kcore.is_copied(number),
        }
    }

    fn pages(&self) -> usize {
        match self {
            Self::Bpf(bpf) => bpf.pages(),
            Self::Kcore(kcore) => kcore.pages(),
        }
    }

    fn batch(&self) -> usize {
        match self {
            Self::Bpf(bpf) => bpf.batch(),
            Self::Kcore(kcore) => kcore.batch(),
        }
    }

    fn words(&self, page: usize) -> &[AtomicU64] {
        match self {
            Self::Bpf(bpf) => bpf.words(page),
            Self::Kcore(kcore) => kcore.words(page),
        }
    }
}
