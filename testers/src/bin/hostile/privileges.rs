//! Which caller may do what to which process.

#![expect(unsafe_code, reason = "forks")]

use tablewalk_rt::ExitCode;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::{Child, Fork};
use tablewalk_testkit::error::Error;
use tablewalk_testkit::expect::{Outcome, expect, failed_with, in_child};
use tablewalk_testkit::page::{Page, call, range};
use tablewalk_testkit::prerequisite;
use tablewalk_uapi::Errno;
use tablewalk_uapi::credentials::{
    CAP_DAC_OVERRIDE, CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_SYS_RAWIO,
    keep_capabilities, set_capabilities, set_dumpable, set_gids, set_groups, set_uids,
};
use tablewalk_uapi::file;
use tablewalk_uapi::process::{self, pid};
use tablewalk_uapi::raw::constants::CAP_LAST_CAP;
use tablewalk_uapi::remap::{
    EXPOSE_PGTBL_ADOPT, EXPOSE_PGTBL_LEND, EXPOSE_PGTBL_TAKE, ExposePgtblInfo, ExposePgtblTable,
    adopt, flush, info as ask_info, lend, number, path,
};
use tablewalk_uapi::signal;
use tablewalk_uapi::track::{
    EXPOSE_PGTBL_TRACK, EXPOSE_PGTBL_TRACK_WRITTEN, ExposePgtblRun, track,
};

use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "user 1000 without a capability",
        run: none,
    },
    Case {
        name: "user 1000 with each single capability",
        run: each_single,
    },
    Case {
        name: "user 1000 with all capabilities needed",
        run: all_needed,
    },
    Case {
        name: "a process of another user",
        run: other_user,
    },
    Case {
        name: "a process of the same user that is not dumpable",
        run: not_dumpable,
    },
    Case {
        name: "root of a user namespace",
        run: namespace_root,
    },
];

/// Returns a set of capabilities.
pub(crate) const fn set(capabilities: &[u32]) -> u64 {
    let mut set = 0;
    let mut rest = capabilities;
    while let Some((&first, others)) = rest.split_first() {
        set |= 1 << first;
        rest = others;
    }
    set
}

pub(crate) const ADMIN: u64 = set(&[CAP_SYS_ADMIN]);
pub(crate) const RAW_IO: u64 = set(&[CAP_SYS_RAWIO]);
/// LEND and TAKE need this one as well.
pub(crate) const LOCK: u64 = set(&[CAP_IPC_LOCK]);
pub(crate) const PTRACE: u64 = set(&[CAP_SYS_PTRACE]);
const READ_FILES: u64 = set(&[CAP_DAC_OVERRIDE]);

pub(crate) const OK: Outcome = Ok(0);
pub(crate) const DENIED: Errno = Errno::EPERM;

/// Which forms of the call are permitted.
#[derive(Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) info: bool,
    pub(crate) read_only: bool,
    pub(crate) path: bool,
    pub(crate) writable: bool,
    pub(crate) flush: bool,
    pub(crate) lend: bool,
}

impl Expected {
    /// Returns all forms permitted, or none.
    pub(crate) const fn every(permitted: bool) -> Self {
        Self {
            info: permitted,
            read_only: permitted,
            path: permitted,
            writable: permitted,
            flush: permitted,
            lend: permitted,
        }
    }
}

/// A form of the call.
type Form<'a> = &'a dyn Fn() -> Result<(), Errno>;

