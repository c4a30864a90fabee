//! A second implementation of the contract, which predicts results.

use tablewalk_uapi::Errno;

use super::ERRORS;

/// The results that a call may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Allowed {
    /// This result only.
    Exactly(Result<(), Errno>),
    /// Success, or EBUSY.
    OrBusy,
    /// This result, or ESRCH.
    OrNoProcess(Result<(), Errno>),
    /// Success, or ENOENT.
    MaybeNoTable,
    /// For a process that may exist or not: success, no table, no process, or no memory for the struct.
    Any,
}

impl Allowed {
    pub(super) fn allows(self, result: Result<(), Errno>) -> bool {
        match self {
            Self::Exactly(expected) => result == expected,
            Self::OrBusy => matches!(result, Ok(()) | Err(Errno::EBUSY)),
            Self::OrNoProcess(expected) => result == expected || result == Err(Errno::ESRCH),
            Self::MaybeNoTable => matches!(result, Ok(()) | Err(Errno::ENOENT)),
            Self::Any => !matches!(result, Err(errno) if !ERRORS.contains(&errno)),
        }
    }
}

/// Whether the kernel can map over a place or write to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Good,
    /// Aligned, but not mapped, or not writable.
    Bad,
    Unaligned,
}
/// Returns the result by the order in which the contract checks: the place, the process, the table.
pub(super) fn judge(place: Place, exists: Option<bool>, found: Allowed) -> Allowed {
    match (place, exists) {
        (Place::Bad | Place::Unaligned, _) => Allowed::Exactly(Err(Errno::EINVAL)),
        (Place::Good, Some(true)) => found,
        (Place::Good, Some(false)) => Allowed::Exactly(Err(Errno::ESRCH)),
        (Place::Good, None) => Allowed::Any,
    }
}
