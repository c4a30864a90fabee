//! Tests of walks.

use std::cell::Cell;
use std::collections::BTreeMap;

use tablewalk_walker::{
    Descriptor, Found, FrameNumber, Level, Limits, Merge, Runs, TableId, TableVisit,
    VirtualAddress, Visit, Walk,
};

use crate::model::{SHAPES, Shape};
use crate::tree::{Refused, Source, Tree};

pub(crate) fn level(number: i32) -> Level {
    Level::try_from(number as i8).unwrap()
}

fn table(number: i32, frame: u64, address: u64) -> Visit {
    Visit::Table(TableVisit {
        level: level(number),
        frame: FrameNumber(frame),
        address: VirtualAddress(address),
        limits: Limits::NONE,
    })
}

fn found(number: i32, frame: u64, index: usize, address: u64, word: u64) -> Found {
    Found {
        level: level(number),
        table: FrameNumber(frame),
        index,
        address: VirtualAddress(address),
        descriptor: Descriptor(word),
        limits: Limits::NONE,
    }
}

fn walk(tree: &Tree) -> Vec<Visit> {
    Walk::new(&mut Source::new(tree, 5))
        .collect::<Result<_, _>>()
        .unwrap()
}

/// Returns a tree with 4K pages and 39-bit addresses, with these tables:
///
/// frame 2, level 1: [0] table 3, [1] block at 0x8000_0000, [511] table 5
/// frame 3, level 2: [0] table 4, [1] block at 0x4020_0000, [2] not valid
/// frame 4, level 3: [0] page 0x4000_1000, [5] PROT_NONE, [6] reserved, [511] page 0x4000_2000
/// frame 5, level 2: empty
fn small() -> Tree {
    const SMALL: Shape = Shape {
        page_shift: 12,
        va_bits: 39,
        oa_bits: 48,
    };
    let tree = Tree::with_root(SMALL, 2);
    for frame in 3..=5 {
        tree.add_frame(frame);
    }
    for (frame, index, word) in [
        (2, 0, 0x3003),
        (2, 1, 0x8000_0701),
        (2, 511, 0x5003),
        (3, 0, 0x4003),
        (3, 1, 0x4020_0701),
        (3, 2, 0xabc0),
        (4, 0, 0x4000_1703),
        (4, 5, 0x0400_0000_4000_3000),
        (4, 6, 0x4000_4701),
        (4, 511, 0x4000_2703),
    ] {
        tree.set_word(frame, index, word);
    }
    tree
}

fn small_level_3() -> [Visit; 5] {
    [
        table(3, 4, 0),
        Visit::Leaf(found(3, 4, 0, 0, 0x4000_1703)),
        Visit::NotValid(found(3, 4, 5, 0x5000, 0x0400_0000_4000_3000)),
        Visit::NotValid(found(3, 4, 6, 0x6000, 0x4000_4701)),
        Visit::Leaf(found(3, 4, 511, 0x1f_f000, 0x4000_2703)),
    ]
}

fn small_level_2() -> [Visit; 2] {
    [
        Visit::Leaf(found(2, 3, 1, 0x20_0000, 0x4020_0701)),
        Visit::NotValid(found(2, 3, 2, 0x40_0000, 0xabc0)),
    ]
}

fn small_block() -> Visit {
    Visit::Leaf(found(1, 2, 1, 0x4000_0000, 0x8000_0701))
}

#[test]
fn a_tree_is_walked_in_address_order_with_tables_before_their_entries() {
    let mut expected = vec![table(1, 2, 0), table(2, 3, 0)];
    expected.extend(small_level_3());
    expected.extend(small_level_2());
    expected.extend([small_block(), table(2, 5, 0x7f_c000_0000)]);
    assert_eq!(walk(&small()), expected);
}

#[test]
fn leaves_know_what_they_map_to() {
    let tree = small();
    let geometry = tree.geometry();
    let leaves: Vec<_> = walk(&tree)
        .into_iter()
        .filter_map(|visit| match visit {
            Visit::Leaf(leaf) => Some(leaf),
            _ => None,
        })
        .map(|leaf| {
            let address = leaf.output_address(&geometry).0;
            (address, leaf.frame(&geometry).0, leaf.pages(&geometry))
        })
        .collect();
    let expected = [
        (0x4000_1000, 0x4_0001, 1),
        (0x4000_2000, 0x4_0002, 1),
        (0x4020_0000, 0x4_0200, 512),
        (0x8000_0000, 0x8_0000, 512 * 512),
    ];
    assert_eq!(leaves, expected);
}

