//! `kinds`: makes one page of each kind and compares it with pagemap and smaps, or shows it with `pt`.

#![no_std]
#![cfg_attr(not(test), no_main)]
#![expect(unsafe_code, reason = "touches the pages that it makes")]

use core::ffi::CStr;

use heapless::{CString, String, Vec, format};
use tablewalk_live::copy::{Copied, CopyError, Either};
use tablewalk_live::{LiveError, format as format_of_kernel, path};
use tablewalk_proc::lines::{for_each_line, parse_range};
use tablewalk_proc::pagemap::{Pagemap, PagemapEntry};
use tablewalk_proc::smaps;
use tablewalk_rt::cli;
use tablewalk_rt::ktap::{self, Case, Verdict};
use tablewalk_rt::memory::write;
use tablewalk_rt::process::{Fork, execute};
use tablewalk_rt::{Args, ExitCode, eprintln, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::expect::expect;
use tablewalk_testkit::prerequisite;
use tablewalk_testkit::swap::{AREA, Swap};
use tablewalk_uapi::file::{self, O_RDONLY, O_RDWR, O_SYNC};
use tablewalk_uapi::memory::{Advice, Protection};
use tablewalk_uapi::process::{self, Status};
use tablewalk_uapi::{Errno, Mapping, Sharing};
use tablewalk_walker::{
    Absent, Descriptor, Format, Kind, Level, MemoryType, Path, Permissions, TableSource,
    VirtualAddress, path as path_of,
};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: kinds [COMMAND [OPTION...]]
Makes one page of each kind that this kernel has, and compares the walker's result
with pagemap and smaps. Prints KTAP. With COMMAND, runs `pt COMMAND PID OPTION...`
on itself instead. Without remap_page_table the tables are copied, with BPF or
/proc/kcore. Needs /proc, and root.";

const TESTS: &[Case<Context, Error>] = &[Case {
    name: "pages of each kind agree with pagemap and smaps",
    run: compare,
}];

/// The geometry and format of this kernel's tables.
struct Context {
    format: Format,
    page: usize,
    /// The source of this process's tables on a kernel without the call.
    copied: Option<Copied<Either>>,
}

impl Context {
    /// Opens the tables of this process: by the call, or else by copies.
    ///
    /// # Errors
    ///
    /// The exit status, after the reason was printed.
    fn open() -> Result<Self, ExitCode> {
        let (format, copied) = match format_of_kernel() {
            Ok(format) => (format, None),
            Err(LiveError::Info(Errno::ENOSYS)) => {
                let copied = copied().map_err(|error| {
                    println!("# {error}");
                    match prerequisite::info("kinds") {
                        Err(status) if error.is_missing() => status,
                        _ => ExitCode::FAILURE,
                    }
                })?;
                (copied.format(), Some(copied))
            }
            Err(error) => {
                eprintln!("kinds: {error}");
                return Err(ExitCode::FAILURE);
            }
        };
        Ok(Self {
            format,
            page: 1 << format.geometry.page_shift(),
            copied,
        })
    }

    /// Returns the descriptors that translate an address of this process.
    fn path(&mut self, address: VirtualAddress) -> Result<Path, Error> {
        match &mut self.copied {
            Some(copied) => path_of(copied, address).map_err(|error| {
                println!("# {error}");
                Error::Call("copies of tables", Errno::EIO)
            }),
            None => Ok(path(0, &self.format.geometry, address)?),
        }
    }
}

/// Opens copies of the tables of this process.
fn copied() -> Result<Copied<Either>, CopyError> {
    let kernel = Either::bpf().or_else(|error| {
        println!("# {error}");
        Either::kcore()
    })?;
    Copied::new(kernel, process::pid())
}

/// A page of one kind.
struct Specimen {
    mapping: Mapping,
    /// Its offset in the mapping.
    offset: usize,
}

/// The expected descriptor, memory type and smaps counts of a page.
struct Expected {
    /// The kind of descriptor: a word of [`word`].
    word: &'static str,
    /// Permissions of user space, and letters: `A` accessed, `D` dirty, `W` writable to Linux, `S` special,
    /// `B` guarded.
    attributes: &'static str,
    /// The name of the memory type, if the page is mapped.
    memory: &'static str,
    /// The counts in smaps, in pages.
    smaps: &'static [(&'static str, u64)],
}

