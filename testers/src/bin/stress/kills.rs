//! Processes with a pager that are killed at random points.

#![expect(unsafe_code, reason = "forks")]

use tablewalk_pager::Delivery;
use tablewalk_proc::lines::parse_number;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::Fork;
use tablewalk_rt::{ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::random::Random;
use tablewalk_testkit::witness::Witness;
use tablewalk_uapi::file::{self, O_NONBLOCK, O_RDONLY, OwnedFd};
use tablewalk_uapi::process::{self, Status};
use tablewalk_uapi::signal::Signal;
use tablewalk_uapi::{Errno, time};

use crate::{Mode, Stress};

pub(crate) const TESTS: &[Case<Stress<'_>, Error>] = &[
    Case {
        name: "killed anywhere, with events: frames are lost between two stores only",
        run: |stress| kill(stress, Delivery::Threads),
    },
    Case {
        name: "killed anywhere, with signals: frames are lost between two stores only",
        run: |stress| kill(stress, Delivery::Signals),
    },
];

/// The test prints its progress after this many kills.
const PROGRESS: u32 = 1000;

fn kill(stress: &mut Stress<'_>, delivery: Delivery) -> Result<Verdict, Error> {
    let mut log = KernelLog::open().map_err(Error::call("/dev/kmsg"))?;
    let mut random = Random::new(stress.seed, 0);
    // Fill the kernel's own caches before frames are counted.
    kill_one(stress, delivery, &mut random)?;
    log.lost_frames().map_err(Error::call("/dev/kmsg"))?;
    let witness = Witness::begin()?;
    let (mut at_work, mut lost, mut ok) = (0, 0, true);
    for number in 1..=stress.kills {
        let (status, worked) = kill_one(stress, delivery, &mut random)?;
        ok &= status == Status::Killed(Signal::Kill as u8);
        at_work += u64::from(worked);
        // Often enough that no record is overwritten.
        lost += log.lost_frames().map_err(Error::call("/dev/kmsg"))?;
        if number % PROGRESS == 0 {
            println!("# {number} killed, {at_work} of them at work, {lost} frames lost");
        }
    }
    println!(
        "# {} killed, {at_work} of them at work, {lost} frames lost",
        stress.kills
    );
    let workers = match delivery {
        Delivery::Threads => stress.handlers,
        Delivery::Signals => stress.threads,
    };
    let few = lost <= u64::from(stress.kills) * workers as u64;
    Ok((ok && few && at_work > 0 && witness.all_came_back_but(lost)?).into())
}

/// Starts a process that works for ever, and kills it. Returns how it ended, and whether it reached its work.
fn kill_one(
    stress: &Stress<'_>,
    delivery: Delivery,
    random: &mut Random,
) -> Result<(Status, bool), Error> {
    stress.clear();
    let mode = if random.one_in(2) {
        Mode::Verify
    } else {
        Mode::Racing
    };
    // SAFETY: the child makes a pager of its own, and uses copies of everything else.
    let child = unsafe { Fork::promised() }
        .spawn(|| match stress.round(mode, delivery, u64::MAX) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                println!("# victim: {error}");
                ExitCode::FAILURE
            }
        })
        .map_err(Error::call("fork"))?;
    wait_a_little(stress, random).map_err(Error::call("nanosleep"))?;
    let worked = stress.has_begun();
    process::kill(child.pid(), Signal::Kill).map_err(Error::call("kill"))?;
    Ok((child.wait().map_err(Error::call("wait"))?, worked))
}

/// Gives one of four victims a number of instructions, wherever they lead. The others reach their work, and
/// then run for up to some hundred microseconds, at the same time as this process or after it.
fn wait_a_little(stress: &Stress<'_>, random: &mut Random) -> Result<(), Errno> {
    if !random.one_in(4) {
        // Bounded, in case an error has ended the victim.
        for _turn in 0..100_000 {
            if stress.has_begun() {
                break;
            }
            process::yield_now();
        }
        if random.one_in(2) {
            time::sleep(core::time::Duration::from_micros(random.below(2_000)))?;
        }
    }
    for _turn in 0..random.below(20_000) {
        core::hint::spin_loop();
    }
    Ok(())
}

/// The kernel log.
struct KernelLog(OwnedFd);

impl KernelLog {
    fn open() -> Result<Self, Errno> {
        file::open(c"/dev/kmsg", O_RDONLY | O_NONBLOCK).map(Self)
    }

    /// Returns how many anonymous pages the kernel has missed at the end of processes since the last call, as
    /// `check_mm` of kernel/fork.c prints it.
    fn lost_frames(&mut self) -> Result<u64, Errno> {
        let mut lost = 0;
        let mut record = [0; 1024];
        loop {
            match file::read(&self.0, &mut record) {
                Ok(length) => lost += missed_pages(record.get(..length).unwrap_or_default()),
                Err(Errno::EAGAIN) => return Ok(lost),
                // The overwritten records might have counted.
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Returns the number in `BUG: Bad rss-counter state mm:… type:MM_ANONPAGES val:1`, or 0 for another record.
fn missed_pages(record: &[u8]) -> u64 {
    let line = record.split(|&byte| byte == b'\n').next();
    let mut words = line.unwrap_or_default().split(|&byte| byte == b' ');
    if !words.any(|word| word == b"rss-counter") || !words.any(|word| word == b"type:MM_ANONPAGES")
    {
        return 0;
    }
    let value = words.next().and_then(|word| word.strip_prefix(b"val:"));
    value
        .and_then(|digits| parse_number(digits, 10))
        .unwrap_or(0)
}
