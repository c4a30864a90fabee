//! What is shown: of all that was read, the tables of one process, what they are compared with, and
//! what happened to its pages.

use std::fs::{self, File};
use std::io::{self, BufReader, Cursor, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tablewalk_walker::Geometry;
use tablewalk_walker::dump::{Dump, DumpError, HEADER_SIZE};

use crate::attributes::{Attributes, Catalogue};
use crate::difference::{self, Change};
use crate::error::Error;
use crate::heat::Heat;
use crate::runs::{self, FrameRun, Lengths, Run};
use crate::sections::{self, Section};
use crate::snapshot::{Region, Snapshot, printable};

/// How a dump begins: `tablewalk_walker::dump`.
const MAGIC: &[u8] = b"pgtables";

/// Most runs and tables on a page: beyond, detail is left out.
pub const MOST_RUNS: usize = 40_000;

/// What was asked for.
#[derive(Clone, Default, Debug)]
pub struct Request {
    /// Files to read; `-` is the standard input.
    pub files: Vec<PathBuf>,
    /// A file with an earlier time.
    pub before: Option<PathBuf>,
    /// The process, if there are several.
    pub pid: Option<u64>,
    /// Whether to take output that was cut off.
    pub partial: bool,
}

/// What is shown.
#[derive(Clone, Debug)]
pub struct View {
    /// Every combination of attributes.
    pub catalogue: Catalogue,
    /// The process.
    pub pid: u64,
    /// The shape of its tables.
    pub geometry: Geometry,
    /// Its tables, if they were among what was read.
    pub snapshot: Option<Snapshot>,
    /// Its runs, as many as fit, and the pages of a block in which several became one (1: none).
    pub runs: (Vec<Run>, u64),
    /// Its runs of frames: all of them.
    pub frames: Vec<FrameRun>,
    /// Their lengths.
    pub lengths: Lengths,
    /// What is different from before, if that is known.
    pub changes: Option<Vec<Change>>,
    /// What happened to pages.
    pub heats: Vec<Heat>,
    /// Everything that was read, in words.
    pub sources: Vec<String>,
    /// Mappings that are left out: the smallest, if there are too many.
    pub left_out: usize,
}

impl View {
    /// Reads the files of `request` and takes from them what is shown. What `warn` is given is worth
    /// saying.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn read(request: &Request, warn: &mut dyn FnMut(String)) -> Result<Self, Error> {
        let mut catalogue = Catalogue::default();
        let mut sections = Vec::new();
        for path in &request.files {
            sections.extend(read_file(path, request.partial, &mut catalogue)?);
        }
        let pid = choose(&sections, request.pid)?;
        sections.retain(|section| section.snapshot.origin.pid == pid);
        let geometry = same_geometry(&sections)?;
        let sources = sections.iter().map(source).collect();
        let before = match &request.before {
            Some(path) => Some(read_before(path, request.partial, &mut catalogue)?),
            None => None,
        };
        let mut heats: Vec<Heat> = Vec::new();
        let mut changes = None;
        for section in &mut sections {
            if !section.rounds.is_empty() {
                let rounds = std::mem::take(&mut section.rounds).into_values();
                let heat = Heat::new(section.snapshot.origin.command.clone(), rounds);
                if heats.iter().any(|known| known.command == heat.command) {
                    let (command, path) = (&heat.command, section.snapshot.origin.path.display());
                    warn(format!(
                        "`pt {command}` of one process twice: the later one, in {path}, is shown"
                    ));
                    heats.retain(|known| known.command != heat.command);
                }
                heats.push(heat);
            } else if section.snapshot.origin.command == "diff" {
                changes = Some(difference::join(std::mem::take(&mut section.changes)));
            }
        }
        let snapshot = best(sections, warn);
        if let Some(before) = &before {
            changes = Some(compare(before, snapshot.as_ref(), request)?);
        }
        let geometry = geometry.ok_or_else(|| nothing(request))?;
        Ok(Self::new(
            catalogue, pid, geometry, snapshot, changes, heats, sources,
        ))
    }

    fn new(
        catalogue: Catalogue,
        pid: u64,
        geometry: Geometry,
        mut snapshot: Option<Snapshot>,
        changes: Option<Vec<Change>>,
        heats: Vec<Heat>,
        sources: Vec<String>,
    ) -> Self {
        let left_out = snapshot
            .as_mut()
            .map_or(0, |snapshot| largest(&mut snapshot.regions));
        let all = snapshot.as_ref().map(runs::runs).unwrap_or_default();
        let frames = snapshot
            .as_ref()
            .map(|snapshot| runs::frame_runs(snapshot, &catalogue));
        let frames = frames.unwrap_or_default();
        Self {
            pid,
            geometry,
            runs: runs::coarsen(all, MOST_RUNS),
            lengths: Lengths::new(&frames),
            frames,
            catalogue,
            snapshot,
            changes,
            heats,
            sources,
            left_out,
        }
    }

    /// The attributes of its runs.
    pub fn attributes(&self) -> impl Iterator<Item = &Attributes> {
        self.runs
            .0
            .iter()
            .map(|run| self.catalogue.of(run.attributes))
    }

    /// The mappings, if they are known.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        self.snapshot
            .as_ref()
            .map_or(&[], |snapshot| &snapshot.regions)
    }
}

