//! Ways to keep, copy or access memory through a mapping of a table, and odd places to map a table over.

#![expect(unsafe_code, reason = "tries what must be refused")]

use core::mem::offset_of;

use tablewalk_proc::path::proc_path;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::expect::{all, expect, expect_error, expect_ok};
use tablewalk_testkit::page::{Page, page_size};
use tablewalk_testkit::witness::Witness;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_RDONLY, O_RDWR};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::process::{self, Status};
use tablewalk_uapi::raw::constants::SIGABRT;
use tablewalk_uapi::raw::elf::{PT_LOAD, elf64_hdr, elf64_phdr};
use tablewalk_uapi::raw::errno::ENXIO;
use tablewalk_uapi::raw::{self, constants, ptrace};
use tablewalk_uapi::remap::{ExposePgtblInfo, path};
use tablewalk_uapi::signal;
use tablewalk_uapi::userfault::Userfault;

use crate::races::frame_of;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "ptrace and /proc/PID/mem neither read nor write through it: EIO",
        run: debugger,
    },
    Case {
        name: "vmsplice, O_DIRECT and a shared futex get no reference to it: EFAULT",
        run: references,
    },
    Case {
        name: "no advice changes what is mapped",
        run: advice,
    },
    Case {
        name: "mremap, remap_file_pages and map_files make no second mapping",
        run: duplicates,
    },
    Case {
        name: "mremap moves the whole mapping, and leaves nothing at the old address",
        run: moves,
    },
    Case {
        name: "a userfaultfd cannot be registered for it: EINVAL",
        run: userfault,
    },
    Case {
        name: "a core dump leaves it out",
        run: core_dump,
    },
];

/// Returns a page over which the root table is mapped, and the frame of that table.
fn mapped(info: &ExposePgtblInfo, protection: Protection) -> Result<(Page, u64), Errno> {
    let page = Page::new(info, protection)?;
    let frame = page.map(0, 0, 0)?;
    Ok((page, frame))
}

/// Returns the frame at `address` from the page tables. Pagemap does not report memory that is not the
/// process's own.
pub(crate) fn frame_at(info: &ExposePgtblInfo, address: u64) -> Result<u64, Errno> {
    let path = path(0, address)?;
    let descriptor = path.desc.get(3).copied().unwrap_or(0);
    if path.last_level != 3 || descriptor & 1 == 0 {
        return Err(Errno::ENOENT);
    }
    Ok(frame_of(info, descriptor))
}

/// Makes a system call on the test's own memory.
pub(crate) fn call(number: u32, arguments: [u64; 6]) -> Result<u64, Errno> {
    // SAFETY: the tests name mappings of their own, to which no Rust reference exists.
    unsafe { raw::call(number, arguments) }
}

/// Returns the address of `value`, for a call that reads or writes it.
pub(crate) fn address_of<T>(value: &mut T) -> u64 {
    core::ptr::from_mut(value).expose_provenance() as u64
}

