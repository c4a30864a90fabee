//! RANGE: several tables at once.

#![expect(unsafe_code, reason = "unmaps pages of its own in part")]

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::println;
use tablewalk_testkit::error::Error;
use tablewalk_testkit::expect::{all, expect, expect_error, expect_ok};
use tablewalk_testkit::page::{self, Page, page_size, range};
use tablewalk_testkit::sparse::Sparse;
use tablewalk_testkit::witness::Witness;
use tablewalk_uapi::memory::{self, Protection};
use tablewalk_uapi::remap::{
    EXPOSE_PGTBL_RANGE, EXPOSE_PGTBL_RANGE_MOST, ExposePgtblInfo, ExposePgtblRange,
    ExposePgtblTable,
};
use tablewalk_uapi::{Errno, Mapping, Sharing};

use crate::operations::at;
use crate::races::frame_of;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "1,500 tables by range are the same as by address",
        run: same,
    },
    Case {
        name: "RANGE finds the tables of each level that the level above points to",
        run: levels,
    },
    Case {
        name: "a mapping that is unmapped and replaced in part keeps the rest",
        run: parts,
    },
    Case {
        name: "tables that are exchanged are released while their mapping stays",
        run: exchanged,
    },
    Case {
        name: "a range over pages of different protection gets the strictest",
        run: strictest,
    },
    Case {
        name: "invalid ranges and structs are refused",
        run: nonsense,
    },
];

/// More than one call maps.
const SLOTS: usize = EXPOSE_PGTBL_RANGE_MOST + 88;
const TABLES: u64 = 1500;
const NO_TABLE: ExposePgtblTable = ExposePgtblTable { addr: 0, desc: 0 };

/// Returns the words of a page.
fn words(info: &ExposePgtblInfo) -> usize {
    page_size(info) / 8
}

/// Returns whether page `slot` of `pages` has the same contents as `table`.
fn shows(info: &ExposePgtblInfo, pages: &Page, slot: usize, table: &Page) -> bool {
    let first = slot * words(info);
    (0..words(info)).all(|index| pages.word(first + index) == table.word(index))
}

fn same(context: &mut Context) -> Result<Verdict, Error> {
    let info = &context.info;
    let witness = Witness::begin()?;
    let many = Sparse::new(info, TABLES)?;
    let pages = Page::several(info, Protection::READ, SLOTS).map_err(Error::call("mmap"))?;
    let one = Page::read_only(info).map_err(Error::call("mmap"))?;
    let (start, end) = (many.address_of_table(0), many.address_of_table(TABLES));
    let mut tables = [NO_TABLE; SLOTS];
    let mut next = start;
    let (mut mapped, mut differ, mut calls) = (0, 0, 0);
    while next < end {
        let mut asked = range(next, end, &mut tables);
        map_range(&pages, many.pid(), 3, &mut asked).map_err(Error::call("RANGE"))?;
        calls += 1;
        for (slot, table) in tables.iter().enumerate().take(asked.count as usize) {
            // In address order, without gaps.
            let address = many.address_of_table(mapped);
            let span = many.address_of_table(1) - start;
            differ += u64::from(table.addr != address - address % span);
            let frame = one.map_address(many.pid(), 3, address);
            differ += u64::from(frame != Ok(frame_of(info, table.desc)));
            differ += u64::from(!shows(info, &pages, slot, &one));
            mapped += 1;
        }
        if asked.start <= next {
            break;
        }
        next = asked.start;
    }
    println!("# {mapped} tables in {calls} calls, {differ} differences");
    drop(many);
    let in_use = pages.words_in_use();
    drop((pages, one));
    let met = all(&[
        // The range may begin in the middle of a table.
        expect("tables", Ok(mapped.clamp(TABLES, TABLES + 1)), Ok(mapped)),
        expect("calls", Ok(calls), Ok(3)),
        expect("differences", Ok(differ), Ok(0)),
        expect("in use when the process is gone", Ok(in_use), Ok(0)),
    ])
    .map_err(Error::call("RANGE"))?;
    Ok((met == Verdict::Ok && witness.all_came_back()?).into())
}

fn levels(context: &mut Context) -> Result<Verdict, Error> {
    let info = &context.info;
    let end = 1 << info.va_bits;
    let pages = Page::several(info, Protection::READ, SLOTS).map_err(Error::call("mmap"))?;
    let one = Page::read_only(info).map_err(Error::call("mmap"))?;
    one.map(0, 0, 0).map_err(Error::call("root"))?;
    let mut above = tables_in(info, &one, 0);
    let mut tables = [NO_TABLE; SLOTS];
    let mut met = true;
    for level in 5 - info.levels..=3 {
        let mut asked = range(0, end, &mut tables);
        map_range(&pages, 0, level, &mut asked).map_err(Error::call("RANGE"))?;
        met &= expect("tables of a level", Ok(asked.count.into()), Ok(above));
        met &= expect("and the end", Ok(asked.start), Ok(end));
        above = (0..asked.count as usize)
            .map(|slot| tables_in(info, &pages, slot))
            .sum();
    }
    Ok(met.into())
}

