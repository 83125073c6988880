//! Entropy of the histogram of a trailing window.

use super::{
    catalog::{Indicator, Output, Parameter, Range, Unit},
    histogram::{bin_of, trailing_max, trailing_min},
    kernel::{Id, Scratch, Window},
    rank::blank_torn_windows,
};
use crate::{dispatch::dispatched, math};

/// Bits of a count that is packed with the others of its row into a word.
const COUNT_BITS: usize = 6;
/// Counts that a word has room for.
const MOST_BINS: usize = 10;
/// The longest window whose counts fit.
const MOST_ROWS: usize = (1 << COUNT_BITS) - 1;
/// Rows whose words are filled at a time.
const ROWS: usize = 32;

#[derive(Debug, Clone)]
struct Entropy {
    n: usize,
    n_bins: usize,
    /// `-p * ln(p)` for `p = count / n`, by count; at least a word's range of counts.
    terms: Vec<f64>,
}

impl Entropy {
    fn new(n: usize, n_bins: usize) -> Self {
        let term = |count: usize| {
            let share = count as f64 / n as f64;
            if count == 0 || count >= n {
                0.0
            } else {
                -share * math::ln(share)
            }
        };
        Self {
            n,
            n_bins,
            terms: (0..=n.max(MOST_ROWS)).map(term).collect(),
        }
    }
}

impl Window for Entropy {
    fn id(&self) -> Id {
        Id::new("entropy", [self.n as u64, self.n_bins as u64])
    }

    fn lookback(&self) -> usize {
        self.n - 1
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let x = inputs[0];
        let out = &mut *outputs[0];
        let n_rows = out.len();
        let is_packed = self.n <= MOST_ROWS && self.n_bins <= MOST_BINS && n_rows >= ROWS / 4;
        let row = n_rows.next_multiple_of(ROWS);
        let spare = scratch.take(2 * row + 3 * (x.len() + ROWS) + self.n_bins);
        let (lowest, spare) = spare.split_at_mut(row);
        let (widths, spare) = spare.split_at_mut(row);
        let (padded, spare) = spare.split_at_mut(x.len() + ROWS);
        let (counts, spare) = spare.split_at_mut(self.n_bins);
        trailing_min(x, self.n, &mut lowest[..n_rows], spare);
        trailing_max(x, self.n, &mut widths[..n_rows], spare);
        for (width, lowest) in widths[..n_rows].iter_mut().zip(&*lowest) {
            *width = (*width - lowest) / self.n_bins as f64;
        }
        if is_packed {
            let terms = self.terms.first_chunk().expect("there are as many");
            lowest[n_rows..].fill(0.0);
            widths[n_rows..].fill(1.0);
            padded[..x.len()].copy_from_slice(x);
            padded[x.len()..].fill(0.0);
            packed_entropy(padded, self.n, self.n_bins, terms, lowest, widths, out);
        } else {
            for (t, out) in out.iter_mut().enumerate() {
                counts.fill(0.0);
                for x in &x[t..t + self.n] {
                    counts[bin_of(*x, lowest[t], widths[t], self.n_bins)] += 1.0;
                }
                *out = counts.iter().map(|count| self.terms[*count as usize]).sum();
            }
        }
        for (out, width) in out.iter_mut().zip(&*widths) {
            // All in one bin.
            *out = if *width == 0.0 { 0.0 } else { *out };
        }
        blank_torn_windows(x, self.n, out);
    }
}

