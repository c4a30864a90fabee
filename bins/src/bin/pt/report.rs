//! Output that several commands share: the first line, the last, and lines about ranges of entries.

use core::ascii;
use core::fmt::{self, Write};
use core::iter::Peekable;

use tablewalk_proc::lines::parse_range;
use tablewalk_rt::{Count, print, println};
use tablewalk_walker::{Format, FrameNumber, Run};

use crate::attributes::Attributes;
use crate::json::{Json, VERSION};
use crate::options::Options;
use crate::subject::{Source, Subject};

/// Prints the owner and the shape of the tables.
pub(crate) fn begin(command: &str, subject: &Subject, options: &Options) {
    let Format { geometry, mair, .. } = subject.format;
    let tag = options.tag;
    let (source, promise) = subject.source.promise();
    if options.json {
        let mut json = Json::new("header");
        json.text("schema", "tablewalk.pt")
            .number("version", VERSION)
            .text("command", command)
            .number("pid", subject.pid().into())
            .flag("live", !matches!(subject.source, Source::Saved(_)))
            .text("source", source)
            .text("promise", promise)
            .number("page_shift", geometry.page_shift().into())
            .number("va_bits", geometry.va_bits().into())
            .number("oa_bits", geometry.oa_bits().into())
            .number("levels", geometry.levels().into())
            .hex("mair", mair);
        if tag != 0 {
            json.hex("tag", tag);
        }
        if geometry.is_kernel() {
            json.flag("kernel", true);
        }
    } else {
        println!(
            "{subject}: {} KiB pages, {}-bit addresses, {} levels, {source}: {promise}",
            geometry.page_size() >> 10,
            geometry.va_bits(),
            u64::from(geometry.levels())
        );
        if tag != 0 {
            println!("# tag {tag:#x} of --range");
        }
    }
}

/// Prints that the output is complete, and how many tables vanished before they could be read, or are not in
/// the file.
pub(crate) fn end(options: &Options, changed: u64, in_file: bool) {
    if options.json {
        Json::new("end").number("changed", changed);
    } else if changed != 0 && in_file {
        println!(
            "{} not in this file",
            Count(changed, "table is", "tables are")
        );
    } else if changed != 0 {
        println!(
            "not shown: {} that changed while being read",
            Count(changed, "table", "tables")
        );
    }
}

/// The same for all processes, with the number of processes whose tables could not be verified because no
/// page was in memory.
pub(crate) fn end_of_all(options: &Options, changed: u64, unproved: u64) {
    if options.json {
        Json::new("end")
            .number("changed", changed)
            .number("unproved", unproved);
        return;
    }
    end(options, changed, false);
    if unproved != 0 {
        println!(
            "not shown: {} without a page in memory to prove the tables by",
            Count(unproved, "process", "processes")
        );
    }
}

/// A mapping of a process.
pub(crate) struct Vma<'a> {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) permissions: &'a [u8],
    pub(crate) name: &'a [u8],
}

/// Iterates over the mappings in `/proc/PID/maps`, in address order.
pub(crate) fn vmas(maps: &[u8]) -> impl Iterator<Item = Vma<'_>> {
    maps.split(|&byte| byte == b'\n').filter_map(|line| {
        let (start, end) = parse_range(line)?;
        // Range, permissions, offset, device, inode; then the path, which may contain spaces.
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let permissions = fields.nth(1).unwrap_or_default();
        Some(Vma {
            start,
            end,
            permissions,
            name: fields.nth(3).unwrap_or_default().trim_ascii(),
        })
    })
}

/// A part of a run, and its address range.
struct Range<'a> {
    run: &'a Run,
    start: u64,
    end: u64,
    vma: Option<&'a Vma<'a>>,
}

/// Prints a line for each mapping that `run` overlaps, since a run continues across mappings whose entries
/// are equal. `vmas` are the mappings that end after the previous runs.
pub(crate) fn print_run<'a>(
    format: &Format,
    run: &Run,
    vmas: &mut Peekable<impl Iterator<Item = Vma<'a>>>,
    options: &Options,
) {
    let (mut start, last) = (run.address.0, run.end(format).0);
    while start < last {
        while vmas.next_if(|vma| vma.end <= start).is_some() {}
        let (end, vma) = match vmas.peek() {
            Some(vma) if vma.start <= start => (last.min(vma.end), Some(vma)),
            Some(vma) => (last.min(vma.start), None),
            None => (last, None),
        };
        let range = Range {
            run,
            start,
            end,
            vma,
        };
        print_range(format, &range, options);
        start = end;
    }
}

