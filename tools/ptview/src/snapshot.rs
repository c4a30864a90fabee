//! The tables of a process at one time, from a dump or from what `pt walk` or `pt maps` printed.

use std::path::PathBuf;

use tablewalk_walker::dump::Dump;
use tablewalk_walker::{Format, Geometry, Level, TableSource, Visit, Walk};

use crate::attributes::{Attributes, Catalogue};
use crate::runs::Run;

/// Where something was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The file.
    pub path: PathBuf,
    /// The command of `pt`: `save`, `walk`, `maps` ...
    pub command: String,
    /// The process.
    pub pid: u64,
    /// Tables that changed while they were to be read, and are missing.
    pub changed: u64,
}

/// An entry that leads to no table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The first address that it translates.
    pub address: u64,
    /// The word itself.
    pub descriptor: u64,
    /// The first frame, if it has one.
    pub frame: Option<u64>,
    /// The number of its attributes.
    pub attributes: u32,
    /// The lookup level of its table.
    pub level: Level,
}

/// A table of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Table {
    /// Its lookup level.
    pub level: Level,
    /// The first address that it translates.
    pub address: u64,
    /// Its frame.
    pub frame: u64,
    /// How many of its entries are not 0.
    pub used: u64,
    /// The place of the table above it; none of the root.
    pub parent: Option<usize>,
}

/// A mapping of `/proc/PID/maps`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    /// The first address.
    pub start: u64,
    /// The address behind the last.
    pub end: u64,
    /// As `rw-p`.
    pub permissions: String,
    /// Its name; empty if it has none.
    pub name: String,
}

/// What there is.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where from.
    pub origin: Origin,
    /// The shape of the tables.
    pub geometry: Geometry,
    /// The tree in the order of a walk; empty if only ranges are known.
    pub tables: Tree,
    /// Every entry, in the order of addresses; empty if only ranges are known.
    pub entries: Vec<Entry>,
    /// Ranges, if nothing else is known.
    pub ranges: Vec<Run>,
    /// Mappings, in the order of addresses.
    pub regions: Vec<Region>,
}

/// Tables, with their entries counted.
#[derive(Clone, Default, Debug)]
pub struct Tree {
    list: Vec<Table>,
    /// The latest table of each level.
    path: [Option<usize>; Level::ALL.len()],
}

impl Tree {
    /// The tables in the order of a walk.
    #[must_use]
    pub fn list(&self) -> &[Table] {
        &self.list
    }

    /// A table, before what is in it.
    pub fn table(&mut self, geometry: &Geometry, level: Level, address: u64, frame: u64) {
        let root = geometry.root_level() == level;
        let above = level.next_higher().filter(|_| !root);
        if let Some(above) = above {
            self.entry(above);
        }
        let parent = above.and_then(|above| self.latest(above));
        if let Some(place) = self.path.get_mut(level.index()) {
            *place = Some(self.list.len());
        }
        self.list.push(Table {
            level,
            address,
            frame,
            used: 0,
            parent,
        });
    }

    /// An entry of the latest table of `level`.
    pub fn entry(&mut self, level: Level) {
        let table = self.latest(level);
        if let Some(table) = table.and_then(|table| self.list.get_mut(table)) {
            table.used += 1;
        }
    }

    fn latest(&self, level: Level) -> Option<usize> {
        self.path.get(level.index()).copied().flatten()
    }
}

impl Snapshot {
    /// One without anything in it.
    #[must_use]
    pub fn empty(origin: Origin, geometry: Geometry) -> Self {
        Self {
            origin,
            geometry,
            tables: Tree::default(),
            entries: Vec::new(),
            ranges: Vec::new(),
            regions: Vec::new(),
        }
    }

    /// What a dump has.
    #[must_use]
    pub fn of_dump(path: PathBuf, dump: &mut Dump<'_>, catalogue: &mut Catalogue) -> Self {
        let format = dump.format();
        let origin = Origin {
            path,
            command: "save".to_owned(),
            pid: dump.pid().into(),
            changed: 0,
        };
        let mut snapshot = Self::empty(origin, format.geometry);
        snapshot.regions = regions(&String::from_utf8_lossy(dump.text()));
        let mut numbers = Numbers::new(format);
        for visit in Walk::new(dump) {
            match visit {
                Ok(Visit::Table(table)) => {
                    let (address, frame) = (table.address.0, table.frame.0);
                    let tables = &mut snapshot.tables;
                    tables.table(&format.geometry, table.level, address, frame);
                }
                Ok(Visit::Leaf(found) | Visit::NotValid(found)) => {
                    snapshot.tables.entry(found.level);
                    let (attributes, frame) = numbers.of(&found, catalogue);
                    snapshot.entries.push(Entry {
                        address: found.address.0,
                        descriptor: found.descriptor.0,
                        frame,
                        attributes,
                        level: found.level,
                    });
                }
                Ok(Visit::Changed(_)) => snapshot.origin.changed += 1,
                // A slot that is none: the walk uses those that a dump has.
                Err(_) => break,
            }
        }
        snapshot
    }

    /// Whether the tables themselves are known, and not only what they map.
    #[must_use]
    pub fn has_tables(&self) -> bool {
        !self.tables.list().is_empty()
    }
}

/// Numbers of attributes; those of neighbours are mostly the same.
struct Numbers {
    format: Format,
    last: Option<(tablewalk_walker::Found, u32)>,
}

impl Numbers {
    const fn new(format: Format) -> Self {
        Self { format, last: None }
    }

    fn of(
        &mut self,
        found: &tablewalk_walker::Found,
        catalogue: &mut Catalogue,
    ) -> (u32, Option<u64>) {
        let geometry = &self.format.geometry;
        if let Some((last, number)) = &self.last
            && last.level == found.level
            && last.limits == found.limits
            && found.descriptor.is_valid()
            && (last.descriptor.0 ^ found.descriptor.0) & !addresses(last, found, geometry) == 0
        {
            return (*number, Some(found.frame(geometry).0));
        }
        let (attributes, frame) = Attributes::found(&self.format, found);
        let number = catalogue.number(attributes);
        self.last = Some((*found, number));
        (number, frame.map(|frame| frame.0))
    }
}

/// The bits below 48 in which the output addresses of two entries can differ. Those above, which are
/// elsewhere in a descriptor, count as a difference.
const fn addresses(
    one: &tablewalk_walker::Found,
    other: &tablewalk_walker::Found,
    geometry: &Geometry,
) -> u64 {
    let both = one.output_address(geometry).0 | other.output_address(geometry).0;
    both & ((1 << 48) - 1)
}

/// A text without control characters and what XML knows no character for: pictures of them stand in their
/// place, as U+241B for ESC, so that no name moves a cursor or breaks a picture.
#[must_use]
pub fn printable(text: &str) -> String {
    let picture = |character: char| match character {
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(character)),
        '\x7f' => Some('\u{2421}'),
        '\u{80}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => Some(char::REPLACEMENT_CHARACTER),
        _ => Some(character),
    };
    text.chars().filter_map(picture).collect()
}

/// The mappings that the text of `/proc/PID/maps` tells of.
#[must_use]
pub fn regions(text: &str) -> Vec<Region> {
    let parse = |line: &str| {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let permissions = words.next()?;
        let name = words.nth(3).unwrap_or_default().trim();
        Some(Region {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            permissions: printable(permissions),
            name: printable(name),
        })
    };
    text.lines().filter_map(parse).collect()
}
