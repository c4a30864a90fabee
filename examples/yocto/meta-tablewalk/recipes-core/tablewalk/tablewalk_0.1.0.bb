SUMMARY = "Programs that show, translate and edit live page tables"
DESCRIPTION = "Freestanding programs, and an init that runs them, for a kernel with remap_page_table."
SECTION = "base"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=b87da9177eefd46f265f3efca6c837fc"

inherit cargo cargo-update-recipe-crates externalsrc

EXTERNALSRC = "${TABLEWALK_SOURCE}"

# The crates of Cargo.lock. `bitbake -c update_crates tablewalk` writes the file.
include tablewalk-crates.inc

COMPATIBLE_HOST = "aarch64.*-linux"

# The linker flags of .cargo/config.toml, passed through the compiler; without libc and its start-up code.
RUSTFLAGS:append = " \
    -Crelocation-model=static -Ccode-model=tiny -Cllvm-args=-homogeneous-prolog-epilog \
    -Cllvm-args=-enable-misched=false -Cllvm-args=-enable-post-misched=false -Cllvm-args=-machine-outliner-reruns=3 \
    -Ctarget-feature=+crt-static,-outline-atomics \
    -Clink-arg=-static -Clink-arg=-nostartfiles -Clink-arg=-nostdlib \
    -Clink-arg=-Wl,--gc-sections,-zmax-page-size=65536,--no-dynamic-linker,--build-id=none \
"
CARGO_BUILD_FLAGS:append = " --package tablewalk-bins"

PROGRAMS = "pt walktest uffd"

do_install() {
    install -d ${D}${base_bindir}
    for program in ${PROGRAMS}; do
        install -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/$program ${D}${base_bindir}
    done
    install -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/init ${D}/init
}

PACKAGES =+ "${PN}-init"
FILES:${PN}-init = "/init"
RDEPENDS:${PN}-init = "${PN}"

# The linker strips the programs. It does not set a hash style in a static program.
INSANE_SKIP:${PN} = "already-stripped ldflags"
INSANE_SKIP:${PN}-init = "already-stripped ldflags"
