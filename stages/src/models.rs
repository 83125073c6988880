//! The networks, their parameters and the windows they read.

pub mod inference;
pub mod parameters;
pub mod policy;
pub mod transformer;
pub mod windows;

use natron_artifacts::StageError;

/// A failed tensor operation: a broken invariant of the network, since shapes are checked where data come in.
pub(crate) fn tensor_error(error: candle_core::Error) -> StageError {
    StageError::other(format!("tensor operation: {error}"), error)
}

/// The entry of a model card's `extra` with what the feature plan computed on one fixed market when the model was trained.
pub(crate) const FEATURE_PROBE: &str = "feature_probe";

/// The entry of a model card's `extra` with the median step from bar to bar in the data that the model was trained on.
pub(crate) const BAR_INTERVAL_NS: &str = "bar_interval_ns";

/// The median step between neighbouring times; `None` where there is none.
pub(crate) fn median_step_ns(ts_ns: &[i64]) -> Option<i64> {
    let mut steps: Vec<i64> = ts_ns
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]))
        .collect();
    let middle = steps.len().checked_sub(1)? / 2;
    Some(*steps.select_nth_unstable(middle).1)
}
