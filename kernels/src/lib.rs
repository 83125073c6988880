//! The hot loops: rolling indicators, attention and the other fused operations of our networks.
//!
//! Slices and tensors in, slices and tensors out.
//!
//! Invariant: knows no artifact, no table and no pipeline.

pub mod math;

mod dispatch;
mod lanes;
pub mod matmul;
