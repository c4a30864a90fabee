//! The 64-bit words of a table.
//!
//! Bit positions: Arm ARM DDI 0487, "VMSAv8-64 descriptor formats", with the names that
//! `arch/arm64/include/asm/pgtable-hwdef.h` of Linux has for them. The bits that hardware ignores and Linux
//! uses are in [`Linux`](crate::Linux).

use core::fmt;

use crate::{FrameNumber, Geometry, Level, PhysicalAddress};

/// A copy of a descriptor: any 64 bits.
///
/// # Examples
///
/// ```
/// use tablewalk_walker::{Descriptor, FrameNumber, Geometry, Kind, Level, Limits, Permissions};
///
/// let geometry = Geometry::new(12, 48, 48)?;
/// let stack = Descriptor(0x00e8_0000_404c_7f43);
/// assert_eq!(stack.kind(&geometry, Level::L3), Kind::Page);
/// let address = stack.output_address(&geometry, Level::L3);
/// assert_eq!(address.frame(&geometry), FrameNumber(0x404c7));
/// assert!(stack.is_accessed() && stack.is_dbm());
/// let access = Permissions::new(stack, Limits::NONE).el0;
/// assert!(access.read && access.write && !access.execute);
/// # Ok::<(), tablewalk_walker::GeometryError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Descriptor(pub u64);

/// The kind of a descriptor at its level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Invalid: a translation fault. Linux keeps swap entries and the like in the other bits.
    Invalid,
    /// Leads to a table of the next lower level.
    Table,
    /// Maps a block of memory.
    Block,
    /// Maps a page.
    Page,
}

