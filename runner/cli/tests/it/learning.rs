//! Whether what is learned is there: a planted regularity is found, and nothing where there is none.

use std::fs;

use serde_json::Value;

use crate::natron::Workspace;

/// A market that turns back after each move of eight bars, labels for the direction of the next bars, a small network, and a
/// policy on top of it.
const PIPELINE: &str = r#"
[pipeline]
name = "learning"
seed = 11

[params]
reversal = 0.6
shuffle = false
fee_bps = 1.0

[stages.candles]
uses = "load.synthetic"
with = { rows = 5000, planted_reversal = "${params.reversal}" }

[stages.features]
uses = "features"
inputs.candles = "candles.candles"
with.columns = { move = "log_return(close, 8)", rsi = "rsi(close, 14)", activity = "zscore(volume, 20)" }

[stages.labels]
uses = "labels.natron_v2"
inputs.candles = "candles.candles"
with = { neutral_buffer = 0.001, lookahead_bars = 3 }

[stages.windows]
uses = "dataset"
inputs = { features = "features", labels = "labels.labels" }
with = { window_bars = 8, shuffle_labels = "${params.shuffle}" }

[stages.finetune]
uses = "finetune"
inputs = { matrix = "windows.matrix", windows = "windows.windows", scaler = "windows.scaler" }
with = { d_model = 16, heads = 2, layers = 1, feed_forward = 32, epochs = 4, batch = 64, learning_rate = 3e-3, dropout = 0.0 }

[stages.rl]
uses = "rl"
inputs = { candles = "candles.candles", matrix = "windows.matrix", windows = "windows.windows", model = "finetune.model" }
[stages.rl.with]
updates = 60
rollout_steps = 64
hidden = 16
learning_rate = 3e-3
discount = 0.9
drawdown_penalty = 0.0
fee_bps = "${params.fee_bps}"
slippage_bps = 0.0

[stages.evaluate]
uses = "evaluate"
inputs = { candles = "candles.candles", windows = "windows.windows", predictions = "finetune.predictions", actions = "rl.actions" }
with = { fee_bps = "${params.fee_bps}", slippage_bps = 0.0, bootstrap_resamples = 200 }
"#;

/// The evaluation's metrics after a run with `sets`.
fn evaluated(sets: &[&str]) -> impl Fn(&str) -> f64 + use<> {
    let workspace = Workspace::with(PIPELINE);
    let with = |first: &[&'static str]| -> Vec<String> {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        first
            .iter()
            .copied()
            .chain(sets)
            .map(str::to_owned)
            .collect()
    };
    let call = |arguments: Vec<String>| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        workspace.natron(&arguments).expect(0);
    };
    call(with(&["run"]));
    call(with(&["export", "evaluate.metrics", "-o", "metrics.json"]));
    let text = fs::read_to_string(workspace.path("metrics.json")).unwrap();
    let metrics: Value = serde_json::from_str(&text).unwrap();
    move |path: &str| {
        let value = path.split('.').fold(&metrics, |value, name| &value[name]);
        value
            .as_f64()
            .unwrap_or_else(|| panic!("no number at `{path}` of {metrics}"))
    }
}

#[test]
fn a_planted_regularity_is_found_and_pays_after_costs() {
    let metric = evaluated(&[]);

    let auc = "heads.test.direction.auc";
    assert!(metric(&format!("{auc}.value")) > 0.6);
    assert!(metric(&format!("{auc}.low")) > 0.55);
    let excess = "backtest.test.policy.excess_sharpe_ratio";
    assert!(metric(&format!("{excess}_low")) > 0.0);
}

#[test]
fn nothing_is_found_in_labels_of_other_windows() {
    let metric = evaluated(&["params.shuffle=true"]);

    for head in ["buy", "sell", "direction", "regime"] {
        let auc = format!("heads.test.{head}.auc");
        let (low, high) = (
            metric(&format!("{auc}.low")),
            metric(&format!("{auc}.high")),
        );
        assert!(low < 0.5 && high > 0.5, "{head}: {low} to {high}");
    }
}

#[test]
fn a_policy_loses_no_more_than_its_costs_where_nothing_is_planted() {
    let metric = evaluated(&["params.reversal=0.0", "params.fee_bps=5.0"]);

    // A Sharpe ratio of years is uncertain by one over their root: what is left before costs is chance.
    let gross = metric("backtest.test.policy.gross_sharpe_ratio");
    let chance = 1.0 / metric("backtest.test.policy.years").sqrt();
    assert!(gross > -2.0 * chance, "{gross}, {chance}");
    // And the costs are those of few trades: it has learned to leave them.
    assert!(metric("backtest.test.policy.fees") < 0.03);
}
