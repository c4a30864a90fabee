//! What tests that run on the target share: pages to be replaced by tables, witnesses to compare with, and
//! expectations that say what was seen instead.

#![no_std]

pub mod compare;
pub mod error;
pub mod expect;
pub mod page;
pub mod paging;
pub mod prerequisite;
pub mod pt;
pub mod random;
pub mod sparse;
pub mod swap;
pub mod tree;
pub mod witness;
