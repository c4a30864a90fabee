//! Page tables that a test builds, and a source of these tables.

#![expect(unsafe_code, reason = "vouches for the words that the cache reads")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use tablewalk_walker::{
    Batched, Descriptor, Format, FrameNumber, Geometry, Level, Linux, LiveSource, Moves, Table,
    TableId, TableMut, TableSource, TableSourceMut, VirtualAddress,
};

use crate::model::{Meaning, Shape};

/// Returns the attributes of most leaves: AF and inner shareable. With 52-bit output addresses, descriptors
/// of 4K and 16K pages have no shareability.
pub(crate) const fn attributes(shape: Shape) -> u64 {
    match (shape.page_shift, shape.oa_bits) {
        (12 | 14, 52) => 1 << 10,
        _ => 1 << 10 | 3 << 8,
    }
}

/// The tables in the frames of a machine. A clone refers to the same machine.
#[derive(Clone)]
pub(crate) struct Tree {
    pub(crate) shape: Shape,
    pub(crate) root: u64,
    frames: Rc<RefCell<BTreeMap<u64, Page>>>,
    /// The highest frame so far. A frame is not used twice, since a mapped table is pinned.
    last_frame: Rc<Cell<u64>>,
    views: Rc<RefCell<Vec<View>>>,
}

type Page = Rc<[AtomicU64]>;

/// A page of a slot and the frame that is mapped there, as in an arena.
struct View {
    page: Page,
    frame: Page,
}

