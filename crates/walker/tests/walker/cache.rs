//! Tests of the cache: what it returns without asking the source, and that it never returns stale results.

use std::cell::Cell;
use std::rc::Rc;

use tablewalk_walker::{
    Cache, CacheError, Descriptor, Level, Moves, PhysicalAddress, Translation, VirtualAddress,
};

use crate::model::{SHAPES, Shape};
use crate::translate::translation;
use crate::tree::{Refused, Source, Tree};

/// Four leaf tables, two level-2 tables.
type Small = Cache<Source, 4, 2>;

const SHAPE: Shape = Shape {
    page_shift: 12,
    va_bits: 48,
    oa_bits: 48,
};
const RANGE: u64 = 1 << 21;
const PARENT: u64 = 1 << 30;

/// Returns a tree with one page at `address`, a cache that has it, and the number of calls of the source.
fn warm(shape: Shape, address: u64) -> (Tree, Small, Rc<Cell<usize>>) {
    let tree = Tree::new(shape);
    tree.set(3, address, tree.leaf_word(3, 1 << 16));
    let (mut cache, calls) = small(&tree);
    assert_eq!(cache.lookup(VirtualAddress(address)), None);
    assert_eq!(physical(&mut cache, address), Some(1 << 16));
    (tree, cache, calls)
}

fn small(tree: &Tree) -> (Small, Rc<Cell<usize>>) {
    let source = Source::new(tree, Small::SLOTS);
    let calls = source.calls();
    (Small::new(source).unwrap(), calls)
}

fn physical(cache: &mut Small, address: u64) -> Option<u64> {
    let translated = cache.translate(VirtualAddress(address)).unwrap();
    translated.physical().map(|physical| physical.0)
}

fn is_cached(cache: &Small, address: u64) -> bool {
    cache.lookup(VirtualAddress(address)).is_some()
}

#[test]
fn the_physical_address_is_that_of_a_lookup() {
    for shape in SHAPES {
        let (tree, mut cache, _) = warm(shape, 0);
        let range = 1 << shape.shift(2);
        tree.set(2, range, tree.leaf_word(2, 0));
        assert_eq!(physical(&mut cache, range + 5), Some(5));
        let page = 1 << shape.page_shift;
        for address in [0, 7, page, range, range + 0x1234, 2 * range, u64::MAX] {
            let address = VirtualAddress(address);
            let looked_up = cache.lookup(address).and_then(Translation::physical);
            assert_eq!(cache.physical(address), looked_up, "{shape:?}");
        }
    }
}

#[test]
fn a_warm_translation_calls_no_source_in_any_geometry() {
    for shape in SHAPES {
        let address = 1 << (shape.va_bits - 1);
        let (_tree, mut cache, calls) = warm(shape, address);
        calls.set(0);
        assert_eq!(physical(&mut cache, address + 5), Some((1 << 16) + 5));
        assert_eq!(calls.get(), 0, "{shape:?}");
    }
}

#[test]
fn a_cold_translation_maps_the_parent_once_and_each_leaf_table_once() {
    let (tree, mut cache, calls) = warm(SHAPE, 0);
    assert_eq!(calls.get(), 2);
    tree.set(3, RANGE, tree.leaf_word(3, 0x2000));
    assert_eq!(physical(&mut cache, RANGE), Some(0x2000));
    assert_eq!(calls.get(), 3);
}

#[test]
fn a_change_in_the_leaf_table_is_seen_without_the_source() {
    let (tree, mut cache, calls) = warm(SHAPE, 0);
    calls.set(0);
    tree.set(3, 0, tree.leaf_word(3, 0x7000));
    assert_eq!(physical(&mut cache, 0), Some(0x7000));
    tree.set(3, 0, 0);
    let fault = Translation::Fault {
        level: Level::L3,
        descriptor: Descriptor::ZERO,
    };
    assert_eq!(cache.lookup(VirtualAddress(0)), Some(fault));
    assert_eq!(calls.get(), 0);
}

