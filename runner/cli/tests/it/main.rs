//! The real binary in temporary folders.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; what they unwrap is what the tests are about"
)]

mod cache;
mod corpus;
mod explaining;
mod golden;
mod help;
mod learning;
mod natron;
mod output;
mod plugins;
mod reliability;
mod run;
mod semantics;
mod verify;
mod workspace;
