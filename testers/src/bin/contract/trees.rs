//! Tables that are mapped while they change and are freed.

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::memory::write;
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::remap::{ExposePgtblInfo, path};
use tablewalk_uapi::remap_device::EXPOSE_PGTBL_MOVING_L2;
use tablewalk_uapi::{Errno, Mapping};

use crate::Test;
use tablewalk_testkit::expect::{all, expect, expect_error};
use tablewalk_testkit::page::{Page, page_size};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "by address and by frame number give the table that PATH gives",
        run: same,
    },
    Case {
        name: "an address that no table translates: ENOENT",
        run: no_table,
    },
    Case {
        name: "a table that its process frees reads as all invalid",
        run: freed,
    },
    Case {
        name: "a level-2 table has no old entries after mremap has moved its tables",
        run: moved,
    },
];

/// Returns the frame number of the table that a descriptor points to, with 48-bit addresses.
fn next_table(info: &ExposePgtblInfo, descriptor: u64) -> u64 {
    let low = (descriptor & ((1 << 48) - 1)) >> info.page_shift;
    // With 52 bits and a 64K granule, bits 15:12 are address bits 51:48.
    let high = if info.oa_bits == 52 {
        (descriptor >> 12 & 0xf) << (48 - info.page_shift)
    } else {
        0
    };
    low | high
}

/// Returns log2 of the bytes that one descriptor of `level` translates.
const fn level_shift(info: &ExposePgtblInfo, level: u32) -> u32 {
    (info.page_shift - 3) * (4 - level) + 3
}

/// Returns the index of `address` in a table of `level`.
fn index(info: &ExposePgtblInfo, level: u32, address: u64) -> usize {
    let entries = page_size(info) / 8;
    usize::try_from(address >> level_shift(info, level)).map_or(0, |index| index % entries)
}

fn same(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    // If a page is the only one in its table, replacing the page frees the table. The middle one of three
    // adjacent pages shares its table with at least one neighbour.
    let pages = [
        Page::written(info)?,
        Page::written(info)?,
        Page::written(info)?,
    ];
    let [_, page, _] = &pages;
    let address = page.address();
    let path = path(0, address)?;
    let mut met = path.root_level + info.levels == 4 && path.last_level == 3;
    met &= expect("root", page.map(0, 0, 0), Ok(path.root_pfn));
    met &= expect(
        "root by address",
        page.map_address(0, 0, address),
        Ok(path.root_pfn),
    );
    let mut frame = path.root_pfn;
    for (level, descriptor) in (0..).zip(path.desc).skip(path.root_level as usize) {
        if level > 0 {
            met &= expect("by address", page.map_address(0, level, address), Ok(frame));
            met &= expect("by frame", page.map(0, level, frame), Ok(frame));
        } else {
            met &= expect("level 0", page.map_address(0, 0, address), Ok(frame));
        }
        if level < 3 {
            met &= expect(
                "descriptor",
                Ok(page.word(index(info, level, address))),
                Ok(descriptor),
            );
        }
        frame = next_table(info, descriptor);
    }
    Ok(met.into())
}

fn no_table(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = Page::writable(info)?;
    let span = 1 << level_shift(info, 2);
    let reserved = Mapping::reserve(3 * span, Protection::READ_WRITE)?;
    // Inside, an address range of a whole table in which nothing was ever touched.
    let untouched = reserved.address() + span as u64;
    all(&[expect_error(
        "level 3",
        page.map_address(0, 3, untouched),
        Errno::ENOENT,
    )])
}

fn freed(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let table = Page::writable(info)?;
    let span = 1 << level_shift(info, 2);
    let mapping = Mapping::reserve(4 * span, Protection::READ_WRITE)?;
    mapping.base_pages_only()?;
    // The first byte of a level-3 table's range that contains nothing else.
    let offset = 2 * span - usize::try_from(mapping.address()).unwrap_or(0) % span;
    for page in 0..3 {
        write(&mapping, offset + page * page_size(info), 1);
    }
    table.map_address(0, 3, mapping.address() + offset as u64)?;
    let in_use = expect("descriptors in use", Ok(table.words_in_use()), Ok(3));
    drop(mapping);
    all(&[
        in_use,
        expect("descriptors in use then", Ok(table.words_in_use()), Ok(0)),
    ])
}

fn moved(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    /// log2 of the address space that a test may reserve: fits into 39-bit addresses.
    const MOST_SHIFT: u32 = 36;
    let shift = level_shift(info, 1);
    if info.features & EXPOSE_PGTBL_MOVING_L2 != 0 {
        return Ok(Verdict::Skip("this kernel moves tables of level 2"));
    }
    if info.levels < 3 || shift + 3 > MOST_SHIFT {
        return Ok(Verdict::Skip(
            "a level-2 table translates too much to move one",
        ));
    }
    let span = 1 << shift;
    // Contains two aligned, separate ranges of a whole level-2 table each.
    let room = Mapping::reserve(6 * span, Protection::NONE)?;
    let start = room.address().next_multiple_of(span as u64);
    drop(room);
    let at = |address| Mapping::reserve_at(address, span, Protection::READ_WRITE);
    let (from, to) = (at(start)?, at(start + 3 * span as u64)?);
    from.base_pages_only()?;
    write(&from, 0, 1);
    let table = Page::writable(info)?;
    table.map_address(0, 2, start)?;
    let before = expect("slots in use", Ok(table.words_in_use()), Ok(1));
    let moved = from.move_onto(to)?;
    let after = expect("slots in use then", Ok(table.words_in_use()), Ok(0));
    let path = path(0, moved.address())?;
    all(&[
        before,
        after,
        expect(
            "last level at the new place",
            Ok(path.last_level.into()),
            Ok(3),
        ),
    ])
}
