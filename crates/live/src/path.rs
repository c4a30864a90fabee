//! Translates one address without mapping a table.

use tablewalk_uapi::remap;
use tablewalk_walker::{Descriptor, FrameNumber, Geometry, Level, Path, VirtualAddress};

use crate::LiveError;

/// Returns the descriptors that translate `address` in process `pid` (0: the caller), all read at one moment:
/// one system call, or none for an address that the tables cannot translate.
///
/// # Errors
///
/// [`LiveError::Path`].
pub fn path(pid: i32, geometry: &Geometry, address: VirtualAddress) -> Result<Path, LiveError> {
    if !geometry.contains(address) {
        let nothing = [Descriptor::ZERO; Level::ALL.len()];
        return Ok(Path::new(geometry, address, FrameNumber(0), nothing));
    }
    let path = remap::path(pid, address.0).map_err(|errno| LiveError::Path {
        pid,
        address,
        errno,
    })?;
    // The struct has the descriptors of levels 0 to 3.
    let mut descriptors = [Descriptor::ZERO; Level::ALL.len()];
    for (place, &word) in descriptors
        .iter_mut()
        .skip(Level::L0.index())
        .zip(&path.desc)
    {
        *place = Descriptor(word);
    }
    let root = FrameNumber(path.root_pfn);
    Ok(Path::new(geometry, address, root, descriptors))
}
