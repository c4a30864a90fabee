//! Random calls. A second implementation of the contract predicts each result.

#![expect(unsafe_code, reason = "forks")]

mod arguments;
mod oracle;

use core::sync::atomic::{AtomicU64, Ordering};

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::Fork;
use tablewalk_rt::{ExitCode, println, thread};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::page::{call_at, page_size};
use tablewalk_testkit::random::Random;
use tablewalk_testkit::witness::Witness;
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::process::{self, Status};
use tablewalk_uapi::remap::{EXPOSE_PGTBL_ADDR, ExposePgtblInfo};
use tablewalk_uapi::{Errno, Mapping, Sharing};

use crate::operations::{self, Range};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[Case {
    name: "random calls return what the contract predicts",
    run: fuzz,
}];

/// Number of threads that make calls, all in one process.
const THREADS: u64 = 4;

/// Number of pages of each protection that tables are mapped over.
const SLOTS: u64 = 32;

fn fuzz(context: &mut Context) -> Result<Verdict, Error> {
    let info = &context.info;
    let witness = Witness::begin()?;
    let range = Range::reserve(info).map_err(Error::call("mmap"))?;
    range
        .unmap(range.part(0), 2 * range.span())
        .map_err(Error::call("munmap"))?;
    // SAFETY: the child shares only atomic counters; everything else is a copy, or made by the child.
    let busy = unsafe { Fork::promised() }
        .spawn(|| {
            loop {
                if operations::unmap(&range, info).is_err() {
                    return ExitCode::FAILURE;
                }
            }
        })
        .map_err(Error::call("fork"))?;
    // SAFETY: the child shares only atomic counters; everything else is a copy, or made by the child.
    let gone = unsafe { Fork::promised() }
        .spawn(|| ExitCode::SUCCESS)
        .map_err(Error::call("fork"))?;
    let gone_pid = gone.pid();
    gone.wait().map_err(Error::call("wait"))?;

    // In a child: a call that wrongly succeeds would break this process.
    let calls = u64::from(context.calls).div_ceil(THREADS);
    let seed = context.seed;
    // SAFETY: the child shares only atomic counters; everything else is a copy, or made by the child.
    let fuzzer = unsafe { Fork::promised() }
        .spawn(|| {
            let pids = [
                0,
                process::pid(),
                busy.pid(),
                process::parent_pid(),
                gone_pid,
                2,
                -1,
            ];
            match Places::new(info) {
                Ok(places) => {
                    let shared = Shared::new(info, &range, &places, pids);
                    shared.run(seed, calls)
                }
                Err(errno) => {
                    println!("# mmap: {errno}");
                    ExitCode::FAILURE
                }
            }
        })
        .map_err(Error::call("fork"))?;
    let ended = fuzzer.wait().map_err(Error::call("wait"))?;
    if ended != Status::Exited(0) {
        println!("# {ended:?}: again with --seed {seed} fuzz");
    }
    let still_busy = busy.is_running().map_err(Error::call("wait"))?;
    drop((busy, range));
    Ok((ended == Status::Exited(0) && still_busy && witness.all_came_back()?).into())
}

/// Addresses of each kind that the fuzzer passes.
struct Places {
    /// Tables are mapped over these pages.
    writable: Mapping,
    read_only: Mapping,
    /// One page with PROT_NONE.
    without: Mapping,
    /// The kernel fills structs here: one page for each thread, followed by one with PROT_NONE.
    data: Mapping,
    /// Private memory, one page for each thread, all touched.
    private: Mapping,
}

impl Places {
    fn new(info: &ExposePgtblInfo) -> Result<Self, Errno> {
        let page = page_size(info);
        let slots = page * usize::try_from(SLOTS).unwrap_or(0);
        let data_size = page * usize::try_from(THREADS).unwrap_or(0);
        let shared = |size, protection| Mapping::anonymous(size, protection, Sharing::Shared);
        let data = shared(data_size + page, Protection::READ_WRITE)?;
        data.protect(data_size..data_size + page, Protection::NONE)?;
        let private = Mapping::anonymous(data_size, Protection::READ_WRITE, Sharing::Private)?;
        private.base_pages_only()?;
        for offset in (0..data_size).step_by(page) {
            tablewalk_rt::memory::write(&private, offset, 1);
        }
        Ok(Self {
            writable: shared(slots, Protection::READ_WRITE)?,
            read_only: shared(slots, Protection::READ)?,
            without: shared(page, Protection::NONE)?,
            data,
            private,
        })
    }
}

/// Words of the struct; the array takes the rest of the page.
const STRUCT: u64 = 4;

