//! Scales: where on a picture a value is, from 0 to 1.
//!
//! Of an address space almost everything is empty, and what is there differs in size by a factor of a
//! million. So the axis of addresses is cut into pieces: stretches without anything become gaps of a
//! fixed width, and the others get a width that grows with the logarithm of their size. Within a piece
//! the scale is linear.

use serde::Serialize;

/// Most pieces of an axis.
const MOST_PIECES: usize = 40;
/// Stretches of fewer pages without anything are no gaps.
const SMALLEST_GAP: u64 = 64;
/// The share of the axis that one gap takes, and that all may take.
const GAP: f64 = 0.008;
const GAPS: f64 = 0.2;

/// A stretch of values in which something is.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Piece {
    /// The first value.
    pub start: u64,
    /// The value behind the last.
    pub end: u64,
    /// Where it begins on the axis.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
}

/// A scale.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Axis {
    /// Addresses or frames, in pages.
    Pages {
        /// What stands beside it.
        title: String,
        /// log2 of the bytes of a page, by which values become addresses; 0 leaves frame numbers.
        shift: u32,
        /// In order.
        pieces: Vec<Piece>,
    },
    /// Rows one below the other, or columns, each with a name. A value is a tenth of a row.
    Names {
        /// What stands beside it.
        title: String,
        /// In order.
        names: Vec<String>,
    },
    /// Numbers from 0.
    Numbers {
        /// What stands beside it.
        title: String,
        /// The number behind the last.
        end: u64,
        /// What counts as one on the scale: 10 if the numbers are tenths.
        unit: u64,
    },
}

/// Tenths of a row.
pub const ROW: u64 = 10;

impl Axis {
    /// Where `value` is. What is in a gap, where its piece ends.
    #[must_use]
    pub fn position(&self, value: u64) -> f64 {
        match self {
            Self::Pages { pieces, .. } => piece_position(pieces, value),
            Self::Names { names, .. } => ratio(value, names.len() as u64 * ROW),
            Self::Numbers { end, .. } => ratio(value, *end),
        }
    }

    /// One of addresses on which every one of `spans`, which are in order, has its place.
    #[must_use]
    pub fn addresses(spans: impl IntoIterator<Item = (u64, u64)>, page_shift: u32) -> Self {
        Self::Pages {
            title: "address".to_owned(),
            shift: page_shift,
            pieces: pieces(spans),
        }
    }

    /// As [`Axis::addresses`], of frame numbers.
    #[must_use]
    pub fn frames(spans: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self::Pages {
            title: "frame".to_owned(),
            shift: 0,
            pieces: pieces(spans),
        }
    }

