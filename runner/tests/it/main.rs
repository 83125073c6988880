//! The runner's front half from outside, with toy stages.

mod corpus;
mod executing_toys;
mod execution;
mod fuzz;
mod graphs;
mod schema;
mod toys;
