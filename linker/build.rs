//! Hands the linker script to the linker, by absolute path so that cargo works from any folder. It is that of
//! the closest folder above the package which has one.

use std::env;
use std::path::Path;

fn main() {
    // On a host, for tests, the programs are laid out as others.
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("aarch64") {
        return;
    }
    let folder = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&folder)
        .ancestors()
        .map(|folder| folder.join("linker").join("tablewalk.ld"))
        .find(|script| script.exists());
    let Some(script) = script else {
        eprintln!("no linker/tablewalk.ld above {}", folder.display());
        std::process::exit(1);
    };
    println!("cargo:rerun-if-changed={}", script.display());
    // A linker takes this, and so does a compiler that is to call one.
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
}
