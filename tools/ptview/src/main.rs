//! `ptview`: pictures of page tables.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use ptview::error::Error;
use ptview::output::{self, Output};
use ptview::picture::Picture;
use ptview::view::{Request, View};
use ptview::{draw, page, pictures, tree};

/// Makes one HTML page of what `pt` has saved or printed about a process: its address space, its
/// tables, its frames, what was written when, and how two dumps differ.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
FILEs are dumps of `pt save`, or text in which JSON lines of `pt walk`, `maps`, `diff`, `dirty` and
`idle` are (docs/json.md): a captured serial log will do, with lines of the kernel and time stamps.
`-` is the standard input. Several FILEs about one process make one page."
)]
struct Arguments {
    /// Dumps, JSON lines and serial logs
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The page to write; `-` is the standard output [default: ptview.html]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A folder to write each picture to, as NAME.svg; made if it is not there
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
    /// An earlier dump, or `pt walk --json`, to show what is different now
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// The process, if the FILEs are about several
    #[arg(long)]
    pid: Option<u64>,
    /// What stands at the top of the page [default: the process]
    #[arg(long)]
    title: Option<String>,
    /// Take output of `pt` that was cut off
    #[arg(long)]
    partial: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // `--help` and `--version`, too, which are lost if they cannot be printed.
        Err(said) => match said.print() {
            Ok(()) => return u8::try_from(said.exit_code()).map_or(ExitCode::FAILURE, Into::into),
            Err(error) => {
                tell(&format_args!("standard output: {error}"));
                return ExitCode::FAILURE;
            }
        },
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints a message. Nobody can be told if that fails, and `eprintln` would panic.
fn tell(message: &dyn Display) {
    let _ = writeln!(io::stderr(), "ptview: {message}");
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    let request = Request {
        files: arguments.files.clone(),
        before: arguments.before.clone(),
        pid: arguments.pid,
        partial: arguments.partial,
    };
    let page = match (&arguments.output, &arguments.svg) {
        (Some(page), _) => Some(page.clone()),
        (None, Some(_)) => None,
        (None, None) => Some(PathBuf::from("ptview.html")),
    };
    let view = View::read(&request, &mut |warning| tell(&warning))?;
    let pictures = pictures::all(&view);
    // Everything is written before anything takes its place.
    let mut outputs = Vec::new();
    if let Some(page) = &page {
        let html = page::html(&view, &pictures, arguments.title.as_deref())?;
        outputs.push(Output::prepare(page, html.as_bytes())?);
    }
    if let Some(folder) = &arguments.svg {
        outputs.extend(drawings(folder, &view, &pictures)?);
    }
    let inputs: Vec<_> = request.files.iter().chain(&request.before).collect();
    output::check(&outputs, &inputs)?;
    outputs.into_iter().try_for_each(Output::publish)
}

/// A file for each picture, in a folder that is made if only that is missing.
fn drawings(folder: &Path, view: &View, pictures: &[Picture]) -> Result<Vec<Output>, Error> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let path = folder.to_owned();
            return Err(Error::Io { path, error });
        }
        _ => {}
    }
    let mut outputs = Vec::new();
    for picture in pictures {
        let path = folder.join(picture.name).with_extension("svg");
        let text = draw::document(picture).to_string();
        outputs.push(Output::prepare(&path, text.as_bytes())?);
    }
    if let Some(document) = tree::document(view) {
        let text = document.to_string();
        outputs.push(Output::prepare(
            &folder.join("tables.svg"),
            text.as_bytes(),
        )?);
    }
    Ok(outputs)
}
