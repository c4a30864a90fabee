//! Resource limits of the caller, and tagged pointers.

#![expect(unsafe_code, reason = "sets limits, and tags of its own memory")]

#[cfg(target_arch = "aarch64")]
use core::arch::asm;
use core::ptr::with_exposed_provenance_mut;

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::Fork;
use tablewalk_uapi::credentials::{CAP_SYS_ADMIN, CAP_SYS_RAWIO, set_capabilities};
use tablewalk_uapi::memory::{Protection, munmap};
use tablewalk_uapi::raw::{call as system_call, constants, prctl};
use tablewalk_uapi::remap::{
    EXPOSE_PGTBL_ADDR, EXPOSE_PGTBL_INFO, EXPOSE_PGTBL_INFO_SIZE_VER0, EXPOSE_PGTBL_LEND,
    EXPOSE_PGTBL_PATH, EXPOSE_PGTBL_RANGE, ExposePgtblArgs, ExposePgtblInfo, ExposePgtblTable,
    number, path, remap_page_table, take,
};
use tablewalk_uapi::{Errno, Mapping, Sharing};

use crate::pages::{call, lend};
use crate::{Test, with};
use tablewalk_rt::memory::write;
use tablewalk_testkit::expect::{all, expect, expect_error, failed_with, in_child};
use tablewalk_testkit::page::{Page, page_size, range};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "tables that are mapped count as locked memory: ENOMEM beyond the limit",
        run: locked_memory,
    },
    Case {
        name: "replacing a table returns its charge against the limit",
        run: replaced,
    },
    Case {
        name: "tables of one call are exchanged, or stay charged until the last is replaced",
        run: replaced_apart,
    },
    Case {
        name: "what is left of a mapping is replaced, and its charge is returned",
        run: replaced_rest,
    },
    Case {
        name: "tables count once under mlockall(MCL_FUTURE)",
        run: locked_later,
    },
    Case {
        name: "a refused call leaves its arguments unchanged",
        run: refused_again,
    },
    Case {
        name: "LEND and TAKE without CAP_IPC_LOCK: EPERM",
        run: |info| with(info, EXPOSE_PGTBL_LEND, no_ipc_lock),
    },
    Case {
        name: "a struct to read that is larger than a page: E2BIG",
        run: too_large,
    },
    Case {
        name: "structs in tagged memory are read and filled",
        run: tagged,
    },
];

/// Drops every capability except those that writing tables needs.
fn without_ipc_lock() -> Result<(), Errno> {
    set_capabilities(1 << CAP_SYS_ADMIN | 1 << CAP_SYS_RAWIO)
}

fn limit_locked(bytes: u64) -> Result<(), Errno> {
    let limit = [bytes, bytes];
    let new = limit.as_ptr().expose_provenance() as u64;
    let which = constants::RLIMIT_MEMLOCK.into();
    // SAFETY: reads two words.
    unsafe { system_call(constants::__NR_prlimit64, [0, which, new, 0, 0, 0]) }.map(drop)
}

fn locked_memory(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let size = page_size(info) as u64;
    // Map as many tables as the limit permits, one more, and again after one was unmapped.
    // SAFETY: the child uses pages of its own, and tables of the parent only to replace them.
    let limited = in_child(unsafe { Fork::promised() }, || {
        let (first, second) = (Page::writable(info)?, Page::writable(info)?);
        limit_locked(size)?;
        without_ipc_lock()?;
        first.map(0, 0, 0)?;
        let refused = expect_error("one more", second.map(0, 0, 0), Errno::ENOMEM);
        drop(first);
        let third = Page::writable(info)?;
        third.map(0, 0, 0)?;
        if refused { Ok(()) } else { Err(Errno::EIO) }
    });
    // SAFETY: the child uses pages of its own, and tables of the parent only to replace them.
    let unlimited = in_child(unsafe { Fork::promised() }, || {
        limit_locked(0)?;
        Page::writable(info)?.map(0, 0, 0).map(drop)
    });
    all(&[
        expect("one page of locked memory", limited, Ok(0)),
        expect("none, with CAP_IPC_LOCK", unlimited, Ok(0)),
    ])
}

