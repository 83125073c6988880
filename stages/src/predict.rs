//! From candles to what a trained model says of them: features, scaling, windows, heads, as training computed them.

use std::{collections::BTreeMap, sync::Arc};

use natron_artifacts::{Model, Scaler, StageError, Table};
pub use natron_kernels::bars::Bars;
use serde_json::Value;

use crate::{
    features::{
        FeatureParameters, FeaturePlan,
        probe::{Trace, probe},
    },
    load::bars::{BarPolicies, Origin, RawBars, Timing, checked},
    models::{
        BAR_INTERVAL_NS, FEATURE_PROBE,
        inference::Inference,
        median_step_ns,
        policy::{self, Choice, Policy},
        transformer::{Probabilities, Transformer},
        windows::WindowSource,
    },
};

/// What a model says of one window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Row of the window's last bar.
    pub row: usize,
    /// Close of that bar, UTC nanoseconds.
    pub ts_ns: i64,
    /// Probabilities of the heads or of the actions.
    pub probabilities: Forecast,
}

/// What a model gives probabilities of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Forecast {
    /// The heads of a `finetune` model.
    Heads(Probabilities),
    /// The actions sell, hold and buy of an `rl` policy, for an account without a position.
    Actions([f32; 3]),
    /// The position that an `rl` policy takes, as a share of equity, for an account without one: 1 long, 0 flat, -1 short.
    Position(f32),
}

/// A trained model, ready to predict from candles.
#[derive(Clone)]
pub struct Predictor {
    network: Arc<Inference>,
    /// Acts on the network's embeddings, where the model is a policy.
    policy: Option<Policy>,
    plan: FeaturePlan,
    /// Positions of the model's features among the plan's columns.
    columns: Vec<usize>,
    /// Bars before a row that decide its features.
    memory_rows: usize,
    features: Vec<String>,
    scaler: Scaler,
    /// The length of a bar in the training data; `None` where candles of any length are taken.
    bar_interval_ns: Option<i64>,
}

/// A median step between bars that differs from the training data's by less than this share is the same: months differ.
const SAME_INTERVAL: f64 = 0.1;

impl Predictor {
    /// The predictor of a model that `finetune` or `rl` made.
    ///
    /// # Errors
    ///
    /// When the card has no feature plan or scaler, names a feature that the plan does not compute, or does not fit the
    /// tensors; when this program computes a feature otherwise than the one that trained the model; and when the model has
    /// no heads.
    pub fn load(model: &Model) -> Result<Self, StageError> {
        let card = &model.card;
        let (network, policy) = if card.architecture == policy::ARCHITECTURE {
            let (policy, network) = Policy::from_model(model)?;
            (network, Some(policy))
        } else {
            (Transformer::from_model(model)?, None)
        };
        if policy.is_none() && !network.has_heads() {
            return Err(StageError::data("the model is an encoder without heads")
                .with_help("predict with the model of a `finetune` stage"));
        }
        let parameters: FeatureParameters = serde_json::from_value(card.feature_plan.clone())
            .map_err(|e| StageError::data(format!("the model card's feature plan: {e}")))?;
        let plan = FeaturePlan::compile(&parameters)?;
        check_features(&plan, &card.features, card.extra.get(FEATURE_PROBE))?;
        let position = |name: &String| {
            let found = plan
                .columns()
                .iter()
                .position(|column| column.name == *name);
            found.ok_or_else(|| {
                StageError::data(format!(
                    "the model's feature plan does not compute `{name}`"
                ))
            })
        };
        let columns = card
            .features
            .iter()
            .map(position)
            .collect::<Result<Vec<_>, _>>()?;
        let bar_interval_ns = card.extra.get(BAR_INTERVAL_NS).and_then(Value::as_i64);
        let memory_rows = memory_rows(&plan, &columns, bar_interval_ns)?;
        let scaler = card
            .scaler
            .clone()
            .ok_or_else(|| StageError::data("the model card has no scaler"))?;
        let n = card.features.len();
        if scaler.mean.len() != n || scaler.scale.len() != n {
            return Err(StageError::data(format!(
                "the model card's scaler does not have {n} entries"
            )));
        }
        Ok(Self {
            network: Arc::new(Inference::new(&network)?),
            policy,
            plan,
            columns,
            memory_rows,
            features: card.features.clone(),
            scaler,
            bar_interval_ns,
        })
    }

