//! The bits of descriptors that hardware ignores and Linux uses.

use crate::{Access, Descriptor, FrameNumber, Geometry, Level, Limits, Permissions};

/// The bits of a descriptor that hardware ignores and Linux uses, and the layout of entries that are not
/// valid. Differs between versions and configurations; `EXPOSE_PGTBL_INFO` returns it.
///
/// Each of the first eight is a mask of one bit, or 0 in a kernel that lacks it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Linux {
    /// `PTE_WRITE`: may be written, now or after a fault. Architecturally DBM.
    pub write: u64,
    /// `PTE_DIRTY`: the software dirty bit.
    pub dirty: u64,
    /// `PTE_SPECIAL`: the kernel must not use a `struct page` for it.
    pub special: u64,
    /// `PTE_DEVMAP`: memory of a device.
    pub devmap: u64,
    /// `PTE_PROT_NONE`, in an entry that is not valid: the page is present, without access.
    pub prot_none: u64,
    /// `PMD_PRESENT_INVALID`, in an entry above level 3 that is not valid: a block that is being split.
    pub present_invalid: u64,
    /// `PTE_SWP_EXCLUSIVE`, in a swap entry: the page belongs to this process alone.
    pub swap_exclusive: u64,
    /// Write-protected by userfaultfd.
    pub uffd_wp: u64,
    /// The layout of swap entries.
    pub swap: SwapLayout,
    /// `PTE_PO_IDX_MASK`, three bits: the permission overlay index, to Linux a protection key; 0 on a CPU or
    /// kernel without overlays (`HWCAP2_POE`).
    pub overlay: u64,
    /// Whether pages can be a guarded control stack (`HWCAP_GCS`). Their permissions are then an index into
    /// `PIRE0_EL1`, of which only the values for such stacks differ from the direct permissions.
    pub gcs: bool,
}

/// The positions of type and offset in a swap entry, and the types with a special meaning.
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
    /// `SWP_MIGRATION_READ`, followed by `_READ_EXCLUSIVE` and `_WRITE`: the page is being migrated.
    pub migration: Option<u8>,
    /// `SWP_DEVICE_WRITE` and three more: device-private memory.
    pub device: Option<u8>,
    /// `SWP_PTE_MARKER`: a marker without a page.
    pub marker: Option<u8>,
    /// The number of highest types whose meaning is not known; 0 if the fields above are complete.
    pub unknown_types: u8,
}

/// The kind of an entry that is not valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absent {
    /// 0: never used, or cleared.
    Empty,
    /// A page or block in memory, without access (`PROT_NONE`) or while the block is being split.
    NoAccess {
        /// Its first frame.
        frame: FrameNumber,
    },
    /// In swap.
    Swap {
        /// Number of the swap area.
        area: u8,
        /// Number of the page in the area.
        offset: u64,
        /// Whether it belongs only to this process.
        exclusive: bool,
    },
    /// Being migrated to another frame.
    Migration {
        /// The old frame.
        frame: FrameNumber,
        /// Whether it may be written.
        writable: bool,
    },
    /// A frame with a hardware error.
    HardwarePoison {
        /// The frame.
        frame: FrameNumber,
    },
    /// Device-private memory.
    Device {
        /// Its frame.
        frame: FrameNumber,
    },
    /// A marker without a page (`pte_marker`).
    Marker {
        /// The marker bits: bit 0 is userfaultfd write protection.
        marks: u64,
    },
    /// None of these.
    Unknown,
}

