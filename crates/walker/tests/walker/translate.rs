//! Tests of the translation of one address.

use std::cell::Cell;

use tablewalk_walker::{
    Descriptor, Level, PhysicalAddress, TableSource, Translation, VirtualAddress, entry, entry_mut,
    path, translate,
};

use crate::model::{SHAPES, Shape};
use crate::tree::{Refused, Source, Tree};
use crate::walk::level;

/// Converts a translation of the model.
pub(crate) fn translation((number, word, address): (i32, u64, Option<u64>)) -> Translation {
    let (level, descriptor) = (level(number), Descriptor(word));
    match address {
        Some(address) => Translation::Mapped {
            address: PhysicalAddress(address),
            level,
            descriptor,
        },
        None => Translation::Fault { level, descriptor },
    }
}

fn shape(page_shift: u32, va_bits: u32, oa_bits: u32) -> Shape {
    Shape {
        page_shift,
        va_bits,
        oa_bits,
    }
}

#[test]
fn pages_and_blocks_of_4k_translate_to_what_is_written_here() {
    let tree = Tree::new(shape(12, 48, 48));
    tree.set(3, 0x7fff_1234_5000, 0x0060_0000_4321_0fc3);
    tree.set(2, 0x1020_0000, 0x0060_0000_8040_0fc1);
    tree.set(1, 0x40_4000_0000, 0x0060_00c0_0000_0fc1);
    let mut source = Source::new(&tree, 1);
    for (address, expected) in [
        (0x7fff_1234_5678, 0x4321_0678),
        (0x1020_0000, 0x8040_0000),
        (0x1031_2345, 0x8051_2345),
        (0x40_7fff_ffff, 0xc0_3fff_ffff),
    ] {
        let translated = translate(&mut source, VirtualAddress(address)).unwrap();
        assert_eq!(
            translated.physical(),
            Some(PhysicalAddress(expected)),
            "{address:#x}"
        );
    }
}

#[test]
fn the_top_of_a_52_bit_address_comes_from_bits_15_to_12() {
    let tree = Tree::new(shape(16, 52, 52));
    tree.set(3, 0x8_0000_1234_0000, 0x0060_1234_5678_b703);
    tree.set(2, 0x4000_0000, 0x0060_1234_4000_c701);
    tree.set(1, 5 << 42, 0x0060_1400_0000_d701);
    let mut source = Source::new(&tree, 1);
    for (address, expected) in [
        (0x8_0000_1234_1111, 0xb_1234_5678_1111),
        (0x5234_5678, 0xc_1234_5234_5678),
        (5 << 42 | 0x11_2233_4455, 0xd_1411_2233_4455),
    ] {
        let translated = translate(&mut source, VirtualAddress(address)).unwrap();
        assert_eq!(
            translated.physical(),
            Some(PhysicalAddress(expected)),
            "{address:#x}"
        );
    }
}

#[test]
fn a_fault_tells_the_entry_that_ends_the_walk_at_every_level_of_every_geometry() {
    for shape in SHAPES {
        for number in shape.first()..4 {
            for word in [0, 2, 0x1234_5678_0000, 1 << 58] {
                let tree = Tree::new(shape);
                let address = 3 << (shape.va_bits - 2);
                tree.set(number, address, word);
                let fault = translate(&mut Source::new(&tree, 1), VirtualAddress(address));
                let expected = Translation::Fault {
                    level: level(number),
                    descriptor: Descriptor(word),
                };
                assert_eq!(fault, Ok(expected), "{shape:?}");
                assert_eq!(expected.physical(), None);
            }
        }
    }
}

#[test]
fn an_encoding_for_a_block_where_none_can_be_is_a_fault() {
    for shape in SHAPES {
        for number in (shape.first()..4).filter(|number| !shape.block_levels().contains(number)) {
            let tree = Tree::new(shape);
            tree.set(number, 0, 0x701);
            let fault = translate(&mut Source::new(&tree, 1), VirtualAddress(0));
            let expected = Translation::Fault {
                level: level(number),
                descriptor: Descriptor(0x701),
            };
            assert_eq!(fault, Ok(expected), "{shape:?}");
        }
    }
}

#[test]
fn an_address_out_of_range_is_a_fault_of_the_root_and_maps_nothing() {
    for shape in SHAPES {
        let tree = Tree::new(shape);
        tree.set(3, 0, tree.leaf_word(3, 0));
        let mut source = Source::new(&tree, 1);
        for address in [1 << shape.va_bits, u64::MAX] {
            let fault = translate(&mut source, VirtualAddress(address));
            assert_eq!(fault, Ok(translation((shape.first(), 0, None))));
        }
        assert_eq!(source.calls().get(), 0);
    }
}

#[test]
fn a_walk_that_loses_its_table_begins_again() {
    let tree = Tree::new(shape(12, 39, 48));
    tree.set(3, 0x5000, tree.leaf_word(3, 0x1000));
    let first = Cell::new(true);
    let mut source = Source::new(&tree, 1).before_map(move |tree, id| {
        if id.level == Level::L3 && first.replace(false) {
            tree.unmap(2, 0x5000);
            tree.set(3, 0x5000, tree.leaf_word(3, 0x2000));
        }
    });
    let translated = translate(&mut source, VirtualAddress(0x5678)).unwrap();
    assert_eq!(translated.physical(), Some(PhysicalAddress(0x2678)));
}