    /// The same predictor for candles of any length.
    #[must_use]
    pub fn any_interval(self) -> Self {
        Self {
            bar_interval_ns: None,
            ..self
        }
    }

    /// Length of the model's windows, in bars.
    pub fn window_bars(&self) -> usize {
        self.network.config().window_bars
    }

    /// Bars that the first prediction needs: the window, and the bars that its first bar's features remember.
    ///
    /// With so many bars before it, a window's prediction does not depend on where the candles start.
    pub fn minimum_bars(&self) -> usize {
        self.memory_rows + self.window_bars()
    }

    /// One prediction for each window with enough bars before it ([`Predictor::minimum_bars`]), oldest first.
    ///
    /// A window in which a feature is not defined has none.
    ///
    /// # Errors
    ///
    /// When there are too few bars for a single window, a bar makes no sense, or the bars are longer or shorter than those
    /// that the model was trained on.
    pub fn predict(&self, bars: Bars<'_>) -> Result<Vec<Prediction>, StageError> {
        let first = self.minimum_bars() - 1;
        self.predict_rows(bars, first..bars.len())
    }

    /// The prediction for the window that ends at the last bar; the bits that [`Predictor::predict`] gives it.
    ///
    /// # Errors
    ///
    /// As [`Predictor::predict`], and when a feature of the window is not defined.
    pub fn predict_last(&self, bars: Bars<'_>) -> Result<Prediction, StageError> {
        let last = bars.len().saturating_sub(1);
        let predictions = self.predict_rows(bars, last..bars.len())?;
        predictions.last().copied().ok_or_else(|| {
            StageError::data(
                "a feature of the last window is not defined: the candles do not move enough",
            )
        })
    }

    fn predict_rows(
        &self,
        bars: Bars<'_>,
        rows: std::ops::Range<usize>,
    ) -> Result<Vec<Prediction>, StageError> {
        let (needed, found) = (self.minimum_bars(), bars.len());
        if found < needed {
            return Err(StageError::data(format!(
                "{found} candles are too few, the model needs {needed}"
            ))
            .with_help(format!("give the {needed} latest candles or more")));
        }
        check_bars(bars)?;
        self.check_interval(bars.ts_ns)?;
        let source = self.scaled(bars)?;
        let rows: Vec<usize> = rows.filter(|&row| source.is_complete(row)).collect();
        let probabilities: Vec<Forecast> = match &self.policy {
            None => {
                let heads = self.network.predictions(&source, &rows, |_| Ok(()))?;
                heads.into_iter().map(Forecast::Heads).collect()
            }
            Some(policy) => {
                let embeddings = self.network.embeddings(&source, &rows, |_| Ok(()))?;
                let choices = policy.choices(&embeddings).into_iter();
                choices
                    .map(|choice| match choice {
                        Choice::Actions(probabilities) => Forecast::Actions(probabilities),
                        Choice::Position(position) => Forecast::Position(position),
                    })
                    .collect()
            }
        };
        Ok(rows
            .into_iter()
            .zip(probabilities)
            .map(|(row, probabilities)| Prediction {
                row,
                ts_ns: bars.ts_ns[row],
                probabilities,
            })
            .collect())
    }

    fn check_interval(&self, ts_ns: &[i64]) -> Result<(), StageError> {
        let (Some(expected), Some(found)) = (self.bar_interval_ns, median_step_ns(ts_ns)) else {
            return Ok(());
        };
        if (found as f64 / expected as f64 - 1.0).abs() < SAME_INTERVAL {
            return Ok(());
        }
        let seconds = |ns: i64| ns as f64 / 1e9;
        let (found, expected) = (seconds(found), seconds(expected));
        Err(StageError::data(format!(
            "the candles are {found} s apart, the model was trained on candles {expected} s apart"
        ))
        .with_help(
            "give candles of the interval that the model was trained on, or say `--any-interval`",
        ))
    }

