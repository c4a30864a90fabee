//! What happened to pages from look to look.

use crate::difference::Change;

/// What happened to pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum SpanKind {
    /// They were written.
    Dirty,
    /// They were used.
    Accessed,
    /// Their entries changed.
    Changed,
    /// They may have been written or used, which nobody knows.
    Uncertain,
    /// They were not there.
    Absent,
}

impl SpanKind {
    /// That with the name of `docs/json.md`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "dirty" => Some(Self::Dirty),
            "accessed" => Some(Self::Accessed),
            "away" | "busy" | "new" => Some(Self::Uncertain),
            "absent" => Some(Self::Absent),
            _ => None,
        }
    }

    /// One word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Dirty => "written",
            Self::Accessed => "used",
            Self::Changed => "changed",
            Self::Uncertain => "perhaps",
            Self::Absent => "not in memory",
        }
    }

    /// Whether it is certain that something happened.
    #[must_use]
    pub const fn is_certain(self) -> bool {
        !matches!(self, Self::Uncertain | Self::Absent)
    }
}

/// Pages next to each other. Addresses are in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first page.
    pub start: u64,
    /// The page behind the last.
    pub end: u64,
    /// What happened to them.
    pub kind: SpanKind,
}

impl Span {
    /// The pages whose entries `change` is about.
    #[must_use]
    pub const fn changed(change: &Change) -> Self {
        Self {
            start: change.start,
            end: change.end,
            kind: SpanKind::Changed,
        }
    }
}

/// A look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Round {
    /// Its number.
    pub number: u64,
    /// Milliseconds since the start, if the end of the look is known.
    pub time_ms: Option<u64>,
    /// How many pages were looked at, if that was said.
    pub pages: Option<u64>,
    /// What happened to which pages since the look before.
    pub spans: Vec<Span>,
}

impl Round {
    /// One in which nothing has happened yet.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self {
            number,
            time_ms: None,
            pages: None,
            spans: Vec::new(),
        }
    }

    /// To how many pages something happened.
    #[must_use]
    pub fn touched(&self) -> u64 {
        let spans = self.spans.iter();
        let spans = spans.filter(|span| span.kind.is_certain());
        spans.map(|span| span.end - span.start).sum()
    }

    /// Puts the spans in the order of addresses, and joins those that touch.
    fn tidy(&mut self) {
        self.spans
            .sort_unstable_by_key(|span| (span.start, span.end));
        self.spans.dedup_by(|next, last| {
            let joined = next.kind == last.kind && next.start <= last.end;
            if joined {
                last.end = last.end.max(next.end);
            }
            joined
        });
    }
}

/// All looks of one command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heat {
    /// `dirty`, `idle` or `diff`.
    pub command: String,
    /// In their order.
    pub rounds: Vec<Round>,
}

/// Pages to which something happened in the same number of rounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Warmth {
    /// The first page.
    pub start: u64,
    /// The page behind the last.
    pub end: u64,
    /// In how many rounds.
    pub rounds: u64,
}

impl Heat {
    /// Those of `command`.
    #[must_use]
    pub fn new(command: String, rounds: impl IntoIterator<Item = Round>) -> Self {
        let mut rounds: Vec<_> = rounds.into_iter().collect();
        for round in &mut rounds {
            round.tidy();
        }
        Self { command, rounds }
    }

    /// What happens to a page, in a word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.command.as_str() {
            "dirty" => SpanKind::Dirty.word(),
            "idle" => SpanKind::Accessed.word(),
            _ => SpanKind::Changed.word(),
        }
    }

    /// How often something happened to each page, in the order of addresses; pages to which nothing
    /// did are left out.
    #[must_use]
    pub fn warmth(&self) -> Vec<Warmth> {
        // Where spans begin and end, in order, and how many.
        let mut edges: Vec<(u64, i64)> = Vec::new();
        for round in &self.rounds {
            let spans = round.spans.iter();
            for span in spans.filter(|span| span.kind.is_certain()) {
                edges.push((span.start, 1));
                edges.push((span.end, -1));
            }
        }
        edges.sort_unstable();
        let mut warmth: Vec<Warmth> = Vec::new();
        let (mut rounds, mut start) = (0, 0);
        for (page, step) in edges {
            if page > start && rounds > 0 {
                add_warmth(&mut warmth, start, page, rounds);
            }
            (start, rounds) = (page, rounds + step);
        }
        warmth
    }

    /// How many spans there are in all rounds.
    #[must_use]
    pub fn spans(&self) -> usize {
        self.rounds.iter().map(|round| round.spans.len()).sum()
    }
}

fn add_warmth(warmth: &mut Vec<Warmth>, start: u64, end: u64, rounds: i64) {
    let rounds = rounds.unsigned_abs();
    match warmth.last_mut() {
        Some(last) if last.end == start && last.rounds == rounds => last.end = end,
        _ => warmth.push(Warmth { start, end, rounds }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(number: u64, spans: &[(u64, u64, SpanKind)]) -> Round {
        let spans = spans
            .iter()
            .map(|&(start, end, kind)| Span { start, end, kind });
        Round {
            spans: spans.collect(),
            ..Round::new(number)
        }
    }

    #[test]
    fn warmth_counts_the_rounds_of_each_page() {
        use SpanKind::{Absent, Dirty};
        let heat = Heat::new(
            "dirty".to_owned(),
            [
                round(1, &[(10, 20, Dirty), (30, 31, Absent)]),
                round(2, &[(15, 25, Dirty)]),
                round(3, &[(20, 25, Dirty), (18, 20, Dirty)]),
            ],
        );
        let found: Vec<_> = heat
            .warmth()
            .iter()
            .map(|w| (w.start, w.end, w.rounds))
            .collect();
        assert_eq!(found, [(10, 15, 1), (15, 18, 2), (18, 20, 3), (20, 25, 2)]);
        // What touches was joined.
        assert_eq!(heat.rounds.last().map(|round| round.spans.len()), Some(1));
        assert_eq!(heat.rounds.first().map(Round::touched), Some(10));
    }
}
