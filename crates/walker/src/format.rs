//! Everything that is needed to read a tree.

use crate::{Geometry, Linux};

/// The shape of the tables of a kernel, and what their bits mean.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Format {
    /// Granule, address widths, levels.
    pub geometry: Geometry,
    /// The bits that hardware ignores and Linux uses.
    pub linux: Linux,
    /// The value of `MAIR_EL1`: the meaning of each AttrIndx.
    pub mair: u64,
}