fn debugger(context: &mut Context) -> Result<Verdict, Error> {
    let info = context.info;
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    let mut page = Page::writable(&info).map_err(Error::call("mmap"))?;
    // SAFETY: the child asks for entries, or maps a table of its own; it drops nothing.
    let child = unsafe { Fork::promised() }
        .spawn(|| {
            let mapped = page.map(0, 0, 0);
            if mapped.is_ok() && file::write(&writer, b".").is_ok() {
                signal::pause();
            }
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
    drop(writer);
    file::read(&reader, &mut [0]).map_err(Error::call("read"))?;

    let (pid, address) = (child.pid().cast_unsigned().into(), page.address());
    let mut word = 0_u64;
    let memory = proc_path(child.pid(), "mem")
        .and_then(|path| file::open(&path, O_RDWR))
        .map_err(Error::call("/proc/PID/mem"))?;
    let fd = memory.number().cast_unsigned().into();
    let mut io = |number| call(number, [fd, address_of(&mut word), 8, address, 0, 0]);
    let (read, written) = (io(constants::__NR_pread64), io(constants::__NR_pwrite64));
    let attached = call(
        constants::__NR_ptrace,
        [ptrace::PTRACE_ATTACH.into(), pid, 0, 0, 0, 0],
    );
    process::wait_until_stopped(child.pid()).map_err(Error::call("waitid"))?;
    let place = address_of(&mut word);
    let peeked = call(
        constants::__NR_ptrace,
        [ptrace::PTRACE_PEEKDATA.into(), pid, address, place, 0, 0],
    );
    let poked = call(
        constants::__NR_ptrace,
        [ptrace::PTRACE_POKEDATA.into(), pid, address, 0, 0, 0],
    );
    // In the parent, this address has an ordinary page.
    let own = address_of(&mut page);
    let control = call(
        constants::__NR_ptrace,
        [ptrace::PTRACE_PEEKDATA.into(), pid, own, place, 0, 0],
    );
    all(&[
        expect_error("read of /proc/PID/mem", read, Errno::EIO),
        expect_error("write to /proc/PID/mem", written, Errno::EIO),
        expect_ok("PTRACE_ATTACH", attached),
        expect_error("PTRACE_PEEKDATA", peeked, Errno::EIO),
        expect_error("PTRACE_POKEDATA", poked, Errno::EIO),
        expect_ok("PTRACE_PEEKDATA of other memory", control),
    ])
    .map_err(Error::call("expect"))
}

fn references(context: &mut Context) -> Result<Verdict, Error> {
    let witness = Witness::begin()?;
    let (page, _) = mapped(&context.info, Protection::READ_WRITE).map_err(Error::call("map"))?;
    let ordinary = Page::writable(&context.info).map_err(Error::call("mmap"))?;
    let size = page_size(&context.info) as u64;
    let (_reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    let vmsplice = |page: &Page| {
        let mut iovec = [page.address(), size];
        let fd = writer.number().cast_unsigned().into();
        call(
            constants::__NR_vmsplice,
            [fd, address_of(&mut iovec), 1, 0, 0, 0],
        )
    };
    let futex = |page: &Page| {
        let (wake, any) = (constants::FUTEX_WAKE.into(), 1);
        call(constants::__NR_futex, [page.address(), wake, any, 0, 0, 0])
    };
    let mut met = [
        expect_error("vmsplice", vmsplice(&page), Errno::EFAULT),
        expect("vmsplice of other memory", vmsplice(&ordinary), Ok(size)),
        expect_error("shared futex", futex(&page), Errno::EFAULT),
        expect("shared futex in other memory", futex(&ordinary), Ok(0)),
        true,
        true,
        true,
    ];
    match file::open(c"/dev/ram0", O_RDWR | constants::O_DIRECT) {
        Ok(disk) => {
            let fd = disk.number().cast_unsigned().into();
            let io = |number, page: &Page| call(number, [fd, page.address(), size, 0, 0, 0]);
            let (read, write) = (constants::__NR_pread64, constants::__NR_pwrite64);
            let [.., a, b, c] = &mut met;
            *a = expect_error("O_DIRECT read", io(read, &page), Errno::EFAULT);
            *b = expect_error("O_DIRECT write", io(write, &page), Errno::EFAULT);
            *c = expect(
                "O_DIRECT read of other memory",
                io(read, &ordinary),
                Ok(size),
            );
        }
        Err(errno) => println!("# no /dev/ram0 for O_DIRECT: {errno}"),
    }
    drop((page, ordinary));
    Ok((met.iter().all(|&met| met) && witness.all_came_back()?).into())
}

/// Every number in `include/uapi/asm-generic/mman-common.h` of 6.1, and their neighbours.
fn advice(context: &mut Context) -> Result<Verdict, Error> {
    let info = context.info;
    let mut met = true;
    let mut accepted = 0;
    for advice in (0..32).chain(100..104) {
        // MADV_HWPOISON and MADV_SOFT_OFFLINE need CONFIG_MEMORY_FAILURE. They take the page out of use on
        // purpose: root can break any memory with them.
        if advice == 100 || advice == 101 {
            continue;
        }
        let (page, frame) = mapped(&info, Protection::READ_WRITE).map_err(Error::call("map"))?;
        let size = page.size() as u64;
        let result = call(
            constants::__NR_madvise,
            [page.address(), size, advice, 0, 0, 0],
        );
        accepted += u32::from(result.is_ok());
        met &= expect("what is mapped", frame_at(&info, page.address()), Ok(frame));
        // SAFETY: the child asks for entries, or maps a table of its own; it drops nothing.
        let inherited = unsafe { Fork::promised() }
            .spawn(|| match frame_at(&info, page.address()) {
                Ok(found) if found == frame => ExitCode::FAILURE,
                _ => ExitCode::SUCCESS,
            })
            .and_then(Child::wait)
            .map_err(Error::call("fork"))?;
        if inherited != Status::Exited(0) || !met {
            println!("# after madvise {advice}");
            met = false;
        }
    }
    println!("# {accepted} kinds of advice are taken, and do nothing");
    Ok(met.into())
}

fn duplicates(context: &mut Context) -> Result<Verdict, Error> {
    let info = context.info;
    let (page, frame) = mapped(&info, Protection::READ_WRITE).map_err(Error::call("map"))?;
    let (address, size) = (page.address(), page.size() as u64);
    let may_move = constants::MREMAP_MAYMOVE.into();
    let remap = |old, new, flags| call(constants::__NR_mremap, [address, old, new, flags, 0, 0]);
    let pages = |offset| {
        let arguments = [address, size, 0, offset, 0, 0];
        call(constants::__NR_remap_file_pages, arguments)
    };
    let met = all(&[
        expect_error(
            "mremap of no bytes",
            remap(0, size, may_move),
            Errno::EFAULT,
        ),
        expect_error(
            "mremap to two pages",
            remap(size, 2 * size, may_move),
            Errno::EFAULT,
        ),
        expect_error(
            "mremap that leaves the old place",
            remap(
                size,
                size,
                may_move | u64::from(constants::MREMAP_DONTUNMAP),
            ),
            Errno::EINVAL,
        ),
        expect("what is mapped", frame_at(&info, address), Ok(frame)),
    ])
    .map_err(Error::call("expect"))?;
    // Either the same page again, or an error; never the page after it.
    let again = pages(0);
    let beside = pages(1);
    println!("# remap_file_pages: {again:?} in place, {beside:?} one page on");
    let shown = frame_at(&info, address);
    let refused = shown == Ok(frame) || shown == Err(Errno::ENOENT);
    Ok((met == Verdict::Ok && beside.is_err() && refused && no_map_files(&info)?).into())
}

/// Returns whether the links in `/proc/self/map_files` refuse to open the file of a table again.
fn no_map_files(info: &ExposePgtblInfo) -> Result<bool, Error> {
    let (page, _) = mapped(info, Protection::READ).map_err(Error::call("map"))?;
    let (start, end) = (page.address(), page.address() + page.size() as u64);
    let name: heapless::String<48> = heapless::format!("map_files/{start:x}-{end:x}")
        .map_err(|_| Error::Call("name", Errno::ENAMETOOLONG))?;
    let path = proc_path(process::pid(), &name).map_err(Error::call("name"))?;
    match file::open(&path, O_RDONLY) {
        // Without CONFIG_CHECKPOINT_RESTORE there is no such link.
        Err(errno) => {
            println!("# open of map_files: {errno}");
            // An inode without an `open` method.
            Ok(u32::from(errno.number()) == ENXIO || errno == Errno::ENOENT)
        }
        Ok(_) => Ok(false),
    }
}

fn moves(context: &mut Context) -> Result<Verdict, Error> {
    let info = context.info;
    let (page, frame) = mapped(&info, Protection::READ_WRITE).map_err(Error::call("map"))?;
    let target = Page::writable(&info).map_err(Error::call("mmap"))?;
    let (from, to) = (page.address(), target.address());
    let size = page.size() as u64;
    let flags = u64::from(constants::MREMAP_MAYMOVE | constants::MREMAP_FIXED);
    let moved = call(constants::__NR_mremap, [from, size, size, flags, to, 0]);
    all(&[
        expect("mremap", moved, Ok(to)),
        expect("the new place", frame_at(&info, to), Ok(frame)),
        expect_error("the old place", frame_at(&info, from), Errno::ENOENT),
    ])
    .map_err(Error::call("expect"))
}

fn userfault(context: &mut Context) -> Result<Verdict, Error> {
    let (page, _) = mapped(&context.info, Protection::READ_WRITE).map_err(Error::call("map"))?;
    let uffd = Userfault::open(0).map_err(Error::call("userfaultfd"))?;
    uffd.enable(0).map_err(Error::call("UFFDIO_API"))?;
    // SAFETY: nothing is written through the mapping.
    let registered = uffd.register(unsafe { page.mapping() });
    Ok(expect_error("UFFDIO_REGISTER", registered, Errno::EINVAL).into())
}

fn core_dump(context: &mut Context) -> Result<Verdict, Error> {
    let info = context.info;
    let pattern = file::open(c"/proc/sys/kernel/core_pattern", O_RDWR)
        .and_then(|file| file::write(&file, b"/core"));
    if pattern.is_err() {
        return Ok(Verdict::Skip(
            "no core dumps (CONFIG_COREDUMP, CONFIG_SYSCTL)",
        ));
    }
    let page = Page::writable(&info).map_err(Error::call("mmap"))?;
    let beside = Page::writable(&info).map_err(Error::call("mmap"))?;
    // SAFETY: the child asks for entries, or maps a table of its own; it drops nothing.
    let status = unsafe { Fork::promised() }
        .spawn(|| {
            // SAFETY: no table is mapped there.
            unsafe { beside.set_word(0, 1) };
            if permit_core_dump().and_then(|()| page.map(0, 0, 0)).is_ok() {
                let pid = process::pid().cast_unsigned().into();
                let _ = call(constants::__NR_kill, [pid, SIGABRT.into(), 0, 0, 0, 0]);
            }
            ExitCode::FAILURE
        })
        .and_then(Child::wait)
        .map_err(Error::call("fork"))?;
    let core = file::open(c"/core", O_RDONLY).map_err(Error::call("/core"))?;
    let table = dumped_size(&core, page.address()).map_err(Error::call("/core"))?;
    let other = dumped_size(&core, beside.address()).map_err(Error::call("/core"))?;
    all(&[
        expect_ok(
            "killed",
            matches!(status, Status::Killed(signal) if u32::from(signal) == SIGABRT)
                .then_some(())
                .ok_or(Errno::EINVAL),
        ),
        expect(
            "bytes of the table in the dump",
            table.ok_or(Errno::ENOENT),
            Ok(0),
        ),
        expect(
            "bytes of the page beside it",
            other.ok_or(Errno::ENOENT),
            Ok(page_size(&info) as u64),
        ),
    ])
    .map_err(Error::call("expect"))
}

/// Lets the caller leave a core dump of up to 64 MiB.
fn permit_core_dump() -> Result<(), Errno> {
    let mut limit = [64_u64 << 20; 2];
    let core = constants::RLIMIT_CORE.into();
    let arguments = [0, core, address_of(&mut limit), 0, 0, 0];
    call(constants::__NR_prlimit64, arguments).map(drop)
}

/// Returns the size of the mapping at `address` in the core dump: `p_filesz` of its program header (`struct
/// elf64_phdr`), or `None` without such a header.
fn dumped_size(core: &file::OwnedFd, address: u64) -> Result<Option<u64>, Errno> {
    const PROGRAM_HEADER: usize = size_of::<elf64_phdr>();
    let mut header = [0_u8; PROGRAM_HEADER];
    for number in 0..u64::from(u16::MAX) {
        let offset = size_of::<elf64_hdr>() as u64 + number * PROGRAM_HEADER as u64;
        if file::pread(core, &mut header, offset)? != PROGRAM_HEADER {
            break;
        }
        let (words, _) = header.as_chunks::<8>();
        let word = |offset: usize| {
            words
                .get(offset / 8)
                .map_or(0, |word| u64::from_le_bytes(*word))
        };
        // The type is the lower half of its word.
        let kind = word(offset_of!(elf64_phdr, p_type)) & 0xffff_ffff;
        if kind == PT_LOAD.into() && word(offset_of!(elf64_phdr, p_vaddr)) == address {
            return Ok(Some(word(offset_of!(elf64_phdr, p_filesz))));
        }
    }
    Ok(None)
}
