//! The memory accesses of a process that is saved.

use core::time::Duration;

use heapless::CString;
use tablewalk_rt::memory::write;
use tablewalk_testkit::random::Random;
use tablewalk_uapi::file::{self, O_RDONLY, OwnedFd};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::{Errno, Mapping, Sharing, time};

/// Writes, discards, moves and swaps out memory of each kind, until it is stopped.
pub(crate) fn subject(swapped: bool, ready: &OwnedFd) -> Result<(), Errno> {
    // Small: a checkpointer that waits long finds all of it written in each round, and keeps every increment.
    const SIZE: usize = 1 << 20;
    // A block of 2 MiB at any alignment.
    const HUGE: usize = 4 << 20;
    let private = |size| Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Private);
    let base = private(SIZE)?;
    base.base_pages_only()?;
    let huge = private(HUGE)?;
    let shared = Mapping::anonymous(SIZE / 4, Protection::READ_WRITE, Sharing::Shared)?;
    let mut moving = private(SIZE / 4)?;
    // Not larger than the file.
    let file = file::open(c"/proc/self/exe", O_RDONLY)?;
    let of_file = Mapping::file(&file, 0, 16 << 10, Protection::READ_WRITE, Sharing::Private)?;
    let _of_long_path = of_long_path()?;
    // Only a part, so that the rest is absent.
    for mapping in [&base, &huge, &shared, &moving] {
        for offset in (0..mapping.size() / 2).step_by(4096) {
            write(mapping, offset, offset as u64);
        }
    }
    file::write(ready, b".")?;
    let mut random = Random::new(1, 0);
    let mut below = move |end: usize| usize::try_from(random.below(end as u64)).unwrap_or(0);
    loop {
        for mapping in [&base, &huge, &shared, &moving, &of_file] {
            for _ in 0..below(8) {
                let value = below(1 << 30) as u64;
                write(mapping, below(mapping.size() / 8) * 8, value);
            }
        }
        let page = 64 << 10;
        let first = below(SIZE / page - 1) * page;
        match below(16) {
            0 => base.advise(first..first + page, Advice::DontNeed)?,
            1 if swapped => base.advise(first..first + page, Advice::PageOut)?,
            2 => {
                let target = private(SIZE / 4)?;
                moving = moving.move_onto(target)?;
            }
            _ => time::sleep(Duration::from_micros(500))?,
        }
    }
}

/// Maps a file whose line in `/proc/PID/maps` is longer than the read buffer.
fn of_long_path() -> Result<Mapping, Errno> {
    const FOLDERS: usize = 5;
    let mut path = CString::<2048>::new();
    let mut lengths = [0; FOLDERS];
    let add = |path: &mut CString<2048>, bytes: &[u8]| {
        let added = path.extend_from_bytes(bytes);
        added.map_err(|_| Errno::ENAMETOOLONG)
    };
    add(&mut path, b"/tmp")?;
    for length in &mut lengths {
        add(&mut path, b"/")?;
        add(&mut path, &[b'x'; 250])?;
        file::make_folder(&path, 0o700)?;
        *length = path.as_bytes().len();
    }
    let mut file = path.clone();
    add(&mut file, b"/file")?;
    file::write(&file::create(&file, 0o600)?, &[1; 4096])?;
    let fd = file::open(&file, O_RDONLY)?;
    let mapping = Mapping::file(&fd, 0, 4096, Protection::READ_WRITE, Sharing::Private)?;
    // The mapping keeps the path.
    file::remove(&file)?;
    for &length in lengths.iter().rev() {
        let mut folder = CString::<2048>::new();
        add(
            &mut folder,
            path.as_bytes().get(..length).unwrap_or_default(),
        )?;
        file::remove_folder(&folder)?;
    }
    Ok(mapping)
}
