//! Pictures of page tables: what `pt` has saved or printed becomes one HTML page, and SVG files.
//!
//! [`view::View`] reads and chooses, [`pictures::all`] decides what is seen, [`page::html`] and
//! [`draw::document`] write it down.

pub mod attributes;
pub mod axis;
pub mod difference;
pub mod draw;
pub mod error;
pub mod heat;
pub mod lines;
pub mod output;
pub mod page;
pub mod palette;
pub mod picture;
pub mod pictures;
mod record;
pub mod runs;
pub mod sections;
pub mod snapshot;
pub mod tree;
pub mod view;
