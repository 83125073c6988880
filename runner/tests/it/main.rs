//! The runner's front half from outside, with toy stages.

mod corpus;
mod fuzz;
mod graphs;
mod schema;
mod toys;
