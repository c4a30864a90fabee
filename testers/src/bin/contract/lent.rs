//! Lent pages, and kernel code that meets them; results that cannot be written to the caller.

#![expect(unsafe_code, reason = "takes pages of its own memory")]

use core::ptr;

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::remap::{
    EXPOSE_PGTBL_LEND, EXPOSE_PGTBL_TAKE, ExposePgtblInfo, ExposePgtblTable, flush, path, take,
};
use tablewalk_uapi::{Errno, Mapping, Sharing};

use crate::pages::{adopt, call, lend, pages_and_places, private};
use crate::{Test, with};
use tablewalk_rt::memory::{read, write};
use tablewalk_testkit::expect::{all, expect, expect_error};
use tablewalk_testkit::page::{Page, call_at, page_size, range};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "reclaim and aging leave a lent page alone, but not its neighbour",
        run: |info| with(info, EXPOSE_PGTBL_LEND, left_alone),
    },
    Case {
        name: "LEND and TAKE where huge pages are not disabled: EINVAL",
        run: |info| with(info, EXPOSE_PGTBL_LEND, huge_pages),
    },
    Case {
        name: "TAKE between mappings that never were one: EINVAL",
        run: |info| with(info, EXPOSE_PGTBL_TAKE, made_apart),
    },
    Case {
        name: "if the result cannot be written, nothing is changed: EFAULT",
        run: |info| with(info, EXPOSE_PGTBL_TAKE, no_news),
    },
    Case {
        name: "LEND and ADOPT skip an entry whose frame is not memory",
        run: |info| with(info, EXPOSE_PGTBL_LEND, no_memory),
    },
];

/// Returns the level-3 descriptor of this process for `address`.
fn descriptor(address: u64) -> Result<u64, Errno> {
    let [.., last] = path(0, address)?.desc;
    Ok(last)
}

fn left_alone(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = page_size(info);
    let memory = private(2 * page)?;
    let beside = memory.address() + page as u64;
    write(&memory, 0, 1);
    write(&memory, page, 2);
    let lent = expect("a page to lend", lend(0, memory.address(), 1), Ok(1));
    let before = [descriptor(memory.address())?, descriptor(beside)?];
    // Without swap, the kernel may leave the entry of a page that is to be reclaimed, but not that of one
    // that ages.
    memory.advise(0..2 * page, Advice::PageOut)?;
    memory.advise(0..2 * page, Advice::Cold)?;
    let after = [descriptor(memory.address())?, descriptor(beside)?];
    let [lent_before, other_before] = before;
    let [lent_after, other_after] = after;
    all(&[
        lent,
        expect("its entry", Ok(lent_after), Ok(lent_before)),
        expect(
            "the entry beside it has changed",
            Ok(u64::from(other_after != other_before)),
            Ok(1),
        ),
        expect("to be adopted", adopt(0, memory.address(), 1), Ok(1)),
    ])
}

fn huge_pages(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = page_size(info);
    let memory = Mapping::anonymous(4 * page, Protection::READ_WRITE, Sharing::Private)?;
    write(&memory, 0, 1);
    let address = memory.address();
    let mut places = [ExposePgtblTable::default()];
    let from = address..address + page as u64;
    // SAFETY: no Rust reference points into this memory.
    let mut taken = || unsafe { take(0, from.clone(), address + 2 * page as u64, &mut places) };
    if memory.advise(0..page, Advice::NoHugePage) == Err(Errno::EINVAL) {
        return Ok(Verdict::Skip("no transparent huge pages"));
    }
    // Only the first page still keeps huge pages out.
    let second = address + page as u64;
    write(&memory, page, 2);
    all(&[
        expect_error("pages to lend", lend(0, second, 1), Errno::EINVAL),
        expect_error("places", taken(), Errno::EINVAL),
        expect("a page that may be lent", lend(0, address, 1), Ok(1)),
        expect("and be adopted", adopt(0, address, 1), Ok(1)),
    ])
}

