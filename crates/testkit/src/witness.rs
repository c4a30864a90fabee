//! Whether all frames came back.

use core::time::Duration;

use tablewalk_rt::println;
use tablewalk_uapi::{process, time};

use crate::error::Error;
use tablewalk_proc::frames;

/// How many frames there were before something was tried.
#[derive(Debug)]
pub struct Witness {
    free: u64,
    tables: u64,
    slack: u64,
}

/// How long the kernel may take to free what the last process has left, tables after a grace period
/// of RCU: half a minute, which a kernel with KASAN needs for 100,000 of them.
const PATIENCE: u32 = 1500;
const PAUSE: Duration = Duration::from_millis(20);

impl Witness {
    /// Counts.
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

    /// Counts again, when every process that was started has ended. What is missing after a while is
    /// lost.
    ///
    /// # Errors
    ///
    /// As [`frames::free`].
    pub fn all_came_back(&self) -> Result<bool, Error> {
        self.all_came_back_but(0)
    }

    /// As [`Witness::all_came_back`], with so many frames that may be lost.
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
