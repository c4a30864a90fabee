//! What can be wrong with what is read and written.

use std::io;
use std::path::PathBuf;

use tablewalk_walker::GeometryError;
use tablewalk_walker::dump::DumpError;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the members are")]
pub enum Error {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: {error}", path.display())]
    Dump { path: PathBuf, error: DumpError },
    #[error("{}: no dump of `pt save`, and no line of `pt --json`", path.display())]
    Nothing { path: PathBuf },
    #[error("{}:{line}: {what}", path.display())]
    Line {
        path: PathBuf,
        line: u64,
        what: LineError,
    },
    #[error("{}: is read and would be written", path.display())]
    Overwrite { path: PathBuf },
    #[error("{}: would be written twice", path.display())]
    Twice { path: PathBuf },
    #[error("several processes: {}; choose one with --pid", list(pids))]
    Processes { pids: Vec<u64> },
    #[error("no process {pid}; there is {}", list(pids))]
    NoProcess { pid: u64, pids: Vec<u64> },
    #[error("{}: no tables; a difference needs a dump or `pt walk --json`", path.display())]
    NoTables { path: PathBuf },
    #[error("{} has tables of {now}, {} of {before}", paths[1].display(), paths[0].display())]
    Geometries {
        paths: [PathBuf; 2],
        before: String,
        now: String,
    },
    #[error("the page: {0}")]
    Page(#[from] askama::Error),
    #[error("the data of the page: {0}")]
    Data(#[from] serde_json::Error),
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the members are")]
pub enum LineError {
    #[error("{message}, at column {column}: `{text}`")]
    Json {
        message: String,
        column: usize,
        text: String,
    },
    #[error("`{text}` behind an object")]
    Behind { text: String },
    #[error("schema `{0}`, not `tablewalk.pt`")]
    Schema(String),
    #[error("version {0} of the schema, not 1 or 2")]
    Version(u64),
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    #[error("page_shift {0}: out of range")]
    PageShift(u64),
    #[error("`{0}` before any `header`")]
    NoHeader(&'static str),
    #[error("`pt {command}` has no end: it was cut off (--partial takes what there is)")]
    CutOff { command: String },
    #[error("{member} {value:#x}: {why}")]
    Value {
        member: &'static str,
        value: u64,
        why: &'static str,
    },
    #[error("level {0}: no lookup level of these tables")]
    Level(i8),
    #[error("kind `{0}`: not dirty, accessed, away, busy, new or absent")]
    RunKind(String),
}

fn list(numbers: &[u64]) -> String {
    let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
    numbers.join(", ")
}
