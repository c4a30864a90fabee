//! Transparent huge pages: blocks that the kernel collapses pages into, and splits again.

#![expect(unsafe_code, reason = "forks")]

use core::mem::ManuallyDrop;
use core::ops::Range;

use tablewalk_live::Live;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::memory::{read, write};
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{ExitCode, println};
use tablewalk_testkit::compare::compare_all;
use tablewalk_testkit::error::Error;
use tablewalk_testkit::page::Page;
use tablewalk_uapi::file::{self, O_RDONLY};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::process::Status;
use tablewalk_uapi::remap::{ExposePgtblInfo, number, path};
use tablewalk_uapi::{Errno, Mapping, Sharing, process};
use tablewalk_walker::{Level, Translation, VirtualAddress, translate};

use crate::geometry_of;

pub(crate) const TESTS: &[Case<ExposePgtblInfo, Error>] = &[
    Case {
        name: "a transparent huge page is mapped by a block until it is split",
        run: transparent,
    },
    Case {
        name: "PATH always finds memory that is collapsed and split meanwhile",
        run: collapsing,
    },
    Case {
        name: "a table that another process moves with mremap is found by its frame number",
        run: moving,
    },
    Case {
        name: "a table that a huge page of shared memory replaces reads as all invalid",
        run: collapsed,
    },
];