    /// The pieces; none of other scales.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        match self {
            Self::Pages { pieces, .. } => pieces,
            _ => &[],
        }
    }

    /// What of `start` to `end` is in pieces: the parts between gaps.
    pub fn clip(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
        let pieces = self.pieces();
        let first = pieces.partition_point(|piece| piece.end <= start);
        let pieces = pieces.iter().skip(first);
        let pieces = pieces.take_while(move |piece| piece.start < end);
        pieces.map(move |piece| (piece.start.max(start), piece.end.min(end)))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a place on a picture")]
fn ratio(value: u64, end: u64) -> f64 {
    value as f64 / end.max(1) as f64
}

fn piece_position(pieces: &[Piece], value: u64) -> f64 {
    let place = pieces.partition_point(|piece| piece.end < value);
    match pieces.get(place) {
        Some(piece) if value < piece.start => piece.from,
        Some(piece) => {
            let inside = ratio(value - piece.start, piece.end - piece.start);
            piece.from + (piece.to - piece.from) * inside
        }
        None => 1.0,
    }
}

/// The pieces that `spans` make, which are in the order of their starts.
fn pieces(spans: impl IntoIterator<Item = (u64, u64)>) -> Vec<Piece> {
    let mut islands: Vec<(u64, u64)> = Vec::new();
    for (start, end) in spans {
        match islands.last_mut() {
            Some(last) if start <= last.1.saturating_add(SMALLEST_GAP) => last.1 = last.1.max(end),
            _ => islands.push((start, end)),
        }
    }
    let islands = bridge(&islands);
    #[expect(clippy::cast_precision_loss, reason = "a place on a picture")]
    let weight = |island: &(u64, u64)| 2.0 + ((island.1 - island.0) as f64).log2();
    let total: f64 = islands.iter().map(weight).sum();
    let gaps = u32::try_from(islands.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let gap = GAP.min(GAPS / f64::from(gaps.max(1)));
    let room = 1.0 - gap * f64::from(gaps);
    let mut from = 0.0;
    let mut pieces = Vec::new();
    for island in &islands {
        let to = from + room * weight(island) / total;
        pieces.push(Piece {
            start: island.0,
            end: island.1,
            from,
            to,
        });
        from = to + gap;
    }
    // Without the error of the sums.
    if let Some(last) = pieces.last_mut() {
        last.to = 1.0;
    }
    pieces
}

/// Leaves the widest gaps and fills the others, if there are too many.
fn bridge(islands: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let gap = |pair: &[(u64, u64)]| match pair {
        [one, next] => next.0 - one.1,
        _ => 0,
    };
    let mut gaps: Vec<_> = islands.windows(2).map(gap).collect();
    gaps.sort_unstable_by(|one, other| other.cmp(one));
    let narrowest = gaps.get(MOST_PIECES - 1).copied().unwrap_or(0);
    let chunks = islands.chunk_by(|one, next| next.0 - one.1 <= narrowest);
    let joined = chunks.filter_map(|chunk| Some((chunk.first()?.0, chunk.last()?.1)));
    joined.collect()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the ends of an axis are exact")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wide_gaps_are_cut_and_narrow_ones_stay() {
        let axis = Axis::addresses([(10, 12), (20, 30), (1 << 30, (1 << 30) + 4)], 12);
        let ends: Vec<_> = axis.pieces().iter().map(|p| (p.start, p.end)).collect();
        assert_eq!(ends, [(10, 30), (1 << 30, (1 << 30) + 4)]);
        assert_eq!(axis.position(10), 0.0);
        assert_eq!(axis.position((1 << 30) + 4), 1.0);
        let gap = axis.position(1 << 30) - axis.position(30);
        assert!((gap - GAP).abs() < 1e-12, "{gap}");
        let clipped: Vec<_> = axis.clip(25, 1 << 31).collect();
        assert_eq!(clipped, [(25, 30), (1 << 30, (1 << 30) + 4)]);
    }

    #[test]
    fn a_page_beside_a_million_pages_can_be_seen() {
        let axis = Axis::addresses([(1, 2), (1 << 20, 1 << 21)], 12);
        let page = axis.position(2) - axis.position(1);
        assert!(page > 0.05, "{page}");
    }

    #[test]
    fn nothing_has_no_pieces() {
        assert_eq!(Axis::addresses([], 12).pieces(), []);
        assert_eq!(Axis::addresses([], 12).position(5), 1.0);
    }

    proptest! {
        #[test]
        fn positions_grow_with_addresses(
            mut starts in prop::collection::vec(0u64..1 << 36, 1..300),
            pages in 1u64..5000,
        ) {
            starts.sort_unstable();
            let axis = Axis::addresses(starts.iter().map(|&start| (start, start + pages)), 12);
            prop_assert!(axis.pieces().len() <= MOST_PIECES);
            let mut last = (-1.0, 0);
            for start in starts {
                let (from, to) = (axis.position(start), axis.position(start + pages));
                prop_assert!((0.0..=1.0).contains(&from) && to <= 1.0 && from < to);
                prop_assert!(from >= last.0, "{last:?} {start}");
                last = (from, start);
            }
        }
    }
}
