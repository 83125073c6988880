//! The hot loops: rolling indicators, attention and the other fused operations of our networks.
//!
//! Slices and tensors in, slices and tensors out.
//!
//! Invariant: knows no artifact, no table and no pipeline.

pub mod math;

pub mod bars;
pub mod windows;

pub mod candles;
pub mod hurst;
pub mod momentum;
pub mod order_statistics;
pub mod profile;
pub mod recurrences;
pub mod structure;
pub mod trend;
pub mod volatility;
pub mod volume;
