//! Numbers of things in messages.

use core::fmt;

/// A number and the word for that many things, one or several: `1 page`, `2 pages`.
#[derive(Clone, Copy, Debug)]
pub struct Count<N>(pub N, pub &'static str, pub &'static str);

impl<N: fmt::Display + PartialEq + From<u8>> fmt::Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, one, several) = self;
        let word = if *number == N::from(1) { one } else { several };
        write!(f, "{number} {word}")
    }
}

#[cfg(test)]
mod tests {
    use super::Count;
    use std::string::ToString;

    #[test]
    fn only_one_thing_is_singular() {
        let texts = [0, 1, 2].map(|number| Count(number, "entry", "entries").to_string());
        assert_eq!(texts, ["0 entries", "1 entry", "2 entries"]);
    }
}
