//! The runner's front half from outside, with toy stages.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod corpus;
mod edited;
mod executing_toys;
mod execution;
mod fuzz;
mod graphs;
mod locked;
mod schema;
mod toys;
