//! The format of the kernel's tables.

use tablewalk_proc::auxv;
use tablewalk_uapi::remap::{self, EXPOSE_PGTBL_NO_BIT, ExposePgtblInfo};
use tablewalk_walker::{Format, Geometry, GeometryError, Linux, SwapLayout};

use crate::LiveError;

/// Gets the shape of the tables and the meaning of their bits from the kernel: one system call.
///
/// # Errors
///
/// [`LiveError::Info`], [`LiveError::Geometry`].
pub fn format() -> Result<Format, LiveError> {
    full_format_of(&remap::info().map_err(LiveError::Info)?)
}

/// The same, from `info`.
pub(crate) fn full_format_of(info: &ExposePgtblInfo) -> Result<Format, LiveError> {
    let mut format = format_of(info).map_err(LiveError::Geometry)?;
    add_extensions(&mut format.linux);
    Ok(format)
}

/// Returns the format in `info`: without what the CPU adds, which the kernel reports to each process.
///
/// # Errors
///
/// Those of [`Geometry::new`].
pub const fn format_of(info: &ExposePgtblInfo) -> Result<Format, GeometryError> {
    let geometry = match Geometry::new(info.page_shift, info.va_bits, info.oa_bits) {
        Ok(geometry) => geometry,
        Err(error) => return Err(error),
    };
    let linux = Linux {
        write: bit(info.bit_write),
        dirty: bit(info.bit_dirty),
        special: bit(info.bit_special),
        devmap: bit(info.bit_devmap),
        prot_none: bit(info.bit_prot_none),
        present_invalid: bit(info.bit_present_invalid),
        swap_exclusive: bit(info.bit_swp_exclusive),
        uffd_wp: bit(info.bit_uffd_wp),
        swap: SwapLayout {
            type_shift: info.swp_type_shift,
            type_bits: info.swp_type_bits,
            offset_shift: info.swp_offset_shift,
            offset_bits: info.swp_offset_bits,
            hardware_poison: kind(info.swp_hwpoison),
            migration: kind(info.swp_migration),
            device: kind(info.swp_device),
            marker: kind(info.swp_marker),
            unknown_types: 0,
        },
        overlay: 0,
        gcs: false,
    };
    Ok(Format {
        geometry,
        linux,
        mair: info.mair,
    })
}

/// Returns the mask of bit `number`; 0 for [`EXPOSE_PGTBL_NO_BIT`].
const fn bit(number: u8) -> u64 {
    match 1_u64.checked_shl(number as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

const fn kind(number: u8) -> Option<u8> {
    match number {
        EXPOSE_PGTBL_NO_BIT => None,
        kind => Some(kind),
    }
}

/// Returns the bits that hardware ignores and this kernel uses, by its version: for kernels that do not
/// report them.
pub(crate) fn linux_of_this_kernel() -> Linux {
    let release = tablewalk_uapi::system::uname();
    let text = release.as_ref().map(|name| name.release().to_bytes());
    let (major, minor) = version(text.unwrap_or_default());
    let mut linux = Linux::of_version(major, minor);
    add_extensions(&mut linux);
    linux
}

/// Adds the extensions of the architecture that this kernel uses on this CPU. It reports them in the auxiliary
/// vector (`arch/arm64/include/uapi/asm/hwcap.h`).
fn add_extensions(linux: &mut Linux) {
    const HWCAP_GCS: u64 = 1 << 32;
    const HWCAP2_POE: u64 = 1 << 63;
    // `PTE_PO_IDX_MASK`, `arch/arm64/include/asm/pgtable-hwdef.h`.
    const PTE_PO_IDX: u64 = 0b111 << 60;
    let has = |key, bit| auxv::value(key).is_ok_and(|capabilities| capabilities & bit != 0);
    linux.gcs = has(auxv::AT_HWCAP, HWCAP_GCS);
    linux.overlay = if has(auxv::AT_HWCAP2, HWCAP2_POE) {
        PTE_PO_IDX
    } else {
        0
    };
}

/// Returns the first two numbers of a release such as `6.1.0-56-arm64`; 0 for a missing one.
fn version(release: &[u8]) -> (u32, u32) {
    let mut numbers = release.split(|byte| !byte.is_ascii_digit()).map(|digits| {
        digits.iter().fold(0_u32, |number, digit| {
            number
                .wrapping_mul(10)
                .wrapping_add(u32::from(digit - b'0'))
        })
    });
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn a_release_begins_with_two_numbers() {
        assert_eq!(version(b"6.1.0-56-arm64"), (6, 1));
        assert_eq!(version(b"6.12.117+deb12-rt-arm64"), (6, 12));
        assert_eq!(version(b"7.3-rc1"), (7, 3));
        assert_eq!(version(b"7"), (7, 0));
        assert_eq!(version(b""), (0, 0));
    }
}
