//! Odd places to map a table over.

#![expect(unsafe_code, reason = "maps memory of odd kinds")]

use tablewalk_proc::auxv;
use tablewalk_proc::lines::parse_number;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::Fork;
use tablewalk_rt::{ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::expect::{all, expect, expect_error, expect_ok, in_child};
use tablewalk_testkit::page::{self, Page, page_size};
use tablewalk_testkit::witness::Witness;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_RDONLY, O_RDWR};
use tablewalk_uapi::memory::{MAP_FIXED, MAP_PRIVATE, Protection};
use tablewalk_uapi::raw::constants;
use tablewalk_uapi::remap::{ExposePgtblInfo, number};
use tablewalk_uapi::signal;
use tablewalk_uapi::userfault::Userfault;

use crate::escapes::{call, frame_at};
use crate::operations::at;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "over memory that is locked, without access, or has a userfaultfd",
        run: odd_places,
    },
    Case {
        name: "over a page of hugetlbfs: EINVAL",
        run: hugetlb_page,
    },
    Case {
        name: "over the vDSO and at the top of the address space",
        run: special_places,
    },
    Case {
        name: "level-2 tables of hugetlbfs are not shared between processes",
        run: shared_level_2,
    },
];

fn odd_places(context: &mut Context) -> Result<Verdict, Error> {
    let info = context.info;
    let witness = Witness::begin()?;
    let locked = Page::writable(&info).map_err(Error::call("mmap"))?;
    let (address, size) = (locked.address(), locked.size() as u64);
    let lock = call(constants::__NR_mlock, [address, size, 0, 0, 0, 0]);
    let registered = Page::writable(&info).map_err(Error::call("mmap"))?;
    let uffd = Userfault::open(0).map_err(Error::call("userfaultfd"))?;
    uffd.enable(0).map_err(Error::call("UFFDIO_API"))?;
    // SAFETY: nothing is written through the mapping.
    uffd.register(unsafe { registered.mapping() })
        .map_err(Error::call("UFFDIO_REGISTER"))?;
    let without = Page::new(&info, Protection::NONE).map_err(Error::call("mmap"))?;
    let read_only = Page::read_only(&info).map_err(Error::call("mmap"))?;
    let map = |page: &Page| page.map(0, 0, 0);
    let raise = |page: &Page| page.protect(Protection::READ);
    let verdict = all(&[
        expect_ok("mlock", lock),
        expect_ok("over locked memory", map(&locked)),
        expect_ok("over memory of a userfaultfd", map(&registered)),
        expect_ok("over memory without access", map(&without)),
        expect_ok("and made readable", raise(&without)),
        expect_error(
            "but not writable",
            without.protect(Protection::READ_WRITE),
            Errno::EACCES,
        ),
        expect_ok("over read-only memory", map(&read_only)),
        expect_ok(
            "the userfaultfd goes",
            // SAFETY: nothing is written through the mapping.
            uffd.unregister(unsafe { registered.mapping() })
                .or(Ok::<(), Errno>(())),
        ),
    ])
    .map_err(Error::call("expect"))?;
    drop((locked, registered, without, read_only, uffd));
    Ok((verdict == Verdict::Ok && witness.all_came_back()?).into())
}

/// Maps `size` bytes of hugetlbfs at an address that the kernel chooses, without reserving pages.
fn hugetlb(size: u64, flags: u32) -> Result<u64, Errno> {
    let flags = flags | constants::MAP_HUGETLB | constants::MAP_ANONYMOUS;
    let flags = u64::from(flags | constants::MAP_NORESERVE);
    let protection = u64::from(constants::PROT_READ | constants::PROT_WRITE);
    call(
        constants::__NR_mmap,
        [0, size, protection, flags, u64::MAX, 0],
    )
}

/// Returns the size of the default huge page: all that one level-3 table translates.
const fn huge_size(info: &ExposePgtblInfo) -> u64 {
    1 << (2 * info.page_shift - 3)
}

fn hugetlb_page(context: &mut Context) -> Result<Verdict, Error> {
    let info = context.info;
    let size = huge_size(&info);
    let start = match hugetlb(size, MAP_PRIVATE) {
        Ok(start) => start,
        Err(_) => return Ok(Verdict::Skip("no hugetlbfs")),
    };
    let middle = start + size / 2;
    let over = remap(0, middle, 0, 0);
    let unmapped = call(constants::__NR_munmap, [start, size, 0, 0, 0, 0]);
    all(&[
        expect_error("a page in the middle", over, Errno::EINVAL),
        expect_ok("munmap", unmapped),
    ])
    .map_err(Error::call("expect"))
}

