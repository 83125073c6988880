//! What a model is to learn: one module per kind of label.

pub mod golden;
pub mod natron_v2;

mod parts;
mod statistics;