    /// The scaled feature matrix of `bars`, as the model's inputs.
    fn scaled(&self, bars: Bars<'_>) -> Result<WindowSource, StageError> {
        let computed = self.plan.batch(bars);
        let n = self.columns.len();
        let mut values = vec![f32::NAN; bars.len() * n];
        for (f, &column) in self.columns.iter().enumerate() {
            let (mean, scale) = (self.scaler.mean[f], self.scaler.scale[f]);
            for (row, &x) in computed[column].iter().enumerate() {
                values[row * n + f] = ((x - mean) / scale) as f32;
            }
        }
        WindowSource::new(values, self.features.clone(), self.window_bars())
    }
}

/// Bars before a row that decide the features in `columns`.
fn memory_rows(
    plan: &FeaturePlan,
    columns: &[usize],
    interval_ns: Option<i64>,
) -> Result<usize, StageError> {
    let needs_more = plan.markets().next().is_some() || !plan.further_columns("").is_empty();
    if needs_more {
        return Err(StageError::data(
            "the model's features read more than the open, high, low, close and volume of one market",
        )
        .with_help("predict with a pipeline, which has inputs for the rest"));
    }
    let mut rows = 0;
    for &position in columns {
        let column = &plan.columns()[position];
        let Some(memory) = column.memory else {
            return Err(StageError::data(format!(
                "the model's feature `{}` depends on all bars since the first one",
                column.name
            ))
            .with_help("train without it: `drop` leaves features out"));
        };
        let needed = memory.rows(interval_ns).ok_or_else(|| {
            StageError::data("the model card does not say how long the bars were in training")
        })?;
        rows = rows.max(needed);
    }
    Ok(rows)
}

/// Candles of a table from outside, after the checks that `load.csv` makes: `ts_ns`, `open`, `high`, `low`, `close` and
/// `volume`. `file` is what messages call it.
///
/// # Errors
///
/// A column that is missing, and the first rule that a bar breaks.
pub fn checked_candles(table: &Table, file: &str) -> Result<Table, StageError> {
    let values = ["open", "high", "low", "close", "volume"].map(|name| table.numbers(name));
    let [open, high, low, close, volume] = values;
    let raw = RawBars {
        places: (0..table.n_rows() as u64).collect(),
        times: table.ts_ns()?.iter().copied().map(Some).collect(),
        values: [open?, high?, low?, close?, volume?],
        extra: Vec::new(),
    };
    let origin = Origin { file, place: "row" };
    checked(&raw, &BarPolicies::default(), Timing::default(), &origin)?.table()
}

/// Checks that this program computes `features` as the one did that trained the model, whose `trained` traces the card has.
fn check_features(
    plan: &FeaturePlan,
    features: &[String],
    trained: Option<&Value>,
) -> Result<(), StageError> {
    let again = "train the model again with this program, or predict with the one that trained it";
    let trained = trained.ok_or_else(|| {
        StageError::data("the model card does not say what the feature plan computed in training")
            .with_help(again)
    })?;
    let trained: BTreeMap<String, Trace> = serde_json::from_value(trained.clone())
        .map_err(|e| StageError::data(format!("the model card's feature probe: {e}")))?;
    let ours = probe(plan);
    let differs = |name: &&String| match (trained.get(*name), ours.get(*name)) {
        (Some(trained), Some(ours)) => !trained.agrees_with(ours),
        // What the plan does not compute is told apart from what it computes otherwise.
        (_, None) => false,
        (None, Some(_)) => true,
    };
    let different: Vec<String> = features
        .iter()
        .filter(differs)
        .map(|name| format!("`{name}`"))
        .collect();
    if different.is_empty() {
        return Ok(());
    }
    let (n, shown) = (
        different.len(),
        different[..different.len().min(5)].join(", "),
    );
    let more = if n > 5 { ", ..." } else { "" };
    Err(StageError::data(format!(
        "this program computes {n} of the model's features otherwise than the one that trained it: {shown}{more}"
    ))
    .with_help(again))
}

