//! Where the pages of a region are, after parts of it were moved by mremap(2).

use core::ops::Range;

use heapless::Vec;

/// Maximum number of pieces of a region.
const PIECES: usize = 32;

/// Consecutive pages at consecutive addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    address: u64,
    length: u64,
    /// Bytes from the start of the region to the first page.
    offset: u64,
    state: State,
}

/// Whether a piece is known to be mapped at its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It is mapped there.
    Mapped,
    /// Another piece was moved there. The event that reports the new place of this piece is still to come.
    Displaced,
}

/// What is at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// A page of the region, by its number.
    Page(usize),
    /// Memory that mremap(2) added to a part of the region, or left behind: zeros.
    New,
    /// A piece that was dropped, because there were too many.
    Lost,
}

/// The addresses of all pages of a region.
///
/// Events arrive in the order in which threads report their changes, not in the order of the changes. If a
/// piece is moved to the place of another one, the other one has left, and an event about it is outstanding;
/// that event is about the piece that was there first.
///
/// mremap(2) also unmaps the old place, and reports that after the move; this report says nothing about what
/// is mapped there by then. Any other report of an unmapped range is final: a later mapping there is a new
/// one.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    page_shift: u32,
    pieces: Vec<Piece, PIECES>,
    /// Whether there were more than the maximum number of pieces.
    is_incomplete: bool,
    /// Whether a part was ever moved.
    was_moved: bool,
    /// Old places of moved pieces whose unmapping is still to be reported, the latest last.
    owed: Vec<Range<u64>, PIECES>,
    /// In a child: what `owed` was for the parent. Some of it was left behind and is mapped.
    inherited: Vec<Range<u64>, PIECES>,
}

impl Piece {
    const fn end(&self) -> u64 {
        self.address + self.length
    }

    /// Returns whether the two are contiguous, both in memory and in the region.
    fn joins(&self, other: &Self) -> bool {
        let same = other.state == self.state
            && other.address.wrapping_sub(other.offset) == self.address.wrapping_sub(self.offset);
        same && (other.end() == self.address || self.end() == other.address)
    }

    /// Returns the part of the piece that is inside `range`, if any.
    fn inside(&self, range: &Range<u64>) -> Option<Self> {
        let start = self.address.max(range.start);
        let end = self.end().min(range.end);
        (start < end).then(|| Self {
            address: start,
            length: end - start,
            offset: self.offset + (start - self.address),
            ..*self
        })
    }
}

impl Layout {
    /// All of a region of `length` bytes at `address`.
    pub(crate) fn new(address: u64, length: u64, page_shift: u32) -> Self {
        let mut layout = Self {
            page_shift,
            pieces: Vec::new(),
            is_incomplete: false,
            was_moved: false,
            owed: Vec::new(),
            inherited: Vec::new(),
        };
        layout.push(Piece {
            address,
            length,
            offset: 0,
            state: State::Mapped,
        });
        layout
    }

    /// Returns what is at `address`.
    pub(crate) fn find(&self, address: u64) -> Place {
        let is_there = |piece: &&Piece| {
            piece.state != State::Displaced && (piece.address..piece.end()).contains(&address)
        };
        match self.pieces.iter().find(is_there) {
            Some(piece) => {
                let offset = piece.offset + (address - piece.address);
                usize::try_from(offset >> self.page_shift).map_or(Place::Lost, Place::Page)
            }
            None if self.is_incomplete => Place::Lost,
            None => Place::New,
        }
    }

    /// Returns the layout for a child, to which events that the parent still has to read are not reported.
    pub(crate) fn for_child(&self) -> Self {
        let mut child = self.clone();
        for owed in core::mem::take(&mut child.owed) {
            let _room = child.inherited.push(owed);
        }
        child
    }

    /// Whether a part was ever moved.
    pub(crate) const fn was_moved(&self) -> bool {
        self.was_moved
    }

    /// Returns the pages that are mapped in `range`, in one or more parts.
    pub(crate) fn pages_in(&self, range: &Range<u64>) -> impl Iterator<Item = Range<usize>> {
        let page = |offset: u64| usize::try_from(offset >> self.page_shift).unwrap_or(usize::MAX);
        self.pieces
            .iter()
            .filter(|piece| piece.state != State::Displaced)
            .filter_map(|piece| piece.inside(range))
            .map(move |piece| page(piece.offset)..page(piece.offset + piece.length))
    }