fn no_memory(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    /// An output address with no memory on any test machine, within the 40 bits that every CPU has.
    const NOWHERE: u64 = 0x7f_ffff_0000;
    let page = page_size(info);
    let memory = pages_and_places(page, 1, 15)?;
    let table = Page::writable(info)?;
    table.map_address(0, 3, memory.address())?;
    let entries = page as u64 / 8;
    let index = memory.address() / page as u64 % entries;
    let slot = usize::try_from(index + 1).map_err(|_| Errno::EINVAL)?;
    let attributes = !((1 << 48) - page as u64) & !(0xf << 12);
    let good = descriptor(memory.address())?;
    // SAFETY: the entry was empty, and nobody touches its page until it is empty again.
    unsafe { table.set_word(slot, good & attributes | NOWHERE) };
    let lent = lend(0, memory.address(), 4);
    let adopted = adopt(0, memory.address(), 4);
    // SAFETY: nobody has used the entry, and its TLB entry is invalidated.
    unsafe { table.set_word(slot, 0) };
    flush(0, memory.address() + page as u64, 1)?;
    all(&[
        expect("the page before it to lend", lent, Ok(1)),
        expect("and to adopt", adopted, Ok(1)),
    ])
}

fn made_apart(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = page_size(info);
    let from = private(2 * page)?;
    // Adjacent pages would share their level-3 table.
    let between = Page::writable(info)?;
    let to = private(2 * page)?;
    write(&from, 0, 1);
    write(&to, 0, 2);
    let mut places = [ExposePgtblTable::default()];
    let pages = from.address()..from.address() + page as u64;
    // SAFETY: no Rust reference points into this memory.
    let taken = unsafe { take(0, pages, to.address() + page as u64, &mut places) };
    all(&[
        between.address() != 0,
        expect_error("places", taken, Errno::EINVAL),
        expect("the page", Ok(read(&from, 0)), Ok(1)),
    ])
}

/// Maps a read-only page that contains `words`.
fn read_only(info: &ExposePgtblInfo, words: [u64; 4]) -> Result<Page, Errno> {
    let page = Page::writable(info)?;
    for (index, word) in words.into_iter().enumerate() {
        // SAFETY: the page is ordinary memory, not a table.
        unsafe { page.set_word(index, word) };
    }
    // SAFETY: it is not written any more, and no table is mapped over it.
    unsafe { page.mapping() }.protect(0..page_size(info), Protection::READ)?;
    Ok(page)
}

fn no_news(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = page_size(info);
    let memory = pages_and_places(page, 2, 15)?;
    let at = |number: usize| memory.address() + (number * page) as u64;
    let mut places = [ExposePgtblTable::default(); 2];
    let good = range(at(0), at(2), &mut places);
    let mut no_array = good;
    no_array.tables = read_only(info, [0; 4])?.address();
    let sizes = u64::from(good.size) | u64::from(good.count) << 32;
    let no_struct = read_only(info, [sizes, good.start, good.end, good.tables])?;
    let take_by = |pfn| call(0, at(8), pfn, EXPOSE_PGTBL_TAKE);
    let array = ptr::from_ref(&no_array).expose_provenance() as u64;
    let lend_args = read_only(info, [0, at(0), 2, EXPOSE_PGTBL_LEND.into()])?;
    // SAFETY: the page is only read, and no table is mapped over it.
    let mapping = unsafe { lend_args.mapping() };
    // SAFETY: the struct in it names pages of this test only.
    let by_args = unsafe { call_at(mapping.as_ptr()) };
    let refused = all(&[
        expect_error("an array", take_by(array), Errno::EFAULT),
        expect_error("a struct", take_by(no_struct.address()), Errno::EFAULT),
        expect_error("args", by_args, Errno::EFAULT),
    ])?;
    all(&[
        refused == Verdict::Ok,
        expect("the first page", Ok(read(&memory, 0)), Ok(1)),
        expect("the second page", Ok(read(&memory, page)), Ok(2)),
        expect("pages that are still to be lent", lend(0, at(0), 2), Ok(2)),
        expect("and adopted", adopt(0, at(0), 2), Ok(2)),
    ])
}
