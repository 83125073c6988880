//! The hot loops: rolling indicators, attention and the other fused operations of our networks.
//!
//! Slices and tensors in, slices and tensors out.
//!
//! Invariant: knows no artifact, no table and no pipeline.

pub mod math;

pub mod bars;

mod activations;
pub mod cuda;
mod dispatch;
pub mod indicators;
mod lanes;
pub mod matmul;
mod tiles;

mod storage;
pub use storage::to_vec;

pub mod adamw;
pub mod allocator;
mod candle_threads;
pub use candle_threads::keep_candle_single_threaded;
pub mod attention;
pub mod causal_convolution;
pub mod dropout;
pub mod experts;
pub mod gelu;
pub mod inference;
pub mod kan;
pub mod layer_norm;
pub mod linear;
pub mod loss;
pub mod lstm;
pub mod operations_cuda;
pub mod pooling;
pub mod positions;
pub mod regression_loss;
pub mod residual;
pub mod revin;
pub mod swiglu;
pub mod window_linear;

#[cfg(test)]
mod gradient_check;
