//! What Linux keeps where hardware does not look.

use crate::{Descriptor, FrameNumber, Geometry, Level};

/// Which bits Linux uses in a descriptor that hardware ignores, and how it lays out an entry that is
/// not valid. Differs between versions and configurations; `EXPOSE_PGTBL_INFO` tells.
///
/// Each of the first eight is a mask of one bit, or 0 in a kernel that lacks it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Linux {
    /// `PTE_WRITE`: may be written, now or after a fault. Architecturally DBM.
    pub write: u64,
    /// `PTE_DIRTY`: written, as software knows it.
    pub dirty: u64,
    /// `PTE_SPECIAL`: no `struct page` is to be touched for it.
    pub special: u64,
    /// `PTE_DEVMAP`: memory of a device.
    pub devmap: u64,
    /// `PTE_PROT_NONE`, in an entry that is not valid: the page is there, without access.
    pub prot_none: u64,
    /// `PMD_PRESENT_INVALID`, in an entry that is not valid: a block that is being split.
    pub present_invalid: u64,
    /// `PTE_SWP_EXCLUSIVE`, in a swap entry: the page belongs to this process alone.
    pub swap_exclusive: u64,
    /// Write-protected by userfaultfd.
    pub uffd_wp: u64,
    /// How swap entries are laid out.
    pub swap: SwapLayout,
}

/// Where the type and the offset are in a swap entry, and which types mean something else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SwapLayout {
    /// Lowest bit of the type.
    pub type_shift: u8,
    /// Width of the type, in bits.
    pub type_bits: u8,
    /// Lowest bit of the offset.
    pub offset_shift: u8,
    /// Width of the offset, in bits.
    pub offset_bits: u8,
    /// `SWP_HWPOISON`: the frame has a hardware error.
    pub hardware_poison: Option<u8>,
    /// `SWP_MIGRATION_READ`, followed by `_READ_EXCLUSIVE` and `_WRITE`: the frame is on its way.
    pub migration: Option<u8>,
    /// `SWP_DEVICE_WRITE` and three more: memory that only a device reaches.
    pub device: Option<u8>,
    /// `SWP_PTE_MARKER`: nothing but a mark.
    pub marker: Option<u8>,
}

/// What an entry is that is not valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absent {
    /// 0: never used, or cleared.
    Empty,
    /// A page or block without access (`PROT_NONE`), or a block that is being split: it is in memory.
    NoAccess {
        /// Its first frame.
        frame: FrameNumber,
    },
    /// In swap.
    Swap {
        /// Number of the swap area.
        area: u8,
        /// Page in the area.
        offset: u64,
        /// Whether it belongs to this process alone.
        exclusive: bool,
    },
    /// On its way to another frame.
    Migration {
        /// Where it was.
        frame: FrameNumber,
        /// Whether it may be written.
        writable: bool,
    },
    /// A frame with a hardware error.
    HardwarePoison {
        /// The frame.
        frame: FrameNumber,
    },
    /// Memory that only a device reaches.
    Device {
        /// Its frame.
        frame: FrameNumber,
    },
    /// A mark and no page (`pte_marker`).
    Marker {
        /// What is marked: bit 0 for userfaultfd write protection.
        marks: u64,
    },
    /// None of these.
    Unknown,
}

impl Linux {
    /// Linux 6.1: `arch/arm64/include/asm/pgtable-prot.h` and `pgtable.h`, with every kind of swap
    /// entry configured. For tests and documentation; a live kernel tells its own.
    pub const V6_1: Self = Self {
        write: 1 << 51,
        dirty: 1 << 55,
        special: 1 << 56,
        devmap: 1 << 57,
        prot_none: 1 << 58,
        present_invalid: 1 << 59,
        swap_exclusive: 1 << 2,
        uffd_wp: 0,
        swap: SwapLayout {
            type_shift: 3,
            type_bits: 5,
            offset_shift: 8,
            offset_bits: 50,
            hardware_poison: Some(23),
            migration: Some(24),
            device: Some(27),
            marker: Some(31),
        },
    };

    /// Linux 6.12, with every kind of swap entry configured. Entries that are present but not valid have
    /// bit 11 since 6.10.
    pub const V6_12: Self = Self {
        prot_none: 1 << 11,
        present_invalid: 1 << 11,
        uffd_wp: 1 << 58,
        swap: SwapLayout {
            type_shift: 6,
            type_bits: 5,
            offset_shift: 12,
            offset_bits: 50,
            ..Self::V6_1.swap
        },
        ..Self::V6_1
    };