    /// Returns whether all of `range` maps the part of the region that begins `offset` bytes after its start.
    pub(crate) fn is_original(&self, range: &Range<u64>, offset: u64) -> bool {
        let same = |piece: &Piece| {
            piece.state == State::Mapped
                && piece.address.wrapping_sub(piece.offset) == range.start.wrapping_sub(offset)
                && piece
                    .inside(range)
                    .is_some_and(|part| part.length == range.end - range.start)
        };
        range.is_empty() || self.pieces.iter().any(same)
    }

    /// Calls `each` with the address range of each mapped piece.
    pub(crate) fn mapped(&self, each: &mut dyn FnMut(Range<u64>)) {
        for piece in &self.pieces {
            if piece.state == State::Mapped {
                each(piece.address..piece.end());
            }
        }
    }

    /// Calls `each` with the address ranges of which moves may have left the mapping behind
    /// (`MREMAP_DONTUNMAP`). Such a mapping is still watched.
    pub(crate) fn left_behind(&self, each: &mut dyn FnMut(Range<u64>)) {
        self.owed
            .iter()
            .chain(&self.inherited)
            .cloned()
            .for_each(each);
    }

    /// Records that `length` bytes were moved from `from` to `to`.
    pub(crate) fn moved(&mut self, from: u64, to: u64, length: u64) {
        self.was_moved = true;
        let is_displaced = |state| state == State::Displaced;
        let (source, target) = (from..from + length, to..to + length);
        let mut moved = self.cut(&source, is_displaced);
        if moved.is_empty() {
            moved = self.cut(&source, |_| true);
        }
        for mut piece in self.cut(&target, |state| !is_displaced(state)) {
            piece.state = State::Displaced;
            self.push(piece);
        }
        for piece in moved {
            self.push(Piece {
                address: piece.address.wrapping_sub(from).wrapping_add(to),
                state: State::Mapped,
                ..piece
            });
        }
        self.owe(source);
    }

    /// Records that `range` was unmapped.
    pub(crate) fn unmapped(&mut self, range: &Range<u64>) {
        self.inherited
            .retain(|old| old.end <= range.start || range.end <= old.start);
        if let Some(owed) = self.owed.iter().position(|owed| owed == range) {
            // The old place of a moved piece, or a mapping that was made there before this report.
            self.owed.remove(owed);
            return;
        }
        let displaced = self.cut(range, |state| state == State::Displaced);
        if displaced.is_empty() {
            self.cut(range, |_| true);
        }
    }

    /// Records that the unmapping of the old place of a move will be reported. With `MREMAP_DONTUNMAP` no
    /// report comes, so the oldest records are dropped when there are too many.
    fn owe(&mut self, range: Range<u64>) {
        if self.owed.is_full() {
            self.owed.remove(0);
        }
        let _room = self.owed.push(range);
    }

    /// Removes the part in `range` from all pieces that are `wanted`.
    fn cut(&mut self, range: &Range<u64>, wanted: impl Fn(State) -> bool) -> Vec<Piece, PIECES> {
        let mut inside = Vec::new();
        for piece in core::mem::take(&mut self.pieces) {
            match piece.inside(range).filter(|_| wanted(piece.state)) {
                None => self.push(piece),
                Some(part) => {
                    // As many pieces as before.
                    self.is_incomplete |= inside.push(part).is_err();
                    self.push_if_any(&piece, piece.address..part.address);
                    self.push_if_any(&piece, part.end()..piece.end());
                }
            }
        }
        inside
    }

    fn push_if_any(&mut self, piece: &Piece, range: Range<u64>) {
        if let Some(part) = piece.inside(&range) {
            self.push(part);
        }
    }