const fn page(attributes: &'static str, smaps: &'static [(&'static str, u64)]) -> Expected {
    Expected {
        word: "page",
        attributes,
        memory: "Normal",
        smaps,
    }
}

/// A kind of page: how to make it, and the expected result.
struct Kinds {
    name: &'static str,
    make: fn(&Context) -> Result<Specimen, Errno>,
    expected: Expected,
}

const KINDS: &[Kinds] = &[
    Kinds {
        name: "written",
        make: |context| anonymous(context, Protection::READ_WRITE, true),
        expected: page(
            "rw- ADW",
            &[
                ("Rss", 1),
                ("Private_Dirty", 1),
                ("Referenced", 1),
                ("Anonymous", 1),
            ],
        ),
    },
    Kinds {
        name: "never written",
        make: |context| anonymous(context, Protection::READ, false),
        expected: page("r-- AS", &[("Rss", 0), ("Anonymous", 0)]),
    },
    Kinds {
        name: "written, then made read-only",
        make: |context| {
            let specimen = anonymous(context, Protection::READ_WRITE, true)?;
            specimen.protect(context, Protection::READ)
        },
        expected: page("r-- AD", &[("Rss", 1), ("Private_Dirty", 1)]),
    },
    Kinds {
        name: "written, then not needed",
        make: |context| {
            let specimen = anonymous(context, Protection::READ_WRITE, true)?;
            specimen.advise(context, Advice::Free)
        },
        expected: page(
            "r-- W",
            &[("Rss", 1), ("Private_Dirty", 0), ("Referenced", 0)],
        ),
    },
    Kinds {
        name: "written, then without access",
        make: |context| {
            let specimen = anonymous(context, Protection::READ_WRITE, true)?;
            specimen.protect(context, Protection::NONE)
        },
        expected: Expected {
            word: "no access",
            attributes: "--- AD",
            memory: "",
            smaps: &[("Rss", 1), ("Anonymous", 1)],
        },
    },
    Kinds {
        name: "writable and executable",
        make: |context| {
            let all = Protection::READ_WRITE | Protection::EXECUTE;
            anonymous(context, all, true)
        },
        expected: page("rwx ADW", &[("Rss", 1), ("Private_Dirty", 1)]),
    },
    Kinds {
        name: "shared",
        make: |context| {
            let mapping =
                Mapping::anonymous(context.page, Protection::READ_WRITE, Sharing::Shared)?;
            write(&mapping, 0, 1);
            Ok(Specimen { mapping, offset: 0 })
        },
        expected: page("rw- ADW", &[("Rss", 1), ("Anonymous", 0)]),
    },
    Kinds {
        name: "of a file",
        make: |context| {
            let fd = file::open(c"/proc/self/exe", O_RDONLY)?;
            let mapping = Mapping::file(&fd, 0, context.page, Protection::READ, Sharing::Private)?;
            let specimen = Specimen { mapping, offset: 0 };
            specimen.read();
            Ok(specimen)
        },
        expected: page(
            "r-- A",
            &[("Rss", 1), ("Anonymous", 0), ("Private_Dirty", 0)],
        ),
    },
    Kinds {
        name: "guarded",
        make: |context| {
            let specimen = anonymous(context, Protection::READ, false)?;
            let specimen = specimen.protect(context, Protection::GUARDED)?;
            specimen.read();
            Ok(specimen)
        },
        expected: page("r-x ASB", &[("Rss", 0)]),
    },
    Kinds {
        name: "tagged",
        make: |context| {
            let specimen = anonymous(context, Protection::READ_WRITE, false)?;
            let specimen = specimen.protect(context, Protection::TAGGED)?;
            write(&specimen.mapping, specimen.offset, 1);
            Ok(specimen)
        },
        expected: Expected {
            memory: "Normal-Tagged",
            ..page("rw- ADW", &[("Rss", 1)])
        },
    },
    Kinds {
        name: "of a device",
        make: device,
        expected: Expected {
            memory: "Device-nGnRnE",
            ..page("r-- AS", &[("Rss", 0)])
        },
    },
    Kinds {
        name: "the huge page of zeros",
        make: huge_zeros,
        expected: Expected {
            word: "block",
            ..page("r-- A", &[("Rss", 0), ("Anonymous", 0)])
        },
    },
    Kinds {
        name: "in swap",
        make: |context| {
            let specimen = anonymous(context, Protection::READ_WRITE, true)?;
            specimen.advise(context, Advice::PageOut)
        },
        expected: Expected {
            word: "swap",
            attributes: "---",
            memory: "",
            smaps: &[("Rss", 0), ("Swap", 1)],
        },
    },
    Kinds {
        name: "with a hardware error",
        make: |context| {
            let specimen = anonymous(context, Protection::READ_WRITE, true)?;
            specimen.advise(context, Advice::HardwarePoison)
        },
        expected: Expected {
            word: "hardware error",
            attributes: "---",
            memory: "",
            // Counted as if it were still present.
            smaps: &[("Rss", 1), ("Swap", 0)],
        },
    },
];

fn main(args: Args) -> ExitCode {
    let words = match parse(args) {
        Ok(words) => words,
        Err(status) => return status,
    };
    let mut context = match Context::open() {
        Ok(context) => context,
        Err(status) => return status,
    };
    if words.is_empty() {
        return ktap::run(&mut context, &[TESTS]);
    }
    show(&context, &words).unwrap_or_else(|errno| {
        eprintln!("kinds: pt: {errno}");
        ExitCode::FAILURE
    })
}

/// Arguments for `pt`.
type Words = Vec<&'static str, 16>;

fn parse(mut args: Args) -> Result<Words, ExitCode> {
    let mut words = Words::new();
    while let Some(argument) = cli::next(&mut args, HELP)? {
        if words.push(argument).is_err() {
            return Err(cli::refuse(&args, format_args!("too many words")));
        }
    }
    Ok(words)
}

/// Runs `pt` on this process, which has a page of each kind.
fn show(context: &Context, words: &Words) -> Result<ExitCode, Errno> {
    let pid: String<16> = format!("{}", process::pid()).map_err(|_| Errno::EOVERFLOW)?;
    let mut strings = Vec::<CString<64>, 18>::new();
    let (command, options) = words.split_first().ok_or(Errno::EINVAL)?;
    for word in ["pt", command, &pid].iter().chain(options) {
        let mut string = CString::new();
        string
            .extend_from_bytes(word.as_bytes())
            .map_err(|_| Errno::ENAMETOOLONG)?;
        strings.push(string).map_err(|_| Errno::E2BIG)?;
    }
    let (reader, writer) = file::pipe()?;
    // Fork before the pages exist; otherwise fork would write-protect them.
    // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }.spawn(|| {
        if file::read(&reader, &mut [0]) != Ok(1) {
            return ExitCode::FAILURE;
        }
        let words: Vec<&CStr, 18> = strings.iter().map(CString::as_c_str).collect();
        let errno = execute(c"/bin/pt", &words);
        eprintln!("kinds: /bin/pt: {errno}");
        ExitCode(127)
    })?;
    let _swap = Swap::on();
    let mut specimens = Vec::<Specimen, 16>::new();
    for kind in KINDS {
        if let Ok(specimen) = (kind.make)(context) {
            let _room = specimens.push(specimen);
        }
    }
    file::write(&writer, b".")?;
    match child.wait()? {
        Status::Exited(status) => Ok(ExitCode(status)),
        Status::Killed(_) => Ok(ExitCode::FAILURE),
    }
}

