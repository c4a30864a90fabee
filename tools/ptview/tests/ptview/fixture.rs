//! A small process, as a dump and as JSON lines, each written down by itself.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A page that user space may write: valid, page, EL0, shareable, accessed, nG, DBM, PXN, UXN, dirty.
pub const WRITABLE: u64 = 0x00e8_0000_0000_0f43;
/// One that it may read and execute.
pub const CODE: u64 = 0x0020_0000_0000_0fc3;

/// The entries of a process with 4 KiB pages and 39 bits: addresses from 0x400000 in one table of each
/// level, by page number from there.
pub struct Process {
    pub pid: u32,
    pub entries: Vec<(u64, u64)>,
    /// `/proc/PID/maps`.
    pub text: Vec<u8>,
}

const START: u64 = 0x40_0000;
const TEXT: &[u8] =
    b"400000-404000 r-xp 00000000 00:02 5 /bin/<b>one\n410000-418000 rw-p 00000000 00:00 0 \n";
/// Frames of the tables of levels 1 to 3.
const FRAMES: [u64; 3] = [0x1000, 0x1001, 0x1002];

pub fn page(frame: u64, attributes: u64) -> u64 {
    frame << 12 | attributes
}

impl Process {
    /// Four pages of code, a gap, and eight of data, the frames of which follow each other but for one.
    pub fn new() -> Self {
        let code = (0..4).map(|index| (index, page(0x500 + index, CODE)));
        let data =
            (16..24).map(|index| (index, page(0x600 + index + u64::from(index > 20), WRITABLE)));
        Self {
            pid: 77,
            entries: code.chain(data).collect(),
            text: TEXT.to_vec(),
        }
    }

    /// As `pt save` writes it: see the module `dump` of the walker.
    pub fn dump(&self) -> Vec<u8> {
        let text = &self.text;
        let mut bytes = b"pgtables".to_vec();
        for word in [1, self.pid, 12, 39, 48, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(0xff_u64.to_le_bytes());
        // Linux 6.1: write, dirty, special, devmap, prot_none, present_invalid, exclusive, none.
        bytes.extend([51, 55, 56, 57, 58, 59, 2, 255]);
        bytes.extend([3, 5, 8, 50, 23, 24, 27, 31]);
        bytes.extend(3_u64.to_le_bytes());
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.resize(128, 0);
        let upper = |index: u64, frame: u64| vec![(index, frame << 12 | 0b11)];
        let [root, middle, leaf] = FRAMES;
        for (key, frame, entries) in [
            (1, root, upper(0, middle)),
            (2, middle, upper(2, leaf)),
            (START | 3, leaf, self.entries.clone()),
        ] {
            let mut words = vec![0; 512];
            for (index, word) in entries {
                *words.get_mut(usize::try_from(index).unwrap()).unwrap() = word;
            }
            bytes.extend(
                [key, frame]
                    .into_iter()
                    .chain(words)
                    .flat_map(u64::to_le_bytes),
            );
        }
        bytes.extend(text);
        bytes
    }

    /// As `pt walk --json` prints it.
    pub fn walk(&self) -> Vec<String> {
        let mut lines = vec![self.header("walk")];
        let [root, middle, leaf] = FRAMES;
        for (level, name, address, frame) in [
            (1, "PGD", 0, root),
            (2, "PMD", 0, middle),
            (3, "PTE", START, leaf),
        ] {
            lines.push(format!(
                r#"{{"type":"table","level":{level},"name":"{name}","address":"{address:#x}","frame":"{frame:#x}"}}"#
            ));
        }
        for (index, word) in &self.entries {
            let address = START + index * 4096;
            let frame = word >> 12 & 0xffff_ffff;
            let said = if word & 0xfff == 0xfc3 {
                r#""el0":"r-x","el1":"r-x","memory":"Normal","shareability":"ISH","flags":["accessed"]"#
            } else {
                r#""el0":"rw-","el1":"rw-","memory":"Normal","shareability":"ISH","flags":["accessed","dirty","writable"]"#
            };
            lines.push(format!(
                r#"{{"type":"entry","level":3,"address":"{address:#x}","size":4096,"table":"{leaf:#x}","index":{index},"descriptor":"{word:#x}","kind":"page","frame":"{frame:#x}",{said}}}"#
            ));
        }
        lines.push(END.to_owned());
        lines
    }

    pub fn header(&self, command: &str) -> String {
        format!(
            r#"{{"type":"header","schema":"tablewalk.pt","version":1,"command":"{command}","pid":{},"live":true,"page_shift":12,"va_bits":39,"oa_bits":48,"levels":3,"mair":"0xff"}}"#,
            self.pid
        )
    }
}

pub const END: &str = r#"{"type":"end","changed":0}"#;

/// Lines as a serial console has them: with those of the kernel, one of which is in the middle of one
/// of ours, with indentation, time stamps, and carriage returns.
pub fn console(lines: &[String]) -> String {
    let mut log = String::from("[    0.000000] Booting Linux {\r\nKTAP version 1\r\n1..1\r\n");
    for (number, line) in lines.iter().enumerate() {
        match number % 5 {
            1 => {
                let (one, two) = line.split_at(line.len() / 2);
                write!(
                    log,
                    "  {one}[   12.345678] random: crng init done\r\n{two}\r\n"
                )
                .unwrap();
            }
            2 => write!(log, "2026-11-24T21:00:00.123 {line}\r\n").unwrap(),
            3 => write!(log, "  {line}\n[   13.000001] a line of its own\r\n").unwrap(),
            _ => write!(log, "  {line}\r\n").unwrap(),
        }
    }
    log + "ok 1 pt\r\n"
}

/// A folder with files in it.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), contents).unwrap();
        self.path(name)
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Names of what is in it, in order.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// Runs `ptview` in it.
    pub fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_ptview")));
        command
            .args(words)
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }
}

/// What a run said on its standard error.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
