//! What a fault costs while another process reads tables of the one that faults.
//!
//! Where QEMU counts instructions, the counter advances by those of every CPU: a fault beside a busy
//! process takes twice the ticks of one that is alone. So the peer is a process that makes another
//! system call in a loop.

use tablewalk_bins::error::Error;
use tablewalk_bins::memory::write;
use tablewalk_rt::process::Child;
use tablewalk_rt::{ExitCode, counter, println};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::{Errno, Mapping, Sharing, process, remap};

use crate::per_operation;

/// Faults that are measured.
const FAULTS: usize = 4096;

/// What the other process does for ever.
type Beside = fn(i32, u64) -> Result<(), Errno>;

const BESIDE: [(&str, Beside); 2] = [
    ("beside a loop of getppid", |_, _| {
        let _parent = core::hint::black_box(process::parent_pid());
        Ok(())
    }),
    ("beside a loop of PATH", |target, address| {
        remap::path(target, address).map(drop)
    }),
];

pub(crate) fn measure() -> Result<(), Error> {
    let info = remap::info().map_err(Error::call("INFO"))?;
    let page = 1 << info.page_shift;
    let memory = Mapping::anonymous(FAULTS * page, Protection::READ_WRITE, Sharing::Private)
        .map_err(Error::call("mmap"))?;
    memory.base_pages_only().map_err(Error::call("madvise"))?;
    println!("a fault of a process whose tables another one reads, ticks");
    println!("{:<42} {:>8}", "alone", fault_all(&memory, page)?);
    let (target, address) = (process::pid(), memory.address());
    let cpus = process::cpus().map_err(Error::call("sched_getaffinity"))?;
    for (name, beside) in BESIDE {
        let _other = Child::spawn(|| {
            // The last CPU; the faults are on the first.
            if process::set_affinity(0, 1 << (cpus - 1)).is_err() {
                return ExitCode::FAILURE;
            }
            while beside(target, address).is_ok() {}
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
        process::set_affinity(0, 1).map_err(Error::call("sched_setaffinity"))?;
        println!("{name:<42} {:>8}", fault_all(&memory, page)?);
    }
    let every = (1_u64 << cpus) - 1;
    process::set_affinity(0, every).map_err(Error::call("sched_setaffinity"))
}

/// Touches every page of `memory`, of which none is there; ticks of each, the median of five rounds.
fn fault_all(memory: &Mapping, page: usize) -> Result<u64, Error> {
    let mut rounds = [0; 5];
    for ticks in &mut rounds {
        memory
            .advise(0..memory.size(), Advice::DontNeed)
            .map_err(Error::call("madvise"))?;
        let start = counter::ticks();
        for offset in (0..memory.size()).step_by(page) {
            write(memory, offset, 1);
        }
        *ticks = per_operation(counter::ticks() - start, FAULTS as u64);
    }
    rounds.sort_unstable();
    let [_, _, median, _, _] = rounds;
    Ok(median)
}
