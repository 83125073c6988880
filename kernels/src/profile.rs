//! Where volume was traded: volume profile and the entropy of volume.

use crate::bars::Bars;
use crate::math;
use crate::windows::{maximum, minimum, rolling};

/// The share of the volume that a value area holds.
const VALUE_AREA: f64 = 0.7;

/// Volume profile of trailing windows.
///
/// The range from the lowest low to the highest high of the window is cut into equal bins; each bar puts all its volume
/// into the bin of its close. NaN where the window is flat, nothing was traded, or a value is NaN.
#[derive(Debug, Clone, Default)]
pub struct VolumeProfile {
    /// Point of control: middle of the fullest bin; the lowest one of a tie.
    pub point_of_control: Vec<f64>,
    /// Middle of the highest bin of the value area, which grows from the point of control one bin at a time towards the
    /// fuller neighbour (a tie: up) until it holds 70 % of the volume.
    pub value_area_high: Vec<f64>,
    /// Middle of the lowest bin of the value area.
    pub value_area_low: Vec<f64>,
    /// Share of the volume in the fullest bin.
    pub control_share: Vec<f64>,
    /// Entropy of the shares of the bins, in nats.
    pub entropy: Vec<f64>,
}

struct ProfileRow {
    point_of_control: f64,
    value_area_high: f64,
    value_area_low: f64,
    control_share: f64,
    entropy: f64,
}

impl ProfileRow {
    const UNDEFINED: Self = ProfileRow {
        point_of_control: f64::NAN,
        value_area_high: f64::NAN,
        value_area_low: f64::NAN,
        control_share: f64::NAN,
        entropy: f64::NAN,
    };
}

/// Volume profile of `window` bars in `n_bins` bins; first row `window - 1`.
pub fn volume_profile(bars: Bars<'_>, window: usize, n_bins: usize) -> VolumeProfile {
    assert!(
        window > 0 && n_bins > 0,
        "a volume profile has one bar and one bin or more"
    );
    let mut bins = vec![0.0; n_bins];
    let mut profile = VolumeProfile::default();
    for t in 0..bars.len() {
        let row = if t + 1 < window {
            ProfileRow::UNDEFINED
        } else {
            profile_row(bars.slice(t + 1 - window..t + 1), &mut bins)
        };
        profile.point_of_control.push(row.point_of_control);
        profile.value_area_high.push(row.value_area_high);
        profile.value_area_low.push(row.value_area_low);
        profile.control_share.push(row.control_share);
        profile.entropy.push(row.entropy);
    }
    profile
}

fn profile_row(bars: Bars<'_>, bins: &mut [f64]) -> ProfileRow {
    let (lowest, highest) = (minimum(bars.low), maximum(bars.high));
    let width = (highest - lowest) / bins.len() as f64;
    let total: f64 = bars.volume.iter().sum();
    let is_defined = width > 0.0 && total > 0.0 && !bars.close.iter().any(|close| close.is_nan());
    if !is_defined {
        return ProfileRow::UNDEFINED;
    }
    bins.fill(0.0);
    for (close, volume) in bars.close.iter().zip(bars.volume) {
        bins[bin_of(*close, lowest, width, bins.len())] += volume;
    }

    let mut fullest = 0;
    for (bin, volume) in bins.iter().enumerate() {
        if *volume > bins[fullest] {
            fullest = bin;
        }
    }
    let (mut low, mut high, mut held) = (fullest, fullest, bins[fullest]);
    while held < VALUE_AREA * total && (low > 0 || high + 1 < bins.len()) {
        let above = bins.get(high + 1).copied().unwrap_or(f64::NEG_INFINITY);
        let below = if low > 0 {
            bins[low - 1]
        } else {
            f64::NEG_INFINITY
        };
        if above >= below {
            high += 1;
            held += above;
        } else {
            low -= 1;
            held += below;
        }
    }
    let middle = |bin: usize| lowest + (bin as f64 + 0.5) * width;
    ProfileRow {
        point_of_control: middle(fullest),
        value_area_high: middle(high),
        value_area_low: middle(low),
        control_share: bins[fullest] / total,
        entropy: entropy(bins, total),
    }
}