/// Checks that bars are in order and that their values can be: finite, prices above zero, no high below its low.
fn check_bars(bars: Bars<'_>) -> Result<(), StageError> {
    let columns = [
        ("open", bars.open),
        ("high", bars.high),
        ("low", bars.low),
        ("close", bars.close),
        ("volume", bars.volume),
    ];
    for row in 0..bars.len() {
        let wrong = |column: &str, message: String| {
            Err(StageError::data_at(row as u64, column, message)
                .with_help("mend the candles; `load.csv` can also drop or change such bars"))
        };
        for (name, values) in columns {
            let value = values[row];
            let is_price = name != "volume";
            if !value.is_finite() || value < 0.0 || (is_price && value <= 0.0) {
                let what = if is_price { "price" } else { "volume" };
                return wrong(name, format!("{value} is no {what}"));
            }
        }
        let (high, low) = (bars.high[row], bars.low[row]);
        if high < low {
            return wrong("high", format!("the high {high} is below the low {low}"));
        }
        if row > 0 && bars.ts_ns[row] <= bars.ts_ns[row - 1] {
            let (time, before) = (bars.ts_ns[row], bars.ts_ns[row - 1]);
            return wrong(
                "ts_ns",
                format!("{time} is not later than the bar before, {before}"),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {

    use natron_artifacts::{
        Artifact, Column, ColumnType, Digest, ModelCard, Schemas, StageContext, StageContextParts,
        Streams, Tensor,
    };
    use natron_kernels::bars::BarColumns;

    use super::*;
    use crate::{
        features::{FeatureSet, fixtures::market},
        models::{
            parameters::Parameters,
            transformer::{ARCHITECTURE, Pooling, TransformerConfig, head_names},
        },
    };

    fn config(inputs: usize) -> TransformerConfig {
        TransformerConfig {
            inputs,
            d_model: 16,
            heads: 4,
            layers: 2,
            feed_forward: 32,
            dropout: 0.1,
            window_bars: 12,
            pooling: Pooling::Mean,
        }
    }

    fn model() -> Model {
        let parameters = FeatureParameters::of(FeatureSet::NatronV2);
        let plan = FeaturePlan::compile(&parameters).unwrap();
        let features: Vec<String> = plan
            .columns()
            .iter()
            .map(|column| column.name.clone())
            .collect();
        let config = config(features.len());
        let columns = plan.batch(market(1000, 5).view());
        let (mut mean, mut scale) = (Vec::new(), Vec::new());
        for column in &columns {
            let known: Vec<f64> = column.iter().copied().filter(|x| x.is_finite()).collect();
            let m = known.iter().sum::<f64>() / known.len() as f64;
            let v = known.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / known.len() as f64;
            mean.push(m);
            scale.push(if v > 0.0 { v.sqrt() } else { 1.0 });
        }
        let tensors: BTreeMap<String, Tensor> =
            Parameters::initialized(&config.classifier(), Streams::new(9))
                .unwrap()
                .to_stored()
                .unwrap();
        Model {
            card: ModelCard {
                architecture: ARCHITECTURE.into(),
                hyper_parameters: serde_json::to_value(config).unwrap(),
                features,
                feature_plan: serde_json::to_value(&parameters).unwrap(),
                scaler: Some(Scaler { mean, scale }),
                window_bars: 12,
                label_horizon_bars: 3,
                heads: head_names(),
                trained_on: Digest::of(b"test"),
                made_by: "finetune".into(),
                extra: BTreeMap::from([
                    (FEATURE_PROBE.into(), serde_json::json!(probe(&plan))),
                    (BAR_INTERVAL_NS.into(), 60_000_000_000_i64.into()),
                ]),
            },
            tensors,
        }
    }

    fn heads(prediction: &Prediction) -> Probabilities {
        match prediction.probabilities {
            Forecast::Heads(heads) => heads,
            _ => panic!("the model has heads"),
        }
    }

    /// A policy of one hidden unit: the action is the more `buy`, the larger the first entry of the embedding.
    fn policy_model() -> Model {
        let tensor = |shape: &[usize], values: Vec<f32>| Tensor {
            shape: shape.to_vec(),
            values,
        };
        let mut weight = vec![0.0; 16 + 3];
        weight[0] = 1.0;
        // The account of somebody without a position is 0 and must bring nothing.
        weight[16..].fill(100.0);
        let encoder = model();
        let tensors = BTreeMap::from([
            ("embedding.mean".to_owned(), tensor(&[16], vec![0.5; 16])),
            ("embedding.scale".to_owned(), tensor(&[16], vec![2.0; 16])),
            ("policy.hidden.weight".to_owned(), tensor(&[1, 19], weight)),
            ("policy.hidden.bias".to_owned(), tensor(&[1], vec![0.25])),
            (
                "policy.output.weight".to_owned(),
                tensor(&[3, 1], vec![-1.0, 0.0, 1.0]),
            ),
            (
                "policy.output.bias".to_owned(),
                tensor(&[3], vec![0.0, 0.5, 0.0]),
            ),
        ]);
        let card = ModelCard {
            architecture: policy::ARCHITECTURE.into(),
            hyper_parameters: serde_json::json!({"inputs": 19, "hidden": 1}),
            features: Vec::new(),
            feature_plan: serde_json::Value::Null,
            scaler: None,
            extra: BTreeMap::new(),
            ..encoder.card.clone()
        };
        policy::with_encoder(Model { card, tensors }, &encoder)
    }

    #[test]
    fn a_policy_gives_the_probabilities_of_its_actions() {
        let model = policy_model();
        let predictor = Predictor::load(&model).unwrap();
        let bars = market(predictor.minimum_bars() + 20, 5);

        let found = predictor.predict(bars.view()).unwrap();

        assert_eq!(found.len(), 21);
        let source = predictor.scaled(bars.view()).unwrap();
        let rows: Vec<usize> = found.iter().map(|p| p.row).collect();
        let embeddings = predictor
            .network
            .embeddings(&source, &rows, |_| Ok(()))
            .unwrap();
        for (prediction, embedding) in found.iter().zip(embeddings.chunks(16)) {
            let Forecast::Actions(actions) = prediction.probabilities else {
                panic!("a policy acts")
            };
            let h = natron_kernels::math::tanh(f64::from((embedding[0] - 0.5) / 2.0 + 0.25));
            let powers = [-h, 0.5, h].map(natron_kernels::math::exp);
            let sum: f64 = powers.iter().sum();
            for (action, power) in actions.iter().zip(powers) {
                assert!((f64::from(*action) - power / sum).abs() < 1e-5);
            }
        }
        let mut positions = model.clone();
        positions.card.heads = BTreeMap::from([(policy::POSITION.to_owned(), Vec::new())]);
        positions
            .card
            .extra
            .insert(policy::ALLOW_SHORT.into(), false.into());
        for (name, values) in [("weight", vec![1.5, 0.0]), ("bias", vec![0.25, 0.0])] {
            let tensor = positions
                .tensors
                .get_mut(&format!("policy.output.{name}"))
                .unwrap();
            (tensor.shape[0], tensor.values) = (2, values);
        }
        let predictor = Predictor::load(&positions).unwrap();
        let found = predictor.predict(bars.view()).unwrap();
        for (prediction, embedding) in found.iter().zip(embeddings.chunks(16)) {
            let Forecast::Position(position) = prediction.probabilities else {
                panic!("a position")
            };
            let h = natron_kernels::math::tanh(f64::from((embedding[0] - 0.5) / 2.0 + 0.25));
            let expected = 0.5 * (natron_kernels::math::tanh(1.5 * h + 0.25) + 1.0);
            assert!((f64::from(position) - expected).abs() < 1e-5);
        }
        let mut broken = model;
        broken.tensors.remove("policy.output.bias");
        let error = Predictor::load(&broken).err().unwrap().to_string();
        assert_eq!(error, "the model has no tensor `policy.output.bias`");
    }

    fn refusal(change: impl FnOnce(&mut Model)) -> String {
        let mut model = model();
        change(&mut model);
        Predictor::load(&model)
            .err()
            .expect("the model is unsound")
            .to_string()
    }

    fn candles(bars: &BarColumns) -> Table {
        let columns = [&bars.open, &bars.high, &bars.low, &bars.close, &bars.volume];
        let names = ["open", "high", "low", "close", "volume"];
        let table = Table::builder().time_index(bars.ts_ns.clone());
        names
            .into_iter()
            .zip(columns)
            .fold(table, |table, (name, values)| {
                table.f64(Column::new(name, ColumnType::F64), values.clone())
            })
            .build()
            .unwrap()
    }

    /// The outputs of the stage `kind` with the parameters `with`.
    fn run(
        kind: &str,
        with: &serde_json::Value,
        inputs: &[(&str, &Artifact)],
    ) -> BTreeMap<String, Artifact> {
        let directory = tempfile::tempdir().unwrap();
        let stage = crate::registry()
            .get(kind)
            .unwrap()
            .parse(with)
            .unwrap()
            .stage;
        let parts = inputs.iter().fold(
            StageContextParts::for_test(directory.path()),
            |parts, (port, artifact)| parts.input(port, (*artifact).clone()),
        );
        let mut context = StageContext::new(parts, stage.signature(&Schemas::new()).unwrap());
        stage.run(&mut context).unwrap();
        context.finish().unwrap()
    }

    #[test]
    fn says_of_candles_what_finetune_said_of_their_windows() {
        let bars = market(1700, 5);
        let candles = Artifact::from(candles(&bars));
        let features = run(
            "features",
            &serde_json::json!({"set": "natron_v2"}),
            &[("candles", &candles)],
        );
        let labels = run(
            "labels.natron_v2",
            &serde_json::json!({}),
            &[("candles", &candles)],
        );
        let dataset = run(
            "dataset",
            &serde_json::json!({"window_bars": 16}),
            &[
                ("features", &features["features"]),
                ("labels", &labels["labels"]),
            ],
        );
        let sizes = serde_json::json!({
            "d_model": 16, "heads": 2, "layers": 1, "feed_forward": 16, "epochs": 1, "batch": 64,
            "warmup_epochs": 0.0,
        });
        let tables = ["matrix", "windows", "scaler"].map(|port| (port, &dataset[port]));
        let encoder = run("pretrain", &sizes, &tables);
        let mut inputs = tables.to_vec();
        inputs.push(("encoder", &encoder["model"]));
        let outputs = run("finetune", &sizes, &inputs);

        let (Artifact::Model(model), Artifact::Table(table)) =
            (&outputs["model"], &outputs["predictions"])
        else {
            panic!("a model and a table")
        };
        let predictions = Predictor::load(model)
            .unwrap()
            .predict(bars.view())
            .unwrap();

        let (rows, buy, regime) = (
            table.i64("row").unwrap(),
            table.f32("buy").unwrap(),
            table.f32("regime_3").unwrap(),
        );
        let mut shared = 0;
        for prediction in predictions {
            if let Ok(i) = rows.binary_search(&(prediction.row as i64)) {
                shared += 1;
                let Probabilities {
                    buy: p, regime: q, ..
                } = heads(&prediction);
                assert_eq!(
                    (p.to_bits(), q[3].to_bits()),
                    (buy[i].to_bits(), regime[i].to_bits())
                );
            }
        }
        assert!(shared > 500, "{shared} windows in both");
    }

    #[test]
    fn the_last_window_alone_gives_the_bits_it_gives_among_all() {
        let predictor = Predictor::load(&model()).unwrap();
        let bars = market(predictor.minimum_bars() + 150, 5);

        let all = predictor.predict(bars.view()).unwrap();

        assert!(all.len() > 100, "{} predictions", all.len());
        assert_eq!(
            *all.last().unwrap(),
            predictor.predict_last(bars.view()).unwrap()
        );
        assert!(all.windows(2).all(|pair| pair[0].ts_ns < pair[1].ts_ns));
        assert!(all.iter().any(|p| p.probabilities != all[0].probabilities));
    }

    #[test]
    fn a_prediction_does_not_depend_on_where_the_candles_start() {
        let predictor = Predictor::load(&model()).unwrap();
        let bars = market(predictor.minimum_bars() + 400, 5);
        let mut recent: BarColumns = bars.clone();
        recent.keep_last(predictor.minimum_bars());

        let (long, short) = (
            predictor.predict_last(bars.view()).unwrap(),
            predictor.predict_last(recent.view()).unwrap(),
        );

        assert_eq!(long.ts_ns, short.ts_ns);
        let (a, b) = (heads(&long), heads(&short));
        for (a, b) in a
            .direction
            .iter()
            .chain(&a.regime)
            .zip(b.direction.iter().chain(&b.regime))
        {
            assert!((a - b).abs() < 1e-5, "{a} against {b}");
        }
    }

    #[test]
    fn refuses_a_model_whose_features_this_program_computes_otherwise() {
        let error = refusal(|m| {
            let traces = m.card.extra.get_mut(FEATURE_PROBE).unwrap();
            let mean = &mut traces["rsi_14"]["weighted_mean"];
            *mean = (mean.as_f64().unwrap() * 1.01).into();
        });
        assert!(
            error.contains("computes 1 of the model's features otherwise")
                && error.contains("`rsi_14`"),
            "{error}"
        );
        let error = refusal(|m| m.card.extra.clear());
        assert!(
            error.contains("does not say what the feature plan computed"),
            "{error}"
        );
    }

    #[test]
    fn refuses_candles_of_another_interval_unless_told_to_take_any() {
        let predictor = Predictor::load(&model()).unwrap();
        let mut bars = market(predictor.minimum_bars(), 5);
        for ts_ns in &mut bars.ts_ns {
            *ts_ns *= 5;
        }

        let error = predictor.predict_last(bars.view()).unwrap_err().to_string();

        assert_eq!(
            error,
            "the candles are 300 s apart, the model was trained on candles 60 s apart"
        );
        assert!(predictor.any_interval().predict_last(bars.view()).is_ok());
    }

    #[test]
    fn names_the_row_of_a_bar_that_makes_no_sense() {
        let predictor = Predictor::load(&model()).unwrap();
        let good = market(predictor.minimum_bars(), 5);
        let refused = |change: &dyn Fn(&mut BarColumns)| {
            let mut bars = good.clone();
            change(&mut bars);
            let all = predictor.predict(bars.view()).unwrap_err().to_string();
            assert_eq!(
                predictor.predict_last(bars.view()).unwrap_err().to_string(),
                all
            );
            all
        };

        for (error, expected) in [
            (refused(&|b| b.high[7] = b.low[7] / 2.0), "is below the low"),
            (
                refused(&|b| b.ts_ns.swap(6, 7)),
                "is not later than the bar before",
            ),
            (
                refused(&|b| b.ts_ns[7] = b.ts_ns[6]),
                "is not later than the bar before",
            ),
            (refused(&|b| b.close[7] = f64::NAN), "NaN is no price"),
            (refused(&|b| b.open[7] = 0.0), "0 is no price"),
            (
                refused(&|b| b.volume[7] = f64::INFINITY),
                "inf is no volume",
            ),
        ] {
            assert!(
                error.contains(expected) && error.contains("row 7"),
                "{error}"
            );
        }
    }

    #[test]
    fn candles_of_a_table_pass_the_checks_of_the_loaders() {
        let good = market(50, 5);
        assert_eq!(
            checked_candles(&candles(&good), "a.arrow")
                .unwrap()
                .n_rows(),
            50
        );
        let mut bad = good.clone();
        bad.high[7] = bad.low[7] / 2.0;

        let error = checked_candles(&candles(&bad), "a.arrow")
            .unwrap_err()
            .to_string();

        assert!(error.contains("`a.arrow`, row 7, column `high`"), "{error}");
    }

    #[test]
    fn says_how_many_candles_it_needs() {
        let predictor = Predictor::load(&model()).unwrap();
        let needed = predictor.minimum_bars();

        let error = predictor
            .predict(market(needed - 1, 5).view())
            .unwrap_err()
            .to_string();

        assert_eq!(
            error,
            format!(
                "{} candles are too few, the model needs {needed}",
                needed - 1
            )
        );
    }

    #[test]
    fn refuses_a_model_that_does_not_say_how_it_is_used() {
        assert!(refusal(|m| m.card.scaler = None).contains("no scaler"));
        assert!(
            refusal(|m| m.card.architecture = "natron_v2.policy".into())
                .contains("comes without the encoder")
        );
        assert!(
            refusal(|m| m.card.feature_plan = serde_json::Value::Null).contains("feature plan")
        );
        assert!(
            refusal(|m| m.card.features[3] = "rsi_99".into()).contains("does not compute `rsi_99`")
        );
        assert!(refusal(|m| m.card.features.truncate(5)).contains("5 features for"));
        assert!(
            refusal(|m| m.tensors.retain(|name, _| name.starts_with("encoder.")))
                .contains("encoder without heads")
        );
    }
}
