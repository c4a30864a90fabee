//! What commands of `pt` have printed, out of their lines.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

use tablewalk_walker::{Geometry, Level, VirtualAddress};

use crate::attributes::{Attributes, Catalogue};
use crate::difference::Change;
use crate::error::{Error, LineError};
use crate::heat::{Round, Span, SpanKind};
use crate::lines::Objects;
use crate::record::{self, Hex, Record};
use crate::runs::Run;
use crate::snapshot::{Entry, Origin, Region, Snapshot, printable};

/// What one command has printed.
#[derive(Clone, Debug)]
pub struct Section {
    /// Tables, entries, ranges.
    pub snapshot: Snapshot,
    /// Whether it was of the process, and not of a file.
    pub live: bool,
    /// What changed between two dumps (`diff` of files).
    pub changes: Vec<Change>,
    /// Looks at a running process (`dirty`, `idle`, `diff` of a process).
    pub rounds: BTreeMap<u64, Round>,
}

impl Section {
    fn begin(path: &Path, header: &record::Header) -> Result<Self, LineError> {
        if header.schema != "tablewalk.pt" {
            return Err(LineError::Schema(header.schema.clone()));
        }
        // Version 2 says more of pages that were not written for certain.
        if !(1..=2).contains(&header.version) {
            return Err(LineError::Version(header.version));
        }
        let mut geometry = Geometry::new(header.page_shift, header.va_bits, header.oa_bits)?;
        if header.kernel {
            geometry = geometry.of_kernel();
        }
        let origin = Origin {
            path: path.to_owned(),
            command: header.command.clone(),
            pid: header.pid,
            changed: 0,
        };
        let mut section = Self::of_snapshot(Snapshot::empty(origin, geometry));
        section.live = header.live;
        Ok(section)
    }

    /// One that has nothing but this.
    pub(crate) const fn of_snapshot(snapshot: Snapshot) -> Self {
        Self {
            snapshot,
            live: false,
            changes: Vec::new(),
            rounds: BTreeMap::new(),
        }
    }

    /// Takes in an object that is neither the first nor the last.
    fn add(&mut self, record: Record, catalogue: &mut Catalogue) -> Result<(), LineError> {
        match record {
            Record::Table(table) => self.add_table(&table),
            Record::Entry(entry) => self.add_entry(&entry, catalogue),
            Record::Range(range) => self.add_range(range, catalogue),
            Record::Change(change) => self.add_change(&change),
            Record::Round(round) => {
                self.add_round(&round);
                Ok(())
            }
            Record::Run(run) => self.add_run(&run),
            Record::Header(_) | Record::End(_) | Record::Other => Ok(()),
        }
    }

    fn add_table(&mut self, table: &record::Table) -> Result<(), LineError> {
        let level = self.level(table.level)?;
        let geometry = self.snapshot.geometry;
        let address = self.aligned("address", table.address, geometry.span_shift(level))?;
        let tables = &mut self.snapshot.tables;
        if let Some(last) = tables.list().last()
            && (last.address, last.level) >= (address, level)
        {
            return Err(value(
                "address",
                table.address.0,
                "not behind the table before",
            ));
        }
        tables.table(&geometry, level, address, table.frame.0);
        Ok(())
    }

    fn add_entry(
        &mut self,
        entry: &record::Entry,
        catalogue: &mut Catalogue,
    ) -> Result<(), LineError> {
        let level = self.level(entry.level)?;
        let geometry = self.snapshot.geometry;
        let address = self.aligned("address", entry.address, geometry.level_shift(level))?;
        if entry.size != geometry.entry_size(level) {
            return Err(value(
                "size",
                entry.size,
                "not that of an entry of its level",
            ));
        }
        if let Some(last) = self.snapshot.entries.last()
            && last.address + geometry.entry_size(last.level) > address
        {
            return Err(value("address", address, "not behind the entry before"));
        }
        let pages = geometry.entry_size(level) >> geometry.page_shift();
        let frame = frame("frame", entry.said.frame, pages)?;
        self.snapshot.tables.entry(level);
        self.snapshot.entries.push(Entry {
            address,
            descriptor: entry.said.descriptor.0,
            frame,
            attributes: catalogue.number(Attributes::said(&entry.said)),
            level,
        });
        Ok(())
    }

