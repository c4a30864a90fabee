//! The BPF program that copies tables, and the data that it shares with this process.
//!
//! The map is one value: a page of requests and results, followed by the pages for copies. In each run the
//! program checks the descriptors of the chain, and then, for each requested table, checks the descriptor
//! that leads to it, copies the table, and checks the descriptor again; at the end it checks the chain again.

use core::mem::offset_of;

use tablewalk_uapi::bpf::Instruction;

use super::{IGNORED, LINKS};

/// Maximum number of tables for one run.
pub(super) const MOST: usize = 64;

/// The first page of the map.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Shared {
    /// Out: the address of the `task_struct` of the thread that ran the program.
    pub(super) task: u64,
    /// The target of atomic additions, which order loads.
    pub(super) fence: u64,
    /// In: the number of valid elements of `chain`.
    pub(super) links: u64,
    /// In: the number of valid elements of `tables`.
    pub(super) count: u64,
    /// In: the page for the first copy.
    pub(super) page: u64,
    /// In: the entries above the tables.
    pub(super) chain: [Entry; LINKS],
    /// In: the tables.
    pub(super) tables: [Table; MOST],
    /// Out: [`COPIED`] if the table with this index was copied.
    pub(super) copied: [u64; MOST],
}

/// An entry of a table, and its expected value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) address: u64,
    pub(super) descriptor: u64,
}

/// A table; the address of its entry is 0 if no entry leads to it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) entry: Entry,
    pub(super) address: u64,
    /// The number of bytes: at most a page.
    pub(super) bytes: u64,
}

/// The program writes this for a table that was copied and whose link did not change.
pub(super) const COPIED: u64 = 1;
/// The return value if the chain did not change.
pub(super) const UNCHANGED: u32 = 1;

/// Instructions of the program.
const LENGTH: usize = 121;

// Registers: the results of a call, its arguments, those that a call preserves, the stack.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
/// The map's value.
const SHARED: u8 = 6;
/// The index of the link or table.
const NUMBER: u8 = 7;
/// The number of elements.
const COUNT: u8 = 8;
/// A pointer to the current element.
const ELEMENT: u8 = 9;
const STACK: u8 = 10;
/// The stack offset of the buffer for a descriptor.
const WORD: i16 = -8;

// Helpers: `include/uapi/linux/bpf.h`, `___BPF_FUNC_MAPPER`.
const GET_CURRENT_TASK: i32 = 35;
const PROBE_READ_KERNEL: i32 = 113;
/// `BPF_PSEUDO_MAP_VALUE`: the immediate of a wide load is the file descriptor of a map, and the address of
/// its value is loaded.
const MAP_VALUE: u8 = 2;

/// Where a jump goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Chain,
    Tables,
    Next,
    Copy,
    Done,
    Store,
    Ready,
    ChainAgain,
    Unchanged,
    Failed,
}

const LABELS: usize = 10;

/// Maximum number of jumps.
const JUMPS: usize = 24;

/// Assembles a program at compile time; jumps refer to labels, which are resolved at the end.
struct Assembler {
    code: [Instruction; LENGTH],
    length: usize,
    /// The positions and labels of jumps.
    jumps: [(usize, Label); JUMPS],
    jump_count: usize,
    labels: [usize; LABELS],
}

/// The program, and the positions of constants that are known when it is loaded.
struct Program {
    code: [Instruction; LENGTH],
    /// The file descriptor of the map.
    map: usize,
    /// Bytes of a page.
    sizes: [usize; 2],
    /// The number of writable pages.
    pages: usize,
}

#[expect(
    clippy::indexing_slicing,
    reason = "where there is no room, this does not compile"
)]
impl Assembler {
    const fn new() -> Self {
        let nothing = Instruction {
            code: 0,
            registers: 0,
            offset: 0,
            immediate: 0,
        };
        Self {
            code: [nothing; LENGTH],
            length: 0,
            jumps: [(0, Label::Failed); JUMPS],
            jump_count: 0,
            labels: [0; LABELS],
        }
    }

