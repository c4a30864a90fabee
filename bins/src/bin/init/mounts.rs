//! Mounts the file systems that programs expect: `/proc`, `/sys`, `/dev` and others.

use core::ffi::CStr;
use core::fmt;

use heapless::Vec;
use tablewalk_uapi::Errno;
use tablewalk_uapi::file;
use tablewalk_uapi::system::{self, MS_NODEV, MS_NOEXEC, MS_NOSUID};

/// A file system and its mount point.
struct Mount {
    kind: &'static CStr,
    target: &'static CStr,
    flags: u32,
    option: &'static str,
}

const MOUNTS: [Mount; 3] = [
    Mount {
        kind: c"proc",
        target: c"/proc",
        flags: MS_NODEV | MS_NOEXEC | MS_NOSUID,
        option: "CONFIG_PROC_FS",
    },
    Mount {
        kind: c"sysfs",
        target: c"/sys",
        flags: MS_NODEV | MS_NOEXEC | MS_NOSUID,
        option: "CONFIG_SYSFS",
    },
    Mount {
        kind: c"devtmpfs",
        target: c"/dev",
        flags: MS_NOEXEC | MS_NOSUID,
        option: "CONFIG_DEVTMPFS",
    },
];

/// The devices that init itself uses, with their mode and numbers: `Documentation/admin-guide/devices.txt`.
const DEVICES: [(&CStr, u32, u32, u32); 3] = [
    (c"/dev/console", 0o600, 5, 1),
    (c"/dev/null", 0o666, 1, 3),
    (c"/dev/kmsg", 0o600, 1, 11),
];

/// A file system that could not be mounted, and why.
pub(crate) struct MountError {
    mount: &'static Mount,
    errno: Errno,
    /// The error of creating its mount point.
    folder: Option<Errno>,
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.mount.target.to_str().unwrap_or_default();
        write!(f, "mount {target}: {}", self.errno)?;
        match (self.errno, self.folder) {
            (Errno::ENODEV, _) => write!(f, ": the kernel lacks {}", self.mount.option),
            (_, Some(errno)) => write!(f, ": making the folder: {errno}"),
            _ => Ok(()),
        }
    }
}

/// Mounts missing file systems, and creates the devices that init needs if the kernel does not. Returns the
/// errors, to be printed once there is a console.
pub(crate) fn mount_what_is_missing() -> Vec<MountError, { MOUNTS.len() }> {
    let mut errors = Vec::new();
    for mount in &MOUNTS {
        let folder = match file::make_folder(mount.target, 0o755) {
            Ok(()) | Err(Errno::EEXIST) => None,
            Err(errno) => Some(errno),
        };
        match system::mount(mount.kind, mount.target, mount.kind, mount.flags) {
            // EBUSY: mounted already.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(errno) => {
                let error = MountError {
                    mount,
                    errno,
                    folder,
                };
                // There is room for one error of each mount.
                let _ = errors.push(error);
            }
        }
    }
    for (path, mode, major, minor) in DEVICES {
        // The device may exist; if it cannot be created, opening it fails later.
        let _ = file::make_character_device(path, mode, major, minor);
    }
    errors
}
