//! Any word, at any level of any geometry, with any layout of Linux's bits.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tablewalk_walker::{
    Absent, Descriptor, Geometry, Kind, Level, Limits, Linux, MemoryType, Permissions,
    Shareability, SwapLayout, VirtualAddress,
};

#[derive(Arbitrary, Debug)]
struct Input {
    page_shift: u8,
    va_bits: u8,
    wide: bool,
    level: i8,
    word: u64,
    tables: [u64; 3],
    address: u64,
    masks: [u64; 8],
    swap: [u8; 4],
    types: [Option<u8>; 4],
    unknown_types: u8,
    mair: u64,
    overlay: u64,
    gcs: bool,
}

fuzz_target!(|input: Input| {
    let page_shift = 12 + 2 * u32::from(input.page_shift % 3);
    let oa_bits = if input.wide { 52 } else { 48 };
    let widest = if page_shift == 16 || input.wide { 52 } else { 48 };
    let va_bits = u32::from(input.va_bits);
    let Ok(geometry) = Geometry::new(page_shift, va_bits, oa_bits) else {
        assert!(va_bits < 36 || va_bits > widest);
        return;
    };
    let Ok(level) = Level::try_from(input.level) else {
        assert!(!(-1..=3).contains(&input.level));
        return;
    };
    let descriptor = Descriptor(input.word);
    let [write, dirty, special, devmap, prot_none, present_invalid, swap_exclusive, uffd_wp] =
        input.masks;
    let [type_shift, type_bits, offset_shift, offset_bits] = input.swap;
    let [hardware_poison, migration, device, marker] = input.types;
    let linux = Linux {
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
            hardware_poison,
            migration,
            device,
            marker,
            unknown_types: input.unknown_types,
        },
        overlay: input.overlay,
        gcs: input.gcs,
    };

    let output = descriptor.output_address(&geometry, level);
    assert_eq!(output.0 >> oa_bits, 0);
    assert_eq!(output.0 % geometry.entry_size(level).min(1 << 48), 0);
    let kind = descriptor.kind(&geometry, level);
    assert_eq!(kind == Kind::Invalid, !descriptor.is_valid() || input.word & 2 == 0 && !geometry.has_blocks(level));
    assert!(geometry.index(level, VirtualAddress(input.address)) < geometry.entries(level));
    match linux.absent(descriptor, &geometry, level) {
        Absent::Empty => assert_eq!(input.word, 0),
        Absent::NoAccess { frame } => assert_eq!(frame, output.frame(&geometry)),
        _ => assert_ne!(input.word, 0),
    }
    let present = linux.is_present(descriptor, level);
    assert!(present || !descriptor.is_valid());
    // `pte_present` and `pmd_present`.
    let without_access = linux.prot_none | if level == Level::L3 { 0 } else { linux.present_invalid };
    assert_eq!(present, input.word & (1 | without_access) != 0);
    let limits = input.tables.iter().fold(Limits::NONE, |limits, &table| limits.below(Descriptor(table)));
    let permissions = Permissions::new(descriptor, limits);
    // Tables only take away.
    let without = Permissions::new(descriptor, Limits::NONE);
    assert!(!permissions.el0.read || without.el0.read);
    assert!(!permissions.el0.write || without.el0.write);
    assert!(!permissions.el0.execute || without.el0.execute);
    assert!(!(permissions.el0.write && permissions.el1.execute));
    if linux.is_gcs(descriptor) {
        assert!(input.gcs && !linux.permissions(descriptor, limits).el0.write);
    } else {
        assert_eq!(linux.permissions(descriptor, limits), permissions);
    }
    assert!(linux.protection_key(descriptor) == 0 || input.word & linux.overlay != 0);
    let text = format!(
        "{} {} {} {descriptor:?}",
        permissions.el0,
        MemoryType::new(descriptor, input.mair),
        Shareability::new(&geometry, descriptor)
    );
    assert!(!text.is_empty());
});
