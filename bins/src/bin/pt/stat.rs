//! `pt stat`: statistics.

use core::fmt;

use tablewalk_rt::{ExitCode, print, println};
use tablewalk_walker::{Access, Format, Found, Kind, Level, MemoryType, Visit};

use crate::Ended;
use crate::attributes::{Attributes, FLAGS};
use crate::error::Error;
use crate::json::Json;
use crate::options::Options;
use crate::progress::Progress;
use crate::subject::Subject;

/// The numbers of one level.
#[derive(Clone, Copy, Default)]
struct LevelNumbers {
    tables: u64,
    /// Descriptors that are not 0.
    entries: u64,
    leaves: u64,
    /// Leaves with the Contiguous bit.
    contiguous: u64,
}

/// The words of [`Attributes::word`] for entries that are not valid.
const ABSENT: [&str; 7] = [
    "noacc", "swap", "moving", "poison", "device", "marker", "other",
];

/// All other numbers are pages.
#[derive(Default)]
struct Numbers {
    levels: [LevelNumbers; Level::ALL.len()],
    mapped: u64,
    /// By permissions at EL0: bit 0 read, 1 write, 2 execute.
    access: [u64; 8],
    /// By AttrIndx.
    memory: [u64; 8],
    flags: [u64; 9],
    absent: [u64; 7],
    changed: u64,
}

#[inline(never)]
pub(crate) fn run(subject: &mut Subject, options: &Options) -> Result<Ended, Error> {
    let format = subject.format;
    let mut numbers = Numbers::default();
    let mut progress = Progress::start();
    for visit in options.walk(&mut subject.source).gathering() {
        match visit? {
            Visit::Table(table) => {
                progress.at(table.address);
                numbers.level(table.level).tables += 1;
                if let Some(above) = table.level.next_higher()
                    && table.level != format.geometry.root_level()
                {
                    numbers.level(above).entries += 1;
                }
            }
            Visit::Leaf(found) | Visit::NotValid(found) => numbers.count(&format, &found),
            Visit::Changed(_) => numbers.changed += 1,
        }
    }
    if options.json {
        numbers.write(&format);
    } else {
        numbers.print(&format);
    }
    Ok((ExitCode::SUCCESS, numbers.changed))
}

fn add(numbers: &mut [u64], index: usize, pages: u64) {
    if let Some(number) = numbers.get_mut(index) {
        *number += pages;
    }
}

/// Returns the index of `access` in [`Numbers::access`].
fn index_of(access: Access) -> usize {
    usize::from(access.read) | usize::from(access.write) << 1 | usize::from(access.execute) << 2
}

fn access_of(index: usize) -> Access {
    Access {
        read: index & 1 != 0,
        write: index & 2 != 0,
        execute: index & 4 != 0,
    }
}

impl Numbers {
    fn level(&mut self, level: Level) -> &mut LevelNumbers {
        let [above, l0, l1, l2, l3] = &mut self.levels;
        match level {
            Level::LMinus1 => above,
            Level::L0 => l0,
            Level::L1 => l1,
            Level::L2 => l2,
            Level::L3 => l3,
        }
    }

    fn count(&mut self, format: &Format, found: &Found) {
        let attributes = Attributes {
            format,
            level: found.level,
            descriptor: found.descriptor,
            limits: found.limits,
        };
        let descriptor = found.descriptor;
        let pages = found.pages(&format.geometry);
        self.level(found.level).entries += 1;
        if attributes.kind() == Kind::Invalid {
            let word = attributes.word();
            if let Some(kind) = ABSENT.iter().position(|&kind| kind == word) {
                add(&mut self.absent, kind, pages);
            }
            return;
        }
        self.mapped += pages;
        let level = self.level(found.level);
        level.leaves += 1;
        level.contiguous += u64::from(descriptor.is_contiguous());
        add(&mut self.access, index_of(attributes.access()), pages);
        add(&mut self.memory, descriptor.attr_index().into(), pages);
        for (index, _) in attributes.flags() {
            add(&mut self.flags, index, pages);
        }
    }

