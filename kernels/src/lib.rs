//! The hot loops: rolling indicators, attention and the other fused operations of our networks.
//!
//! Slices and tensors in, slices and tensors out.
//!
//! Invariant: knows no artifact, no table and no pipeline.

pub mod math;

pub mod bars;
pub mod windows;

pub mod candles;
pub mod cuda;
mod dispatch;
pub mod indicators;
mod lanes;
pub mod matmul;
pub mod momentum;
pub mod order_statistics;
pub mod recurrences;
pub mod trend;
pub mod volatility;

mod storage;
pub use storage::to_vec;

pub mod adamw;
pub mod allocator;
mod candle_threads;
pub use candle_threads::keep_candle_single_threaded;
pub mod attention;
pub mod dropout;
pub mod gelu;
pub mod inference;
pub mod layer_norm;
pub mod linear;
pub mod loss;
mod packed;
pub mod pooling;
pub mod positions;
pub mod residual;

#[cfg(test)]
mod gradient_check;
