//! The lines that all commands have: the first, and those about ranges of entries.

use core::fmt;

use tablewalk_bins::lines::parse_range;
use tablewalk_rt::{print, println};
use tablewalk_walker::{Format, FrameNumber, Run};

use crate::attributes::Attributes;
use crate::json::{Json, Lossy, VERSION};
use crate::options::Options;
use crate::subject::Subject;

/// Says whose tables these are, and of which shape.
pub(crate) fn begin(command: &str, subject: &Subject, options: &Options) {
    let Format { geometry, mair, .. } = subject.format;
    if options.json {
        Json::new("header")
            .text("schema", "tablewalk.pt")
            .number("version", VERSION)
            .text("command", command)
            .number("pid", subject.pid().into())
            .flag("live", subject.live_pid().is_some())
            .number("page_shift", geometry.page_shift().into())
            .number("va_bits", geometry.va_bits().into())
            .number("oa_bits", geometry.oa_bits().into())
            .number("levels", geometry.levels().into())
            .hex("mair", mair);
    } else {
        println!(
            "{subject}: {} KiB pages, {}-bit addresses, {} levels",
            geometry.page_size() >> 10,
            geometry.va_bits(),
            geometry.levels()
        );
    }
}

/// Says that all was said, and how many tables were gone when they were to be read.
pub(crate) fn end(options: &Options, changed: u64) {
    if options.json {
        Json::new("end").number("changed", changed);
    } else if changed != 0 {
        println!("{changed} tables changed while they were to be read, and are not shown");
    }
}

/// A mapping of a process.
pub(crate) struct Vma<'a> {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) permissions: &'a [u8],
    pub(crate) name: &'a [u8],
}

/// The mappings in `/proc/PID/maps`, in their order, which is that of addresses.
pub(crate) fn vmas(maps: &[u8]) -> impl Iterator<Item = Vma<'_>> {
    maps.split(|&byte| byte == b'\n').filter_map(|line| {
        let (start, end) = parse_range(line)?;
        // Range, permissions, offset, device, inode; then the path, which may have spaces.
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

/// A part of a run, and where it is.
pub(crate) struct Range<'a> {
    pub(crate) run: &'a Run,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) vma: Option<&'a Vma<'a>>,
}

/// The columns above [`print_range`].
pub(crate) fn print_range_titles(options: &Options) {
    if !options.json {
        let frame = if options.frames { "FRAME      " } else { "" };
        println!("       START-END             PAGES KIND   {frame}EL0 FLAGS     NAME");
    }
}

/// One line for a range of entries of equal attributes.
pub(crate) fn print_range(format: &Format, range: &Range<'_>, options: &Options) {
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
    // That of the first page of the range, which may begin behind the run.
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
    let name = Name(range.vma.map(|vma| vma.name));
    let word = attributes.word();
    print!("{start:12x}-{end:<12x} {pages:8} {word:6} ");
    match frame {
        Some(FrameNumber(frame)) => println!("{frame:<#10x} {attributes:.0}{name:.10}"),
        None if options.frames => println!("{:10} {attributes:.0}{name:.10}", ""),
        None => println!("{attributes}{name:.21}"),
    }
}

/// A space and the end of a name, as far as the precision says; `no VMA` where there is none.
pub(crate) struct Name<'a>(pub(crate) Option<&'a [u8]>);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = f.precision().unwrap_or(usize::MAX);
        match self.0 {
            None => f.write_str(" no VMA"),
            Some([]) => Ok(()),
            Some(name) if name.len() > columns => {
                let rest = name.get(name.len() + 2 - columns..).unwrap_or_default();
                write!(f, " ..{}", Lossy(rest))
            }
            Some(name) => write!(f, " {}", Lossy(name)),
        }
    }
}
