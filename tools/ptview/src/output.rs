//! Files that are whole or not there.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use crate::error::Error;
use crate::view::same_file;

/// Symbolic links that are followed, one from the other, to a file that is not there yet.
const LINKS: usize = 40;

/// What is to be written; until [`Output::publish`] nothing has changed.
#[derive(Debug)]
pub struct Output {
    /// As it was asked for.
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// A file beside the one that it is to be, which may be elsewhere than the path says: behind symbolic
    /// links.
    Beside(NamedTempFile, PathBuf),
    /// What cannot be replaced, as a device, a pipe and the standard output: it is written to.
    Into(Vec<u8>),
}

impl Output {
    /// Writes `contents` for `path`; `-` is the standard output.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn prepare(path: &Path, contents: &[u8]) -> Result<Self, Error> {
        let path = path.to_owned();
        match place(&path, contents) {
            Ok(place) => Ok(Self { path, place }),
            Err(error) => Err(Error::Io { path, error }),
        }
    }

    /// Puts it in its place.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn publish(self) -> Result<(), Error> {
        let path = self.path;
        let published = match self.place {
            Place::Beside(file, target) => {
                let persisted = file.persist(&target);
                persisted.map(drop).map_err(|error| error.error)
            }
            Place::Into(contents) => write_into(&path, &contents),
        };
        published.map_err(|error| Error::Io { path, error })
    }
}

/// Checks that no output replaces one of `inputs`, or another output.
///
/// # Errors
///
/// [`Error::Overwrite`] and [`Error::Twice`].
pub fn check(outputs: &[Output], inputs: &[&PathBuf]) -> Result<(), Error> {
    let mut targets: Vec<PathBuf> = Vec::new();
    for output in outputs {
        let Place::Beside(file, target) = &output.place else {
            continue;
        };
        if let Some(&path) = inputs.iter().find(|input| same_file(target, input)) {
            let path = path.clone();
            return Err(Error::Overwrite { path });
        }
        // The folder is there, since the file beside is.
        let folder = file.path().parent().map(fs::canonicalize);
        let folder = folder.and_then(Result::ok).unwrap_or_default();
        let target = folder.join(target.file_name().unwrap_or_default());
        if targets.contains(&target) {
            let path = output.path.clone();
            return Err(Error::Twice { path });
        }
        targets.push(target);
    }
    Ok(())
}

fn place(path: &Path, contents: &[u8]) -> io::Result<Place> {
    if path == Path::new("-") {
        return Ok(Place::Into(contents.to_owned()));
    }
    // What is there is asked for before any link is followed: those in /proc lead to what is open, by names that need
    // not be there, and a file that a shell has opened for the output has to stay the one that it has.
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
        || leads_into_proc(path)
    {
        return Ok(Place::Into(contents.to_owned()));
    }
    let target = follow(path)?;
    let replaced = match fs::metadata(&target) {
        Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if !found.is_file() => return Ok(Place::Into(contents.to_owned())),
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let folder = target
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // An error of the temporary file would name that.
    fs::metadata(folder)?;
    // A new file is as the umask has it, another one as the one that it replaces.
    let mut file = Builder::new()
        .prefix(".ptview-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    if let Some(replaced) = replaced {
        // Only root can give a file away; the mode comes last, since that takes bits of it away.
        let _ = fchown(file.as_file(), Some(replaced.uid()), Some(replaced.gid()));
        file.as_file().set_permissions(replaced.permissions())?;
    }
    file.write_all(contents)?;
    Ok(Place::Beside(file, target))
}

/// Whether `path`, or a link that it is, is a link in `/proc`, as `/dev/stdout` is.
fn leads_into_proc(path: &Path) -> bool {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Ok(next) = fs::read_link(&path) else {
            return false;
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        if fs::canonicalize(folder).is_ok_and(|folder| folder.starts_with("/proc")) {
            return true;
        }
        path = folder.join(next);
    }
    false
}

/// Where symbolic links at `path` lead, also if nothing is there.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&path) {
            Ok(next) => path = path.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => return Ok(path),
        }
    }
    // ELOOP, as of the kernel.
    Err(fs::metadata(&path)
        .err()
        .unwrap_or_else(|| io::ErrorKind::Other.into()))
}

fn write_into(path: &Path, contents: &[u8]) -> io::Result<()> {
    if path == Path::new("-") {
        let mut out = io::stdout().lock();
        out.write_all(contents)?;
        return out.flush();
    }
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(contents)
}
