//! Counters of a pager.

use core::sync::atomic::{AtomicU64, Ordering};

/// Defines the counters, and the struct with their values at one moment.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of a pager.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        /// The values of the counters of a pager, which are 0 when it is made.
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
    /// Faults for which a thread waited.
    faults,
    /// Pages whose entry was moved from the pool.
    moved,
    /// Entries installed for the zero page.
    shared,
    /// Pages that the kernel copied or zeroed because an entry could not be moved.
    fallbacks,
    /// Entries that another thread had installed first.
    races,
    /// Faults at which the pool was empty.
    dry,
    /// Frames that the kernel allocated for the pool.
    refilled,
    /// Frames that the pool took back from the region.
    taken_back,
    /// Pages that the kernel adopted: their reverse mapping leads to their new address.
    adopted,
    /// Failed calls for which no thread waited: refilling the pool, adopting pages, mapping a table.
    errors,
    /// Events read: ranges that were discarded, moved or unmapped, and forks.
    events,
}

/// Adds to a counter, with relaxed ordering.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
