//! Restrictions of root: Yama's ptrace scope, and lockdown. Both last until the next boot, so this group runs
//! last.

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file::{self, O_WRONLY};
use tablewalk_uapi::remap::number;
use tablewalk_uapi::system::mount;

use crate::privileges::{ADMIN, Expected, LOCK, PTRACE, RAW_IO, become_user, holds, process_of};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "ptrace scope 1: attaching to a process that is not a child",
        run: |context| scope(context, b"1", true),
    },
    Case {
        name: "ptrace scope 2: attaching without CAP_SYS_PTRACE",
        run: |context| scope(context, b"2", true),
    },
    Case {
        name: "ptrace scope 3: attaching",
        run: |context| scope(context, b"3", false),
    },
    Case {
        name: "lockdown=integrity: no writable table",
        run: |context| lockdown(context, b"integrity"),
    },
    Case {
        name: "lockdown=confidentiality: no writable table",
        run: |context| lockdown(context, b"confidentiality"),
    },
];

/// Only the forms without attach access: not a writable table, and not FLUSH.
const READING: Expected = Expected {
    info: true,
    read_only: true,
    path: true,
    writable: false,
    lend: false,
    flush: false,
};

fn scope(context: &mut Context, scope: &[u8], root_may: bool) -> Result<Verdict, Error> {
    let info = &context.info;
    let target = process_of(1000, true)?;
    let as_user = || become_user(1000, ADMIN | RAW_IO | LOCK);
    let as_tracer = || become_user(1000, ADMIN | RAW_IO | LOCK | PTRACE);
    let as_root = || Ok(());
    let everything = Expected::every(true);
    let mut met = true;
    if scope == b"1" {
        match set_scope(b"0") {
            Ok(_) => met &= holds(info, "scope 0", &as_user, target.pid(), everything)?,
            Err(_) => return Ok(Verdict::Skip("no Yama")),
        }
    }
    if set_scope(scope).is_err() {
        return Ok(Verdict::Skip("no Yama"));
    }
    // Whoever may not attach to a process does not get its memory, which the module wants.
    let reading = match number() {
        Some(_) => READING,
        None => Expected {
            info: true,
            ..Expected::every(false)
        },
    };
    let tracer = if root_may { everything } else { reading };
    Ok((met
        && holds(info, "its user", &as_user, target.pid(), reading)?
        && holds(info, "with SYS_PTRACE", &as_tracer, target.pid(), tracer)?
        && holds(info, "root", &as_root, target.pid(), tracer)?
        && holds(info, "root, of itself", &as_root, 0, everything)?)
    .into())
}

/// Opens the file each time, since a second write to an open sysctl file is ignored.
fn set_scope(scope: &[u8]) -> Result<usize, Errno> {
    let file = file::open(c"/proc/sys/kernel/yama/ptrace_scope", O_WRONLY)?;
    file::write(&file, scope)
}

fn lockdown(context: &mut Context, level: &[u8]) -> Result<Verdict, Error> {
    let info = &context.info;
    match mount(c"securityfs", c"/sys/kernel/security", c"securityfs", 0) {
        Ok(()) | Err(Errno::EBUSY) => {}
        Err(_) => return Ok(Verdict::Skip("no securityfs")),
    }
    let Ok(file) = file::open(c"/sys/kernel/security/lockdown", O_WRONLY) else {
        return Ok(Verdict::Skip("no lockdown"));
    };
    let as_root = || Ok(());
    let mut met = true;
    if level == b"integrity" {
        met &= holds(info, "root before", &as_root, 0, Expected::every(true))?;
    }
    file::write(&file, level).map_err(Error::call("lockdown"))?;
    let but_writing = Expected {
        writable: false,
        lend: false,
        ..Expected::every(true)
    };
    Ok((met && holds(info, "root", &as_root, 0, but_writing)?).into())
}
