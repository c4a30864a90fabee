//! A kernel of a few pages, for tests of copying: memory that changes between two reads, and an interpreter
//! that runs the BPF program on it, one instruction after the other.

#![expect(unsafe_code, reason = "the program's loads and stores, at addresses")]

extern crate std;

use core::cell::RefCell;
use core::ops::Range;
use std::collections::BTreeMap;
use std::vec::Vec;

use tablewalk_uapi::bpf::Instruction;
use tablewalk_uapi::{Errno, Mapping};

use super::bpf::Processor;
use super::program::{MOST, assemble};
use super::{Bpf, Kcore, Kernel, ReadAt};

/// An address of the linear map minus its physical address.
pub(super) const OFFSET: u64 = 0xffff_ff80_0000_0000 - 0x4000_0000;
/// Words of a page.
const WORDS: usize = 512;
/// Pages that the program may write to: one for each level, a batch, and one for reads.
const PAGES: usize = 5 + MOST + 1;

/// Returns the index of a word in its page.
fn index(address: u64) -> usize {
    usize::try_from(address % 4096 / 8).unwrap()
}

/// Memory that is read word by word, and can change between two reads.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pages: BTreeMap<u64, [u64; WORDS]>,
    /// The number of reads after which these words are written.
    event: Option<(usize, Vec<(u64, u64)>)>,
    /// An address that must not be read.
    pub(super) devices: Option<Range<u64>>,
}

impl Memory {
    /// Writes the word at `address`. Its page exists from then on.
    pub(super) fn write(&mut self, address: u64, word: u64) {
        let page = self.pages.entry(address & !0xfff).or_insert([0; WORDS]);
        page[index(address)] = word;
    }

    /// Makes `writes` happen before the read with this number, counted from now on.
    pub(super) fn change_before(&mut self, word: usize, writes: &[(u64, u64)]) {
        self.event = Some((word, writes.to_vec()));
    }

    /// Returns whether the change is still pending.
    pub(super) const fn is_changing(&self) -> bool {
        self.event.is_some()
    }

    /// Loads a word. `None` if there is no memory.
    pub(super) fn read(&mut self, address: u64) -> Option<u64> {
        let devices = self.devices.as_ref();
        let is_device = devices.is_some_and(|devices| devices.contains(&address));
        assert!(!is_device, "{address:#x} was read");
        if let Some((left, writes)) = self.event.take() {
            if left == 0 {
                for (address, word) in writes {
                    self.write(address, word);
                }
            } else {
                self.event = Some((left - 1, writes));
            }
        }
        self.pages
            .get(&(address & !0xfff))
            .map(|page| page[index(address)])
    }
}

/// Runs a program as the kernel does (`Documentation/bpf/standardization/instruction-set.rst`).
#[derive(Debug)]
pub(super) struct Machine {
    code: Vec<Instruction>,
    pub(super) memory: Memory,
    /// What `bpf_get_current_task` returns.
    task: u64,
    /// The number of runs, and of words read.
    pub(super) runs: usize,
    pub(super) words: usize,
}

/// The memory that a program may load from and store to: addresses of this process.
struct ProgramMemory<'r> {
    value: &'r Mapping,
    stack: &'r mut [u64; 64],
}

impl ProgramMemory<'_> {
    /// Returns the `bytes` from `address` on, if the verifier would let a program use them.
    fn at(&mut self, address: u64, bytes: u64) -> *mut u64 {
        let stack = self.stack.as_mut_ptr();
        let value = self.value.as_ptr();
        for (start, size) in [(stack.cast(), 512), (value, self.value.size())] {
            let offset = address.wrapping_sub(start.expose_provenance() as u64);
            if offset.saturating_add(bytes) <= size as u64 {
                assert!(address.is_multiple_of(8), "{address:#x}");
                return start.wrapping_add(usize::try_from(offset).unwrap()).cast();
            }
        }
        panic!("the program uses {bytes} bytes at {address:#x}");
    }

    fn load(&mut self, address: u64) -> u64 {
        // SAFETY: `at` gives a word of the stack or the value.
        unsafe { *self.at(address, 8) }
    }

    fn store(&mut self, address: u64, word: u64) {
        // SAFETY: `at` gives a word of the stack or the value.
        unsafe { *self.at(address, 8) = word };
    }
}

