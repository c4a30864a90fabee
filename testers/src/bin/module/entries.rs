//! Entries that are written, and FLUSH.

#![expect(unsafe_code, reason = "writes entries of its own memory")]

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::memory::{read, write};
use tablewalk_testkit::expect::{all, expect, expect_error};
use tablewalk_testkit::page::Page;
use tablewalk_uapi::remap::EXPOSE_PGTBL_FLUSH;
use tablewalk_uapi::remap_device::Target;
use tablewalk_uapi::virtual_machine::VirtualMachine;
use tablewalk_uapi::{Errno, Mapping};

use crate::place::{call, index, map_address, tables, touched};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "two entries that are exchanged exchange the pages, after FLUSH of them",
        run: exchange_some,
    },
    Case {
        name: "the same after FLUSH of everything",
        run: exchange_all,
    },
    Case {
        name: "FLUSH of a process with a virtual machine: EBUSY",
        run: virtual_machine,
    },
];

fn flush(target: &Target, address: u64, pages: u64) -> Result<(), Errno> {
    // SAFETY: this form maps nothing and writes nothing.
    unsafe { call(target, EXPOSE_PGTBL_FLUSH, address, pages) }.map(drop)
}

fn exchange_some(context: &mut Context) -> Result<Verdict, Errno> {
    exchange(context, &|target, address| flush(target, address, 2))
}

fn exchange_all(context: &mut Context) -> Result<Verdict, Errno> {
    exchange(context, &|target, _| flush(target, 0, 0))
}

/// Exchanges two pages, and back: the kernel finds each page where it has put it.
fn exchange(
    context: &Context,
    flush: &dyn Fn(&Target, u64) -> Result<(), Errno>,
) -> Result<Verdict, Errno> {
    let info = &context.info;
    let (memory, start) = tables(info, 1)?;
    let page = 1_usize << info.page_shift;
    let first = usize::try_from(start - memory.address()).unwrap_or(0);
    let values = |memory: &Mapping| [read(memory, first), read(memory, first + page)];
    write(&memory, first, 11);
    write(&memory, first + page, 22);
    let table = Page::writable(info)?;
    map_address(info, &context.own, &table, 3, start)?;
    let place = index(info, 3, start);
    let exchange = || {
        let (one, two) = (table.word(place), table.word(place + 1));
        // SAFETY: the entries of two pages of the test, which nobody uses between the two writes.
        unsafe { table.set_word(place, two) };
        // SAFETY: as above.
        unsafe { table.set_word(place + 1, one) };
    };
    let before = values(&memory);
    exchange();
    flush(&context.own, start)?;
    let exchanged = values(&memory);
    exchange();
    flush(&context.own, start)?;
    let after = values(&memory);
    let same = |what, values: [u64; 2], expected: [u64; 2]| {
        let met = |(value, expected)| expect(what, Ok(value), Ok(expected));
        values.into_iter().zip(expected).all(met)
    };
    all(&[
        same("before", before, [11, 22]),
        same("exchanged", exchanged, [22, 11]),
        same("after", after, [11, 22]),
    ])
}

fn virtual_machine(context: &mut Context) -> Result<Verdict, Errno> {
    let memory = touched(&context.info)?;
    let Ok(machine) = VirtualMachine::new() else {
        return Ok(Verdict::Skip("no KVM, or a CPU without EL2"));
    };
    let refused = flush(&context.own, memory.address(), 1);
    drop(machine);
    all(&[expect_error("FLUSH", refused, Errno::EBUSY)])
}