/// Tries each form of the call on process `target`, in a child that calls `become_it` first. Returns whether
/// the results are the expected ones.
pub(crate) fn holds(
    info: &ExposePgtblInfo,
    who: &str,
    become_it: &dyn Fn() -> Result<(), Errno>,
    target: i32,
    expected: Expected,
) -> Result<bool, Error> {
    let read_only = Page::read_only(info).map_err(Error::call("mmap"))?;
    let writable = Page::writable(info).map_err(Error::call("mmap"))?;
    let forms: [(&str, Form<'_>, bool); 9] = [
        ("INFO", &|| ask_info().map(drop), expected.info),
        (
            "read-only",
            &|| read_only.map(target, 0, 0).map(drop),
            expected.read_only,
        ),
        ("PATH", &|| path(target, 0).map(drop), expected.path),
        (
            "writable",
            &|| writable.map(target, 0, 0).map(drop),
            expected.writable,
        ),
        ("FLUSH", &|| flush(target, 0, 1), expected.flush),
        // A permitted caller gets the error that nothing is mapped at 0.
        (
            "ADOPT",
            &|| // SAFETY: nothing is mapped at address 0.
            match unsafe { adopt(target, 0, 1) } {
                Err(Errno::EINVAL) => Ok(()),
                result => result.map(drop),
            },
            expected.writable,
        ),
        (
            "LEND",
            &|| // SAFETY: nothing is mapped at address 0.
            match unsafe { lend(target, 0, 1) } {
                Err(Errno::EINVAL) => Ok(()),
                result => result.map(drop),
            },
            expected.lend,
        ),
        (
            "TAKE",
            &|| match take_nothing(info, target) {
                Err(Errno::EINVAL) => Ok(()),
                result => result.map(drop),
            },
            expected.lend,
        ),
        (
            "TRACK",
            &|| {
                let page = 1 << info.page_shift;
                let mut runs = [ExposePgtblRun::default()];
                let mode = EXPOSE_PGTBL_TRACK_WRITTEN;
                track(target, mode, page..2 * page, &mut runs).map(drop)
            },
            expected.writable,
        ),
    ];
    let mut met = true;
    let is_here = |form: &str| {
        let flag = match form {
            "ADOPT" => EXPOSE_PGTBL_ADOPT,
            "LEND" => EXPOSE_PGTBL_LEND,
            "TAKE" => EXPOSE_PGTBL_TAKE,
            "TRACK" => EXPOSE_PGTBL_TRACK,
            _ => return true,
        };
        prerequisite::lacks(info, flag).is_none()
    };
    for (form, call, permitted) in forms.into_iter().filter(|&(form, ..)| is_here(form)) {
        // SAFETY: the child uses its copy of memory, and maps tables of its own.
        let outcome = in_child(unsafe { Fork::promised() }, || {
            become_it()?;
            call()
        });
        let wanted = if permitted { OK } else { failed_with(DENIED) };
        if !expect(form, outcome, wanted) {
            tablewalk_rt::println!("# as {who}");
            met = false;
        }
    }
    Ok(met)
}

/// Calls TAKE for a page that does not exist, with an invalid destination.
fn take_nothing(info: &ExposePgtblInfo, target: i32) -> Result<u64, Errno> {
    let page = 1 << info.page_shift;
    let mut places = [ExposePgtblTable::default()];
    let asked = range(page, 2 * page, &mut places);
    let pfn = core::ptr::from_ref(&asked).expose_provenance() as u64;
    // SAFETY: nothing is mapped at address 0.
    unsafe { call(target, 0, pfn, EXPOSE_PGTBL_TAKE) }
}

/// Changes to user `uid` with these capabilities.
pub(crate) fn become_user(uid: u32, capabilities: u64) -> Result<(), Errno> {
    keep_capabilities()?;
    set_groups(&[])?;
    set_gids(uid)?;
    set_uids(uid)?;
    set_capabilities(capabilities)?;
    // A change of user makes a process undumpable.
    set_dumpable(true)
}

/// Starts a process of user `uid` without capabilities. It is ready when this returns.
pub(crate) fn process_of(uid: u32, dumpable: bool) -> Result<Child, Error> {
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    // SAFETY: the child uses its copy of memory, the pipes, and what it makes itself.
    let child = unsafe { Fork::promised() }
        .spawn(|| {
            let ready = become_user(uid, 0).and_then(|()| set_dumpable(dumpable));
            // Setting the user ID clears the parent-death signal.
            if ready.is_ok() && file::write(&writer, b".").is_ok() {
                signal::pause();
            }
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
    drop(writer);
    match file::read(&reader, &mut [0]) {
        Ok(1) => Ok(child),
        Ok(_) => Err(Error::Call("a process of another user", Errno::EPERM)),
        Err(errno) => Err(Error::Call("read", errno)),
    }
}

fn none(context: &mut Context) -> Result<Verdict, Error> {
    let become_it = || become_user(1000, 0);
    let nothing = Expected::every(false);
    holds(&context.info, "nobody", &become_it, 0, nothing).map(Verdict::from)
}

fn each_single(context: &mut Context) -> Result<Verdict, Error> {
    let mut met = true;
    for capability in 0..=CAP_LAST_CAP {
        let become_it = || become_user(1000, 1 << capability);
        let expected = if capability == CAP_SYS_ADMIN {
            Expected {
                writable: false,
                lend: false,
                ..Expected::every(true)
            }
        } else {
            Expected::every(false)
        };
        if !holds(&context.info, "one capability", &become_it, 0, expected)? {
            tablewalk_rt::println!("# capability {capability}");
            met = false;
        }
    }
    Ok(met.into())
}

fn all_needed(context: &mut Context) -> Result<Verdict, Error> {
    let everything = Expected::every(true);
    let but_lending = Expected {
        lend: false,
        ..everything
    };
    let info = &context.info;
    let writer = || become_user(1000, ADMIN | RAW_IO);
    let lender = || become_user(1000, ADMIN | RAW_IO | LOCK);
    Ok(
        (holds(info, "SYS_ADMIN, SYS_RAWIO", &writer, 0, but_lending)?
            && holds(info, "the same and IPC_LOCK", &lender, 0, everything)?)
        .into(),
    )
}

fn other_user(context: &mut Context) -> Result<Verdict, Error> {
    let target = process_of(1001, true)?;
    let only_info = Expected {
        info: true,
        ..Expected::every(false)
    };
    let but_writing = Expected {
        writable: false,
        lend: false,
        ..Expected::every(true)
    };
    let mut met = true;
    for (who, capabilities, expected) in [
        ("SYS_ADMIN, SYS_RAWIO", ADMIN | RAW_IO, only_info),
        ("SYS_ADMIN, SYS_PTRACE", ADMIN | PTRACE, but_writing),
        (
            "all four",
            ADMIN | PTRACE | RAW_IO | LOCK,
            Expected::every(true),
        ),
        (
            "SYS_PTRACE, SYS_RAWIO",
            PTRACE | RAW_IO,
            Expected::every(false),
        ),
    ] {
        // The module wants an open file of that user.
        let file = if number().is_none() { READ_FILES } else { 0 };
        let become_it = || become_user(1000, capabilities | file);
        met &= holds(&context.info, who, &become_it, target.pid(), expected)?;
    }
    Ok(met.into())
}

fn not_dumpable(context: &mut Context) -> Result<Verdict, Error> {
    let become_it = || become_user(1000, ADMIN | RAW_IO | LOCK);
    let dumpable = process_of(1000, true)?;
    let hidden = process_of(1000, false)?;
    let only_info = Expected {
        info: true,
        ..Expected::every(false)
    };
    let everything = Expected::every(true);
    let info = &context.info;
    Ok(
        (holds(info, "its user", &become_it, dumpable.pid(), everything)?
            && holds(info, "its user", &become_it, hidden.pid(), only_info)?)
        .into(),
    )
}

fn namespace_root(context: &mut Context) -> Result<Verdict, Error> {
    let nothing = Expected::every(false);
    // SAFETY: the child uses nothing of its parent.
    match in_child(unsafe { Fork::promised() }, process::unshare_user) {
        Ok(0) => {}
        _ => return Ok(Verdict::Skip("no user namespaces")),
    }
    let as_user = || {
        become_user(1000, 0)?;
        process::unshare_user()
    };
    let as_root = process::unshare_user;
    let info = &context.info;
    Ok(
        (holds(info, "user 1000, root of its own", &as_user, 0, nothing)?
            && holds(info, "root, root of its own", &as_root, 0, nothing)?
            && holds(info, "root, of its parent", &as_root, pid(), nothing)?)
        .into(),
    )
}
