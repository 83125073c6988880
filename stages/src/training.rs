//! Training: the loop that `pretrain` and `finetune` share, its schedules, checkpoints and batches.

mod average;
pub(crate) mod checkpoint;
pub(crate) mod class_weights;
pub(crate) mod options;
pub(crate) mod samples;
mod schedule;
pub(crate) mod trainer;

#[cfg(test)]
pub(crate) mod toy;