impl Machine {
    pub(super) fn new() -> Self {
        Self {
            code: assemble(3, 12, PAGES).to_vec(),
            memory: Memory::default(),
            task: OFFSET + 0x4040_0000,
            runs: 0,
            words: 0,
        }
    }

    /// `bpf_probe_read_kernel(to, size, from)`: word by word; after a fault all are 0.
    fn probe_read(
        &mut self,
        accessible: &mut ProgramMemory<'_>,
        to: u64,
        size: u64,
        from: u64,
    ) -> u64 {
        // The verifier requires this.
        accessible.at(to, size);
        for offset in (0..size).step_by(8) {
            self.words += 1;
            let Some(word) = self.memory.read(from.wrapping_add(offset)) else {
                for offset in (0..size).step_by(8) {
                    accessible.store(to + offset, 0);
                }
                return (-14_i64).cast_unsigned();
            };
            accessible.store(to + offset, word);
        }
        0
    }

    fn call(&mut self, helper: i32, accessible: &mut ProgramMemory<'_>, registers: &mut [u64; 11]) {
        let [r0, r1, r2, r3, r4, r5, ..] = registers;
        *r0 = match helper {
            35 => self.task,
            113 => self.probe_read(accessible, *r1, *r2, *r3),
            _ => panic!("helper {helper}"),
        };
        // A call destroys its arguments.
        (*r1, *r2, *r3, *r4, *r5) = (!0, !0, !0, !0, !0);
    }
}

impl Processor for Machine {
    fn run(&mut self, value: &Mapping) -> Result<u32, Errno> {
        self.runs += 1;
        let mut stack = [0xdead_beef; 64];
        let top = stack.as_mut_ptr().wrapping_add(64).expose_provenance();
        let mut accessible = ProgramMemory {
            value,
            stack: &mut stack,
        };
        let mut registers = [0xbad_u64; 11];
        registers[10] = top as u64;
        let mut next = 0;
        loop {
            let instruction = self.code[next];
            let to = usize::from(instruction.registers & 15);
            let from = registers[usize::from(instruction.registers >> 4)];
            let value = i64::from(instruction.immediate).cast_unsigned();
            let offset = i64::from(instruction.offset).cast_unsigned();
            let here = registers[to];
            next += 1;
            let mut jump = |taken: bool| {
                if taken {
                    next = next.checked_add_signed(instruction.offset.into()).unwrap();
                }
            };
            match instruction.code {
                // BPF_LD | BPF_IMM | BPF_DW of a map's value, which is two instructions.
                0x18 => {
                    registers[to] = accessible.value.address();
                    next += 1;
                }
                // BPF_ALU64
                0xb7 => registers[to] = value,
                0xbf => registers[to] = from,
                0x07 => registers[to] = here.wrapping_add(value),
                0x0f => registers[to] = here.wrapping_add(from),
                0x27 => registers[to] = here.wrapping_mul(value),
                0x57 => registers[to] = here & value,
                0xaf => registers[to] = here ^ from,
                // BPF_LDX and BPF_STX, BPF_MEM | BPF_DW
                0x79 => registers[to] = accessible.load(from.wrapping_add(offset)),
                0x7b => accessible.store(here.wrapping_add(offset), from),
                // BPF_ATOMIC of BPF_ADD | BPF_FETCH
                0xdb => {
                    assert_eq!(instruction.immediate, 1);
                    let address = here.wrapping_add(offset);
                    let before = accessible.load(address);
                    accessible.store(address, before.wrapping_add(from));
                    registers[usize::from(instruction.registers >> 4)] = before;
                }
                // BPF_JMP
                0x05 => jump(true),
                0x15 => jump(here == value),
                0x55 => jump(here != value),
                0x25 => jump(here > value),
                0x35 => jump(here >= value),
                0x3d => jump(here >= from),
                0x85 => self.call(instruction.immediate, &mut accessible, &mut registers),
                #[expect(clippy::cast_possible_truncation, reason = "as the kernel does")]
                0x95 => return Ok(registers[0] as u32),
                code => panic!("instruction {code:#x}"),
            }
        }
    }
}

/// A way to copy from the fake kernel.
pub(super) trait Fake: Kernel {
    fn new(memory: Memory) -> Self;

    fn memory<R>(&mut self, change: impl FnOnce(&mut Memory) -> R) -> R;
}

/// The real program.
impl Fake for Bpf<Machine> {
    fn new(memory: Memory) -> Self {
        let mut machine = Machine::new();
        machine.memory = memory;
        Self::on(machine, 12)
    }