#[test]
fn a_cleared_parent_entry_is_a_miss_and_then_a_fault() {
    for shape in SHAPES {
        let (tree, mut cache, _) = warm(shape, 0);
        tree.unmap(2, 0);
        assert!(!is_cached(&cache, 0), "{shape:?}");
        let fault = cache.translate(VirtualAddress(0)).unwrap();
        assert_eq!(fault, translation((2, 0, None)), "{shape:?}");
        assert!(!is_cached(&cache, 0), "{shape:?}");
    }
}

#[test]
fn a_replaced_leaf_table_gives_a_new_answer() {
    for shape in SHAPES {
        let (tree, mut cache, _) = warm(shape, 0);
        tree.unmap(2, 0);
        tree.set(3, 0, tree.leaf_word(3, 1 << 17));
        assert!(!is_cached(&cache, 0), "{shape:?}");
        assert_eq!(physical(&mut cache, 0), Some(1 << 17), "{shape:?}");
        assert!(is_cached(&cache, 0), "{shape:?}");
    }
}

#[test]
fn a_replaced_level_2_table_gives_a_new_answer() {
    for shape in SHAPES.into_iter().filter(|shape| shape.first() < 2) {
        let (tree, mut cache, _) = warm(shape, 0);
        tree.unmap(1, 0);
        assert!(!is_cached(&cache, 0), "{shape:?}");
        tree.set(3, 0, tree.leaf_word(3, 1 << 17));
        assert!(!is_cached(&cache, 0), "{shape:?}");
        assert_eq!(physical(&mut cache, 0), Some(1 << 17), "{shape:?}");
        assert!(is_cached(&cache, 0), "{shape:?}");
    }
}

#[test]
fn a_table_collapsed_to_a_block_and_split_again_gives_new_answers() {
    for shape in SHAPES {
        let (tree, mut cache, calls) = warm(shape, 0);
        tree.unmap(2, 0);
        let block = 5 << shape.shift(2);
        tree.set(2, 0, tree.leaf_word(2, block));
        assert_eq!(
            physical(&mut cache, 0x1234),
            Some(block + 0x1234),
            "{shape:?}"
        );
        calls.set(0);
        assert_eq!(
            physical(&mut cache, 0x4321),
            Some(block + 0x4321),
            "{shape:?}"
        );
        assert_eq!(calls.get(), 0, "{shape:?}: blocks are cached");

        tree.unmap(2, 0);
        assert!(!is_cached(&cache, 0), "{shape:?}");
        tree.set(3, 0, tree.leaf_word(3, 1 << 17));
        assert_eq!(physical(&mut cache, 0), Some(1 << 17), "{shape:?}");
    }
}

#[test]
fn a_cached_block_that_is_unmapped_is_a_miss() {
    for shape in SHAPES {
        let tree = Tree::new(shape);
        tree.set(2, 0, tree.leaf_word(2, 0));
        let (mut cache, _) = small(&tree);
        assert_eq!(physical(&mut cache, 5), Some(5));
        assert!(is_cached(&cache, 0), "{shape:?}");
        tree.unmap(2, 0);
        assert!(!is_cached(&cache, 0), "{shape:?}");
        assert_eq!(physical(&mut cache, 5), None, "{shape:?}");
        tree.set(3, 0, tree.leaf_word(3, 1 << 16));
        assert_eq!(physical(&mut cache, 5), Some((1 << 16) + 5), "{shape:?}");
    }
}

#[test]
fn ranges_in_the_same_place_evict_each_other() {
    let (tree, mut cache, _) = warm(SHAPE, 0);
    tree.set(3, 4 * RANGE, tree.leaf_word(3, 0x2000));
    for _ in 0..3 {
        assert_eq!(physical(&mut cache, 4 * RANGE), Some(0x2000));
        assert!(!is_cached(&cache, 0));
        assert_eq!(physical(&mut cache, 0), Some(0x1_0000));
        assert!(!is_cached(&cache, 4 * RANGE));
    }
}

#[test]
fn ranges_in_different_places_stay() {
    let (tree, mut cache, _) = warm(SHAPE, 0);
    for range in 1..4 {
        tree.set(3, range * RANGE, tree.leaf_word(3, range << 16));
        assert_eq!(physical(&mut cache, range * RANGE), Some(range << 16));
    }
    assert!((0..4).all(|range| is_cached(&cache, range * RANGE)));
}

