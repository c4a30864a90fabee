//! Tests of the walker on tables that the tests build: every geometry, every kind of descriptor, tables that
//! change while they are read, and random words against a model that shares no code with the walker.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod cache;
mod dump;
mod model;
mod properties;
mod translate;
mod tree;
mod walk;
