//! `blocks`: tests the geometry of this kernel's tables and pages of every size that it has, against pagemap.

#![expect(unsafe_code, reason = "forks")]
#![no_std]
#![cfg_attr(not(test), no_main)]

mod huge;

use heapless::{CString, String, format};
use tablewalk_live::Live;
use tablewalk_proc::auxv;
use tablewalk_proc::lines::parse_number;
use tablewalk_proc::pagemap::Pagemap;
use tablewalk_rt::cli;
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::memory::write;
use tablewalk_rt::process::Fork;
use tablewalk_rt::{Args, ExitCode, println};
use tablewalk_testkit::compare::compare_all;
use tablewalk_testkit::error::Error;
use tablewalk_testkit::expect::{all, expect};
use tablewalk_testkit::page::Page;
use tablewalk_testkit::prerequisite;
use tablewalk_uapi::file::{self, O_RDONLY, O_RDWR};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::remap::ExposePgtblInfo;
use tablewalk_uapi::remap_device::EXPOSE_PGTBL_ROOT_COPY;
use tablewalk_uapi::{Errno, Mapping, Sharing, process, signal};
use tablewalk_walker::{Geometry, Level, VirtualAddress, Visit, Walk, translate};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: blocks
Tests the kernel's page-table geometry, and pages of every size, against pagemap.
Prints KTAP.
Needs a kernel with remap_page_table, /proc, and root. Allocates huge pages for a while.";

const TESTS: &[Case<ExposePgtblInfo, Error>] = &[
    Case {
        name: "INFO agrees with the kernel",
        run: geometry,
    },
    Case {
        name: "a root smaller than a page shares its page with nothing",
        run: roots,
    },
    Case {
        name: "the lowest and highest addresses have the frames of pagemap",
        run: ends,
    },
    Case {
        name: "hugetlbfs pages of every size have the frames of pagemap",
        run: hugetlb,
    },
];

fn main(args: Args) -> ExitCode {
    if let Err(status) = cli::no_arguments(args, HELP) {
        return status;
    }
    match prerequisite::info("blocks") {
        Ok(mut info) => ktap::run(&mut info, &[TESTS, huge::TESTS]),
        Err(status) => status,
    }
}

fn geometry_of(info: &ExposePgtblInfo) -> Result<Geometry, Error> {
    Geometry::new(info.page_shift, info.va_bits, info.oa_bits)
        .map_err(|_| Error::Call("geometry", Errno::EINVAL))
}

/// Compares INFO with other sources: the page size in the auxiliary vector, the first address that cannot be
/// mapped, and the levels of PATH.
fn geometry(info: &mut ExposePgtblInfo) -> Result<Verdict, Error> {
    let page_size = auxv::value(auxv::AT_PAGESZ).map_err(Error::call("/proc/self/auxv"))?;
    let end = 1_u64 << info.va_bits;
    let size = usize::try_from(page_size).map_err(|_| Error::Call("page size", Errno::EINVAL))?;
    let last = Mapping::reserve_at(end - page_size, size, Protection::READ);
    let behind = Mapping::reserve_at(end, size, Protection::READ);
    // Each level translates page_shift - 3 bits, and the root the remaining ones (Arm ARM, "Translation
    // tables and the translation process").
    let bits = info.page_shift - 3;
    let levels = (info.va_bits - info.page_shift).div_ceil(bits);
    let root_bits = info.va_bits - info.page_shift - (levels - 1) * bits;
    let path = tablewalk_uapi::remap::path(0, 0).map_err(Error::call("PATH"))?;
    println!(
        "# {} KiB pages, {} bits, {} levels, {} entries in the root, {} bits out",
        page_size >> 10,
        info.va_bits,
        info.levels,
        info.root_entries,
        info.oa_bits
    );
    all(&[
        expect("page size", Ok(1 << info.page_shift), Ok(page_size)),
        expect(
            "the last page",
            last.map(|page| page.address()),
            Ok(end - page_size),
        ),
        expect(
            "behind it",
            behind.map(|page| page.address()),
            Err(Errno::ENOMEM),
        ),
        expect("levels", Ok(info.levels.into()), Ok(levels.into())),
        expect(
            "entries in the root",
            Ok(info.root_entries.into()),
            Ok(1 << root_bits),
        ),
        expect(
            "the level of the root",
            Ok(path.root_level.into()),
            Ok((4 - levels).into()),
        ),
    ])
    .map_err(Error::call("expect"))
}

