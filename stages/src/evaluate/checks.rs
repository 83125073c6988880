//! Checks against leakage, from the tables themselves.

use natron_artifacts::{Metrics, StageError};

use super::{Observations, observations::TRAINING, set};

/// Records what was checked; what fails is an error, because scores of leaking windows mean nothing:
///
/// - `checks.chronological`: training ends before validation, validation before test;
/// - `checks.labels_purged`: no label of a split looks into the bars of the next one;
/// - `checks.labels_within_data`: every label's horizon lies within the candles;
/// - `checks.evaluation_labels_unperturbed`: noise and balancing touched the training split alone.
///
/// Beside them the gaps in bars, and whether windows of neighbouring splits share bars (which is no leak of labels, but makes
/// the first test windows less independent).
pub(super) fn record(
    observations: &Observations,
    n_bars: usize,
    metrics: &mut Metrics,
) -> Result<(), StageError> {
    let horizon = observations.horizon_bars;
    let (mut is_chronological, mut is_purged, mut shares_bars) = (true, true, false);
    let splits = [
        ("training_validation", TRAINING, 1),
        ("validation_test", 1, 2),
    ];
    for (name, before, after) in splits {
        let (Some((_, last)), Some((first, _))) = (
            observations.bars_of_split(before),
            observations.bars_of_split(after),
        ) else {
            continue;
        };
        is_chronological &= last < first;
        let gap = first as f64 - last as f64 - 1.0;
        is_purged &= last + horizon < first;
        if let Some(bars) = observations.window_bars {
            shares_bars |= last + bars > first;
        }
        set(metrics, &format!("checks.gap_bars.{name}"), gap)?;
    }
    let is_within = observations.rows.iter().all(|row| row + horizon < n_bars);
    let is_unperturbed = observations.perturbed_outside_training == 0;
    for (name, passed) in [
        ("chronological", is_chronological),
        ("labels_purged", is_purged),
        ("labels_within_data", is_within),
        ("evaluation_labels_unperturbed", is_unperturbed),
    ] {
        if !passed {
            return Err(StageError::data(format!(
                "the windows leak: the check `{name}` fails, so no score of them means anything"
            ))
            .with_help("evaluate windows as `dataset` splits them"));
        }
    }
    for (name, passed) in [
        ("chronological", is_chronological),
        ("labels_purged", is_purged),
        ("labels_within_data", is_within),
        ("evaluation_labels_unperturbed", is_unperturbed),
        ("windows_share_bars", shares_bars),
    ] {
        set(
            metrics,
            &format!("checks.{name}"),
            f64::from(u8::from(passed)),
        )?;
    }
    Ok(())
}
