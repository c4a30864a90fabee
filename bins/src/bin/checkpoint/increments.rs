//! The memory of a process in a file: first all of it, then the pages that were written.

use heapless::Vec;
use tablewalk_dirty::{Blocks, DirtyError, Options, Run, Tracker};
use tablewalk_proc::lines::{for_each_line, parse_range};
use tablewalk_proc::path::proc_path;
use tablewalk_rt::memory::leak_zeroed;
use tablewalk_rt::println;
use tablewalk_testkit::error::Error;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, OwnedFd};
use tablewalk_uapi::process::read_memory;
use tablewalk_walker::VirtualAddress;

/// Maximum number of mappings of a process.
const MAPPINGS: usize = 256;
/// What errors of the file name.
pub(crate) const FILE: &str = "the file in /tmp";
/// Number of bytes that are copied at a time.
const CHUNK: usize = 32 << 10;

/// A writable mapping.
#[derive(Clone, Copy)]
struct Area {
    start: u64,
    end: u64,
    /// Whether a missing page has the contents of the mapped file, instead of zeros.
    of_file: bool,
}

/// The header of a record: address and number of pages, and whether their bytes follow or are zeros.
#[derive(Clone, Copy)]
struct Record {
    start: u64,
    size: u64,
    zeros: bool,
}

impl Record {
    const SIZE: usize = 24;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let words = [self.start, self.size, u64::from(self.zeros)];
        let mut bytes = [0; Self::SIZE];
        let (chunks, _) = bytes.as_chunks_mut::<8>();
        for (chunk, word) in chunks.iter_mut().zip(words) {
            *chunk = word.to_ne_bytes();
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let (chunks, _) = bytes.as_chunks::<8>();
        let mut words = chunks.iter().map(|chunk| u64::from_ne_bytes(*chunk));
        let mut next = || words.next().unwrap_or(0);
        Self {
            start: next(),
            size: next(),
            zeros: next() != 0,
        }
    }
}

/// The saved memory of a process.
pub(crate) struct Checkpoint {
    pid: i32,
    file: OwnedFd,
    pub(crate) saved: u64,
}

impl Checkpoint {
    pub(crate) fn create(pid: i32) -> Result<Self, Error> {
        Ok(Self {
            pid,
            file: file::create_unnamed(c"/tmp", 0o600).map_err(Error::call(FILE))?,
            saved: 0,
        })
    }

    /// Returns the mappings of the process that are readable and writable.
    fn areas(&self) -> Result<Vec<Area, MAPPINGS>, Error> {
        let mut areas = Vec::new();
        let path = proc_path(self.pid, "maps").map_err(Error::call("/proc"))?;
        for_each_line(&path, &mut |line| {
            let (start, end) = parse_range(line).ok_or(Errno::EINVAL)?;
            let mut fields = line.split(|&byte| byte == b' ');
            let writable = fields.nth(1).is_some_and(|word| word.starts_with(b"rw"));
            let of_file = fields.nth(2).is_some_and(|inode| inode != b"0");
            let area = Area {
                start,
                end,
                of_file,
            };
            if writable {
                areas.push(area).map_err(|_| Errno::ENOMEM)?;
            }
            Ok(())
        })
        .map_err(Error::call("/proc/PID/maps"))?;
        Ok(areas)
    }

    /// Saves the pages that were written since the last round, or all. Returns the number of bytes.
    pub(crate) fn round(&mut self, all: bool) -> Result<u64, Error> {
        let before = self.saved;
        let options = Options {
            blocks: Blocks::Split,
            absent: true,
            ..Options::WRITTEN
        };
        for area in self.areas()? {
            let range = VirtualAddress(area.start)..VirtualAddress(area.end);
            let tracker = Tracker::new(self.pid, range, options);
            let mut saved = Ok(());
            // A page without a mark is reported as written, so removing the marks makes the tracker report
            // all pages.
            let begun = if all { tracker.stop() } else { Ok(()) };
            let collected = begun.and_then(|()| {
                tracker.collect(|run| {
                    if saved.is_ok() {
                        saved = self.save(&area, &run);
                    }
                })
            });
            match collected {
                // The process has unmapped it, or this kind of mapping cannot be tracked.
                Err(DirtyError::Track {
                    errno: Errno::EINVAL,
                    ..
                }) => {}
                collected => collected?,
            }
            saved?;
        }
        Ok(self.saved - before)
    }

