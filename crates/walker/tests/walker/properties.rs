//! Compares the walker with the model, on tables of random words and with random changes.

use proptest::prelude::*;

use tablewalk_walker::{
    Absent, Cache, Descriptor, Found, FrameNumber, Kind, Limits, Linux, Merge, Moves, Permissions,
    Run, Runs, TableId, TableVisit, VirtualAddress, Visit, Walk, translate,
};

use crate::model::{Meaning, SHAPES, Shape};
use crate::translate::translation;
use crate::tree::{Source, Tree};
use crate::walk::level;

pub(crate) fn shapes() -> impl Strategy<Value = Shape> {
    prop::sample::select(&SHAPES[..])
}

/// Number of frames in a random tree: few, so that tables often lead to each other in a circle.
const FRAMES: u64 = 5;

/// A word in a random tree.
#[derive(Clone, Copy, Debug)]
enum Word {
    Any(u64),
    /// A table descriptor for a frame, which need not exist.
    Table(u64),
}

/// The frame for a word, the index in this frame, and the word.
type Placed = (u64, usize, Word);

fn placed() -> impl Strategy<Value = Placed> {
    let word = prop_oneof![
        any::<u64>().prop_map(Word::Any),
        (0..FRAMES + 2).prop_map(Word::Table),
    ];
    // Small addresses use the first words.
    let place = prop_oneof![0..4usize, any::<usize>()];
    (0..FRAMES, place, word)
}

/// Returns a tree with these words in frames 1 to `FRAMES`; frame 1 is the root.
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

