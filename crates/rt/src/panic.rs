//! The panic handler: a panic is a bug of the program. Prints the place and exits with status 101, as std
//! does.

use core::panic::PanicInfo;

use tablewalk_uapi::process;

use crate::eprintln;
use crate::process::Name;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let name = Name::new();
    match info.location() {
        Some(place) => eprintln!("{name}: panic: {} at {place}", info.message()),
        None => eprintln!("{name}: panic: {}", info.message()),
    }
    process::exit(101)
}