    fn tables(&self) -> u64 {
        self.levels.iter().map(|level| level.tables).sum()
    }

    fn print(&self, format: &Format) {
        let geometry = &format.geometry;
        println!("LEVEL  TABLES    ENTRIES     LEAVES CONTIGUOUS  OF SIZE");
        for (level, numbers) in Level::ALL.into_iter().zip(&self.levels) {
            if level < geometry.root_level() {
                continue;
            }
            let name = geometry.level_name(level);
            let LevelNumbers {
                tables,
                entries,
                leaves,
                contiguous,
            } = numbers;
            let size = Size(geometry.entry_size(level));
            println!("{level} {name} {tables:7} {entries:10} {leaves:10} {contiguous:10}  {size}");
        }
        let (bytes, mapped) = (
            self.tables() * geometry.page_size(),
            self.mapped * geometry.page_size(),
        );
        print!("tables {}, {}: ", self.tables(), Size(bytes));
        // In units of 0.01%.
        match (bytes * 10_000).checked_div(mapped) {
            Some(share) => print!(
                "{}.{:02} % of {} mapped",
                share / 100,
                share % 100,
                Size(mapped)
            ),
            None => print!("nothing mapped"),
        }
        let mut last = "";
        self.for_each_pages(format, &mut |by, name, pages| {
            if by == last {
                print!(", {name} {pages}");
            } else {
                print!("\npages by {by}: {name} {pages}");
            }
            last = by;
        });
        println!("");
    }

    /// Calls `visit` with each classification, class and number of pages that is not 0.
    fn for_each_pages(
        &self,
        format: &Format,
        visit: &mut dyn FnMut(&'static str, &dyn fmt::Display, u64),
    ) {
        let mut visit = |by, name: &dyn fmt::Display, pages: u64| {
            if pages != 0 {
                visit(by, name, pages);
            }
        };
        let by = if format.geometry.is_kernel() {
            "el1"
        } else {
            "el0"
        };
        for (index, pages) in self.access.into_iter().enumerate() {
            visit(by, &access_of(index), pages);
        }
        for (byte, pages) in format.mair.to_le_bytes().into_iter().zip(self.memory) {
            visit("memory", &MemoryType(byte), pages);
        }
        for ((_, name), pages) in FLAGS.into_iter().zip(self.flags) {
            visit("flag", &name, pages);
        }
        for (name, pages) in ABSENT.into_iter().zip(self.absent) {
            visit("absent", &name, pages);
        }
    }

    fn write(&self, format: &Format) {
        let geometry = &format.geometry;
        for (level, numbers) in Level::ALL.into_iter().zip(&self.levels) {
            if level < geometry.root_level() {
                continue;
            }
            Json::new("level")
                .level(level)
                .text("name", geometry.level_name(level))
                .number("entry_size", geometry.entry_size(level))
                .number("tables", numbers.tables)
                .number("entries", numbers.entries)
                .number("leaves", numbers.leaves)
                .number("contiguous", numbers.contiguous);
        }
        Json::new("total")
            .number("tables", self.tables())
            .number("table_bytes", self.tables() * geometry.page_size())
            .number("pages", self.mapped)
            .number("mapped_bytes", self.mapped * geometry.page_size());
        self.for_each_pages(format, &mut |by, name, pages| {
            Json::new("pages")
                .text("by", by)
                .text("name", name)
                .number("pages", pages);
        });
    }
}

/// Bytes in the largest unit that leaves a whole number.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut size = self.0;
        let mut unit = "B";
        for next in units {
            unit = next;
            if size == 0 || !size.is_multiple_of(1024) {
                break;
            }
            size /= 1024;
        }
        write!(f, "{size} {unit}")
    }
}
