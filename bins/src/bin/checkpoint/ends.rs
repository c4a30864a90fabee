//! What ends a checkpointer, and what is left then.

use tablewalk_dirty::What;
use tablewalk_dirty::only_tracker::OnlyTracker;
use tablewalk_rt::ktap::Verdict;
use tablewalk_rt::process::{Child, Fork};
use tablewalk_rt::{ExitCode, println};
use tablewalk_testkit::error::Error;
use tablewalk_uapi::process::{self, kill};
use tablewalk_uapi::signal::{self, Signal};
use tablewalk_uapi::{Errno, file};

use crate::stopped::{Stopped, is_stopped};

/// A process that does nothing until it is killed.
fn idler() -> Result<Child, Error> {
    // SAFETY: the child uses nothing of its parent's.
    unsafe { Fork::promised() }
        .spawn(|| {
            loop {
                signal::pause();
            }
        })
        .map_err(Error::call("fork"))
}

/// Two trackers of one process: the second is refused while the first is there.
pub(crate) fn tracked_twice() -> Result<Verdict, Error> {
    let idler = idler()?;
    let pid = idler.pid();
    let (reader, writer) = file::pipe().map_err(Error::call("pipe"))?;
    // SAFETY: the child uses a number and a pipe.
    let first = unsafe { Fork::promised() }
        .spawn(|| {
            let only = OnlyTracker::announce(pid, What::Written);
            if only.is_ok() && file::write(&writer, b".").is_ok() {
                signal::pause();
            }
            ExitCode::FAILURE
        })
        .map_err(Error::call("fork"))?;
    drop(writer);
    file::read(&reader, &mut [0]).map_err(Error::call("pipe"))?;
    let call = Error::call("announce");
    let second = OnlyTracker::announce(pid, What::Written).map_err(&call)?;
    let refused = second.check() == Err(Errno::EBUSY);
    // What is accessed is another thing, and so is another process.
    drop(second);
    let accessed = OnlyTracker::announce(pid, What::Accessed)
        .map_err(&call)?
        .check();
    let other = OnlyTracker::announce(0, What::Written)
        .map_err(&call)?
        .check();
    // Ended, and not waited for: a zombie tracks nothing.
    kill(first.pid(), Signal::Kill).map_err(Error::call("kill"))?;
    process::wait_without_reaping(first.pid()).map_err(Error::call("wait"))?;
    let alone = OnlyTracker::announce(pid, What::Written)
        .map_err(&call)?
        .check();
    println!("# refused {refused}, accessed {accessed:?}, other {other:?}, alone {alone:?}");
    Ok((refused && [accessed, other, alone] == [Ok(()); 3]).into())
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
            if stopped.is_ok() && file::write(&writer, b".").is_ok() {
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
