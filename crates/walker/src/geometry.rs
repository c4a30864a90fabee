//! The shape of a tree: granule, address widths, levels.

use core::fmt;
use core::ops::Range;

use crate::{Level, VirtualAddress};

/// log2 of the bytes of a descriptor.
const DESCRIPTOR_SHIFT: u32 = 3;

/// The shape of the page tables of a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Geometry {
    page_shift: u32,
    va_bits: u32,
    oa_bits: u32,
    root_level: Level,
    /// Whether the tables translate the upper half of the address space.
    upper: bool,
}

/// The reason why numbers are not the geometry of an arm64 Linux.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GeometryError {
    /// No granule has this page shift: it is 12, 14 or 16.
    PageShift(u32),
    /// Tables do not translate that many bits: it is 36 to 52, and with the smaller granules only to 48
    /// unless output addresses have 52.
    VaBits {
        /// log2 of the granule in bytes.
        page_shift: u32,
        /// The width that is out of range.
        va_bits: u32,
    },
    /// Descriptors do not hold that many address bits: it is 48 or 52.
    OaBits {
        /// log2 of the granule in bytes.
        page_shift: u32,
        /// The width that is neither.
        oa_bits: u32,
    },
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PageShift(page_shift) => write!(f, "page shift {page_shift}: no such granule"),
            Self::VaBits {
                page_shift,
                va_bits,
            } => write!(f, "{va_bits} VA bits with page shift {page_shift}"),
            Self::OaBits {
                page_shift,
                oa_bits,
            } => write!(
                f,
                "{oa_bits} output address bits with page shift {page_shift}"
            ),
        }
    }
}

impl core::error::Error for GeometryError {}

impl Geometry {
    /// Returns the geometry with pages of 2^`page_shift` bytes, user addresses of `va_bits` bits, and output
    /// addresses of `oa_bits` bits.
    ///
    /// # Errors
    ///
    /// [`GeometryError::PageShift`], [`GeometryError::OaBits`], [`GeometryError::VaBits`], checked in
    /// this order.
    ///
    /// # Examples
    ///
    /// ```
    /// use tablewalk_walker::{Geometry, GeometryError, Level, VirtualAddress};
    ///
    /// let geometry = Geometry::new(16, 52, 52)?;
    /// assert_eq!(geometry.root_level(), Level::L1);
    /// assert_eq!(geometry.index(Level::L3, VirtualAddress(0x7_0000)), 7);
    /// assert_eq!(Geometry::new(13, 48, 48), Err(GeometryError::PageShift(13)));
    /// # Ok::<(), GeometryError>(())
    /// ```
    pub const fn new(page_shift: u32, va_bits: u32, oa_bits: u32) -> Result<Self, GeometryError> {
        if !matches!(page_shift, 12 | 14 | 16) {
            return Err(GeometryError::PageShift(page_shift));
        }
        if oa_bits != 48 && oa_bits != 52 {
            return Err(GeometryError::OaBits {
                page_shift,
                oa_bits,
            });
        }
        // With the 64K granule 52 bits need FEAT_LVA; with the smaller ones FEAT_LPA2, together with 52-bit
        // output addresses (TCR_EL1.DS).
        let widest = if page_shift == 16 || oa_bits == 52 {
            52
        } else {
            48
        };
        if va_bits < 36 || va_bits > widest {
            return Err(GeometryError::VaBits {
                page_shift,
                va_bits,
            });
        }
        // ARM64_HW_PGTABLE_LEVELS, arch/arm64/include/asm/pgtable-hwdef.h
        let root_level = match (va_bits - 4) / (page_shift - DESCRIPTOR_SHIFT) {
            2 => Level::L2,
            3 => Level::L1,
            4 => Level::L0,
            _ => Level::LMinus1,
        };
        Ok(Self {
            page_shift,
            va_bits,
            oa_bits,
            root_level,
            upper: false,
        })
    }

    /// Returns the same shape for the tables of the kernel, which translate the upper half: addresses whose
    /// bits above [`Geometry::va_bits`] are ones.
    #[must_use]
    pub const fn of_kernel(self) -> Self {
        Self {
            upper: true,
            ..self
        }
    }

    /// Returns whether these are the tables of the kernel.
    #[must_use]
    pub const fn is_kernel(&self) -> bool {
        self.upper
    }

