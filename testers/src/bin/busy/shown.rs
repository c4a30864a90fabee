//! Runs `pt` on an idle and on a busy process.

#![expect(unsafe_code, reason = "forks")]

use core::ffi::CStr;

use heapless::{CString, String, Vec, format};
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{ExitCode, eprintln, println};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::pt;
use tablewalk_uapi::process::Status;
use tablewalk_uapi::{Errno, file};

use crate::journal::Journal;
use crate::source::{Way, open};
use crate::target::{Places, work};

pub(crate) const TESTS: &[Case<Shown, Error>] = &[
    Case {
        name: "verify of a process at rest",
        run: |shown| shown.pt(&["verify", "1"]),
    },
    Case {
        name: "verify of a process at work",
        run: |shown| shown.pt(&["verify", PID]),
    },
    Case {
        name: "maps",
        run: |shown| shown.pt(&["maps", PID]),
    },
    Case {
        name: "save",
        run: |shown| {
            // It may be left from another run, or not exist.
            let _ = file::remove(FILE_PATH);
            shown.pt(&["save", PID, FILE])
        },
    },
    Case {
        name: "what was saved",
        run: |shown| shown.pt(&["stat", FILE]),
    },
];

/// Placeholder for the PID of the busy process.
const PID: &str = "PID";
const FILE: &str = "/tmp/busy.pt";
const FILE_PATH: &CStr = c"/tmp/busy.pt";

/// A busy process, and the source for `pt`.
pub(crate) struct Shown {
    worker: Child,
    source: Option<&'static str>,
}

impl Shown {
    /// Starts the process.
    pub(crate) fn new(source: Option<&'static str>) -> Result<Self, Error> {
        let mut geometry = None;
        for way in [Way::Live, Way::Bpf, Way::Kcore] {
            if geometry.is_none() {
                geometry = open(way)?.map(|source| source.format().geometry);
            }
        }
        let geometry = geometry.ok_or(Error::Call("a source of tables", Errno::ENOSYS))?;
        let journal = Journal::new().map_err(Error::call("mmap"))?;
        let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
        // SAFETY: the child uses its copy of memory, the pipes, the journal, and what it makes itself.
        let worker = unsafe { Fork::promised() }
            .spawn(|| {
                let Err(errno) = work(journal, Places { geometry }, &writer);
                eprintln!("busy: at work: {errno}");
                ExitCode::FAILURE
            })
            .map_err(Error::call("fork"))?;
        drop(writer);
        match file::read(&reader, &mut [0]) {
            Ok(1) => Ok(Self { worker, source }),
            _ => Err(Error::Call("a process at work", Errno::ENOMEM)),
        }
    }

    /// Runs `pt` with these arguments, without a source if it reads a file.
    fn pt(&mut self, words: &[&str]) -> Result<Verdict, Error> {
        let too_long = |_| Error::Call("pt", Errno::E2BIG);
        let pid: String<16> = format!("{}", self.worker.pid()).map_err(too_long)?;
        let source = match (words, self.source) {
            ([_, FILE], _) | (_, None) => None,
            (_, Some(source)) => Some(["--source", source]),
        };
        let mut strings = Vec::<CString<64>, 8>::new();
        let more = source.iter().flatten().copied();
        for word in words.iter().copied().chain(more) {
            let word = if word == PID { pid.as_str() } else { word };
            let mut string = CString::new();
            let pushed = string.extend_from_bytes(word.as_bytes()).is_ok();
            if !pushed || strings.push(string).is_err() {
                return Err(Error::Call("pt", Errno::E2BIG));
            }
        }
        let words: Vec<&CStr, 8> = strings.iter().map(CString::as_c_str).collect();
        match pt::run(&words)? {
            Status::Exited(0) => Ok(Verdict::Ok),
            status => {
                println!("# pt: {status:?}");
                Ok(Verdict::NotOk)
            }
        }
    }
}
