//! Reads kernel memory through `/proc/kcore`.
//!
//! An ELF core file (`fs/proc/kcore.c`): each PT_LOAD segment is a part of the kernel's address space, with
//! the physical address behind it where there is one. Frames are read through the linear map, never through
//! the segment of the kernel's text, which shows freed memory as zeros. An aligned word is read with one
//! load. Memory that is offline, poisoned or not mapped reads as zeros, without an error.

#![expect(unsafe_code, reason = "memory that read(2) writes")]

use core::mem::offset_of;
use core::sync::atomic::AtomicU64;

use heapless::Vec;
use tablewalk_uapi::file::{self, O_RDONLY, OwnedFd};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::raw::elf::{NT_TASKSTRUCT, PT_LOAD, PT_NOTE, elf64_hdr, elf64_phdr};
use tablewalk_uapi::{Errno, Mapping};

use super::error::KCORE;
use super::program::MOST;
use super::{CopyError, IGNORED, Kernel, Link, OFFSETS, Wanted};

/// Maximum number of segments: one for each range of memory, and a few of the kernel itself.
const SEGMENTS: usize = 512;
/// Number of pages with copies for a walk, one for each level.
const SLOTS: usize = 5;
/// Maximum number of tables for one [`Kernel::copy`].
const BATCH: usize = 16;

const HEADER: usize = size_of::<elf64_hdr>();
const PROGRAM_HEADER: usize = size_of::<elf64_phdr>();

/// A part of the kernel's address space.
#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    address: u64,
    physical: u64,
    size: u64,
}

/// A file that is read at an offset.
pub trait ReadAt {
    /// Reads up to `bytes.len()` bytes. Returns how many.
    ///
    /// # Errors
    ///
    /// As pread(2).
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, Errno>;
}

impl ReadAt for OwnedFd {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, Errno> {
        file::pread(self, bytes, offset)
    }
}

/// `/proc/kcore`, open.
///
/// # Invariants
///
/// The mapping has `pages` pages, to which only [`Kernel::copy`] writes.
#[derive(Debug)]
pub struct Kcore<F = OwnedFd> {
    file: F,
    segments: Vec<Segment, SEGMENTS>,
    notes: Option<Segment>,
    memory: Mapping,
    page_shift: u32,
    pages: usize,
    copied: u64,
}

impl Kcore {
    /// Opens the file and reads its headers.
    ///
    /// # Errors
    ///
    /// [`CopyError::Open`]: `EPERM` without `CAP_SYS_RAWIO`, or if the kernel is locked down for
    /// confidentiality; `ENOENT` in a kernel without `CONFIG_PROC_KCORE`. [`CopyError::Format`].
    pub fn new(page_shift: u32) -> Result<Self, CopyError> {
        let open = |errno| CopyError::Open { what: KCORE, errno };
        let file = file::open(c"/proc/kcore", O_RDONLY).map_err(open)?;
        Self::of_file(file, page_shift)
    }
}

impl<F: ReadAt> Kcore<F> {
    /// Reads the headers of a file.
    pub(super) fn of_file(file: F, page_shift: u32) -> Result<Self, CopyError> {
        let open = |errno| CopyError::Open { what: KCORE, errno };
        let pages = SLOTS + BATCH;
        let memory = Mapping::reserve(pages << page_shift, Protection::READ_WRITE).map_err(open)?;
        let mut kcore = Self {
            file,
            segments: Vec::new(),
            notes: None,
            memory,
            page_shift,
            pages,
            copied: 0,
        };
        kcore.read_headers()?;
        Ok(kcore)
    }

    #[cfg(test)]
    pub(super) const fn file(&self) -> &F {
        &self.file
    }

