//! How two trees differ.

use std::cmp::Ordering;

use tablewalk_walker::{Descriptor, Geometry, Kind, Level, Limits, Permissions};

use crate::snapshot::{Entry, Snapshot, Table};

/// What has become of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sort {
    /// It was 0.
    Added,
    /// It is 0.
    Gone,
    /// It was another one.
    Changed,
}

impl Sort {
    /// One word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Gone => "gone",
            Self::Changed => "changed",
        }
    }
}

/// Entries next to each other that differ in the same way. Addresses are in pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The first page.
    pub start: u64,
    /// The page behind the last.
    pub end: u64,
    /// Their lookup level.
    pub level: Level,
    /// How they differ.
    pub sort: Sort,
    /// In what: `frame`, `permissions`, `dirty` ...; of what has come or is gone, nothing.
    pub what: Vec<&'static str>,
    /// Whether they lead to tables.
    pub table: bool,
    /// The first descriptor before.
    pub old: u64,
    /// The first descriptor now.
    pub new: u64,
    /// How many entries.
    pub entries: u64,
}

impl Change {
    /// That of one entry.
    #[must_use]
    pub fn new(geometry: &Geometry, level: Level, address: u64, old: u64, new: u64) -> Self {
        let start = address >> geometry.page_shift();
        let pair = [Descriptor(old), Descriptor(new)];
        let sort = match (old, new) {
            (0, _) => Sort::Added,
            (_, 0) => Sort::Gone,
            _ => Sort::Changed,
        };
        let is_table = |word: &Descriptor| word.kind(geometry, level) == Kind::Table;
        Self {
            start,
            end: start + (geometry.entry_size(level) >> geometry.page_shift()),
            level,
            sort,
            what: if sort == Sort::Changed {
                what(geometry, level, pair)
            } else {
                Vec::new()
            },
            table: pair.iter().any(is_table),
            old,
            new,
            entries: 1,
        }
    }

    /// Whether `next` is the same of the entries behind.
    fn continues(&self, next: &Self) -> bool {
        self.end == next.start
            && (self.level, self.sort, self.table) == (next.level, next.sort, next.table)
            && self.what == next.what
    }
}

/// In what two descriptors differ that are not 0, as far as the architecture says.
fn what(geometry: &Geometry, level: Level, [old, new]: [Descriptor; 2]) -> Vec<&'static str> {
    if old.kind(geometry, level) != new.kind(geometry, level) {
        return vec!["kind"];
    }
    if !old.is_valid() {
        return vec!["not valid"];
    }
    let mut found = Vec::new();
    if old.output_address(geometry, level) != new.output_address(geometry, level) {
        found.push("frame");
    }
    let permissions = |word| Permissions::new(word, Limits::NONE);
    if permissions(old) != permissions(new) {
        found.push("permissions");
    }
    for (name, bit) in [
        ("accessed", Descriptor::AF),
        ("writable", Descriptor::DBM),
        ("contiguous", Descriptor::CONTIGUOUS),
    ] {
        if (old.0 ^ new.0) & bit != 0 {
            found.push(name);
        }
    }
    if found.is_empty() {
        // Software bits, memory type, shareability: the descriptors show it.
        found.push("other bits");
    }
    found
}

/// Joins neighbours that differ in the same way.
#[must_use]
pub fn join(changes: impl IntoIterator<Item = Change>) -> Vec<Change> {
    let mut joined: Vec<Change> = Vec::new();
    for change in changes {
        match joined.last_mut() {
            Some(last) if last.continues(&change) => {
                last.end = change.end;
                last.entries += change.entries;
            }
            _ => joined.push(change),
        }
    }
    joined
}

/// How `new` differs from `old`: entries first, then tables, each in the order of addresses.
#[must_use]
pub fn compare(old: &Snapshot, new: &Snapshot) -> Vec<Change> {
    let geometry = &new.geometry;
    let entry = |entry: &Entry| ((entry.address, entry.level), entry.descriptor);
    let mut found = merge(geometry, &old.entries, &new.entries, entry);
    // A table as the descriptor that leads to it has it. The root has none.
    let table = |table: &Table| {
        let above = table.level.next_higher().unwrap_or(table.level);
        (
            (table.address, above),
            table.frame << geometry.page_shift() | 0b11,
        )
    };
    let below = |tables: &[Table]| -> Vec<Table> {
        let below = |table: &&Table| table.parent.is_some();
        tables.iter().filter(below).copied().collect()
    };
    let tables = [old, new].map(|snapshot| below(snapshot.tables.list()));
    let [before, after] = &tables;
    found.extend(merge(geometry, before, after, table));
    join(found)
}

/// The differences of two lists in the order of their keys.
fn merge<T>(
    geometry: &Geometry,
    old: &[T],
    new: &[T],
    word: impl Fn(&T) -> ((u64, Level), u64),
) -> Vec<Change> {
    let (mut left, mut right) = (
        old.iter().map(&word).peekable(),
        new.iter().map(&word).peekable(),
    );
    let mut found = Vec::new();
    let mut add = |(address, level): (u64, Level), old, new| {
        if old != new {
            found.push(Change::new(geometry, level, address, old, new));
        }
    };
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((before, _)), Some((after, _))) => before.cmp(after),
        };
        let before = left.next_if(|_| order != Ordering::Greater);
        let after = right.next_if(|_| order != Ordering::Less);
        if let Some((key, _)) = before.or(after) {
            let word = |side: Option<((u64, Level), u64)>| side.map_or(0, |(_, word)| word);
            add(key, word(before), word(after));
        }
    }
}
