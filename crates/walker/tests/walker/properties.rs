//! Random words and random changes, against the model.

use proptest::prelude::*;

use tablewalk_walker::{
    Cache, Descriptor, Found, FrameNumber, Kind, TableId, TableVisit, VirtualAddress, Visit, Walk,
    translate,
};

use crate::model::{Meaning, SHAPES, Shape};
use crate::translate::translation;
use crate::tree::{Source, Tree};
use crate::walk::level;

fn shapes() -> impl Strategy<Value = Shape> {
    prop::sample::select(&SHAPES[..])
}

/// Frames of random trees: few, so that tables lead back to each other.
const FRAMES: u64 = 5;

/// What is in a random tree.
#[derive(Clone, Copy, Debug)]
enum Word {
    Any(u64),
    /// Leads to a frame, which exists or not.
    Table(u64),
}

/// A word, and where it goes: a frame, and a place in it.
type Placed = (u64, usize, Word);

fn placed() -> impl Strategy<Value = Placed> {
    let word = prop_oneof![
        any::<u64>().prop_map(Word::Any),
        (0..FRAMES + 2).prop_map(Word::Table),
    ];
    // The first words are those that small addresses use.
    let place = prop_oneof![0..4usize, any::<usize>()];
    (0..FRAMES, place, word)
}

/// The words in frames 1 to `FRAMES`, of which the first is the root.
fn random_tree(shape: Shape, words: &[Placed]) -> Tree {
    let tree = Tree::with_root(shape, 1);
    (2..=FRAMES).for_each(|frame| tree.add_frame(frame));
    for &(frame, index, word) in words {
        let word = match word {
            Word::Any(word) => word,
            Word::Table(frame) => tree.table_word(frame),
        };
        tree.set_word(frame + 1, index % (1 << (shape.page_shift - 3)), word);
    }
    tree
}

/// What a walk of the table in `frame` should visit, until `visits` is as long as `limit`.
fn model_walk(
    tree: &Tree,
    number: u32,
    frame: u64,
    address: u64,
    limit: usize,
    visits: &mut Vec<Visit>,
) {
    let shape = tree.shape;
    visits.push(Visit::Table(TableVisit {
        level: level(number),
        frame: FrameNumber(frame),
        address: VirtualAddress(address),
    }));
    for index in 0..shape.words(number) {
        if visits.len() >= limit {
            return;
        }
        let address = address + ((index as u64) << shape.shift(number));
        let word = tree.word(frame, index).unwrap();
        let found = Found {
            level: level(number),
            table: FrameNumber(frame),
            index,
            address: VirtualAddress(address),
            descriptor: Descriptor(word),
        };
        match shape.meaning(number, word) {
            Meaning::Nothing if word == 0 => {}
            Meaning::Nothing => visits.push(Visit::NotValid(found)),
            Meaning::Leaf(_) => visits.push(Visit::Leaf(found)),
            Meaning::Table(next) if tree.word(next, 0).is_some() => {
                model_walk(tree, number + 1, next, address, limit, visits);
            }
            Meaning::Table(next) => visits.push(Visit::Changed(TableId {
                level: level(number + 1),
                address: VirtualAddress(address),
                frame: Some(FrameNumber(next)),
            })),
        }
    }
}

/// A change of a tree.
#[derive(Clone, Copy, Debug)]
enum Change {
    Page(u64),
    Block(u64),
    /// Any word in the place of a page.
    Word(u64),
    Unmap(u32),
    Nothing,
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<u64>().prop_map(Change::Page),
        any::<u64>().prop_map(Change::Block),
        any::<u64>().prop_map(Change::Word),
        (1..4u32).prop_map(Change::Unmap),
        Just(Change::Nothing),
    ]
}

/// Makes the change at `address` as a kernel would, breaking before making.
fn apply(tree: &Tree, address: u64, change: Change) {
    let shape = tree.shape;
    match change {
        Change::Page(target) => {
            let blocks = shape.first().max(1)..3;
            let block = blocks.rev().find(|&number| {
                tree.table(number, address).is_some() && tree.table(number + 1, address).is_none()
            });
            if let Some(number) = block {
                tree.unmap(number, address);
            }
            let target = target % (1 << shape.oa_bits);
            let target = target - target % (1 << shape.page_shift);
            tree.set(3, address, tree.leaf_word(3, target));
        }
        Change::Block(target) if tree.table(2, address).is_some() => {
            tree.unmap(2, address);
            let target = target % (1 << shape.oa_bits);
            let target = target - target % (1 << shape.shift(2));
            tree.set(2, address, tree.leaf_word(2, target));
        }
        Change::Word(word) if tree.table(3, address).is_some() => tree.set(3, address, word),
        Change::Unmap(number) if number >= shape.first() => tree.unmap(number, address),
        Change::Block(_) | Change::Word(_) | Change::Unmap(_) | Change::Nothing => {}
    }
}