    /// What the version of a kernel says, for one that does not tell more. Which types of swap entries
    /// mean something else depends on its configuration, and is left out.
    #[must_use]
    pub const fn of_version(major: u32, minor: u32) -> Self {
        let mut linux = if major > 6 || (major == 6 && minor >= 10) {
            Self::V6_12
        } else {
            Self::V6_1
        };
        linux.swap.hardware_poison = None;
        linux.swap.migration = None;
        linux.swap.device = None;
        linux.swap.marker = None;
        linux
    }

    /// Whether the page may be written, now or after a fault (`pte_write`).
    #[inline]
    #[must_use]
    pub const fn is_writable(&self, descriptor: Descriptor) -> bool {
        descriptor.0 & self.write != 0
    }

    /// Whether the page was written: as software knows it, or because hardware, which manages the
    /// dirty state, has made it writable (`pte_dirty`).
    #[inline]
    #[must_use]
    pub const fn is_dirty(&self, descriptor: Descriptor) -> bool {
        descriptor.0 & self.dirty != 0
            || (self.is_writable(descriptor) && !descriptor.is_read_only())
    }

    /// Whether no `struct page` is to be touched for the page (`pte_special`): the page of zeros,
    /// memory of a device, a table that is mapped.
    #[inline]
    #[must_use]
    pub const fn is_special(&self, descriptor: Descriptor) -> bool {
        descriptor.0 & self.special != 0
    }

    /// Whether the page is memory of a device that has a `struct page` (`pte_devmap`).
    #[inline]
    #[must_use]
    pub const fn is_devmap(&self, descriptor: Descriptor) -> bool {
        descriptor.0 & self.devmap != 0
    }

    /// Whether userfaultfd has write-protected the page.
    #[inline]
    #[must_use]
    pub const fn is_uffd_wp(&self, descriptor: Descriptor) -> bool {
        descriptor.0 & self.uffd_wp != 0
    }

    /// Whether there is a page in memory, with or without access (`pte_present`, `pmd_present`).
    #[inline]
    #[must_use]
    pub const fn is_present(&self, descriptor: Descriptor) -> bool {
        descriptor.is_valid() || self.is_no_access(descriptor)
    }

    /// As [`Linux::is_present`], for a descriptor that is not valid.
    const fn is_no_access(&self, descriptor: Descriptor) -> bool {
        !descriptor.is_valid() && descriptor.0 & (self.prot_none | self.present_invalid) != 0
    }

    /// What an entry of `level` is that hardware takes for invalid.
    #[must_use]
    pub const fn absent(
        &self,
        descriptor: Descriptor,
        geometry: &Geometry,
        level: Level,
    ) -> Absent {
        if descriptor.0 == 0 {
            return Absent::Empty;
        }
        if self.is_no_access(descriptor) {
            let frame = descriptor.output_address(geometry, level).frame(geometry);
            return Absent::NoAccess { frame };
        }
        // Bits 1:0 are 0 in what Linux writes.
        if descriptor.0 & 0b11 != 0 {
            return Absent::Unknown;
        }
        self.swap_entry(descriptor, geometry)
    }

    const fn swap_entry(&self, descriptor: Descriptor, geometry: &Geometry) -> Absent {
        let swap = &self.swap;
        let kind = swap.kind(descriptor);
        let offset = swap.offset(descriptor);
        // `SWP_PFN_BITS`: above are the accessed and dirty state of a page that migrates.
        let frame = FrameNumber(offset & low_bits(geometry.oa_bits() - geometry.page_shift()));
        if is(swap.marker, kind, 1) {
            return Absent::Marker { marks: offset };
        }
        if is(swap.device, kind, 4) {
            return Absent::Device { frame };
        }
        if is(swap.migration, kind, 3) {
            let writable = !is(swap.migration, kind, 2);
            return Absent::Migration { frame, writable };
        }
        if is(swap.hardware_poison, kind, 1) {
            return Absent::HardwarePoison { frame };
        }
        Absent::Swap {
            area: kind,
            offset,
            exclusive: descriptor.0 & self.swap_exclusive != 0,
        }
    }

    /// Bits of which an entry has one at least if there is a page behind it.
    pub(crate) const fn present_bits(&self) -> u64 {
        Descriptor::VALID | self.prot_none | self.present_invalid
    }

    /// The bits in which entries without a page are equal that are of the same kind.
    pub(crate) const fn absent_bits(&self) -> u64 {
        let kind = low_bits(self.swap.type_bits as u32);
        let kind = match kind.checked_shl(self.swap.type_shift as u32) {
            Some(kind) => kind,
            None => 0,
        };
        0b11 | kind | self.present_bits()
    }
}

