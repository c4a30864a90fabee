//! What is copied from a kernel that changes at the worst moment, and where its tables are found.

extern crate std;

use tablewalk_walker::{FrameNumber, Geometry, Level, TableId, TableSource, VirtualAddress, Walk};

use super::calibration::{Calibration, find_mm};
use super::fake::{Fake, OFFSET};
use super::source::Copied;
use super::{CopyError, IGNORED};

// Physical addresses of tables, below each other.
const ROOT: u64 = 0x4010_0000;
const MIDDLE: u64 = 0x4010_1000;
const LEAVES: u64 = 0x4010_2000;
/// Another table of level 3, beside that or in its place.
const OTHER: u64 = 0x4010_3000;
/// A page of the process.
const PAGE: u64 = 0x4020_0000;
/// Where it is mapped: entries 1, 2 and 3.
const ADDRESS: u64 = 1 << 30 | 2 << 21 | 3 << 12;
/// Physical address of the `mm_struct`, and where in it the PGD is.
const MM: u64 = 0x4030_0000;
const PGD: u64 = 104;

const TABLE: u64 = 3;
const LEAF: u64 = 3 | IGNORED;

const fn linear(physical: u64) -> u64 {
    physical + OFFSET
}

fn geometry() -> Geometry {
    Geometry::new(12, 39, 48).unwrap()
}

/// Three levels that lead to one page.
fn kernel() -> Fake {
    let mut kernel = Fake::new();
    kernel.write(linear(ROOT) + 8, MIDDLE | TABLE);
    kernel.write(linear(MIDDLE) + 2 * 8, LEAVES | TABLE);
    kernel.write(linear(LEAVES) + 3 * 8, PAGE | LEAF);
    kernel.write(linear(OTHER) + 3 * 8, PAGE | LEAF);
    kernel.write(linear(MM) + PGD, linear(ROOT));
    kernel
}

fn copied() -> Copied<Fake> {
    let calibration = Calibration {
        offset: OFFSET,
        geometry: geometry(),
        mm: linear(MM),
        pgd: PGD,
        ways: heapless::Vec::new(),
    };
    Copied::of_root(kernel(), calibration, linear(ROOT))
}

fn id(level: Level) -> TableId {
    TableId {
        level,
        address: VirtualAddress(ADDRESS),
        frame: None,
    }
}

/// Copies the tables on the way down to level 3.
fn walk_down(copied: &mut Copied<Fake>) -> Option<FrameNumber> {
    let mut frame = None;
    for (slot, level) in [Level::L1, Level::L2, Level::L3].into_iter().enumerate() {
        frame = copied.map(slot, id(level)).unwrap();
    }
    frame
}

fn frame(physical: u64) -> Option<FrameNumber> {
    Some(FrameNumber(physical >> 12))
}

#[test]
fn one_mm_leads_to_the_pages() {
    let mut kernel = kernel();
    // A pointer to something else, and one to nothing.
    let task = [7, linear(PAGE), linear(MM), linear(0x5000_0000), linear(MM)];
    let known = [(ADDRESS, PAGE >> 12)];
    let found = find_mm(&mut kernel, &geometry(), &task, &known).unwrap();
    assert_eq!(
        (found.mm, found.pgd, found.offset),
        (linear(MM), PGD, OFFSET)
    );
}

#[test]
fn no_mm_and_two_of_them_are_refused() {
    let refused = |kernel: &mut Fake, task: &[u64], known: &[(u64, u64)], answers| {
        assert_eq!(
            find_mm(kernel, &geometry(), task, known),
            Err(CopyError::Calibration {
                what: "mm_struct of this process",
                answers
            })
        );
    };
    let known = [(ADDRESS, PAGE >> 12)];
    refused(&mut kernel(), &[linear(PAGE)], &known, 0);
    // The page is elsewhere.
    refused(&mut kernel(), &[linear(MM)], &[(ADDRESS, 1)], 0);
    // Nothing proves nothing.
    refused(&mut kernel(), &[linear(MM)], &[], 0);
    let mut two = kernel();
    two.write(linear(MM) + PGD + 8, linear(ROOT));
    refused(&mut two, &[linear(MM)], &known, 2);
    let mut two = kernel();
    two.write(linear(OTHER) + PGD, linear(ROOT));
    refused(&mut two, &[linear(MM), linear(OTHER)], &known, 2);
}