impl Linux {
    /// Linux 6.1: `arch/arm64/include/asm/pgtable-prot.h` and `pgtable.h`, with every kind of swap entry
    /// configured; `include/linux/swap.h` counts them down from the last type, 31, which is
    /// `SWP_SWAPIN_ERROR`. For tests and documentation; a live kernel reports its own.
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
            hardware_poison: Some(22),
            migration: Some(23),
            device: Some(26),
            marker: Some(30),
            unknown_types: 0,
        },
        overlay: 0,
        gcs: false,
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

    /// Returns the layout by kernel version, for a kernel that does not report it.
    ///
    /// The configuration decides which of the highest types of swap entries have a special meaning, except
    /// for markers, which are the last type since 6.6 (`SWP_PTE_MARKER`, `include/linux/swap.h`). No kernel
    /// has fewer than 22 for swap areas.
    #[must_use]
    pub const fn of_version(major: u32, minor: u32) -> Self {
        let version = major * 100 + minor;
        let mut linux = if version >= 610 {
            Self::V6_12
        } else {
            Self::V6_1
        };
        if version < 519 {
            // Without `PTE_SWP_EXCLUSIVE`, and with a type field that is wider than the numbers of areas.
            linux.swap_exclusive = 0;
            linux.swap.type_shift = 2;
            linux.swap.type_bits = 6;
        }
        if version >= 617 {
            linux.devmap = 0;
        }
        linux.swap.hardware_poison = None;
        linux.swap.migration = None;
        linux.swap.device = None;
        linux.swap.marker = if version >= 606 { Some(31) } else { None };
        linux.swap.unknown_types = (1 << linux.swap.type_bits) - 22;
        linux
    }

    /// Returns whether the page may be written, now or after a fault (`pte_write`).
    #[inline]
    #[must_use]
    pub const fn is_writable(&self, descriptor: Descriptor) -> bool {
        descriptor.0 & self.write != 0
    }

    /// Returns whether the page is dirty: by the software bit, or because hardware that manages the dirty
    /// state has made it writable (`pte_dirty`).
    #[inline]
    #[must_use]
    pub const fn is_dirty(&self, descriptor: Descriptor) -> bool {
        descriptor.0 & self.dirty != 0
            || (self.is_writable(descriptor) && !descriptor.is_read_only())
    }

    /// Returns `leaf`, accessed or dirty also if `other` is.
    pub(crate) const fn with_state_of(&self, leaf: Descriptor, other: Descriptor) -> Descriptor {
        let mut word = leaf.0 | other.0 & Descriptor::AF;
        if self.is_dirty(other) {
            // `pte_mkdirty`.
            word |= self.dirty;
            if self.is_writable(leaf) {
                word &= !Descriptor::AP_READ_ONLY;
            }
        }
        Descriptor(word)
    }

    /// Returns whether the kernel must not use a `struct page` for the page (`pte_special`): the zero page,
    /// memory of a device, a table that is mapped.
    #[inline]
    #[must_use]
    pub const fn is_special(&self, descriptor: Descriptor) -> bool {
        descriptor.0 & self.special != 0
    }

    /// Returns whether the page is memory of a device that has a `struct page` (`pte_devmap`).
    #[inline]
    #[must_use]
    pub const fn is_devmap(&self, descriptor: Descriptor) -> bool {
        descriptor.0 & self.devmap != 0
    }

    /// Returns whether userfaultfd has write-protected the page.
    #[inline]
    #[must_use]
    pub const fn is_uffd_wp(&self, descriptor: Descriptor) -> bool {
        descriptor.0 & self.uffd_wp != 0
    }

    /// Returns the permission overlay index of a leaf, to Linux its protection key (pkeys(7)): `POR_EL0` may
    /// take accesses away from all pages with this key. 0 without overlays, and for pages without a key.
    #[must_use]
    pub const fn protection_key(&self, leaf: Descriptor) -> u8 {
        match self.overlay {
            0 => 0,
            #[expect(clippy::cast_possible_truncation, reason = "three bits")]
            mask => ((leaf.0 & mask) >> mask.trailing_zeros()) as u8,
        }
    }

    /// Returns whether a leaf is a page of a guarded control stack (`_PAGE_GCS` and `_PAGE_GCS_RO`,
    /// `arch/arm64/include/asm/pgtable-prot.h`).
    #[must_use]
    pub const fn is_gcs(&self, leaf: Descriptor) -> bool {
        self.gcs && leaf.is_user() && leaf.is_uxn() && !leaf.is_pxn()
    }

    /// Returns the permissions of a leaf like [`Permissions::new`], also for pages of a guarded control stack:
    /// user space reads them, only the instructions for such stacks write them, and the kernel has no access
    /// by this address. Without what `POR_EL0` takes away: see [`Linux::protection_key`].
    #[must_use]
    pub const fn permissions(&self, leaf: Descriptor, limits: Limits) -> Permissions {
        if self.is_gcs(leaf) {
            return Permissions {
                el0: Access::READ,
                el1: Access::NONE,
            };
        }
        Permissions::new(leaf, limits)
    }

    /// Returns whether an entry of `level` has a page or block in memory, with or without access
    /// (`pte_present`, `pmd_present`).
    #[inline]
    #[must_use]
    pub const fn is_present(&self, descriptor: Descriptor, level: Level) -> bool {
        descriptor.0 & self.present_bits(level) != 0
    }

    /// Like [`Linux::is_present`], for a descriptor that is not valid.
    const fn is_no_access(&self, descriptor: Descriptor, level: Level) -> bool {
        !descriptor.is_valid() && self.is_present(descriptor, level)
    }

    /// Returns the kind of an entry of `level` that is not valid to hardware.
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
        if self.is_no_access(descriptor, level) {
            let frame = descriptor.output_address(geometry, level).frame(geometry);
            return Absent::NoAccess { frame };
        }
        // Linux writes 0 to bits 1:0.
        if descriptor.0 & 0b11 != 0 {
            return Absent::Unknown;
        }
        self.swap_entry(descriptor, geometry)
    }

    const fn swap_entry(&self, descriptor: Descriptor, geometry: &Geometry) -> Absent {
        let swap = &self.swap;
        let kind = swap.kind(descriptor);
        let offset = swap.offset(descriptor);
        // `SWP_PFN_BITS`: the bits above are the accessed and dirty state of a page that is being migrated.
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
        if swap.is_behind_areas(kind) || swap.is_unknown(kind) {
            return Absent::Unknown;
        }
        Absent::Swap {
            area: kind,
            offset,
            exclusive: descriptor.0 & self.swap_exclusive != 0,
        }
    }

    /// Bits of which at least one is set in an entry of `level` with a page or block.
    pub(crate) const fn present_bits(&self, level: Level) -> u64 {
        let page = Descriptor::VALID | self.prot_none;
        match level {
            // `pte_present`. From 6.10 on both bits are one.
            Level::L3 => page,
            _ => page | self.present_invalid,
        }
    }

    /// The bits that are equal in entries without a page if their kind is the same.
    pub(crate) const fn absent_bits(&self, level: Level) -> u64 {
        let kind = low_bits(self.swap.type_bits as u32);
        let kind = match kind.checked_shl(self.swap.type_shift as u32) {
            Some(kind) => kind,
            None => 0,
        };
        0b11 | kind | self.present_bits(level)
    }
}

