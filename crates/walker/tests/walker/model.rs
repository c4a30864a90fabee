//! A second implementation of what the Arm ARM says about descriptors, with plain integers, to compare with.

/// The three numbers that define a geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) page_shift: u32,
    pub(crate) va_bits: u32,
    pub(crate) oa_bits: u32,
}

const fn shape(page_shift: u32, va_bits: u32, oa_bits: u32) -> Shape {
    Shape {
        page_shift,
        va_bits,
        oa_bits,
    }
}

/// The geometries of arch/arm64/Kconfig.
pub(crate) const SHAPES: [Shape; 13] = [
    shape(12, 39, 48),
    shape(12, 48, 48),
    shape(14, 36, 48),
    shape(14, 47, 48),
    shape(14, 48, 48),
    shape(16, 42, 48),
    shape(16, 48, 48),
    shape(16, 52, 48),
    shape(16, 52, 52),
    shape(12, 48, 52),
    shape(12, 52, 52),
    shape(14, 48, 52),
    shape(14, 52, 52),
];

/// The meaning of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Nothing,
    /// The frame of the next table.
    Table(u64),
    /// The address of the first byte.
    Leaf(u64),
}

impl Shape {
    /// Returns the number of bits of the index into a full table.
    fn stride(self) -> u32 {
        self.page_shift - 3
    }

    /// Returns the lookup level of the root.
    pub(crate) fn first(self) -> i32 {
        let mut level = 4;
        let mut bits = self.page_shift;
        while bits < self.va_bits {
            bits += self.stride();
            level -= 1;
        }
        level
    }

    /// Returns the number of address bits below the index of `level`.
    pub(crate) fn shift(self, level: i32) -> u32 {
        self.page_shift + self.stride() * (3 - level) as u32
    }

    /// Returns the number of words in a table of `level`.
    pub(crate) fn words(self, level: i32) -> usize {
        if level == self.first() {
            1 << (self.va_bits - self.shift(level))
        } else {
            1 << self.stride()
        }
    }

    pub(crate) fn index(self, level: i32, address: u64) -> usize {
        (address >> self.shift(level)) as usize % self.words(level)
    }

    /// Returns the levels with blocks: Arm ARM DDI 0487, "VMSAv8-64 Block descriptor and Page descriptor".
    pub(crate) fn block_levels(self) -> &'static [i32] {
        match (self.page_shift, self.oa_bits) {
            (12, 52) => &[0, 1, 2],
            (12, 48) | (14 | 16, 52) => &[1, 2],
            _ => &[2],
        }
    }

    /// Returns the address in `word`, from bit `lowest` on.
    fn address(self, word: u64, lowest: u32) -> u64 {
        let (bits, above) = match (self.oa_bits, self.page_shift) {
            (52, 16) => (48, word / (1 << 12) % 16),
            (52, _) => (50, word / (1 << 8) % 4),
            _ => (48, 0),
        };
        let low = word % (1 << bits);
        low - low % (1 << lowest) + above * (1 << bits)
    }

    pub(crate) fn meaning(self, level: i32, word: u64) -> Meaning {
        match word % 4 {
            1 if self.block_levels().contains(&level) => {
                Meaning::Leaf(self.address(word, self.shift(level)))
            }
            3 if level == 3 => Meaning::Leaf(self.address(word, self.page_shift)),
            3 => Meaning::Table(self.address(word, self.page_shift) >> self.page_shift),
            _ => Meaning::Nothing,
        }
    }

    /// Returns the address field of a descriptor for `address`.
    pub(crate) fn field(self, address: u64) -> u64 {
        match self.page_shift {
            16 => address % (1 << 48) + address / (1 << 48) * (1 << 12),
            _ => address % (1 << 50) + address / (1 << 50) * (1 << 8),
        }
    }

    /// Translates `address`. Returns the level of the last word, that word, and the physical address if the
    /// word is a leaf. `word` reads a word of the table in a frame, and returns `None` if there is no such
    /// frame.
    pub(crate) fn translate(
        self,
        root: u64,
        address: u64,
        word: impl Fn(u64, usize) -> Option<u64>,
    ) -> (i32, u64, Option<u64>) {
        if address >> self.va_bits != 0 {
            return (self.first(), 0, None);
        }
        let mut frame = root;
        let mut last = (self.first(), 0, None);
        for level in self.first()..4 {
            let Some(found) = word(frame, self.index(level, address)) else {
                break;
            };
            last = (level, found, None);
            match self.meaning(level, found) {
                Meaning::Table(next) => frame = next,
                Meaning::Leaf(start) => {
                    let offset = address % (1 << self.shift(level));
                    return (level, found, Some(start + offset));
                }
                Meaning::Nothing => break,
            }
        }
        last
    }
}
