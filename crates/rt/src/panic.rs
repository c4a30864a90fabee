//! A panic is a defect of the program: it says where and exits with status 101, as std does.

use core::ffi::CStr;
use core::panic::PanicInfo;

use tablewalk_uapi::process;

use crate::eprintln;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let name = process::thread_name();
    let name = CStr::from_bytes_until_nul(&name)
        .ok()
        .and_then(|name| name.to_str().ok());
    let name = name.unwrap_or("?");
    match info.location() {
        Some(place) => eprintln!("{name}: panic: {} at {place}", info.message()),
        None => eprintln!("{name}: panic: {}", info.message()),
    }
    process::exit(101)
}
