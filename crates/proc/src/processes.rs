//! The list of processes.

use core::ops::ControlFlow;

use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_RDONLY};

use crate::lines::parse_number;

/// Bytes of the folder to read at a time.
const CHUNK: usize = 1024;

/// Calls `visit` with the PID of each process in `/proc`, until it breaks. May miss processes that start
/// meanwhile.
///
/// # Errors
///
/// As open(2) and getdents(2) of `/proc`.
pub fn for_each_process(visit: &mut dyn FnMut(i32) -> ControlFlow<()>) -> Result<(), Errno> {
    let folder = file::open(c"/proc", O_RDONLY)?;
    let mut buffer = [0; CHUNK];
    loop {
        let read = file::read_folder(&folder, &mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        let mut rest = buffer.get(..read).unwrap_or_default();
        // struct linux_dirent64: two words, the size of the entry, the type, the name.
        while let [
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            low,
            high,
            _,
            name @ ..,
        ] = rest
        {
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            let pid = parse_number(name, 10).and_then(|number| i32::try_from(number).ok());
            if pid.is_some_and(|pid| visit(pid).is_break()) {
                return Ok(());
            }
            let size = usize::from(u16::from_le_bytes([*low, *high]));
            rest = rest.get(size.max(1)..).unwrap_or_default();
        }
    }
}
