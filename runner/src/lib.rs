//! Plans and runs pipelines.
//!
//! Invariant: names no stage kind; it sees the `Stage` trait and a `Registry`.

mod diagnostic;
mod did_you_mean;
mod document;
mod names;

mod interpolate;
mod overrides;

mod definition;
mod matrix;
mod parameters;
mod references;
mod settings;

mod drafts;
mod wiring;

mod connect;
mod graph;

mod pipeline_schema;

pub use diagnostic::{Diagnostic, Label, Place, Severity, SourceText, code};
pub use graph::{
    DeviceChoice, EdgeLabel, Graph, InputEdge, Instance, LoadOptions, Numeric, OnFailure, load,
    load_text,
};
pub use pipeline_schema::pipeline_schema;
