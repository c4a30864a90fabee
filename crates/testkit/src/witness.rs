//! Checks for leaked frames.

use core::time::Duration;

use tablewalk_rt::println;
use tablewalk_uapi::{process, time};

use crate::error::Error;
use tablewalk_proc::frames;

/// The number of free frames before a test.
#[derive(Debug)]
pub struct Witness {
    free: u64,
    tables: u64,
    slack: u64,
}

/// How often to look, at most, until the kernel has freed everything, since it frees tables only after an RCU
/// grace period. Half a minute in all: a kernel with KASAN needs it for 100,000 tables.
const PATIENCE: u32 = 1500;
const PAUSE: Duration = Duration::from_millis(20);

impl Witness {
    /// Counts the free frames.
    ///
    /// # Errors
    ///
    /// As [`frames::free`].
    pub fn begin() -> Result<Self, Error> {
        let cpus = process::cpus().map_err(Error::call("sched_getaffinity"))?;
        Ok(Self {
            free: frames::free().map_err(Error::call("zoneinfo"))?,
            tables: frames::tables().map_err(Error::call("zoneinfo"))?,
            slack: frames::SLACK_OF_CPU * u64::from(cpus),
        })
    }

    /// Counts again, after every process that the test started has ended. Returns whether all frames were
    /// freed: frames that are still missing at the end of the wait have leaked.
    ///
    /// # Errors
    ///
    /// As [`frames::free`].
    pub fn all_came_back(&self) -> Result<bool, Error> {
        self.all_came_back_but(0)
    }

    /// As [`Witness::all_came_back`], but tolerates `lost` missing frames.
    ///
    /// # Errors
    ///
    /// As [`frames::free`].
    pub fn all_came_back_but(&self, lost: u64) -> Result<bool, Error> {
        for _try in 0..PATIENCE {
            let free = frames::free().map_err(Error::call("zoneinfo"))?;
            let tables = frames::tables().map_err(Error::call("zoneinfo"))?;
            if free + lost + self.slack >= self.free && tables <= self.tables + self.slack {
                println!(
                    "# free frames {} -> {free}, page tables {} -> {tables}",
                    self.free, self.tables
                );
                return Ok(true);
            }
            time::sleep(PAUSE).map_err(Error::call("nanosleep"))?;
        }
        let free = frames::free().map_err(Error::call("zoneinfo"))?;
        let tables = frames::tables().map_err(Error::call("zoneinfo"))?;
        println!(
            "# LOST: free frames {} -> {free}, page tables {} -> {tables}; slack is {}",
            self.free, self.tables, self.slack
        );
        Ok(false)
    }
}
