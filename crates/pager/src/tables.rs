//! The leaf tables of the region and of the pool that a worker has mapped.

use tablewalk_live::LiveMut;
use tablewalk_uapi::Errno;
use tablewalk_walker::Cache;

use crate::PagerError;

/// Number of leaf tables that stay mapped, of the region and of the pool: 32 MiB each with 4K pages.
pub(crate) const LEAVES: usize = 16;

pub(crate) type Tables = Cache<LiveMut, LEAVES, 4>;

/// Reserves address space for tables.
pub(crate) fn tables() -> Result<Tables, PagerError> {
    let live = LiveMut::new(0, Tables::SLOTS)?;
    // The source was made with the slots that the cache asks for.
    Cache::new(live).map_err(|_| PagerError::Call("cache", Errno::ENOMEM))
}