    fn read_headers(&mut self) -> Result<(), CopyError> {
        let problem = |problem| CopyError::Format {
            what: KCORE,
            problem,
        };
        let mut header = [0; HEADER];
        if !self.read_bytes(0, &mut header)? || !header.starts_with(b"\x7fELF\x02\x01") {
            return Err(problem("no 64-bit ELF file"));
        }
        let (start, count) = (
            long(&header, offset_of!(elf64_hdr, e_phoff)),
            short(&header, offset_of!(elf64_hdr, e_phnum)),
        );
        if usize::from(short(&header, offset_of!(elf64_hdr, e_phentsize))) != PROGRAM_HEADER {
            return Err(problem("program headers of another size"));
        }
        for number in 0..u64::from(count) {
            let mut header = [0; PROGRAM_HEADER];
            if !self.read_bytes(start + number * PROGRAM_HEADER as u64, &mut header)? {
                return Err(problem("fewer program headers than it says"));
            }
            let segment = Segment {
                offset: long(&header, offset_of!(elf64_phdr, p_offset)),
                address: long(&header, offset_of!(elf64_phdr, p_vaddr)),
                physical: long(&header, offset_of!(elf64_phdr, p_paddr)),
                size: long(&header, offset_of!(elf64_phdr, p_filesz)),
            };
            match word(&header, offset_of!(elf64_phdr, p_type)) {
                PT_NOTE => self.notes = Some(segment),
                PT_LOAD if self.segments.push(segment).is_err() => {
                    return Err(problem("more than 512 segments"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the file offset of the bytes from `address` on, and how many there are. The segment of the
    /// kernel's text is first and has separate addresses; if segments overlapped, later ones would win.
    fn find(&self, address: u64) -> Option<(u64, u64)> {
        let segment = self
            .segments
            .iter()
            .rev()
            .find(|segment| address.wrapping_sub(segment.address) < segment.size)?;
        let distance = address - segment.address;
        Some((segment.offset + distance, segment.size - distance))
    }

    /// Reads bytes. Returns whether all were present.
    fn read_bytes(&self, offset: u64, bytes: &mut [u8]) -> Result<bool, CopyError> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = bytes.get_mut(done..).unwrap_or_default();
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) | Err(Errno::EFAULT) => return Ok(false),
                Ok(read) => done += read,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(CopyError::Open { what: KCORE, errno }),
            }
        }
        Ok(true)
    }

    /// The same for words.
    fn read_words(&self, mut offset: u64, words: &mut [u64]) -> Result<bool, CopyError> {
        let mut bytes = [[0; 8]; 64];
        for part in words.chunks_mut(bytes.len()) {
            let bytes = bytes.get_mut(..part.len()).unwrap_or_default();
            if !self.read_bytes(offset, bytes.as_flattened_mut())? {
                return Ok(false);
            }
            for (word, bytes) in part.iter_mut().zip(&*bytes) {
                *word = u64::from_le_bytes(*bytes);
            }
            offset += 8 * part.len() as u64;
        }
        Ok(true)
    }

    /// Returns file offset and size of the contents of the note of this kind; `name` is the length of its
    /// name.
    fn note(&self, kind: u32, name: usize) -> Result<(u64, usize), CopyError> {
        let problem = |problem| CopyError::Format {
            what: KCORE,
            problem,
        };
        let notes = self.notes.ok_or(problem("no notes"))?;
        let (mut at, end) = (notes.offset, notes.offset + notes.size);
        while at + 12 <= end {
            let mut header = [0; 12];
            if !self.read_bytes(at, &mut header)? {
                break;
            }
            let [name_size, size, found] = [0, 4, 8].map(|at| word(&header, at));
            if name_size == 0 {
                break;
            }
            let padded = |size: u32| u64::from(size).next_multiple_of(4);
            let contents = at + 12 + padded(name_size);
            if found == kind && name_size as usize == name {
                return Ok((contents, size as usize));
            }
            at = contents + padded(size);
        }
        Err(problem("lacks a note"))
    }

    fn holds(&mut self, link: Link) -> Result<bool, CopyError> {
        let mut word = [0];
        let there = self.read(link.entry, &mut word)?;
        Ok(there && (word[0] ^ link.descriptor) & !IGNORED == 0)
    }

    /// Copies the requested memory to page `page`. Returns whether there was memory.
    fn copy_page(&mut self, wanted: Wanted, page: usize) -> Result<bool, CopyError> {
        let size = usize::try_from(wanted.bytes).unwrap_or(usize::MAX);
        let Some((offset, left)) = self.find(wanted.address) else {
            return Ok(false);
        };
        if page >= self.pages || size > 1 << self.page_shift || left < wanted.bytes {
            return Ok(false);
        }
        let start = self.memory.as_ptr().wrapping_add(page << self.page_shift);
        // SAFETY: in a page of the mapping; views of it borrow this value, which is borrowed exclusively.
        let bytes = unsafe { core::slice::from_raw_parts_mut(start, size) };
        self.read_bytes(offset, bytes)
    }

    /// Copies table `number` to page `page`. Returns whether its link was the same before and after.
    fn copy_table(&mut self, wanted: Wanted, page: usize) -> Result<bool, CopyError> {
        if let Some(link) = wanted.link
            && !self.holds(link)?
        {
            return Ok(false);
        }
        if !self.copy_page(wanted, page)? {
            return Ok(false);
        }
        wanted.link.map_or(Ok(true), |link| self.holds(link))
    }
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u64::from_le_bytes(*field))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

fn short(bytes: &[u8], at: usize) -> u16 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u16::from_le_bytes(*field))
}

