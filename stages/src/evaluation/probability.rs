//! Scores of probabilities: log loss, Brier score, calibration.

use natron_kernels::math;

/// Smallest probability that a log loss sees; a certain mistake would cost infinitely much.
const SMALLEST_PROBABILITY: f64 = 1e-12;

/// Bins of a reliability curve, equally wide in probability.
pub(crate) const N_BINS: usize = 15;

/// Mean of `-ln p` of the true classes; `probabilities`: \[rows, `n_classes`\]. `None` without observations.
pub(crate) fn log_loss(
    probabilities: &[f64],
    n_classes: usize,
    truth: &[usize],
    counts: &[u32],
) -> Option<f64> {
    weighted_mean(counts, |i| {
        -math::ln(probabilities[i * n_classes + truth[i]].max(SMALLEST_PROBABILITY))
    })
}

/// Mean squared distance of the probabilities from the truth (Brier, 1950): the sum over all classes, so 0 to 2; with two
/// classes half of it, so 0 to 1, as is usual there. `None` without observations.
pub(crate) fn brier_score(
    probabilities: &[f64],
    n_classes: usize,
    truth: &[usize],
    counts: &[u32],
) -> Option<f64> {
    let share = if n_classes == 2 { 0.5 } else { 1.0 };
    weighted_mean(counts, |i| {
        let row = &probabilities[i * n_classes..][..n_classes];
        let squares = row.iter().enumerate().map(|(class, &p)| {
            let distance = p - f64::from(u8::from(class == truth[i]));
            distance * distance
        });
        share * squares.sum::<f64>()
    })
}

fn weighted_mean(counts: &[u32], value: impl Fn(usize) -> f64) -> Option<f64> {
    let (mut sum, mut n) = (0.0, 0_u64);
    for (i, &count) in counts.iter().enumerate() {
        if count > 0 {
            sum += f64::from(count) * value(i);
            n += u64::from(count);
        }
    }
    (n > 0).then(|| sum / n as f64)
}

/// One bin of a reliability curve.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Bin {
    /// Observations in it.
    pub(crate) count: u64,
    /// Sum of their stated probabilities.
    stated: f64,
    /// How many of them came true.
    came_true: u64,
}

impl Bin {
    /// Mean of the stated probabilities; `None` when empty.
    pub(crate) fn mean_predicted(&self) -> Option<f64> {
        (self.count > 0).then(|| self.stated / self.count as f64)
    }

    /// Share that came true; `None` when empty.
    pub(crate) fn observed(&self) -> Option<f64> {
        (self.count > 0).then(|| self.came_true as f64 / self.count as f64)
    }
}

/// The reliability curve of stated probabilities in [`N_BINS`] bins of equal width.
pub(crate) fn reliability(stated: &[f64], came_true: &[bool], counts: &[u32]) -> Vec<Bin> {
    let mut bins = vec![Bin::default(); N_BINS];
    for ((&p, &came_true), &count) in stated.iter().zip(came_true).zip(counts) {
        let bin = &mut bins[((p * N_BINS as f64) as usize).min(N_BINS - 1)];
        bin.count += u64::from(count);
        bin.stated += f64::from(count) * p;
        bin.came_true += if came_true { u64::from(count) } else { 0 };
    }
    bins
}

/// Expected calibration error: the mean distance between stated and observed over the bins, each by its share of the
/// observations (Guo et al., 2017, "On calibration of modern neural networks", eq. 3). `None` without observations.
pub(crate) fn calibration_error(bins: &[Bin]) -> Option<f64> {
    let n: u64 = bins.iter().map(|bin| bin.count).sum();
    let gaps = bins
        .iter()
        .map(|bin| (bin.stated - bin.came_true as f64).abs());
    (n > 0).then(|| gaps.sum::<f64>() / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_loss_and_brier_score_match_hand_computed_values() {
        let probabilities = [0.25, 0.75, 0.5, 0.5];
        let truth = [1, 0];

        let loss = log_loss(&probabilities, 2, &truth, &[1, 1]).unwrap();
        assert!(
            (loss - (-math::ln(0.75 * 0.5) / 2.0)).abs() < 1e-15,
            "{loss}"
        );
        let brier = brier_score(&probabilities, 2, &truth, &[1, 1]).unwrap();
        assert!(
            (brier - f64::midpoint(0.0625, 0.25)).abs() < 1e-15,
            "{brier}"
        );
        assert_eq!(log_loss(&probabilities, 2, &truth, &[0, 0]), None);
    }

    #[test]
    fn calibration_error_weighs_bins_by_their_size() {
        let stated = [0.9, 0.9, 0.9, 0.1];
        let bins = reliability(&stated, &[true, true, false, false], &[1; 4]);

        let error = calibration_error(&bins).unwrap();
        let expected = 0.75 * (0.9 - 2.0 / 3.0) + 0.25 * 0.1;
        assert!((error - expected).abs() < 1e-15, "{error}");
        assert_eq!(bins[13].count, 3);
        assert_eq!(bins[5].observed(), None);
        assert_eq!(reliability(&[1.0], &[true], &[1])[N_BINS - 1].count, 1);
    }
}
