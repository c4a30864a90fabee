//! The forms that look: each against pagemap.

#![expect(unsafe_code, reason = "fills structs by the call")]

use core::ptr;

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::println;
use tablewalk_testkit::expect::{all, expect, expect_error};
use tablewalk_testkit::page::{Page, range};
use tablewalk_uapi::Errno;
use tablewalk_uapi::memory::{Protection, page_shift};
use tablewalk_uapi::remap::{
    EXPOSE_PGTBL_ADDR, EXPOSE_PGTBL_FLUSH, EXPOSE_PGTBL_INFO, EXPOSE_PGTBL_PATH,
    EXPOSE_PGTBL_RANGE, ExposePgtblInfo, ExposePgtblTable,
};
use tablewalk_uapi::remap_device::{
    EXPOSE_PGTBL_PATH5_SIZE, EXPOSE_PGTBL_ROOT_COPY, ExposePgtblPath5, Target,
};

use crate::place::{
    Other, call, entry_shift, frame_of, index, level_number, map, map_address, open_target,
    root_level, tables, touched, witness,
};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "INFO describes the format in use, and the forms that are there",
        run: info,
    },
    Case {
        name: "base form: frame by frame from the root to the frame in pagemap",
        run: base_form_own,
    },
    Case {
        name: "base form, another process",
        run: base_form_other,
    },
    Case {
        name: "ADDR maps the tables that the base form finds",
        run: by_address,
    },
    Case {
        name: "RANGE maps each table, in order, and says where to go on",
        run: several,
    },
    Case {
        name: "PATH ends at the frame in pagemap, or at an entry that is not valid",
        run: path,
    },
];

fn info(context: &mut Context) -> Result<Verdict, Errno> {
    let info = &context.info;
    println!(
        "# {} levels, {} bits, {} bits of output, root of {} entries, features {:#x}",
        info.levels, info.va_bits, info.oa_bits, info.root_entries, info.features
    );
    let flags = EXPOSE_PGTBL_ADDR
        | EXPOSE_PGTBL_FLUSH
        | EXPOSE_PGTBL_INFO
        | EXPOSE_PGTBL_PATH
        | EXPOSE_PGTBL_RANGE;
    let root = root_level(info);
    let entries = 1_u64 << (info.va_bits - entry_shift(info, root));
    let is_page = entries << 3 == 1 << info.page_shift;
    let copied = info.features & EXPOSE_PGTBL_ROOT_COPY != 0;
    all(&[
        expect("flags", Ok(info.flags.into()), Ok(flags.into())),
        expect(
            "page",
            Ok(info.page_shift.into()),
            page_shift().map(u64::from),
        ),
        expect("size", Ok(info.size.into()), Ok(56)),
        expect("root", Ok(info.root_entries.into()), Ok(entries)),
        expect("a copy", Ok(u64::from(copied)), Ok(u64::from(!is_page))),
    ])
}

/// Walks by the base form. Returns the frames of the tables from the root on, and that of the page.
fn walk(context: &Context, target: &Target, address: u64) -> Result<([u64; 5], u64), Errno> {
    let info = &context.info;
    let page = Page::read_only(info)?;
    let mut frames = [0; 5];
    let mut frame = map(target, &page, 0, 0)?;
    for (level, place) in (root_level(info)..).zip(&mut frames) {
        *place = frame;
        let descriptor = page.word(index(info, level, address));
        if descriptor & 3 != 3 {
            return Err(Errno::ENODATA);
        }
        frame = frame_of(info, descriptor);
        if level == 3 {
            break;
        }
        let found = map(target, &page, level_number(info, level + 1), frame)?;
        if found != frame {
            return Err(Errno::EIO);
        }
    }
    Ok((frames, frame))
}

fn base_form_own(context: &mut Context) -> Result<Verdict, Errno> {
    let memory = touched(&context.info)?;
    let address = memory.address();
    let (_, frame) = walk(context, &context.own, address)?;
    all(&[expect(
        "frame",
        Ok(frame),
        witness(&context.info, 0, address),
    )])
}

fn base_form_other(context: &mut Context) -> Result<Verdict, Errno> {
    let other = Other::new(&context.info)?;
    let target = open_target(&context.device, other.child.pid())?;
    let (theirs, frame) = walk(context, &target, other.address)?;
    let (ours, own) = walk(context, &context.own, other.address)?;
    let theirs = theirs.get(info_last(context)).copied().unwrap_or(0);
    let ours = ours.get(info_last(context)).copied().unwrap_or(0);
    let page = Page::read_only(&context.info)?;
    let by_frame = |target, frame| map(target, &page, 3, frame);
    all(&[
        expect(
            "theirs",
            Ok(frame),
            witness(&context.info, other.child.pid(), other.address),
        ),
        expect("ours", Ok(own), witness(&context.info, 0, other.address)),
        expect("they differ", Ok(u64::from(own == frame)), Ok(0)),
        expect_error(
            "our table in theirs",
            by_frame(&target, ours),
            Errno::ENOENT,
        ),
        expect_error(
            "their table in ours",
            by_frame(&context.own, theirs),
            Errno::ENOENT,
        ),
        expect(
            "their table in theirs",
            by_frame(&target, theirs),
            Ok(theirs),
        ),
        expect_error("a page as a table", by_frame(&target, frame), Errno::ENOENT),
        expect_error("past all memory", by_frame(&target, !0), Errno::ENOENT),
    ])
}