/// The roots of 64 processes have different frames, and zeros after their entries.
fn roots(info: &mut ExposePgtblInfo) -> Result<Verdict, Error> {
    if info.features & EXPOSE_PGTBL_ROOT_COPY != 0 {
        return Ok(Verdict::Skip("a root is a copy here"));
    }
    const PROCESSES: usize = 64;
    let words = 1_usize << (info.page_shift - 3);
    let entries = usize::try_from(info.root_entries).unwrap_or(0);
    let mut children = [const { None }; PROCESSES];
    let mut frames = [0; PROCESSES];
    let page = Page::read_only(info).map_err(Error::call("mmap"))?;
    let mut behind = 0;
    for (child, frame) in children.iter_mut().zip(&mut frames) {
        // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
        let started = unsafe { Fork::promised() }
            .spawn(|| {
                signal::pause();
                ExitCode::SUCCESS
            })
            .map_err(Error::call("fork"))?;
        *frame = page
            .map(started.pid(), 0, 0)
            .map_err(Error::call("remap_page_table"))?;
        behind += (entries..words)
            .filter(|&index| page.word(index) != 0)
            .count();
        *child = Some(started);
    }
    frames.sort_unstable();
    let shared = frames
        .windows(2)
        .filter(|pair| matches!(pair, [a, b] if a == b));
    let shared = shared.count();
    println!(
        "# {PROCESSES} roots of {entries} entries: {shared} share a frame, {behind} words behind"
    );
    Ok((shared == 0 && behind == 0).into())
}

/// Tests the lowest and the highest page that can be mapped, and, with 52-bit addresses, one that a program
/// gets only if it asks for it.
fn ends(info: &mut ExposePgtblInfo) -> Result<Verdict, Error> {
    let geometry = geometry_of(info)?;
    let (shift, end) = (info.page_shift, 1_u64 << info.va_bits);
    let page = 1_u64 << shift;
    let pagemap = Pagemap::open(process::pid(), shift).map_err(Error::call("pagemap"))?;
    let mut live = Live::new(0, Level::ALL.len())?;
    let mut met = true;
    for address in [page, end / 2 - page, end / 2, end - page] {
        let Ok(mapping) = Mapping::reserve_at(address, 1 << shift, Protection::READ_WRITE) else {
            println!("# {address:#x} cannot be mapped");
            met = false;
            continue;
        };
        write(&mapping, 0, 1);
        let witness = pagemap.entry(address).map_err(Error::call("pagemap"))?;
        let found = translate(&mut live, VirtualAddress(address))?.physical();
        let frame = found.map(|physical| physical.frame(&geometry).0);
        met &= expect("frame", frame.ok_or(Errno::ENOENT), Ok(witness.frame()));
    }
    Ok((met && compare_all(process::pid(), false)?).into())
}

/// The pool of huge pages of one size. Its size is set back to 0 at the end.
struct Pool {
    path: CString<64>,
}

impl Pool {
    /// Returns the pool of pages of `1 << shift` bytes, if the kernel has that size.
    fn of(shift: u32) -> Option<Self> {
        let kib = (1_u64 << shift) >> 10;
        let path: String<64> =
            format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages").ok()?;
        let mut string = CString::new();
        string.extend_from_bytes(path.as_bytes()).ok()?;
        file::open(&string, O_RDONLY).ok()?;
        Some(Self { path: string })
    }

