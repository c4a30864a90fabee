//! Where the pages of a region are, after parts of it were moved by mremap(2).

use core::ops::Range;

use heapless::Vec;

/// Pieces that a region may consist of.
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

/// What is known of the place of a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It is mapped there.
    Mapped,
    /// Another piece was moved there: the event that tells where this one went is still to come.
    Displaced,
}

/// What is at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// A page of the region, by its number.
    Page(usize),
    /// Memory that mremap(2) has added to a part of the region, or left behind: zeros.
    New,
    /// Something that was forgotten, as there were too many pieces.
    Lost,
}

/// The addresses of all pages of a region.
///
/// Events come in the order in which threads get to report what they have done, not in that in which
/// it was done. A piece that is moved to where another one was says that the other one has left, and that
/// an event about it is outstanding; that event is about the piece that was there first.
///
/// mremap(2) unmaps the old place and reports that, too, after the move: of what is there by then, that tells
/// nothing. Each other report of a range that was unmapped is final, and what comes there later is new.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    page_shift: u32,
    pieces: Vec<Piece, PIECES>,
    /// Whether there were more pieces than there is room for.
    is_incomplete: bool,
    /// Whether a part was ever moved.
    was_moved: bool,
    /// How often something was discarded.
    discards: u64,
    /// Old places of what was moved, whose unmapping is still to be reported, the last ones at the end.
    owed: Vec<Range<u64>, PIECES>,
}

impl Piece {
    const fn end(&self) -> u64 {
        self.address + self.length
    }

    /// The part of it inside `range`, if any.
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
            discards: 0,
            owed: Vec::new(),
        };
        layout.push(Piece {
            address,
            length,
            offset: 0,
            state: State::Mapped,
        });
        layout
    }

    /// What is at `address`.
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

    /// As it is for a child: nobody reports to it what the parent has still to be told.
    pub(crate) fn for_child(&self) -> Self {
        Self {
            owed: Vec::new(),
            ..self.clone()
        }
    }

    /// Whether a part was ever moved.
    pub(crate) const fn was_moved(&self) -> bool {
        self.was_moved
    }

    /// How often something was discarded: who has asked what a page holds asks again when it was.
    pub(crate) const fn discards(&self) -> u64 {
        self.discards
    }

    /// Something was discarded.
    pub(crate) const fn discarded(&mut self) {
        self.discards += 1;
    }

    /// Calls `each` with the pages that are in `range`, in one or several parts.
    pub(crate) fn pages_in(&self, range: &Range<u64>, each: &mut dyn FnMut(Range<usize>)) {
        for piece in self.pieces.iter().filter_map(|piece| piece.inside(range)) {
            let page =
                |offset: u64| usize::try_from(offset >> self.page_shift).unwrap_or(usize::MAX);
            if piece.state != State::Displaced {
                each(page(piece.offset)..page(piece.offset + piece.length));
            }
        }
    }

    /// Whether what is mapped in `range` is what is `offset` bytes behind the start of the region, and all
    /// of it.
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

    /// Calls `each` with the addresses of what is mapped.
    pub(crate) fn mapped(&self, each: &mut dyn FnMut(Range<u64>)) {
        for piece in &self.pieces {
            if piece.state == State::Mapped {
                each(piece.address..piece.end());
            }
        }
    }

    /// What was at `from` is at `to` now: `length` bytes.
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

    /// What was in `range` is not mapped any more.
    pub(crate) fn unmapped(&mut self, range: &Range<u64>) {
        if let Some(owed) = self.owed.iter().position(|owed| owed == range) {
            // What was moved away, or something that came there before this was reported.
            self.owed.remove(owed);
            return;
        }
        let displaced = self.cut(range, |state| state == State::Displaced);
        if displaced.is_empty() {
            self.cut(range, |_| true);
        }
    }

    /// The end of the mapping at the old place of a move is to be reported. `MREMAP_DONTUNMAP` does not: then
    /// the first ones, which have waited the longest, make room.
    fn owe(&mut self, range: Range<u64>) {
        if self.owed.is_full() {
            self.owed.remove(0);
        }
        let _room = self.owed.push(range);
    }

    /// Takes out what is in `range` of pieces that are `wanted`.
    fn cut(&mut self, range: &Range<u64>, wanted: impl Fn(State) -> bool) -> Vec<Piece, PIECES> {
        let mut inside = Vec::new();
        for piece in core::mem::take(&mut self.pieces) {
            match piece.inside(range).filter(|_| wanted(piece.state)) {
                None => self.push(piece),
                Some(part) => {
                    // As many as there were.
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

    /// Adds a piece, to its neighbour if that continues it.
    fn push(&mut self, piece: Piece) {
        for other in &mut self.pieces {
            let same = other.state == piece.state
                && other.address.wrapping_sub(other.offset)
                    == piece.address.wrapping_sub(piece.offset);
            if same && other.end() == piece.address {
                other.length += piece.length;
                return;
            }
            if same && piece.end() == other.address {
                other.address = piece.address;
                other.offset = piece.offset;
                other.length += piece.length;
                return;
            }
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
