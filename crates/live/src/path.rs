//! Translates one address without mapping a table.

use tablewalk_uapi::remap;
use tablewalk_uapi::remap_device::ExposePgtblPath5;
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
    let read = read(pid, address)?;
    let root = FrameNumber(read.path.root_pfn);
    Ok(Path::new(geometry, address, root, descriptors(&read)))
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
    let read = read(pid, address)?;
    let last = i8::try_from(read.path.last_level.cast_signed()).map(Level::try_from);
    let Ok(Ok(level)) = last else {
        // No kernel says so.
        return Ok(fault);
    };
    let descriptor = descriptors(&read).get(level.index()).copied();
    Ok(descriptor.map_or(fault, |last| {
        Translation::of(geometry, address, level, last)
    }))
}

/// Returns the descriptors of all levels, from level -1 on.
fn descriptors(read: &ExposePgtblPath5) -> [Descriptor; Level::ALL.len()] {
    let [zero, one, two, three] = read.path.desc;
    [read.desc_root, zero, one, two, three].map(Descriptor)
}

fn read(pid: i32, address: VirtualAddress) -> Result<ExposePgtblPath5, LiveError> {
    remap::path5(pid, address.0).map_err(|errno| LiveError::Path {
        pid,
        address,
        errno,
    })
}