    /// Returns the lowest address that the tables translate.
    #[must_use]
    pub const fn base(&self) -> VirtualAddress {
        VirtualAddress(if self.upper { !0 << self.va_bits } else { 0 })
    }

    /// Returns log2 of the translation granule in bytes, which is the page size.
    #[inline]
    #[must_use]
    pub const fn page_shift(&self) -> u32 {
        self.page_shift
    }

    /// Bytes of a page.
    #[inline]
    #[must_use]
    pub const fn page_size(&self) -> u64 {
        1 << self.page_shift
    }

    /// Returns the number of bits of a user address.
    #[inline]
    #[must_use]
    pub const fn va_bits(&self) -> u32 {
        self.va_bits
    }

    /// Returns the number of bits of an output address. With 52, bits 15:12 of a descriptor are its bits
    /// 51:48 (64K granule), or bits 9:8 are its bits 51:50 (the others).
    #[inline]
    #[must_use]
    pub const fn oa_bits(&self) -> u32 {
        self.oa_bits
    }

    /// Returns the initial lookup level.
    #[inline]
    #[must_use]
    pub const fn root_level(&self) -> Level {
        self.root_level
    }

    /// Returns the number of lookup levels, 2 to 5.
    #[inline]
    #[must_use]
    pub const fn levels(&self) -> u8 {
        (4 - self.root_level.number()).cast_unsigned()
    }

