//! Tests of saved trees.

use proptest::prelude::*;
use tablewalk_walker::dump::{Dump, DumpError, DumpWriter, HEADER_SIZE};
use tablewalk_walker::{FrameNumber, TableId, TableSource, VirtualAddress, Visit, Walk, translate};

use crate::model::{SHAPES, Shape};
use crate::properties::shapes;
use crate::tree::{Source, Tree};
use crate::walk::level;

const TEXT: &[u8] = b"400000-401000 r-xp /bin/one\n";

/// Returns a dump of `tree`. The first byte has the alignment of a word.
fn save(tree: &Tree) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |offset: u64, piece: &[u8]| {
        let offset = offset as usize;
        bytes.resize(bytes.len().max(offset + piece.len()), 0);
        bytes[offset..offset + piece.len()].copy_from_slice(piece);
        Ok::<(), ()>(())
    };
    let mut source = Source::new(tree, 5);
    let mut writer = DumpWriter::new(source.format(), 42);
    writer
        .tables(&mut Walk::new(&mut source), &mut put)
        .unwrap();
    for piece in TEXT.chunks(5) {
        writer.text(piece, &mut put).unwrap();
    }
    let size = writer.finish(&mut put).unwrap();
    assert_eq!(size, bytes.len() as u64);
    bytes
}

fn visits<S: TableSource<Error: std::fmt::Debug>>(source: &mut S, limit: usize) -> Vec<Visit> {
    let walk = Walk::new(source).take(limit);
    walk.collect::<Result<_, _>>().unwrap()
}

fn two_pages(shape: Shape) -> Tree {
    let tree = Tree::new(shape);
    for address in [0, 1 << (shape.va_bits - 1)] {
        tree.set(3, address, tree.leaf_word(3, 5 << shape.page_shift));
    }
    tree
}

proptest! {
    #[test]
    fn a_saved_tree_is_walked_and_translated_as_the_tree(
        shape in shapes(),
        words in prop::collection::vec(any::<[u64; 2]>(), 0..20),
        addresses in prop::collection::vec(any::<u64>(), 1..8),
    ) {
        let tree = Tree::new(shape);
        for (index, [address, word]) in words.into_iter().enumerate() {
            // Scattered level-3 entries: pages, and random words.
            let address = address % (1 << shape.va_bits);
            tree.set(3, address, if index % 2 == 0 { word } else { tree.leaf_word(3, address) });
        }
        let mut bytes = save(&tree);
        let mut dump = Dump::from_bytes(&mut bytes).unwrap();
        prop_assert_eq!((dump.pid(), dump.text()), (42, TEXT));
        let mut source = Source::new(&tree, 5);
        prop_assert_eq!(dump.format(), source.format());
        prop_assert_eq!(visits(&mut dump, usize::MAX), visits(&mut source, usize::MAX));
        for address in addresses.into_iter().map(VirtualAddress) {
            prop_assert_eq!(translate(&mut dump, address).unwrap(), translate(&mut source, address).unwrap());
        }
    }

    #[test]
    fn any_change_of_a_byte_is_refused_or_harmless(
        shape in shapes(),
        place in any::<prop::sample::Index>(),
        value: u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = save(&two_pages(shape));
        let whole = bytes.len();
        // Most bytes are descriptors, so half of the changes are made before them.
        let index = if value % 2 == 0 { place.index(HEADER_SIZE + 16) } else { place.index(whole) };
        bytes[index] = value;
        if let Ok(mut dump) = Dump::from_bytes(&mut bytes) {
            visits(&mut dump, 10_000);
        }
        let mut bytes = save(&two_pages(shape));
        let refused = Dump::from_bytes(&mut bytes[..cut.index(whole)]);
        prop_assert!(refused.is_err());
    }
}

#[test]
fn what_is_no_dump_is_refused_with_the_number() {
    let shape = SHAPES[0];
    let good = save(&two_pages(shape));
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Dump::from_bytes(&mut bytes).unwrap_err()
    };
    assert_eq!(refused(&|bytes| bytes.clear()), DumpError::Magic);
    // The header is written last: a dump that was not finished has none.
    assert_eq!(refused(&|bytes| bytes[..8].fill(0)), DumpError::Magic);
    assert_eq!(refused(&|bytes| bytes[8] = 2), DumpError::Version(2));
    assert!(matches!(
        refused(&|bytes| bytes[16] = 13),
        DumpError::Geometry(_)
    ));
    let length = good.len() as u64;
    assert_eq!(
        refused(&|bytes| bytes.push(0)),
        DumpError::Length {
            bytes: length + 1,
            expected: Some(length)
        }
    );
    assert_eq!(
        refused(&|bytes| bytes[56..64].fill(0xff)),
        DumpError::Length {
            bytes: length,
            expected: None
        }
    );
    // The level of the first table is above the root.
    assert_eq!(
        refused(&|bytes| bytes[HEADER_SIZE] = 0),
        DumpError::Order { table: 0 }
    );
    // The second table has the address and level of the first one.
    let record = 16 + (1 << shape.page_shift);
    assert_eq!(
        refused(&|bytes| bytes.copy_within(HEADER_SIZE..HEADER_SIZE + 8, HEADER_SIZE + record)),
        DumpError::Order { table: 1 }
    );
}

#[test]
fn a_dump_says_that_a_table_has_another_frame() {
    let tree = two_pages(SHAPES[0]);
    let mut bytes = save(&tree);
    let mut dump = Dump::from_bytes(&mut bytes).unwrap();
    let frame = FrameNumber(tree.table(3, 0).unwrap());
    let mut id = TableId {
        level: level(3),
        address: VirtualAddress(0x1234),
        frame: Some(frame),
    };
    assert_eq!(dump.map(0, id), Ok(Some(frame)));
    id.frame = Some(FrameNumber(frame.0 + 1));
    assert_eq!(dump.map(0, id), Ok(None));
    let slots = dump.slots();
    assert!(dump.map(slots, id).is_err());
}
