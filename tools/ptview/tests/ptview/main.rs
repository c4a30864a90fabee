//! `ptview` as it is run: dumps and logs in, a page and pictures out.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]
#![expect(unreachable_pub, reason = "modules of a test")]

mod errors;
mod fixture;
mod outputs;
mod pages;