/// Compares the specimens one by one.
fn compare(context: &mut Context) -> Result<Verdict, Error> {
    let pagemap = Pagemap::open(process::pid(), context.format.geometry.page_shift())
        .map_err(Error::call("pagemap"))?;
    let swap = Swap::on();
    if swap.is_none() {
        println!("# no swap area on {AREA:?}");
    }
    let (mut met, mut seen) = (true, 0);
    for kind in KINDS {
        // Without swap, the page stays in memory.
        if kind.expected.word == "swap" && swap.is_none() {
            continue;
        }
        if kind.expected.word == "hardware error" && context.copied.is_some() {
            println!(
                "# {}: not here: its swap type is unknown, and Linux 6.12 kills who asks for it",
                kind.name
            );
            continue;
        }
        match (kind.make)(context) {
            Ok(specimen) => {
                let as_expected = look(context, &pagemap, kind, &specimen)?;
                println!(
                    "# {}: {}",
                    kind.name,
                    if as_expected { "ok" } else { "wrong" }
                );
                met &= as_expected;
                seen += 1;
            }
            Err(errno) => println!("# {}: not here: {errno}", kind.name),
        }
    }
    println!("# {seen} of {} kinds", KINDS.len());
    // Every kernel has the first eight.
    Ok((met && seen >= 8).into())
}

