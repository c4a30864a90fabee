//! What the programs share.

#![no_std]

pub mod cli;
pub mod donors;
pub mod error;
pub mod frames;
pub mod handler;
pub mod lines;
pub mod memory;
pub mod pagemap;
pub mod prerequisite;
pub mod tree;
