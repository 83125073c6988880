//! The built-in stages.

pub mod features;
pub mod labels;