impl SwapLayout {
    /// Returns the type of a swap entry.
    #[expect(clippy::cast_possible_truncation, reason = "at most 8 bits wide")]
    #[must_use]
    pub const fn kind(&self, descriptor: Descriptor) -> u8 {
        field(descriptor, self.type_shift, self.type_bits) as u8
    }

    /// Returns whether `kind` is above a type with a special meaning, where swap areas never are: 6.1 has
    /// `SWP_SWAPIN_ERROR` there.
    const fn is_behind_areas(&self, kind: u8) -> bool {
        is_behind(self.hardware_poison, kind)
            || is_behind(self.migration, kind)
            || is_behind(self.device, kind)
            || is_behind(self.marker, kind)
    }

    /// Returns whether `kind` is one of the types whose meaning is not known.
    const fn is_unknown(&self, kind: u8) -> bool {
        low_bits(self.type_bits as u32) - (kind as u64) < self.unknown_types as u64
    }

    /// Returns the offset of a swap entry of any type.
    #[must_use]
    pub const fn offset(&self, descriptor: Descriptor) -> u64 {
        field(descriptor, self.offset_shift, self.offset_bits)
    }
}

/// Returns whether `kind` is one of the `count` types from `first` on.
const fn is(first: Option<u8>, kind: u8, count: u8) -> bool {
    match first {
        Some(first) => kind >= first && kind - first < count,
        None => false,
    }
}

