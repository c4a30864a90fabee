//! Tests of the ways in which a checkpointer ends, and of the state that it leaves behind.

use core::time::Duration;

use tablewalk_dirty::What;
use tablewalk_dirty::only_tracker::OnlyTracker;
use tablewalk_proc::lines::for_each_line;
use tablewalk_proc::path::proc_path;
use tablewalk_rt::ktap::Verdict;
use tablewalk_rt::process::{Child, Fork, execute};
use tablewalk_rt::{ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::process::{self, Status, kill};
use tablewalk_uapi::signal::{self, Signal};
use tablewalk_uapi::{Errno, file, remap};

use crate::increments::{Checkpoint, FILE};
use crate::stopped::{Stopped, is_stopped};
use crate::{IDLE, Plan};

/// A process that does nothing until it is killed.
fn idler() -> Result<Child, Error> {
    // SAFETY: the child uses nothing of its parent.
    unsafe { Fork::promised() }
        .spawn(|| {
            loop {
                signal::pause();
            }
        })
        .map_err(Error::call("fork"))
}

/// Two trackers of one process: the second is refused while the first exists, and the first is not disturbed.
pub(crate) fn tracked_twice() -> Result<Verdict, Error> {
    let idler = idler()?;
    let pid = idler.pid();
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    // SAFETY: the child uses a number and a pipe.
    let first = unsafe { Fork::promised() }
        .spawn(|| {
            let only = OnlyTracker::announce(pid, What::Written);
            if let Ok(mut only) = only
                && file::write(&writer, b".").is_ok()
            {
                while only.check().is_ok() {}
            }
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
    drop(writer);
    file::read(&reader, &mut [0]).map_err(Error::call("pipe"))?;
    let announce = |pid, what| OnlyTracker::announce(pid, what).map(drop);
    let refused = (0..TRIES).all(|_| announce(pid, What::Written) == Err(Errno::EBUSY));
    let goes_on = first.is_running().map_err(Error::call("wait"))?;
    // Tracking accesses does not conflict, nor does tracking another process.
    let accessed = announce(pid, What::Accessed);
    let other = announce(0, What::Written);
    // The process has ended, but was not reaped: a zombie tracks nothing.
    kill(first.pid(), Signal::Kill).map_err(Error::call("kill"))?;
    process::wait_without_reaping(first.pid()).map_err(Error::call("wait"))?;
    let alone = announce(pid, What::Written);
    println!(
        "# refused {refused}, first goes on {goes_on}, accessed {accessed:?}, other {other:?}, alone {alone:?}"
    );
    Ok((refused && goes_on && [accessed, other, alone] == [Ok(()); 3]).into())
}

/// Number of attempts of the second tracker, between which the first one reads.
const TRIES: u32 = 100;

/// A process that executes another program has new tables, and the name of its tracker refers to these.
pub(crate) fn tracked_over_exec() -> Result<Verdict, Error> {
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    // SAFETY: the child uses a pipe.
    let target = unsafe { Fork::promised() }
        .spawn(|| {
            let _ = file::read(&reader, &mut [0]);
            let _ = execute(c"/proc/self/exe", &[c"checkpoint", IDLE]);
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
    let pid = target.pid();
    let call = Error::call("tracker");
    let frame = || remap::path(pid, 0).map(|path| path.root_pfn);
    let before = frame().map_err(&call)?;
    let mut only = OnlyTracker::announce(pid, What::Written).map_err(&call)?;
    file::write(&writer, b".").map_err(Error::call("pipe"))?;
    while frame().map_err(&call)? == before {
        process::yield_now();
    }
    only.check().map_err(&call)?;
    // SAFETY: the child uses a number.
    let second = unsafe { Fork::promised() }
        .spawn(|| match OnlyTracker::announce(pid, What::Written) {
            Err(Errno::EBUSY) => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
        .map_err(Error::call("fork"))?;
    let status = second.wait().map_err(Error::call("wait"))?;
    Ok((status == Status::Exited(0)).into())
}

/// A checkpointer is killed while its process is stopped.
pub(crate) fn killed_while_stopped() -> Result<Verdict, Error> {
    let idler = idler()?;
    let pid = idler.pid();
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    // SAFETY: the child uses a number and a pipe.
    let checkpointer = unsafe { Fork::promised() }
        .spawn(|| {
            let stopped = Stopped::stop(pid);
            // The guard must survive signals that a terminal or a user sends to all these processes.
            let guard = stopped.as_ref().ok().and_then(Stopped::guard);
            let sent = guard.is_some_and(|guard| kill(guard, Signal::Usr1).is_ok());
            if sent && file::write(&writer, b".").is_ok() {
                signal::pause();
            }
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
    drop(writer);
    if file::read(&reader, &mut [0]).map_err(Error::call("pipe"))? == 0 {
        return Err(Error::Call("stop", Errno::ECHILD));
    }
    let before = is_stopped(pid)?;
    kill(checkpointer.pid(), Signal::Kill).map_err(Error::call("kill"))?;
    while is_stopped(pid)? {
        process::yield_now();
    }
    Ok(before.into())
}

/// The file in `/tmp` cannot become as long as it should be: in the first round, and in one for which the
/// process is stopped. The limit stands for a full disk.
pub(crate) fn no_room_to_save(plan: &Plan) -> Result<Verdict, Error> {
    const ROOM: u64 = 4096;
    let idler = idler()?;
    let pid = idler.pid();
    let no_room = |saved: Result<_, Error>| {
        if let Err(error) = &saved {
            println!("# {error}");
        }
        matches!(saved, Err(Error::Call(FILE, Errno::ENOSPC | Errno::EFBIG)))
    };
    // SAFETY: the child uses numbers.
    let checkpointer = unsafe { Fork::promised() }
        .spawn(|| {
            // SIGXFSZ would end it.
            let limited = signal::block_all().and_then(|()| file::set_size_limit(ROOM));
            let first = no_room(plan.save(pid).map(drop));
            let stopped = Stopped::stop(pid);
            let last = no_room(
                Checkpoint::create(pid)
                    .and_then(|mut file| file.round(true))
                    .map(drop),
            );
            match limited.is_ok() && first && stopped.is_ok() && last {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        })
        .map_err(Error::call("fork"))?;
    let status = checkpointer.wait().map_err(Error::call("wait"))?;
    while is_stopped(pid)? {
        process::yield_now();
    }
    let goes_on = idler.is_running().map_err(Error::call("wait"))?;
    Ok((status == Status::Exited(0) && goes_on).into())
}

/// A process that its user has stopped stays stopped.
pub(crate) fn stopped_before() -> Result<Verdict, Error> {
    let idler = idler()?;
    let pid = idler.pid();
    kill(pid, Signal::Stop).map_err(Error::call("SIGSTOP"))?;
    process::wait_until_stopped(pid).map_err(Error::call("wait"))?;
    drop(Stopped::stop(pid)?);
    let stays = is_stopped(pid)?;
    kill(pid, Signal::Continue).map_err(Error::call("SIGCONT"))?;
    while is_stopped(pid)? {
        process::yield_now();
    }
    drop(Stopped::stop(pid)?);
    let runs = !is_stopped(pid)?;
    println!("# stopped before: stays {stays}; not stopped before: runs {runs}");
    Ok((stays && runs).into())
}

/// A traced process is stopped in another way, and the checkpointer does not wait for ever for one that does
/// not stop.
pub(crate) fn stopped_or_not() -> Result<Verdict, Error> {
    // SAFETY: the child uses nothing of its parent.
    let traced = unsafe { Fork::promised() }
        .spawn(|| match process::trace_me() {
            Ok(()) => loop {
                signal::pause();
            },
            Err(_) => ExitCode::FAILURE,
        })
        .map_err(Error::call("fork"))?;
    let path = proc_path(traced.pid(), "status").map_err(Error::call("/proc"))?;
    loop {
        let mut is_traced = false;
        for_each_line(&path, &mut |line| {
            is_traced |= line.starts_with(b"TracerPid:") && line != b"TracerPid:\t0";
            Ok(())
        })
        .map_err(Error::call("/proc/PID/status"))?;
        if is_traced {
            break;
        }
        process::yield_now();
    }
    drop(Stopped::stop(traced.pid())?);
    // A kernel thread ignores signals.
    match Stopped::stop_within(KTHREADD, Duration::from_millis(100)) {
        Err(Error::Call(_, Errno::ETIMEDOUT)) => Ok(Verdict::Ok),
        Err(error) => Err(error),
        Ok(_) => Ok(Verdict::NotOk),
    }
}

/// kthreadd, the parent of all kernel threads.
const KTHREADD: i32 = 2;
