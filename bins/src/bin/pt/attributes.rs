//! The attributes of an entry, in a few columns or as members of a JSON object.

use core::fmt::{self, Write};

use tablewalk_walker::{
    Absent, Access, Descriptor, Format, FrameNumber, Kind, Level, Limits, MemoryType, Permissions,
    Shareability,
};

use crate::json::Json;

/// Flags of an entry with a page, besides its permissions: letters and names.
pub(crate) const FLAGS: [(char, &str); 9] = [
    ('A', "accessed"),
    ('D', "dirty"),
    ('W', "writable"),
    ('C', "contiguous"),
    ('S', "special"),
    ('V', "devmap"),
    ('B', "guarded"),
    ('G', "global"),
    ('U', "uffd_wp"),
];

/// The names of the bits of a marker (`include/linux/swapops.h`, `PTE_MARKER_*`): bit 1 is set by this series
/// in Linux 6.1, and by Linux itself from 6.6 on.
const MARKS_6_1: [&str; 2] = ["uffd_wp", "track"];
const MARKS_6_12: [&str; 3] = ["uffd_wp", "poisoned", "guard"];

/// An entry, with everything that is needed to interpret it.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a> {
    pub(crate) format: &'a Format,
    pub(crate) level: Level,
    pub(crate) descriptor: Descriptor,
    pub(crate) limits: Limits,
}

impl Attributes<'_> {
    #[inline(never)]
    pub(crate) fn kind(&self) -> Kind {
        self.descriptor.kind(&self.format.geometry, self.level)
    }

    #[inline(never)]
    pub(crate) const fn absent(&self) -> Absent {
        let format = self.format;
        format
            .linux
            .absent(self.descriptor, &format.geometry, self.level)
    }

    /// Returns the permissions of a valid entry.
    #[inline(never)]
    pub(crate) const fn permissions(&self) -> Permissions {
        self.format.linux.permissions(self.descriptor, self.limits)
    }

    const fn is_gcs(&self) -> bool {
        self.format.linux.is_gcs(self.descriptor)
    }

    /// Returns its protection key; 0 if it has none.
    const fn key(&self) -> u8 {
        self.format.linux.protection_key(self.descriptor)
    }

    /// Iterates over its [`FLAGS`]: none if there is no page.
    pub(crate) fn flags(&self) -> impl Iterator<Item = (usize, (char, &'static str))> {
        let (linux, descriptor) = (&self.format.linux, self.descriptor);
        let valid = descriptor.is_valid();
        let bits = u16::from(descriptor.is_accessed())
            | u16::from(linux.is_dirty(descriptor)) << 1
            | u16::from(linux.is_writable(descriptor)) << 2
            | u16::from(valid && descriptor.is_contiguous()) << 3
            | u16::from(linux.is_special(descriptor)) << 4
            | u16::from(linux.is_devmap(descriptor)) << 5
            | u16::from(descriptor.is_guarded()) << 6
            | u16::from(valid && !descriptor.is_not_global()) << 7
            | u16::from(linux.is_uffd_wp(descriptor)) << 8;
        let bits = if linux.is_present(descriptor, self.level) {
            bits
        } else {
            0
        };
        let flags = FLAGS.into_iter().enumerate();
        flags.filter(move |(index, _)| bits >> index & 1 != 0)
    }

    /// Iterates over the names of a marker's bits, as far as they have names. Markers are the last type of
    /// swap entries since Linux 6.6.
    fn marked(&self, marks: u64) -> impl Iterator<Item = &'static str> {
        let names = match self.format.linux.swap.marker {
            Some(31) => &MARKS_6_12[..],
            _ => &MARKS_6_1[..],
        };
        let names = names.iter().enumerate();
        names.filter_map(move |(bit, &name)| (marks >> bit & 1 != 0).then_some(name))
    }

    /// Returns the permissions of the owner of the tables: user space, or the kernel.
    pub(crate) fn access(&self) -> Access {
        let Permissions { el0, el1 } = self.permissions();
        if self.format.geometry.is_kernel() {
            el1
        } else {
            el0
        }
    }

    /// Returns whether the owner of the tables (user space, or the kernel) can write it, now or after a
    /// fault.
    pub(crate) fn is_writable(&self) -> bool {
        let (linux, descriptor) = (&self.format.linux, self.descriptor);
        if self.format.geometry.is_kernel() {
            return self.access().write;
        }
        let user = descriptor.is_user() && !self.limits.bits().is_no_el0_table() && !self.is_gcs();
        self.permissions().el0.write || user && linux.is_writable(descriptor)
    }

    /// Returns the first frame, if it has one.
    pub(crate) fn frame(&self) -> Option<FrameNumber> {
        let geometry = &self.format.geometry;
        if self.kind() == Kind::Table {
            return Some(self.descriptor.next_table(geometry));
        }
        if self.kind() != Kind::Invalid {
            let output = self.descriptor.output_address(geometry, self.level);
            return Some(output.frame(geometry));
        }
        match self.absent() {
            Absent::NoAccess { frame }
            | Absent::Migration { frame, .. }
            | Absent::HardwarePoison { frame }
            | Absent::Device { frame } => Some(frame),
            Absent::Empty | Absent::Swap { .. } | Absent::Marker { .. } | Absent::Unknown => None,
        }
    }

    /// Returns its kind in one word.
    pub(crate) fn word(&self) -> &'static str {
        match self.kind() {
            Kind::Table => "table",
            Kind::Block => "block",
            Kind::Page => "page",
            Kind::Invalid => match self.absent() {
                Absent::Empty => "empty",
                Absent::NoAccess { .. } => "noacc",
                Absent::Swap { .. } => "swap",
                Absent::Migration { .. } => "moving",
                Absent::HardwarePoison { .. } => "poison",
                Absent::Device { .. } => "device",
                Absent::Marker { .. } => "marker",
                Absent::Unknown => "other",
            },
        }
    }

    /// Writes all attributes as members.
    pub(crate) fn write(&self, json: &mut Json) {
        json.hex("descriptor", self.descriptor.0)
            .text("kind", self.word());
        if let Some(frame) = self.frame() {
            json.hex("frame", frame.0);
        }
        let flags = self.flags().map(|(_, (_, name))| name);
        if matches!(self.kind(), Kind::Block | Kind::Page) {
            let permissions = self.permissions();
            json.text("el0", permissions.el0)
                .text("el1", permissions.el1)
                .text("memory", MemoryType::new(self.descriptor, self.format.mair))
                .text(
                    "shareability",
                    Shareability::new(&self.format.geometry, self.descriptor),
                )
                .list("flags", flags);
            if self.key() != 0 {
                json.number("key", self.key().into());
            }
            if self.is_gcs() {
                json.flag("gcs", true);
            }
            return;
        }
        match self.absent() {
            _ if self.kind() == Kind::Table => {}
            Absent::NoAccess { .. } => {
                json.list("flags", flags);
            }
            Absent::Swap {
                area,
                offset,
                exclusive,
            } => {
                json.number("area", area.into())
                    .number("offset", offset)
                    .flag("exclusive", exclusive);
            }
            Absent::Migration { writable, .. } => {
                json.flag("writable", writable);
            }
            Absent::Marker { marks } => {
                json.number("marks", marks)
                    .list("marked", self.marked(marks));
            }
            _ => {}
        }
    }
}

