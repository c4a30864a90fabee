//! LEND, ADOPT and TAKE: pages whose entries user space moves.

#![expect(unsafe_code, reason = "moves pages of its own memory")]

use core::ops::Range;

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::remap::{
    self, EXPOSE_PGTBL_LEND, EXPOSE_PGTBL_TAKE, ExposePgtblInfo, ExposePgtblTable, take,
};
use tablewalk_uapi::{Errno, Mapping, Sharing};

use crate::{Test, with};
use tablewalk_rt::memory::{read, write};
use tablewalk_testkit::expect::{all, expect, expect_error};
use tablewalk_testkit::page::{self, Page, page_size, range};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "ADOPT and LEND handle each page once, in private anonymous memory only",
        run: |info| with(info, EXPOSE_PGTBL_LEND, adopt_and_lend),
    },
    Case {
        name: "TAKE moves pages of this process only, to empty places only",
        run: |info| with(info, EXPOSE_PGTBL_TAKE, take_some),
    },
    Case {
        name: "TAKE refuses invalid pages and places",
        run: |info| with(info, EXPOSE_PGTBL_TAKE, take_refuses),
    },
];

pub(crate) fn private(size: usize) -> Result<Mapping, Errno> {
    let mapping = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Private)?;
    mapping.base_pages_only()?;
    Ok(mapping)
}

fn adopt_and_lend(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = page_size(info);
    let touched = private(4 * page)?;
    for number in [0, 2] {
        write(&touched, number * page, 1);
    }
    let untouched = Mapping::anonymous(page, Protection::READ, Sharing::Private)?;
    let shared = Page::writable(info)?;
    let gone = private(page)?.address();
    let pages = 1 << (info.va_bits - info.page_shift);
    let start = touched.address();
    let both = |what, address, pages, errno| {
        let adopted = expect_error(what, adopt(0, address, pages), errno);
        expect_error(what, lend(0, address, pages), errno) && adopted
    };
    let refused = |what, address, pages| both(what, address, pages, Errno::EINVAL);
    all(&[
        expect("pages that were not moved", adopt(0, start, 4), Ok(0)),
        expect("pages to lend", lend(0, start, 4), Ok(2)),
        expect("that are lent", lend(0, start, 4), Ok(0)),
        expect("to be adopted", adopt(0, start, 4), Ok(2)),
        expect("that are adopted", adopt(0, start, 4), Ok(0)),
        refused("no pages", start, 0),
        refused("unaligned", start + 1, 1),
        refused("beyond user space", start, pages),
        refused("overflow", start, !0),
        refused("a hole", gone, 1),
        refused("never touched", untouched.address(), 1),
        refused("shared memory", shared.address(), 1),
        expect_error("no process", adopt(i32::MAX, start, 1), Errno::ESRCH),
        expect_error("no process", lend(i32::MAX, start, 1), Errno::ESRCH),
    ])
}

fn same(what: &str, values: &[u64], expected: &[u64]) -> bool {
    let met = |(&value, &expected)| expect(what, Ok(value), Ok(expected));
    values.iter().zip(expected).all(met)
}

/// Returns the result of TAKE: the number of places handled, and where to continue.
fn outcome(taken: Result<(usize, u64), Errno>) -> Result<[u64; 2], Errno> {
    taken.map(|(places, next)| [places as u64, next])
}

/// Maps 16 pages that share one table: TAKE returns at the end of a table.
fn in_one_table(page: usize) -> Result<Mapping, Errno> {
    let memory = private(16 * page)?;
    let table = |address: u64| address / (page * (page / 8)) as u64;
    if table(memory.address()) == table(memory.address() + 15 * page as u64) {
        return Ok(memory);
    }
    // The next 16 pages follow, and the table ends in at most one of the two mappings.
    private(16 * page)
}

/// Maps 16 pages with a table. The first `pages` contain their numbers, and the page `full` is not empty.
pub(crate) fn pages_and_places(page: usize, pages: usize, full: usize) -> Result<Mapping, Errno> {
    let memory = in_one_table(page)?;
    memory.advise(0..16 * page, Advice::PopulateWrite)?;
    memory.advise(0..16 * page, Advice::DontNeed)?;
    for number in 0..pages {
        write(&memory, number * page, number as u64 + 1);
    }
    write(&memory, full * page, 100);
    Ok(memory)
}

fn take_some(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = page_size(info);
    let memory = pages_and_places(page, 4, 9)?;
    let at = |number: usize| memory.address() + (number * page) as u64;
    // Make this the shared zero page.
    memory.advise(2 * page..3 * page, Advice::DontNeed)?;
    let zeros = read(&memory, 2 * page);
    let mut found = [ExposePgtblTable::default(); 4];
    // SAFETY: no Rust reference points into this memory, and the places were empty all the time.
    let first = unsafe { take(0, at(0)..at(7), at(8), &mut found) };
    let second = {
        let mut none = [ExposePgtblTable::default(); 2];
        // SAFETY: no Rust reference points into this memory, and the places are empty.
        unsafe { take(0, at(0)..at(7), at(12), &mut none) }
    };
    let word = |number: usize| read(&memory, number * page);
    let moved = [8, 9, 10, 11, 12].map(word);
    all(&[
        expect("zeros", Ok(zeros), Ok(0)),
        same("places, and where to go on", &outcome(first)?, &[4, at(7)]),
        same(
            "where they were",
            &found.map(|place| place.addr),
            &[at(0), 0, at(1), at(3)],
        ),
        same("what is there", &moved, &[1, 100, 2, 4, 0]),
        same("what was left", &[0, 1, 3].map(word), &[0; 3]),
        same("nothing is left", &outcome(second)?, &[0, at(7)]),
        expect("they are lent", adopt(0, at(8), 4), Ok(3)),
    ])
}

