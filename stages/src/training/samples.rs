//! What a dataset hands to a training stage: the feature matrix, the windows with their splits, and the scaler.

use std::collections::BTreeMap;

use natron_artifacts::{
    Digest, Hasher, ModelCard, Scaler, Schemas, StageContext, StageError, Table,
};
use serde_json::Value;

use crate::models::{BAR_INTERVAL_NS, FEATURE_PROBE, median_step_ns, windows::WindowSource};

/// The part of the history a window belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    Train,
    Validation,
    Test,
}

impl Split {
    /// The number that tables hold.
    pub(crate) fn id(self) -> i64 {
        match self {
            Self::Train => 0,
            Self::Validation => 1,
            Self::Test => 2,
        }
    }
}

/// A dataset's windows, in the order of their table.
pub(crate) struct Samples {
    /// The matrix they are read from.
    pub(crate) source: WindowSource,
    /// The row of each window's last bar.
    pub(crate) rows: Vec<usize>,
    /// The close of that bar.
    pub(crate) ts_ns: Vec<i64>,
    /// Where each window belongs.
    pub(crate) splits: Vec<Split>,
    /// How many later bars the labels look at.
    pub(crate) label_horizon_bars: u32,
    /// How the features are computed from candles.
    pub(crate) feature_plan: Value,
    /// What the plan computes on one fixed market.
    feature_probe: Option<Value>,
    /// The median step from bar to bar.
    bar_interval_ns: Option<i64>,
    /// Digest of matrix and windows.
    pub(crate) digest: Digest,
}

impl Samples {
    /// Reads the ports `matrix` and `windows` and checks that every window is complete.
    ///
    /// # Errors
    ///
    /// What does not fit, by table, row and column.
    pub(crate) fn read(context: &StageContext) -> Result<Self, StageError> {
        let (matrix, windows) = (context.table("matrix")?, context.table("windows")?);
        let fact = |name: &str| windows.fact(name).or_else(|| matrix.fact(name));
        let bars = |name: &str| {
            fact(name).and_then(Value::as_u64).ok_or_else(|| {
                StageError::data(format!("the dataset's tables do not state `{name}`"))
                    .with_help("take `matrix` and `windows` from a `dataset` stage")
            })
        };
        let source = WindowSource::from_table(&matrix, bars("window_bars")? as usize)?;
        let rows = whole_numbers(&windows, "row", matrix.n_rows())?;
        source.check(&rows)?;
        let splits = whole_numbers(&windows, "split", 3)?
            .into_iter()
            .map(|id| [Split::Train, Split::Validation, Split::Test][id])
            .collect();
        let part = |port: &str| context.input_digest(port).unwrap_or(Digest::of(b""));
        let digest = data_digest(part("matrix"), part("windows"));
        Ok(Self {
            source,
            rows,
            ts_ns: windows.ts_ns()?.to_vec(),
            splits,
            label_horizon_bars: bars("label_horizon_bars")? as u32,
            feature_plan: matrix.fact("feature_plan").cloned().unwrap_or(Value::Null),
            feature_probe: matrix.fact("feature_probe").cloned(),
            bar_interval_ns: median_step_ns(matrix.ts_ns()?),
            digest,
        })
    }

    /// What a model's card holds besides its own fields, so that whoever predicts with it can check features and bars.
    pub(crate) fn card_extra(&self) -> BTreeMap<String, Value> {
        let probe = self.feature_probe.clone();
        let interval = self.bar_interval_ns.map(Value::from);
        [(FEATURE_PROBE, probe), (BAR_INTERVAL_NS, interval)]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    }

    /// Indices of the windows of `split`, ascending.
    pub(crate) fn of(&self, split: Split) -> Vec<usize> {
        (0..self.rows.len())
            .filter(|&i| self.splits[i] == split)
            .collect()
    }

    /// The inputs of the windows `items`, one after the other: \[items, bars, features\].
    pub(crate) fn gather(&self, items: &[usize]) -> Vec<f32> {
        let rows: Vec<usize> = items.iter().map(|&i| self.rows[i]).collect();
        self.source.gather(&rows)
    }
}

/// What a model's card says it was `trained_on`, from the digests of the tables `matrix` and `windows`.
pub(crate) fn data_digest(matrix: Digest, windows: Digest) -> Digest {
    Hasher::new("natron training data v1")
        .part(matrix.as_bytes())
        .part(windows.as_bytes())
        .finish()
}

/// Refuses a model that comes in and was trained on other data than `data` ([`data_digest`]): what trained there may be
/// what is tested here. `port` is where the model comes in.
///
/// # Errors
///
/// When the digests differ.
pub(crate) fn require_same_data(
    card: &ModelCard,
    port: &str,
    data: Digest,
) -> Result<(), StageError> {
    if card.trained_on == data {
        return Ok(());
    }
    Err(StageError::data(format!(
        "the model at `{port}` was trained on another matrix or other windows than come in here: \
         rows that it has learned from may be test rows here"
    ))
    .with_help("connect both stages to the same `matrix` and `windows` of one `dataset` stage"))
}

/// Features and bars of the windows that come in, as far as they are known; else a hundred of each.
pub(crate) fn expected_sizes(inputs: &Schemas) -> (usize, usize) {
    let matrix = inputs.get("matrix");
    let features = matrix.and_then(|schema| Some(schema.columns.as_ref()?.len()));
    let bars = matrix.and_then(|schema| schema.facts.get("window_bars")?.as_u64());
    (
        features.unwrap_or(100),
        bars.map_or(100, |bars| bars as usize),
    )
}

/// The column `name` as whole numbers below `limit`.
pub(crate) fn whole_numbers(
    table: &Table,
    name: &str,
    limit: usize,
) -> Result<Vec<usize>, StageError> {
    let values = table.numbers(name)?;
    let whole = |(row, &value): (usize, &f64)| {
        let number = value as usize;
        if value.fract().abs() > 0.0 || value < 0.0 || number >= limit || value.is_nan() {
            let message = format!(
                "{value} is not a whole number from 0 to {}",
                limit.saturating_sub(1)
            );
            return Err(StageError::data_at(row as u64, name, message));
        }
        Ok(number)
    };
    values.iter().enumerate().map(whole).collect()
}

/// The scaler at port `scaler`, in the order of `features`; `None` where nothing comes in.
pub(crate) fn scaler(
    context: &StageContext,
    features: &[String],
) -> Result<Option<Scaler>, StageError> {
    if context.optional("scaler").is_none() {
        return Ok(None);
    }
    let table = context.table("scaler")?;
    let names = table.utf8("feature")?;
    let (mean, scale) = (table.f64("mean")?, table.f64("scale")?);
    let mut scaler = Scaler {
        mean: Vec::new(),
        scale: Vec::new(),
    };
    for feature in features {
        let Some(i) = names.iter().position(|name| name == feature) else {
            return Err(StageError::data(format!(
                "the scaler has no row for feature `{feature}`"
            )));
        };
        if !mean[i].is_finite() || !scale[i].is_finite() || scale[i] <= 0.0 {
            let (mean, scale) = (mean[i], scale[i]);
            return Err(StageError::data_at(
                i as u64,
                "scale",
                format!("({mean}, {scale}) cannot scale `{feature}`"),
            ));
        }
        scaler.mean.push(mean[i]);
        scaler.scale.push(scale[i]);
    }
    Ok(Some(scaler))
}
