//! The auxiliary vector that the kernel gave this process at its start, as getauxval(3) reads it.

use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_RDONLY};

pub use tablewalk_uapi::raw::auxv::{AT_HWCAP, AT_HWCAP2, AT_PAGESZ, AT_SYSINFO_EHDR};

/// Returns the value of `key`, one of the `AT_` constants of `linux/auxvec.h`. Makes two system calls.
///
/// # Errors
///
/// As open(2) and read(2) of `/proc/self/auxv`; `ENODATA` if the key is missing.
pub fn value(key: u32) -> Result<u64, Errno> {
    let auxv = file::open(c"/proc/self/auxv", O_RDONLY)?;
    let mut bytes = [0; 512];
    let length = file::read(&auxv, &mut bytes)?;
    let (words, _) = bytes.get(..length).unwrap_or_default().as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    let found = pairs
        .iter()
        .map(|pair| pair.map(u64::from_ne_bytes))
        .find(|[kind, _]| *kind == key.into());
    found.map(|[_, value]| value).ok_or(Errno::ENODATA)
}