/// State that all threads of the fuzzer share.
struct Shared<'a> {
    info: &'a ExposePgtblInfo,
    range: &'a Range,
    places: &'a Places,
    pids: [i32; 7],
    /// Counts of results: success, each error of the contract, and others.
    tally: [AtomicU64; ERRORS.len() + 2],
    wrong: AtomicU64,
}

/// The errors that a call may return here.
const ERRORS: [Errno; 6] = [
    Errno::EFAULT,
    Errno::EINVAL,
    Errno::ESRCH,
    Errno::ENOENT,
    // Of the module: a form that it lacks, and FLUSH of a process with virtual machines.
    Errno::EOPNOTSUPP,
    Errno::EBUSY,
];

impl<'a> Shared<'a> {
    fn new(
        info: &'a ExposePgtblInfo,
        range: &'a Range,
        places: &'a Places,
        pids: [i32; 7],
    ) -> Self {
        Self {
            info,
            range,
            places,
            pids,
            tally: [const { AtomicU64::new(0) }; ERRORS.len() + 2],
            wrong: AtomicU64::new(0),
        }
    }

    fn run(&self, seed: u64, calls: u64) -> ExitCode {
        let threads = usize::try_from(THREADS).unwrap_or(0);
        let all_ran =
            thread::run_all(threads, &|number| self.work(seed, number as u64, calls)).is_ok();
        let [ok, efault, einval, esrch, enoent, lacking, busy, other] = self
            .tally
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed));
        println!(
            "# {ok} succeeded, EFAULT {efault}, EINVAL {einval}, ESRCH {esrch}, ENOENT {enoent}, \
             EOPNOTSUPP {lacking}, EBUSY {busy}, others {other}"
        );
        let wrong = self.wrong.load(Ordering::Relaxed);
        let varied = [ok, efault, einval, esrch, enoent]
            .iter()
            .all(|&count| count > 0);
        if all_ran && wrong == 0 && varied && other == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Runs thread `number`.
    fn work(&self, seed: u64, number: u64, calls: u64) {
        let mut thread = Thread {
            shared: self,
            number,
            random: Random::new(seed, number),
            seen: [(3, 0); 8],
        };
        for done in 0..calls {
            if number == 0 && calls >= 10 && done % (calls / 10) == 0 {
                println!("# {} % of {} calls", done * 100 / calls, calls * THREADS);
            }
            thread.step(done);
        }
    }

    fn count(&self, result: Result<(), Errno>) {
        let index = match result {
            Ok(()) => 0,
            Err(errno) => {
                ERRORS
                    .iter()
                    .position(|&known| known == errno)
                    .unwrap_or(ERRORS.len())
                    + 1
            }
        };
        if let Some(count) = self.tally.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}
struct Thread<'a> {
    shared: &'a Shared<'a>,
    number: u64,
    random: Random,
    /// Levels and frame numbers of tables that existed at some time.
    seen: [(u32, u64); 8],
}

impl Thread<'_> {
    /// Makes one call with random arguments.
    fn step(&mut self, round: u64) {
        let (mut args, allowed) = self.choose();
        let before = args;
        let pointer = core::ptr::from_mut(&mut args).cast();
        // SAFETY: a call that succeeds accesses places of this thread, or is reported as a bug.
        let result = unsafe { call_at(pointer) };
        let fine = allowed.allows(result);
        self.shared.count(result);
        if !fine {
            self.shared.wrong.fetch_add(1, Ordering::Relaxed);
            println!(
                "# thread {} call {round}: {before:x?}: {result:?}, allowed: {allowed:?}",
                self.number
            );
        }
        if result.is_ok() && before.level & !(0xff | EXPOSE_PGTBL_ADDR) == 0 {
            let level = before.level & 0xff;
            let slot = usize::try_from(self.random.below(8)).unwrap_or(0);
            if level != 0
                && let Some(seen) = self.seen.get_mut(slot)
            {
                *seen = (level, args.pfn);
            }
        }
        if self.random.one_in(64) {
            // SAFETY: the struct does not exist, or the kernel cannot read it.
            self.shared.count(unsafe { call_at(self.bad_pointer()) });
        }
    }

    /// Returns an invalid pointer, for which the call returns `EFAULT`.
    fn bad_pointer(&mut self) -> *mut u8 {
        let behind = self.shared.places.data.address() + self.shared.places.data.size() as u64;
        let without = behind - (1 << self.shared.info.page_shift);
        let addresses = [0, 8, without, without - 20, 1 << 63, u64::MAX - 8, 1 << 56];
        operations::at(self.random.pick(&addresses)).cast()
    }
}
