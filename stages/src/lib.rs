//! The built-in stages.

pub mod features;
