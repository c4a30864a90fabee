//! What entries say, in the words of `pt`.

use std::collections::HashMap;

use serde::Serialize;
use tablewalk_walker::{
    Absent, Descriptor, Format, Found, FrameNumber, Kind, MemoryType, Shareability,
};

use crate::record::Said;
use crate::snapshot::printable;

/// What entries have in common that belong together: all but their frames. The words are those of
/// `docs/json.md`; empty where an entry has none.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug, Serialize)]
pub struct Attributes {
    /// `page`, `block`, `noacc`, `swap` ...
    pub kind: String,
    /// What user space may do.
    pub el0: String,
    /// What the kernel may do.
    pub el1: String,
    /// The memory type.
    pub memory: String,
    /// The shareability.
    pub shareability: String,
    /// `accessed`, `dirty` ...
    pub flags: Vec<String>,
    /// Of what is not in memory: the swap area, marks, whether it may be written. Of what is: a guarded
    /// control stack, the protection key.
    pub more: String,
}

impl Attributes {
    /// Whether there is a frame that is mapped.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        matches!(self.kind.as_str(), "page" | "block")
    }

    /// Whether it has the flag `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag == name)
    }

    pub(crate) fn said(said: &Said) -> Self {
        let mut more = Vec::new();
        if let Some(area) = said.area {
            more.push(format!("area {area}"));
        }
        if said.exclusive == Some(true) {
            more.push("exclusive".to_owned());
        }
        if said.writable == Some(true) {
            more.push("writable".to_owned());
        }
        if let Some(marks) = said.marks {
            more.push(format!("marks {marks:#x}"));
        }
        if said.gcs == Some(true) {
            more.push("GCS".to_owned());
        }
        if let Some(key) = said.key {
            more.push(format!("key {key}"));
        }
        Self {
            kind: printable(&said.kind),
            el0: printable(&said.el0),
            el1: printable(&said.el1),
            memory: printable(&said.memory),
            shareability: printable(&said.shareability),
            flags: said.flags.iter().map(|flag| printable(flag)).collect(),
            more: more.join(" "),
        }
    }

    /// What `found` says, and its first frame.
    pub(crate) fn found(format: &Format, found: &Found) -> (Self, Option<FrameNumber>) {
        let geometry = &format.geometry;
        let descriptor = found.descriptor;
        let mut said = Self::default();
        if matches!(
            descriptor.kind(geometry, found.level),
            Kind::Block | Kind::Page
        ) {
            let linux = &format.linux;
            let permissions = linux.permissions(descriptor, found.limits);
            let block = descriptor.kind(geometry, found.level) == Kind::Block;
            said.kind = if block { "block" } else { "page" }.to_owned();
            said.el0 = permissions.el0.to_string();
            said.el1 = permissions.el1.to_string();
            said.memory = MemoryType::new(descriptor, format.mair).to_string();
            said.shareability = Shareability::new(geometry, descriptor).to_string();
            said.flags = flags(format, descriptor);
            let gcs = linux.is_gcs(descriptor).then(|| "GCS".to_owned());
            let key = match linux.protection_key(descriptor) {
                0 => None,
                key => Some(format!("key {key}")),
            };
            said.more = [gcs, key]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" ");
            return (said, Some(found.frame(geometry)));
        }
        let absent = format.linux.absent(descriptor, geometry, found.level);
        let (kind, frame) = match absent {
            Absent::Empty => ("empty", None),
            Absent::NoAccess { frame } => ("noacc", Some(frame)),
            Absent::Swap { .. } => ("swap", None),
            Absent::Migration { frame, .. } => ("moving", Some(frame)),
            Absent::HardwarePoison { frame } => ("poison", Some(frame)),
            Absent::Device { frame } => ("device", Some(frame)),
            Absent::Marker { .. } => ("marker", None),
            Absent::Unknown => ("other", None),
        };
        said.kind = kind.to_owned();
        match absent {
            Absent::NoAccess { .. } => said.flags = flags(format, descriptor),
            Absent::Swap {
                area, exclusive, ..
            } => {
                let exclusive = if exclusive { " exclusive" } else { "" };
                said.more = format!("area {area}{exclusive}");
            }
            Absent::Migration { writable: true, .. } => said.more = "writable".to_owned(),
            Absent::Marker { marks } => said.more = format!("marks {marks:#x}"),
            _ => {}
        }
        (said, frame)
    }
}

/// The flags of an entry that has a page, in the order of `pt`.
fn flags(format: &Format, descriptor: Descriptor) -> Vec<String> {
    let linux = &format.linux;
    let valid = descriptor.is_valid();
    [
        ("accessed", descriptor.is_accessed()),
        ("dirty", linux.is_dirty(descriptor)),
        ("writable", linux.is_writable(descriptor)),
        ("contiguous", valid && descriptor.is_contiguous()),
        ("special", linux.is_special(descriptor)),
        ("devmap", linux.is_devmap(descriptor)),
        ("guarded", descriptor.is_guarded()),
        ("global", valid && !descriptor.is_not_global()),
        ("uffd_wp", linux.is_uffd_wp(descriptor)),
    ]
    .into_iter()
    .filter(|(_, set)| *set)
    .map(|(name, _)| name.to_owned())
    .collect()
}

/// Every combination of attributes once.
#[derive(Clone, Default, Debug)]
pub struct Catalogue {
    list: Vec<Attributes>,
    numbers: HashMap<Attributes, u32>,
}

impl Catalogue {
    /// The number of `attributes`, new or as before.
    pub fn number(&mut self, attributes: Attributes) -> u32 {
        if let Some(&number) = self.numbers.get(&attributes) {
            return number;
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push(attributes.clone());
        self.numbers.insert(attributes, number);
        number
    }

    /// All of them; each has its number as its place.
    #[must_use]
    pub fn list(&self) -> &[Attributes] {
        &self.list
    }

    /// Those with this number.
    #[must_use]
    pub fn of(&self, number: u32) -> &Attributes {
        static NONE: Attributes = Attributes {
            kind: String::new(),
            el0: String::new(),
            el1: String::new(),
            memory: String::new(),
            shareability: String::new(),
            flags: Vec::new(),
            more: String::new(),
        };
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        self.list.get(number).unwrap_or(&NONE)
    }
}
