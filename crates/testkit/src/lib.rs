//! Shared code of the tests that run on the target: pages to replace by tables, independent witnesses to
//! compare with, and expectations that print the actual result when it is the wrong one.

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
