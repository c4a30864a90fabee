//! What the programs share.

#![no_std]

pub mod cli;
pub mod compare;
pub mod donors;
pub mod error;
pub mod expect;
pub mod handler;
pub mod memory;
pub mod only_tracker;
pub mod page;
pub mod paging;
pub mod prerequisite;
pub mod pt;
pub mod random;
pub mod sort;
pub mod sparse;
pub mod swap;
pub mod tree;
pub mod witness;