#[test]
fn a_walk_that_loses_its_table_each_time_ends_with_a_fault() {
    let tree = Tree::new(shape(12, 39, 48));
    tree.set(3, 0, tree.leaf_word(3, 0x1000));
    let mut source = Source::new(&tree, 1).before_map(|tree, id| {
        if id.level == Level::L3 {
            tree.unmap(2, 0);
            tree.set(3, 0, tree.leaf_word(3, 0x1000));
        }
    });
    let calls = source.calls();
    let fault = translate(&mut source, VirtualAddress(0)).unwrap();
    assert!(matches!(
        fault,
        Translation::Fault {
            level: Level::L2,
            ..
        }
    ));
    assert_eq!(calls.get(), 8 * 3);
}

#[test]
fn a_process_without_tables_is_a_fault_of_the_root() {
    for shape in SHAPES {
        let tree = Tree::new(shape);
        tree.remove_frame(tree.root);
        let fault = translate(&mut Source::new(&tree, 1), VirtualAddress(0));
        assert_eq!(
            fault,
            Ok(translation((shape.first(), 0, None))),
            "{shape:?}"
        );
    }
}

#[test]
fn a_source_that_fails_is_an_error_not_a_fault() {
    let tree = Tree::new(shape(12, 39, 48));
    let mut source = Source::new(&tree, 0);
    let address = VirtualAddress(0);
    assert_eq!(translate(&mut source, address), Err(Refused));
    assert!(matches!(entry(&mut source, 0, address), Err(Refused)));
    assert!(matches!(entry_mut(&mut source, 0, address), Err(Refused)));
}

#[test]
fn an_entry_shows_what_the_kernel_writes_after_it_was_mapped() {
    let tree = Tree::new(shape(16, 42, 48));
    tree.set(3, 0x2_0000, 0);
    let mut source = Source::new(&tree, 2);
    let entry = entry(&mut source, 1, VirtualAddress(0x2_1234))
        .unwrap()
        .unwrap();
    assert_eq!(entry.load(), Descriptor::ZERO);
    tree.set(3, 0x2_0000, 0x5_0703);
    assert_eq!(entry.load(), Descriptor(0x5_0703));
    tree.unmap(2, 0x2_0000);
    assert_eq!(entry.load(), Descriptor::ZERO);
}

#[test]
fn an_entry_is_only_where_there_is_a_level_3_table() {
    for shape in SHAPES {
        let tree = Tree::new(shape);
        tree.set(2, 0, tree.leaf_word(2, 0));
        let mut source = Source::new(&tree, 1);
        for address in [0, 1 << (shape.va_bits - 1), 1 << shape.va_bits] {
            let address = VirtualAddress(address);
            assert!(entry(&mut source, 0, address).unwrap().is_none());
            assert!(entry_mut(&mut source, 0, address).unwrap().is_none());
        }
    }
}

#[test]
fn an_entry_for_writing_is_the_one_that_translates_the_address() {
    for shape in SHAPES {
        let tree = Tree::new(shape);
        let page = 1 << shape.page_shift;
        let last = (1 << shape.va_bits) - page;
        for address in [0, page, last] {
            tree.set(3, address, address | 3);
        }
        let mut source = Source::new(&tree, 1);
        assert_eq!(source.geometry(), tree.geometry());
        for address in [0, page, last] {
            let inside = VirtualAddress(address + 123);
            let entry = entry_mut(&mut source, 0, inside).unwrap().unwrap();
            assert_eq!(entry.load(), Descriptor(address | 3), "{shape:?}");
        }
    }
}

#[test]
fn a_path_has_the_descriptors_that_lead_to_an_address() {
    for shape in SHAPES {
        let tree = Tree::new(shape);
        let address = (1 << (shape.va_bits - 1)) + (3 << shape.page_shift);
        tree.set(3, address, tree.leaf_word(3, 7 << shape.page_shift));
        for address in [address + 5, 5, 1 << shape.va_bits] {
            let mut source = Source::new(&tree, 1);
            let geometry = source.geometry();
            let path = path(&mut source, VirtualAddress(address)).unwrap();
            let (last, word, physical) = tree.translate(address);
            let translation = path.translation(&geometry);
            assert_eq!(translation.physical().map(|address| address.0), physical);
            let numbers = path
                .steps()
                .iter()
                .map(|step| i32::from(step.level.number()));
            if address >> shape.va_bits != 0 {
                assert_eq!(path.steps(), []);
                continue;
            }
            assert!(numbers.eq(shape.first()..=last));
            assert_eq!(path.steps().last().unwrap().descriptor.0, word);
            for step in path.steps() {
                let number = i32::from(step.level.number());
                assert_eq!(Some(step.table.0), tree.table(number, address));
                assert_eq!(tree.word(step.table.0, step.index), Some(step.descriptor.0));
            }
        }
    }
}