/// The place of the last level in what [`walk`] returns.
fn info_last(context: &Context) -> usize {
    context.info.levels as usize - 1
}

fn by_address(context: &mut Context) -> Result<Verdict, Errno> {
    let info = &context.info;
    let memory = touched(info)?;
    let (frames, frame) = walk(context, &context.own, memory.address())?;
    let page = Page::read_only(info)?;
    let mut met = true;
    for (level, table) in (root_level(info)..4).zip(frames) {
        let mapped = map_address(info, &context.own, &page, level, memory.address());
        met &= expect("table", mapped, Ok(table));
    }
    let descriptor = page.word(index(info, 3, memory.address()));
    all(&[
        met,
        expect("frame", Ok(frame_of(info, descriptor)), Ok(frame)),
        expect_error(
            "no table",
            map_address(info, &context.own, &page, 3, hole(info)),
            Errno::ENOENT,
        ),
    ])
}

/// Returns an address far below the mappings at the end of the address space, and far above the program.
const fn hole(info: &ExposePgtblInfo) -> u64 {
    1 << (info.va_bits - 2)
}

const TABLES: usize = 6;

fn several(context: &mut Context) -> Result<Verdict, Errno> {
    let info = &context.info;
    let (_memory, start) = tables(info, TABLES)?;
    let size = 1 << entry_shift(info, 2);
    let end = start + TABLES as u64 * size;
    let pages = Page::several(info, Protection::READ, TABLES)?;
    let mut found = [ExposePgtblTable::default(); TABLES];
    let mut met = true;
    // Four, then the others.
    let (first, rest) = found.split_at_mut(4);
    let mut next = start;
    for (offset, part, goes_on) in [(0, first, start + 4 * size), (4, rest, end)] {
        let mut asked = range(next, end, part);
        let place = pages.address() + (offset << info.page_shift);
        let pfn = ptr::from_mut(&mut asked).expose_provenance() as u64;
        let level = 3 | EXPOSE_PGTBL_RANGE;
        // SAFETY: the pages are the test's own, and the kernel fills the struct and the array.
        let called = unsafe { call(&context.own, level, place, pfn) };
        met &= expect("call", called.map(|_| 0), Ok(0));
        met &= expect("where to go on", Ok(asked.start), Ok(goes_on));
        next = asked.start;
    }
    let words = 1 << (info.page_shift - 3);
    for (number, table) in found.iter().enumerate() {
        let address = start + number as u64 * size;
        let entry = pages.word(number * words);
        met &= expect("address", Ok(table.addr), Ok(address));
        met &= expect(
            "frame",
            Ok(frame_of(info, entry)),
            witness(info, 0, address),
        );
        let page = Page::read_only(info)?;
        let by_address = map_address(info, &context.own, &page, 3, address);
        met &= expect("descriptor", Ok(frame_of(info, table.desc)), by_address);
    }
    Ok(met.into())
}

/// Calls PATH.
fn path_of(target: &Target, address: u64) -> Result<ExposePgtblPath5, Errno> {
    let mut path = ExposePgtblPath5::default();
    path.path.size = EXPOSE_PGTBL_PATH5_SIZE;
    let place = ptr::from_mut(&mut path).expose_provenance() as u64;
    // SAFETY: the kernel fills at most `size` bytes of the struct.
    unsafe { call(target, EXPOSE_PGTBL_PATH, place, address) }?;
    Ok(path)
}

fn path(context: &mut Context) -> Result<Verdict, Errno> {
    let info = &context.info;
    let memory = touched(info)?;
    let address = memory.address();
    let found = path_of(&context.own, address)?;
    let (frames, _) = walk(context, &context.own, address)?;
    let hole = path_of(&context.own, hole(info))?;
    let leaf = found.path.desc.get(3).copied().unwrap_or(0);
    let mut met = true;
    // What leads to each table below the root.
    for (level, table) in (root_level(info)..3).zip(frames.iter().skip(1)) {
        let descriptor = match usize::try_from(level) {
            Ok(level) => found.path.desc.get(level).copied().unwrap_or(0),
            Err(_) => found.desc_root,
        };
        met &= expect("table", Ok(frame_of(info, descriptor)), Ok(*table));
    }
    let root = root_level(info).cast_unsigned();
    let size = if root_level(info) < 0 { 64 } else { 56 };
    all(&[
        met,
        expect("frame", Ok(frame_of(info, leaf)), witness(info, 0, address)),
        expect("size", Ok(found.path.size.into()), Ok(size)),
        expect("level", Ok(found.path.last_level.into()), Ok(3)),
        expect("root", Ok(found.path.root_level.into()), Ok(root.into())),
        expect("root table", Ok(found.path.root_pfn), Ok(frames[0])),
        expect(
            "a hole",
            Ok(hole.path.desc.get(3).copied().unwrap_or(1)),
            Ok(0),
        ),
        expect(
            "a hole's last level",
            Ok(u64::from(hole.path.last_level == 3)),
            Ok(0),
        ),
    ])
}
