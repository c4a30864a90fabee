//! What the kernel does to memory on its own account while the call changes its entries or TLBs.

#![expect(unsafe_code, reason = "lends pages, and forks")]

use core::ffi::CStr;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use tablewalk_rt::counter::{frequency, ticks};
use tablewalk_rt::ktap::Verdict;
use tablewalk_rt::memory::{read, write};
use tablewalk_rt::process::Fork;
use tablewalk_rt::thread::run_beside;
use tablewalk_rt::{ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::prerequisite::lacks;
use tablewalk_uapi::file::{self, O_WRONLY};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::remap::{self, EXPOSE_PGTBL_LEND, number, path};
use tablewalk_uapi::time::sleep;
use tablewalk_uapi::virtual_machine::VirtualMachine;
use tablewalk_uapi::{Errno, Mapping, Sharing};

use crate::Context;

/// How long to wait for the kernel.
const WAIT: Duration = Duration::from_secs(60);

/// Returns memory whose pages can be lent.
fn lendable(size: usize) -> Result<Mapping, Error> {
    let memory = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    memory
        .base_pages_only()
        .map_err(Error::call("MADV_NOHUGEPAGE"))?;
    Ok(memory)
}

/// Returns whether [`WAIT`] is over since the counter showed `since`.
fn is_over(since: u64) -> bool {
    Duration::from_secs((ticks() - since) / frequency()) >= WAIT
}

/// KSM finds a page by its index before LEND; it must not change the entry after LEND.
pub(crate) fn lent_beside_ksm(context: &mut Context) -> Result<Verdict, Error> {
    const PAGES: usize = 16;
    // Some milliseconds.
    const MOST: u32 = 5_000_000;
    if let Some(skip) = lacks(&context.info, EXPOSE_PGTBL_LEND) {
        return Ok(skip);
    }
    let page = 1 << context.info.page_shift;
    let memory = lendable(PAGES * page)?;
    match memory.advise(0..PAGES * page, Advice::Mergeable) {
        Err(Errno::EINVAL) => return Ok(Verdict::Skip("no KSM")),
        result => result.map_err(Error::call("MADV_MERGEABLE"))?,
    }
    scan(true).map_err(Error::call("KSM"))?;
    let at = |number: usize| memory.address() + (number * page) as u64;
    let (mut lent, mut merged, mut changed) = (0_u64, 0_u64, 0_u64);
    let mut spins = 1000;
    for _ in 0..context.rounds {
        let mut before = [None; PAGES];
        for (number, before) in before.iter_mut().enumerate() {
            // Equal pages. KSM merges one soon after it was written. LEND comes later after each page
            // that it got, and sooner after one that had been merged: while KSM merges.
            write(&memory, number * page, 7);
            for _ in 0..spins {
                spin_loop();
            }
            // SAFETY: nobody moves the entries; the pages are adopted below.
            if unsafe { remap::lend(0, at(number), 1) }.map_err(Error::call("LEND"))? == 1 {
                *before = Some(path(0, at(number)).map_err(Error::call("PATH"))?.desc);
                spins = (spins + spins / 4).min(MOST);
            } else {
                merged += 1;
                spins -= spins / 3;
            }
        }
        sleep(Duration::from_millis(1)).map_err(Error::call("nanosleep"))?;
        for (number, before) in before.iter().enumerate() {
            let after = path(0, at(number)).map_err(Error::call("PATH"))?.desc;
            lent += u64::from(before.is_some());
            changed += u64::from(before.is_some_and(|before| before != after));
        }
        // SAFETY: nobody moves the entries.
        unsafe { remap::adopt(0, at(0), PAGES as u64) }.map_err(Error::call("ADOPT"))?;
    }
    scan(false).map_err(Error::call("KSM"))?;
    println!(
        "# {lent} pages lent, {merged} were merged before, {changed} entries changed meanwhile"
    );
    Ok((lent > 0 && merged > 0 && changed == 0).into())
}

/// Starts KSM without pauses, or stops it.
fn scan(on: bool) -> Result<(), Errno> {
    set(c"/sys/kernel/mm/ksm/pages_to_scan", b"100")?;
    set(c"/sys/kernel/mm/ksm/sleep_millisecs", b"0")?;
    set(c"/sys/kernel/mm/ksm/run", if on { b"1" } else { b"2" })
}

/// Writes a setting of the kernel.
fn set(path: &CStr, value: &[u8]) -> Result<(), Errno> {
    let file = file::open(path, O_WRONLY)?;
    file::write(&file, value).map(drop)
}

/// NUMA balancing makes entries inaccessible from time to time, to see who uses the page. It must leave those of
/// lent pages as they are. It works on one node, too, if the process has two threads.
pub(crate) fn lent_beside_balancing(context: &mut Context) -> Result<Verdict, Error> {
    const PAGES: usize = 128;
    // It leaves pages alone that wait for the LRU.
    const WANTED: usize = PAGES / 4;
    const BALANCING: &CStr = c"/proc/sys/kernel/numa_balancing";
    if let Some(skip) = lacks(&context.info, EXPOSE_PGTBL_LEND) {
        return Ok(skip);
    }
    match set(BALANCING, b"1") {
        Ok(()) => {}
        Err(Errno::ENOENT) => return Ok(Verdict::Skip("no NUMA balancing")),
        Err(errno) => return Err(Error::Call("/proc/sys/kernel/numa_balancing", errno)),
    }
    let page = 1 << context.info.page_shift;
    let memory = lendable(PAGES * page)?;
    let at = |number: usize| memory.address() + (number * page) as u64;
    let entry = |number| -> Result<u64, Error> {
        let [.., entry] = path(0, at(number)).map_err(Error::call("PATH"))?.desc;
        Ok(entry)
    };
    let mut before = [0; PAGES];
    for (number, before) in before.iter_mut().enumerate() {
        write(&memory, number * page, 1);
        // Every second page.
        if number % 2 == 0 {
            // SAFETY: nobody moves the entries; the pages are adopted below.
            let lent = unsafe { remap::lend(0, at(number), 1) }.map_err(Error::call("LEND"))?;
            if lent != 1 {
                println!("# page {number} is not lent");
                return Ok(Verdict::NotOk);
            }
        }
        *before = entry(number)?;
    }
    // The number of entries that have changed: of lent pages, and of others.
    let changed = || -> Result<[usize; 2], Error> {
        let mut changed = [0; 2];
        for (number, before) in before.iter().enumerate() {
            if let Some(changed) = changed.get_mut(number % 2) {
                *changed += usize::from(entry(number)? != *before);
            }
        }
        Ok(changed)
    };
    let done = AtomicBool::new(false);
    let spin = || {
        while !done.load(Ordering::Relaxed) {
            spin_loop();
        }
    };
    let found = run_beside(spin, || {
        let since = ticks();
        let result = loop {
            match changed() {
                Ok([_, others]) if others < WANTED && !is_over(since) => {}
                result => break result,
            }
        };
        done.store(true, Ordering::Relaxed);
        result
    });
    let [lent, others] = found.map_err(Error::call("clone"))??;
    println!(
        "# of {} entries each, {lent} of lent pages and {others} of others changed",
        PAGES / 2
    );
    // SAFETY: nobody moves the entries.
    unsafe { remap::adopt(0, at(0), PAGES as u64) }.map_err(Error::call("ADOPT"))?;
    set(BALANCING, b"0").map_err(Error::call("/proc/sys/kernel/numa_balancing"))?;
    Ok((others >= WANTED && lent == 0).into())
}

/// FLUSH tells each mmu notifier that an invalidation starts, and that it ends. One that subscribes between the
/// two would get an end without a start; KVM then waits for ever for the end of another.
pub(crate) fn flush_beside_machines(context: &mut Context) -> Result<Verdict, Error> {
    // The more pages, the longer between start and end; above 511 the kernel invalidates everything at once.
    const PAGES: usize = 500;
    const MACHINES: u64 = 5;
    match VirtualMachine::new() {
        Ok(_) => {}
        Err(Errno::ENOENT | Errno::ENODEV) => {
            return Ok(Verdict::Skip("no KVM, or a CPU without EL2"));
        }
        Err(errno) => return Err(Error::Call("/dev/kvm", errno)),
    }
    let page = 1 << context.info.page_shift;
    let memory = Mapping::anonymous(PAGES * page, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    let made = Mapping::anonymous(page, Protection::READ_WRITE, Sharing::Shared)
        .map_err(Error::call("mmap"))?;
    // SAFETY: the child makes machines of its copy of memory.
    let target = unsafe { Fork::promised() }
        .spawn(|| {
            for number in 1.. {
                let machine = VirtualMachine::new();
                if let Err(errno) = machine.and_then(|machine| machine.set_memory(&memory)) {
                    println!("# target: {errno}");
                    break;
                }
                write(&made, 0, number);
            }
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
    let wanted = u64::from(context.rounds) * MACHINES;
    let (mut flushes, mut before) = (0_u64, 0);
    let mut since = ticks();
    while read(&made, 0) < wanted {
        if before != read(&made, 0) {
            (before, since) = (read(&made, 0), ticks());
        }
        let running = target.is_running().map_err(Error::call("wait"))?;
        if is_over(since) || !running {
            println!("# after {flushes} calls and {before} machines: hangs or has ended");
            // It cannot be killed while it waits for KVM.
            core::mem::forget(target);
            return Ok(Verdict::NotOk);
        }
        match remap::flush(target.pid(), memory.address(), PAGES as u64) {
            // The module cannot tell virtual machines what it invalidates.
            Err(Errno::EBUSY) if number().is_none() => {}
            flushed => flushed.map_err(Error::call("FLUSH"))?,
        }
        flushes += 1;
    }
    println!("# {flushes} calls beside {wanted} machines");
    Ok((flushes > 0).into())
}
