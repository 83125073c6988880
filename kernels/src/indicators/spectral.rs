//! Entropy of the power spectrum of a trailing window.

use super::{
    catalog::{Indicator, Output, Parameter, Range, Unit},
    elementary::ln,
    kernel::{Id, Scratch, Window},
};
use crate::{dispatch::dispatched, math};

/// Rows that are computed side by side.
const LANES: usize = 8;
/// Frequencies that are computed at a time: their sums stay in registers.
const FREQUENCIES: usize = 4;

#[derive(Debug, Clone)]
struct SpectralEntropy {
    n: usize,
    /// For each row of the first half of the window, cosine and sine of each frequency, [`FREQUENCIES`] by
    /// [`FREQUENCIES`]; zeros for those beyond half the window.
    waves: Vec<[[f64; FREQUENCIES]; 2]>,
}

impl SpectralEntropy {
    fn new(n: usize) -> Self {
        let half = n / 2;
        let mut waves = Vec::new();
        for first in (1..=half).step_by(FREQUENCIES) {
            for row in 0..=half {
                let wave = |f: fn(f64) -> f64| {
                    std::array::from_fn(|i| {
                        let frequency = first + i;
                        // The turn's remainder is exact, so that every angle is from the first turn.
                        let turn = (frequency * row % n) as f64 / n as f64;
                        if frequency > half {
                            0.0
                        } else {
                            f(std::f64::consts::TAU * turn)
                        }
                    })
                };
                waves.push([wave(math::cos), wave(math::sin)]);
            }
        }
        Self { n, waves }
    }
}

impl Window for SpectralEntropy {
    fn id(&self) -> Id {
        Id::new("spectral entropy", [self.n as u64])
    }

    fn lookback(&self) -> usize {
        self.n - 1
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let x = inputs[0];
        let out = &mut *outputs[0];
        let n_lanes = 2 * (self.n / 2 + 1) * LANES;
        let spare = scratch.take(x.len() + LANES + n_lanes);
        let (padded, spare) = spare.split_at_mut(x.len() + LANES);
        padded[..x.len()].copy_from_slice(x);
        padded[x.len()..].fill(0.0);
        spectral_entropy(padded, self.n, &self.waves, spare, out);
    }
}

dispatched! {
    fn spectral_entropy(
        x: &[f64],
        n: usize,
        waves: &[[[f64; FREQUENCIES]; 2]],
        spare: &mut [f64],
        out: &mut [f64],
    ) {
        let half = n / 2 + 1;
        let (even, odd) = spare.as_chunks_mut::<LANES>().0.split_at_mut(half);
        for (chunk, out) in out.chunks_mut(LANES).enumerate() {
            let rows = x[chunk * LANES..].windows(LANES).take(n);
            // Deviations from the oldest value: exactly zero in a flat window. Then from their mean.
            let mut oldest = [0.0; LANES];
            oldest.copy_from_slice(&x[chunk * LANES..][..LANES]);
            let mut mean = [0.0; LANES];
            for row in rows {
                for lane in 0..LANES {
                    mean[lane] += row[lane] - oldest[lane];
                }
            }
            for mean in &mut mean {
                *mean /= n as f64;
            }
            // Row k and row n - k meet the same cosine, and the same sine with the other sign.
            for row in 0..half {
                let mirrored = (n - row) % n;
                let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
                a.copy_from_slice(&x[chunk * LANES + row..][..LANES]);
                b.copy_from_slice(&x[chunk * LANES + mirrored..][..LANES]);
                let is_pair = if row == mirrored { 0.0 } else { 1.0 };
                for lane in 0..LANES {
                    let a = (a[lane] - oldest[lane]) - mean[lane];
                    let b = (b[lane] - oldest[lane]) - mean[lane];
                    even[row][lane] = a + is_pair * b;
                    odd[row][lane] = a - b;
                }
            }

            let (mut total, mut weighted) = ([0.0; LANES], [0.0; LANES]);
            for waves in waves.chunks_exact(half) {
                let mut real = [[0.0_f64; LANES]; FREQUENCIES];
                let mut imaginary = [[0.0_f64; LANES]; FREQUENCIES];
                for ([cosine, sine], (even, odd)) in waves.iter().zip(even.iter().zip(&*odd)) {
                    for i in 0..FREQUENCIES {
                        for lane in 0..LANES {
                            real[i][lane] = cosine[i].mul_add(even[lane], real[i][lane]);
                            imaginary[i][lane] = sine[i].mul_add(odd[lane], imaginary[i][lane]);
                        }
                    }
                }
                for (real, imaginary) in real.iter().zip(&imaginary) {
                    for lane in 0..LANES {
                        let power = real[lane] * real[lane] + imaginary[lane] * imaginary[lane];
                        let term = power * ln(power);
                        total[lane] += power;
                        weighted[lane] += if power == 0.0 { 0.0 } else { term };
                    }
                }
            }
            let mut entropy = [0.0; LANES];
            for lane in 0..LANES {
                // -sum (p / total) * ln(p / total); NaN where nothing moves.
                entropy[lane] = ln(total[lane]) - weighted[lane] / total[lane];
            }
            out.copy_from_slice(&entropy[..out.len()]);
        }
    }
}