fn nothing(request: &Request) -> Error {
    let path = request.files.first().cloned().unwrap_or_default();
    Error::Nothing { path }
}

/// The shape of the tables of all: addresses of one are none of another.
fn same_geometry(sections: &[Section]) -> Result<Option<Geometry>, Error> {
    let mut snapshots = sections.iter().map(|section| &section.snapshot);
    let Some(first) = snapshots.next() else {
        return Ok(None);
    };
    match snapshots.find(|snapshot| snapshot.geometry != first.geometry) {
        Some(other) => Err(Error::Geometries {
            paths: [first.origin.path.clone(), other.origin.path.clone()],
            before: shape(&first.geometry),
            now: shape(&other.geometry),
        }),
        None => Ok(Some(first.geometry)),
    }
}

/// Leaves the largest regions, if there are more than a page can have; how many it takes away.
fn largest(regions: &mut Vec<Region>) -> usize {
    let left_out = regions.len().saturating_sub(MOST_RUNS);
    if left_out > 0 {
        regions.sort_by_key(|region| std::cmp::Reverse(region.end.saturating_sub(region.start)));
        regions.truncate(MOST_RUNS);
        regions.sort_by_key(|region| region.start);
    }
    left_out
}

/// `walk of process 30 in FILE`.
fn source(section: &Section) -> String {
    let origin = &section.snapshot.origin;
    let changed = match origin.changed {
        0 => String::new(),
        changed => format!(" (tables that changed meanwhile and are missing: {changed})"),
    };
    printable(&format!(
        "pt {} in {}{changed}",
        origin.command,
        origin.path.display()
    ))
}

/// What is in a file: one dump, or the output of commands.
fn read_file(path: &Path, partial: bool, catalogue: &mut Catalogue) -> Result<Vec<Section>, Error> {
    let io = |error| Error::Io {
        path: path.to_owned(),
        error,
    };
    let mut file: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(io)?)
    };
    let mut start = Vec::new();
    file.by_ref()
        .take(MAGIC.len() as u64)
        .read_to_end(&mut start)
        .map_err(io)?;
    let is_dump = start == MAGIC;
    let rest = Cursor::new(start).chain(file);
    let sections = if is_dump {
        vec![read_dump(path, rest, catalogue)?]
    } else {
        sections::read(path, BufReader::new(rest), partial, catalogue)?
    };
    if sections.is_empty() {
        let path = path.to_owned();
        return Err(Error::Nothing { path });
    }
    Ok(sections)
}

