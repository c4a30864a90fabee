//! Addresses and frame numbers.

use core::fmt;

use crate::Geometry;

/// An address that the tables translate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct VirtualAddress(pub u64);

impl VirtualAddress {
    /// Returns the address plus `bytes`, wrapping at 2^64.
    #[inline]
    #[must_use]
    pub const fn wrapping_add(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Rounds the address down to a multiple of 2^`shift`; `shift` is less than 64.
    #[inline]
    #[must_use]
    pub const fn align_down(self, shift: u32) -> Self {
        Self(self.0 >> shift << shift)
    }
}

impl fmt::Display for VirtualAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A physical address: the result of a translation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PhysicalAddress(pub u64);

impl PhysicalAddress {
    /// Returns the frame that contains the address.
    #[inline]
    #[must_use]
    pub const fn frame(self, geometry: &Geometry) -> FrameNumber {
        FrameNumber(self.0 >> geometry.page_shift())
    }
}

impl fmt::Display for PhysicalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The number of a page frame: its physical address divided by the page size (Linux: `pfn`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrameNumber(pub u64);

impl FrameNumber {
    /// Returns the address of the first byte of the frame. Bits above 63 are lost.
    #[inline]
    #[must_use]
    pub const fn address(self, geometry: &Geometry) -> PhysicalAddress {
        PhysicalAddress(self.0 << geometry.page_shift())
    }
}

impl fmt::Display for FrameNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