fn special_places(context: &mut Context) -> Result<Verdict, Error> {
    let info = context.info;
    let size = page_size(&info) as u64;
    let vdso = auxv::value(auxv::AT_SYSINFO_EHDR).map_err(Error::call("/proc/self/auxv"))?;
    let fixed = u64::from(MAP_FIXED | MAP_PRIVATE | constants::MAP_ANONYMOUS);
    let protection = u64::from(constants::PROT_READ);
    let anonymous = |address| {
        let arguments = [address, size, protection, fixed, u64::MAX, 0];
        call(constants::__NR_mmap, arguments)
    };
    // In children, which can do without their vDSO. One that has several pages is not split.
    // SAFETY: the child uses its copy of memory.
    let by_mmap = in_child(unsafe { Fork::promised() }, || anonymous(vdso).map(drop))
        .map_err(Error::call("fork"))?;
    // SAFETY: the child uses its copy of memory.
    let over_vdso = in_child(unsafe { Fork::promised() }, || {
        let frame = remap(0, vdso, 0, 0)?;
        if frame_at(&info, vdso)? == frame {
            Ok(())
        } else {
            Err(Errno::EIO)
        }
    })
    .map_err(Error::call("fork"))?;
    let end = 1_u64 << info.va_bits;
    let top = end - size;
    let at_top = anonymous(top);
    let verdict = all(&[
        expect("over the vDSO, as mmap", Ok(over_vdso), Ok(by_mmap)),
        expect("a page at the top", at_top, Ok(top)),
        expect_ok("over it", remap(0, top, 0, 0)),
        expect_error("behind it", remap(0, end, 0, 0), Errno::EINVAL),
        expect_error(
            "the last address",
            remap(0, !0 - size + 1, 0, 0),
            Errno::EINVAL,
        ),
        expect_ok(
            "munmap",
            call(constants::__NR_munmap, [top, size, 0, 0, 0, 0]),
        ),
    ]);
    verdict.map_err(Error::call("expect"))
}

/// Lets two processes map the same hugetlbfs file over all that a level-2 table translates.
fn shared_level_2(context: &mut Context) -> Result<Verdict, Error> {
    let info = context.info;
    if info.levels < 3 {
        return Ok(Verdict::Skip("level 2 is the root"));
    }
    if number().is_none() {
        return Ok(Verdict::Skip("kernels without the call share them"));
    }
    if info.page_shift != 12 {
        return Ok(Verdict::Skip(
            "a level-2 table translates more than there is of huge pages",
        ));
    }
    // Reserve twice as much as needed, to find an aligned part.
    let whole = huge_size(&info) << (info.page_shift - 3);
    let Ok(start) = hugetlb(2 * whole, constants::MAP_SHARED) else {
        return Ok(Verdict::Skip("no hugetlbfs"));
    };
    let aligned = start.next_multiple_of(whole);
    let reserved = set_huge_pages(b"1").map_err(Error::call("nr_hugepages"))?;
    let touch = |address: u64| {
        // SAFETY: mapped above; without a free huge page, the kernel kills the child that does this.
        unsafe { at(address).cast::<u64>().write_volatile(1) };
    };
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }
        .spawn(|| {
            touch(aligned);
            if file::write(&writer, b".").is_ok() {
                signal::pause();
            }
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
    drop(writer);
    let there = file::read(&reader, &mut [0]) == Ok(1);
    let mut verdict = Verdict::Skip("no huge page to be had");
    if there {
        touch(aligned);
        let page = Page::read_only(&info).map_err(Error::call("mmap"))?;
        let theirs = page.map_address(child.pid(), 2, aligned);
        let ours = page.map_address(0, 2, aligned);
        verdict = (theirs.is_ok() && ours.is_ok() && theirs != ours).into();
        println!("# level-2 tables: ours {ours:?}, theirs {theirs:?}");
    }
    drop(child);
    call(constants::__NR_munmap, [start, 2 * whole, 0, 0, 0, 0]).map_err(Error::call("munmap"))?;
    let free = set_huge_pages(b"0").map_err(Error::call("nr_hugepages"))?;
    println!("# huge pages: {reserved} for the test, {free} after");
    Ok(if free == 0 { verdict } else { Verdict::NotOk })
}

/// Sets the number of huge pages. Returns how many there are now.
fn set_huge_pages(number: &[u8]) -> Result<u64, Errno> {
    let path = c"/proc/sys/vm/nr_hugepages";
    file::write(&file::open(path, O_RDWR)?, number)?;
    let mut text = [0; 16];
    let length = file::read(&file::open(path, O_RDONLY)?, &mut text)?;
    let digits = text.get(..length).unwrap_or_default().trim_ascii();
    parse_number(digits, 10).ok_or(Errno::EINVAL)
}

/// Makes the call on pages that these tests have mapped, or on pages that a child can do without.
fn remap(pid: i32, remap_vaddr: u64, pfn: u64, level: u32) -> Result<u64, Errno> {
    // SAFETY: no Rust reference points to memory that the tests of this file name.
    unsafe { page::call(pid, remap_vaddr, pfn, level) }
}
