//! Atomics, and futexes. With `--cfg loom` they are loom's, which runs the models of this crate with every
//! interleaving that the memory model allows.

pub(crate) use core::sync::atomic::Ordering;

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::fence;
#[cfg(loom)]
pub(crate) use modelled::{AtomicBool, AtomicU32, AtomicU64, mutant, ordering};

/// A word that threads wait for.
#[derive(Debug)]
pub(crate) struct Futex {
    word: AtomicU32,
    #[cfg(loom)]
    queue: modelled::Queue,
}

impl core::ops::Deref for Futex {
    type Target = AtomicU32;

    #[inline]
    fn deref(&self) -> &AtomicU32 {
        &self.word
    }
}

#[cfg(not(loom))]
impl Futex {
    pub(crate) const fn new(value: u32) -> Self {
        Self {
            word: AtomicU32::new(value),
        }
    }

    /// Waits for a wake-up if the word holds `expected`. May return without one: the caller checks again.
    pub(crate) fn wait(&self, expected: u32) {
        let _woken_or_not = tablewalk_uapi::futex::wait(&self.word, expected);
    }

    /// Wakes one waiting thread.
    pub(crate) fn wake_one(&self) {
        let _woken = tablewalk_uapi::futex::wake_one(&self.word);
    }

    /// Wakes all waiting threads.
    pub(crate) fn wake_all(&self) {
        let _woken = tablewalk_uapi::futex::wake_all(&self.word);
    }
}

/// Returns `ordering`, or a weaker one in the models that run with this mutant and must fail.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn ordering(ordering: Ordering, _mutant: &str) -> Ordering {
    ordering
}

/// Returns whether the models run with this mutant and must fail; always false outside of models.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn mutant(_mutant: &str) -> bool {
    false
}

/// Returns whether a model has failed and is unwinding: loom's atomics must not be used any more. Always
/// false outside of models.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn has_failed() -> bool {
    false
}

#[cfg(loom)]
pub(crate) fn has_failed() -> bool {
    std::thread::panicking()
}

#[cfg(loom)]
mod modelled {
    use std::string::String;
    use std::sync::LazyLock;

    use loom::sync::{Condvar, Mutex, atomic};

    use super::{Futex, Ordering};

    pub(crate) type AtomicBool = Atomic<atomic::AtomicBool>;
    pub(crate) type AtomicU32 = Atomic<atomic::AtomicU32>;
    pub(crate) type AtomicU64 = Atomic<atomic::AtomicU64>;

    /// One of loom's atomics. Each use comes after a relaxed use of a second atomic.
    ///
    /// loom 0.7 remembers the last access of each atomic and no other, so that a load hides those before it:
    /// stores are not tried in all places then (tokio-rs/loom#166, #392). An access that changes an atomic
    /// depends on whatever was before it, so with this a load hides nothing.
    #[derive(Debug)]
    pub(crate) struct Atomic<A> {
        atomic: A,
        uses: atomic::AtomicBool,
    }

    impl<A> core::ops::Deref for Atomic<A> {
        type Target = A;

        fn deref(&self) -> &A {
            self.uses.fetch_or(true, Ordering::Relaxed);
            &self.atomic
        }
    }

    macro_rules! new {
        ($($atomic:ident of $value:ty),*) => {$(
            impl $atomic {
                pub(crate) fn new(value: $value) -> Self {
                    Self {
                        atomic: atomic::$atomic::new(value),
                        uses: atomic::AtomicBool::new(false),
                    }
                }
            }
        )*};
    }

    new!(AtomicBool of bool, AtomicU32 of u32, AtomicU64 of u64);

    /// The threads that wait for one word. As in the kernel, its lock is held from the check of the word
    /// until the thread waits, and during a wake-up.
    #[derive(Debug)]
    pub(super) struct Queue {
        lock: Mutex<()>,
        woken: Condvar,
    }

    impl Futex {
        pub(crate) fn new(value: u32) -> Self {
            Self {
                word: AtomicU32::new(value),
                queue: Queue {
                    lock: Mutex::new(()),
                    woken: Condvar::new(),
                },
            }
        }

        pub(crate) fn wait(&self, expected: u32) {
            // A thread that has panicked ends the model.
            let Ok(lock) = self.queue.lock.lock() else {
                return;
            };
            if self.word.load(Ordering::Relaxed) == expected {
                drop(self.queue.woken.wait(lock));
            }
        }

        pub(crate) fn wake_one(&self) {
            let _lock = self.queue.lock.lock();
            self.queue.woken.notify_one();
        }

        pub(crate) fn wake_all(&self) {
            let _lock = self.queue.lock.lock();
            self.queue.woken.notify_all();
        }
    }

    pub(crate) fn ordering(ordering: Ordering, name: &str) -> Ordering {
        if mutant(name) {
            Ordering::Relaxed
        } else {
            ordering
        }
    }

    pub(crate) fn mutant(name: &str) -> bool {
        static MUTANT: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("MUTANT").ok());
        MUTANT.as_deref() == Some(name)
    }
}