// SAFETY: the words are in the mapping, which is not moved.
unsafe impl<F: ReadAt> Kernel for Kcore<F> {
    fn own_task(&mut self, words: &mut [u64]) -> Result<usize, CopyError> {
        // The `task_struct` of the thread that opened the file. Its name is CORE; others are of a kind of the
        // same number too.
        let (at, size) = self.note(NT_TASKSTRUCT, 5)?;
        let count = words.len().min(size / 8);
        let words = words.get_mut(..count).unwrap_or_default();
        let read = self.read_words(at, words)?;
        Ok(if read { count } else { 0 })
    }

    fn vmcoreinfo(&mut self, _: u64, text: &mut [u8]) -> Result<usize, CopyError> {
        let (at, size) = self.note(0, "VMCOREINFO\0".len())?;
        let text = text.get_mut(..size.min(text.len())).unwrap_or_default();
        let read = self.read_bytes(at, text)?;
        Ok(if read { text.len() } else { 0 })
    }

    /// The differences in segments with physical addresses: the linear map before the kernel's text.
    fn offsets(&mut self, _: u32) -> Result<Vec<u64, OFFSETS>, CopyError> {
        let mut offsets = Vec::<u64, OFFSETS>::new();
        for segment in self.segments.iter().rev() {
            let offset = segment.address.wrapping_sub(segment.physical);
            if segment.physical != u64::MAX && !offsets.contains(&offset) {
                // As many as segments: there is room.
                let _room = offsets.push(offset);
            }
        }
        Ok(offsets)
    }

    fn read(&mut self, address: u64, words: &mut [u64]) -> Result<bool, CopyError> {
        let Some((offset, left)) = self.find(address) else {
            return Ok(false);
        };
        if left < 8 * words.len() as u64 {
            return Ok(false);
        }
        self.read_words(offset, words)
    }

    fn copy(&mut self, chain: &[Link], wanted: &[Wanted], page: usize) -> Result<bool, CopyError> {
        self.copied = 0;
        for &link in chain {
            if !self.holds(link)? {
                return Ok(false);
            }
        }
        for (number, &wanted) in wanted.iter().take(BATCH.min(MOST)).enumerate() {
            let copied = self.copy_table(wanted, page + number)?;
            self.copied |= u64::from(copied) << number;
        }
        // Checked again, from the last to the first, since a table is freed before its parents.
        for &link in chain.iter().rev() {
            if !self.holds(link)? {
                self.copied = 0;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_copied(&self, number: usize) -> bool {
        number < BATCH && self.copied >> number & 1 != 0
    }

    fn pages(&self) -> usize {
        self.pages
    }

    fn batch(&self) -> usize {
        BATCH
    }

    fn words(&self, page: usize) -> &[AtomicU64] {
        if page >= self.pages {
            return &[];
        }
        let start = self.memory.as_ptr().wrapping_add(page << self.page_shift);
        // SAFETY: a page of the mapping, readable as long as it lives. Only `copy` writes to it, which
        // borrows this value exclusively.
        unsafe { core::slice::from_raw_parts(start.cast(), 1 << (self.page_shift - 3)) }
    }
}