    fn save(&mut self, area: &Area, run: &Run) -> Result<(), Error> {
        let zeros = run.reasons.is_absent() && !area.of_file;
        if zeros {
            return self.append(run.start.0, run.end.0 - run.start.0, None);
        }
        let mut start = run.start.0;
        let mut buffer = [0; CHUNK];
        while start < run.end.0 {
            let size = usize::try_from(run.end.0 - start)
                .unwrap_or(CHUNK)
                .min(CHUNK);
            let bytes = buffer.get_mut(..size).unwrap_or_default();
            match read_memory(self.pid, start, bytes) {
                Ok(read) if read == size => self.append(start, size as u64, Some(bytes))?,
                // The process has unmapped it, so it is in none of the mappings.
                Ok(_) | Err(Errno::EFAULT) => return Ok(()),
                Err(errno) => return Err(Error::Call("process_vm_readv", errno)),
            }
            start += size as u64;
        }
        Ok(())
    }

    fn append(&mut self, start: u64, size: u64, bytes: Option<&[u8]>) -> Result<(), Error> {
        let record = Record {
            start,
            size,
            zeros: bytes.is_none(),
        };
        for part in [&record.to_bytes()[..], bytes.unwrap_or_default()] {
            let written = file::write(&self.file, part).map_err(Error::call(FILE))?;
            if written != part.len() {
                return Err(Error::Call(FILE, Errno::ENOSPC));
            }
            self.saved += written as u64;
        }
        Ok(())
    }

    /// Rebuilds each current mapping from the file, and compares it with the memory of the process.
    pub(crate) fn compare(&self) -> Result<bool, Error> {
        let (mut bytes, mut wrong) = (0, 0);
        for area in self.areas()? {
            let range = VirtualAddress(area.start)..VirtualAddress(area.end);
            if Tracker::new(self.pid, range, Options::WRITTEN)
                .stop()
                .is_err()
            {
                continue;
            }
            let size = usize::try_from(area.end - area.start).unwrap_or(0);
            let image = leak_zeroed(size).map_err(Error::call("mmap"))?;
            rebuild(&self.file, &area, image)?;
            bytes += image.len();
            wrong += self.differences(&area, image)?;
        }
        println!("# {bytes} bytes compared, {wrong} differ");
        Ok(wrong == 0 && bytes > 0)
    }

    fn differences(&self, area: &Area, image: &[u8]) -> Result<usize, Error> {
        let mut buffer = [0; CHUNK];
        let mut wrong = 0;
        let mut address = area.start;
        for part in image.chunks(CHUNK) {
            let bytes = buffer.get_mut(..part.len()).unwrap_or_default();
            let read =
                read_memory(self.pid, address, bytes).map_err(Error::call("process_vm_readv"))?;
            wrong += part.len() - read;
            let differ = part.iter().zip(&*bytes).filter(|(one, other)| one != other);
            let differ = differ.count();
            if differ > 0 && wrong == 0 {
                println!("# {differ} bytes differ from {address:#x} on");
            }
            wrong += differ;
            address += part.len() as u64;
        }
        Ok(wrong)
    }
}

/// Fills `image` with the records of `area`; later records overwrite earlier ones.
fn rebuild(file: &OwnedFd, area: &Area, image: &mut [u8]) -> Result<(), Error> {
    let mut offset = 0;
    let mut header = [0; Record::SIZE];
    loop {
        let read = file::pread(file, &mut header, offset).map_err(Error::call("pread"))?;
        if read != Record::SIZE {
            return Ok(());
        }
        let record = Record::from_bytes(&header);
        offset += Record::SIZE as u64;
        let start = record.start.max(area.start);
        let end = (record.start + record.size).min(area.end);
        if start < end {
            let at = |address: u64| usize::try_from(address - area.start).unwrap_or(0);
            let part = image.get_mut(at(start)..at(end)).unwrap_or_default();
            if record.zeros {
                part.fill(0);
            } else {
                let read = file::pread(file, part, offset + (start - record.start))
                    .map_err(Error::call("pread"))?;
                if read != part.len() {
                    return Err(Error::Call(FILE, Errno::ENODATA));
                }
            }
        }
        offset += if record.zeros { 0 } else { record.size };
    }
}