impl SwapLayout {
    /// The type of a swap entry.
    #[expect(clippy::cast_possible_truncation, reason = "at most 8 bits wide")]
    #[must_use]
    pub const fn kind(&self, descriptor: Descriptor) -> u8 {
        field(descriptor, self.type_shift, self.type_bits) as u8
    }

    /// The offset of a swap entry, of whatever type.
    #[must_use]
    pub const fn offset(&self, descriptor: Descriptor) -> u64 {
        field(descriptor, self.offset_shift, self.offset_bits)
    }
}

/// Whether `kind` is one of the `count` types from `first` on.
const fn is(first: Option<u8>, kind: u8, count: u8) -> bool {
    match first {
        Some(first) => kind >= first && kind - first < count,
        None => false,
    }
}

/// `bits` ones.
const fn low_bits(bits: u32) -> u64 {
    match 1_u64.checked_shl(bits) {
        Some(end) => end - 1,
        None => u64::MAX,
    }
}

const fn field(descriptor: Descriptor, shift: u8, bits: u8) -> u64 {
    match descriptor.0.checked_shr(shift as u32) {
        Some(word) => word & low_bits(bits as u32),
        None => 0,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic fails the test")]
mod tests {
    use super::*;

    #[test]
    fn a_layout_that_makes_no_sense_is_no_layout() {
        let mut linux = LINUX;
        linux.swap.type_shift = 64;
        assert_eq!(linux.absent_bits(), 0b11 | linux.present_bits());
        assert_eq!(linux.swap.kind(Descriptor(u64::MAX)), 0);
        linux.swap.offset_shift = 255;
        assert_eq!(linux.swap.offset(Descriptor(u64::MAX)), 0);
    }

    const LINUX: Linux = Linux::V6_1;

    fn absent(word: u64) -> Absent {
        let geometry = Geometry::new(12, 39, 48).unwrap();
        LINUX.absent(Descriptor(word), &geometry, Level::L3)
    }

    /// `__swp_entry` of arch/arm64/include/asm/pgtable.h.
    fn entry(kind: u64, offset: u64) -> u64 {
        kind << 3 | offset << 8
    }

    #[test]
    fn dirty_and_present_are_as_linux_says() {
        // The table above `__check_racy_pte_update` in arch/arm64/include/asm/pgtable.h.
        let (read_only, write, dirty) = (Descriptor::AP_READ_ONLY, LINUX.write, LINUX.dirty);
        assert!(!LINUX.is_dirty(Descriptor(read_only)));
        assert!(!LINUX.is_dirty(Descriptor(read_only | write)));
        assert!(LINUX.is_dirty(Descriptor(read_only | dirty)));
        assert!(LINUX.is_dirty(Descriptor(write)));
        assert!(LINUX.is_dirty(Descriptor(write | dirty)));
        assert!(LINUX.is_present(Descriptor(Descriptor::VALID)));
        assert!(LINUX.is_present(Descriptor(LINUX.prot_none)));
        assert!(LINUX.is_present(Descriptor(LINUX.present_invalid)));
        assert!(!LINUX.is_present(Descriptor(0b10)));
    }

    #[test]
    fn every_type_of_swap_entry_is_told_from_the_others() {
        let frame = FrameNumber(0x1234);
        assert_eq!(absent(0), Absent::Empty);
        let swap = Absent::Swap {
            area: 2,
            offset: 0x1234,
            exclusive: true,
        };
        assert_eq!(absent(entry(2, 0x1234) | 1 << 2), swap);
        assert_eq!(absent(entry(23, 0x1234)), Absent::HardwarePoison { frame });
        for (kind, writable) in [(24, false), (25, false), (26, true)] {
            // With the accessed and dirty state above the frame number.
            let word = entry(kind, 0b11 << 36 | 0x1234);
            assert_eq!(absent(word), Absent::Migration { frame, writable });
        }
        for kind in 27..=30 {
            assert_eq!(absent(entry(kind, 0x1234)), Absent::Device { frame });
        }
        assert_eq!(absent(entry(31, 1)), Absent::Marker { marks: 1 });
        assert_eq!(
            absent(0x1234_5000 | LINUX.prot_none),
            Absent::NoAccess {
                frame: FrameNumber(0x12345)
            }
        );
        assert_eq!(absent(0b10), Absent::Unknown);
    }

    #[test]
    fn a_kernel_without_a_kind_uses_its_type_for_swap() {
        let mut linux = LINUX;
        linux.swap.hardware_poison = None;
        let geometry = Geometry::new(12, 39, 48).unwrap();
        let found = linux.absent(Descriptor(entry(23, 5)), &geometry, Level::L3);
        let swap = Absent::Swap {
            area: 23,
            offset: 5,
            exclusive: false,
        };
        assert_eq!(found, swap);
    }
}
