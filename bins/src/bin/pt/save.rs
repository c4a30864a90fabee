//! `pt save`: all tables of a process, in a file.

use tablewalk_rt::{ExitCode, println};
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, OwnedFd};
use tablewalk_walker::dump::DumpWriter;

use crate::Ended;
use crate::error::Error;
use crate::json::Json;
use crate::options::Options;
use crate::subject::{Subject, c_path};

#[inline(never)]
pub(crate) fn run(
    subject: &mut Subject,
    name: &'static str,
    options: &Options,
) -> Result<Ended, Error> {
    let path = c_path(name)?;
    let fd = file::create(&path, 0o600).map_err(|errno| Error::File(name, errno))?;
    let maps = subject.maps()?;
    let saved = write_all(subject, maps, options, &mut |offset, bytes| {
        put(&fd, offset, bytes).map_err(|errno| Error::File(name, errno))
    });
    let saved = match saved {
        Ok(saved) => saved,
        Err(error) => {
            // It was not there before, and half a dump is none. The first error is the one to tell.
            let _ = file::remove(&path);
            return Err(error);
        }
    };
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
        println!("{name}: {tables} tables, {bytes} bytes");
    }
    Ok((ExitCode::SUCCESS, changed))
}

/// What was written.
pub(crate) struct Saved {
    pub(crate) tables: u64,
    /// Tables that were gone when they were to be read.
    pub(crate) changed: u64,
    pub(crate) bytes: u64,
}

/// Writes the dump in pieces, each with its offset; without the mappings if `text` is empty.
pub(crate) fn write_all(
    subject: &mut Subject,
    text: &[u8],
    options: &Options,
    put: &mut impl FnMut(u64, &[u8]) -> Result<(), Error>,
) -> Result<Saved, Error> {
    let mut writer = DumpWriter::new(subject.format, subject.pid());
    let (tables, changed) = writer.tables(&mut options.walk(&mut subject.source), put)?;
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
