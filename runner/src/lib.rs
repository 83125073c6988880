//! Plans and runs pipelines.
//!
//! Invariant: names no stage kind; it sees the `Stage` trait and a `Registry`.

mod diagnostic;
mod did_you_mean;
mod graph;

pub use diagnostic::{Diagnostic, Label, Place, Severity, SourceText, code};
pub use graph::{
    DeviceChoice, EdgeLabel, Graph, InputEdge, Instance, LoadOptions, Numeric, OnFailure, load,
    load_text,
};