#[test]
fn a_parent_that_is_evicted_takes_its_leaves_along() {
    let (tree, mut cache, _) = warm(SHAPE, 0);
    // This range has the same slot for its parent and another one for its leaf table: only the parent
    // conflicts.
    let other = 2 * PARENT + RANGE;
    tree.set(3, other, tree.leaf_word(3, 0x2000));
    assert_eq!(physical(&mut cache, other), Some(0x2000));
    assert!(!is_cached(&cache, 0));
    assert!(is_cached(&cache, other));
    assert_eq!(physical(&mut cache, 0), Some(0x1_0000));
    assert!(!is_cached(&cache, other));
}

#[test]
fn a_block_does_not_survive_the_parent_that_it_was_read_from() {
    let (tree, mut cache, _) = warm(SHAPE, 0);
    tree.set(2, RANGE, tree.leaf_word(2, 0x4000_0000));
    assert_eq!(physical(&mut cache, RANGE), Some(0x4000_0000));
    // The same word at the same index of the next parent in this slot.
    tree.set(2, 2 * PARENT + RANGE, tree.leaf_word(2, 0x4000_0000));
    assert_eq!(physical(&mut cache, 2 * PARENT), None);
    tree.set(2, RANGE, 0);
    assert!(!is_cached(&cache, RANGE));
}

/// A kernel with `HAVE_MOVE_PUD` moves a table of level 2 from 0 to `to`. Returns the cache that had the page at 0.
fn moved(shape: Shape, moves: Moves) -> (Tree, Small, u64) {
    let tree = Tree::new(shape);
    // Its parent has another slot of the cache.
    let to = 1 << (shape.shift(2) + shape.words(2).ilog2());
    tree.set(3, 0, tree.leaf_word(3, 1 << 16));
    // A table to move to, as move_page_tables() allocates it.
    tree.set(1, to, 0);
    let source = Source::new(&tree, Small::SLOTS).moving(moves);
    let mut cache = Small::new(source).unwrap();
    assert_eq!(physical(&mut cache, 0), Some(1 << 16));
    tree.move_table(1, 0, to);
    (tree, cache, to)
}

#[test]
fn a_level_2_table_that_is_moved_takes_its_translations_along() {
    for shape in SHAPES {
        if Tree::new(shape).geometry().root_level() == Level::L2 {
            continue;
        }
        for moves in [Moves::Seen, Moves::Unseen] {
            let (tree, mut cache, to) = moved(shape, moves);
            assert_eq!(cache.physical(VirtualAddress(0)), None, "{shape:?}");
            assert_eq!(physical(&mut cache, 0), None, "{shape:?}");
            assert_eq!(physical(&mut cache, to), Some(1 << 16), "{shape:?}");
            // Another table at the old place.
            tree.set(3, 0, tree.leaf_word(3, 1 << 17));
            // The leaf tables share a place.
            for (address, page) in [(0, 1 << 17), (to, 1 << 16)] {
                assert_eq!(physical(&mut cache, address), Some(page), "{shape:?}");
                let is_cached = is_cached(&cache, address);
                assert_eq!(is_cached, moves == Moves::Seen, "{shape:?} {address:#x}");
            }
        }
    }
}

#[test]
fn where_level_2_tables_are_moved_a_warm_translation_calls_no_source_either() {
    for shape in SHAPES {
        let tree = Tree::new(shape);
        tree.set(3, 0, tree.leaf_word(3, 1 << 16));
        let source = Source::new(&tree, Small::SLOTS).moving(Moves::Seen);
        let calls = source.calls();
        let mut cache = Small::new(source).unwrap();
        assert_eq!(physical(&mut cache, 0), Some(1 << 16));
        calls.set(0);
        assert_eq!(physical(&mut cache, 5), Some((1 << 16) + 5));
        assert_eq!(
            cache.physical(VirtualAddress(5)),
            Some(PhysicalAddress((1 << 16) + 5))
        );
        assert_eq!(calls.get(), 0, "{shape:?}");
    }
}

