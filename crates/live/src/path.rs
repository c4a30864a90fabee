//! Translates one address without mapping a table.

use tablewalk_uapi::remap::{self, ExposePgtblPath};
use tablewalk_walker::{
    Descriptor, FrameNumber, Geometry, Level, Path, Translation, VirtualAddress,
};

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
    let path = read(pid, address)?;
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

/// Returns what `address` translates to in process `pid` (0: the caller): one system call, or none for an address that
/// the tables cannot translate. Costs less than [`path`], as it decodes the last descriptor alone.
///
/// # Errors
///
/// [`LiveError::Path`].
pub fn translate(
    pid: i32,
    geometry: &Geometry,
    address: VirtualAddress,
) -> Result<Translation, LiveError> {
    let fault = Translation::Fault {
        level: geometry.root_level(),
        descriptor: Descriptor::ZERO,
    };
    if !geometry.contains(address) {
        return Ok(fault);
    }
    let path = read(pid, address)?;
    let last = i8::try_from(path.last_level).ok().map(Level::try_from);
    let word = path.desc.get(path.last_level as usize);
    Ok(match (last, word) {
        (Some(Ok(level)), Some(&word)) => {
            Translation::of(geometry, address, level, Descriptor(word))
        }
        // No kernel says so.
        _ => fault,
    })
}

fn read(pid: i32, address: VirtualAddress) -> Result<ExposePgtblPath, LiveError> {
    remap::path(pid, address.0).map_err(|errno| LiveError::Path {
        pid,
        address,
        errno,
    })
}
