//! The system calls by which handlers wait, or with `--cfg loom` a model of them.

#[cfg(not(loom))]
pub(crate) use tablewalk_uapi::{
    file::{OwnedFd, pipe_without_waiting, read, write},
    poll::{Events, PollFd, poll},
    userfault::{Event, Messages, Userfault, Waking},
};

#[cfg(loom)]
mod modelled;

#[cfg(loom)]
pub(crate) use modelled::*;