/// With as many tables as the limit permits, each can be replaced by the same or by another table, again and
/// again.
fn replaced(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let size = page_size(info) as u64;
    // SAFETY: the child uses pages of its own, and tables of the parent only to replace them.
    let limited = in_child(unsafe { Fork::promised() }, || {
        let slots = Page::several(info, Protection::READ_WRITE, 2)?;
        let more = Page::writable(info)?;
        limit_locked(2 * size)?;
        without_ipc_lock()?;
        let map = |address| call(0, address, 0, 0).map(drop);
        let (first, second) = (slots.address(), slots.address() + size);
        for address in [first, second, first, first, second] {
            map(address)?;
        }
        // The charge of a replaced table was returned once, not twice.
        if !expect_error("one more", map(more.address()), Errno::ENOMEM) {
            return Err(Errno::EIO);
        }
        map(first)
    });
    all(&[expect("two slots", limited, Ok(0))])
}

/// Two tables from one call are exchanged without another charge. Where others must have a mapping of their own, as
/// it can be written no more, the two are pinned, and counted, until both are gone.
fn replaced_apart(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = page_size(info);
    let span = page << (info.page_shift - 3);
    let memory = Mapping::reserve(3 * span, Protection::READ_WRITE)?;
    memory.base_pages_only()?;
    let start = memory.address().next_multiple_of(span as u64);
    let first = usize::try_from(start - memory.address()).map_err(|_| Errno::EINVAL)?;
    write(&memory, first, 1);
    write(&memory, first + span, 1);
    // Returns, for a limit of `pages`, the result of replacing the first, the second, and of one more.
    let outcomes = |pages: u64, protection: Protection| {
        // SAFETY: the child uses pages of its own, and tables of the parent only to replace them.
        in_child(unsafe { Fork::promised() }, || {
            let slots = Page::several(info, Protection::READ_WRITE, 2)?;
            let more = Page::writable(info)?;
            limit_locked(pages * page as u64)?;
            without_ipc_lock()?;
            let mut tables = [ExposePgtblTable::default(); 2];
            let mut asked = range(start, start + 2 * span as u64, &mut tables);
            // SAFETY: there are as many pages as elements.
            unsafe { slots.map_range(0, 3, &mut asked) }?;
            slots.protect(protection)?;
            call(0, slots.address(), 0, 0)?;
            call(0, slots.address() + page as u64, 0, 0)?;
            if pages > 2 {
                call(0, more.address(), 0, 0)?;
            }
            Ok(())
        })
    };
    all(&[
        expect(
            "exchanged, no room",
            outcomes(2, Protection::READ_WRITE),
            Ok(0),
        ),
        expect(
            "read-only, no room",
            outcomes(2, Protection::READ),
            failed_with(Errno::ENOMEM),
        ),
        // The module charges a table before that which it replaces is gone.
        number().is_none()
            || expect(
                "read-only, room for one more",
                outcomes(3, Protection::READ),
                Ok(0),
            ),
    ])
}

/// Where tables get a mapping of their own, the module needs room for them beside what they replace.
const CHARGES_FIRST: Verdict =
    Verdict::Skip("the module charges a table before that which it replaces is gone");

/// Two tables from one call, of which one is unmapped: the other is not exchanged, which would keep both.
fn replaced_rest(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    if number().is_none() {
        return Ok(CHARGES_FIRST);
    }
    let page = page_size(info);
    // SAFETY: the child uses pages of its own, and tables of the parent only to replace them.
    let limited = in_child(unsafe { Fork::promised() }, || {
        let slots = Page::several(info, Protection::READ_WRITE, 2)?;
        let more = Page::writable(info)?;
        limit_locked(2 * page as u64)?;
        without_ipc_lock()?;
        // At level 3 there is the table of the program, and that of the stack.
        let mut tables = [ExposePgtblTable::default(); 2];
        let mut asked = range(0, 1 << info.va_bits, &mut tables);
        // SAFETY: there are as many pages as elements.
        unsafe { slots.map_range(0, 3, &mut asked) }?;
        let first = usize::try_from(slots.address()).map_err(|_| Errno::EINVAL)?;
        let second = slots.address() + page as u64;
        // SAFETY: nothing reads the first page.
        unsafe { munmap(with_exposed_provenance_mut(first), page) }?;
        if asked.count != 2 || call(0, more.address(), 0, 0) != Err(Errno::ENOMEM) {
            return Err(Errno::EIO);
        }
        call(0, second, 0, 0)?;
        call(0, more.address(), 0, 0).map(drop)
    });
    all(&[expect("one more", limited, Ok(0))])
}

