//! Compile-time checks: types that threads share are `Sync`, and types that move between threads are `Send`.

use core::cell::Cell;

use static_assertions::{assert_impl_all, assert_not_impl_any};

use crate::mutex::{Mutex, MutexGuard};
use crate::policy::{Clock, Neighbours, Policy, Sequential};
use crate::pool::{Claim, Refill, Ring};
use crate::rwlock::{ReadGuard, RwLock, WriteGuard};
use crate::{Counts, Pager, PagerError, Worker};

struct Plain;

impl Policy for Plain {}

assert_impl_all!(Pager<Plain>: Send, Sync);
assert_impl_all!(Worker<'static, Plain>: Send);
assert_impl_all!(Clock: Send, Sync);
assert_impl_all!(Neighbours: Send, Sync);
assert_impl_all!(Sequential: Send, Sync);
assert_impl_all!(Counts: Send, Sync);
assert_impl_all!(PagerError: Send, Sync);

assert_impl_all!(Ring: Send, Sync);
assert_impl_all!(Claim<'static>: Send, Sync);
assert_impl_all!(Refill<'static>: Send, Sync);
assert_impl_all!(RwLock: Send, Sync);
assert_impl_all!(ReadGuard<'static>: Send, Sync);
assert_impl_all!(WriteGuard<'static>: Send, Sync);
// One thread at a time uses the value, so it need not be `Sync`; but it moves between threads.
assert_impl_all!(Mutex<Cell<()>>: Send, Sync);
assert_impl_all!(MutexGuard<'static, ()>: Send, Sync);
assert_not_impl_any!(Mutex<*const ()>: Sync);
assert_not_impl_any!(MutexGuard<'static, Cell<()>>: Sync);
