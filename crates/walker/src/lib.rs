//! Walks, translates and caches the stage 1 page tables of arm64 Linux (VMSAv8-64), seen from user
//! space.
//!
//! The walker makes no system calls and follows no address that it finds in a table. A [`TableSource`] makes
//! one table at a time readable in one of its slots: on a live system a slot is a page that
//! `remap_page_table(2)` replaces by the table; [`dump::Dump`] is a saved tree; tests use their own memory.
//! These types and functions use a source:
//!
//! - [`Walk`] visits every table and every entry of a tree, or of one table and what is below it;
//! - [`Runs`] joins the entries of a walk that belong together;
//! - [`translate()`] translates one address, [`path()`] returns the descriptors on the way;
//! - [`entry`] and [`entry_mut`] return the level-3 entry of one address;
//! - [`Cache`] keeps tables mapped, and translates with two loads as long as they are current.
//!
//! Every granule, address width and number of levels is data, in [`Geometry`].
//!
//! The tables belong to the kernel and may change at any time. A result was true at some moment during the
//! call, and may be stale when it is returned.
//!
//! # Examples
//!
//! Prints memory that is both writable and executable, from a file that `pt save` wrote:
//!
//! ```no_run
//! use tablewalk_walker::dump::Dump;
//! use tablewalk_walker::{Permissions, TableSource, Visit, Walk};
//!
//! let mut bytes = std::fs::read("process.pt")?;
//! let mut dump = Dump::from_bytes(&mut bytes)?;
//! let geometry = dump.geometry();
//! for visit in Walk::new(&mut dump) {
//!     match visit? {
//!         Visit::Leaf(leaf) => {
//!             let permissions = Permissions::new(leaf.descriptor, leaf.limits);
//!             if permissions.el0.write && permissions.el0.execute {
//!                 println!("{}, {} pages", leaf.address, leaf.pages(&geometry));
//!             }
//!         }
//!         Visit::Changed(table) => println!("gone meanwhile: {table:?}"),
//!         Visit::Table(_) | Visit::NotValid(_) => {}
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Versions
//!
//! Semantic versioning; what changes is in `CHANGELOG.md`. Needs Rust 1.88 or later, and no later one
//! within a minor version.

#![no_std]

mod address;
mod attributes;
mod barrier;
mod cache;
mod descriptor;
pub mod dump;
mod format;
mod geometry;
mod level;
mod linux;
mod rules;
mod runs;
mod source;
mod table;
mod translate;
mod walk;

pub use address::{FrameNumber, PhysicalAddress, VirtualAddress};
pub use attributes::{Access, Limits, MemoryType, Permissions, Shareability};
pub use cache::{Cache, CacheError};
pub use descriptor::{Descriptor, Kind};
pub use format::Format;
pub use geometry::{Geometry, GeometryError};
pub use level::{InvalidLevel, Level};
pub use linux::{Absent, Linux, SwapLayout};
pub use rules::Merge;
pub use runs::{Run, Runs};
pub use source::{Batched, LiveSource, Moves, TableId, TableSource, TableSourceMut};
pub use table::{Entry, EntryMut, FlushOwed, PublishOwed, Table, TableMut};
pub use translate::{Path, Step, Translation, entry, entry_mut, path, translate};
pub use walk::{Found, TableVisit, Visit, Walk, WalkError};

#[cfg(test)]
mod tests {
    use static_assertions::assert_impl_all;

    use super::*;

    // A cache can move to another thread with its source, and many threads can look addresses up.
    assert_impl_all!(Cache<dump::Dump<'static>, 16, 4>: Send, Sync);
    assert_impl_all!(Table<'static>: Send, Sync);
    assert_impl_all!(Entry<'static>: Send, Sync);
    assert_impl_all!(TableMut<'static>: Send, Sync);
    assert_impl_all!(EntryMut<'static>: Send, Sync);
    assert_impl_all!(FlushOwed: Send, Sync);
    assert_impl_all!(PublishOwed: Send, Sync);
}
