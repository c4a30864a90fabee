//! VMCOREINFO, which a kernel provides for crash dumps: `Documentation/admin-guide/kdump/vmcoreinfo.rst`.

use tablewalk_proc::lines::parse_number;

use super::{CopyError, Kernel};

/// Maximum number of bytes that are read.
const TEXT: usize = 4096;

/// Returns the physical address of the kernel's own root table, `swapper_pg_dir`.
///
/// # Errors
///
/// [`CopyError::Format`] if it is missing, and errors of reading.
pub(super) fn kernel_root<K: Kernel>(kernel: &mut K, offset: u64) -> Result<u64, CopyError> {
    let mut text = [0; TEXT];
    let size = kernel.vmcoreinfo(offset, &mut text)?;
    let text = text.get(..size).unwrap_or_default();
    let symbol = number_of(text, b"SYMBOL(swapper_pg_dir)=");
    // Addresses of the kernel's image minus physical ones.
    let image = number_of(text, b"NUMBER(kimage_voffset)=");
    match (symbol, image) {
        (Some(symbol), Some(image)) => Ok(symbol.wrapping_sub(image)),
        _ => Err(CopyError::Format {
            what: "VMCOREINFO",
            problem: "no swapper_pg_dir and kimage_voffset",
        }),
    }
}

/// Returns the hexadecimal number after `key`, at the beginning of a line.
fn number_of(text: &[u8], key: &[u8]) -> Option<u64> {
    let value = text
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(key))?;
    hexadecimal(value)
}

/// Parses all of `text` as a hexadecimal number, with or without `0x`.
pub(super) fn hexadecimal(text: &[u8]) -> Option<u64> {
    match text.strip_prefix(b"0x").unwrap_or(text) {
        [] => None,
        digits => parse_number(digits, 16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_by_its_key() {
        let text = b"OSRELEASE=6.1.0\nSYMBOL(swapper_pg_dir)=ffffbd0c3f2a8000\nNUMBER(kimage_voffset)=0xffffbd0bfe000000\n";
        assert_eq!(
            number_of(text, b"SYMBOL(swapper_pg_dir)="),
            Some(0xffff_bd0c_3f2a_8000)
        );
        assert_eq!(
            number_of(text, b"NUMBER(kimage_voffset)="),
            Some(0xffff_bd0b_fe00_0000)
        );
        assert_eq!(number_of(text, b"SYMBOL(init_mm)="), None);
        assert_eq!(number_of(b"SYMBOL(a)=xyz", b"SYMBOL(a)="), None);
        assert_eq!(number_of(b"SYMBOL(a)=", b"SYMBOL(a)="), None);
        assert_eq!(hexadecimal(b"10000000000000000"), None);
    }
}
