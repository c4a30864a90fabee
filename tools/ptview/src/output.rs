//! Files that are whole or not there.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::Error;

/// A file beside the one it is to be, which it becomes with [`Output::publish`]; until then nothing has
/// changed.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    file: NamedTempFile,
}

impl Output {
    /// Writes `contents` for `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn prepare(path: &Path, contents: &[u8]) -> Result<Self, Error> {
        let path = path.to_owned();
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let prepared = write(folder.unwrap_or(Path::new(".")), contents);
        match prepared {
            Ok(file) => Ok(Self { path, file }),
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
        let published = self.file.persist(&path);
        published.map_err(|error| Error::Io {
            path,
            error: error.error,
        })?;
        Ok(())
    }
}

fn write(folder: &Path, contents: &[u8]) -> io::Result<NamedTempFile> {
    fs::create_dir_all(folder)?;
    let mut file = NamedTempFile::with_prefix_in(".ptview-", folder)?;
    file.write_all(contents)?;
    // As others make files: what is private by itself is made so by the umask of a later copy.
    file.as_file()
        .set_permissions(Permissions::from_mode(0o644))?;
    Ok(file)
}