#[test]
fn parents_in_different_places_stay() {
    let (tree, mut cache, _) = warm(SHAPE, 0);
    let other = PARENT + RANGE;
    tree.set(3, other, tree.leaf_word(3, 0x2000));
    assert_eq!(physical(&mut cache, other), Some(0x2000));
    assert!(is_cached(&cache, 0) && is_cached(&cache, other));
}

#[test]
fn evict_drops_one_range_and_clear_all() {
    let (tree, mut cache, _) = warm(SHAPE, 0);
    tree.set(3, RANGE, tree.leaf_word(3, 0x2000));
    assert_eq!(cache.insert(VirtualAddress(RANGE)), Ok(true));
    cache.evict(VirtualAddress(RANGE + 0x1_2345));
    assert!(is_cached(&cache, 0) && !is_cached(&cache, RANGE));
    assert_eq!(cache.insert(VirtualAddress(RANGE)), Ok(true));
    cache.clear();
    assert!(!is_cached(&cache, 0) && !is_cached(&cache, RANGE));
    assert_eq!(physical(&mut cache, RANGE), Some(0x2000));
}

#[test]
fn insert_says_whether_there_is_something_to_cache() {
    let tree = Tree::new(SHAPE);
    tree.set(3, 0, 0);
    tree.set(2, RANGE, tree.leaf_word(2, 0));
    tree.set(2, 2 * RANGE, 0x1234_5678);
    tree.set(1, PARENT, tree.leaf_word(1, 0));
    let (mut cache, _) = small(&tree);
    for (address, cached) in [
        (0, true),
        (RANGE, true),
        (2 * RANGE, false),
        (3 * RANGE, false),
        (PARENT, false),
        (1 << 47, false),
        (1 << 48, false),
        (u64::MAX, false),
    ] {
        assert_eq!(
            cache.insert(VirtualAddress(address)),
            Ok(cached),
            "{address:#x}"
        );
        assert_eq!(is_cached(&cache, address), cached, "{address:#x}");
    }
}

#[test]
fn what_cannot_be_cached_is_answered_all_the_same() {
    let tree = Tree::new(SHAPE);
    tree.set(1, PARENT, tree.leaf_word(1, 0x40_0000_0000));
    tree.set(2, 0, 0x1234_5678);
    let (mut cache, _) = small(&tree);
    for address in [PARENT + 0x1234, 0, 2 * PARENT, 1 << 47, 1 << 48, u64::MAX] {
        let answer = cache.translate(VirtualAddress(address));
        assert_eq!(
            answer,
            Ok(translation(tree.translate(address))),
            "{address:#x}"
        );
    }
}

#[test]
fn a_leaf_table_that_vanishes_while_it_is_inserted_is_not_cached() {
    let tree = Tree::new(SHAPE);
    tree.set(3, 0, tree.leaf_word(3, 0x1000));
    let source = Source::new(&tree, Small::SLOTS).before_map(|tree, id| {
        if id.level == Level::L3 {
            tree.unmap(2, 0);
        }
    });
    let mut cache = Small::new(source).unwrap();
    assert_eq!(cache.insert(VirtualAddress(0)), Ok(false));
    assert!(!is_cached(&cache, 0));
}

#[test]
fn a_leaf_table_that_is_replaced_while_it_is_inserted_is_not_taken_for_the_old_one() {
    let tree = Tree::new(SHAPE);
    tree.set(3, 0, tree.leaf_word(3, 0x1000));
    let source = Source::new(&tree, Small::SLOTS).before_map(|tree, id| {
        if id.level == Level::L3 && tree.translate(0).2 == Some(0x1000) {
            tree.unmap(2, 0);
            tree.set(3, 0, tree.leaf_word(3, 0x2000));
        }
    });
    let mut cache = Small::new(source).unwrap();
    assert_eq!(cache.insert(VirtualAddress(0)), Ok(false));
    assert_eq!(physical(&mut cache, 0), Some(0x2000));
}

