//! `without`: executes a program without some capabilities.

#![no_std]
#![cfg_attr(not(test), no_main)]

use core::ffi::CStr;

use heapless::{CString, Vec};
use tablewalk_rt::process::execute;
use tablewalk_rt::{Args, ExitCode, eprintln, println};
use tablewalk_uapi::Errno;
use tablewalk_uapi::credentials::drop_from_bounding_set;
use tablewalk_uapi::system::{MS_NODEV, MS_NOEXEC, MS_NOSUID, remount};

tablewalk_rt::program!(main);

const HELP: &str = "\
Usage: without NUMBER[,NUMBER...] PROGRAM [ARGUMENT...]
Executes /bin/PROGRAM without the capabilities with these numbers
(include/uapi/linux/capability.h). Needs CAP_SETPCAP.
`hidepid` instead of numbers: /proc hides the processes of other users from now on,
also from group root (hidepid=2,gid=1).";

/// The flags with which init mounts `/proc`.
const PROC_FLAGS: u32 = MS_NODEV | MS_NOEXEC | MS_NOSUID;
/// Maximum number of words of the program's command line.
const WORDS: usize = 16;

fn main(mut args: Args) -> ExitCode {
    let Some(Ok(numbers)) = args.next() else {
        println!("{HELP}");
        return ExitCode::USAGE;
    };
    let errno = run(numbers, args);
    eprintln!("without: {errno}");
    ExitCode::FAILURE
}

/// Returns only on failure, with the error.
fn run(numbers: &str, args: Args) -> Errno {
    for number in numbers.split(',') {
        let gone = match number {
            "hidepid" => remount(c"/proc", PROC_FLAGS, c"hidepid=2,gid=1"),
            _ => number
                .parse()
                .map_err(|_| Errno::EINVAL)
                .and_then(drop_from_bounding_set),
        };
        if let Err(errno) = gone {
            return errno;
        }
    }
    let mut words = Vec::<CString<64>, WORDS>::new();
    let mut path = CString::<72>::new();
    for word in args {
        let mut string = CString::new();
        let copied = word.is_ok_and(|word| string.extend_from_bytes(word.as_bytes()).is_ok());
        if !copied || words.push(string).is_err() {
            return Errno::E2BIG;
        }
    }
    let Some(program) = words.first() else {
        return Errno::ENOENT;
    };
    for part in [b"/bin/", program.to_bytes()] {
        if path.extend_from_bytes(part).is_err() {
            return Errno::ENAMETOOLONG;
        }
    }
    let words: Vec<&CStr, WORDS> = words.iter().map(CString::as_c_str).collect();
    execute(&path, &words)
}
