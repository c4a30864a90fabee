//! Reproducible random numbers.

/// A xorshift64* generator (Vigna, "An experimental exploration of Marsaglia's xorshift generators,
/// scrambled"): good enough to choose what to try next.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Returns generator number `number` of those with this seed.
    #[must_use]
    pub const fn new(seed: u64, number: u64) -> Self {
        let mixed = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Zero is the one state that the generator never leaves.
        Self(if mixed == 0 { 1 } else { mixed })
    }

    /// Returns the next 64-bit number.
    pub const fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number below `end`, or 0 if `end` is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        match (self.number() >> 32).checked_rem(end) {
            Some(number) => number,
            None => 0,
        }
    }

    /// Returns true with a probability of one in `n`.
    pub const fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Returns one of `values`, or the default value if the slice is empty.
    pub fn pick<T: Copy + Default>(&mut self, values: &[T]) -> T {
        let index = usize::try_from(self.below(values.len() as u64)).unwrap_or(0);
        values.get(index).copied().unwrap_or_default()
    }
}
