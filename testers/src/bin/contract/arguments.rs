//! Invalid arguments, and valid arguments that look invalid.

#![expect(unsafe_code, reason = "tries what may not work")]

use core::ptr;

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_uapi::Errno;
use tablewalk_uapi::remap::{
    EXPOSE_PGTBL_ADDR, EXPOSE_PGTBL_FLUSH, EXPOSE_PGTBL_INFO, EXPOSE_PGTBL_INFO_SIZE_VER0,
    EXPOSE_PGTBL_NO_BIT, EXPOSE_PGTBL_PATH, ExposePgtblInfo, flush, path,
};
use tablewalk_uapi::system::uname;

use crate::Test;
use tablewalk_testkit::expect::{all, each, expect, expect_error, expect_ok};
use tablewalk_testkit::page::{self, Page, page_size};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "args at an unmapped address: EFAULT",
        run: bad_pointer,
    },
    Case {
        name: "garbage in the padding of args is ignored",
        run: padding,
    },
    Case {
        name: "args inside the page that is replaced do not end up in the table",
        run: overlap,
    },
    Case {
        name: "level 4 and above: EINVAL",
        run: bad_level,
    },
    Case {
        name: "a level above the root: EINVAL",
        run: folded_level,
    },
    Case {
        name: "an unknown flag, or two: EINVAL",
        run: bad_flag,
    },
    Case {
        name: "remap_vaddr not page-aligned: EINVAL",
        run: unaligned,
    },
    Case {
        name: "no mapping at remap_vaddr: EINVAL",
        run: hole,
    },
    Case {
        name: "an address beyond user space: EINVAL",
        run: beyond_user_space,
    },
    Case {
        name: "FLUSH takes any range inside user space",
        run: flush_range,
    },
    Case {
        name: "INFO and PATH fill at most the size that the caller passes",
        run: sized,
    },
    Case {
        name: "INFO has the types of swap entries that the kernel counts",
        run: swap_types,
    },
];

fn bad_pointer(_: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    all(&[
        expect_error("null", call_at(ptr::null_mut()), Errno::EFAULT),
        expect_error(
            "kernel address",
            call_at(ptr::without_provenance_mut(!0xfff)),
            Errno::EFAULT,
        ),
    ])
}

fn padding(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let (page, args) = (Page::writable(info)?, Page::writable(info)?);
    let root = path(0, page.address())?.root_pfn;
    each(&[0, 0xdead_beef], &mut |garbage| {
        // pid, remap_vaddr, pfn; level 0 and the padding above it.
        for (index, word) in [0, page.address(), 0, garbage << 32]
            .into_iter()
            .enumerate()
        {
            set_word(&args, index, word);
        }
        let result = call_at(at(&args));
        expect("frame number", result.map(|()| args.word(2)), Ok(root))
    })
}

fn overlap(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let (page, table) = (Page::writable(info)?, Page::writable(info)?);
    table.map(0, 0, 0)?;
    // The kernel would write the frame number here: to the third word.
    let before = table.word(2);
    set_word(&page, 1, page.address());
    call_at(at(&page))?;
    all(&[
        expect("the third word of the table", Ok(table.word(2)), Ok(before)),
        expect(
            "the same through the other mapping",
            Ok(page.word(2)),
            Ok(before),
        ),
    ])
}

fn bad_level(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = Page::writable(info)?;
    levels_refused(&page, &[4, 5, 0xff, 4 | EXPOSE_PGTBL_ADDR])
}

fn folded_level(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = Page::writable(info)?;
    let root_level = 4 - info.levels;
    // Level 0 is the root at whatever level it is, so only with two levels does one remain that does not
    // exist.
    if root_level < 2 {
        return Ok(Verdict::Skip("the root is at level 0 or 1"));
    }
    all(&[
        expect_error("by frame", page.map(0, 1, 0), Errno::EINVAL),
        expect_error("by address", page.map_address(0, 1, 0), Errno::EINVAL),
    ])
}

fn bad_flag(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = Page::writable(info)?;
    let levels = [
        0x2_0000,
        0x8000_0000,
        EXPOSE_PGTBL_ADDR | EXPOSE_PGTBL_PATH,
        EXPOSE_PGTBL_FLUSH | EXPOSE_PGTBL_INFO,
        EXPOSE_PGTBL_INFO | 1,
        EXPOSE_PGTBL_PATH | 3,
        EXPOSE_PGTBL_FLUSH | 3,
    ];
    levels_refused(&page, &levels)
}

/// Returns whether the call refuses each of these values of `level`.
fn levels_refused(page: &Page, levels: &[u32]) -> Result<Verdict, Errno> {
    let refused =
        |&level: &u32| expect_error("level", call(0, page.address(), 0, level), Errno::EINVAL);
    Ok(levels.iter().all(refused).into())
}

fn unaligned(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = Page::writable(info)?;
    each(&[1, 8, page_size(info) as u64 / 2], &mut |offset| {
        expect_error(
            "offset",
            call(0, page.address() + offset, 0, 0),
            Errno::EINVAL,
        )
    })
}