fn take_refuses(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = page_size(info);
    let memory = pages_and_places(page, 2, 15)?;
    let at = |number: usize| memory.address() + (number * page) as u64;
    let take_into = |from: Range<u64>, to: u64, count: usize| {
        let mut found = [ExposePgtblTable::default(); 4];
        let (found, _) = found.split_at_mut(count);
        // SAFETY: no Rust reference points into this memory; the kernel refuses other addresses.
        unsafe { take(0, from, to, found) }
    };
    let refused =
        |what, from, to, count| expect_error(what, take_into(from, to, count), Errno::EINVAL);
    let read_only = private(page)?;
    write(&read_only, 0, 1);
    read_only.protect(0..page, Protection::READ)?;
    let shared = Page::writable(info)?;
    let end = 1 << info.va_bits;
    // The end of this range has no table: a table covers `span` bytes, which are 512 MiB with 64K pages. The
    // memory must not be accounted, since a machine may have less.
    let span = page << (info.page_shift - 3);
    let sparse = Mapping::reserve(4 * span, Protection::READ_WRITE)?;
    sparse.base_pages_only()?;
    write(&sparse, 0, 1);
    let far = sparse.address() + 3 * span as u64;
    let gone = private(2 * page)?.address();
    let mut found = [ExposePgtblTable::default(); 1];
    let good = range(at(0), at(2), &mut found);
    let raw = |pfn: u64, pid| call(pid, at(8), pfn, EXPOSE_PGTBL_TAKE);
    let sized = |size| {
        let mut asked = good;
        asked.size = size;
        raw(
            core::ptr::from_mut(&mut asked).expose_provenance() as u64,
            0,
        )
    };
    all(&[
        refused("no place", at(0)..at(2), at(8), 0),
        refused("no page", at(2)..at(2), at(8), 1),
        refused("backwards", at(2)..at(1), at(8), 1),
        refused("unaligned pages", at(0) + 1..at(2), at(8), 1),
        refused("an unaligned end", at(0)..at(2) - 1, at(8), 1),
        refused("unaligned places", at(0)..at(2), at(8) + 1, 1),
        refused("overlapping", at(0)..at(2), at(1), 1),
        refused("overlapping from before", at(3)..at(5), at(1), 3),
        refused(
            "pages beyond user space",
            at(0)..end + page as u64,
            at(8),
            1,
        ),
        refused("places beyond user space", at(0)..at(2), end, 1),
        refused("a hole", gone..gone + page as u64, at(8), 1),
        refused("places in a hole", at(0)..at(2), gone, 1),
        refused(
            "shared memory",
            shared.address()..shared.address() + page as u64,
            at(8),
            1,
        ),
        refused("places in shared memory", at(0)..at(2), shared.address(), 1),
        refused(
            "places that are read-only",
            at(0)..at(2),
            read_only.address(),
            1,
        ),
        refused(
            "places behind the mapping",
            at(0)..at(2),
            far + span as u64 - page as u64,
            4,
        ),
        expect_error(
            "a place without a table",
            take_into(sparse.address()..sparse.address() + page as u64, far, 1),
            Errno::ENOENT,
        ),
        expect_error("no struct", raw(8, 0), Errno::EFAULT),
        expect_error("a small struct", sized(31), Errno::EINVAL),
        expect_error(
            "no process",
            raw(
                core::ptr::from_ref(&good).expose_provenance() as u64,
                i32::MAX,
            ),
            Errno::ESRCH,
        ),
        same(
            "the pages",
            &[0, 1].map(|number| read(&memory, number * page)),
            &[1, 2],
        ),
    ])
}

/// Makes the call on pages of these tests, or on unmapped addresses.
pub(crate) fn call(pid: i32, remap_vaddr: u64, pfn: u64, level: u32) -> Result<u64, Errno> {
    // SAFETY: no Rust reference points to memory that the tests of this file name.
    unsafe { page::call(pid, remap_vaddr, pfn, level) }
}

/// Adopts pages whose entries nobody moves.
pub(crate) fn adopt(pid: i32, address: u64, pages: u64) -> Result<u64, Errno> {
    // SAFETY: nobody moves the entries.
    unsafe { remap::adopt(pid, address, pages) }
}

/// Lends pages that are adopted or unmapped at the same address.
pub(crate) fn lend(pid: i32, address: u64, pages: u64) -> Result<u64, Errno> {
    // SAFETY: the pages stay where they are.
    unsafe { remap::lend(pid, address, pages) }
}
