//! Every built-in stage, one module per kind, and [`registry`], the one list of kinds.
//!
//! Invariant: a stage uses the contract, artifacts and kernels, and never another stage; nothing here knows a cache or runner.

pub mod features;
pub mod labels;

use natron_artifacts::Registry;

/// All built-in kinds of stages.
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register::<features::FeatureParameters>("features", env!("CARGO_PKG_VERSION"));
    registry.register::<labels::natron_v2::NatronV2Labels>(
        "labels.natron_v2",
        env!("CARGO_PKG_VERSION"),
    );
    registry
}
