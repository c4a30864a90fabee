//! Denial of service: more of everything than anybody needs.

#![expect(unsafe_code, reason = "forks")]

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::Fork;
use tablewalk_rt::{ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::expect::{all, expect, expect_ok};
use tablewalk_testkit::page::{Page, call};
use tablewalk_testkit::sparse::Sparse;
use tablewalk_testkit::witness::Witness;
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::process::{self, Status};
use tablewalk_uapi::remap::{EXPOSE_PGTBL_ADDR, info as ask_info};
use tablewalk_uapi::signal::Signal;
use tablewalk_uapi::{Errno, Mapping};

use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "60,000 tables and more can be mapped, then ENOMEM",
        run: many_mappings,
    },
    Case {
        name: "100,000 tables: the search finds the last, and misses none",
        run: many_tables,
    },
    Case {
        name: "100,000 tables: a caller that searches can be killed",
        run: kill_searcher,
    },
];

/// More than the default limit of mappings per process, 65,530: `DEFAULT_MAX_MAP_COUNT` of
/// `include/linux/mm.h`.
const MAPPINGS: u64 = 70_000;
const AT_LEAST: u64 = 60_000;

fn many_mappings(context: &mut Context) -> Result<Verdict, Error> {
    let info = &context.info;
    let witness = Witness::begin()?;
    let size = usize::try_from(MAPPINGS << info.page_shift)
        .map_err(|_| Error::Call("mmap", Errno::ENOMEM))?;
    let arena = Mapping::reserve(size, Protection::READ).map_err(Error::call("mmap"))?;
    let stack = core::ptr::from_ref(&arena).expose_provenance() as u64;
    let mut ended = Ok(0);
    let mut mapped = 0;
    for slot in 0..MAPPINGS {
        let address = arena.address() + (slot << info.page_shift);
        // SAFETY: a page of this test.
        ended = unsafe { call(0, address, stack, 3 | EXPOSE_PGTBL_ADDR) };
        if ended.is_err() {
            break;
        }
        mapped += 1;
    }
    println!("# {mapped} tables mapped");
    let met = all(&[
        expect("one more", ended, Err(Errno::ENOMEM)),
        expect("at least 60,000", Ok((mapped >= AT_LEAST).into()), Ok(1)),
        expect_ok("and the call still works", ask_info()),
    ])
    .map_err(Error::call("expect"))?;
    drop(arena);
    Ok((met == Verdict::Ok && witness.all_came_back()?).into())
}

/// Number of tables of the process that is searched.
const TABLES: u64 = 100_000;

/// Starts the process with that many tables.
fn large_process(context: &Context) -> Result<Result<Sparse, &'static str>, Error> {
    if context.info.page_shift != 12 {
        return Ok(Err("so many tables of this page size are more than memory"));
    }
    Sparse::new(&context.info, TABLES).map(Ok)
}

fn many_tables(context: &mut Context) -> Result<Verdict, Error> {
    let info = &context.info;
    let witness = Witness::begin()?;
    let sparse = match large_process(context)? {
        Ok(sparse) => sparse,
        Err(reason) => return Ok(Verdict::Skip(reason)),
    };
    let page = Page::read_only(info).map_err(Error::call("mmap"))?;
    let mut met = true;
    for table in [0, TABLES / 2, TABLES - 1] {
        let address = sparse.address_of_table(table);
        let frame = page
            .map_address(sparse.pid(), 3, address)
            .map_err(Error::call("remap_page_table"))?;
        met &= expect(
            "by frame number",
            page.map(sparse.pid(), 3, frame),
            Ok(frame),
        );
    }
    met &= expect(
        "a frame that is none",
        page.map(sparse.pid(), 3, 1),
        Err(Errno::ENOENT),
    );
    drop(sparse);
    Ok((met && witness.all_came_back()?).into())
}

fn kill_searcher(context: &mut Context) -> Result<Verdict, Error> {
    let info = &context.info;
    let witness = Witness::begin()?;
    let sparse = match large_process(context)? {
        Ok(sparse) => sparse,
        Err(reason) => return Ok(Verdict::Skip(reason)),
    };
    let mut met = true;
    for _round in 0..context.rounds.div_ceil(10) {
        // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
        let searcher = unsafe { Fork::promised() }
            .spawn(|| {
                let Ok(page) = Page::read_only(info) else {
                    return ExitCode::FAILURE;
                };
                loop {
                    let _ = page.map(sparse.pid(), 3, 1);
                }
            })
            .map_err(Error::call("fork"))?;
        process::yield_now();
        process::kill(searcher.pid(), Signal::Kill).map_err(Error::call("kill"))?;
        met &= searcher.wait().map_err(Error::call("wait"))? == Status::Killed(Signal::Kill as u8);
    }
    drop(sparse);
    Ok((met && witness.all_came_back()?).into())
}