/// Adds to `visits` what a walk of the table in `frame` should visit, up to `limit` elements.
fn model_walk(
    tree: &Tree,
    number: i32,
    frame: u64,
    address: u64,
    hierarchy: u64,
    limit: usize,
    visits: &mut Vec<Visit>,
) {
    let limits = Limits::NONE.below(Descriptor(hierarchy));
    let shape = tree.shape;
    visits.push(Visit::Table(TableVisit {
        level: level(number),
        frame: FrameNumber(frame),
        address: VirtualAddress(address),
        limits,
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
            limits,
        };
        match shape.meaning(number, word) {
            Meaning::Nothing if word == 0 => {}
            Meaning::Nothing => visits.push(Visit::NotValid(found)),
            Meaning::Leaf(_) => visits.push(Visit::Leaf(found)),
            Meaning::Table(next) if tree.word(next, 0).is_some() => {
                // Bits 62:59 of a table descriptor apply to everything below it.
                let hierarchy = hierarchy | word & 0xf << 59;
                model_walk(tree, number + 1, next, address, hierarchy, limit, visits);
            }
            Meaning::Table(next) => visits.push(Visit::Changed(TableId {
                level: level(number + 1),
                address: VirtualAddress(address),
                frame: Some(FrameNumber(next)),
            })),
        }
    }
}

/// Read, write and execute at EL0 and EL1, from the tables of the Arm ARM: "Data access permissions"
/// for stage 1, two privilege levels, and "Instruction access permissions".
fn permissions(leaf: u64, tables: &[u64]) -> [[bool; 3]; 2] {
    let bit = |word: u64, number: i32| word >> number & 1 == 1;
    let any = |number| tables.iter().any(|&table| bit(table, number));
    let [mut el0, mut el1] = match (bit(leaf, 7), bit(leaf, 6)) {
        (false, false) => [(false, false), (true, true)],
        (false, true) => [(true, true), (true, true)],
        (true, false) => [(false, false), (true, false)],
        (true, true) => [(true, false), (true, false)],
    };
    if any(61) {
        el0 = (false, false);
    }
    if any(62) {
        (el0.1, el1.1) = (false, false);
    }
    let el0_execute = !bit(leaf, 54) && !any(60);
    let el1_execute = !bit(leaf, 53) && !any(59) && !el0.1;
    [[el0.0, el0.1, el0_execute], [el1.0, el1.1, el1_execute]]
}

/// Returns the expected runs, found by comparing each entry with the previous one.
fn model_runs(tree: &Tree, frames: bool, ignored: u64, wanted: (u64, u64)) -> Vec<Run> {
    let shape = tree.shape;
    let geometry = tree.geometry();
    let mut runs: Vec<(Run, u64)> = Vec::new();
    for visit in Walk::new(&mut Source::new(tree, 5)).map(Result::unwrap) {
        let (Visit::Leaf(found) | Visit::NotValid(found)) = visit else {
            continue;
        };
        let word = found.descriptor.0;
        if word & wanted.0 != wanted.1 {
            continue;
        }
        let number = i32::from(found.level.number());
        let size = 1 << shape.shift(number);
        let output = found.output_address(&geometry).0;
        // `pte_present` and `pmd_present` of 6.1.
        let present_bits = if number == 3 {
            1 | 1 << 58
        } else {
            1 | 3 << 58
        };
        let present = |word: u64| word & present_bits != 0;
        let address_bits = match (shape.oa_bits, shape.page_shift) {
            (52, 16) => ((1 << 48) - size) | 0xf000,
            (52, _) => ((1 << 50) - size) | 0x300,
            _ => (1 << 48) - size,
        };
        let attributes = |word: u64| {
            if present(word) {
                word & !address_bits & !(1 << 52) & !(ignored & !present_bits)
            } else {
                word & (0b11 | 31 << 3 | present_bits) & !(ignored & !present_bits)
            }
        };
        if let Some((run, next_output)) = runs.last_mut()
            && run.address.0 + run.entries * size == found.address.0
            && run.level == found.level
            && run.limits == found.limits
            && present(run.descriptor.0) == present(word)
            && attributes(run.descriptor.0) == attributes(word)
            && (!frames || !present(word) || *next_output == output)
        {
            run.entries += 1;
            *next_output = output + size;
            continue;
        }
        let run = Run {
            address: found.address,
            level: found.level,
            descriptor: found.descriptor,
            limits: found.limits,
            entries: 1,
        };
        runs.push((run, output + size));
    }
    runs.into_iter().map(|(run, _)| run).collect()
}

/// Maps as many consecutive pages as three contiguous blocks have, with `bits` changed in each entry. The last
/// ones are in the next table.
fn set_pages(tree: &Tree, bits: impl Fn(usize) -> u64) {
    let shape = tree.shape;
    let block = contiguous_pages(shape);
    let start = (1 << shape.shift(2)) - ((2 * block as u64) << shape.page_shift);
    for page in 0..3 * block {
        let offset = (page as u64) << shape.page_shift;
        let word = tree.leaf_word(3, (9 << shape.shift(2)) + offset);
        tree.set(3, start + offset, word ^ bits(page));
    }
}

/// Returns the number of pages of a contiguous block (Arm ARM, "The Contiguous bit").
fn contiguous_pages(shape: Shape) -> usize {
    match shape.page_shift {
        12 => 16,
        14 => 128,
        _ => 32,
    }
}

/// Returns the bits of the pages of one block after gathering, as `contpte_ptep_get` of Linux does it.
fn gathered(bits: &[u64]) -> Vec<u64> {
    const CONTIGUOUS: u64 = 1 << 52;
    const AF: u64 = 1 << 10;
    let dirty = |word: u64| word & 1 << 55 != 0 || word & 1 << 51 != 0 && word & 1 << 7 == 0;
    // A leaf of a tree has the access flag, which is cleared if it is set in `bits`.
    let of_block = || bits.iter().filter(|&&word| word & CONTIGUOUS != 0);
    let any_accessed = of_block().any(|word| word & AF == 0);
    let any_dirty = of_block().any(|&word| dirty(word));
    let gather = |&word: &u64| {
        if word & CONTIGUOUS == 0 {
            return word;
        }
        let word = if any_accessed { word & !AF } else { word };
        match (any_dirty, word & 1 << 51 != 0) {
            (false, _) => word,
            (true, true) => (word | 1 << 55) & !(1 << 7),
            (true, false) => word | 1 << 55,
        }
    };
    bits.iter().map(gather).collect()
}

/// A change of a tree.
#[derive(Clone, Copy, Debug)]
enum Change {
    Page(u64),
    Block(u64),
    /// Any word as the level-3 entry.
    Word(u64),
    Unmap(i32),
    /// Moves the level-2 table to the place of that which translates the other address.
    Move(u64),
    Nothing,
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<u64>().prop_map(Change::Page),
        any::<u64>().prop_map(Change::Block),
        any::<u64>().prop_map(Change::Word),
        (0..4i32).prop_map(Change::Unmap),
        Just(Change::Nothing),
    ]
}