#[test]
fn a_walk_of_a_table_stays_in_it_and_below() {
    let mut source = Source::new(&small(), 4);
    let address = VirtualAddress(0x1f_ffff);
    let visits: Result<Vec<_>, _> = Walk::at(&mut source, Level::L3, address).collect();
    assert_eq!(visits.unwrap(), small_level_3());

    let visits: Result<Vec<_>, _> = Walk::at(&mut source, Level::L2, address).collect();
    let mut expected = vec![table(2, 3, 0)];
    expected.extend(small_level_3());
    expected.extend(small_level_2());
    assert_eq!(visits.unwrap(), expected);
}

#[test]
fn a_walk_down_to_a_level_does_not_map_what_is_below() {
    let mut source = Source::new(&small(), 4);
    let calls = source.calls();
    let visits: Result<Vec<_>, _> = Walk::new(&mut source).down_to(Level::L2).collect();
    let mut expected = vec![table(1, 2, 0), table(2, 3, 0)];
    expected.extend(small_level_2());
    expected.extend([small_block(), table(2, 5, 0x7f_c000_0000)]);
    assert_eq!(visits.unwrap(), expected);
    assert_eq!(calls.get(), 3);

    let visits: Result<Vec<_>, _> = Walk::new(&mut source).down_to(Level::L1).collect();
    assert_eq!(visits.unwrap(), [table(1, 2, 0), small_block()]);
}

#[test]
fn a_walk_from_a_table_that_is_not_there_says_so_and_ends() {
    let mut source = Source::new(&small(), 4);
    // A block, an empty entry, an address and a level that do not exist.
    for (number, address) in [(3, 0x20_0000), (2, 0x8000_0000), (3, 1 << 39), (0, 0)] {
        let id = TableId {
            level: level(number),
            address: VirtualAddress(address),
            frame: None,
        };
        let visits: Vec<_> = Walk::at(&mut source, id.level, id.address).collect();
        assert_eq!(visits, [Ok(Visit::Changed(id))]);
    }
}

#[test]
fn a_table_that_vanishes_is_passed_over() {
    let first_leaf = Cell::new(true);
    let mut source = Source::new(&small(), 4).before_map(move |tree, id| {
        if id.level == Level::L3 && first_leaf.replace(false) {
            tree.unmap(2, id.address.0);
        }
    });
    let visits: Result<Vec<_>, _> = Walk::new(&mut source).collect();
    let changed = TableId {
        level: Level::L3,
        address: VirtualAddress(0),
        frame: Some(FrameNumber(4)),
    };
    let mut expected = vec![table(1, 2, 0), table(2, 3, 0), Visit::Changed(changed)];
    expected.extend(small_level_2());
    expected.extend([small_block(), table(2, 5, 0x7f_c000_0000)]);
    assert_eq!(visits.unwrap(), expected);
}

#[test]
fn a_table_that_was_replaced_is_not_entered() {
    let mut source = Source::new(&small(), 4).before_map(|tree, id| {
        if id.level == Level::L3 {
            tree.add_frame(9);
            tree.set_word(9, 0, 0x7000_0703);
            tree.set_word(3, 0, 0x9003);
        }
    });
    let mut walk = Walk::at(&mut source, Level::L2, VirtualAddress(0)).skip(1);
    assert!(matches!(walk.next(), Some(Ok(Visit::Changed(_)))));
    assert_eq!(
        walk.map(Result::unwrap).collect::<Vec<_>>(),
        small_level_2()
    );
}

#[test]
fn an_error_is_the_last_item() {
    let mut source = Source::new(&small(), 4);
    let refusing = source.refusing();
    let mut walk = Walk::new(&mut source);
    assert_eq!(walk.next(), Some(Ok(table(1, 2, 0))));
    refusing.set(true);
    assert_eq!(walk.next(), Some(Err(Refused)));
    refusing.set(false);
    assert_eq!(walk.next(), None);
    assert_eq!(walk.next(), None);
}

