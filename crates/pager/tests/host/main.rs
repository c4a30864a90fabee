//! The pager where entries cannot be moved, on whatever machine builds it: nothing may hang.

#![allow(missing_docs, reason = "tests")]
#![allow(
    unsafe_code,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::multiple_unsafe_ops_per_block,
    reason = "tests"
)]

mod events;
mod forks;
mod inherited;
mod released;
mod scene;
mod signals;
mod workers;
