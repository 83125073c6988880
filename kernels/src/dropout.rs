//! Dropout from a counter: whether an element is kept is a hash of (seed, step, site, index).
//!
//! Nothing is drawn in sequence and no mask is stored: backward evaluates the same hash again, and threads cannot change
//! what is dropped.

/// What decides the dropped elements at one place of one step, and how many they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    low: u32,
    high: u32,
    /// Hashes below this are dropped.
    threshold: u32,
    /// What kept elements are multiplied by: `1 / (1 - probability)`.
    scale: f32,
}

impl Dropout {
    /// Drops nothing.
    pub const NONE: Self = Self {
        low: 0,
        high: 0,
        threshold: 0,
        scale: 1.0,
    };

    /// Drops with `probability` in \[0, 1), by the hash of `seed`, training step and `site`, the place in the network.
    ///
    /// # Panics
    /// If `probability` is outside \[0, 1).
    pub fn new(probability: f32, seed: u64, step: u64, site: u64) -> Self {
        assert!(
            (0.0..1.0).contains(&probability),
            "a dropout probability lies in [0, 1), got {probability}"
        );
        let key = mixed(mixed(mixed(seed) ^ step) ^ site);
        Self {
            low: key as u32,
            high: (key >> 32) as u32,
            threshold: (f64::from(probability) * 4_294_967_296.0) as u32,
            scale: 1.0 / (1.0 - probability),
        }
    }

    /// Whether everything is kept.
    pub fn is_none(&self) -> bool {
        self.threshold == 0
    }

    /// What the element at `index` is multiplied by: 0, or `1 / (1 - probability)`.
    ///
    /// Two rounds of multiply and xor-shift (Ettinger's `lowbias32` constants) with a key word before each.
    #[expect(
        clippy::inline_always,
        reason = "must be compiled inside dispatched callers"
    )]
    #[inline(always)]
    pub(crate) fn factor(&self, index: u32) -> f32 {
        let x = index.wrapping_add(self.low);
        let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        let x = (x ^ (x >> 15) ^ self.high).wrapping_mul(0x846c_a68b);
        let x = (x ^ (x >> 16)).wrapping_mul(0x9e37_79b1);
        let x = x ^ (x >> 15);
        if x < self.threshold { 0.0 } else { self.scale }
    }
}

/// The finalizer of splitmix64 (Steele, Lea and Flood, 2014).
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_the_stated_share_independently_of_step_and_site() {
        let n = 200_000_u32;
        let masks: Vec<Vec<bool>> = [(1, 0), (2, 0), (1, 1)]
            .into_iter()
            .map(|(step, site)| {
                let dropout = Dropout::new(0.1, 42, step, site);
                (0..n).map(|i| dropout.factor(i) == 0.0).collect()
            })
            .collect();

        for (a, mask) in masks.iter().enumerate() {
            let share = mask.iter().filter(|&&dropped| dropped).count() as f64 / f64::from(n);
            assert!((share - 0.1).abs() < 0.003, "dropped {share}");
            let neighbours =
                mask.windows(2).filter(|pair| pair[0] && pair[1]).count() as f64 / f64::from(n);
            assert!((neighbours - 0.01).abs() < 0.001, "neighbours {neighbours}");
            for other in &masks[..a] {
                let both = mask.iter().zip(other).filter(|(x, y)| **x && **y).count() as f64
                    / f64::from(n);
                assert!((both - 0.01).abs() < 0.001, "both {both}");
            }
        }
    }

    #[test]
    fn kept_elements_make_up_for_the_dropped() {
        let dropout = Dropout::new(0.25, 1, 2, 3);

        let mean = (0..100_000)
            .map(|i| f64::from(dropout.factor(i)))
            .sum::<f64>()
            / 1e5;

        assert!((mean - 1.0).abs() < 0.01);
        assert!((Dropout::NONE.factor(7) - 1.0).abs() < f32::EPSILON);
    }
}
