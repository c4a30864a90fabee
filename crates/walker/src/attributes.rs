//! The attributes of a leaf, as hardware interprets them.

use core::fmt;

use crate::{Descriptor, Geometry};

/// The accesses that are permitted at one exception level.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Access {
    /// It can be read.
    pub read: bool,
    /// It can be written.
    pub write: bool,
    /// It can be executed.
    pub execute: bool,
}

impl Access {
    /// No access.
    pub const NONE: Self = Self {
        read: false,
        write: false,
        execute: false,
    };
    /// Reads only.
    pub const READ: Self = Self {
        read: true,
        ..Self::NONE
    };
}

/// `rwx`, with `-` for an access that is not permitted.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |allowed, letter| if allowed { letter } else { "-" };
        f.write_str(letter(self.read, "r"))?;
        f.write_str(letter(self.write, "w"))?;
        f.write_str(letter(self.execute, "x"))
    }
}

/// The permissions that table descriptors take away from everything below them (Arm ARM DDI 0487,
/// "Hierarchical control of data access permissions" and "of instruction fetching").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Limits(u64);

impl Limits {
    /// Nothing.
    pub const NONE: Self = Self(0);

    const BITS: u64 = Descriptor::PXN_TABLE
        | Descriptor::UXN_TABLE
        | Descriptor::AP_TABLE_NO_EL0
        | Descriptor::AP_TABLE_READ_ONLY;

    /// Returns these limits together with those of the table descriptor `table`.
    #[inline]
    #[must_use]
    pub const fn below(self, table: Descriptor) -> Self {
        Self(self.0 | table.0 & Self::BITS)
    }

    /// PXNTable, XNTable and APTable, at their positions in a table descriptor.
    #[must_use]
    pub const fn bits(self) -> Descriptor {
        Descriptor(self.0)
    }
}

/// The permissions of a leaf at EL0 and at EL1, as the MMU enforces them now (Arm ARM DDI 0487, "Data access
/// permission controls", "Instruction execution controls"). Without PAN and pointer authentication. A page
/// that is writable and clean to Linux is not writable here.
///
/// These are the direct permissions. [`Linux::permissions`](crate::Linux::permissions) knows pages whose
/// permissions are indirect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Permissions {
    /// In user space.
    pub el0: Access,
    /// In the kernel.
    pub el1: Access,
}

impl Permissions {
    /// Returns the permissions of the valid leaf `leaf` below tables with `limits`.
    #[must_use]
    pub const fn new(leaf: Descriptor, limits: Limits) -> Self {
        let tables = limits.bits();
        let el0 = leaf.is_user() && !tables.is_no_el0_table();
        let writable = !leaf.is_read_only() && !tables.is_read_only_table();
        Self {
            el0: Access {
                read: el0,
                write: el0 && writable,
                // Even without read access: execute-only.
                execute: !leaf.is_uxn() && !tables.is_uxn_table(),
            },
            el1: Access {
                read: true,
                write: writable,
                // EL1 does not execute memory that EL0 can write.
                execute: !(leaf.is_pxn() || tables.is_pxn_table() || el0 && writable),
            },
        }
    }
}

/// A memory type: the byte of `MAIR_EL1` that AttrIndx selects (Arm ARM DDI 0487, "`MAIR_EL1`").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MemoryType(pub u8);

impl MemoryType {
    /// Returns the memory type of `leaf` for this value of `MAIR_EL1`.
    #[must_use]
    pub const fn new(leaf: Descriptor, mair: u64) -> Self {
        let [byte, ..] = (mair >> (8 * leaf.attr_index() as u32)).to_le_bytes();
        Self(byte)
    }

    /// Returns whether it is device memory.
    #[must_use]
    pub const fn is_device(self) -> bool {
        self.0 & 0xf0 == 0
    }
}