fn look(
    context: &mut Context,
    pagemap: &Pagemap,
    kind: &Kinds,
    specimen: &Specimen,
) -> Result<bool, Error> {
    let format = &{ context.format };
    let address = VirtualAddress(specimen.mapping.address() + specimen.offset as u64);
    // Check smaps first. None of the checks changes a page.
    let mut met = true;
    for &(field, pages) in kind.expected.smaps {
        let kib = smaps::kib(process::pid(), address.0, field);
        met &= expect(field, kib, Ok(pages * context.page as u64 / 1024));
    }
    let witness = pagemap.entry(address.0).map_err(Error::call("pagemap"))?;
    let geometry = &format.geometry;
    let path = context.path(address)?;
    let Some(step) = path.steps().last() else {
        return Ok(false);
    };
    let (level, descriptor) = (step.level, step.descriptor);
    let attributes = attributes(format, level, descriptor, path.limits());
    let expected = &kind.expected;
    if (word(format, level, descriptor), attributes.as_str())
        != (expected.word, expected.attributes)
    {
        println!(
            "# {descriptor:?} at {level}: {} {attributes}",
            word(format, level, descriptor)
        );
        met = false;
    }
    let valid = descriptor.kind(geometry, level) != Kind::Invalid;
    let memory: String<24> = format!("{}", MemoryType::new(descriptor, format.mair))
        .map_err(|_| Error::Call("memory type", Errno::EOVERFLOW))?;
    // Tags change the name of the memory type, but not the page.
    if valid && memory != expected.memory {
        println!("# memory type {memory}");
        met = false;
    }
    Ok(met && agrees(format, level, descriptor, witness))
}

/// Two blocks that were read and not written. The kernel maps both to the huge zero page.
fn huge_zeros(context: &Context) -> Result<Specimen, Errno> {
    let block = context.page * (context.page / 8);
    let mapping = Mapping::reserve(3 * block, Protection::READ_WRITE)?;
    mapping.advise(0..3 * block, Advice::HugePage)?;
    let address = usize::try_from(mapping.address()).map_err(|_| Errno::EOVERFLOW)?;
    let offset = address.next_multiple_of(block) - address;
    let first = Specimen { mapping, offset };
    first.read();
    let second = Specimen {
        offset: offset + block,
        ..first
    };
    second.read();
    let pagemap = Pagemap::open(process::pid(), context.format.geometry.page_shift())?;
    let entry = |offset: usize| pagemap.entry((address + offset) as u64);
    let last = entry(offset + block - context.page)?.frame();
    if entry(offset)?.frame() != entry(offset + block)?.frame() || last == entry(offset)?.frame() {
        // Without huge pages, each is mapped to the small zero page.
        return Err(Errno::ENODEV);
    }
    Ok(Specimen {
        offset,
        mapping: second.mapping,
    })
}

/// Returns the kind of a descriptor, in the words of [`Expected`].
fn word(format: &Format, level: Level, descriptor: Descriptor) -> &'static str {
    match descriptor.kind(&format.geometry, level) {
        Kind::Page => "page",
        Kind::Block => "block",
        Kind::Table => "table",
        Kind::Invalid => match format.linux.absent(descriptor, &format.geometry, level) {
            Absent::NoAccess { .. } => "no access",
            Absent::Swap { .. } => "swap",
            Absent::HardwarePoison { .. } => "hardware error",
            _ => "something else",
        },
    }
}

