//! Sorting many lists at once: comparators that put the smaller of two numbers first, in an order that does not depend on
//! the numbers.
//!
//! What is sorted are the [keys](key) of numbers. Lists lie side by side: place `i` of all lists is one row of lanes, so that a comparator is a minimum and a maximum of
//! two rows. Merging is Batcher's odd-even merge (K. E. Batcher, Sorting networks and their applications, 1968).

use crate::dispatch::dispatched;

/// Lists that a comparator handles at a time; rows have a multiple of this.
pub(super) const LANES: usize = 8;

/// Comparators between places of a list.
#[derive(Debug, Clone, Default)]
pub(super) struct Network {
    comparators: Vec<(usize, usize)>,
}

impl Network {
    /// Sorts what lies in `places`; returns them in ascending order of what they then hold.
    pub(super) fn sort(&mut self, places: &[usize]) -> Vec<usize> {
        if places.len() < 2 {
            return places.to_vec();
        }
        // A power of two in the first half: its merge needs no padding there.
        let half = places.len().next_power_of_two() / 2;
        let first = self.sort(&places[..half]);
        let second = self.sort(&places[half..]);
        self.merge(&first, &second)
    }

    /// Merges two lists of places in ascending order; returns all in ascending order.
    pub(super) fn merge(&mut self, a: &[usize], b: &[usize]) -> Vec<usize> {
        if a.is_empty() || b.is_empty() {
            return [a, b].concat();
        }
        let half = a.len().max(b.len()).next_power_of_two();
        // No place stands for plus infinity: what it is compared with is known to be smaller.
        let mut wires = vec![None; 2 * half];
        for (wire, place) in wires.iter_mut().zip(a) {
            *wire = Some(*place);
        }
        for (wire, place) in wires[half..].iter_mut().zip(b) {
            *wire = Some(*place);
        }
        self.odd_even(&mut wires, 0, 2 * half - 1, 1);
        wires.into_iter().flatten().collect()
    }

    fn odd_even(&mut self, wires: &mut [Option<usize>], low: usize, high: usize, step: usize) {
        if 2 * step > high - low {
            self.compare(wires, low, low + step);
            return;
        }
        self.odd_even(wires, low, high, 2 * step);
        self.odd_even(wires, low + step, high, 2 * step);
        for i in (low + step..=high - step).step_by(2 * step) {
            self.compare(wires, i, i + step);
        }
    }

    fn compare(&mut self, wires: &mut [Option<usize>], i: usize, j: usize) {
        match (wires[i], wires[j]) {
            (Some(a), Some(b)) => self.comparators.push((a, b)),
            (None, Some(_)) => wires.swap(i, j),
            (_, None) => {}
        }
    }

    /// Drops the comparators that do not matter to what the places `wanted` hold at the end. Returns the places that matter
    /// at the start.
    pub(super) fn keep(&mut self, wanted: &[usize]) -> Vec<usize> {
        let compared = self.comparators.iter().map(|(a, b)| *a.max(b));
        let most = compared.chain(wanted.iter().copied()).max();
        let mut is_wanted = vec![false; most.map_or(0, |most| most + 1)];
        for place in wanted {
            is_wanted[*place] = true;
        }
        let mut kept = Vec::new();
        for (a, b) in self.comparators.drain(..).rev() {
            if is_wanted[a] || is_wanted[b] {
                (is_wanted[a], is_wanted[b]) = (true, true);
                kept.push((a, b));
            }
        }
        kept.reverse();
        self.comparators = kept;
        let places = is_wanted.iter().enumerate();
        let wanted = places.filter(|(_, is_wanted)| **is_wanted);
        wanted.map(|(place, _)| place).collect()
    }

    /// Runs it on rows of `width` lists, a multiple of [`LANES`]; place `i` is `rows[i * width..][..width]`.
    pub(super) fn run(&self, rows: &mut [f64], width: usize) {
        compare_rows(&self.comparators, rows, width);
    }
}

