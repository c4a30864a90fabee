//! Swap areas for tests.

use core::ffi::CStr;

use heapless::{String, format};
use tablewalk_rt::println;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_EXCL, O_RDWR, O_WRONLY};
use tablewalk_uapi::system;

/// The RAM disk, for swap.
pub const AREA: &CStr = c"/dev/ram0";
/// The zram disk, for swap that is compressed in memory.
const COMPRESSED: &CStr = c"/dev/zram0";
const COMPRESSED_SIZE: &CStr = c"/sys/block/zram0/disksize";
const COMPRESSED_RESET: &CStr = c"/sys/block/zram0/reset";

/// A swap area that is active as long as this value lives.
#[derive(Debug)]
pub struct Swap(&'static CStr);

impl Swap {
    /// Starts swapping to the RAM disk, of 4 MiB. `None` if the kernel has no such disk or no swap, or the
    /// disk is in use.
    #[must_use]
    pub fn on() -> Option<Self> {
        Self::on_device(AREA, 4 << 20).ok()
    }

    /// Starts swapping to zram, `size` bytes before compression. `None` if the kernel has no zram or no swap,
    /// or it is in use.
    #[must_use]
    pub fn compressed(size: u64) -> Option<Self> {
        let size_of_disk: String<20> = format!("{size}").ok()?;
        let file = file::open(COMPRESSED_SIZE, O_WRONLY).ok()?;
        file::write(&file, size_of_disk.as_bytes()).ok()?;
        let swap = Self::on_device(COMPRESSED, size);
        if swap.is_err() {
            reset();
        }
        swap.ok()
    }

    fn on_device(area: &'static CStr, size: u64) -> Result<Self, Errno> {
        // Layout: `union swap_header` of include/linux/swap.h, with version 1 and the last page number at
        // offset 1024, and the magic string at the end of the first page. O_EXCL fails with EBUSY if the disk
        // is mounted or is a swap area already, so no foreign data is overwritten.
        let fd = file::open(area, O_RDWR | O_EXCL)?;
        let page = 1_u64 << tablewalk_uapi::memory::page_shift()?;
        let last = u32::try_from(size / page - 1).map_err(|_| Errno::EFBIG)?;
        let [version, last] = [1, last].map(u32::to_ne_bytes);
        file::pwrite(&fd, &version, 1024)?;
        file::pwrite(&fd, &last, 1028)?;
        file::pwrite(&fd, b"SWAPSPACE2", page - 10)?;
        drop(fd);
        system::swap_on(area).map(|()| Self(area))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if let Err(errno) = system::swap_off(self.0) {
            println!("# swapoff: {errno}");
        }
        if self.0 == COMPRESSED {
            reset();
        }
    }
}

/// Removes what zram contains, and its size, which can be set only once.
fn reset() {
    let reset = file::open(COMPRESSED_RESET, O_WRONLY);
    if let Err(errno) = reset.and_then(|file| file::write(&file, b"1")) {
        println!("# zram: {errno}");
    }
}
