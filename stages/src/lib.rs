//! Every built-in stage, one module per kind, and [`registry`], the one list of kinds.
//!
//! Invariant: a stage uses the contract, artifacts and kernels, and never another stage; nothing here knows a cache or runner.

use natron_artifacts::Registry;

mod dataset;
mod load;

/// All built-in kinds of stages.
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register::<load::LoadCsv>("load.csv", env!("CARGO_PKG_VERSION"));
    registry.register::<load::LoadParquet>("load.parquet", env!("CARGO_PKG_VERSION"));
    registry.register::<load::LoadSynthetic>("load.synthetic", env!("CARGO_PKG_VERSION"));
    registry.register::<dataset::Dataset>("dataset", env!("CARGO_PKG_VERSION"));
    registry
}