pub(super) const INDICATORS: &[Indicator] = &[Indicator {
    name: "spectral_entropy",
    series: &["x"],
    bars: &[],
    parameters: &[Parameter {
        name: "n",
        range: Range::Whole(4, 1000),
        default: Some(60.0),
    }],
    outputs: &[Output {
        name: "",
        unit: Unit::Nats,
    }],
    definition: "Entropy, with the natural logarithm, of the shares of the frequencies 1 to n / 2 in the power spectrum (discrete Fourier transform) of the last n values less their mean; not defined where they are all equal.",
    source: "Powell and Percival, A spectral entropy method for distinguishing regular and irregular motion, 1979",
    expand: |builder, series, p| builder.window(SpectralEntropy::new(p[0] as usize), &[series[0]]),
}];

#[cfg(test)]
#[expect(clippy::needless_range_loop, reason = "a loop over rows")]
mod tests {
    use super::*;
    use crate::{
        bars::BarColumns,
        indicators::{
            check::{market, values},
            program::Input,
        },
    };

    fn entropy(bars: &BarColumns, n: usize) -> Vec<f64> {
        values(bars, "spectral_entropy", &[Input::Close], &[n as f64], "")
    }

    fn plain(window: &[f64]) -> f64 {
        let n = window.len();
        let window: Vec<f64> = window.iter().map(|x| x - window[0]).collect();
        let mean = window.iter().sum::<f64>() / n as f64;
        let power = |frequency: usize| {
            let part = |wave: fn(f64) -> f64| {
                let terms = window.iter().enumerate().map(|(row, x)| {
                    let turns = (frequency * row % n) as f64 / n as f64;
                    (x - mean) * wave(std::f64::consts::TAU * turns)
                });
                terms.sum::<f64>()
            };
            let (real, imaginary) = (part(math::cos), part(math::sin));
            real * real + imaginary * imaginary
        };
        let powers: Vec<f64> = (1..=n / 2).map(power).collect();
        let total: f64 = powers.iter().sum();
        let shares = powers.iter().map(|power| power / total);
        let shares = shares.filter(|share| *share > 0.0);
        -shares.map(|share| share * math::ln(share)).sum::<f64>()
    }

    #[test]
    fn it_is_the_entropy_of_the_fourier_transform() {
        let bars = market(200, 5);
        for n in [4, 7, 60, 61] {
            let entropy = entropy(&bars, n);

            assert!(entropy[..n - 1].iter().all(|x| x.is_nan()));
            for t in n - 1..200 {
                let expected = plain(&bars.close[t + 1 - n..=t]);
                assert!(
                    (entropy[t] - expected).abs() < 1e-10,
                    "{n}, row {t}: {} against {expected}",
                    entropy[t]
                );
            }
        }
    }

    #[test]
    fn small_moves_on_large_prices_keep_their_digits() {
        let mut bars = market(300, 5);
        for (factor, shift) in [(1e-3, 1e6), (1e-8, 0.0)] {
            for close in &mut bars.close {
                *close = *close * factor + shift;
            }
            let entropy = entropy(&bars, 60);
            for t in 59..300 {
                let expected = plain(&bars.close[t - 59..=t]);
                assert!((entropy[t] - expected).abs() < 1e-9 * expected, "row {t}");
            }
        }
    }

    #[test]
    fn one_wave_has_no_entropy_and_two_have_one_bit() {
        let mut bars = market(90, 5);
        let wave = |t: usize, frequency: f64| {
            math::sin(std::f64::consts::TAU * frequency * t as f64 / 60.0)
        };
        for (t, close) in bars.close.iter_mut().enumerate() {
            *close = 10.0 + wave(t, 5.0);
        }
        assert!(entropy(&bars, 60)[75].abs() < 1e-12);
        for (t, close) in bars.close.iter_mut().enumerate() {
            *close = 10.0 + wave(t, 5.0) + wave(t, 11.0);
        }
        assert!((entropy(&bars, 60)[75] - std::f64::consts::LN_2).abs() < 1e-12);
    }

    #[test]
    fn a_flat_window_has_no_spectrum() {
        let mut bars = market(90, 5);
        bars.close.fill(0.1);

        assert!(entropy(&bars, 60).iter().all(|x| x.is_nan()));
    }
}
