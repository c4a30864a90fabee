//! What a pager has done.

use core::sync::atomic::{AtomicU64, Ordering};

/// Defines the counters, and their values at one moment.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of a pager.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        /// What a pager has done since it was made.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> Counts {
                Counts {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                }
            }
        }
    };
}

counts! {
    /// Faults that a thread has waited for.
    faults,
    /// Pages whose entry was moved.
    moved,
    /// Entries of the frame of zeros.
    shared,
    /// Pages that the kernel has copied or zeroed, since an entry could not be moved.
    fallbacks,
    /// Entries that somebody else was first to install.
    races,
    /// Faults at which the pool was empty.
    dry,
    /// Frames that the kernel has given to the pool.
    refilled,
    /// Frames that the pool has taken back.
    taken_back,
    /// Pages that the kernel has made ones of their place.
    adopted,
    /// Calls that have failed where nobody had to wait for them: refilling the pool, adopting pages,
    /// mapping a table.
    errors,
    /// Events of ranges that were discarded, moved or unmapped, and of forks.
    events,
}

/// Adds to a counter, which orders nothing.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
