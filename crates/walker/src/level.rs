//! Lookup levels.

use core::fmt;

/// A lookup level of the Arm ARM: the walk starts at the initial lookup level and ends at level 3.
///
/// [`Geometry::level_name`](crate::Geometry::level_name) has the names that Linux uses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// Lookup level 0.
    L0 = 0,
    /// Lookup level 1.
    L1 = 1,
    /// Lookup level 2.
    L2 = 2,
    /// Lookup level 3, whose descriptors map pages.
    L3 = 3,
}

impl Level {
    /// The level of the tables that table descriptors of this level point to; `None` below level 3.
    #[inline]
    #[must_use]
    pub const fn next_lower(self) -> Option<Self> {
        match self {
            Self::L0 => Some(Self::L1),
            Self::L1 => Some(Self::L2),
            Self::L2 => Some(Self::L3),
            Self::L3 => None,
        }
    }

    /// The level whose table descriptors point to tables of this one; `None` above level 0.
    #[inline]
    #[must_use]
    pub const fn next_higher(self) -> Option<Self> {
        match self {
            Self::L0 => None,
            Self::L1 => Some(Self::L0),
            Self::L2 => Some(Self::L1),
            Self::L3 => Some(Self::L2),
        }
    }

    /// 0 to 3.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// `L3`.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::L0 => "L0",
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
        })
    }
}

/// The number of a level that does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidLevel(pub u8);

impl fmt::Display for InvalidLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lookup level {}: not 0 to 3", self.0)
    }
}

impl core::error::Error for InvalidLevel {}

impl TryFrom<u8> for Level {
    type Error = InvalidLevel;

    fn try_from(number: u8) -> Result<Self, InvalidLevel> {
        match number {
            0 => Ok(Self::L0),
            1 => Ok(Self::L1),
            2 => Ok(Self::L2),
            3 => Ok(Self::L3),
            _ => Err(InvalidLevel(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_descend_from_0_to_3_and_end() {
        let mut numbers = [None; 5];
        let mut level = Some(Level::L0);
        for slot in &mut numbers {
            *slot = level.map(Level::number);
            level = level.and_then(Level::next_lower);
        }
        assert_eq!(numbers, [Some(0), Some(1), Some(2), Some(3), None]);
    }

    #[test]
    fn a_number_is_a_level_only_up_to_3() {
        assert_eq!(Level::try_from(0), Ok(Level::L0));
        assert_eq!(Level::try_from(1), Ok(Level::L1));
        assert_eq!(Level::try_from(2), Ok(Level::L2));
        assert_eq!(Level::try_from(3), Ok(Level::L3));
        assert_eq!(Level::try_from(4), Err(InvalidLevel(4)));
        assert_eq!(Level::try_from(255), Err(InvalidLevel(255)));
    }
}
