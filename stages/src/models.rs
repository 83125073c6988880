//! The networks, their parameters and the windows they read.

pub mod parameters;
pub mod transformer;
pub mod windows;

use natron_artifacts::StageError;

/// A failed tensor operation: a broken invariant of the network, since shapes are checked where data come in.
pub(crate) fn tensor_error(error: candle_core::Error) -> StageError {
    StageError::other(format!("tensor operation: {error}"), error)
}