    /// Returns the Linux name of tables of `level`: the root is the PGD and level 3 the PTE; of the levels
    /// between, the lower is the PMD and the upper the PUD.
    #[must_use]
    pub const fn level_name(&self, level: Level) -> &'static str {
        match level {
            Level::L3 => "PTE",
            _ if level.number() == self.root_level.number() => "PGD",
            Level::L2 => "PMD",
            Level::L1 => "PUD",
            Level::L0 => "P4D",
            Level::LMinus1 => "PGD",
        }
    }

    /// Returns how many levels `level` is below the root; 0 for levels above the root, too.
    #[inline]
    #[must_use]
    pub const fn depth(&self, level: Level) -> usize {
        level.index().saturating_sub(self.root_level.index())
    }

    /// Returns whether descriptors have the format of `FEAT_LPA2` (TCR_EL1.DS): bits 9:8 belong to the
    /// address, and the shareability of all memory is in TCR_EL1.
    #[inline]
    #[must_use]
    pub const fn is_lpa2(&self) -> bool {
        self.page_shift < 16 && self.oa_bits == 52
    }

    /// Returns log2 of the bytes that one entry of `level` translates.
    #[inline]
    #[must_use]
    pub const fn level_shift(&self, level: Level) -> u32 {
        let below = (Level::L3.number() - level.number()).unsigned_abs() as u32;
        let shift = self.page_shift + below * self.table_shift();
        // With 64K pages, which have no level -1, that level would translate more than 2^64 bytes.
        if shift < u64::BITS {
            shift
        } else {
            u64::BITS - 1
        }
    }

    /// Bytes that one entry of `level` translates.
    #[inline]
    #[must_use]
    pub const fn entry_size(&self, level: Level) -> u64 {
        1 << self.level_shift(level)
    }

    /// Returns the number of descriptors in a table of `level`: a page full of them, except in the root; 1
    /// above the root, where there are no tables.
    #[inline]
    #[must_use]
    pub const fn entries(&self, level: Level) -> usize {
        1 << self
            .span_shift(level)
            .saturating_sub(self.level_shift(level))
    }

    /// Returns log2 of the bytes that a whole table of `level` translates.
    #[inline]
    #[must_use]
    pub const fn span_shift(&self, level: Level) -> u32 {
        let full = self.level_shift(level) + self.table_shift();
        if full < self.va_bits {
            full
        } else {
            self.va_bits
        }
    }

    /// Bytes that a whole table of `level` translates.
    #[inline]
    #[must_use]
    pub const fn table_span(&self, level: Level) -> u64 {
        1 << self.span_shift(level)
    }

    /// Returns whether `address` is in the range that the tables translate.
    #[inline]
    #[must_use]
    pub const fn contains(&self, address: VirtualAddress) -> bool {
        (address.0 ^ self.base().0) >> self.va_bits == 0
    }

    /// Returns the index of the entry that translates `address` in a table of `level`; less than
    /// `entries(level)`.
    #[inline]
    #[must_use]
    pub const fn index(&self, level: Level, address: VirtualAddress) -> usize {
        // The mask leaves at most 13 bits.
        #[expect(clippy::cast_possible_truncation, reason = "masked")]
        let low = (address.0 >> self.level_shift(level)) as usize;
        low & (self.entries(level) - 1)
    }

    /// Returns whether descriptors of `level` can be blocks: the encoding is reserved where a block would
    /// need more address bits than there are (Arm ARM DDI 0487, "VMSAv8-64 Block descriptor").
    #[inline]
    #[must_use]
    pub const fn has_blocks(&self, level: Level) -> bool {
        match level {
            Level::LMinus1 | Level::L3 => false,
            Level::L0 => self.page_shift == 12 && self.oa_bits == 52,
            Level::L1 => self.page_shift == 12 || self.oa_bits == 52,
            Level::L2 => true,
        }
    }

    /// Returns the number of entries of `level` that one TLB entry can cover if each has the Contiguous bit
    /// (Arm ARM DDI 0487, shared pseudocode, `ContiguousSize`); 1 where the bit has no meaning.
    #[must_use]
    pub const fn contiguous_entries(&self, level: Level) -> usize {
        match (self.page_shift, level) {
            (12, Level::L1 | Level::L2 | Level::L3) => 16,
            (14, Level::L3) => 128,
            (_, Level::L2 | Level::L3) => 32,
            _ => 1,
        }
    }

    /// Returns the indices of the entries that can be contiguous with the one at `index`.
    pub(crate) const fn contiguous_block(&self, level: Level, index: usize) -> Range<usize> {
        let entries = self.contiguous_entries(level);
        let first = index & !(entries - 1);
        first..first + entries
    }

    /// Returns log2 of the number of descriptors in a page.
    #[inline]
    const fn table_shift(&self) -> u32 {
        self.page_shift - DESCRIPTOR_SHIFT
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
    fn every_kernel_configuration_has_its_shape() {
        let shifts_4k = [39, 30, 21, 12];
        let shifts_16k = [47, 36, 25, 14];
        let shifts_64k = [55, 42, 29, 16];
        for (page_shift, va_bits, oa_bits, root_level, root_entries, shifts) in [
            (12, 39, 48, Level::L1, 512, shifts_4k),
            (12, 48, 48, Level::L0, 512, shifts_4k),
            (14, 36, 48, Level::L2, 2048, shifts_16k),
            (14, 47, 48, Level::L1, 2048, shifts_16k),
            (14, 48, 48, Level::L0, 2, shifts_16k),
            (16, 42, 48, Level::L2, 8192, shifts_64k),
            (16, 48, 48, Level::L1, 64, shifts_64k),
            (16, 52, 48, Level::L1, 1024, shifts_64k),
            (16, 52, 52, Level::L1, 1024, shifts_64k),
            (12, 48, 52, Level::L0, 512, shifts_4k),
            (12, 52, 52, Level::LMinus1, 16, shifts_4k),
            (14, 48, 52, Level::L0, 2, shifts_16k),
            (14, 52, 52, Level::L0, 32, shifts_16k),
        ] {
            let geometry = geometry(page_shift, va_bits, oa_bits);
            assert_eq!(geometry.page_size(), 1 << page_shift);
            assert_eq!((geometry.va_bits(), geometry.oa_bits()), (va_bits, oa_bits));
            assert_eq!(geometry.root_level(), root_level);
            assert_eq!(usize::from(geometry.levels()), 5 - root_level.index());
            assert_eq!(geometry.depth(Level::L3), 4 - root_level.index());
            assert_eq!(geometry.entries(root_level), root_entries);
            assert_eq!(geometry.table_span(root_level), 1 << va_bits);
            assert_eq!(geometry.entries(Level::L3), 1 << (page_shift - 3));
            assert_eq!(LEVELS.map(|level| geometry.level_shift(level)), shifts);
        }
    }

    #[test]
    fn an_index_is_less_than_the_entries_at_any_level_even_one_that_does_not_exist() {
        for va_bits in 36..=48 {
            for page_shift in [12, 14, 16] {
                let geometry = geometry(page_shift, va_bits, 48);
                for level in LEVELS {
                    for address in [0, 1 << 35, u64::MAX].map(VirtualAddress) {
                        assert!(geometry.index(level, address) < geometry.entries(level));
                    }
                }
            }
        }
    }

    #[test]
    fn indices_are_the_fields_of_an_address() {
        let geometry = geometry(12, 48, 48);
        let address = VirtualAddress(1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 5);
        let indices = LEVELS.map(|level| geometry.index(level, address));
        assert_eq!(indices, [1, 2, 3, 4]);
    }

    #[test]
    fn a_level_has_the_name_that_linux_gives_it() {
        let names = |page_shift, va_bits| {
            let geometry = geometry(page_shift, va_bits, 48);
            LEVELS.map(|level| geometry.level_name(level))
        };
        assert_eq!(names(12, 48), ["PGD", "PUD", "PMD", "PTE"]);
        assert_eq!(names(12, 39)[1..], ["PGD", "PMD", "PTE"]);
        assert_eq!(names(16, 42)[2..], ["PGD", "PTE"]);
        let geometry = geometry(12, 52, 52);
        let names = Level::ALL.map(|level| geometry.level_name(level));
        assert_eq!(names, ["PGD", "P4D", "PUD", "PMD", "PTE"]);
    }

    #[test]
    fn blocks_and_contiguous_runs_depend_on_the_granule() {
        let blocks = |page_shift, oa_bits| {
            LEVELS.map(|level| geometry(page_shift, 48, oa_bits).has_blocks(level))
        };
        assert_eq!(blocks(12, 48), [false, true, true, false]);
        assert_eq!(blocks(14, 48), [false, false, true, false]);
        assert_eq!(blocks(16, 48), [false, false, true, false]);
        assert_eq!(blocks(16, 52), [false, true, true, false]);
        assert_eq!(blocks(12, 52), [true, true, true, false]);
        assert_eq!(blocks(14, 52), [false, true, true, false]);
        assert!(!geometry(12, 52, 52).has_blocks(Level::LMinus1));
        let runs =
            |page_shift| LEVELS.map(|level| geometry(page_shift, 48, 48).contiguous_entries(level));
        assert_eq!(runs(12), [1, 16, 16, 16]);
        assert_eq!(runs(14), [1, 1, 32, 128]);
        assert_eq!(runs(16), [1, 1, 32, 32]);
    }

    #[test]
    fn an_address_is_contained_up_to_its_width() {
        let geometry = geometry(12, 39, 48);
        assert!(geometry.contains(VirtualAddress((1 << 39) - 1)));
        assert!(!geometry.contains(VirtualAddress(1 << 39)));
        assert!(!geometry.contains(VirtualAddress(u64::MAX)));
        assert_eq!(geometry.base(), VirtualAddress(0));
        let kernel = geometry.of_kernel();
        assert_eq!(kernel.base(), VirtualAddress(0xffff_ff80_0000_0000));
        assert!(kernel.is_kernel() && !geometry.is_kernel());
        assert!(kernel.contains(kernel.base()) && kernel.contains(VirtualAddress(u64::MAX)));
        assert!(!kernel.contains(VirtualAddress(kernel.base().0 - 1)));
        assert!(!kernel.contains(VirtualAddress(0)));
    }

    #[test]
    fn what_is_no_geometry_is_refused_with_the_number() {
        let refused = Err(GeometryError::PageShift(13));
        assert_eq!(Geometry::new(13, 48, 48), refused);
        for (page_shift, va_bits) in [(12, 35), (12, 49), (14, 52), (16, 53), (16, 0)] {
            let refused = Err(GeometryError::VaBits {
                page_shift,
                va_bits,
            });
            assert_eq!(Geometry::new(page_shift, va_bits, 48), refused);
        }
        for (page_shift, oa_bits) in [(12, 51), (14, 49), (16, 47), (16, 50), (16, 0)] {
            let refused = Err(GeometryError::OaBits {
                page_shift,
                oa_bits,
            });
            assert_eq!(Geometry::new(page_shift, 48, oa_bits), refused);
        }
    }

    #[test]
    fn no_level_of_any_geometry_is_too_large() {
        for (page_shift, va_bits) in [(12, 52), (14, 52), (16, 42), (16, 52)] {
            let geometry = Geometry::new(page_shift, va_bits, 52).unwrap();
            for level in Level::ALL {
                assert!(geometry.entry_size(level).is_power_of_two());
                assert!(geometry.index(level, VirtualAddress(!0)) < geometry.entries(level));
            }
        }
    }
}