    /// Appends an instruction, and returns its index.
    const fn put(&mut self, code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> usize {
        let place = self.length;
        self.code[place] = Instruction {
            code,
            registers: to | from << 4,
            offset,
            immediate,
        };
        self.length += 1;
        place
    }

    /// `to = from`.
    const fn copy(&mut self, to: u8, from: u8) {
        self.put(0xbf, to, from, 0, 0);
    }

    /// `to = value`.
    const fn set(&mut self, to: u8, value: i32) {
        self.put(0xb7, to, 0, 0, value);
    }

    /// `to += from`.
    const fn add(&mut self, to: u8, from: u8) {
        self.put(0x0f, to, from, 0, 0);
    }

    /// `to += value`.
    const fn add_value(&mut self, to: u8, value: i32) {
        self.put(0x07, to, 0, 0, value);
    }

    /// `to *= value`.
    const fn multiply(&mut self, to: u8, value: i32) -> usize {
        self.put(0x27, to, 0, 0, value)
    }

    /// `to = *(u64 *)(from + offset)`.
    const fn load(&mut self, to: u8, from: u8, offset: i16) {
        self.put(0x79, to, from, offset, 0);
    }

    /// `*(u64 *)(to + offset) = from`.
    const fn store(&mut self, to: u8, offset: i16, from: u8) {
        self.put(0x7b, to, from, offset, 0);
    }

    const fn call(&mut self, helper: i32) {
        self.put(0x85, 0, 0, 0, helper);
    }

    const fn exit(&mut self) {
        self.put(0x95, 0, 0, 0, 0);
    }

    const fn label(&mut self, label: Label) {
        self.labels[label as usize] = self.length;
    }

    const fn jump_to(
        &mut self,
        label: Label,
        code: u8,
        register: u8,
        other: u8,
        value: i32,
    ) -> usize {
        self.jumps[self.jump_count] = (self.length, label);
        self.jump_count += 1;
        self.put(code, register, other, 0, value)
    }

    const fn jump(&mut self, label: Label) {
        self.jump_to(label, 0x05, 0, 0, 0);
    }

    const fn jump_if_equal(&mut self, register: u8, value: i32, label: Label) {
        self.jump_to(label, 0x15, register, 0, value);
    }

    const fn jump_unless_equal(&mut self, register: u8, value: i32, label: Label) {
        self.jump_to(label, 0x55, register, 0, value);
    }

    /// If `register >= value`, without sign.
    const fn jump_if_at_least(&mut self, register: u8, value: i32, label: Label) -> usize {
        self.jump_to(label, 0x35, register, 0, value)
    }

    /// If `register > value`, without sign.
    const fn jump_if_above(&mut self, register: u8, value: i32, label: Label) -> usize {
        self.jump_to(label, 0x25, register, 0, value)
    }

    const fn jump_if_not_below(&mut self, register: u8, other: u8, label: Label) {
        self.jump_to(label, 0x3d, register, other, 0);
    }

    /// Orders earlier loads before later ones: an atomic addition that returns the old value is a full
    /// barrier (`Documentation/atomic_t.txt`). Overwrites r1.
    const fn fence(&mut self) {
        let at = offset16(offset_of!(Shared, fence));
        self.set(R1, 0);
        // BPF_STX | BPF_ATOMIC | BPF_DW, BPF_ADD | BPF_FETCH
        self.put(0xdb, SHARED, R1, at, 0x01);
    }

    /// Jumps to `changed` unless the entry at `offset` of [`ELEMENT`] holds its descriptor.
    const fn check(&mut self, offset: i16, changed: Label) {
        self.fence();
        self.copy(R1, STACK);
        self.add_value(R1, WORD as i32);
        self.set(R2, 8);
        self.load(R3, ELEMENT, offset + offset16(offset_of!(Entry, address)));
        self.call(PROBE_READ_KERNEL);
        self.jump_unless_equal(R0, 0, changed);
        self.load(R1, STACK, WORD);
        self.load(
            R2,
            ELEMENT,
            offset + offset16(offset_of!(Entry, descriptor)),
        );
        // r1 = (r1 ^ r2) & !IGNORED
        self.put(0xaf, R1, R2, 0, 0);
        self.put(0x57, R1, 0, 0, !immediate(IGNORED));
        self.jump_unless_equal(R1, 0, changed);
        self.fence();
    }

    /// `ELEMENT = SHARED + NUMBER * size`.
    const fn element(&mut self, size: i32) {
        self.copy(R1, NUMBER);
        self.multiply(R1, size);
        self.copy(ELEMENT, SHARED);
        self.add(ELEMENT, R1);
    }

    /// Jumps to `unchanged` if each link of the chain holds its descriptor, otherwise to [`Label::Failed`].
    /// The verifier knows the values, since it follows every iteration of the loop.
    const fn check_chain(&mut self, turn: Label, unchanged: Label) {
        self.load(COUNT, SHARED, offset16(offset_of!(Shared, links)));
        self.set(NUMBER, 0);
        self.label(turn);
        self.jump_if_equal(NUMBER, immediate(LINKS as u64), unchanged);
        self.jump_if_not_below(NUMBER, COUNT, unchanged);
        self.element(immediate(size_of::<Entry>() as u64));
        self.check(offset16(offset_of!(Shared, chain)), Label::Failed);
        self.add_value(NUMBER, 1);
        self.jump(turn);
    }

    #[expect(clippy::cast_possible_truncation, reason = "a program is short")]
    #[expect(clippy::cast_possible_wrap, reason = "a program is short")]
    const fn finish(mut self) -> [Instruction; LENGTH] {
        let mut number = 0;
        while number < self.jump_count {
            let (at, label) = self.jumps[number];
            self.code[at].offset = self.labels[label as usize] as i16 - at as i16 - 1;
            number += 1;
        }
        assert!(self.length == LENGTH);
        self.code
    }
}

/// A small constant of the program.
const fn immediate(value: u64) -> i32 {
    assert!(value <= 4096);
    #[expect(clippy::cast_possible_truncation, reason = "asserted")]
    let value = value as i32;
    value
}

/// An offset in [`Shared`], which is smaller than any page.
const fn offset16(offset: usize) -> i16 {
    assert!(offset <= 4096 && size_of::<Shared>() <= 4096);
    #[expect(clippy::cast_possible_truncation, reason = "asserted")]
    #[expect(clippy::cast_possible_wrap, reason = "asserted")]
    let offset = offset as i16;
    offset
}

/// Returns the program for a map with file descriptor `map`, of pages of `1 << page_shift` bytes, of which
/// `pages` after the first are writable.
pub(super) fn assemble(map: i32, page_shift: u32, pages: usize) -> [Instruction; LENGTH] {
    const PROGRAM: Program = program();
    let mut code = PROGRAM.code;
    let pages = i32::try_from(pages).unwrap_or(0);
    let [size, again] = PROGRAM.sizes.map(|place| (place, 1 << page_shift));
    for (place, value) in [(PROGRAM.map, map), (PROGRAM.pages, pages), size, again] {
        if let Some(instruction) = code.get_mut(place) {
            instruction.immediate = value;
        }
    }
    code
}

/// The part that is the same for all kernels.
const fn program() -> Program {
    const TABLES: i16 = offset16(offset_of!(Shared, tables));
    let mut a = Assembler::new();
    // SHARED = the map's value; SHARED->task = current.
    let map = a.put(0x18, SHARED, MAP_VALUE, 0, 0);
    a.put(0, 0, 0, 0, 0);
    a.call(GET_CURRENT_TASK);
    a.store(SHARED, offset16(offset_of!(Shared, task)), R0);

    a.check_chain(Label::Chain, Label::Tables);

    // Each table.
    a.label(Label::Tables);
    a.load(COUNT, SHARED, offset16(offset_of!(Shared, count)));
    a.set(NUMBER, 0);
    a.label(Label::Next);
    a.jump_if_equal(NUMBER, immediate(MOST as u64), Label::Ready);
    a.jump_if_not_below(NUMBER, COUNT, Label::Ready);
    a.element(immediate(size_of::<Table>() as u64));
    let entry = TABLES + offset16(offset_of!(Table, entry));
    let link = entry + offset16(offset_of!(Entry, address));
    a.load(R3, ELEMENT, link);
    a.jump_if_equal(R3, 0, Label::Copy);
    a.check(entry, Label::Done);
    // r1 = its page, r2 = bytes, r3 = table.
    a.label(Label::Copy);
    a.load(R1, SHARED, offset16(offset_of!(Shared, page)));
    a.add(R1, NUMBER);
    let pages = a.jump_if_at_least(R1, 0, Label::Done);
    // The first page is `Shared`.
    a.add_value(R1, 1);
    let size = a.multiply(R1, 0);
    a.add(R1, SHARED);
    a.load(R2, ELEMENT, TABLES + offset16(offset_of!(Table, bytes)));
    let most = a.jump_if_above(R2, 0, Label::Done);
    a.load(R3, ELEMENT, TABLES + offset16(offset_of!(Table, address)));
    a.call(PROBE_READ_KERNEL);
    a.jump_unless_equal(R0, 0, Label::Done);
    a.load(R3, ELEMENT, link);
    a.set(R0, immediate(COPIED));
    a.jump_if_equal(R3, 0, Label::Store);
    a.check(entry, Label::Done);
    a.set(R0, immediate(COPIED));
    a.jump(Label::Store);
    a.label(Label::Done);
    a.set(R0, 0);
    // SHARED->copied[NUMBER] = r0
    a.label(Label::Store);
    a.copy(R1, NUMBER);
    a.multiply(R1, immediate(size_of::<u64>() as u64));
    a.add(R1, SHARED);
    a.store(R1, offset16(offset_of!(Shared, copied)), R0);
    a.add_value(NUMBER, 1);
    a.jump(Label::Next);

    a.label(Label::Ready);
    a.check_chain(Label::ChainAgain, Label::Unchanged);
    a.label(Label::Unchanged);
    a.set(R0, UNCHANGED.cast_signed());
    a.exit();
    a.label(Label::Failed);
    a.set(R0, 0);
    a.exit();
    Program {
        code: a.finish(),
        map,
        sizes: [size, most],
        pages,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `BPF_JMP`: the class of jumps, calls and exits.
    const JUMP: u8 = 0x05;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const WIDE: u8 = 0x18;

    #[test]
    fn jumps_stay_in_the_program_and_the_end_is_an_exit() {
        for (page_shift, pages) in [(12, 70), (14, 22), (16, 10)] {
            let code = assemble(3, page_shift, pages);
            assert_eq!(code.last().unwrap().code, EXIT);
            // The second half of a wide load is no instruction.
            assert_eq!((code[0].code, code[1].code), (WIDE, 0));
            for (at, instruction) in code.iter().enumerate() {
                let is_jump = instruction.code & 7 == JUMP;
                if !is_jump || matches!(instruction.code, CALL | EXIT) {
                    continue;
                }
                let to = at as i64 + 1 + i64::from(instruction.offset);
                assert!((2..code.len() as i64).contains(&to), "{at} to {to}");
                assert_ne!(instruction.offset, -1, "{at} turns for ever");
            }
        }
    }
}