/// Counts the table descriptors in page number `slot`: both low bits set, above level 3 (Arm ARM, "VMSAv8-64
/// translation table format descriptors").
fn tables_in(info: &ExposePgtblInfo, pages: &Page, slot: usize) -> u64 {
    let first = slot * words(info);
    (first..first + words(info))
        .filter(|&index| pages.word(index) & 0b11 == 0b11)
        .count() as u64
}

fn parts(context: &mut Context) -> Result<Verdict, Error> {
    const SOME: usize = 8;
    let info = &context.info;
    let witness = Witness::begin()?;
    let many = Sparse::new(info, SOME as u64)?;
    let pages = Page::several(info, Protection::READ, SOME).map_err(Error::call("mmap"))?;
    let one = Page::read_only(info).map_err(Error::call("mmap"))?;
    let mut tables = [NO_TABLE; SOME];
    let (start, end) = (many.address_of_table(0), many.address_of_table(SOME as u64));
    let mut met = true;
    for _round in 0..context.rounds {
        let mut asked = range(start, end, &mut tables);
        let mapped = map_range(&pages, many.pid(), 3, &mut asked);
        met &= expect_ok("RANGE", mapped);
        // A hole, followed by a page that another table replaces.
        // SAFETY: pages of this test, which nobody reads before they are mapped again.
        let unmapped = unsafe { memory::munmap(at(pages.address()), page_size(info)) };
        met &= expect_ok("munmap", unmapped);
        let third = pages.address() + 2 * page_size(info) as u64;
        met &= expect_ok("replaced", call(0, third, 0, 0));
        let hole = map_range(&pages, many.pid(), 3, &mut range(start, end, &mut tables));
        met &= expect_error("over the hole", hole, Errno::EINVAL);
        let last = one.map_address(many.pid(), 3, many.address_of_table(SOME as u64 - 1));
        met &= expect_ok("the last", last);
        met &= expect(
            "the last is as it was",
            Ok(shows(info, &pages, SOME - 1, &one).into()),
            Ok(1),
        );
        // SAFETY: nothing is mapped there.
        let filled = unsafe {
            memory::mmap_anonymous(
                at(pages.address()),
                page_size(info),
                Protection::READ,
                memory::MAP_FIXED | memory::MAP_PRIVATE,
            )
        };
        met &= expect_ok("filled", filled);
    }
    drop((many, pages, one));
    Ok((met && witness.all_came_back()?).into())
}

fn exchanged(context: &mut Context) -> Result<Verdict, Error> {
    // More than a witness lets pass, if they stayed until the first is gone too.
    const SOME: usize = EXPOSE_PGTBL_RANGE_MOST;
    let info = &context.info;
    let pages = Page::several(info, Protection::READ, SOME).map_err(Error::call("mmap"))?;
    let one = Page::read_only(info).map_err(Error::call("mmap"))?;
    one.map(0, 0, 0).map_err(Error::call("root"))?;
    let witness = Witness::begin()?;
    let many = Sparse::new(info, SOME as u64)?;
    let mut tables = [NO_TABLE; SOME];
    let (start, end) = (
        many.address_of_table(0),
        many.address_of_table(SOME as u64 - 1),
    );
    let mut asked = range(start, end + 1, &mut tables);
    map_range(&pages, many.pid(), 3, &mut asked).map_err(Error::call("RANGE"))?;
    let mapped = asked.count;
    drop(many);
    for slot in 1..SOME {
        let place = pages.address() + (slot * page_size(info)) as u64;
        call(0, place, 0, 0).map_err(Error::call("root"))?;
    }
    let shown = (1..SOME).filter(|&slot| shows(info, &pages, slot, &one));
    let met = all(&[
        expect("tables", Ok(mapped.into()), Ok(SOME as u64)),
        expect(
            "show the other",
            Ok(shown.count() as u64),
            Ok(SOME as u64 - 1),
        ),
    ])
    .map_err(Error::call("RANGE"))?;
    let released = witness.all_came_back()?;
    drop((pages, one));
    Ok((met == Verdict::Ok && released).into())
}

fn strictest(context: &mut Context) -> Result<Verdict, Error> {
    const SOME: usize = 3;
    let info = &context.info;
    let page = page_size(info);
    let many = Sparse::new(info, SOME as u64)?;
    let pages = Page::several(info, Protection::READ_WRITE, SOME).map_err(Error::call("mmap"))?;
    let mut tables = [NO_TABLE; SOME];
    let (start, end) = (many.address_of_table(0), many.address_of_table(SOME as u64));
    let mut map = || map_range(&pages, many.pid(), 3, &mut range(start, end, &mut tables));
    let protect = |protection| pages.protect(protection);
    let met = [
        expect_ok("writable", map()),
        expect_ok("can be made so again", protect(Protection::READ)),
        expect_ok("as it was", protect(Protection::READ_WRITE)),
        expect_ok("one is not", protect_part(&pages, page..2 * page)),
        expect_ok("mixed", map()),
        expect_error("none is", protect(Protection::READ_WRITE), Errno::EACCES),
    ];
    all(&met).map_err(Error::call("mprotect"))
}