/// An address in one of the few ranges and parents that share places in a small cache.
fn addresses(shape: Shape) -> impl Strategy<Value = u64> {
    let (parent, range) = (0..3u64, 0..4u64);
    // The first pages and the last one of a range.
    let page = prop::sample::select(vec![0, 1, shape.words(3) as u64 - 1]);
    (parent, range, page, any::<u16>()).prop_map(move |(parent, range, page, offset)| {
        let parents = shape.shift(2) + shape.words(2).ilog2();
        let address = parent << parents | range << shape.shift(2) | page << shape.page_shift;
        let offset = u64::from(offset) % (1 << shape.page_shift);
        (address | offset) % (1 << shape.va_bits)
    })
}

/// Changes at addresses, and then an address that is looked at.
type Step = (Vec<(u64, Change)>, u64);

fn histories() -> impl Strategy<Value = (Shape, Vec<Step>)> {
    shapes().prop_flat_map(|shape| {
        let changes = prop::collection::vec((addresses(shape), changes()), 0..4);
        let step = (changes, addresses(shape));
        (Just(shape), prop::collection::vec(step, 1..40))
    })
}

proptest! {
    #[test]
    fn any_word_is_decoded_as_the_model_decodes_it(shape in shapes(), word: u64, number in 0..4u32) {
        let geometry = Tree::new(shape).geometry();
        let (descriptor, level) = (Descriptor(word), level(number));
        let meaning = match descriptor.kind(&geometry, level) {
            Kind::Invalid => Meaning::Nothing,
            Kind::Table => Meaning::Table(descriptor.next_table(&geometry).0),
            Kind::Block | Kind::Page => Meaning::Leaf(descriptor.output_address(&geometry, level).0),
        };
        prop_assert_eq!(meaning, shape.meaning(number, word));
    }

    #[test]
    fn any_address_has_the_indices_of_the_model(shape in shapes(), address: u64) {
        let geometry = Tree::new(shape).geometry();
        for number in shape.first()..4 {
            let level = level(number);
            prop_assert_eq!(geometry.entries(level), shape.words(number));
            prop_assert_eq!(geometry.index(level, VirtualAddress(address)), shape.index(number, address));
        }
    }

    #[test]
    fn random_memory_is_translated_as_the_model_translates_it(
        shape in shapes(),
        words in prop::collection::vec(placed(), 0..40),
        addresses in prop::collection::vec(any::<u64>(), 1..8),
    ) {
        let tree = random_tree(shape, &words);
        let mut cache = Cache::<_, 2, 1>::new(Source::new(&tree, 4)).unwrap();
        let mut source = Source::new(&tree, 1);
        for address in addresses {
            // Anywhere, and where the first words are used.
            for address in [address, address % (1 << shape.va_bits), address % (1 << (shape.page_shift + 2))] {
                let expected = translation(tree.translate(address));
                let address = VirtualAddress(address);
                prop_assert_eq!(translate(&mut source, address), Ok(expected));
                prop_assert_eq!(cache.translate(address), Ok(expected));
                prop_assert_eq!(cache.translate(address), Ok(expected));
            }
        }
    }

    #[test]
    fn random_memory_is_walked_as_the_model_walks_it(
        shape in shapes(),
        words in prop::collection::vec(placed(), 0..40),
    ) {
        const LIMIT: usize = 300;
        let tree = random_tree(shape, &words);
        let mut expected = Vec::new();
        model_walk(&tree, shape.first(), tree.root, 0, LIMIT, &mut expected);
        expected.truncate(LIMIT);
        let mut source = Source::new(&tree, 4);
        let visits: Result<Vec<_>, _> = Walk::new(&mut source).take(LIMIT).collect();
        prop_assert_eq!(visits.unwrap(), expected);
    }

    #[test]
    fn a_cache_never_answers_from_the_past((shape, steps) in histories()) {
        let tree = Tree::new(shape);
        let mut cache = Cache::<_, 2, 2>::new(Source::new(&tree, 5)).unwrap();
        for (changes, address) in steps {
            for (place, change) in changes {
                apply(&tree, place, change);
            }
            let expected = translation(tree.translate(address));
            if let Some(hit) = cache.lookup(VirtualAddress(address)) {
                prop_assert_eq!(hit, expected);
            }
            if let Some(hit) = cache.physical(VirtualAddress(address)) {
                prop_assert_eq!(Some(hit), expected.physical());
            }
            prop_assert_eq!(cache.translate(VirtualAddress(address)), Ok(expected));
        }
    }
}