/// Makes the change at `address` as a kernel would, with break-before-make.
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
        Change::Move(to) if shape.first() < 2 && tree.table(2, address).is_some() => {
            let parent = shape.shift(2) + shape.words(2).ilog2();
            if address >> parent != to >> parent {
                // As move_page_tables(): there is a table to move into, and its entry is empty.
                tree.unmap(1, to);
                tree.set(1, to, 0);
                tree.move_table(1, address, to);
            }
        }
        Change::Block(_)
        | Change::Word(_)
        | Change::Unmap(_)
        | Change::Move(_)
        | Change::Nothing => {}
    }
}

/// An address in one of a few ranges and parents, some of which share a slot of a small cache.
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

/// Changes at addresses, and an address to look up after them.
type Step = (Vec<(u64, Change)>, u64);

fn histories() -> impl Strategy<Value = (Shape, Vec<Step>)> {
    histories_of(|_| changes())
}

/// Histories in which tables of level 2 are moved, too.
fn moving_histories() -> impl Strategy<Value = (Shape, Vec<Step>)> {
    histories_of(|shape| prop_oneof![3 => changes(), 1 => addresses(shape).prop_map(Change::Move)])
}

fn histories_of<C: Strategy<Value = Change>>(
    changes: impl Fn(Shape) -> C,
) -> impl Strategy<Value = (Shape, Vec<Step>)> {
    shapes().prop_flat_map(move |shape| {
        let changes = prop::collection::vec((addresses(shape), changes(shape)), 0..4);
        let step = (changes, addresses(shape));
        (Just(shape), prop::collection::vec(step, 1..40))
    })
}