/// The number whose bits, read as an integer, stand in the same order as the numbers: those of a negative one turned
/// around. Twice makes the number again.
///
/// Integers have a minimum and a maximum of their own. With numbers these are selections, and where one is stored in the
/// place of an operand, the compiler makes it a masked store, for which the next load waits.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
pub(super) fn key(x: f64) -> f64 {
    let bits = x.to_bits() as i64;
    f64::from_bits((bits ^ ((bits >> 63) as u64 >> 1) as i64) as u64)
}

/// Of two [keys](key) the smaller one first.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
pub(super) fn ordered(a: f64, b: f64) -> (f64, f64) {
    let (a, b) = (a.to_bits() as i64, b.to_bits() as i64);
    (
        f64::from_bits(a.min(b) as u64),
        f64::from_bits(a.max(b) as u64),
    )
}

dispatched! {
    fn compare_rows(comparators: &[(usize, usize)], rows: &mut [f64], width: usize) {
        for (a, b) in comparators {
            let (low, high) = (*a.min(b), *a.max(b));
            let (before, after) = rows.split_at_mut(high * width);
            let (low, high) = (&mut before[low * width..][..width], &mut after[..width]);
            let (first, second) = if a < b { (low, high) } else { (high, low) };
            for (first, second) in first.iter_mut().zip(second) {
                (*first, *second) = ordered(*first, *second);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the zero-one principle a network that sorts all lists of zeros and ones sorts everything.
    fn assert_sorts(
        network: &Network,
        order: &[usize],
        n: usize,
        is_possible: impl Fn(u32) -> bool,
    ) {
        for ones in (0..1_u32 << n).filter(|ones| is_possible(*ones)) {
            let bit = |place: usize| f64::from(ones >> place & 1);
            let mut rows: Vec<f64> = (0..n).flat_map(|place| [bit(place); LANES]).collect();
            network.run(&mut rows, LANES);
            let sorted: Vec<f64> = order.iter().map(|place| rows[place * LANES]).collect();
            assert!(sorted.is_sorted(), "{n} places, {ones:b}: {sorted:?}");
        }
    }

    #[test]
    fn every_list_of_up_to_fourteen_is_sorted() {
        for n in 0..=14 {
            let places: Vec<usize> = (0..n).collect();
            let mut network = Network::default();
            let order = network.sort(&places);

            assert_eq!(order.len(), n);
            assert_sorts(&network, &order, n, |_| true);
        }
    }

    #[test]
    fn keys_stand_in_the_order_of_the_numbers() {
        let numbers = [
            f64::NEG_INFINITY,
            -3.5,
            -1.0,
            -5e-324,
            0.0,
            5e-324,
            2.0,
            f64::INFINITY,
        ];
        for (i, a) in numbers.iter().enumerate() {
            assert_eq!(key(key(*a)).to_bits(), a.to_bits());
            for b in &numbers[i..] {
                let (low, high) = ordered(key(*b), key(*a));
                assert_eq!(key(low).to_bits(), a.to_bits());
                assert_eq!(key(high).to_bits(), b.to_bits());
            }
        }
    }

    #[test]
    fn lists_of_any_two_lengths_are_merged() {
        for n in 1..=12_usize {
            for cut in 0..=n {
                let places: Vec<usize> = (0..n).collect();
                let mut network = Network::default();
                let order = network.merge(&places[..cut], &places[cut..]);

                let is_ascending = |ones: u32, from: usize, to: usize| {
                    (from + 1..to).all(|place| ones >> (place - 1) & 1 <= ones >> place & 1)
                };
                assert_sorts(&network, &order, n, |ones| {
                    is_ascending(ones, 0, cut) && is_ascending(ones, cut, n)
                });
            }
        }
    }

    #[test]
    fn what_is_not_wanted_costs_nothing() {
        let places: Vec<usize> = (0..12).collect();
        let mut network = Network::default();
        let order = network.sort(&places);
        let all = network.comparators.len();
        network.keep(&order[..1]);

        assert!(network.comparators.len() < all);
        for ones in 0..1_u32 << 12 {
            let mut rows: Vec<f64> = (0..12)
                .flat_map(|place| [f64::from(ones >> place & 1); LANES])
                .collect();
            network.run(&mut rows, LANES);
            let least = f64::from(u8::from(ones == (1 << 12) - 1));
            assert_eq!(rows[order[0] * LANES].to_bits(), least.to_bits());
        }
    }
}
