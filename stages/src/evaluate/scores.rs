//! The heads' scores on one split.

use natron_artifacts::{Metrics, StageError, Streams};

use super::{
    Calibration, Observations,
    observations::{HEADS, TRAINING},
    set,
};
use crate::evaluation::{
    bootstrap::{Bootstrap, Interval, difference_interval, interval},
    head::{Head, PREDICTORS, SCORES, lower_is_better},
};

/// One split of the observations and how its intervals are drawn.
pub(super) struct Scored<'a> {
    /// All windows.
    pub(super) observations: &'a Observations,
    /// The split's name.
    pub(super) split: &'static str,
    /// Its windows.
    pub(super) rows: &'a [usize],
    /// How resamples are drawn.
    pub(super) bootstrap: Bootstrap,
    /// Where their randomness comes from.
    pub(super) streams: Streams,
}

impl Scored<'_> {
    /// Records `heads.<split>.<head>.<score>.{value, low, high, base_rate, persistence, gain_low, gain_high}`. The gain is
    /// over the better of the two baselines, positive when the model is better, computed resample by resample.
    pub(super) fn record_heads(
        &self,
        metrics: &mut Metrics,
        calibration: &mut Calibration,
    ) -> Result<(), StageError> {
        let split = self.split;
        set(
            metrics,
            &format!("heads.{split}.n_windows"),
            self.rows.len() as f64,
        )?;
        if self.rows.is_empty() {
            return set(metrics, &format!("left_out.{split}"), 1.0);
        }
        set(
            metrics,
            &format!("heads.{split}.block_bars"),
            self.bootstrap.block_bars as f64,
        )?;
        for (k, kind) in HEADS.iter().enumerate() {
            let head = self.head(k);
            let at = format!("heads.{split}.{}", kind.name);
            let sample = head.scores(&vec![1; head.n_rows()]);
            let stream = format!("bootstrap.{split}");
            let resamples = self
                .bootstrap
                .run(head.n_rows(), self.streams, &stream, |counts| {
                    head.scores(counts)
                });
            set(
                metrics,
                &format!("{at}.n_classes_present"),
                head.n_classes_present() as f64,
            )?;
            set(
                metrics,
                &format!("{at}.is_function_of_inputs"),
                f64::from(u8::from(kind.is_function_of_inputs)),
            )?;
            for (s, score) in SCORES.iter().enumerate() {
                let Some(value) = sample[s] else {
                    if !(*score == "f1" && kind.classes.len() > 2) {
                        set(
                            metrics,
                            &format!("left_out.{split}.{}.{score}", kind.name),
                            1.0,
                        )?;
                    }
                    continue;
                };
                set(metrics, &format!("{at}.{score}.value"), value)?;
                record_interval(
                    metrics,
                    &format!("{at}.{score}"),
                    "",
                    interval(&resamples, s),
                )?;
                let baselines =
                    (1..PREDICTORS.len()).filter_map(|p| Some((p, sample[p * SCORES.len() + s]?)));
                let sign = if lower_is_better(score) { -1.0 } else { 1.0 };
                let mut best: Option<(usize, f64)> = None;
                for (p, baseline) in baselines {
                    set(
                        metrics,
                        &format!("{at}.{score}.{}", PREDICTORS[p]),
                        baseline,
                    )?;
                    if best.is_none_or(|(_, value)| sign * baseline > sign * value) {
                        best = Some((p, baseline));
                    }
                }
                if let Some((p, baseline)) = best {
                    set(
                        metrics,
                        &format!("{at}.{score}.gain"),
                        sign * (value - baseline),
                    )?;
                    let index = p * SCORES.len() + s;
                    let gain = if sign > 0.0 {
                        difference_interval(&resamples, s, index)
                    } else {
                        difference_interval(&resamples, index, s)
                    };
                    record_interval(metrics, &format!("{at}.{score}"), "gain_", gain)?;
                }
            }
            let confusion = head.confusion();
            for (i, truth) in kind.classes.iter().enumerate() {
                for (j, predicted) in kind.classes.iter().enumerate() {
                    let path = format!("{at}.confusion.{i}_{truth}.{j}_{predicted}");
                    set(metrics, &path, confusion.cell(i, j) as f64)?;
                }
            }
            calibration.push(split, kind.name, &head.reliability());
        }
        Ok(())
    }

    fn head(&self, k: usize) -> Head {
        let (observations, n_classes) = (self.observations, HEADS[k].classes.len());
        let labels = &observations.labels[k];
        let training = observations.of_split(TRAINING);
        let mut shares = vec![0.0; n_classes];
        for &i in &training {
            shares[labels[i]] += 1.0 / training.len() as f64;
        }
        if training.is_empty() {
            shares.fill(1.0 / n_classes as f64);
        }
        let majority = (0..n_classes).fold(0, |best, class| {
            if shares[class] > shares[best] {
                class
            } else {
                best
            }
        });
        // The last label that is known when a window ends: of the bar before where the label reads no later bars, else of the
        // last bar whose horizon has passed.
        let lag = if HEADS[k].is_function_of_inputs {
            1
        } else {
            observations.horizon_bars.max(1)
        };
        let persistence = |i: usize| {
            let before = observations.rows[i].checked_sub(lag);
            before
                .and_then(|row| observations.at_row(row))
                .map_or(majority, |j| labels[j])
        };
        let probabilities = self
            .rows
            .iter()
            .flat_map(|&i| &observations.probabilities[k][i * n_classes..][..n_classes])
            .copied()
            .collect();
        Head::new(
            probabilities,
            self.rows.iter().map(|&i| labels[i]).collect(),
            shares,
            self.rows.iter().map(|&i| persistence(i)).collect(),
        )
    }
}

/// Records the ends of an interval as `<at>.<prefix>low` and `<at>.<prefix>high`.
pub(super) fn record_interval(
    metrics: &mut Metrics,
    at: &str,
    prefix: &str,
    interval: Option<Interval>,
) -> Result<(), StageError> {
    if let Some(Interval { low, high }) = interval {
        set(metrics, &format!("{at}.{prefix}low"), low)?;
        set(metrics, &format!("{at}.{prefix}high"), high)?;
    }
    Ok(())
}