    /// Asks for `pages` huge pages. Returns how many there are now.
    fn set(&self, pages: &[u8]) -> Result<u64, Errno> {
        file::write(&file::open(&self.path, O_RDWR)?, pages)?;
        let mut text = [0; 16];
        let length = file::read(&file::open(&self.path, O_RDONLY)?, &mut text)?;
        let digits = text.get(..length).unwrap_or_default().trim_ascii();
        parse_number(digits, 10).ok_or(Errno::EINVAL)
    }
}

fn hugetlb(info: &mut ExposePgtblInfo) -> Result<Verdict, Error> {
    let geometry = geometry_of(info)?;
    let (mut tried, mut met) = (0, true);
    for shift in info.page_shift + 1..48 {
        let Some(pool) = Pool::of(shift) else {
            continue;
        };
        let kib = (1_u64 << shift) >> 10;
        match pool.set(b"2") {
            Ok(0) => {
                println!("# {kib} KiB: not enough memory for one");
                continue;
            }
            // Without CONFIG_CONTIG_ALLOC, larger ones can only be allocated at boot.
            Err(errno) => {
                println!("# {kib} KiB: {errno}");
                continue;
            }
            Ok(_) => {}
        }
        tried += 1;
        let ok = one_size(&geometry, shift)?;
        println!(
            "# {kib} KiB: {}",
            if ok { "as pagemap has it" } else { "wrong" }
        );
        met &= ok;
        met &= expect(
            "huge pages at the end",
            pool.set(b"0")
                .map_err(Error::call("nr_hugepages"))
                .or(Ok::<u64, Error>(u64::MAX))
                .map_err(|_| Errno::EIO),
            Ok(0),
        );
    }
    if tried == 0 {
        return Ok(Verdict::Skip("no pages of hugetlbfs"));
    }
    Ok(met.into())
}

/// Maps one page of that size and checks its entries and its frame.
fn one_size(geometry: &Geometry, shift: u32) -> Result<bool, Error> {
    let size = 1_usize << shift;
    let mapping = Mapping::huge(size, shift, Sharing::Private).map_err(Error::call("mmap"))?;
    write(&mapping, 0, 1);
    write(&mapping, size - 8, 1);
    let pagemap =
        Pagemap::open(process::pid(), geometry.page_shift()).map_err(Error::call("pagemap"))?;
    let mut live = Live::new(0, Level::ALL.len())?;
    let (mut entries, mut wrong) = (0_u64, 0);
    // The level whose entries are the largest that fit into the page.
    let level = [Level::L1, Level::L2, Level::L3]
        .into_iter()
        .find(|&level| level >= geometry.root_level() && geometry.entry_size(level) <= 1 << shift);
    let Some(level) = level else {
        return Ok(false);
    };
    let expected = (1_u64 << shift) / geometry.entry_size(level);
    let end = mapping.address() + (1 << shift);
    let first = VirtualAddress(mapping.address());
    for visit in Walk::at(&mut live, level, first) {
        let Visit::Leaf(leaf) = visit? else {
            continue;
        };
        if leaf.address < first || leaf.address.0 >= end {
            continue;
        }
        entries += 1;
        let witness = pagemap
            .entry(leaf.address.0)
            .map_err(Error::call("pagemap"))?;
        let contiguous = leaf.descriptor.is_contiguous() == (expected > 1);
        if leaf.level != level || !contiguous || leaf.frame(geometry).0 != witness.frame() {
            wrong += 1;
        }
    }
    let run = geometry.contiguous_entries(level) as u64;
    println!(
        "# level {}: {entries} entries of {expected}, runs of {run}, {wrong} wrong",
        level.number()
    );
    let whole = compare_all(process::pid(), false)?;
    Ok(entries == expected && expected.is_multiple_of(run.min(expected)) && wrong == 0 && whole)
}