/// The usual names; the byte itself where the inner and the outer cacheability differ.
impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0x00 => "Device-nGnRnE",
            0x04 => "Device-nGnRE",
            0x08 => "Device-nGRE",
            0x0c => "Device-GRE",
            0x44 => "Normal-NC",
            0xbb => "Normal-WT",
            0xff => "Normal",
            0xf0 => "Normal-Tagged",
            byte => return write!(f, "MAIR-{:#04x}", u64::from(byte)),
        })
    }
}

/// SH\[1:0\] of a leaf: the observers for which memory is coherent (Arm ARM DDI 0487, "Shareability").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Shareability {
    /// Nobody.
    Non,
    /// No meaning.
    Reserved,
    /// The outer shareable domain.
    Outer,
    /// The inner shareable domain: the CPUs that run one kernel.
    Inner,
}

impl Shareability {
    /// Returns the shareability of `leaf`.
    #[must_use]
    pub const fn new(geometry: &Geometry, leaf: Descriptor) -> Self {
        match leaf.shareability(geometry) {
            0 => Self::Non,
            1 => Self::Reserved,
            2 => Self::Outer,
            _ => Self::Inner,
        }
    }
}

impl fmt::Display for Shareability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Non => "NSH",
            Self::Reserved => "SH-1",
            Self::Outer => "OSH",
            Self::Inner => "ISH",
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    fn shown(leaf: u64, tables: &[u64]) -> (std::string::String, std::string::String) {
        let limits = tables.iter().fold(Limits::NONE, |limits, &table| {
            limits.below(Descriptor(table))
        });
        let permissions = Permissions::new(Descriptor(leaf), limits);
        (permissions.el0.to_string(), permissions.el1.to_string())
    }

    #[test]
    fn ap_uxn_and_pxn_make_the_permissions() {
        const USER: u64 = Descriptor::AP_EL0;
        const READ_ONLY: u64 = Descriptor::AP_READ_ONLY;
        const UXN: u64 = Descriptor::UXN;
        const PXN: u64 = Descriptor::PXN;
        for (leaf, el0, el1) in [
            (0, "--x", "rwx"),
            (USER, "rwx", "rw-"),
            (READ_ONLY, "--x", "r-x"),
            (USER | READ_ONLY, "r-x", "r-x"),
            (USER | UXN | PXN, "rw-", "rw-"),
            (USER | READ_ONLY | UXN, "r--", "r-x"),
            (READ_ONLY | UXN | PXN, "---", "r--"),
        ] {
            assert_eq!(shown(leaf, &[]), (el0.into(), el1.into()), "{leaf:#x}");
        }
    }

    #[test]
    fn tables_take_away_from_what_is_below() {
        const USER: u64 = Descriptor::AP_EL0;
        for (table, el0, el1) in [
            (Descriptor::AP_TABLE_READ_ONLY, "r-x", "r-x"),
            (Descriptor::AP_TABLE_NO_EL0, "--x", "rwx"),
            (Descriptor::UXN_TABLE, "rw-", "rw-"),
            (Descriptor::PXN_TABLE, "rwx", "rw-"),
            // No other bit of a table descriptor is about permissions.
            (!Limits::BITS, "rwx", "rw-"),
        ] {
            for tables in [[table, 0], [0, table]] {
                assert_eq!(shown(USER, &tables), (el0.into(), el1.into()), "{table:#x}");
            }
        }
    }

    #[test]
    fn memory_types_have_the_names_of_the_arm_arm() {
        // MAIR_EL1_SET of arch/arm64/mm/proc.S.
        const MAIR: u64 = 0xf0_44_04_00_ff;
        let names = [0, 1, 2, 3, 4]
            .map(|index: u64| MemoryType::new(Descriptor(index << 2), MAIR).to_string());
        assert_eq!(
            names,
            [
                "Normal",
                "Device-nGnRnE",
                "Device-nGnRE",
                "Normal-NC",
                "Normal-Tagged"
            ]
        );
        assert_eq!(MemoryType(0x4f).to_string(), "MAIR-0x4f");
        assert!(MemoryType(0x04).is_device() && !MemoryType(0x44).is_device());
    }
}
