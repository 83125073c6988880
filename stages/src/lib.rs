//! Every built-in stage, one module per kind, and [`registry`], the one list of kinds.
//!
//! Invariant: a stage uses the contract, artifacts and kernels, and never another stage; nothing here knows a cache or runner.

pub mod backtest;
mod command;
mod dataset;
pub mod evaluate;
mod evaluation;
pub mod features;
pub mod finetune;
pub mod labels;
pub mod load;
pub mod models;
pub mod predict;
pub mod pretrain;
pub mod report;
pub mod rl;
mod training;

pub use natron_kernels::{allocator, cuda, keep_candle_single_threaded};

use natron_artifacts::Registry;

#[cfg(test)]
#[path = "../build/fingerprint.rs"]
mod code_fingerprint;

include!(concat!(env!("OUT_DIR"), "/fingerprints.rs"));

/// Reads what a program may say to `command`, for tests with arbitrary bytes.
#[doc(hidden)]
pub fn read_messages(bytes: &[u8]) {
    command::messages::read(bytes);
}

/// All built-in kinds of stages.
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register::<command::Command>("command", fingerprint("command"));
    registry.register::<dataset::Dataset>("dataset", fingerprint("dataset"));
    registry.register::<evaluate::Evaluate>("evaluate", fingerprint("evaluate"));
    registry.register::<features::FeatureParameters>("features", fingerprint("features"));
    registry.register::<finetune::Finetune>("finetune", fingerprint("finetune"));
    registry
        .register::<labels::golden::GoldenLabels>("labels.golden", fingerprint("labels.golden"));
    registry.register::<labels::natron_v2::NatronV2Labels>(
        "labels.natron_v2",
        fingerprint("labels.natron_v2"),
    );
    registry.register::<load::candles::LoadCandles>("load.candles", fingerprint("load.candles"));
    registry.register::<load::csv::LoadCsv>("load.csv", fingerprint("load.csv"));
    registry.register::<load::parquet::LoadParquet>("load.parquet", fingerprint("load.parquet"));
    registry.register::<load::synthetic::LoadSynthetic>(
        "load.synthetic",
        fingerprint("load.synthetic"),
    );
    registry.register::<pretrain::Pretrain>("pretrain", fingerprint("pretrain"));
    registry.register::<report::Report>("report", fingerprint("report"));
    registry.register::<rl::Rl>("rl", fingerprint("rl"));
    registry
}