    fn add_range(
        &mut self,
        range: record::Range,
        catalogue: &mut Catalogue,
    ) -> Result<(), LineError> {
        let level = self.level(range.level)?;
        let (start, end) = self.pages(range.start, range.end, range.pages)?;
        let frame = frame("first_frame", range.first_frame, range.pages)?;
        if let Some(last) = self.snapshot.ranges.last()
            && last.end > start
        {
            return Err(value("start", range.start.0, "not behind the range before"));
        }
        if range.vma.is_some() || range.name.is_some() {
            let region = Region {
                start: range.start.0,
                end: range.end.0,
                permissions: printable(&range.vma.unwrap_or_default()),
                name: printable(&range.name.unwrap_or_default()),
            };
            self.add_region(region);
        }
        self.snapshot.ranges.push(Run {
            start,
            end,
            level,
            attributes: catalogue.number(Attributes::said(&range.said)),
            descriptor: range.said.descriptor.0,
            frame,
            consecutive: range.consecutive && frame.is_some(),
            joined: 1,
        });
        Ok(())
    }

    /// Ranges next to each other in one mapping have the same name.
    fn add_region(&mut self, region: Region) {
        match self.snapshot.regions.last_mut() {
            Some(last)
                if last.end == region.start
                    && last.name == region.name
                    && last.permissions == region.permissions =>
            {
                last.end = region.end;
            }
            _ => self.snapshot.regions.push(region),
        }
    }

    fn add_change(&mut self, change: &record::Change) -> Result<(), LineError> {
        let level = self.level(change.level)?;
        let geometry = self.snapshot.geometry;
        let address = self.aligned("address", change.address, geometry.level_shift(level))?;
        if change.old == change.descriptor {
            return Err(value(
                "old",
                change.old.0,
                "not different from the descriptor",
            ));
        }
        let change = Change::new(&geometry, level, address, change.old.0, change.descriptor.0);
        self.changes.push(change);
        Ok(())
    }

    fn add_round(&mut self, round: &record::Round) {
        // `diff` does not number its looks; what it saw came before.
        let number = round.round.unwrap_or(self.rounds.len() as u64 + 1);
        let seen = std::mem::take(&mut self.changes);
        let found = self.round(number);
        found.time_ms = Some(round.time_ms);
        found.pages = round.pages;
        found.spans.extend(
            seen.iter()
                .filter(|change| !change.table)
                .map(Span::changed),
        );
    }

    fn add_run(&mut self, run: &record::Run) -> Result<(), LineError> {
        let (start, end) = self.pages(run.start, run.end, run.pages)?;
        let kind =
            SpanKind::named(&run.kind).ok_or_else(|| LineError::RunKind(run.kind.clone()))?;
        self.round(run.round).spans.push(Span { start, end, kind });
        Ok(())
    }

    fn round(&mut self, number: u64) -> &mut Round {
        self.rounds
            .entry(number)
            .or_insert_with(|| Round::new(number))
    }

    fn level(&self, number: i8) -> Result<Level, LineError> {
        let level = Level::try_from(number).ok();
        let level = level.filter(|level| *level >= self.snapshot.geometry.root_level());
        level.ok_or(LineError::Level(number))
    }

    /// An address at a multiple of what an entry or table translates.
    fn aligned(&self, member: &'static str, hex: Hex, shift: u32) -> Result<u64, LineError> {
        let address = VirtualAddress(hex.0);
        if !self.snapshot.geometry.contains(address) {
            return Err(value(member, hex.0, "more bits than an address has"));
        }
        if address.align_down(shift) != address {
            return Err(value(member, hex.0, "no first address of its level"));
        }
        Ok(hex.0)
    }