fn locked_later(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    if number().is_none() {
        return Ok(CHARGES_FIRST);
    }
    let size = page_size(info) as u64;
    // SAFETY: the child uses pages of its own, and tables of the parent only to replace them.
    let limited = in_child(unsafe { Fork::promised() }, || {
        let slot = Page::writable(info)?;
        limit_locked(size)?;
        without_ipc_lock()?;
        let flags = constants::MCL_FUTURE.into();
        // SAFETY: changes how later mappings are made, which have no references yet.
        unsafe { system_call(constants::__NR_mlockall, [flags, 0, 0, 0, 0, 0]) }?;
        slot.map(0, 0, 0)?;
        slot.map(0, 0, 0).map(drop)
    });
    all(&[expect("one page of locked memory", limited, Ok(0))])
}

/// By address and by range: `ENOMEM` because of locked memory, after the kernel has found the tables.
fn refused_again(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    // SAFETY: the child uses pages of its own, and tables of the parent only to replace them.
    let limited = in_child(unsafe { Fork::promised() }, || {
        let slots = Page::several(info, Protection::READ_WRITE, 2)?;
        // Without a page, it depends on the neighbours whether the address has a level-3 table.
        // SAFETY: no table is mapped there.
        unsafe { slots.set_word(0, 1) };
        let start = slots.address();
        limit_locked(0)?;
        without_ipc_lock()?;
        let mut args = ExposePgtblArgs {
            pid: 0,
            remap_vaddr: start,
            pfn: start,
            level: 3 | EXPOSE_PGTBL_ADDR,
        };
        // SAFETY: replaces a page of its own.
        let by_address = unsafe { remap_page_table(&mut args) };
        let mut tables = [ExposePgtblTable::default(); 2];
        let mut asked = range(start, start + 1, &mut tables);
        // SAFETY: there are as many pages as elements.
        let by_range = unsafe { slots.map_range(0, 3, &mut asked) };
        let met = [
            expect_error("by address", by_address, Errno::ENOMEM),
            expect("the address", Ok(args.pfn), Ok(start)),
            expect_error("by range", by_range, Errno::ENOMEM),
            expect("where it starts", Ok(asked.start), Ok(start)),
            expect("how many", Ok(asked.count.into()), Ok(2)),
        ];
        if met == [true; 5] {
            Ok(())
        } else {
            Err(Errno::EIO)
        }
    });
    all(&[expect("no locked memory", limited, Ok(0))])
}

fn no_ipc_lock(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let size = page_size(info) as u64;
    // SAFETY: the child uses pages of its own, and tables of the parent only to replace them.
    let lent = in_child(unsafe { Fork::promised() }, || {
        without_ipc_lock()?;
        lend(0, size, 1).map(drop)
    });
    // SAFETY: the child uses pages of its own, and tables of the parent only to replace them.
    let taken = in_child(unsafe { Fork::promised() }, || {
        without_ipc_lock()?;
        let mut places = [ExposePgtblTable::default()];
        // SAFETY: nothing is mapped at these addresses.
        unsafe { take(0, size..2 * size, 4 * size, &mut places) }.map(drop)
    });
    all(&[
        expect("LEND", lent, failed_with(Errno::EPERM)),
        expect("TAKE", taken, failed_with(Errno::EPERM)),
    ])
}