fn empty_page(shape: Shape) -> Page {
    let words = 1 << (shape.page_shift - 3);
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

impl Tree {
    /// Returns a tree with an empty root.
    pub(crate) fn new(shape: Shape) -> Self {
        // The frame numbers use the highest bits of an output address.
        let root = (0b1010 << (shape.oa_bits - 4) >> shape.page_shift) + 1;
        Self::with_root(shape, root)
    }

    /// Returns a tree with an empty root in this frame.
    pub(crate) fn with_root(shape: Shape, root: u64) -> Self {
        let tree = Self {
            shape,
            root,
            frames: Rc::default(),
            last_frame: Rc::default(),
            views: Rc::default(),
        };
        tree.add_frame(root);
        tree
    }

    pub(crate) fn geometry(&self) -> Geometry {
        let Shape {
            page_shift,
            va_bits,
            oa_bits,
        } = self.shape;
        Geometry::new(page_shift, va_bits, oa_bits).unwrap()
    }

    /// Adds `frame`, filled with zeros.
    pub(crate) fn add_frame(&self, frame: u64) {
        let page = empty_page(self.shape);
        self.frames.borrow_mut().insert(frame, page);
        self.last_frame.set(self.last_frame.get().max(frame));
    }

    pub(crate) fn remove_frame(&self, frame: u64) {
        self.frames.borrow_mut().remove(&frame);
    }

    pub(crate) fn word(&self, frame: u64, index: usize) -> Option<u64> {
        let page = self.frames.borrow().get(&frame)?.clone();
        Some(page[index].load(Ordering::Relaxed))
    }

    pub(crate) fn set_word(&self, frame: u64, index: usize, word: u64) {
        self.store(&self.frames.borrow()[&frame], index, word);
    }

    /// Writes a word of a frame, and of every slot where the frame is mapped.
    fn store(&self, page: &Page, index: usize, word: u64) {
        page[index].store(word, Ordering::Relaxed);
        for view in self.views.borrow().iter() {
            if Rc::ptr_eq(&view.frame, page) {
                view.page[index].store(word, Ordering::Relaxed);
            }
        }
    }

    /// Maps `frame` to the page of a slot.
    fn show(&self, page: &Page, frame: u64) {
        let frame = self.frames.borrow()[&frame].clone();
        for (to, from) in page.iter().zip(frame.iter()) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let mut views = self.views.borrow_mut();
        views.retain(|view| !Rc::ptr_eq(&view.page, page));
        views.push(View {
            page: page.clone(),
            frame,
        });
    }

    /// Returns the frame of the table of `level` that translates `address`.
    pub(crate) fn table(&self, level: i32, address: u64) -> Option<u64> {
        let mut frame = self.root;
        for above in self.shape.first()..level {
            let word = self.word(frame, self.shape.index(above, address))?;
            match self.shape.meaning(above, word) {
                Meaning::Table(next) => frame = next,
                _ => return None,
            }
        }
        let exists = level >= self.shape.first() && address >> self.shape.va_bits == 0;
        (exists && self.frames.borrow().contains_key(&frame)).then_some(frame)
    }

    /// Finds tables of level `wanted` that translate addresses of `range`, below the table of `level` in
    /// `frame`, whose first address is `base`. Adds address, descriptor and frame of each, until there are
    /// `room`.
    #[expect(clippy::too_many_arguments, reason = "a recursion")]
    fn tables_of(
        &self,
        wanted: i32,
        level: i32,
        frame: u64,
        base: u64,
        range: (u64, u64),
        room: usize,
        found: &mut Vec<(u64, u64, u64)>,
    ) {
        for index in 0..self.shape.words(level) {
            let size = 1 << self.shape.shift(level);
            let address = base + index as u64 * size;
            let word = self.word(frame, index).unwrap();
            let Meaning::Table(next) = self.shape.meaning(level, word) else {
                continue;
            };
            let inside = address + (size - 1) >= range.0 && address <= range.1;
            if !inside || found.len() == room || self.word(next, 0).is_none() {
                continue;
            }
            if level + 1 == wanted {
                found.push((address, word, next));
            } else {
                self.tables_of(wanted, level + 1, next, address, range, room, found);
            }
        }
    }

    /// Writes the entry of `level` that translates `address`, and creates missing tables above it.
    pub(crate) fn set(&self, level: i32, address: u64, word: u64) {
        for level in self.shape.first() + 1..=level {
            if self.table(level, address).is_none() {
                let frame = self.last_frame.get() + 1;
                self.add_frame(frame);
                self.write(level - 1, address, self.table_word(frame));
            }
        }
        self.write(level, address, word);
    }

    /// Clears the entry of `level` that translates `address`. As a kernel does, also clears and frees the
    /// table to which the entry points and the tables below it.
    pub(crate) fn unmap(&self, level: i32, address: u64) {
        let Some(frame) = self.table(level, address) else {
            return;
        };
        let word = self.word(frame, self.shape.index(level, address)).unwrap();
        self.write(level, address, 0);
        if let Meaning::Table(next) = self.shape.meaning(level, word) {
            self.free(level + 1, next);
        }
    }

    /// Moves the table to which the entry of `level` that translates `from` points to the entry of `to`, with what is in
    /// it, as mremap(2) does where the kernel has `HAVE_MOVE_PUD`.
    pub(crate) fn move_table(&self, level: i32, from: u64, to: u64) {
        let frame = self.table(level, from).unwrap();
        let word = self.word(frame, self.shape.index(level, from)).unwrap();
        self.write(level, from, 0);
        self.write(level, to, word);
    }

    fn free(&self, level: i32, frame: u64) {
        let Some(page) = self.frames.borrow_mut().remove(&frame) else {
            return;
        };
        for index in 0..page.len() {
            let word = page[index].load(Ordering::Relaxed);
            self.store(&page, index, 0);
            if let Meaning::Table(next) = self.shape.meaning(level, word) {
                self.free(level + 1, next);
            }
        }
    }

    fn write(&self, level: i32, address: u64, word: u64) {
        let frame = self.table(level, address).unwrap();
        self.set_word(frame, self.shape.index(level, address), word);
    }

    pub(crate) fn table_word(&self, frame: u64) -> u64 {
        self.shape.field(frame << self.shape.page_shift) | 0b11
    }

    /// Returns a leaf of `level` that maps `address`.
    pub(crate) fn leaf_word(&self, level: i32, address: u64) -> u64 {
        let kind = if level == 3 { 0b11 } else { 0b01 };
        self.shape.field(address) | attributes(self.shape) | kind
    }

    /// Returns the model's translation of `address`.
    pub(crate) fn translate(&self, address: u64) -> (i32, u64, Option<u64>) {
        self.shape
            .translate(self.root, address, |frame, index| self.word(frame, index))
    }
}

/// The error that a test makes the source return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// Called with the tree before a table is mapped.
type Hook = Box<dyn FnMut(&Tree, TableId)>;

/// Maps the tables of a [`Tree`].
pub(crate) struct Source {
    pub(crate) tree: Tree,
    slots: Vec<Page>,
    calls: Rc<Cell<usize>>,
    refusing: Rc<Cell<bool>>,
    batch: Vec<Page>,
    batched: Vec<Option<Batched>>,
    hook: Option<Hook>,
    moves: Moves,
}

impl Source {
    pub(crate) fn new(tree: &Tree, slots: usize) -> Self {
        Self {
            tree: tree.clone(),
            slots: (0..slots).map(|_| empty_page(tree.shape)).collect(),
            calls: Rc::default(),
            refusing: Rc::default(),
            hook: None,
            moves: Moves::Never,
            batch: Vec::new(),
            batched: Vec::new(),
        }
    }

    /// Says what happens to tables of level 2.
    pub(crate) fn moving(mut self, moves: Moves) -> Self {
        self.moves = moves;
        self
    }

    /// Adds `slots` batch slots.
    pub(crate) fn with_batch(mut self, slots: usize) -> Self {
        self.batch = (0..slots).map(|_| empty_page(self.tree.shape)).collect();
        self.batched = vec![None; slots];
        self
    }

    /// Calls `hook`, which may change the tree, before each table is mapped.
    pub(crate) fn before_map(mut self, hook: impl FnMut(&Tree, TableId) + 'static) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    /// Returns the counter of calls of `map`.
    pub(crate) fn calls(&self) -> Rc<Cell<usize>> {
        self.calls.clone()
    }

    /// Returns a flag; while it is true, `map` fails.
    pub(crate) fn refusing(&self) -> Rc<Cell<bool>> {
        self.refusing.clone()
    }
}

// SAFETY: the page of a slot stays where it is as long as the source is there.
unsafe impl TableSource for Source {
    type Error = Refused;

    fn format(&self) -> Format {
        Format {
            geometry: self.tree.geometry(),
            linux: Linux::V6_1,
            mair: 0,
        }
    }

    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn map(&mut self, slot: usize, id: TableId) -> Result<Option<FrameNumber>, Refused> {
        self.calls.set(self.calls.get() + 1);
        if let Some(hook) = &mut self.hook {
            hook(&self.tree, id);
        }
        if self.refusing.get() || slot >= self.slots.len() {
            return Err(Refused);
        }
        let level = i32::from(id.level.number());
        let Some(frame) = self.tree.table(level, id.address.0) else {
            return Ok(None);
        };
        // Like the system call, this replaces the table in the slot even if the new one is not the expected
        // one.
        self.tree.show(&self.slots[slot], frame);
        let frame = FrameNumber(frame);
        Ok(id
            .frame
            .is_none_or(|expected| expected == frame)
            .then_some(frame))
    }

    fn table(&self, slot: usize) -> Table<'_> {
        Table::new(self.words(slot))
    }

    fn batch_slots(&self) -> usize {
        self.batch.len()
    }

    fn map_batch(
        &mut self,
        slot: usize,
        level: Level,
        start: VirtualAddress,
        last: VirtualAddress,
    ) -> Result<usize, Refused> {
        self.calls.set(self.calls.get() + 1);
        if self.refusing.get() {
            return Err(Refused);
        }
        let mut found = Vec::new();
        let (tree, number) = (self.tree.clone(), i32::from(level.number()));
        let room = self.batch.len() - slot;
        let first = tree.shape.first();
        tree.tables_of(
            number,
            first,
            tree.root,
            0,
            (start.0, last.0),
            room,
            &mut found,
        );
        for (slot, &(address, word, frame)) in (slot..).zip(&found) {
            tree.show(&self.batch[slot], frame);
            self.batched[slot] = Some(Batched {
                address: VirtualAddress(address),
                descriptor: Descriptor(word),
            });
        }
        Ok(found.len())
    }

    fn batched(&self, slot: usize) -> Option<Batched> {
        self.batched.get(slot).copied().flatten()
    }

    fn batch_table(&self, slot: usize) -> Table<'_> {
        Table::new(&self.batch[slot])
    }
}

// SAFETY: the words are those of the tree that the tests change.
unsafe impl LiveSource for Source {
    fn moves_level_2(&self) -> Moves {
        self.moves
    }
}

impl TableSourceMut for Source {
    fn table_mut(&self, slot: usize) -> TableMut<'_> {
        TableMut::new(self.words(slot))
    }
}

impl Source {
    fn words(&self, slot: usize) -> &[AtomicU64] {
        self.slots.get(slot).map_or(&[], |page| page)
    }
}
