//! Finds how programs can reach page tables on this kernel, and loads the module if there is one.

use core::fmt::{self, Write};

use tablewalk_proc::path::PathBuffer;
use tablewalk_rt::println;
use tablewalk_uapi::Errno;
use tablewalk_uapi::bpf::{Instruction, load_raw_tracepoint};
use tablewalk_uapi::file::{self, O_RDONLY};
use tablewalk_uapi::{remap, system};

/// The ways to read page tables. Programs use the first one that works.
pub(crate) enum Source {
    Call,
    /// The kernel lacks the call, and the module is loaded.
    Module,
    /// The kernel has the call, and it fails.
    Refused(Errno),
    Bpf,
    Kcore(Errno),
    /// Neither BPF nor `/proc/kcore` works; their errors.
    None(Errno, Errno),
}

impl Source {
    /// Finds the source of page tables. Makes up to four system calls.
    pub(crate) fn find() -> Self {
        match remap::info() {
            Ok(_) if remap::number().is_some() => return Self::Call,
            Ok(_) => return Self::Module,
            Err(Errno::ENOSYS) => {}
            Err(errno) => return Self::Refused(errno),
        }
        // A program that reads kernel memory: *(u64 *)(r10 - 8) = *(u64 *)0 (include/uapi/linux/bpf.h).
        let program = [
            instruction(0xbf, 0xa1, 0),
            instruction(0x07, 0x01, -8),
            instruction(0xb7, 0x02, 8),
            instruction(0xb7, 0x03, 0),
            // bpf_probe_read_kernel
            instruction(0x85, 0, 113),
            instruction(0xb7, 0, 0),
            instruction(0x95, 0, 0),
        ];
        let Err(bpf) = load_raw_tracepoint(&program, &mut []) else {
            return Self::Bpf;
        };
        match file::open(c"/proc/kcore", O_RDONLY) {
            Ok(_) => Self::Kcore(bpf),
            Err(kcore) => Self::None(bpf, kcore),
        }
    }
}

/// Loads the module if the kernel lacks the call and the initramfs has one: for this release, or for any. Whatever
/// comes of it, programs go on.
pub(crate) fn load_module() {
    const NAME: &str = "remap_page_table.ko";
    if remap::number().is_some() {
        return;
    }
    let uname = system::uname();
    let release = uname
        .as_ref()
        .ok()
        .and_then(|name| name.release().to_str().ok());
    for folder in [release.unwrap_or(""), ""] {
        let mut path = PathBuffer::new();
        if write!(path, "/lib/modules/{folder}/{NAME}").is_err() {
            continue;
        }
        let loaded = match file::open(&path, O_RDONLY) {
            Err(Errno::ENOENT) => continue,
            opened => opened.and_then(|file| system::load_module(&file)),
        };
        return match loaded {
            Ok(()) => println!("# module: {NAME}: loaded"),
            // Vermagic or symbols of another kernel, or no signature where that is enforced.
            Err(errno) => println!("# module: {NAME}: {errno}: not loaded"),
        };
    }
}

const fn instruction(code: u8, registers: u8, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers,
        offset: 0,
        immediate,
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call => f.write_str("remap_page_table, live"),
            Self::Module => f.write_str("/dev/remap_page_table, live (no remap_page_table)"),
            Self::Refused(errno) => write!(f, "none: remap_page_table: {errno}"),
            Self::Bpf => f.write_str("BPF, copies under RCU (no remap_page_table)"),
            Self::Kcore(bpf) => write!(
                f,
                "/proc/kcore, checked copies (no remap_page_table; BPF: {bpf})"
            ),
            Self::None(bpf, kcore) => write!(
                f,
                "none (no remap_page_table; BPF: {bpf}; /proc/kcore: {kcore})"
            ),
        }
    }
}
