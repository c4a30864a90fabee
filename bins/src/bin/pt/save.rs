//! `pt save`: writes all tables of a process to a file.

use core::fmt::Write;

use tablewalk_proc::path::PathBuffer;
use tablewalk_rt::counter::ticks;
use tablewalk_rt::{Count, ExitCode, println};
use tablewalk_uapi::file::{self, O_PATH, OwnedFd};
use tablewalk_uapi::{Errno, process};
use tablewalk_walker::dump::DumpWriter;

use crate::Ended;
use crate::error::Error;
use crate::json::Json;
use crate::options::Options;
use crate::report::{self, FileName};
use crate::subject::{Subject, c_path};

#[inline(never)]
pub(crate) fn run(
    subject: &mut Subject,
    name: &'static str,
    options: &Options,
) -> Result<Ended, Error> {
    let error = |errno| Error::File(name, errno);
    let path = c_path(name)?;
    match file::open(&path, O_PATH) {
        Err(Errno::ENOENT) if !name.is_empty() => {}
        found => return Err(error(found.err().unwrap_or(Errno::EEXIST))),
    }
    let maps = subject.maps()?;
    // The dump is written to a temporary file and renamed, so FILE is always complete, and the temporary file
    // of a killed run does not block the next one.
    let too_long = error(Errno::ENAMETOOLONG);
    // It is in the same folder, and its name does not contain that of FILE, which may have 255 bytes.
    let folder = name.rfind('/').and_then(|slash| name.get(..=slash));
    let mut part = PathBuffer::of(folder.unwrap_or_default()).map_err(error)?;
    write!(part, "pt-{}-{:x}.part", process::pid(), ticks()).map_err(|_| too_long)?;
    let fd = file::create(&part, 0o600).map_err(error)?;
    report::begin("save", subject, options);
    let saved = write_all(subject, maps, options, &mut |offset, bytes| {
        put(&fd, offset, bytes).map_err(error)
    });
    let saved = saved.and_then(|saved| {
        file::rename_new(&part, &path).map_err(error)?;
        Ok(saved)
    });
    let saved = saved.inspect_err(|_| {
        // The first error is reported.
        let _ = file::remove(&part);
    })?;
    let Saved {
        tables,
        changed,
        bytes,
    } = saved;
    if options.json {
        Json::new("saved")
            .text("file", name)
            .number("bytes", bytes)
            .number("tables", tables);
    } else {
        println!(
            "{}: {}, {bytes} bytes",
            FileName(name),
            Count(tables, "table", "tables")
        );
    }
    Ok((ExitCode::SUCCESS, changed))
}

/// The numbers of a saved dump.
pub(crate) struct Saved {
    pub(crate) tables: u64,
    /// The number of tables that vanished before they could be read.
    pub(crate) changed: u64,
    pub(crate) bytes: u64,
}

/// A function that writes a piece at its offset.
type Put<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), Error>;

/// Writes the dump in pieces, each with its offset; without the mappings if `text` is empty.
#[inline(never)]
pub(crate) fn write_all(
    subject: &mut Subject,
    text: &[u8],
    options: &Options,
    put: Put<'_>,
) -> Result<Saved, Error> {
    let put = &mut |offset, bytes: &[u8]| put(offset, bytes);
    let mut writer = DumpWriter::new(subject.format, subject.pid());
    let (tables, changed) = writer.tables(&mut options.walk(&mut subject.source), put)?;
    // If the process has ended meanwhile, tables are missing, and the file would not be a valid dump.
    subject.check()?;
    writer.text(text, put)?;
    let bytes = writer.finish(put)?;
    Ok(Saved {
        tables,
        changed,
        bytes,
    })
}

fn put(fd: &OwnedFd, mut offset: u64, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match file::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(Errno::EIO),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