fn hole(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let gone = Page::writable(info)?.address();
    let end = 1 << info.va_bits;
    each(
        &[
            0,
            gone,
            end - page_size(info) as u64,
            end,
            !0 << info.page_shift,
        ],
        &mut |address| expect_error("address", call(0, address, 0, 0), Errno::EINVAL),
    )
}

fn beyond_user_space(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = Page::writable(info)?;
    let end = 1 << info.va_bits;
    all(&[
        expect_error("ADDR", page.map_address(0, 3, end), Errno::EINVAL),
        expect_error(
            "ADDR, a kernel address",
            page.map_address(0, 0, !0),
            Errno::EINVAL,
        ),
        expect_error("PATH", path(0, end), Errno::EINVAL),
        expect_ok("PATH, the last address", path(0, end - 1)),
    ])
}

fn flush_range(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = Page::read_only(info)?;
    let pages = 1 << (info.va_bits - info.page_shift);
    let end = 1 << info.va_bits;
    all(&[
        expect_ok("one page", flush(0, page.address(), 1)),
        expect_ok("all", flush(0, 0, 0)),
        expect_ok("all of it, counted", flush(0, 0, pages)),
        expect_error("unaligned", flush(0, page.address() + 1, 1), Errno::EINVAL),
        expect_error("one too many", flush(0, 0, pages + 1), Errno::EINVAL),
        expect_error("behind the end", flush(0, end, 1), Errno::EINVAL),
        expect_error("overflow", flush(0, page.address(), !0), Errno::EINVAL),
    ])
}

fn sized(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = Page::writable(info)?;
    let last = EXPOSE_PGTBL_INFO_SIZE_VER0 as usize / 8;
    let mut met = [true; 8];
    for (met, flag) in met
        .chunks_mut(4)
        .zip([EXPOSE_PGTBL_INFO, EXPOSE_PGTBL_PATH])
    {
        set_word(&page, 0, u64::from(EXPOSE_PGTBL_INFO_SIZE_VER0) - 1);
        let small = expect_error("too small", fill(&page, flag), Errno::EINVAL);
        set_word(&page, 0, 4096);
        set_word(&page, last, 0x5a5a);
        let large = expect_ok("larger", fill(&page, flag));
        let size = expect(
            "size",
            Ok(page.word(0) & 0xffff_ffff),
            Ok(u64::from(EXPOSE_PGTBL_INFO_SIZE_VER0)),
        );
        let tail = expect("the word behind", Ok(page.word(last)), Ok(0x5a5a));
        met.copy_from_slice(&[small, large, size, tail]);
    }
    let unmapped = call(0, 8, 0, EXPOSE_PGTBL_INFO);
    all(&[
        all(&met)? == Verdict::Ok,
        expect_error("no memory", unmapped, Errno::EFAULT),
    ])
}

fn swap_types(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    // include/linux/swap.h: each type follows the previous one that is configured. Up to 6.5 there is one
    // more at the end, SWP_SWAPIN_ERROR.
    let release = uname()?;
    let error = u8::from(release.release().to_bytes().starts_with(b"6.1."));
    let mut end = 1_u8 << info.swp_type_bits;
    end -= error;
    let mut met = true;
    let types = [
        ("marker", info.swp_marker, 1),
        ("device", info.swp_device, 4),
        ("migration", info.swp_migration, 3),
        ("hardware poison", info.swp_hwpoison, 1),
    ];
    for (what, first, count) in types {
        if first != EXPOSE_PGTBL_NO_BIT {
            end -= count;
            met &= expect(what, Ok(first.into()), Ok(end.into()));
        }
    }
    Ok(met.into())
}

/// Makes the call on pages of these tests, or on unmapped addresses.
fn call(pid: i32, remap_vaddr: u64, pfn: u64, level: u32) -> Result<u64, Errno> {
    // SAFETY: no Rust reference points to memory that the tests of this file name.
    unsafe { page::call(pid, remap_vaddr, pfn, level) }
}

/// Makes the call with a struct of these tests, for their pages, or with an invalid pointer.
fn call_at(args: *mut u8) -> Result<(), Errno> {
    // SAFETY: no Rust reference points to memory that the tests of this file name.
    unsafe { page::call_at(args) }
}

/// Writes a word of a page that no table is mapped over.
fn set_word(page: &Page, index: usize, value: u64) {
    // SAFETY: no table is mapped over the page.
    unsafe { page.set_word(index, value) }
}

/// Returns a pointer to the start of a page.
fn at(page: &Page) -> *mut u8 {
    // SAFETY: nothing is written through it.
    unsafe { page.mapping() }.as_ptr()
}

/// Lets the kernel fill the struct at the start of a page.
fn fill(page: &Page, flag: u32) -> Result<u64, Errno> {
    // SAFETY: INFO and PATH write to the page, which no table is mapped over.
    unsafe { page.call(0, flag, 0) }
}