const fn is_behind(first: Option<u8>, kind: u8) -> bool {
    match first {
        Some(first) => kind > first,
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
mod tests {
    use super::*;

    #[test]
    fn a_layout_that_makes_no_sense_is_no_layout() {
        let mut linux = LINUX;
        linux.swap.type_shift = 64;
        let (absent, present) = (linux.absent_bits(Level::L3), linux.present_bits(Level::L3));
        assert_eq!(absent, 0b11 | present);
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
        let present = |word, level| LINUX.is_present(Descriptor(word), level);
        for level in [Level::L2, Level::L3] {
            assert!(present(Descriptor::VALID, level));
            assert!(present(LINUX.prot_none, level));
            assert!(!present(0b10, level));
        }
        // `pmd_present` alone asks for it.
        assert!(present(LINUX.present_invalid, Level::L2));
        assert!(!present(LINUX.present_invalid, Level::L3));
    }

    #[test]
    fn a_control_stack_is_read_and_not_written() {
        let page = Descriptor(0x0048_0000_404c_7f43);
        let shown = |linux: &Linux, page| {
            let Permissions { el0, el1 } = linux.permissions(page, Limits::NONE);
            [el0, el1].map(|access| (access.read, access.write, access.execute))
        };
        let (read, all, none) = (
            (true, false, false),
            (true, true, false),
            (false, false, false),
        );
        // Without the extension they are the direct permissions.
        assert!(!LINUX.is_gcs(page));
        assert_eq!(shown(&LINUX, page), [all, all]);
        let with = Linux { gcs: true, ..LINUX };
        assert!(with.is_gcs(page));
        assert_eq!(shown(&with, page), [read, none]);
        // Write-protected, as after a fork; it has no read-only bit.
        let protected = Descriptor(page.0 & !LINUX.write);
        assert_eq!(shown(&with, protected), [read, none]);
        // Each of the bits that make it one.
        for bit in [Descriptor::AP_EL0, Descriptor::UXN, Descriptor::PXN] {
            assert!(!with.is_gcs(Descriptor(page.0 ^ bit)), "{bit:#x}");
        }
    }

    #[test]
    fn a_key_is_told_where_there_are_keys() {
        let page = Descriptor(0x30e8_0000_404c_7f43);
        assert_eq!(LINUX.protection_key(page), 0);
        let with = Linux {
            overlay: 0b111 << 60,
            ..LINUX
        };
        assert_eq!(with.protection_key(page), 3);
        assert_eq!(with.protection_key(Descriptor(page.0 | 1 << 62)), 7);
        assert_eq!(with.protection_key(Descriptor(0x8fff << 48)), 0);
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
        assert_eq!(absent(entry(22, 0x1234)), Absent::HardwarePoison { frame });
        for (kind, writable) in [(23, false), (24, false), (25, true)] {
            // With the accessed and dirty state above the frame number.
            let word = entry(kind, 0b11 << 36 | 0x1234);
            assert_eq!(absent(word), Absent::Migration { frame, writable });
        }
        for kind in 26..=29 {
            assert_eq!(absent(entry(kind, 0x1234)), Absent::Device { frame });
        }
        assert_eq!(absent(entry(30, 1)), Absent::Marker { marks: 1 });
        assert_eq!(
            absent(0x1234_5000 | LINUX.prot_none),
            Absent::NoAccess {
                frame: FrameNumber(0x12345)
            }
        );
        assert_eq!(absent(0b10), Absent::Unknown);
        // SWP_SWAPIN_ERROR
        assert_eq!(absent(entry(31, 0)), Absent::Unknown);
    }

    #[test]
    fn types_are_counted_as_the_kernel_counts_them() {
        // include/linux/swap.h of 6.1, with MEMORY_FAILURE, MIGRATION, DEVICE_PRIVATE and PTE_MARKER.
        const MAX_SWAPFILES_SHIFT: u8 = 5;
        const SWP_SWAPIN_ERROR_NUM: u8 = 1;
        const SWP_PTE_MARKER_NUM: u8 = 1;
        const SWP_DEVICE_NUM: u8 = 4;
        const SWP_MIGRATION_NUM: u8 = 3;
        const SWP_HWPOISON_NUM: u8 = 1;
        const MAX_SWAPFILES: u8 = (1 << MAX_SWAPFILES_SHIFT)
            - SWP_DEVICE_NUM
            - SWP_MIGRATION_NUM
            - SWP_HWPOISON_NUM
            - SWP_PTE_MARKER_NUM
            - SWP_SWAPIN_ERROR_NUM;
        let swap = LINUX.swap;
        assert_eq!(swap.type_bits, MAX_SWAPFILES_SHIFT);
        assert_eq!(swap.hardware_poison, Some(MAX_SWAPFILES));
        let migration = MAX_SWAPFILES + SWP_HWPOISON_NUM;
        assert_eq!(swap.migration, Some(migration));
        let device = migration + SWP_MIGRATION_NUM;
        assert_eq!(swap.device, Some(device));
        assert_eq!(swap.marker, Some(device + SWP_DEVICE_NUM));
    }

    #[test]
    fn a_corrupt_word_of_level_3_is_never_a_page_without_access() {
        // Bit 59 is set; to the kernel, type 1 and offset 0x207070a050609.
        let word = 0x0a07_070a_0506_090a;
        assert_eq!(LINUX.swap.kind(Descriptor(word)), 1);
        assert_eq!(LINUX.swap.offset(Descriptor(word)), 0x2_0707_0a05_0609);
        assert_eq!(absent(word), Absent::Unknown);
        assert!(matches!(absent(word & !0b11), Absent::Swap { area: 1, .. }));
        let geometry = Geometry::new(12, 39, 48).unwrap();
        let block = LINUX.absent(Descriptor(word & !0b11), &geometry, Level::L2);
        assert!(matches!(block, Absent::NoAccess { .. }));
    }

    #[test]
    fn one_word_is_read_with_the_layout_that_it_was_written_with() {
        // From 6.10 on: arch/arm64/include/asm/pgtable.h, `__SWP_TYPE_SHIFT` and the others.
        let mut later = LINUX;
        (later.prot_none, later.present_invalid) = (1 << 11, 1 << 11);
        later.swap.type_shift = 6;
        later.swap.offset_shift = 12;
        let geometry = Geometry::new(12, 39, 48).unwrap();
        let word = Descriptor(0x12bc_3e04);
        let swap = Absent::Swap {
            area: 0,
            offset: 1_227_838,
            exclusive: true,
        };
        assert_eq!(LINUX.absent(word, &geometry, Level::L3), swap);
        let frame = FrameNumber(0x12bc3);
        let there = Absent::NoAccess { frame };
        assert_eq!(later.absent(word, &geometry, Level::L3), there);
    }

    #[test]
    fn what_a_version_does_not_say_is_not_guessed() {
        let geometry = Geometry::new(12, 48, 48).unwrap();
        let of = |version: (u32, u32), word| {
            Linux::of_version(version.0, version.1).absent(Descriptor(word), &geometry, Level::L3)
        };
        // A page that the kernel has given up, and a guard page, as glibc 2.42 has in each stack.
        assert_eq!(of((6, 13), 0x27c0), Absent::Marker { marks: 2 });
        assert_eq!(of((6, 13), 0x47c0), Absent::Marker { marks: 4 });
        assert_eq!(of((6, 6), entry(31, 2)), Absent::Marker { marks: 2 });
        // In 6.1 it is `SWP_SWAPIN_ERROR`, and 30 is a marker where those are configured.
        for kind in 22..32 {
            assert_eq!(of((6, 1), entry(kind, 1)), Absent::Unknown, "{kind}");
            if kind < 31 {
                assert_eq!(of((6, 13), kind << 6 | 1 << 12), Absent::Unknown, "{kind}");
            }
        }
        let swap = |area, exclusive| Absent::Swap {
            area,
            offset: 5,
            exclusive,
        };
        assert_eq!(of((6, 1), entry(21, 5) | 1 << 2), swap(21, true));
        assert_eq!(of((7, 3), 21 << 6 | 5 << 12), swap(21, false));
        // `__SWP_TYPE_SHIFT` was 2 up to 5.18.
        assert_eq!(of((5, 19), entry(1, 5)), swap(1, false));
        assert_eq!(of((5, 18), 1 << 2 | 5 << 8), swap(1, false));
        assert_eq!(of((5, 10), 22 << 2 | 5 << 8), Absent::Unknown);
        let devmap = |major, minor| Linux::of_version(major, minor).devmap;
        assert_eq!(
            (devmap(6, 16), devmap(6, 17), devmap(7, 0)),
            (1 << 57, 0, 0)
        );
    }

    #[test]
    fn a_kernel_without_a_kind_uses_its_type_for_swap() {
        let mut linux = LINUX;
        linux.swap.hardware_poison = None;
        let geometry = Geometry::new(12, 39, 48).unwrap();
        let found = linux.absent(Descriptor(entry(22, 5)), &geometry, Level::L3);
        let swap = Absent::Swap {
            area: 22,
            offset: 5,
            exclusive: false,
        };
        assert_eq!(found, swap);
    }
}
