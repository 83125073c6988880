//! Every built-in stage, one module per kind, and [`registry`], the one list of kinds.
//!
//! Invariant: a stage uses the contract, artifacts and kernels, and never another stage; nothing here knows a cache or runner.

pub mod features;
pub mod labels;
pub mod finetune;
pub mod models;
pub mod pretrain;
mod training;
mod backtest;
mod evaluation;

use natron_artifacts::Registry;

#[cfg(test)]
#[path = "../build/fingerprint.rs"]
mod code_fingerprint;

include!(concat!(env!("OUT_DIR"), "/fingerprints.rs"));

/// All built-in kinds of stages.
pub fn registry() -> Registry {
    Registry::new()
}
