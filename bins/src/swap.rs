//! A place for pages that leave memory.

use core::ffi::CStr;

use tablewalk_rt::println;
use tablewalk_uapi::file::{self, O_RDWR};
use tablewalk_uapi::system;

/// Where swapped-out pages go.
pub const AREA: &CStr = c"/dev/ram0";

/// A swap area on the RAM disk, as long as this lives.
#[derive(Debug)]
pub struct Swap(());

impl Swap {
    /// `None` without such a disk, or without swap.
    #[must_use]
    pub fn on() -> Option<Self> {
        // `union swap_header` of include/linux/swap.h: version 1 and the last page at 1024, the magic
        // word at the end of the first page.
        let fd = file::open(AREA, O_RDWR).ok()?;
        let info = tablewalk_uapi::remap::info().ok()?;
        let page = 1_u64 << info.page_shift;
        let last = u32::try_from((4 << 20) / page - 1).ok()?;
        let [version, last] = [1, last].map(u32::to_ne_bytes);
        file::pwrite(&fd, &version, 1024).ok()?;
        file::pwrite(&fd, &last, 1028).ok()?;
        file::pwrite(&fd, b"SWAPSPACE2", page - 10).ok()?;
        system::swap_on(AREA).ok().map(|()| Self(()))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if let Err(errno) = system::swap_off(AREA) {
            println!("# swapoff: {errno}");
        }
    }
}
