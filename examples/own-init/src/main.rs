//! An init of one's own: makes a process, prints the tree of its page tables, holds each page against what
//! the kernel says of it, and powers off. docs/boards.md says how to build and boot it.

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

/// One slot for each level: what a walk needs.
const SLOTS: usize = 4;

/// What can go wrong.
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
    // What was printed has left the machine before the power goes.
    let _ = terminal::drain(BorrowedFd::STDOUT);
    let _ = system::reboot(Reboot::PowerOff);
    // If process 1 ended, the kernel would panic.
    loop {
        signal::pause();
    }
}

/// Makes a process that stays as it is until it is killed, and looks at its tables.
fn show() -> Result<ExitCode, Error> {
    // It may be mounted, or the folder be missing: then opening pagemap says so.
    let flags = MS_NODEV | MS_NOEXEC | MS_NOSUID;
    let _ = system::mount(c"proc", c"/proc", c"proc", flags);
    let (reader, writer) = file::pipe().map_err(|errno| Error::Call("pipe", errno))?;
    // SAFETY: the child has a copy of memory, pipes, and what it makes itself.
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

/// Prints the tree of process `pid`: two columns for each level.
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

/// The pages of a leaf whose frame is another in pagemap (`Documentation/admin-guide/mm/pagemap.rst`): eight
/// bytes each, bits 54:0 of which are the frame.
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
