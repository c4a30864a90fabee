//! Lookup levels.

use core::fmt;

/// A lookup level of the Arm ARM: the walk starts at the initial lookup level and ends at level 3. Level -1
/// exists only with 4K pages and 52-bit addresses (`FEAT_LPA2`).
///
/// [`Geometry::level_name`](crate::Geometry::level_name) has the names that Linux uses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(i8)]
pub enum Level {
    /// Lookup level -1.
    LMinus1 = -1,
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
    /// All levels, from the highest to the lowest.
    pub const ALL: [Self; 5] = [Self::LMinus1, Self::L0, Self::L1, Self::L2, Self::L3];

    /// Returns the level of the tables to which table descriptors of this level point; `None` for level 3.
    #[inline]
    #[must_use]
    pub const fn next_lower(self) -> Option<Self> {
        match self {
            Self::LMinus1 => Some(Self::L0),
            Self::L0 => Some(Self::L1),
            Self::L1 => Some(Self::L2),
            Self::L2 => Some(Self::L3),
            Self::L3 => None,
        }
    }

    /// Returns the level whose table descriptors point to tables of this one; `None` for level -1.
    #[inline]
    #[must_use]
    pub const fn next_higher(self) -> Option<Self> {
        match self {
            Self::LMinus1 => None,
            Self::L0 => Some(Self::LMinus1),
            Self::L1 => Some(Self::L0),
            Self::L2 => Some(Self::L1),
            Self::L3 => Some(Self::L2),
        }
    }

    /// -1 to 3.
    #[inline]
    #[must_use]
    pub const fn number(self) -> i8 {
        self as i8
    }

    /// Returns its index in [`Level::ALL`], 0 to 4.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        (self as i8 + 1).cast_unsigned() as usize
    }
}

/// `L3`.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LMinus1 => "L-1",
            Self::L0 => "L0",
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
        })
    }
}

/// The number of a level that does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidLevel(pub i8);

impl fmt::Display for InvalidLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lookup level {}: not -1 to 3", self.0)
    }
}

impl core::error::Error for InvalidLevel {}

impl TryFrom<i8> for Level {
    type Error = InvalidLevel;

    fn try_from(number: i8) -> Result<Self, InvalidLevel> {
        match number {
            -1 => Ok(Self::LMinus1),
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
    fn levels_descend_to_3_and_end() {
        let mut numbers = [None; 6];
        let mut level = Some(Level::LMinus1);
        for slot in &mut numbers {
            *slot = level.map(Level::number);
            level = level.and_then(Level::next_lower);
        }
        assert_eq!(
            numbers,
            [Some(-1), Some(0), Some(1), Some(2), Some(3), None]
        );
    }

    #[test]
    fn a_number_is_a_level_only_up_to_3() {
        assert_eq!(Level::try_from(-2), Err(InvalidLevel(-2)));
        assert_eq!(Level::try_from(-1), Ok(Level::LMinus1));
        assert_eq!(Level::try_from(0), Ok(Level::L0));
        assert_eq!(Level::try_from(1), Ok(Level::L1));
        assert_eq!(Level::try_from(2), Ok(Level::L2));
        assert_eq!(Level::try_from(3), Ok(Level::L3));
        assert_eq!(Level::try_from(4), Err(InvalidLevel(4)));
        assert_eq!(Level::try_from(127), Err(InvalidLevel(127)));
        assert_eq!(Level::ALL.map(Level::index), [0, 1, 2, 3, 4]);
    }
}