fn attributes(
    format: &Format,
    level: Level,
    descriptor: Descriptor,
    limits: tablewalk_walker::Limits,
) -> String<16> {
    let linux = &format.linux;
    let mut text = String::new();
    let el0 = match descriptor.kind(&format.geometry, level) {
        Kind::Invalid => tablewalk_walker::Access::default(),
        _ => Permissions::new(descriptor, limits).el0,
    };
    let present = linux.is_present(descriptor, level);
    let letters = [
        ('A', descriptor.is_accessed()),
        ('D', linux.is_dirty(descriptor)),
        ('W', linux.is_writable(descriptor)),
        ('S', linux.is_special(descriptor)),
        ('B', descriptor.is_guarded()),
    ];
    // At most three letters, a space and five more: they fit.
    let _room = core::fmt::write(&mut text, format_args!("{el0} "));
    for (letter, _) in letters.into_iter().filter(|(_, set)| present && *set) {
        let _room = text.push(letter);
    }
    while text.ends_with(' ') {
        text.pop();
    }
    text
}

/// Returns whether pagemap agrees with the descriptor.
fn agrees(format: &Format, level: Level, descriptor: Descriptor, witness: PagemapEntry) -> bool {
    let geometry = &format.geometry;
    let frame = descriptor.output_address(geometry, level).frame(geometry).0;
    let kind = u64::from(format.linux.swap.kind(descriptor));
    let same = match format.linux.absent(descriptor, geometry, level) {
        _ if descriptor.is_valid() && !witness.is_present() => format.linux.is_special(descriptor),
        _ if descriptor.is_valid() => witness.frame() == frame,
        Absent::NoAccess { frame } => witness.is_present() && witness.frame() == frame.0,
        Absent::Swap { offset, .. } => witness.is_swapped() && witness.swap() == (kind, offset),
        Absent::HardwarePoison { frame } => {
            witness.is_swapped() && witness.swap() == (kind, frame.0)
        }
        _ => false,
    };
    if !same {
        println!("# {descriptor:?}, pagemap has {witness}");
    }
    same
}

impl Specimen {
    fn protect(self, context: &Context, protection: Protection) -> Result<Self, Errno> {
        let range = self.offset..self.offset + context.page;
        self.mapping.protect(range, protection)?;
        Ok(self)
    }

    fn advise(self, context: &Context, advice: Advice) -> Result<Self, Errno> {
        let range = self.offset..self.offset + context.page;
        self.mapping.advise(range, advice)?;
        Ok(self)
    }

    fn read(&self) {
        // SAFETY: a page of the mapping, which can be read.
        unsafe {
            self.mapping
                .as_ptr()
                .wrapping_add(self.offset)
                .read_volatile()
        };
    }
}

/// Maps a page between two with PROT_NONE, so that the mapping is not merged with its neighbours, and writes
/// or reads it.
fn anonymous(context: &Context, protection: Protection, written: bool) -> Result<Specimen, Errno> {
    let mapping = Mapping::reserve(3 * context.page, Protection::NONE)?;
    mapping.base_pages_only()?;
    let specimen = Specimen {
        mapping,
        offset: context.page,
    };
    let specimen = specimen.protect(context, protection)?;
    if written {
        write(&specimen.mapping, specimen.offset, 1);
    } else if protection == Protection::READ {
        specimen.read();
    }
    Ok(specimen)
}

/// Maps a page of device registers, the first that `/proc/iomem` names, through `/dev/mem`. The page is not
/// read, since reading registers may have side effects.
fn device(context: &Context) -> Result<Specimen, Errno> {
    let mut address = None;
    for_each_line(c"/proc/iomem", &mut |line| {
        if address.is_none()
            && !line.ends_with(b"RAM")
            && !line.starts_with(b" ")
            && let Some((start, _)) = parse_range(line)
        {
            address = Some(start);
        }
        Ok(())
    })?;
    let start = address.ok_or(Errno::ENODEV)?;
    let fd = file::open(c"/dev/mem", O_RDWR | O_SYNC)?;
    let offset = start - start % context.page as u64;
    let mapping = Mapping::file(&fd, offset, context.page, Protection::READ, Sharing::Shared)?;
    Ok(Specimen { mapping, offset: 0 })
}