/// Returns a tree with every kind of descriptor that is possible at each level, in the first, the last and
/// some entry between, and the visits of a walk of this tree.
fn full(shape: Shape) -> (Tree, Vec<Visit>) {
    let tree = Tree::new(shape);
    // The key is address and level; the value is the word, and whether it is a leaf.
    let mut entries = BTreeMap::new();
    let mut put = |number: i32, address: u64, word: u64, leaf: bool| {
        tree.set(number, address, word);
        entries.insert((address, number), (word, leaf));
    };
    let last = 1 << shape.va_bits;
    let middle = last / 2;
    for number in shape.first()..4 {
        let size = 1 << shape.shift(number);
        // The addresses differ at each level, so that no table takes the entry of a leaf.
        let swap = number == 3 || number > shape.first();
        if number == 3 || shape.block_levels().contains(&number) {
            let target = (0b1001 << (shape.oa_bits - 4)) + size * 3;
            put(
                number,
                if number == 3 { 0 } else { size },
                tree.leaf_word(number, target),
                true,
            );
            put(
                number,
                last - size * if number == 3 { 1 } else { 2 },
                tree.leaf_word(number, target + size),
                true,
            );
        }
        if swap && shape.words(number) > 4 {
            put(number, middle + size * 2, 0x1234_5678_9abc, false);
        }
    }
    // A page without access, and an encoding that is reserved at level 3.
    let page = 1 << shape.page_shift;
    put(3, page, 1 << 58 | tree.leaf_word(3, page) & !3, false);
    put(3, page * 2, tree.leaf_word(3, page) & !2, false);

    let mut visits = BTreeMap::new();
    for (&(address, number), &(word, leaf)) in &entries {
        for above in shape.first()..=number {
            let span = shape.shift(above) + shape.words(above).ilog2();
            let start = address >> span << span;
            let frame = tree.table(above, address).unwrap();
            visits.insert((start, above, false), table(above, frame, start));
        }
        let frame = tree.table(number, address).unwrap();
        let entry = found(number, frame, shape.index(number, address), address, word);
        let visit = if leaf {
            Visit::Leaf(entry)
        } else {
            Visit::NotValid(entry)
        };
        visits.insert((address, number, true), visit);
    }
    (tree, visits.into_values().collect())
}

#[test]
fn trees_of_every_geometry_are_walked_whole() {
    for shape in SHAPES {
        let (tree, expected) = full(shape);
        let tables = expected
            .iter()
            .filter(|visit| matches!(visit, Visit::Table(_)));
        let mut source = Source::new(&tree, 5);
        let calls = source.calls();
        let visits: Result<Vec<_>, _> = Walk::new(&mut source).collect();
        assert_eq!(visits.unwrap(), expected, "{shape:?}");
        assert_eq!(
            calls.get(),
            tables.count(),
            "{shape:?}: one call for each table"
        );
    }
}

#[test]
fn leaves_of_every_geometry_map_to_what_the_builder_said() {
    for shape in SHAPES {
        let (tree, _) = full(shape);
        let geometry = tree.geometry();
        let page = |leaf: &Found| leaf.level == Level::L3;
        let leaves: Vec<_> = walk(&tree)
            .into_iter()
            .filter_map(|visit| match visit {
                Visit::Leaf(leaf) => Some(leaf),
                _ => None,
            })
            .collect();
        let expected = (0b1001 << (shape.oa_bits - 4)) + (3 << shape.page_shift);
        let first = leaves.iter().find(|leaf| page(leaf)).unwrap();
        assert_eq!(first.output_address(&geometry).0, expected, "{shape:?}");
        assert_eq!(first.frame(&geometry).0, expected >> shape.page_shift);
        assert_eq!(
            leaves.len(),
            2 + 2 * shape
                .block_levels()
                .iter()
                .filter(|&&l| l >= shape.first())
                .count()
        );
    }
}

#[test]
fn a_run_without_pages_ends_where_entries_are_0() {
    let tree = Tree::new(SHAPES[0]);
    let page = 1 << SHAPES[0].page_shift;
    // Swapped out to the first area: these words differ from 0 only in the offset.
    for number in [0, 1, 3] {
        tree.set(3, number * page, (number + 5) << 8);
    }
    for ignored in [0, !0] {
        let mut source = Source::new(&tree, 5);
        let runs = Runs::new(Walk::new(&mut source), Merge::Attributes).ignoring(ignored);
        let runs = runs.map(Result::unwrap);
        let runs: Vec<_> = runs.map(|run| (run.address.0, run.entries)).collect();
        assert_eq!(runs, [(0, 2), (3 * page, 1)]);
    }
}
