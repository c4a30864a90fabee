//! Looks for entries in a table, several at a time.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use super::Table;
use crate::Descriptor;
use crate::rules::{Rules, TableRun, TableRuns};

impl Table<'_> {
    /// Returns the first index in `from..end` whose entry is not 0; `end` if there is none.
    #[must_use]
    #[inline(never)]
    pub fn first_in_use(self, from: usize, end: usize) -> usize {
        let words = self.0.get(from..end.min(self.0.len())).unwrap_or_default();
        match zeros(words) {
            empty if empty == words.len() => end,
            empty => from + empty,
        }
    }

    /// Looks for entries in `from..end` that pass `rules`, and adds them to `runs` as runs, until there are
    /// `most`. Returns the index after the last entry that was looked at. At most two loads for each entry.
    #[inline(never)]
    pub(crate) fn next_runs(
        self,
        from: usize,
        end: usize,
        rules: &Rules,
        most: usize,
        runs: &mut TableRuns,
    ) -> usize {
        let words = self.0.get(..end.min(self.0.len())).unwrap_or_default();
        let mut rest = words.get(from..).unwrap_or_default();
        while runs.len() < most
            && let Some((first, behind)) = rest.split_first()
        {
            let first = load(first);
            if !rules.want(first) {
                // It may have changed meanwhile.
                let skipped = if first == 0 { zeros(rest).max(1) } else { 1 };
                rest = rest.get(skipped..).unwrap_or_default();
                continue;
            }
            let (care, step) = rules.comparison(first);
            let more = if rules.present(first) {
                continuing(behind, first.wrapping_add(step), step, care)
            } else {
                continuing_absent(behind, first, care)
            };
            let run = TableRun {
                index: words.len() - rest.len(),
                first: Descriptor(first),
                entries: 1 + more,
            };
            if runs.push(run).is_err() {
                break;
            }
            rest = behind.get(more..).unwrap_or_default();
        }
        fence(Ordering::Acquire);
        words.len() - rest.len()
    }
}

#[inline]
fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Counts leading words that are 0.
#[inline]
fn zeros(words: &[AtomicU64]) -> usize {
    let (fours, _) = words.as_chunks::<4>();
    let zeros = fours
        .iter()
        .take_while(|[a, b, c, d]| load(a) | load(b) | load(c) | load(d) == 0)
        .count();
    let rest = words.get(4 * zeros..).unwrap_or_default();
    4 * zeros + rest.iter().take_while(|word| load(word) == 0).count()
}

/// Counts leading words that are `next`, `next + step` and so on, in the bits of `care`.
#[inline]
fn continuing(words: &[AtomicU64], next: u64, step: u64, care: u64) -> usize {
    let mut expected = next;
    let mut continues = |word: &AtomicU64| {
        let same = (load(word) ^ expected) & care == 0;
        expected = expected.wrapping_add(step);
        same
    };
    // Most runs of scattered pages end here.
    match words.first() {
        Some(word) if continues(word) => {}
        _ => return 0,
    }
    let (fours, _) = words.get(1..).unwrap_or_default().as_chunks::<4>();
    let mut count = 1;
    for [a, b, c, d] in fours {
        let second = expected.wrapping_add(step);
        let third = second.wrapping_add(step);
        let fourth = third.wrapping_add(step);
        let differences =
            (load(a) ^ expected) | (load(b) ^ second) | (load(c) ^ third) | (load(d) ^ fourth);
        if differences & care != 0 {
            break;
        }
        expected = fourth.wrapping_add(step);
        count += 4;
    }
    for word in words.get(count..).unwrap_or_default() {
        if (load(word) ^ expected) & care != 0 {
            break;
        }
        expected = expected.wrapping_add(step);
        count += 1;
    }
    count
}

/// Counts leading words that equal `first` in the bits of `care`, and are not 0.
fn continuing_absent(words: &[AtomicU64], first: u64, care: u64) -> usize {
    let same = |word: &&AtomicU64| {
        let word = load(word);
        word != 0 && (word ^ first) & care == 0
    };
    words.iter().take_while(same).count()
}