fn read_dump(
    path: &Path,
    mut file: impl Read,
    catalogue: &mut Catalogue,
) -> Result<Section, Error> {
    let io = |error| Error::Io {
        path: path.to_owned(),
        error,
    };
    let mut bytes = Vec::new();
    let header = file.by_ref().take(HEADER_SIZE as u64);
    { header }.read_to_end(&mut bytes).map_err(io)?;
    // A header by itself says how long the whole is, which is no reason to believe that there is room.
    if let Err(DumpError::Length {
        expected: Some(size),
        ..
    }) = Dump::from_bytes(&mut bytes)
    {
        let rest = size.saturating_sub(bytes.len() as u64).saturating_add(1);
        file.take(rest).read_to_end(&mut bytes).map_err(io)?;
    }
    // A vector of bytes begins at a multiple of 8 with every allocator that there is; if not, the
    // dump says so.
    let mut dump = Dump::from_bytes(&mut bytes).map_err(|error| Error::Dump {
        path: path.to_owned(),
        error,
    })?;
    let snapshot = Snapshot::of_dump(path.to_owned(), &mut dump, catalogue);
    Ok(Section::of_snapshot(snapshot))
}

/// The tables of an earlier time.
fn read_before(path: &Path, partial: bool, catalogue: &mut Catalogue) -> Result<Snapshot, Error> {
    let sections = read_file(path, partial, catalogue)?;
    let mut snapshots = sections.into_iter().map(|section| section.snapshot);
    let found = snapshots.rfind(Snapshot::has_tables);
    found.ok_or_else(|| Error::NoTables {
        path: path.to_owned(),
    })
}

fn compare(
    before: &Snapshot,
    now: Option<&Snapshot>,
    request: &Request,
) -> Result<Vec<Change>, Error> {
    let now = now
        .filter(|now| now.has_tables())
        .ok_or_else(|| Error::NoTables {
            path: request.files.first().cloned().unwrap_or_default(),
        })?;
    if before.geometry != now.geometry {
        return Err(Error::Geometries {
            paths: [before.origin.path.clone(), now.origin.path.clone()],
            before: shape(&before.geometry),
            now: shape(&now.geometry),
        });
    }
    Ok(difference::compare(before, now))
}

/// `4 KiB pages, 39-bit addresses, 3 levels`.
#[must_use]
pub fn shape(geometry: &Geometry) -> String {
    format!(
        "{} KiB pages, {}-bit addresses, {} levels",
        geometry.page_size() >> 10,
        geometry.va_bits(),
        geometry.levels()
    )
}

/// The process to show: that which was asked for, or the only one.
fn choose(sections: &[Section], wanted: Option<u64>) -> Result<u64, Error> {
    let mut pids: Vec<_> = sections
        .iter()
        .map(|section| section.snapshot.origin.pid)
        .collect();
    pids.sort_unstable();
    pids.dedup();
    match (wanted, pids.as_slice()) {
        (Some(pid), _) if pids.contains(&pid) => Ok(pid),
        (Some(pid), _) => Err(Error::NoProcess { pid, pids }),
        (None, &[pid]) => Ok(pid),
        (None, _) => Err(Error::Processes { pids }),
    }
}

/// The snapshot that knows most, the last of those that know the same; with the names that only
/// another one knows.
fn best(sections: Vec<Section>, warn: &mut dyn FnMut(String)) -> Option<Snapshot> {
    let rank = |snapshot: &Snapshot| match () {
        () if snapshot.has_tables() => 2,
        () if !snapshot.ranges.is_empty() => 1,
        () => 0,
    };
    let snapshots: Vec<_> = sections
        .into_iter()
        .map(|section| section.snapshot)
        .collect();
    let most = snapshots.iter().map(rank).max().filter(|&most| most > 0)?;
    let equal = snapshots
        .iter()
        .filter(|snapshot| rank(snapshot) == most)
        .count();
    let named = snapshots
        .iter()
        .rfind(|snapshot| !snapshot.regions.is_empty());
    let regions = named
        .map(|snapshot| snapshot.regions.clone())
        .unwrap_or_default();
    let mut found = snapshots
        .into_iter()
        .rfind(|snapshot| rank(snapshot) == most)?;
    if equal > 1 {
        let path = found.origin.path.display();
        warn(format!(
            "{equal} times the tables of one process: those of {path} are shown"
        ));
    }
    if found.regions.is_empty() {
        found.regions = regions;
    }
    Some(found)
}

/// Whether two paths lead to the same file, by whatever name.
#[must_use]
pub fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}