fn nonsense(context: &mut Context) -> Result<Verdict, Error> {
    const SOME: usize = 2;
    let info = &context.info;
    let end = 1 << info.va_bits;
    // Followed by a hole too small for any mapping made below.
    let pages = Page::several(info, Protection::READ, SOME + 1).map_err(Error::call("mmap"))?;
    let behind = at(pages.address() + (SOME * page_size(info)) as u64);
    // SAFETY: a page of this test, to which no Rust reference exists.
    unsafe { memory::munmap(behind, page_size(info)) }.map_err(Error::call("munmap"))?;
    let mut tables = [NO_TABLE; SOME];
    let good = range(0, end, &mut tables);
    let ask = |asked: ExposePgtblRange| map_range(&pages, 0, 3, &mut { asked });
    let refused = |what, change: fn(&mut ExposePgtblRange, u64)| {
        let mut asked = good;
        change(&mut asked, end);
        expect_error(what, ask(asked), Errno::EINVAL)
    };
    let level = |level| map_range(&pages, 0, level, &mut { good });
    let huge = Mapping::huge(2 << 20, 21, Sharing::Shared);
    let on_huge = huge.as_ref().map_or(Err(Errno::EINVAL), |huge| {
        let pfn = core::ptr::from_ref(&good).expose_provenance() as u64;
        call(0, huge.address(), pfn, 3 | EXPOSE_PGTBL_RANGE)
    });
    let raw = |address, pfn| call(0, address, pfn, 3 | EXPOSE_PGTBL_RANGE);
    let pfn = core::ptr::from_ref(&good).expose_provenance() as u64;
    // A struct that is larger than the kernel's.
    let mut larger = [0_u64; 8];
    let words = [
        u64::from(good.count) << 32 | size_of_val(&larger) as u64,
        good.start,
        good.end,
        good.tables,
    ];
    let mut fill = |behind| {
        for (word, value) in larger.iter_mut().zip(words.into_iter().chain([0, behind])) {
            *word = value;
        }
        raw(pages.address(), larger.as_ptr().expose_provenance() as u64)
    };
    let larger_is = [fill(1), fill(0)];
    let met = [
        expect_ok("good", ask(good)),
        refused("no count", |asked, _| asked.count = 0),
        refused("empty", |asked, end| asked.start = end),
        refused("turned round", |asked, _| (asked.start, asked.end) = (2, 1)),
        refused("beyond user space", |asked, end| asked.end = end + 1),
        refused("all addresses", |asked, _| asked.end = u64::MAX),
        refused("more pages than there are", |asked, _| asked.count = 3),
        refused("more than can be", |asked, _| asked.count = u32::MAX),
        refused("too small", |asked, _| asked.size -= 1),
        expect_error("the root", level(4 - info.levels), Errno::EINVAL),
        expect_error("level 4", level(4), Errno::EINVAL),
        expect_error("hugetlbfs", on_huge, Errno::EINVAL),
        expect_error("odd", raw(pages.address() + 8, pfn), Errno::EINVAL),
        expect_error(
            "the last page",
            raw(!0 << info.page_shift, pfn),
            Errno::EINVAL,
        ),
        expect_error("no struct", raw(pages.address(), 8), Errno::EFAULT),
        expect_error(
            "no array",
            ask(ExposePgtblRange { tables: 8, ..good }),
            Errno::EFAULT,
        ),
        expect_error("larger, not zero", larger_is[0], Errno::E2BIG),
        expect_ok("larger, zero", larger_is[1]),
    ];
    all(&met).map_err(Error::call("RANGE"))
}

/// Makes the call on pages of these tests, or on unmapped addresses.
fn call(pid: i32, remap_vaddr: u64, pfn: u64, level: u32) -> Result<u64, Errno> {
    // SAFETY: no Rust reference points to memory that the tests of this file name.
    unsafe { page::call(pid, remap_vaddr, pfn, level) }
}

/// Maps tables over pages of these tests.
fn map_range(
    pages: &Page,
    pid: i32,
    level: u32,
    range: &mut ExposePgtblRange,
) -> Result<(), Errno> {
    // SAFETY: the tests in this file pass at most as many pages and elements as exist; otherwise a hole
    // follows, and the kernel refuses.
    unsafe { pages.map_range(pid, level, range) }
}

/// Makes part of the pages read-only.
fn protect_part(pages: &Page, part: core::ops::Range<usize>) -> Result<(), Errno> {
    // SAFETY: nothing is written through the mapping.
    unsafe { pages.mapping() }.protect(part, Protection::READ)
}