dispatched! {
    /// All counts of a row in one word.
    fn packed_entropy(
        x: &[f64],
        n: usize,
        n_bins: usize,
        terms: &[f64; MOST_ROWS + 1],
        lowest: &[f64],
        widths: &[f64],
        out: &mut [f64],
    ) {
        /// 2^52: added to a whole number below it, the number lies in the low bits.
        const WHOLE: f64 = 4_503_599_627_370_496.0;
        let last = (n_bins - 1) as f64;
        let (lowest, widths) = (lowest.as_chunks::<ROWS>().0, widths.as_chunks::<ROWS>().0);
        let ranges = lowest.iter().zip(widths);
        for (chunk, (out, (lowest, widths))) in out.chunks_mut(ROWS).zip(ranges).enumerate() {
            let mut counts = [0_u64; ROWS];
            for x in x[chunk * ROWS..].windows(ROWS).take(n) {
                for t in 0..ROWS {
                    let bin = ((x[t] - lowest[t]) / widths[t]).trunc();
                    let bin = if bin < last { bin } else { last };
                    let shift = (bin * COUNT_BITS as f64 + WHOLE).to_bits() & 63;
                    counts[t] += 1 << shift;
                }
            }
            let mut entropy = [0.0; ROWS];
            for bin in 0..n_bins {
                let shift = COUNT_BITS * bin;
                for t in 0..ROWS {
                    entropy[t] += terms[(counts[t] >> shift) as usize & MOST_ROWS];
                }
            }
            out.copy_from_slice(&entropy[..out.len()]);
        }
    }
}

pub(super) const INDICATORS: &[Indicator] = &[Indicator {
    name: "entropy",
    series: &["x"],
    bars: &[],
    parameters: &[
        Parameter {
            name: "n",
            range: Range::Whole(1, 100_000),
            default: None,
        },
        Parameter {
            name: "bins",
            range: Range::Whole(1, 1000),
            default: None,
        },
    ],
    outputs: &[Output {
        name: "",
        unit: Unit::Nats,
    }],
    definition: "Entropy, with the natural logarithm, of the histogram of the last n values over equal bins from the smallest to the largest; 0 where they are all equal.",
    source: "Shannon, A mathematical theory of communication, 1948",
    expand: |builder, series, p| {
        builder.window(Entropy::new(p[0] as usize, p[1] as usize), &[series[0]])
    },
}];

#[cfg(test)]
#[expect(clippy::needless_range_loop, reason = "a loop over rows")]
mod tests {
    use super::*;
    use crate::indicators::{
        check::{Golden, market, values},
        program::Input,
    };

    fn plain(window: &[f64], n_bins: usize) -> f64 {
        let lowest = window.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = window.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let width = (highest - lowest) / n_bins as f64;
        let mut counts = vec![0.0; n_bins];
        for x in window {
            counts[(((x - lowest) / width).floor() as usize).min(n_bins - 1)] += 1.0;
        }
        let shares = counts.iter().map(|count| count / window.len() as f64);
        let full = shares.filter(|share| *share > 0.0);
        -full.map(|share| share * math::ln(share)).sum::<f64>()
    }

    #[test]
    fn entropy_of_volume_is_the_reference_one() {
        let Some(golden) = Golden::load() else { return };

        let entropy = values(&golden.bars, "entropy", &[Input::Volume], &[20.0, 10.0], "");

        golden.assert_is("entropy_vol_20_10", &entropy, 1.0);
    }

    #[test]
    fn every_window_has_the_entropy_of_its_histogram() {
        let bars = market(700, 11);
        for (n, n_bins) in [(20, 10), (63, 10), (64, 10), (20, 11), (7, 1), (200, 40)] {
            let parameters = [n as f64, n_bins as f64];
            let entropy = values(&bars, "entropy", &[Input::Volume], &parameters, "");

            assert!(entropy[..n - 1].iter().all(|x| x.is_nan()));
            for t in n - 1..700 {
                let expected = plain(&bars.volume[t + 1 - n..=t], n_bins);
                assert!((entropy[t] - expected).abs() < 1e-13, "{n}, row {t}");
            }
        }
    }

    #[test]
    fn equal_values_have_no_entropy_and_two_halves_one_bit() {
        let mut bars = market(8, 1);
        bars.close
            .copy_from_slice(&[3.0, 3.0, 3.0, 3.0, 1.0, 1.0, 3.0, 3.0]);

        let entropy = values(&bars, "entropy", &[Input::Close], &[4.0, 10.0], "");

        assert_eq!(entropy[3].to_bits(), 0.0_f64.to_bits());
        assert!((entropy[5] - std::f64::consts::LN_2).abs() < 1e-15);
    }
}
