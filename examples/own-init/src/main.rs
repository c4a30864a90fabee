//! An example of an init: creates a process, prints the tree of its page tables, compares each page with
//! pagemap, and powers off. docs/boards.md says how to build and boot it.

#![expect(unsafe_code, reason = "forks")]
#![no_std]
#![cfg_attr(not(test), no_main)]

use core::fmt;

use tablewalk_live::{Live, LiveError};
use tablewalk_rt::process::Fork;
use tablewalk_rt::{Args, ExitCode, println};
use tablewalk_uapi::file::BorrowedFd;
use tablewalk_uapi::file::{self, O_RDONLY, OwnedFd};
use tablewalk_uapi::system::{self, MS_NODEV, MS_NOEXEC, MS_NOSUID, Reboot};
use tablewalk_uapi::{Errno, process, signal, terminal};
use tablewalk_walker::{Found, Geometry, TableSource, Visit, Walk};

tablewalk_rt::program!(main);

/// Slots for mapped tables. A walk needs one for each level.
const SLOTS: usize = 4;

/// Why the tables could not be shown.
enum Error {
    Call(&'static str, Errno),
    Tables(LiveError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(what, errno) => write!(f, "{what}: {errno}"),
            Self::Tables(error) => error.fmt(f),
        }
    }
}

fn main(_: Args) -> ExitCode {
    let status = show().unwrap_or_else(|error| {
        println!("own-init: {error}");
        ExitCode::FAILURE
    });
    if process::pid() != 1 {
        return status;
    }
    // Wait until all output has left the machine.
    let _ = terminal::drain(BorrowedFd::STDOUT);
    let _ = system::reboot(Reboot::PowerOff);
    // If process 1 ended, the kernel would panic.
    loop {
        signal::pause();
    }
}

/// Creates a process that waits until it is killed, and shows its tables.
fn show() -> Result<ExitCode, Error> {
    // It may be mounted already. If the folder is missing, opening pagemap fails.
    let flags = MS_NODEV | MS_NOEXEC | MS_NOSUID;
    let _ = system::mount(c"proc", c"/proc", c"proc", flags);
    let (reader, writer) = file::pipe().map_err(|errno| Error::Call("pipe", errno))?;
    // SAFETY: the child uses only its copy of memory, the pipes, and objects that it creates itself.
    let child = unsafe { Fork::promised() }
        .spawn(|| {
            if file::write(&writer, b".").is_ok() {
                signal::pause();
            }
            ExitCode::FAILURE
        })
        .map_err(|errno| Error::Call("fork", errno))?;
    file::read(&reader, &mut [0]).map_err(|errno| Error::Call("pipe", errno))?;
    walk(child.pid())
}

/// Prints the tree of process `pid`, indented by two columns for each level.
fn walk(pid: i32) -> Result<ExitCode, Error> {
    let mut live = Live::new(pid, SLOTS).map_err(Error::Tables)?;
    let geometry = live.geometry();
    let pagemap = open_pagemap(pid).map_err(|errno| Error::Call("pagemap", errno))?;
    let (mut pages, mut differences) = (0_u64, 0_u64);
    for visit in Walk::new(&mut live) {
        match visit.map_err(Error::Tables)? {
            Visit::Table(table) => {
                let depth = geometry.depth(table.level);
                let columns = 2 * depth;
                let name = geometry.level_name(table.level);
                println!(
                    "{:columns$}{name} {} frame {}",
                    "", table.address, table.frame
                );
            }
            Visit::Leaf(leaf) => {
                println!("        {} frame {}", leaf.address, leaf.frame(&geometry));
                pages += leaf.pages(&geometry);
                differences += compare(&geometry, &pagemap, &leaf)
                    .map_err(|errno| Error::Call("pagemap", errno))?;
            }
            Visit::NotValid(_) => {}
            Visit::Changed(_) => differences += 1,
        }
    }
    println!("own-init: {pages} pages, {differences} differ from pagemap");
    Ok(if pages > 0 && differences == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn open_pagemap(pid: i32) -> Result<OwnedFd, Errno> {
    let mut path = heapless::CString::<32>::new();
    let text = heapless::format!(32; "/proc/{pid}/pagemap").map_err(|_| Errno::ENAMETOOLONG)?;
    path.extend_from_bytes(text.as_bytes())
        .map_err(|_| Errno::ENAMETOOLONG)?;
    file::open(&path, O_RDONLY)
}

/// Returns how many pages of a leaf have another frame in pagemap. pagemap has eight bytes for each page; bits
/// 54:0 are the frame (`Documentation/admin-guide/mm/pagemap.rst`).
fn compare(geometry: &Geometry, pagemap: &OwnedFd, leaf: &Found) -> Result<u64, Errno> {
    let first = leaf.address.0 >> geometry.page_shift();
    let mut differences = 0;
    for page in 0..leaf.pages(geometry) {
        let mut entry = [0; 8];
        file::pread(pagemap, &mut entry, (first + page) * 8)?;
        let frame = u64::from_le_bytes(entry) & ((1 << 55) - 1);
        differences += u64::from(frame != leaf.frame(geometry).0 + page);
    }
    Ok(differences)
}