fn transparent(info: &mut ExposePgtblInfo) -> Result<Verdict, Error> {
    let geometry = geometry_of(info)?;
    if file::open(c"/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY).is_err() {
        return Ok(Verdict::Skip("no transparent huge pages"));
    }
    let size = geometry.entry_size(Level::L2);
    if size > 64 << 20 {
        return Ok(Verdict::Skip("a huge page takes 512 MiB here"));
    }
    let bytes = usize::try_from(2 * size).map_err(|_| Error::Call("mmap", Errno::ENOMEM))?;
    let mapping = Mapping::anonymous(bytes, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    mapping
        .advise(0..bytes, Advice::HugePage)
        .map_err(Error::call("madvise"))?;
    let start = mapping.address().next_multiple_of(size);
    let offset = usize::try_from(start - mapping.address()).unwrap_or(0);
    write(&mapping, offset, 1);
    let mut live = Live::new(0, Level::ALL.len())?;
    let block = leaf_level(&mut live, start)?;
    let whole = compare_all(process::pid(), false)?;
    if block == Some(Level::L3) {
        return Ok(Verdict::Skip("the kernel had no huge page"));
    }
    // One page with another protection, so that no block can map it.
    let page = 1_usize << geometry.page_shift();
    mapping
        .protect(offset + page..offset + 2 * page, Protection::READ)
        .map_err(Error::call("mprotect"))?;
    let split = leaf_level(&mut live, start)?;
    println!("# levels: {block:?}, then {split:?}");
    let still = compare_all(process::pid(), false)?;
    Ok((block == Some(Level::L2) && split == Some(Level::L3) && whole && still).into())
}

/// Private memory that is collapsed into a block and split again. The kernel clears the table's entry while
/// it copies the pages (`collapse_huge_page`). The process cannot see that, as its faults wait for the mmap
/// lock.
fn collapsing(info: &mut ExposePgtblInfo) -> Result<Verdict, Error> {
    let size = geometry_of(info)?.entry_size(Level::L2);
    if size > 64 << 20 {
        return Ok(Verdict::Skip("a huge page takes 512 MiB here"));
    }
    let bytes = usize::try_from(size).map_err(|_| Error::Call("mmap", Errno::ENOMEM))?;
    let mapping = Mapping::anonymous(2 * bytes, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    let start = mapping.address().next_multiple_of(size);
    let offset = usize::try_from(start - mapping.address()).unwrap_or(0);
    let page = 1 << info.page_shift;
    // SAFETY: the child uses only its copy of memory.
    let child = unsafe { Fork::promised() }
        .spawn(|| {
            let done = collapse_and_split(&mapping, offset..offset + bytes, page);
            ExitCode(u8::from(done.is_err()))
        })
        .map_err(Error::call("fork"))?;
    let seen = look_at(&child, start)?;
    let status = child.wait().map_err(Error::call("wait"))?;
    println!(
        "# {} times a block, {} a table, {} nothing",
        seen.blocks, seen.tables, seen.none
    );
    match status {
        Status::Exited(0) => Ok((seen.none == 0 && seen.blocks > 0 && seen.tables > 0).into()),
        Status::Exited(1) => Ok(Verdict::Skip("no huge pages of private memory")),
        _ => Ok(false.into()),
    }
}

/// Collapses the pages of `block` and splits the block again, many times.
fn collapse_and_split(mapping: &Mapping, block: Range<usize>, page: usize) -> Result<(), Errno> {
    const ROUNDS: u32 = 200;
    for at in block.clone().step_by(page) {
        write(mapping, at, 1);
    }
    for _ in 0..ROUNDS {
        match mapping.advise(block.clone(), Advice::Collapse) {
            Ok(()) | Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
        }
        // One page with another protection, so that no block can map it.
        for protection in [Protection::READ, Protection::READ_WRITE] {
            mapping.protect(block.start..block.start + page, protection)?;
        }
    }
    Ok(())
}

/// How often each kind of level-2 entry was seen.
#[derive(Default)]
struct Seen {
    blocks: u32,
    tables: u32,
    none: u32,
}

/// Reads the level-2 entry for `address` while `child` runs, starting when it is first present.
fn look_at(child: &Child, address: u64) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    while child.is_running().map_err(Error::call("wait"))? {
        // The child may end between the two calls.
        let Ok(path) = path(child.pid(), address) else {
            continue;
        };
        match path.desc.get(2).map_or(0, |descriptor| descriptor & 3) {
            3 => seen.tables += 1,
            1 => seen.blocks += 1,
            // An entry that is being changed is invalid, but not 0.
            _ if path.desc.get(2) == Some(&0) => {
                seen.none += u32::from(seen.blocks + seen.tables > 0);
            }
            _ => {}
        }
    }
    Ok(seen)
}

/// Moves a table between two level-2 entries (`move_normal_pmd`). At any time, one of the entries has it. A
/// search reads level-2 tables one after the other, so a table that moves from a later to an earlier entry
/// could be missed.
fn moving(info: &mut ExposePgtblInfo) -> Result<Verdict, Error> {
    let geometry = geometry_of(info)?;
    let (near, size) = (
        geometry.entry_size(Level::L1),
        geometry.entry_size(Level::L2),
    );
    if size > 64 << 20 || geometry.root_level() > Level::L1 {
        return Ok(Verdict::Skip("one table of level 2, or large ones"));
    }
    let bytes = |size| usize::try_from(size).map_err(|_| Error::Call("mmap", Errno::ENOMEM));
    let (block, near_bytes) = (bytes(size)?, bytes(near)?);
    let places = [16 * near, 32 * near];
    let reserve = |place, bytes| {
        Mapping::reserve_at(place, bytes, Protection::READ_WRITE).map_err(Error::call("mmap"))
    };
    let between = reserve(17 * near, 15 * near_bytes)?;
    let first = reserve(places[0], block)?;
    for mapping in [&between, &first] {
        mapping
            .base_pages_only()
            .map_err(Error::call("MADV_NOHUGEPAGE"))?;
        for at in (0..mapping.size()).step_by(near_bytes) {
            write(mapping, at, 1);
        }
    }
    // SAFETY: the child uses only its copy of memory.
    let child = unsafe { Fork::promised() }
        .spawn(move || {
            let moved = (1..=4000).try_fold(first, |mapping, round: usize| {
                let place = *places.get(round % 2).unwrap_or(&0);
                mapping
                    .move_onto(reserve(place, block)?)
                    .map_err(Error::call("mremap"))
            });
            // Keep it mapped: otherwise the search would not find the table.
            ExitCode(u8::from(ManuallyDrop::new(moved).is_err()))
        })
        .map_err(Error::call("fork"))?;
    let (found, missed) = search(info, &child, &places)?;
    let status = child.wait().map_err(Error::call("wait"))?;
    println!("# found {found} times, missed {missed} times");
    Ok((status == Status::Exited(0) && found > 0 && missed == 0).into())
}

/// Searches for the level-3 table at one of `places` by its frame number while `child` runs. Returns how
/// often it was found and how often not.
fn search(info: &ExposePgtblInfo, child: &Child, places: &[u64]) -> Result<(u32, u32), Error> {
    let slot = Page::read_only(info).map_err(Error::call("mmap"))?;
    let frame = places
        .iter()
        .cycle()
        .take(1000)
        .find_map(|&place| slot.map_address(child.pid(), 3, place).ok())
        .unwrap_or(0);
    let (mut found, mut missed) = (0, 0);
    while child.is_running().map_err(Error::call("wait"))? {
        match slot.map(child.pid(), 3, frame) {
            Err(Errno::ENOENT) => missed += 1,
            Ok(_) => found += 1,
            // The child may end between the two calls.
            Err(_) => {}
        }
    }
    Ok((found, missed))
}

/// A huge page of shared memory that is mapped by pages is mapped by a block again. The kernel frees the page
/// table (`collapse_pte_mapped_thp`), which is mapped here.
fn collapsed(info: &mut ExposePgtblInfo) -> Result<Verdict, Error> {
    let geometry = geometry_of(info)?;
    let size = geometry.entry_size(Level::L2);
    if size > 64 << 20 {
        return Ok(Verdict::Skip("a huge page takes 512 MiB here"));
    }
    let bytes = usize::try_from(size).map_err(|_| Error::Call("mmap", Errno::ENOMEM))?;
    let page = 1_usize << geometry.page_shift();
    let mapping = shared_block(bytes).map_err(Error::call("mmap"))?;
    let collapse = || mapping.advise(0..bytes, Advice::Collapse);
    let touch = |first: usize| {
        for number in first..bytes / page {
            let _ = read(&mapping, number * page);
        }
    };
    write(&mapping, 0, 1);
    touch(1);
    if let Err(errno) = collapse() {
        println!("# MADV_COLLAPSE: {errno}");
        return Ok(Verdict::Skip("no huge pages of shared memory"));
    }
    // A page with another protection, so that no block can map it, and its neighbours are mapped one by one.
    mapping
        .protect(0..page, Protection::READ)
        .map_err(Error::call("mprotect"))?;
    touch(0);
    mapping
        .protect(0..page, Protection::READ_WRITE)
        .map_err(Error::call("mprotect"))?;
    let table = Page::read_only(info).map_err(Error::call("mmap"))?;
    table
        .map_address(0, 3, mapping.address())
        .map_err(Error::call("remap_page_table"))?;
    let before = table.words_in_use();
    collapse().map_err(Error::call("MADV_COLLAPSE"))?;
    let after = table.words_in_use();
    let mut live = Live::new(0, Level::ALL.len())?;
    let level = leaf_level(&mut live, mapping.address())?;
    println!("# {before} entries of the table, {after} when it was replaced; leaf: {level:?}");
    let block = level == Some(Level::L2) && read(&mapping, 0) == 1;
    // The series has a patch of its own for 6.1; 6.6 has it too.
    if number().is_none() && before > 0 && after == before && block {
        return Ok(Verdict::Skip(
            "this kernel frees such a table with its entries",
        ));
    }
    Ok((before > 0 && after == 0 && block).into())
}

/// Maps shared memory at an address where a block can map it.
fn shared_block(bytes: usize) -> Result<Mapping, Errno> {
    let place = Mapping::reserve(2 * bytes, Protection::NONE)?;
    let start = place.address().next_multiple_of(bytes as u64);
    drop(place);
    let place = Mapping::reserve_at(start, bytes, Protection::NONE)?;
    Mapping::anonymous(bytes, Protection::READ_WRITE, Sharing::Shared)?.move_onto(place)
}

/// Returns the level of the leaf that maps `address`.
fn leaf_level(live: &mut Live, address: u64) -> Result<Option<Level>, Error> {
    match translate(live, VirtualAddress(address))? {
        Translation::Mapped { level, .. } => Ok(Some(level)),
        Translation::Fault { .. } => Ok(None),
    }
}