/// Entropy, in nats, of the histogram of each window over `n_bins` equal bins from its smallest to its largest value;
/// 0 where the window is flat.
pub fn rolling_histogram_entropy(x: &[f64], window: usize, n_bins: usize) -> Vec<f64> {
    assert!(n_bins > 0, "a histogram has one bin or more");
    rolling(x, window, |rows| {
        let (lowest, highest) = (minimum(rows), maximum(rows));
        if lowest.is_nan() {
            return f64::NAN;
        }
        let width = (highest - lowest) / n_bins as f64;
        if width == 0.0 {
            return 0.0;
        }
        let mut bins = vec![0.0; n_bins];
        for x in rows {
            bins[bin_of(*x, lowest, width, n_bins)] += 1.0;
        }
        entropy(&bins, rows.len() as f64)
    })
}

/// The bin of `x`; the last bin holds its upper edge too.
fn bin_of(x: f64, lowest: f64, width: f64, n_bins: usize) -> usize {
    (((x - lowest) / width).floor() as usize).min(n_bins - 1)
}

fn entropy(bins: &[f64], total: f64) -> f64 {
    let shares = bins
        .iter()
        .filter(|&&count| count > 0.0)
        .map(|count| count / total);
    // `+ 0.0`: one full bin has the entropy 0, not -0.
    -shares.map(|share| share * math::ln(share)).sum::<f64>() + 0.0
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use super::*;
    use crate::bars::{Bar, BarColumns};

    fn market(closes_and_volumes: &[(f64, f64)]) -> BarColumns {
        let bar = |&(close, volume): &(f64, f64)| Bar {
            ts_ns: 0,
            open: 5.0,
            high: 10.0,
            low: 0.0,
            close,
            volume,
        };
        closes_and_volumes.iter().map(bar).collect()
    }

    #[test]
    fn the_value_area_grows_towards_the_fuller_neighbour() {
        // Ten bins of width 1. Volumes: bin 4 has 40, bin 5 has 15, bin 3 has 20, bins 9 and 0 the rest.
        let market = market(&[
            (4.2, 40.0),
            (5.5, 15.0),
            (3.0, 20.0),
            (10.0, 20.0),
            (0.0, 5.0),
        ]);

        let profile = volume_profile(market.view(), 5, 10);

        assert!(profile.entropy[..4].iter().all(|x| x.is_nan()));
        assert_eq!(profile.point_of_control[4], 4.5);
        // 40, with bin 3 60, with bin 5 75 of 100.
        assert_eq!(
            (profile.value_area_low[4], profile.value_area_high[4]),
            (3.5, 5.5)
        );
        assert_eq!(profile.control_share[4], 0.4);
        let entropy: f64 = [0.4, 0.15, 0.2, 0.2, 0.05]
            .iter()
            .map(|p| -p * math::ln(*p))
            .sum();
        assert!((profile.entropy[4] - entropy).abs() < 1e-12);
    }

    #[test]
    fn a_flat_or_untraded_window_has_no_profile() {
        let untraded = market(&[(4.0, 0.0), (5.0, 0.0)]);
        let mut flat = market(&[(5.0, 1.0), (5.0, 1.0)]);
        flat.high = vec![5.0; 2];
        flat.low = vec![5.0; 2];

        assert!(volume_profile(untraded.view(), 2, 20).point_of_control[1].is_nan());
        assert!(volume_profile(flat.view(), 2, 20).value_area_low[1].is_nan());
        assert_eq!(
            rolling_histogram_entropy(&[3.0; 4], 4, 10)[3].to_bits(),
            0.0_f64.to_bits()
        );
        assert!(
            (rolling_histogram_entropy(&[1.0, 2.0], 2, 10)[1] - std::f64::consts::LN_2).abs()
                < 1e-15
        );
    }
}