#[test]
fn a_walk_comes_to_the_page() {
    let mut copied = copied();
    let leaves: std::vec::Vec<_> = Walk::new(&mut copied)
        .leaves()
        .map(Result::unwrap)
        .collect();
    let [leaf] = leaves.as_slice() else {
        panic!("{leaves:?}");
    };
    assert_eq!(leaf.address, VirtualAddress(ADDRESS));
    assert_eq!(leaf.frame(&geometry()).0, PAGE >> 12);
}

#[test]
fn a_slot_that_changes_during_the_copy_has_no_table() {
    let slot = linear(MIDDLE) + 2 * 8;
    for (word, expected) in [
        // Gone: the second look finds nothing, and neither does a walk from the root.
        (0, None),
        // Another one now, which a walk from the root finds.
        (OTHER | TABLE, frame(OTHER)),
        // The access flag of a table comes and goes.
        (LEAVES | TABLE | IGNORED, frame(LEAVES)),
    ] {
        let mut copied = copied();
        for (slot, level) in [Level::L1, Level::L2].into_iter().enumerate() {
            assert!(copied.map(slot, id(level)).unwrap().is_some());
        }
        copied.kernel_mut().between = Some((slot, word));
        assert_eq!(copied.map(2, id(Level::L3)), Ok(expected), "{word:#x}");
    }
}

#[test]
fn a_link_above_that_has_changed_is_noticed() {
    let mut copied = copied();
    assert_eq!(walk_down(&mut copied), frame(LEAVES));
    // The table of level 2 is out of the tree; the slot in it still leads to that of level 3.
    copied.kernel_mut().write(linear(ROOT) + 8, 0);
    assert_eq!(copied.map(2, id(Level::L3)), Ok(None));
    assert_eq!(copied.map(1, id(Level::L2)), Ok(None));
}

#[test]
fn another_frame_than_the_expected_one_is_no_table() {
    let mut copied = copied();
    let expected = TableId {
        frame: frame(OTHER),
        ..id(Level::L3)
    };
    assert_eq!(copied.map(2, expected), Ok(None));
}

/// Two tables of level 3, copied in one batch.
fn batch() -> Copied<Fake> {
    let mut copied = copied();
    let slot = linear(MIDDLE) + 5 * 8;
    copied.kernel_mut().write(slot, OTHER | TABLE);
    for (slot, level) in [Level::L1, Level::L2].into_iter().enumerate() {
        assert!(copied.map(slot, id(level)).unwrap().is_some());
    }
    copied
}

/// Asks for all tables of level 3 of the batch.
fn map_batch(copied: &mut Copied<Fake>) -> usize {
    let (start, last) = (1 << 30, (2 << 30) - 1);
    copied
        .map_batch(0, Level::L3, VirtualAddress(start), VirtualAddress(last))
        .unwrap()
}

#[test]
fn a_batch_takes_one_copy_and_is_forgotten_by_the_next_walk() {
    let mut copied = batch();
    let before = copied.kernel().copies;
    assert_eq!(map_batch(&mut copied), 2);
    assert_eq!(copied.kernel().copies, before + 1);
    assert_eq!(copied.batch_table(0).load(3).0, PAGE | LEAF);
    assert!(copied.batched(1).is_some() && copied.batched(2).is_none());
    assert!(copied.map(0, id(Level::L1)).unwrap().is_some());
    assert!(copied.batched(0).is_none());
    assert_eq!(copied.batch_table(0).load(3).0, 0);
}

#[test]
fn a_batch_ends_where_a_slot_has_changed() {
    let mut copied = batch();
    // While the first is copied, the slot of the second changes.
    copied.kernel_mut().between = Some((linear(MIDDLE) + 5 * 8, 0));
    assert_eq!(map_batch(&mut copied), 1);
    // And nothing is believed once what is above has changed.
    let mut copied = batch();
    copied.kernel_mut().write(linear(ROOT) + 8, 0);
    assert_eq!(map_batch(&mut copied), 0);
}
