//! The header of a dump, and sizes that follow from it.

use super::DumpError;
use crate::{Format, Geometry, Level, Linux, SwapLayout};

/// Bytes before the first table.
pub const HEADER_SIZE: usize = 128;

const MAGIC: [u8; 8] = *b"pgtables";
pub(super) const VERSION_1: u32 = 1;
pub(super) const VERSION_2: u32 = 2;
/// Number of words before the descriptors of a table: address with level, and frame.
pub(super) const TABLE_HEADER: usize = 2;
/// The number that stands for a bit or type that a kernel lacks.
const NONE: u8 = 0xff;

/// What the header of a dump says.
pub(super) struct Header {
    pub(super) format: Format,
    pub(super) pid: u32,
    pub(super) tables: u64,
    pub(super) text: u64,
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, DumpError> {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |index: usize| words.get(index).copied().unwrap_or_default();
        let low = |index| match word(index) {
            [a, b, c, d, ..] => u32::from_le_bytes([a, b, c, d]),
        };
        let high = |index| match word(index) {
            [.., a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
        };
        if word(0) != MAGIC {
            return Err(DumpError::Magic);
        }
        if !matches!(low(1), VERSION_1 | VERSION_2) {
            return Err(DumpError::Version(low(1)));
        }
        let geometry = Geometry::new(low(2), high(2), low(3)).map_err(DumpError::Geometry)?;
        if low(1) != version(&geometry) {
            return Err(DumpError::Version(low(1)));
        }
        Ok(Self {
            format: Format {
                geometry,
                linux: linux(word(5), word(6), word(9)),
                mair: u64::from_le_bytes(word(4)),
            },
            pid: high(1),
            tables: u64::from_le_bytes(word(7)),
            text: u64::from_le_bytes(word(8)),
        })
    }

    pub(super) fn to_bytes(&self) -> [u8; HEADER_SIZE] {
        let pair = |low: u32, high: u32| (u64::from(high) << 32 | u64::from(low)).to_le_bytes();
        let geometry = &self.format.geometry;
        let (bits, swap, rest) = linux_bytes(&self.format.linux);
        let words = [
            MAGIC,
            pair(version(geometry), self.pid),
            pair(geometry.page_shift(), geometry.va_bits()),
            pair(geometry.oa_bits(), 0),
            self.format.mair.to_le_bytes(),
            bits,
            swap,
            self.tables.to_le_bytes(),
            self.text.to_le_bytes(),
            rest,
        ];
        let mut bytes = [0; HEADER_SIZE];
        for (to, from) in bytes.iter_mut().zip(words.as_flattened()) {
            *to = *from;
        }
        bytes
    }
}

fn linux(bits: [u8; 8], swap: [u8; 8], rest: [u8; 8]) -> Linux {
    let mask = |number: u8| 1_u64.checked_shl(number.into()).unwrap_or(0);
    let kind = |number: u8| (number != NONE).then_some(number);
    let [
        write,
        dirty,
        special,
        devmap,
        prot_none,
        present_invalid,
        swap_exclusive,
        uffd_wp,
    ] = bits.map(mask);
    let [
        type_shift,
        type_bits,
        offset_shift,
        offset_bits,
        hardware_poison,
        migration,
        device,
        marker,
    ] = swap;
    let [unknown_types, overlay, gcs, ..] = rest;
    Linux {
        write,
        dirty,
        special,
        devmap,
        prot_none,
        present_invalid,
        swap_exclusive,
        uffd_wp,
        swap: SwapLayout {
            type_shift,
            type_bits,
            offset_shift,
            offset_bits,
            hardware_poison: kind(hardware_poison),
            migration: kind(migration),
            device: kind(device),
            marker: kind(marker),
            unknown_types,
        },
        overlay: match overlay {
            0 => 0,
            lowest => 0b111_u64.checked_shl(lowest.into()).unwrap_or(0),
        },
        gcs: gcs != 0,
    }
}

fn linux_bytes(linux: &Linux) -> ([u8; 8], [u8; 8], [u8; 8]) {
    let masks = [
        linux.write,
        linux.dirty,
        linux.special,
        linux.devmap,
        linux.prot_none,
        linux.present_invalid,
        linux.swap_exclusive,
        linux.uffd_wp,
    ];
    let swap_layout = &linux.swap;
    let kind = |kind: Option<u8>| kind.unwrap_or(NONE);
    let number = |mask: u64, none| match mask {
        0 => none,
        #[expect(clippy::cast_possible_truncation, reason = "at most 63")]
        mask => mask.trailing_zeros() as u8,
    };
    let bits = masks.map(|mask| number(mask, NONE));
    let overlay = number(linux.overlay, 0);
    let rest = [
        swap_layout.unknown_types,
        overlay,
        linux.gcs.into(),
        0,
        0,
        0,
        0,
        0,
    ];
    let swap = [
        swap_layout.type_shift,
        swap_layout.type_bits,
        swap_layout.offset_shift,
        swap_layout.offset_bits,
        kind(swap_layout.hardware_poison),
        kind(swap_layout.migration),
        kind(swap_layout.device),
        kind(swap_layout.marker),
    ];
    (bits, swap, rest)
}

/// Encodes the level of a table as in bits 2:0 of its header.
pub(super) const fn level_bits(level: Level) -> u8 {
    level.number().cast_unsigned() & 0b111
}

/// The version of the format: readers of version 1 do not know every geometry.
const fn version(geometry: &Geometry) -> u32 {
    if geometry.is_lpa2() {
        VERSION_2
    } else {
        VERSION_1
    }
}

/// Number of descriptors in a page.
pub(super) const fn page_words(geometry: &Geometry) -> usize {
    1 << (geometry.page_shift() - 3)
}

/// Number of words of a table with its header.
pub(super) const fn record_words(geometry: &Geometry) -> usize {
    TABLE_HEADER + page_words(geometry)
}

/// Size in bytes of a table with its header.
pub(super) const fn record_size(geometry: &Geometry) -> usize {
    record_words(geometry) * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_linux_comes_back() {
        let geometry = Geometry::new(12, 48, 48).unwrap();
        let extended = Linux {
            overlay: 0b111 << 60,
            gcs: true,
            ..Linux::V6_12
        };
        let by_version = Linux::of_version(6, 12);
        for linux in [Linux::V6_1, Linux::V6_12, by_version, extended] {
            let format = Format {
                geometry,
                linux,
                mair: 0xff,
            };
            let header = Header {
                format,
                pid: 1,
                tables: 2,
                text: 3,
            };
            let parsed = Header::parse(&header.to_bytes()).unwrap();
            assert_eq!(parsed.format, format);
        }
    }
}