/// Returns the exception level whose permissions the columns show: 0 for tables of a process, 1 for those of
/// the kernel.
pub(crate) fn el(format: &Format) -> u64 {
    format.geometry.is_kernel().into()
}

/// Prints the column titles for [`print_range`].
pub(crate) fn print_range_titles(format: &Format, options: &Options) {
    if !options.json {
        let frame = if options.frames { "FRAME      " } else { "" };
        let level = el(format);
        println!("       START-END             PAGES KIND   {frame}EL{level} FLAGS     NAME");
    }
}

/// Prints one line for a range of entries with equal attributes.
fn print_range(format: &Format, range: &Range<'_>, options: &Options) {
    let geometry = &format.geometry;
    let run = range.run;
    let attributes = Attributes {
        format,
        level: run.level,
        descriptor: run.descriptor,
        limits: run.limits,
    };
    let (start, end) = (range.start, range.end);
    let pages = (end - start) >> geometry.page_shift();
    let offset = (start - run.address.0) >> geometry.page_shift();
    // The frame of the first page of the range, which may begin after the start of the run.
    let frame = attributes
        .frame()
        .filter(|_| options.frames)
        .map(|frame| FrameNumber(frame.0 + offset));
    if options.json {
        let mut json = Json::new("range");
        json.hex("start", start)
            .hex("end", end)
            .number("pages", pages)
            .level(run.level)
            .flag("consecutive", options.frames);
        attributes.write(&mut json);
        if let Some(frame) = frame {
            json.hex("first_frame", frame.0);
        }
        if let Some(vma) = range.vma {
            json.bytes("vma", vma.permissions).bytes("name", vma.name);
        }
        return;
    }
    let name = range.vma.map(|vma| vma.name);
    // The kernel has no mappings with names.
    let name = Name(name.or(geometry.is_kernel().then_some(&[])));
    let word = attributes.word();
    print!("{start:12x}-{end:<12x} {pages:8} {word:6} ");
    match frame {
        Some(FrameNumber(frame)) => println!("{frame:<#10x} {attributes:.0}{name:.10}"),
        None if options.frames => println!("{:10} {attributes:.0}{name:.10}", ""),
        None => println!("{attributes}{name:.21}"),
    }
}

/// A space and the end of a name, with at most as many columns as the precision; `no VMA` if there is no
/// mapping. A file name may have any bytes: those that are not printable ASCII are escaped, as `\r` or
/// `\x1b`, so that no name can begin a line or move the cursor.
pub(crate) struct Name<'a>(pub(crate) Option<&'a [u8]>);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = f.precision().unwrap_or(usize::MAX);
        let name = match self.0 {
            None => return f.write_str(" no VMA"),
            Some([]) => return Ok(()),
            Some(name) => name,
        };
        f.write_char(' ')?;
        let width = |bytes: &[u8]| -> usize { bytes.iter().map(|&byte| escape(byte).len()).sum() };
        let mut rest = name;
        if width(name) > columns {
            f.write_str("..")?;
            while width(rest) > columns.saturating_sub(2) {
                rest = rest.get(1..).unwrap_or_default();
            }
        }
        write_escaped(rest, f)
    }
}

/// The name of a file, escaped in the same way.
pub(crate) struct FileName(pub(crate) &'static str);

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(self.0.as_bytes(), f)
    }
}

fn write_escaped(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in bytes.iter().copied().flat_map(escape) {
        f.write_char(byte.into())?;
    }
    Ok(())
}

/// Escapes `byte` in printable ASCII. Quotation marks are kept, which the library would escape.
fn escape(byte: u8) -> ascii::EscapeDefault {
    let mut escaped = ascii::escape_default(byte);
    if matches!(byte, b'\'' | b'"') {
        escaped.next();
    }
    escaped
}