proptest! {
    #[test]
    fn any_word_is_decoded_as_the_model_decodes_it(shape in shapes(), word: u64, number in -1..4i32) {
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
        let mut cache = Cache::<_, 2, 1>::new(Source::new(&tree, Cache::<Source, 2, 1>::SLOTS)).unwrap();
        let mut source = Source::new(&tree, 1);
        for address in addresses {
            // The address itself, and two smaller ones, which use the first words.
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
        model_walk(&tree, shape.first(), tree.root, 0, 0, LIMIT, &mut expected);
        expected.truncate(LIMIT);
        let mut source = Source::new(&tree, 5);
        let visits: Result<Vec<_>, _> = Walk::new(&mut source).take(LIMIT).collect();
        prop_assert_eq!(visits.unwrap(), expected);
    }

    #[test]
    fn permissions_are_those_of_the_model(leaf: u64, tables in prop::collection::vec(any::<u64>(), 0..4)) {
        let limits = tables.iter().fold(Limits::NONE, |limits, &table| limits.below(Descriptor(table)));
        let found = Permissions::new(Descriptor(leaf), limits);
        let expected = permissions(leaf, &tables);
        let bits = [found.el0, found.el1].map(|access| [access.read, access.write, access.execute]);
        prop_assert_eq!(bits, expected);
    }

    #[test]
    fn an_entry_that_is_not_valid_is_what_linux_made_it(shape in shapes(), kind in 0..32u64, offset: u64) {
        let geometry = Tree::new(shape).geometry();
        let offset = offset % (1 << 50);
        // `__swp_entry` of arch/arm64/include/asm/pgtable.h.
        let absent = Linux::V6_1.absent(Descriptor(kind << 3 | offset << 8), &geometry, level(3));
        let frame = FrameNumber(offset % (1 << (shape.oa_bits - shape.page_shift)));
        // include/linux/swap.h, from the top down: swap-in error, marker, device, migration, hardware poison.
        let expected = match kind {
            31 => Absent::Unknown,
            30 => Absent::Marker { marks: offset },
            26..=29 => Absent::Device { frame },
            25 => Absent::Migration { frame, writable: true },
            23 | 24 => Absent::Migration { frame, writable: false },
            22 => Absent::HardwarePoison { frame },
            _ if kind == 0 && offset == 0 => Absent::Empty,
            area => Absent::Swap { area: area as u8, offset, exclusive: false },
        };
        prop_assert_eq!(absent, expected);
    }

    #[test]
    fn a_range_of_random_memory_is_what_the_whole_walk_has_of_it(
        shape in shapes(),
        words in prop::collection::vec(placed(), 0..40),
        ends in any::<[u64; 2]>(),
        small: bool,
    ) {
        const LIMIT: usize = 300;
        let tree = random_tree(shape, &words);
        let bits = if small { shape.page_shift + 3 } else { shape.va_bits };
        let mut ends = ends.map(|end| end % (1 << bits));
        ends.sort_unstable();
        let [start, last] = ends;
        let inside = |address: VirtualAddress, shift: u32| {
            address.0 <= last && address.0 + ((1 << shift) - 1) >= start
        };
        let geometry = tree.geometry();
        let whole: Vec<_> = Walk::new(&mut Source::new(&tree, 5)).take(10 * LIMIT).map(Result::unwrap).collect();
        let expected: Vec<_> = whole.iter().copied().filter(|visit| match visit {
            Visit::Table(table) => inside(table.address, geometry.span_shift(table.level)),
            Visit::Leaf(found) | Visit::NotValid(found) => inside(found.address, geometry.level_shift(found.level)),
            Visit::Changed(id) => inside(id.address, geometry.span_shift(id.level)),
        }).collect();
        let mut source = Source::new(&tree, 5);
        let within = Walk::new(&mut source).within(VirtualAddress(start), VirtualAddress(last));
        let found: Vec<_> = within.take(LIMIT).map(Result::unwrap).collect();
        // The walk of the whole tree may have ended, at its limit, before the end of the range.
        let seen = found.len().min(expected.len());
        prop_assert_eq!(&found[..seen], &expected[..seen]);
        prop_assert!(found.len() >= expected.len().min(LIMIT));
        prop_assert!(whole.len() == 10 * LIMIT || found.len() == expected.len().min(LIMIT));
    }

    #[test]
    fn runs_are_entries_joined_one_by_one(
        (shape, steps) in histories(),
        frames: bool,
        ignored in prop::sample::select(vec![0, Descriptor::AF, !0]),
        wanted in prop::sample::select(vec![(0, 0), (Descriptor::AF, Descriptor::AF), (1, 0)]),
        scattered: bool,
        fill in prop::collection::vec((0..3u64, 0..40u64, 0..80u64, 0..3u64), 0..6),
    ) {
        let tree = Tree::new(shape);
        for (changes, _) in steps {
            for (place, change) in changes {
                apply(&tree, place, change);
            }
        }
        // Consecutive pages, at one of a few places in memory, across the border of two tables.
        for (table, first, count, place) in fill {
            let start = (table << shape.shift(2)) + (1 << shape.shift(2)) - (20 << shape.page_shift);
            for page in first..first + count {
                let address = start + (page << shape.page_shift);
                if tree.table(3, address).is_some() || tree.table(2, address).is_none() || tree.translate(address).2.is_none() {
                    // Neighbouring pages are far apart: more runs in a table than one search returns.
                    let place = if scattered { place + page % 2 } else { place };
                    let target = (place << shape.shift(2)) + (page << shape.page_shift);
                    tree.set(3, address, tree.leaf_word(3, target) ^ (page / 16 % 2) << 10);
                }
            }
        }
        let merge = if frames { Merge::Frames } else { Merge::Attributes };
        let mut source = Source::new(&tree, 5);
        let walk = Walk::new(&mut source);
        let runs = Runs::new(walk, merge).ignoring(ignored).matching(wanted.0, wanted.1);
        let runs: Vec<_> = runs.map(Result::unwrap).collect();
        prop_assert_eq!(runs, model_runs(&tree, frames, ignored, wanted));
    }

    #[test]
    fn contiguous_entries_have_the_state_of_their_block(
        shape in shapes(),
        frames: bool,
        // Few bits, so that runs are long.
        kinds in prop::collection::vec(prop::sample::select(vec![
            1 << 52, 1 << 52, 1 << 52 | 1 << 10, 1 << 52 | 1 << 55, 1 << 52 | 1 << 51,
            1 << 52 | 1 << 51 | 1 << 7 | 1 << 10, 0, 1 << 10,
        ]), 1..6),
        order in prop::collection::vec(0..6usize, 1..20),
    ) {
        let block = contiguous_pages(shape);
        let bits: Vec<u64> = order.iter().cycle().map(|&kind| kinds[kind % kinds.len()]).take(3 * block).collect();
        let expected: Vec<u64> = bits.chunks(block).flat_map(gathered).collect();
        let (tree, model) = (Tree::new(shape), Tree::new(shape));
        set_pages(&tree, |page| bits[page]);
        set_pages(&model, |page| expected[page]);
        let (source, expected) = (&mut Source::new(&tree, 5), &mut Source::new(&model, 5));
        let visits = Walk::new(source).gathering().map(Result::unwrap);
        let visits: Vec<_> = visits.collect();
        prop_assert_eq!(visits, Walk::new(expected).map(Result::unwrap).collect::<Vec<_>>());
        let merge = if frames { Merge::Frames } else { Merge::Attributes };
        let runs = Runs::new(Walk::new(source).gathering(), merge).map(Result::unwrap);
        let runs: Vec<_> = runs.collect();
        prop_assert_eq!(runs, Runs::new(Walk::new(expected), merge).map(Result::unwrap).collect::<Vec<_>>());
    }

    #[test]
    fn batches_make_no_difference_however_often_tables_change(
        (shape, steps) in histories(),
        slots in 1..5usize,
    ) {
        let tree = Tree::new(shape);
        let mut batched = Source::new(&tree, 5).with_batch(slots);
        for (changes, start) in steps {
            for (place, change) in changes {
                apply(&tree, place, change);
            }
            let visits = |source: &mut Source| -> Vec<_> {
                let walk = Walk::new(source).within(VirtualAddress(start), VirtualAddress(u64::MAX));
                walk.map(Result::unwrap).collect()
            };
            let expected = visits(&mut Source::new(&tree, 5));
            prop_assert_eq!(visits(&mut batched), expected);
        }
    }

    #[test]
    fn a_cache_never_answers_from_the_past((shape, steps) in histories()) {
        follow(shape, steps, Moves::Never)?;
    }

    #[test]
    fn nor_does_one_where_tables_are_moved((shape, steps) in moving_histories()) {
        follow(shape, steps.clone(), Moves::Seen)?;
        follow(shape, steps, Moves::Unseen)?;
    }
}

/// Compares a cache with the model after each step.
fn follow(shape: Shape, steps: Vec<Step>, moves: Moves) -> Result<(), TestCaseError> {
    let tree = Tree::new(shape);
    let source = Source::new(&tree, Cache::<Source, 2, 2>::SLOTS).moving(moves);
    let mut cache = Cache::<_, 2, 2>::new(source).unwrap();
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
    Ok(())
}
