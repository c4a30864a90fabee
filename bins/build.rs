//! Hands the linker script to the linker, by absolute path so that cargo works from any folder.

use std::env;
use std::path::Path;

fn main() {
    let folder = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&folder)
        .with_file_name("linker")
        .join("tablewalk.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-link-arg-bins=--script={}", script.display());
}
