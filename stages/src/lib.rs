//! Every built-in stage, one module per kind, and [`registry`], the one list of kinds.
//!
//! Invariant: a stage uses the contract, artifacts and kernels, and never another stage; nothing here knows a cache or runner.

pub mod backtest;
pub mod evaluate;
mod evaluation;
pub mod report;

use natron_artifacts::Registry;

/// All built-in kinds of stages.
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register::<evaluate::Evaluate>("evaluate", env!("CARGO_PKG_VERSION"));
    registry.register::<report::Report>("report", env!("CARGO_PKG_VERSION"));
    registry
}
