//! Tests of copying from a kernel whose memory changes between any two reads, and of the calibration.

extern crate std;

use core::sync::atomic::Ordering;

use tablewalk_walker::{
    FrameNumber, Geometry, Level, TableId, TableSource, VirtualAddress, Visit, Walk, path,
};

use super::calibration::{Calibration, LinearMap, MmPath, Search};
use super::fake::{Core, Fake, IMAGE, Machine, Memory, OFFSET, TASK};
use super::source::Copied;
use super::{Bpf, CopyError, IGNORED, Kcore, Kernel, Wanted};

// Physical addresses of tables, below each other.
const ROOT: u64 = 0x4010_0000;
const MIDDLE: u64 = 0x4010_1000;
const LEAVES: u64 = 0x4010_2000;
/// Another table of level 3, in addition to the first one or instead of it.
const OTHER: u64 = 0x4010_3000;
/// Tables of level 2 and 3 of another subtree.
const OTHER_MIDDLE: u64 = 0x4010_4000;
const OTHER_LEAVES: u64 = 0x4010_5000;
/// A page of the process.
const PAGE: u64 = 0x4020_0000;
/// The address at which it is mapped: entry 1 of the root, then entries 2 and 3.
const ADDRESS: u64 = 1 << 30 | 2 << 21 | 3 << 12;
/// Physical address of the `mm_struct`, and the offset of the PGD in it.
const MM: u64 = 0x4030_0000;
const PGD: u64 = 104;

const TABLE: u64 = 3;
const LEAF: u64 = 3 | IGNORED;
const BLOCK_LEAF: u64 = 1 | IGNORED;

const fn linear(physical: u64) -> u64 {
    physical + OFFSET
}

fn geometry() -> Geometry {
    Geometry::new(12, 39, 48).unwrap()
}

/// Returns memory with tables of three levels that lead to one page.
fn memory() -> Memory {
    let mut kernel = Memory::default();
    kernel.write(linear(ROOT) + 8, MIDDLE | TABLE);
    kernel.write(linear(MIDDLE) + 2 * 8, LEAVES | TABLE);
    kernel.write(linear(LEAVES) + 3 * 8, PAGE | LEAF);
    kernel.write(linear(OTHER) + 3 * 8, PAGE | LEAF);
    kernel.write(linear(MM) + PGD, linear(ROOT));
    kernel
}

fn kernel() -> Bpf<Machine> {
    Fake::new(memory())
}

fn copied() -> Copied<Bpf<Machine>> {
    copied_by()
}

fn copied_by<K: Fake>() -> Copied<K> {
    let calibration = Calibration {
        map: map(),
        geometry: geometry(),
        mm: linear(MM),
        pgd: PGD,
        mm_path: MmPath { fdtable: 0, mm: 0 },
    };
    Copied::of_root(K::new(memory()), calibration, linear(ROOT))
}

fn map() -> LinearMap {
    let mut map = LinearMap::new(&geometry());
    map.offset = OFFSET;
    map
}