/// Defines a named bit and a method that returns whether it is set.
macro_rules! bits {
    ($($(#[$doc:meta])* $name:ident $is:ident = $bit:literal;)*) => {
        impl Descriptor {
            $(
                $(#[$doc])*
                #[doc = concat!("\n\nBit ", stringify!($bit), ".")]
                pub const $name: u64 = 1 << $bit;

                #[doc = concat!("Whether [`Self::", stringify!($name), "`] is set.")]
                #[must_use]
                pub const fn $is(self) -> bool {
                    self.0 & Self::$name != 0
                }
            )*
        }
    };
}

bits! {
    /// The descriptor is valid.
    VALID is_valid = 0;
    /// AP\[1\]: accessible at EL0. Linux: `PTE_USER`.
    AP_EL0 is_user = 6;
    /// AP\[2\]: read-only. Linux: `PTE_RDONLY`.
    AP_READ_ONLY is_read_only = 7;
    /// AF, the access flag. Linux: `PTE_AF`.
    AF is_accessed = 10;
    /// nG: the translation belongs to one address space. Linux: `PTE_NG`.
    NG is_not_global = 11;
    /// GP: a page guarded by branch target identification. Linux: `PTE_GP`.
    GP is_guarded = 50;
    /// DBM, dirty bit modifier: a write may clear AP\[2\]. Linux: `PTE_WRITE`.
    DBM is_dbm = 51;
    /// Contiguous: one of a run of entries with contiguous output. Linux: `PTE_CONT`.
    CONTIGUOUS is_contiguous = 52;
    /// PXN: not executable at EL1. Linux: `PTE_PXN`.
    PXN is_pxn = 53;
    /// UXN: not executable at EL0. Linux: `PTE_UXN`.
    UXN is_uxn = 54;
    /// PXNTable: nothing below is executable at EL1.
    PXN_TABLE is_pxn_table = 59;
    /// XNTable, in tables of user space UXNTable: nothing below is executable at EL0.
    UXN_TABLE is_uxn_table = 60;
    /// APTable\[0\]: nothing below is accessible at EL0.
    AP_TABLE_NO_EL0 is_no_el0_table = 61;
    /// APTable\[1\]: nothing below is writable.
    AP_TABLE_READ_ONLY is_read_only_table = 62;
}

impl Descriptor {
    /// Zero: the value of an entry that was never used.
    pub const ZERO: Self = Self(0);

    /// Returns the kind of the descriptor in a table of `level`: a block only where the level can have
    /// blocks.
    #[inline]
    #[must_use]
    pub const fn kind(self, geometry: &Geometry, level: Level) -> Kind {
        match (self.0 & 0b11, level) {
            (0b11, Level::L3) => Kind::Page,
            (0b11, _) => Kind::Table,
            (0b01, _) if geometry.has_blocks(level) => Kind::Block,
            _ => Kind::Invalid,
        }
    }

    /// Returns the output address of a table descriptor: the address of the next table.
    #[inline]
    #[must_use]
    pub const fn next_table(self, geometry: &Geometry) -> FrameNumber {
        self.output_address(geometry, Level::L3).frame(geometry)
    }

    /// Returns the output address of a leaf of `level`: the address of its first byte.
    #[inline]
    #[must_use]
    pub const fn output_address(self, geometry: &Geometry, level: Level) -> PhysicalAddress {
        AddressBits::new(geometry, level).address(self)
    }

    /// AttrIndx\[2:0\], bits 4:2: selects the byte of `MAIR_EL1` with the memory type.
    #[must_use]
    pub const fn attr_index(self) -> u8 {
        (self.0 >> 2 & 0b111) as u8
    }

    /// SH\[1:0\], bits 9:8: 0 non-shareable, 2 outer shareable, 3 inner shareable. With `FEAT_LPA2` there is
    /// no such field, and Linux sets TCR_EL1.SH0 to inner shareable.
    #[must_use]
    pub const fn shareability(self, geometry: &Geometry) -> u8 {
        if geometry.is_lpa2() {
            return 3;
        }
        (self.0 >> 8 & 0b11) as u8
    }
}

/// The position of the output address in a descriptor, for one level of one geometry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddressBits {
    low: u64,
    /// Mask of the upper address bits that are stored at lower positions, and the distance.
    high: u64,
    shift: u32,
}

impl AddressBits {
    pub(crate) const fn new(geometry: &Geometry, level: Level) -> Self {
        let (top, high, shift) = if geometry.is_lpa2() {
            // Bits 9:8 are OA[51:50].
            (50, 0b11 << 8, 42)
        } else if geometry.oa_bits() == 52 {
            // Bits 15:12 are OA[51:48].
            (48, 0xf << 12, 36)
        } else {
            (48, 0, 0)
        };
        // From bit n on, where 2^n is the number of bytes that the descriptor maps.
        let low = ((1 << top) - 1) & !(geometry.entry_size(level) - 1);
        Self { low, high, shift }
    }

    /// The bits of the output address, as a mask.
    pub(crate) const fn mask(self) -> u64 {
        self.low | self.high
    }

    #[inline(always)]
    pub(crate) const fn address(self, descriptor: Descriptor) -> PhysicalAddress {
        PhysicalAddress(descriptor.0 & self.low | (descriptor.0 & self.high) << self.shift)
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor({:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [Level; 4] = [Level::L0, Level::L1, Level::L2, Level::L3];

    fn geometry(page_shift: u32, va_bits: u32, oa_bits: u32) -> Geometry {
        Geometry::new(page_shift, va_bits, oa_bits).unwrap()
    }

    #[test]
    fn the_low_two_bits_and_the_level_make_the_kind() {
        use Kind::{Block, Invalid, Page, Table};
        for (page_shift, va_bits, oa_bits, blocks) in [
            (12, 48, 48, [Invalid, Block, Block, Invalid]),
            (14, 48, 48, [Invalid, Invalid, Block, Invalid]),
            (16, 48, 48, [Invalid, Invalid, Block, Invalid]),
            (16, 52, 52, [Invalid, Block, Block, Invalid]),
            (12, 52, 52, [Block, Block, Block, Invalid]),
            (14, 52, 52, [Invalid, Block, Block, Invalid]),
        ] {
            let geometry = geometry(page_shift, va_bits, oa_bits);
            let kinds = |bits| LEVELS.map(|level| Descriptor(bits).kind(&geometry, level));
            assert_eq!(kinds(!0b11), [Invalid; 4]);
            assert_eq!(kinds(0b10), [Invalid; 4]);
            assert_eq!(kinds(0b01), blocks, "{page_shift} {oa_bits}");
            assert_eq!(kinds(0b11), [Table, Table, Table, Page]);
        }
    }

    #[test]
    fn output_addresses_are_cut_to_what_the_descriptor_maps() {
        let all = Descriptor(!0);
        let g = geometry(12, 39, 48);
        assert_eq!(all.output_address(&g, Level::L3).0, 0xffff_ffff_f000);
        assert_eq!(all.output_address(&g, Level::L2).0, 0xffff_ffe0_0000);
        assert_eq!(all.output_address(&g, Level::L1).0, 0xffff_c000_0000);
        let g = geometry(14, 47, 48);
        assert_eq!(all.output_address(&g, Level::L3).0, 0xffff_ffff_c000);
        assert_eq!(all.output_address(&g, Level::L2).0, 0xffff_fe00_0000);
        let g = geometry(16, 42, 48);
        assert_eq!(all.output_address(&g, Level::L3).0, 0xffff_ffff_0000);
        assert_eq!(all.output_address(&g, Level::L2).0, 0xffff_e000_0000);
    }

    #[test]
    fn bits_15_to_12_are_the_top_of_a_52_bit_address() {
        let g = geometry(16, 52, 52);
        let descriptor = Descriptor(0x1234_5678_a003);
        assert_eq!(
            descriptor.output_address(&g, Level::L3).0,
            0xa_1234_5678_0000
        );
        assert_eq!(
            descriptor.output_address(&g, Level::L2).0,
            0xa_1234_4000_0000
        );
        assert_eq!(descriptor.next_table(&g), FrameNumber(0xa_1234_5678));
        let g = geometry(16, 48, 48);
        assert_eq!(descriptor.output_address(&g, Level::L3).0, 0x1234_5678_0000);
    }

    #[test]
    fn bits_9_and_8_are_the_top_of_a_52_bit_address_of_small_granules() {
        let g = geometry(12, 48, 52);
        let page = Descriptor(0xa793);
        assert_eq!(page.output_address(&g, Level::L3).0, 0xc_0000_0000_a000);
        let block = Descriptor(0x600_0000_0791);
        assert_eq!(block.kind(&g, Level::L0), Kind::Block);
        assert_eq!(block.output_address(&g, Level::L0).0, 0xc_0600_0000_0000);
        // Reserved with 48-bit output addresses, as a block at level -1 is.
        assert_eq!(block.kind(&geometry(12, 48, 48), Level::L0), Kind::Invalid);
        let g = geometry(12, 52, 52);
        assert_eq!(block.kind(&g, Level::LMinus1), Kind::Invalid);
        assert_eq!(
            Descriptor(!0).output_address(&g, Level::L3).0,
            0xf_ffff_ffff_f000
        );
    }

    #[test]
    fn fields_are_where_the_arm_arm_has_them() {
        assert_eq!(Descriptor(0b111 << 2).attr_index(), 7);
        assert_eq!(Descriptor(!(0b111 << 2)).attr_index(), 0);
        let g = geometry(12, 48, 48);
        assert_eq!(Descriptor(0b11 << 8).shareability(&g), 3);
        assert_eq!(Descriptor(!(0b11 << 8)).shareability(&g), 0);
        assert_eq!(Descriptor(0).shareability(&geometry(12, 52, 52)), 3);
        assert!(Descriptor(1 << 6).is_user() && Descriptor(1 << 7).is_read_only());
        assert!(Descriptor(1 << 10).is_accessed() && Descriptor(1 << 11).is_not_global());
        assert!(Descriptor(1 << 50).is_guarded() && Descriptor(1 << 52).is_contiguous());
        assert!(Descriptor(1 << 53).is_pxn() && Descriptor(1 << 54).is_uxn());
        assert!(Descriptor(1 << 51).is_dbm());
        assert!(Descriptor(1 << 59).is_pxn_table() && Descriptor(1 << 60).is_uxn_table());
        assert!(Descriptor(1 << 61).is_no_el0_table() && Descriptor(1 << 62).is_read_only_table());
    }
}