    /// From and to, in pages.
    fn pages(&self, start: Hex, end: Hex, pages: u64) -> Result<(u64, u64), LineError> {
        let shift = self.snapshot.geometry.page_shift();
        self.aligned("start", start, shift)?;
        if end.0 <= start.0 {
            return Err(value("end", end.0, "not behind the start"));
        }
        self.aligned("end", Hex(end.0 - (1 << shift)), shift)?;
        let (start, end) = (start.0 >> shift, end.0 >> shift);
        if end - start != pages {
            return Err(value("pages", pages, "not those from start to end"));
        }
        Ok((start, end))
    }
}

/// A first frame of so many that each has a number of at most 52 bits.
fn frame(member: &'static str, first: Option<Hex>, pages: u64) -> Result<Option<u64>, LineError> {
    match first {
        Some(Hex(first)) if first.saturating_add(pages) > 1 << 52 => {
            Err(value(member, first, "more bits than a frame number has"))
        }
        first => Ok(first.map(|frame| frame.0)),
    }
}

const fn value(member: &'static str, value: u64, why: &'static str) -> LineError {
    LineError::Value { member, value, why }
}

/// What the commands have printed whose output is in `reader`.
///
/// # Errors
///
/// Of the reader, and of the first line that is not as `docs/json.md` has it; output without its end,
/// unless `partial` is true: then the last line of each may be a part of one.
pub fn read(
    path: &Path,
    reader: impl BufRead,
    partial: bool,
    catalogue: &mut Catalogue,
) -> Result<Vec<Section>, Error> {
    let path = path.to_owned();
    let at = |line, what| Error::Line {
        path: path.clone(),
        line,
        what,
    };
    let io = |error| Error::Io {
        path: path.clone(),
        error,
    };
    let mut objects = Objects::new(reader);
    let mut sections = Vec::new();
    // The one that is being read, and the line of its header.
    let mut open: Option<(u64, Section)> = None;
    // A line that is none, behind which nothing of its section may come.
    let mut cut: Option<Error> = None;
    loop {
        let object = match objects.next_object().map_err(io)? {
            Ok(Some(object)) => object,
            Ok(None) => break,
            Err((line, what))
                if partial && cut.is_none() && (open.is_some() || !sections.is_empty()) =>
            {
                cut = Some(at(line, what));
                continue;
            }
            Err((line, what)) => return Err(cut.unwrap_or_else(|| at(line, what))),
        };
        let record = Record::parse(&object).map_err(|what| at(object.line, what))?;
        match (cut.take(), &record) {
            (None, _) | (_, Record::Header(_)) => {}
            (Some(error), _) => return Err(error),
        }
        match record {
            Record::Header(header) => {
                let next = Section::begin(&path, &header).map_err(|what| at(object.line, what))?;
                if let Some((line, section)) = open.replace((object.line, next)) {
                    sections.push(finish(&path, line, section, partial)?);
                }
            }
            Record::End(end) => {
                let Some((_, mut section)) = open.take() else {
                    return Err(at(object.line, LineError::NoHeader("end")));
                };
                section.snapshot.origin.changed = end.changed;
                sections.push(section);
            }
            Record::Other => {}
            record => {
                let Some((_, section)) = &mut open else {
                    return Err(at(object.line, LineError::NoHeader(record.name())));
                };
                section
                    .add(record, catalogue)
                    .map_err(|what| at(object.line, what))?;
            }
        }
    }
    if let Some((line, section)) = open {
        sections.push(finish(&path, line, section, partial)?);
    }
    Ok(sections)
}

/// One that has no end.
fn finish(path: &Path, line: u64, section: Section, partial: bool) -> Result<Section, Error> {
    if partial {
        return Ok(section);
    }
    let command = section.snapshot.origin.command;
    Err(Error::Line {
        path: path.to_owned(),
        line,
        what: LineError::CutOff { command },
    })
}
