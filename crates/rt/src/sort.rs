//! Sorting in little code.

/// Sorts in place (heapsort): `sort_unstable` would be 2 KiB of code, and this is no bottleneck.
pub fn sort<T: PartialOrd>(things: &mut [T]) {
    for root in (0..things.len() / 2).rev() {
        sift_down(things, root);
    }
    for end in (1..things.len()).rev() {
        things.swap(0, end);
        sift_down(things.get_mut(..end).unwrap_or_default(), 0);
    }
}

/// Moves the element at `root` down the heap until it is not less than its two children.
fn sift_down<T: PartialOrd>(things: &mut [T], mut root: usize) {
    loop {
        let left = 2 * root + 1;
        let larger = left + usize::from(things.get(left + 1) > things.get(left));
        if things.get(larger) <= things.get(root) {
            break;
        }
        things.swap(root, larger);
        root = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::sort;

    #[test]
    fn what_is_sorted_is_in_order() {
        // A linear congruential generator, with Knuth's multiplier.
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state >> 59
        };
        for length in 0..64 {
            let mut numbers = [0; 64];
            numbers.fill_with(&mut next);
            let numbers = &mut numbers[..length];
            let sum: u64 = numbers.iter().sum();
            sort(numbers);
            assert!(numbers.is_sorted());
            assert_eq!(numbers.iter().sum::<u64>(), sum);
        }
    }
}
