//! The language that features are written in: `(close - sma(close, 20)) / atr(14)`.
//!
//! An expression names columns of the bars and other features, calls indicators of the catalogue and combines them. Text
//! becomes a [tree](tree), and a tree [compiles](compile) into nodes of a [program](natron_kernels::indicators::program),
//! where equal parts are computed once.
//!
//! What a row holds follows from rows up to that row, whatever is written: lags and windows reach back only, longer bars
//! count from their end on, and other markets by their last bar that is over.

pub(crate) mod compile;
pub(crate) mod functions;
pub(crate) mod mistake;
pub(crate) mod parse;
pub(crate) mod timeframe;
pub(crate) mod token;
pub(crate) mod tree;
pub(crate) mod unit;

#[cfg(test)]
#[expect(
    clippy::float_cmp,
    clippy::too_many_lines,
    clippy::needless_range_loop,
    reason = "flags are exact, mistakes are a list, and a loop over rows"
)]
mod tests;