    fn memory<R>(&mut self, change: impl FnOnce(&mut Memory) -> R) -> R {
        change(&mut self.processor_mut().memory)
    }
}

/// Checked copies.
impl Fake for Kcore<Core> {
    fn new(memory: Memory) -> Self {
        Self::of_file(Core::new(memory), 12).unwrap()
    }

    fn memory<R>(&mut self, change: impl FnOnce(&mut Memory) -> R) -> R {
        change(&mut self.file().memory.borrow_mut())
    }
}

/// A `/proc/kcore` of the fake memory: notes, the kernel's text, addresses without memory, and two parts of
/// the linear map with a hole between them.
pub(super) struct Core {
    pub(super) memory: RefCell<Memory>,
    headers: Vec<u8>,
}

/// Physical and virtual addresses of the kernel's image, whose first part is freed after the kernel has
/// started.
pub(super) const IMAGE: u64 = 0x4080_0000;
const IMAGE_ADDRESS: u64 = 0xffff_ffc0_0800_0000;
const IMAGE_SIZE: u64 = 0x10_0000;

/// Address, physical address, size and file offset of each segment.
const SEGMENTS: [[u64; 4]; 4] = [
    [IMAGE_ADDRESS, IMAGE, IMAGE_SIZE, 0x1_0000_0000],
    [0xffff_ffc0_1000_0000, u64::MAX, 0x1000_0000, 0x2_0000_0000],
    [OFFSET + 0x4000_0000, 0x4000_0000, 0x100_0000, 0x3_0000_0000],
    [OFFSET + 0x4800_0000, 0x4800_0000, 0x100_0000, 0x4_0000_0000],
];
/// The file offsets of the notes, and of the words of the task.
const NOTES: u64 = 0x1000;
pub(super) const TASK: [u64; 4] = {
    let mm = OFFSET + 0x4030_0000;
    [7, OFFSET + 0x4010_0000, mm, mm]
};

impl Core {
    pub(super) fn new(memory: Memory) -> Self {
        let mut headers = std::vec![0; 0x2000];
        let mut put =
            |at: usize, bytes: &[u8]| headers[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01");
        put(32, &64_u64.to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        put(56, &5_u16.to_le_bytes());
        // A note of the same kind with another name, then the note of the task.
        let mut notes = Vec::new();
        for (name, kind, contents) in [
            (&b"LINUX\0\0\0"[..], 4, &[1_u64][..]),
            (&b"CORE\0\0\0\0"[..], 4, &TASK),
        ] {
            let length = name.iter().position(|&byte| byte == 0).unwrap() + 1;
            let size = 8 * contents.len();
            for word in [length, size, kind] {
                notes.extend(u32::try_from(word).unwrap().to_le_bytes());
            }
            notes.extend(name);
            notes.extend(contents.iter().flat_map(|word| word.to_le_bytes()));
        }
        put(0x1000, &notes);
        let note = [0, 0, notes.len() as u64, NOTES];
        for (number, (kind, segment)) in [(4_u32, note)]
            .into_iter()
            .chain(SEGMENTS.map(|segment| (1, segment)))
            .enumerate()
        {
            let [address, physical, size, offset] = segment;
            put(64 + 56 * number, &kind.to_le_bytes());
            for (field, word) in [offset, address, physical, size].into_iter().enumerate() {
                put(64 + 56 * number + 8 + 8 * field, &word.to_le_bytes());
            }
        }
        Self {
            memory: RefCell::new(memory),
            headers,
        }
    }
}

impl ReadAt for Core {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, Errno> {
        if let Some(headers) = self.headers.get(usize::try_from(offset).unwrap()..) {
            let part = headers.get(..bytes.len()).unwrap();
            bytes.copy_from_slice(part);
            return Ok(bytes.len());
        }
        let Some(&[address, _, size, start]) = SEGMENTS
            .iter()
            .find(|[_, _, size, start]| offset.wrapping_sub(*start) < *size)
        else {
            return Ok(0);
        };
        assert!(bytes.len() as u64 <= start + size - offset);
        let address = address + (offset - start);
        for (place, bytes) in (address..).step_by(8).zip(bytes.chunks_exact_mut(8)) {
            // Memory that does not exist, or that the kernel's text has freed, reads as zeros.
            let word = self.memory.borrow_mut().read(place).unwrap_or(0);
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(bytes.len())
    }
}
