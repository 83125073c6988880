//! What histograms of a window share: its range, and the bin of a value.

use crate::dispatch::dispatched;

/// Numbers that one row compares side by side.
const LANES: usize = 16;

/// The bin of `x`; the last bin holds its upper edge too, and what is no number.
pub(super) fn bin_of(x: f64, lowest: f64, width: f64, n_bins: usize) -> usize {
    let bin = (x - lowest) / width;
    if bin < (n_bins - 1) as f64 {
        bin as usize
    } else {
        n_bins - 1
    }
}

dispatched! {
    /// Smallest of the `n` rows up to each; where that window holds a NaN, any number or NaN. `spare` has twice as many as `x`.
    pub(super) fn trailing_min(x: &[f64], n: usize, out: &mut [f64], spare: &mut [f64]) {
        trailing(x, n, out, spare, |a, b| if a < b { a } else { b });
    }

    /// Largest of the `n` rows up to each; where that window holds a NaN, any number or NaN. `spare` has twice as many as `x`.
    pub(super) fn trailing_max(x: &[f64], n: usize, out: &mut [f64], spare: &mut [f64]) {
        trailing(x, n, out, spare, |a, b| if a > b { a } else { b });
    }
}

/// Windows of 2, 4, 8, ... rows from the two halves of each, and the last from two that overlap.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
fn trailing(x: &[f64], n: usize, out: &mut [f64], spare: &mut [f64], f: impl Fn(f64, f64) -> f64) {
    if let [out] = out {
        let (whole, rest) = x[..n].as_chunks::<LANES>();
        let mut best = [x[0]; LANES];
        for x in whole {
            for lane in 0..LANES {
                best[lane] = f(best[lane], x[lane]);
            }
        }
        *out = best.iter().chain(rest).copied().fold(x[0], f);
        return;
    }
    let (mut from, spare) = spare.split_at_mut(x.len());
    let mut to = &mut spare[..x.len()];
    from.copy_from_slice(x);
    let mut length = 1;
    let mut n_left = x.len();
    while 2 * length <= n {
        n_left -= length;
        for ((to, a), b) in to[..n_left].iter_mut().zip(&*from).zip(&from[length..]) {
            *to = f(*a, *b);
        }
        std::mem::swap(&mut from, &mut to);
        length *= 2;
    }
    for ((out, a), b) in out.iter_mut().zip(&*from).zip(&from[n - length..]) {
        *out = f(*a, *b);
    }
}