fn too_large(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let size = page_size(info);
    let slot = Page::written(info)?;
    let asked = Page::several(info, Protection::READ_WRITE, 2)?;
    let mut tables = [ExposePgtblTable::default()];
    let start = slot.address();
    let good = range(start, start + 1, &mut tables);
    let sized = |bytes: u64| {
        let words = [
            bytes | u64::from(good.count) << 32,
            good.start,
            good.end,
            good.tables,
        ];
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: the page is ordinary memory, not a table.
            unsafe { asked.set_word(index, word) };
        }
        call(0, slot.address(), asked.address(), 3 | EXPOSE_PGTBL_RANGE).map(|_| 0)
    };
    all(&[
        expect("a page", sized(size as u64), Ok(0)),
        expect_error("more", sized(size as u64 + 8), Errno::E2BIG),
        expect_error("all there is", sized(u64::from(u32::MAX)), Errno::E2BIG),
    ])
}

/// Enables tagged pointers in system calls, with tag checks by the kernel.
fn enable_tags() -> Result<(), Errno> {
    let mode = prctl::PR_TAGGED_ADDR_ENABLE | prctl::PR_MTE_TCF_SYNC;
    let arguments = [
        prctl::PR_SET_TAGGED_ADDR_CTRL.into(),
        mode.into(),
        0,
        0,
        0,
        0,
    ];
    // SAFETY: changes the meaning of tagged pointers for the kernel; others keep their meaning.
    unsafe { system_call(constants::__NR_prctl, arguments) }.map(drop)
}

/// Sets the tag of the first `bytes` of `memory`. Returns the tagged address.
fn tag(memory: &Mapping, bytes: usize) -> u64 {
    /// A tag: bits 59:56 of a pointer.
    const TAG: u64 = 5 << 56;
    /// Bytes that share one tag.
    const GRANULE: usize = 16;
    let start = memory.address() | TAG;
    for offset in (0..bytes).step_by(GRANULE) {
        let address = start + offset as u64;
        // The programs run on arm64 only; their unit tests are built for the host, which has no tags.
        #[cfg(not(target_arch = "aarch64"))]
        let _ = address;
        // SAFETY: stores a tag for 16 bytes of a mapping with PROT_MTE. `memory` is accessed only through the
        // tagged address, or by the kernel.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            asm!(".arch_extension memtag", "stg {0}, [{0}]", in(reg) address, options(nostack));
        };
    }
    start
}

fn tagged(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let size = page_size(info);
    let memory = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Private)?;
    match memory.protect(0..size, Protection::TAGGED) {
        Ok(()) => {}
        Err(Errno::EINVAL) => return Ok(Verdict::Skip("no memory tags")),
        Err(errno) => return Err(errno),
    }
    let slot = Page::written(info)?;
    let wanted = path(0, slot.address())?;
    let root = wanted.root_pfn;
    // SAFETY: the child uses pages of its own, and tables of the parent only to replace them.
    let filled = in_child(unsafe { Fork::promised() }, || {
        enable_tags()?;
        let mut tables = [ExposePgtblTable::default()];
        let good = range(slot.address(), slot.address() + 1, &mut tables);
        write(&memory, 0, EXPOSE_PGTBL_INFO_SIZE_VER0.into());
        write(&memory, 64, EXPOSE_PGTBL_INFO_SIZE_VER0.into());
        write(
            &memory,
            128,
            u64::from(good.size) | u64::from(good.count) << 32,
        );
        write(&memory, 136, good.start);
        write(&memory, 144, good.end);
        write(&memory, 152, good.tables);
        let start = tag(&memory, 160);
        call(0, start, 0, EXPOSE_PGTBL_INFO)?;
        // The address to look up has a tag, too.
        let looked_up = slot.address() | 3 << 56;
        call(0, start + 64, looked_up, EXPOSE_PGTBL_PATH)?;
        call(0, slot.address(), start + 128, 3 | EXPOSE_PGTBL_RANGE).map(drop)
    });
    all(&[root != 0, expect("the three forms", filled, Ok(0))])
}