#[test]
fn a_failed_insert_does_not_leave_the_range_that_was_in_its_place() {
    let other = 4 * RANGE;
    let tree = Tree::new(SHAPE);
    tree.set(3, 0, tree.leaf_word(3, 0x1000));
    tree.set(3, other, tree.leaf_word(3, 0x2000));
    let source = Source::new(&tree, Small::SLOTS).before_map(move |tree, id| {
        if id.level == Level::L3 && id.address.0 == other {
            tree.unmap(2, other);
            tree.set(3, other, tree.leaf_word(3, 0x3000));
        }
    });
    let mut cache = Small::new(source).unwrap();
    assert_eq!(physical(&mut cache, 0), Some(0x1000));
    // The slot of the leaf table now has the new table of the other range.
    assert_eq!(cache.insert(VirtualAddress(other)), Ok(false));
    assert!(!is_cached(&cache, 0));
    assert_eq!(physical(&mut cache, 0), Some(0x1000));
}

#[test]
fn an_address_out_of_range_asks_the_source_nothing_and_keeps_the_parents() {
    for shape in SHAPES {
        let (_tree, mut cache, calls) = warm(shape, 0);
        calls.set(0);
        // This address belongs to the slot of another leaf.
        let outside = (1 << shape.va_bits) + (1 << shape.shift(2));
        assert_eq!(physical(&mut cache, outside), None);
        assert_eq!(calls.get(), 0, "{shape:?}");
        assert!(is_cached(&cache, 0), "{shape:?}");
    }
}

#[test]
fn a_source_that_fails_leaves_a_cache_that_is_right() {
    let (tree, _, _) = warm(SHAPE, 0);
    tree.set(3, 4 * RANGE, tree.leaf_word(3, 0x2000));
    let source = Source::new(&tree, Small::SLOTS);
    let refusing = source.refusing();
    let mut cache = Small::new(source).unwrap();
    assert_eq!(physical(&mut cache, 0), Some(0x1_0000));
    refusing.set(true);
    // One address needs a new parent, the other a leaf table under the old one.
    for address in [2 * PARENT, 4 * RANGE] {
        assert_eq!(cache.insert(VirtualAddress(address)), Err(Refused));
        assert_eq!(cache.translate(VirtualAddress(address)), Err(Refused));
        assert!(!is_cached(&cache, 0) && !is_cached(&cache, address));
    }
    refusing.set(false);
    assert_eq!(physical(&mut cache, 4 * RANGE), Some(0x2000));
    assert_eq!(physical(&mut cache, 0), Some(0x1_0000));
}

#[test]
fn a_source_with_too_few_slots_is_refused_with_the_numbers() {
    let tree = Tree::new(SHAPE);
    assert_eq!(Small::SLOTS, 4 + 2 + 1 + 2);
    let error = Small::new(Source::new(&tree, 8)).map(drop);
    assert_eq!(
        error,
        Err(CacheError {
            slots: 8,
            needed: 9
        })
    );
    assert!(Small::new(Source::new(&tree, 9)).is_ok());
}

#[test]
fn an_entry_for_writing_is_cached_like_a_translation() {
    for shape in SHAPES {
        let address = 1 << shape.page_shift;
        let (tree, mut cache, calls) = warm(shape, address);
        calls.set(0);
        let found = VirtualAddress(address + 7);
        let entry = cache.entry_mut(found).unwrap().unwrap();
        assert_eq!(entry.load(), Descriptor(tree.leaf_word(3, 1 << 16)));
        assert_eq!(calls.get(), 0, "{shape:?}");

        tree.unmap(2, address);
        assert!(cache.entry_mut(found).unwrap().is_none(), "{shape:?}");
        tree.set(2, address, tree.leaf_word(2, 0));
        assert!(cache.entry_mut(found).unwrap().is_none(), "{shape:?}");
        let outside = VirtualAddress(1 << shape.va_bits);
        assert!(cache.entry_mut(outside).unwrap().is_none(), "{shape:?}");
    }
}

#[test]
fn the_smallest_cache_is_right() {
    let tree = Tree::new(SHAPE);
    let mut cache = Cache::<_, 1, 1>::new(Source::new(&tree, 4)).unwrap();
    for address in [0, RANGE, PARENT, 1 << 39].into_iter().cycle().take(8) {
        tree.set(3, address, tree.leaf_word(3, address & !0xfff));
        let translated = cache.translate(VirtualAddress(address + 1)).unwrap();
        assert_eq!(translated.physical(), Some(PhysicalAddress(address + 1)));
    }
}
