//! What the programs share.

#![no_std]

pub mod cli;
pub mod compare;
pub mod donors;
pub mod error;
pub mod expect;
pub mod frames;
pub mod handler;
pub mod lines;
pub mod memory;
pub mod only_tracker;
pub mod page;
pub mod pagemap;
pub mod paging;
pub mod prerequisite;
pub mod processes;
pub mod random;
pub mod smaps;
pub mod sparse;
pub mod swap;
pub mod tree;
pub mod witness;