    /// Adds a piece, as one with its neighbours if they are contiguous.
    fn push(&mut self, mut piece: Piece) {
        while let Some(place) = self.pieces.iter().position(|other| piece.joins(other)) {
            let other = self.pieces.swap_remove(place);
            piece.address = piece.address.min(other.address);
            piece.offset = piece.offset.min(other.offset);
            piece.length += other.length;
        }
        self.is_incomplete |= self.pieces.push(piece).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u64 = 0x1000;

    fn layout() -> Layout {
        Layout::new(0x10 * P, 8 * P, 12)
    }

    fn find(layout: &Layout, page: u64) -> Place {
        layout.find(page * P)
    }

    #[test]
    fn parts_are_found_where_they_were_moved_to() {
        let mut layout = layout();
        layout.moved(0x12 * P, 0x40 * P, 2 * P);
        assert_eq!(find(&layout, 0x11), Place::Page(1));
        assert_eq!(find(&layout, 0x12), Place::New);
        assert_eq!(find(&layout, 0x40), Place::Page(2));
        assert_eq!(find(&layout, 0x41), Place::Page(3));
        assert_eq!(find(&layout, 0x14), Place::Page(4));
        // And back: one piece again.
        layout.moved(0x40 * P, 0x12 * P, 2 * P);
        assert_eq!(find(&layout, 0x12), Place::Page(2));
        assert_eq!(find(&layout, 0x40), Place::New);
    }

    #[test]
    fn an_event_that_comes_late_is_about_what_was_there_first() {
        let events: [fn(&mut Layout); 2] = [
            |layout| layout.moved(0x10 * P, 0x40 * P, P),
            |layout| layout.moved(0x11 * P, 0x10 * P, P),
        ];
        for order in [[0, 1], [1, 0]] {
            let mut layout = layout();
            for event in order {
                events[event](&mut layout);
            }
            assert_eq!(find(&layout, 0x40), Place::Page(0), "{order:?}");
            assert_eq!(find(&layout, 0x10), Place::Page(1), "{order:?}");
        }
    }

    #[test]
    fn the_end_of_an_old_mapping_is_not_that_of_the_new_one() {
        let mut layout = layout();
        // Page 1 is moved to where page 0 was before the handler hears that page 0 is gone.
        layout.moved(0x11 * P, 0x10 * P, P);
        layout.unmapped(&(0x10 * P..0x11 * P));
        assert_eq!(find(&layout, 0x10), Place::Page(1));
        // The next one is.
        layout.unmapped(&(0x11 * P..0x12 * P));
        layout.unmapped(&(0x10 * P..0x11 * P));
        assert_eq!(find(&layout, 0x10), Place::New);
        // In that order it is the same.
        layout.unmapped(&(0x12 * P..0x13 * P));
        layout.moved(0x13 * P, 0x12 * P, P);
        layout.moved(0x12 * P, 0x50 * P, P);
        assert_eq!(find(&layout, 0x50), Place::Page(3));
    }

    #[test]
    fn what_comes_where_something_was_unmapped_is_new() {
        let mut layout = layout();
        layout.unmapped(&(0x14 * P..0x18 * P));
        assert_eq!(find(&layout, 0x13), Place::Page(3));
        assert_eq!(find(&layout, 0x16), Place::New);
        // With two pages behind it that mremap adds.
        layout.moved(0x10 * P, 0x14 * P, 2 * P);
        layout.unmapped(&(0x10 * P..0x12 * P));
        assert_eq!(find(&layout, 0x15), Place::Page(1));
        assert_eq!(find(&layout, 0x16), Place::New);
        assert_eq!(find(&layout, 0x10), Place::New);
        // After a move, too.
        layout.unmapped(&(0x15 * P..0x16 * P));
        assert_eq!(find(&layout, 0x14), Place::Page(0));
        assert_eq!(find(&layout, 0x15), Place::New);
    }

    #[test]
    fn a_piece_that_came_before_the_old_place_was_reported_is_mapped() {
        let mut layout = layout();
        layout.moved(0x10 * P, 0x40 * P, P);
        layout.moved(0x11 * P, 0x10 * P, P);
        layout.unmapped(&(0x10 * P..0x11 * P));
        assert!(layout.is_original(&(0x10 * P..0x11 * P), P));
    }

    #[test]
    fn a_child_hears_nothing_of_the_moves_of_its_parent() {
        let mut layout = layout();
        layout.moved(0x10 * P, 0x40 * P, P);
        let mut child = layout.for_child();
        child.moved(0x40 * P, 0x10 * P, P);
        child.unmapped(&(0x10 * P..0x11 * P));
        assert_eq!(find(&child, 0x10), Place::New);
    }

    #[test]
    fn pages_that_are_moved_away_and_back_are_no_pieces() {
        let mut layout = Layout::new(0, 200 * P, 12);
        for page in 1..199 {
            layout.moved(page * P, 1000 * P, P);
            layout.unmapped(&(page * P..(page + 1) * P));
            layout.moved(1000 * P, page * P, P);
            layout.unmapped(&(1000 * P..1001 * P));
        }
        for page in 0..200 {
            assert_eq!(
                layout.find(page * P),
                Place::Page(usize::try_from(page).unwrap())
            );
        }
        assert!(layout.is_original(&(0..200 * P), 0));
    }

    #[test]
    fn nothing_is_new_when_pieces_were_forgotten() {
        let mut layout = Layout::new(0, 200 * P, 12);
        for page in 0..100 {
            layout.moved(2 * page * P, (1000 + 2 * page) * P, P);
        }
        let wrong = (0..200).filter(|page| {
            matches!(find(&layout, *page), Place::Page(found) if found as u64 != *page)
                || matches!(find(&layout, *page), Place::New)
        });
        assert_eq!(wrong.count(), 0);
        assert_eq!(find(&layout, 5000), Place::Lost);
    }
}