/// `rw- AD-------`, and without a precision also unusual attributes; for an entry that is not valid, what
/// Linux keeps there.
impl fmt::Display for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let valid = self.kind() != Kind::Invalid;
        let access = if valid {
            self.access()
        } else {
            Access::default()
        };
        write!(f, "{access} ")?;
        let mut set = self.flags().peekable();
        for (index, (letter, _)) in FLAGS.into_iter().enumerate() {
            let is_set = set.next_if(|&(flag, _)| flag == index).is_some();
            f.write_char(if is_set { letter } else { '-' })?;
        }
        if f.precision().is_some() {
            return Ok(());
        }
        if valid {
            let memory = MemoryType::new(self.descriptor, self.format.mair);
            // Normal and Normal-Tagged.
            if !matches!(memory.0, 0xff | 0xf0) {
                write!(f, " {memory}")?;
            }
            if self.is_gcs() {
                f.write_str(" GCS")?;
            }
            if self.key() != 0 {
                write!(f, " key {}", u64::from(self.key()))?;
            }
            return match Shareability::new(&self.format.geometry, self.descriptor) {
                Shareability::Inner => Ok(()),
                other => write!(f, " {other}"),
            };
        }
        match self.absent() {
            Absent::Swap { area, offset, .. } => {
                write!(f, " area {} offset {offset:#x}", u64::from(area))
            }
            Absent::Marker { marks } => {
                write!(f, " {marks:#x}")?;
                self.marked(marks).try_for_each(|name| write!(f, " {name}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use tablewalk_walker::{Geometry, Linux};

    use super::*;

    #[test]
    fn control_stacks_and_keys_are_named() {
        let mut format = Format {
            geometry: Geometry::new(12, 48, 48).unwrap(),
            linux: Linux::V6_12,
            mair: 0xff,
        };
        let shown = |format: &Format, word| {
            Attributes {
                format,
                level: Level::L3,
                descriptor: Descriptor(word),
                limits: Limits::NONE,
            }
            .to_string()
        };
        let (stack, key) = (0x0048_0000_404c_7f43, 0x30e8_0000_404c_7f43);
        assert_eq!(shown(&format, stack), "rw- ADW------");
        assert_eq!(shown(&format, key), "rw- ADW------");
        format.linux.gcs = true;
        format.linux.overlay = 0b111 << 60;
        assert_eq!(shown(&format, stack), "r-- ADW------ GCS");
        assert_eq!(shown(&format, key), "rw- ADW------ key 3");
    }

    #[test]
    fn a_control_stack_is_not_writable_memory() {
        let format = Format {
            geometry: Geometry::new(12, 48, 48).unwrap(),
            linux: Linux {
                gcs: true,
                ..Linux::V6_12
            },
            mair: 0xff,
        };
        let writable = |word| {
            Attributes {
                format: &format,
                level: Level::L3,
                descriptor: Descriptor(word),
                limits: Limits::NONE,
            }
            .is_writable()
        };
        assert!(!writable(0x0048_0000_404c_7f43));
        assert!(writable(0x00e8_0000_404c_7f43));
    }
}