/// Calls `look` with a search of the memory.
fn search<K, T>(kernel: &mut K, look: impl FnOnce(&mut Search<'_, K>) -> T) -> T {
    look(&mut Search {
        kernel,
        map: &map(),
        geometry: &geometry(),
    })
}

fn write(copied: &mut Copied<impl Fake>, address: u64, word: u64) {
    copied
        .kernel_mut()
        .memory(|memory| memory.write(address, word));
}

/// As [`Memory::change_before`].
fn change_before(copied: &mut Copied<impl Fake>, word: usize, writes: &[(u64, u64)]) {
    let change = |memory: &mut Memory| memory.change_before(word, writes);
    copied.kernel_mut().memory(change);
}

/// Returns whether a change is still pending.
fn is_changing(copied: &mut Copied<impl Fake>) -> bool {
    copied.kernel_mut().memory(|memory| memory.is_changing())
}

/// Returns how often the program was run.
fn runs(copied: &Copied<Bpf<Machine>>) -> usize {
    copied.kernel().processor().runs
}

fn id(level: Level) -> TableId {
    TableId {
        level,
        address: VirtualAddress(ADDRESS),
        frame: None,
    }
}

/// Copies the tables from the root down to level 3. Returns the frame of the last one.
fn walk_down(copied: &mut Copied<Bpf<Machine>>) -> Option<FrameNumber> {
    let mut frame = None;
    for (slot, level) in [Level::L1, Level::L2, Level::L3].into_iter().enumerate() {
        frame = copied.map(slot, id(level)).unwrap();
    }
    frame
}

fn frame(physical: u64) -> Option<FrameNumber> {
    Some(FrameNumber(physical >> 12))
}

/// Candidates for the offset of the linear map. The right one is not the first.
const OFFSETS: [u64; 2] = [OFFSET + (1 << 30), OFFSET];

#[test]
fn one_mm_leads_to_the_pages() {
    let mut kernel = kernel();
    // Pointers to other memory, to no memory, and, as in a saved register, into the `mm`.
    let task = [
        7,
        linear(PAGE),
        linear(PAGE),
        linear(MM),
        linear(MM),
        linear(0x5000_0000),
        linear(0x5000_0000),
        linear(MM) + 8,
        linear(MM),
    ];
    let known = [(ADDRESS, PAGE >> 12)];
    let found = search(&mut kernel, |search| {
        search.find_mm(&OFFSETS, &task, &known)
    })
    .unwrap();
    assert_eq!(
        (found.mm, found.pgd, found.offset),
        (linear(MM), PGD, OFFSET)
    );
}

#[test]
fn no_mm_and_two_of_them_are_refused() {
    let refused = |kernel: &mut Bpf<Machine>, task: &[u64], known: &[(u64, u64)], answers| {
        assert_eq!(
            search(kernel, |search| search.find_mm(&OFFSETS, task, known)),
            Err(CopyError::Calibration {
                what: "mm_struct of this process",
                answers
            })
        );
    };
    let known = [(ADDRESS, PAGE >> 12)];
    refused(&mut kernel(), &[linear(PAGE); 2], &known, 0);
    // A pointer that occurs once may be anything.
    refused(&mut kernel(), &[linear(MM), 0], &known, 0);
    // The page has another frame.
    refused(&mut kernel(), &[linear(MM); 2], &[(ADDRESS, 1)], 0);
    // Without a known page nothing can be verified.
    refused(&mut kernel(), &[linear(MM); 2], &[], 0);
    let mut two = kernel();
    two.processor_mut()
        .memory
        .write(linear(MM) + PGD + 8, linear(ROOT));
    refused(&mut two, &[linear(MM); 2], &known, 2);
    let mut two = kernel();
    two.processor_mut()
        .memory
        .write(linear(OTHER) + PGD, linear(ROOT));
    let [mm, other] = [linear(MM), linear(OTHER)];
    refused(&mut two, &[mm, mm, other, other], &known, 2);
}

#[test]
fn nothing_but_the_linear_map_is_read() {
    let mut kernel = kernel();
    let memory = &mut kernel.processor_mut().memory;
    // Devices follow the linear map. The task and the `mm` have words that would lead there.
    let devices = 0xffff_ffc0_0000_0000;
    memory.devices = Some(devices..u64::MAX);
    memory.write(linear(MM), devices);
    memory.write(linear(MM) + 8, devices - 8);
    memory.write(linear(OTHER) + PGD, linear(PAGE));
    // A table that leads there, and one whose last words would be there.
    memory.write(linear(PAGE) + 8, 0x7f_0000_0000 | TABLE);
    let known = [(ADDRESS, PAGE >> 12)];
    let task = [
        devices,
        devices - 8,
        u64::MAX - 7,
        linear(OTHER),
        linear(MM),
    ];
    let task: std::vec::Vec<u64> = task.iter().flat_map(|&word| [word; 2]).collect();
    let found = search(&mut kernel, |search| {
        let mm_path = MmPath {
            fdtable: devices,
            mm: 0,
        };
        assert_eq!(search.follow(mm_path, 3), Ok(None));
        assert_eq!(search.word(devices), Ok(None));
        search.find_mm(&OFFSETS, &task, &known)
    });
    assert_eq!(found.map(|found| found.mm), Ok(linear(MM)));
}

#[test]
fn a_root_that_leads_to_no_table_costs_no_more_with_more_memory() {
    let mut kernel = kernel();
    let words = |kernel: &mut Bpf<Machine>, offsets: &[u64]| {
        let before = kernel.processor().words;
        let known = [(ADDRESS, PAGE >> 12)];
        let task = [linear(OTHER); 2];
        let _ = search(kernel, |search| search.find_mm(offsets, &task, &known));
        kernel.processor().words - before
    };
    kernel
        .processor_mut()
        .memory
        .write(linear(OTHER), linear(PAGE));
    let few = words(&mut kernel, &OFFSETS);
    let many: std::vec::Vec<u64> = (0..1024)
        .map(|number| OFFSET.wrapping_add(number << 30))
        .collect();
    assert_eq!(words(&mut kernel, &many), few);
}

#[test]
fn the_linear_map_is_what_a_kernel_of_that_shape_has() {
    for (page_shift, bits, start, end) in [
        (12, 39, 0xffff_ff80_0000_0000, 0xffff_ffc0_0000_0000),
        (12, 48, 0xffff_0000_0000_0000, 0xffff_8000_0000_0000),
        (12, 52, 0xfff0_0000_0000_0000, 0xffff_8000_0000_0000),
        (14, 47, 0xffff_8000_0000_0000, 0xffff_c000_0000_0000),
        (14, 52, 0xfff0_0000_0000_0000, 0xffff_c000_0000_0000),
        (16, 52, 0xfff0_0000_0000_0000, 0xffff_8000_0000_0000),
    ] {
        let geometry = Geometry::new(page_shift, bits, 52).unwrap();
        let map = LinearMap::new(&geometry);
        assert!(map.address(start).is_some() && map.address(end - 8).is_some());
        assert_eq!((map.address(start - 8), map.address(end)), (None, None));
    }
}

/// Physical addresses of a `files_struct`, an `fdtable`, its array, and the first of its files.
const FILES: u64 = 0x4050_0000;
const FDTABLE: u64 = 0x4050_1000;
const ARRAY: u64 = 0x4050_2000;
const FILE: u64 = 0x4050_3000;
/// Size of a file in bytes, and offset of the pointer to its `mm_struct`.
const FILE_SIZE: u64 = 192;
const FILE_MM: u64 = 32;
/// The `mm_struct` of another process.
const CHILD: u64 = 0x4030_1000;
/// Its tables: root, level 2 and level 3, like those of this process.
const CHILD_TABLES: [u64; 3] = [0x4070_0000, 0x4070_1000, 0x4070_2000];
const CHILD_PAGE: u64 = 0x4020_1000;
const RIGHT: MmPath = MmPath {
    fdtable: linear(FILES) + 32,
    mm: FILE_MM,
};

/// Returns the address of the field at offset `at` in the file of descriptor `number`.
const fn field(number: u64, at: u64) -> u64 {
    linear(FILE) + (number - 3) * FILE_SIZE + at
}

/// Returns a kernel in which descriptors 3, 5 and 7 are of the own memory, 4 and 6 of other files, and 8 of
/// the memory of a child.
fn with_files() -> Bpf<Machine> {
    let mut kernel = kernel();
    let memory = &mut kernel.processor_mut().memory;
    memory.write(linear(FILES) + 32, linear(FDTABLE));
    memory.write(linear(FDTABLE) + 8, linear(ARRAY));
    for number in 3..9 {
        memory.write(linear(ARRAY) + 8 * number, field(number, 0));
        let mm = match number {
            4 | 6 => linear(PAGE),
            8 => linear(CHILD),
            _ => linear(MM),
        };
        memory.write(field(number, FILE_MM), mm);
    }
    let [root, middle, leaves] = CHILD_TABLES;
    memory.write(linear(CHILD) + PGD, linear(root));
    memory.write(linear(root) + 8, middle | TABLE);
    memory.write(linear(middle) + 2 * 8, leaves | TABLE);
    memory.write(linear(leaves) + 3 * 8, CHILD_PAGE | LEAF);
    kernel
}

/// Returns the number of paths that fit the own files, and the one that also fits the file of the child.
fn find_mm_path(kernel: &mut Bpf<Machine>) -> (usize, Result<MmPath, CopyError>) {
    search(kernel, |search| {
        // The last pointer, as in a saved register, leads to the same `fdtable`.
        let task = [7, linear(PAGE), linear(FILES), linear(FILES) + 8];
        let paths = search
            .paths(&task, linear(MM), &[3, 5, 7], &[4, 6])
            .unwrap();
        let found = search.follow_all(&paths, 8).unwrap();
        let known = (ADDRESS, CHILD_PAGE >> 12);
        (paths.len(), search.only_mm_path(&found, PGD, known))
    })
}

#[test]
fn one_way_leads_from_a_descriptor_to_its_mm() {
    assert_eq!(find_mm_path(&mut with_files()), (1, Ok(RIGHT)));
}

#[test]
fn what_is_beside_a_file_is_no_way() {
    // After each own file of memory there is one that contains the `mm` too; after that of the child there is
    // none.
    let mut kernel = with_files();
    let memory = &mut kernel.processor_mut().memory;
    for number in [4, 6, 8] {
        memory.write(field(number, 8), linear(MM));
    }
    assert_eq!(find_mm_path(&mut kernel), (2, Ok(RIGHT)));
    // Other files lead to the `mm` by the same word.
    let mut kernel = with_files();
    for number in 3..9 {
        let memory = &mut kernel.processor_mut().memory;
        memory.write(field(number, 16), linear(MM));
    }
    assert_eq!(find_mm_path(&mut kernel), (1, Ok(RIGHT)));
}

#[test]
fn a_way_that_leads_to_the_own_mm_from_a_child_is_wrong() {
    let mut kernel = with_files();
    for number in [3, 5, 7, 8] {
        let memory = &mut kernel.processor_mut().memory;
        memory.write(field(number, 16), linear(MM));
    }
    assert_eq!(find_mm_path(&mut kernel), (2, Ok(RIGHT)));
    // A path to a process without the page of the child is rejected, too.
    let memory = &mut kernel.processor_mut().memory;
    memory.write(field(8, 16), linear(0x4030_2000));
    memory.write(linear(0x4030_2000) + PGD, linear(ROOT));
    assert_eq!(find_mm_path(&mut kernel), (2, Ok(RIGHT)));
}

#[test]
fn two_ways_and_none_are_refused() {
    let refused = |answers| {
        Err(CopyError::Calibration {
            what: "way from a descriptor to an mm_struct",
            answers,
        })
    };
    let mut kernel = with_files();
    for number in [3, 5, 7, 8] {
        let memory = &mut kernel.processor_mut().memory;
        let mm = if number == 8 { CHILD } else { MM };
        memory.write(field(number, 16), linear(mm));
    }
    assert_eq!(find_mm_path(&mut kernel), (2, refused(2)));
    let mut kernel = with_files();
    kernel.processor_mut().memory.write(field(5, FILE_MM), 0);
    assert_eq!(find_mm_path(&mut kernel), (0, refused(0)));
}

/// Returns the result of comparing the tables of a fake process, which has more pages, with its pagemap.
fn prove(
    pagemap: impl Fn(&mut Memory, u64, usize) -> Option<u64> + 'static,
    pages: u64,
) -> Result<(), CopyError> {
    let mut copied = copied();
    for page in 0..pages {
        let entry = linear(LEAVES) + (4 + page) * 8;
        write(&mut copied, entry, (PAGE + (page << 12)) | LEAF);
    }
    let asked = core::cell::Cell::new(0);
    let mut nothing = Memory::default();
    copied.prove(7, linear(ROOT), &mut |address| {
        asked.set(asked.get() + 1);
        Ok(pagemap(&mut nothing, address.0, asked.get()))
    })
}

#[test]
fn tables_are_believed_if_no_page_is_elsewhere() {
    let frame = |address: u64| {
        let page = (address - ADDRESS) >> 12;
        Some((PAGE >> 12) + page.saturating_sub(1))
    };
    assert_eq!(prove(move |_, address, _| frame(address), 5), Ok(()));
    // The last page has another frame although the others agree, as in the tables of a parent.
    let last = ADDRESS + (5 << 12);
    let refuted = Err(CopyError::Refuted {
        pid: 7,
        address: VirtualAddress(last),
    });
    let elsewhere = move |_: &mut Memory, address, _| {
        if address == last {
            Some(1)
        } else {
            frame(address)
        }
    };
    assert_eq!(prove(elsewhere, 5), refuted);
    // The page moves during the comparison, which proves nothing.
    let moves = move |_: &mut Memory, address, asked| {
        if address == last {
            Some(asked as u64)
        } else {
            frame(address)
        }
    };
    assert_eq!(prove(moves, 5), Ok(()));
    // No page is in memory.
    let unproved = Err(CopyError::Unproved { pid: 7 });
    assert_eq!(prove(|_, _, _| None, 5), unproved);
    // The first thousand pages prove nothing.
    assert_eq!(
        prove(
            move |_, address, _| frame(address).filter(|_| address > ADDRESS + (400 << 12)),
            500
        ),
        Ok(())
    );
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

/// A word that was never in a table.
const POISON: u64 = 0xbad0_bad0_bad0_bad0;

/// Returns address and value of each word of the table at `table`, whose only entry is `entry`.
fn words_of(table: u64, entry: Option<u64>) -> std::vec::Vec<(u64, u64)> {
    (0..512)
        .map(|number| {
            let word = match entry {
                Some(entry) if number == 3 => entry,
                Some(_) => 0,
                None => POISON,
            };
            (linear(table) + 8 * number, word)
        })
        .collect()
}

/// Copies the table of level 3, alone or in a batch. Returns its words if it was copied.
fn copy_leaves(copied: &mut Copied<impl Fake>, batch: bool) -> Option<std::vec::Vec<u64>> {
    let table = if batch {
        let (start, last) = (VirtualAddress(1 << 30), VirtualAddress((2 << 30) - 1));
        let found = copied.map_batch(0, Level::L3, start, last).unwrap();
        (found == 1).then(|| copied.batch_table(0))?
    } else {
        copied.map(2, id(Level::L3)).unwrap()?;
        copied.table(2)
    };
    Some((0..512).map(|number| table.load(number).0).collect())
}

/// Cuts or restores the descriptor that leads to the table of level 3, before each word that the program
/// reads. What was copied has to be the table, and the copies of what is above it stay.
fn cut_and_join<K: Fake>(link: u64, descriptor: u64, batch: bool) {
    for comes_back in [false, true] {
        let mut copies = [0, 0];
        for word in 0.. {
            let mut copied = copied_by::<K>();
            for (slot, level) in [Level::L1, Level::L2].into_iter().enumerate() {
                assert!(copied.map(slot, id(level)).unwrap().is_some());
            }
            let cut: std::vec::Vec<_> = [(link, 0)]
                .into_iter()
                .chain(words_of(LEAVES, None))
                .collect();
            // The table is complete before it is in the tree.
            let joined: std::vec::Vec<_> = words_of(LEAVES, Some(PAGE | LEAF))
                .into_iter()
                .chain([(link, descriptor)])
                .collect();
            if comes_back {
                for (address, word) in cut {
                    write(&mut copied, address, word);
                }
                change_before(&mut copied, word, &joined);
            } else {
                change_before(&mut copied, word, &cut);
            }
            let words = copy_leaves(&mut copied, batch);
            let is_table = |words: &std::vec::Vec<u64>| {
                words
                    .iter()
                    .enumerate()
                    .all(|(number, &word)| word == if number == 3 { PAGE | LEAF } else { 0 })
            };
            assert!(words.as_ref().is_none_or(is_table), "before word {word}");
            copies[usize::from(words.is_some())] += 1;
            for (slot, number, word) in [(0, 1, MIDDLE), (1, 2, LEAVES)] {
                let entry = copied.table(slot).load(number).0;
                // It is copied again, from the root on, and may be gone by then.
                assert!(entry == word | TABLE || entry == 0, "{entry:#x}");
            }
            if is_changing(&mut copied) {
                break;
            }
        }
        // Both results occur: the change may be early enough, or late enough.
        let [none, some] = copies;
        assert!(some > 0 && (comes_back || none > 512), "{none} {some}");
    }
}

#[test]
fn what_was_copied_was_the_table() {
    for batch in [false, true] {
        for (link, descriptor) in [
            (linear(MIDDLE) + 2 * 8, LEAVES | TABLE),
            (linear(ROOT) + 8, MIDDLE | TABLE),
        ] {
            cut_and_join::<Bpf<Machine>>(link, descriptor, batch);
            cut_and_join::<Kcore<Core>>(link, descriptor, batch);
        }
    }
}

/// Returns the leaves that a walk visits: address and frame.
fn leaves(copied: &mut Copied<impl Fake>) -> std::vec::Vec<(u64, u64)> {
    Walk::new(copied)
        .filter_map(|visit| match visit.unwrap() {
            Visit::Leaf(leaf) => Some((leaf.address.0, leaf.frame(&geometry()).0)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_walk_beside_changes_finds_what_stays_and_invents_nothing() {
    walk_beside_changes::<Bpf<Machine>>();
    walk_beside_changes::<Kcore<Core>>();
}

fn walk_beside_changes<K: Fake>() {
    // A block whose address is aligned for a block of the root table, too; and a second subtree.
    const BLOCK: u64 = 0x4000_0000;
    let stays = [
        (1 << 30 | 6 << 21, BLOCK >> 12),
        (ADDRESS, PAGE >> 12),
        (2 << 30 | 2 << 21 | 3 << 12, PAGE >> 12),
    ];
    let goes = (1 << 30 | 5 << 21 | 3 << 12, PAGE >> 12);
    for word in 0.. {
        let mut copied = copied_by::<K>();
        let mut write = |address, word| write(&mut copied, address, word);
        write(linear(ROOT) + 2 * 8, OTHER_MIDDLE | TABLE);
        write(linear(OTHER_MIDDLE) + 2 * 8, OTHER | TABLE);
        write(linear(MIDDLE) + 6 * 8, BLOCK | BLOCK_LEAF);
        write(linear(MIDDLE) + 5 * 8, OTHER_LEAVES | TABLE);
        write(linear(OTHER_LEAVES) + 3 * 8, PAGE | LEAF);
        change_before(&mut copied, word, &[(linear(MIDDLE) + 5 * 8, 0)]);
        let found = leaves(&mut copied);
        for leaf in stays {
            assert!(found.contains(&leaf), "{leaf:x?} of {found:x?}, {word}");
        }
        let allowed = |leaf| stays.contains(leaf) || *leaf == goes;
        assert!(found.iter().all(allowed), "{found:x?}, {word}");
        if is_changing(&mut copied) {
            assert!(word > 512, "{word} words");
            break;
        }
    }
}

#[test]
fn the_path_of_an_address_copies_each_table_once() {
    let mut copied = copied();
    let path = path(&mut copied, VirtualAddress(ADDRESS)).unwrap();
    assert_eq!(path.steps().last().unwrap().descriptor.0, PAGE | LEAF);
    assert_eq!(runs(&copied), 3);
    // Each link on the path is read twice.
    let looks = 2 + 4;
    assert_eq!(copied.kernel().processor().words, 3 * 512 + looks);
}

#[test]
fn a_word_costs_a_word() {
    let mut kernel = kernel();
    assert_eq!(kernel.read(linear(ROOT) + 8, &mut [0]), Ok(true));
    assert_eq!(kernel.processor().words, 1);
    // More than a page, up to the end of memory.
    let mut words = [0; 513];
    assert_eq!(kernel.read(linear(ROOT), &mut words), Ok(true));
    assert_eq!(words[1], MIDDLE | TABLE);
    assert_eq!(kernel.read(linear(OTHER) + 8, &mut words), Ok(false));
    // There is no memory after the last address.
    assert_eq!(kernel.read(!0 - 4095, &mut words), Ok(false));
}

#[test]
fn a_read_changes_no_page_of_copies() {
    let mut kernel = kernel();
    let all = Wanted {
        link: None,
        address: linear(MIDDLE),
        bytes: 4096,
    };
    for page in 0..kernel.pages() {
        assert_eq!(kernel.copy(&[], &[all], page), Ok(true));
    }
    let mut words = [0; 512];
    assert_eq!(kernel.read(linear(LEAVES), &mut words), Ok(true));
    for page in 0..kernel.pages() {
        assert_eq!(kernel.words(page)[3].load(Ordering::Relaxed), 0);
    }
    // A copy cannot overwrite the page of reads, or what follows it.
    let pages = kernel.pages();
    for page in [pages, pages + 1, usize::MAX] {
        assert_eq!(kernel.copy(&[], &[all], page), Ok(true));
        assert!(!kernel.is_copied(0) && kernel.words(page).is_empty());
    }
}

#[test]
fn a_slot_that_changes_during_the_copy_has_no_table() {
    let slot = linear(MIDDLE) + 2 * 8;
    for (word, expected) in [
        // The table is gone: neither the second read nor a walk from the root finds it.
        (0, None),
        // Another table has replaced it, which a walk from the root finds.
        (OTHER | TABLE, frame(OTHER)),
        // Only the access flag of the table descriptor has changed.
        (LEAVES | TABLE | IGNORED, frame(LEAVES)),
    ] {
        let mut copied = copied();
        for (slot, level) in [Level::L1, Level::L2].into_iter().enumerate() {
            assert!(copied.map(slot, id(level)).unwrap().is_some());
        }
        // After the first check, which also reads the descriptors above.
        change_before(&mut copied, 2, &[(slot, word)]);
        assert_eq!(copied.map(2, id(Level::L3)), Ok(expected), "{word:#x}");
    }
}

#[test]
fn a_link_above_that_has_changed_is_noticed() {
    let mut copied = copied();
    assert_eq!(walk_down(&mut copied), frame(LEAVES));
    // The table of level 2 is out of the tree; the slot in it still leads to that of level 3.
    write(&mut copied, linear(ROOT) + 8, 0);
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
fn batch() -> Copied<Bpf<Machine>> {
    let mut copied = copied();
    let slot = linear(MIDDLE) + 5 * 8;
    write(&mut copied, slot, OTHER | TABLE);
    for (slot, level) in [Level::L1, Level::L2].into_iter().enumerate() {
        assert!(copied.map(slot, id(level)).unwrap().is_some());
    }
    copied
}

/// Asks for all tables of level 3 of the batch.
fn map_batch(copied: &mut Copied<Bpf<Machine>>) -> usize {
    let (start, last) = (1 << 30, (2 << 30) - 1);
    copied
        .map_batch(0, Level::L3, VirtualAddress(start), VirtualAddress(last))
        .unwrap()
}

#[test]
fn a_batch_takes_one_copy_and_is_forgotten_by_the_next_walk() {
    let mut copied = batch();
    let before = runs(&copied);
    assert_eq!(map_batch(&mut copied), 2);
    assert_eq!(runs(&copied), before + 1);
    assert_eq!(copied.batch_table(0).load(3).0, PAGE | LEAF);
    assert!(copied.batched(1).is_some() && copied.batched(2).is_none());
    assert!(copied.map(0, id(Level::L1)).unwrap().is_some());
    assert!(copied.batched(0).is_none());
    assert_eq!(copied.batch_table(0).load(3).0, 0);
}

#[test]
fn a_batch_ends_where_a_slot_has_changed() {
    let mut copied = batch();
    // The slot of the second table changes while the first table is copied.
    change_before(&mut copied, 2, &[(linear(MIDDLE) + 5 * 8, 0)]);
    assert_eq!(map_batch(&mut copied), 1);
    // No copy is accepted after a descriptor above them has changed.
    let mut copied = batch();
    write(&mut copied, linear(ROOT) + 8, 0);
    assert_eq!(map_batch(&mut copied), 0);
}

#[test]
fn memory_that_the_image_gave_back_is_read_by_the_linear_map() {
    // The image contains all tables.
    let [root, middle, leaves] = [0, 1, 2].map(|page| IMAGE + (page << 12));
    let mut kernel = Kcore::<Core>::new(memory());
    kernel.memory(|memory| {
        memory.write(linear(MM) + PGD, linear(root));
        memory.write(linear(root) + 8, middle | TABLE);
        memory.write(linear(middle) + 2 * 8, leaves | TABLE);
        memory.write(linear(leaves) + 3 * 8, PAGE | LEAF);
    });
    let mut task = [0; 8];
    assert_eq!(kernel.own_task(&mut task), Ok(TASK.len()));
    let offsets = kernel.offsets(12).unwrap();
    assert_eq!(offsets.len(), 2);
    let known = [(ADDRESS, PAGE >> 12)];
    let found = search(&mut kernel, |search| {
        search.find_mm(&offsets, &task, &known)
    })
    .unwrap();
    assert_eq!((found.mm, found.offset), (linear(MM), OFFSET));
    let table = Wanted {
        link: None,
        address: linear(leaves),
        bytes: 4096,
    };
    assert_eq!(kernel.copy(&[], &[table], 0), Ok(true));
    assert!(kernel.is_copied(0));
    assert_eq!(kernel.words(0)[3].load(Ordering::Relaxed), PAGE | LEAF);
    // Neither an address in the hole nor a read that reaches into it works.
    for address in [linear(0x4100_0000), linear(0x4100_0000 - 8)] {
        assert_eq!(kernel.read(address, &mut [0; 2]), Ok(false));
    }
    let hole = Wanted {
        address: linear(0x4100_0000 - 8),
        ..table
    };
    assert_eq!(kernel.copy(&[], &[hole], 0), Ok(true));
    assert!(!kernel.is_copied(0));
}

#[test]
fn a_small_root_is_copied_without_what_is_behind_it() {
    small_root::<Bpf<Machine>>();
    small_root::<Kcore<Core>>();
}

fn small_root<K: Fake>() {
    let mut memory = memory();
    let root = ROOT + 512;
    memory.write(linear(root) + 15 * 8, MIDDLE | TABLE);
    memory.write(linear(root) + 16 * 8, POISON);
    let mut kernel = K::new(memory);
    // The previous contents of the page.
    let table = |address, bytes| Wanted {
        link: None,
        address: linear(address),
        bytes,
    };
    assert_eq!(kernel.copy(&[], &[table(LEAVES, 4096)], 0), Ok(true));
    assert_eq!(kernel.copy(&[], &[table(root, 16 * 8)], 0), Ok(true));
    let word = |number: usize| kernel.words(0)[number].load(Ordering::Relaxed);
    assert_eq!((word(15), word(16)), (MIDDLE | TABLE, 0));
    // At most a page is copied.
    assert_eq!(kernel.copy(&[], &[table(LEAVES, 4104)], 0), Ok(true));
    assert!(!kernel.is_copied(0));
}
