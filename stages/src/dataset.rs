//! `uses = "dataset"`: windows of scaled features with their labels, split by time.
//!
//! The features are not copied into windows: a window is the number of its last row in `matrix`.

mod balancing;
mod scaling;
mod split;

use std::collections::BTreeMap;

use natron_artifacts::{
    Column, ColumnType, Kind, Metrics, PortSchema, Schemas, Signature, Stage, StageContext,
    StageError, Stream, Table,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::{
    balancing::Balancing,
    scaling::{Scaler, Scaling},
    split::{Split, SplitPlan, Splits},
};

/// The columns of `labels` that become heads of the model.
const HEADS: [&str; 4] = ["buy", "sell", "direction", "regime"];

/// Windows for training, validation and test.
///
/// Inputs: `features` (table: `ts_ns` and one column of numbers per feature) and `labels` (table of the same rows: `ts_ns`,
/// `buy`, `sell`, `direction`, `regime`). A window ends at a row whose labels are defined and whose last `window_bars` rows
/// hold every feature. The windows are split by time, never shuffled: training, validation, test; before each border
/// `purge_bars` are left out, so that no window and no label span of one split touches a window of another.
///
/// Outputs: `matrix` (table: `ts_ns` and every feature, scaled, in single precision; null where undefined), `windows` (table:
/// `row` of the window's last bar in `matrix`, `split` (0 training, 1 validation, 2 test), the labels, and `train_buy`,
/// `train_sell`: the labels to train on, balanced and perturbed in the training split alone; its fact `balancing` says which
/// share of the positives was kept and which share of the labels inverted), `scaler` (table: `feature`,
/// `mean`, `scale`; scaled = (x - mean) / scale, fitted on training rows alone) and `statistics` (metrics: windows and
/// class shares per split, what was left out and why).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dataset {
    /// Length of a window, in bars.
    #[serde(default = "default_window_bars")]
    window_bars: u32,
    /// Share of the windows, the last ones, for the test.
    #[serde(default = "default_test_share")]
    test_share: f64,
    /// Share of the other windows, the last of them, for validation.
    #[serde(default = "default_validation_share")]
    validation_share: f64,
    /// Bars left out before validation and before the test. At least as many as the labels look ahead; by default that and
    /// `window_bars`, so that neither labels nor windows of two splits overlap.
    #[serde(default)]
    purge_bars: Option<u32>,
    /// Further bars left out at the beginning of validation and test, against what features of long memory carry over.
    #[serde(default)]
    embargo_bars: u32,
    /// What to do about features that are undefined on every row of training, as those of volume where it is always zero.
    #[serde(default)]
    undefined_columns: UndefinedColumns,
    /// How features are scaled.
    #[serde(default)]
    scaler: Scaling,
    /// How `train_buy` and `train_sell` differ from the labels.
    #[serde(default)]
    balancing: Balancing,
    /// Deal the labels out anew among the windows of each split, those of a window staying together. Nothing can be learned
    /// then: what a model still finds in validation or test is a fault of the pipeline.
    #[serde(default)]
    shuffle_labels: bool,
}

/// What to do about features that are undefined on every row of training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UndefinedColumns {
    /// Refuse them, with their names: no window holds every feature.
    #[default]
    Error,
    /// Go without them. The log names them, `statistics` counts them, and which columns `matrix` has is known after the run
    /// alone.
    Drop,
}

/// The document's sequence length.
fn default_window_bars() -> u32 {
    96
}

/// The document's split.
fn default_test_share() -> f64 {
    0.2
}

/// The document's split.
fn default_validation_share() -> f64 {
    0.1
}

impl Stage for Dataset {
    fn signature(&self, inputs: &Schemas) -> Result<Signature, StageError> {
        if self.window_bars == 0 {
            return Err(StageError::parameter(
                "window_bars",
                "a window has 1 bar or more",
            ));
        }
        for (name, share) in [
            ("test_share", self.test_share),
            ("validation_share", self.validation_share),
        ] {
            if !(0.0..=0.9).contains(&share) {
                let message = format!("`{name}` is {share}, and must be from 0 to 0.9");
                return Err(StageError::parameter(name, message));
            }
        }
        self.balancing.check()?;
        let features = inputs.get("features");
        if let Some(ahead) = features
            .map(|schema| schema.lookahead_bars)
            .filter(|&bars| bars > 0)
        {
            let message =
                format!("the features look {ahead} bars ahead, so a model would see the future");
            return Err(StageError::data(message).with_help("take features that look 0 bars ahead"));
        }
        let horizon_bars = inputs.get("labels").map_or(0, |labels| {
            let stated = labels.facts.get("label_horizon_bars");
            labels.lookahead_bars.max(bars_of(stated))
        });
        self.purge_for(horizon_bars)?;

        let columns = features.and_then(|schema| schema.columns.as_ref());
        let names = columns
            .map(|columns| feature_columns(columns))
            .transpose()?;
        let n_features = names.as_ref().map_or(100, Vec::len) as u64;
        let mut matrix = match (names, self.undefined_columns) {
            (Some(names), UndefinedColumns::Error) => PortSchema::table(names),
            _ => PortSchema::of(Kind::Table),
        };
        if let Some(features) = features {
            matrix.facts.clone_from(&features.facts);
        }
        let matrix = matrix.fact("window_bars", self.window_bars.into());
        let windows = PortSchema::table(window_columns())
            .lookahead(horizon_bars)
            .fact("window_bars", self.window_bars.into())
            .fact("label_horizon_bars", horizon_bars.into());
        Ok(Signature::new()
            .input_table("features", Vec::<String>::new())
            .input_columns("labels", HEADS)
            .output("matrix", matrix)
            .output("windows", windows)
            .output("scaler", PortSchema::table(scaler_columns()))
            .output("statistics", PortSchema::of(Kind::Metrics))
            // How many rows there are is not known yet: taken for a hundred thousand.
            .memory_bytes(n_features * 100_000 * 16))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let (features, labels) = (context.table("features")?, context.table("labels")?);
        let declared = context.signature().output_port("windows");
        let declared = declared.and_then(|port| port.schema.facts.get("label_horizon_bars"));
        // The table states the labels' own horizon; what they were computed from may look further ahead.
        let horizon_bars = bars_of(declared).max(bars_of(labels.fact("label_horizon_bars")));
        let mut data = Data::read(&features, &labels, self.window_bars)?;
        let plan = SplitPlan {
            window_bars: self.window_bars,
            test_share: self.test_share,
            validation_share: self.validation_share,
            purge_bars: self.purge_for(horizon_bars)?,
            embargo_bars: self.embargo_bars,
        };
        if self.undefined_columns == UndefinedColumns::Drop {
            data.drop_undefined(&plan)?;
            if !data.dropped.is_empty() {
                let (count, names) = (data.dropped.len(), listed(&data.dropped));
                context.warn(&format!(
                    "{count} features are undefined on every row of training and left out: {names}"
                ));
            }
        }
        let splits = data.split(&plan)?;
        if self.shuffle_labels {
            context.warn("`shuffle_labels` is on: the labels belong to other windows, for a test of the pipeline");
            data.shuffle_labels(&splits, &mut context.stream("labels"));
        }
        context.check_cancelled()?;

        let fit_rows = splits.last_training_row() + 1;
        let scaler = Scaler::fit(self.scaler, &data.names, &data.features, fit_rows)?;
        let matrix = data.matrix(&scaler, &features, self.window_bars)?;
        context.check_cancelled()?;
        let balanced = self.balancing.applied(&data, &splits, context);
        let trained = &balanced.labels;
        let [kept_share_buy, kept_share_sell] = balanced.kept_shares;
        let windows = windows_table(&data, &splits, trained, |builder| {
            let builder = match labels.fact("classes") {
                Some(classes) => builder.fact("classes", classes.clone()),
                None => builder,
            };
            builder
                .fact("window_bars", self.window_bars.into())
                .fact("label_horizon_bars", horizon_bars.into())
                .fact(
                    "balancing",
                    json!({
                        "kept_share_buy": kept_share_buy,
                        "kept_share_sell": kept_share_sell,
                        "flip_share": balanced.flip_share,
                    }),
                )
        })?;
        let statistics = statistics(&data, &splits, trained, &scaler, &plan, horizon_bars);
        context.write("statistics", statistics.map_err(StageError::data)?)?;
        context.write("scaler", scaler.table()?)?;
        context.write("windows", windows)?;
        context.write("matrix", matrix)
    }
}

impl Dataset {
    /// Bars to leave out before a border when labels look `horizon_bars` ahead.
    fn purge_for(&self, horizon_bars: u32) -> Result<u32, StageError> {
        match self.purge_bars {
            None => Ok(horizon_bars.saturating_add(self.window_bars)),
            Some(purge) if purge >= horizon_bars => Ok(purge),
            Some(purge) => {
                let message = format!(
                    "`purge_bars` is {purge}, but the labels look {horizon_bars} bars ahead: the last training labels \
                     would be computed from validation or test prices"
                );
                let least = horizon_bars.saturating_add(self.window_bars);
                Err(StageError::parameter("purge_bars", message).with_help(format!(
                    "say {horizon_bars} or more; {least} also keeps the windows apart, and is the default"
                )))
            }
        }
    }
}

fn listed(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// The number of bars that a fact states; 0 where there is none.
fn bars_of(fact: Option<&serde_json::Value>) -> u32 {
    let bars = fact.and_then(serde_json::Value::as_u64).unwrap_or(0);
    u32::try_from(bars).unwrap_or(u32::MAX)
}

/// Labels by head, features by column, and the rows where windows can end.
struct Data {
    ts_ns: Vec<i64>,
    names: Vec<String>,
    /// NaN where undefined.
    features: Vec<Vec<f64>>,
    /// Names of the features that were left out because training does not know them.
    dropped: Vec<String>,
    /// In the order of [`HEADS`].
    labels: [Vec<Option<i64>>; 4],
    /// Rows where a window can end, ascending.
    ends: Vec<usize>,
    without_features: usize,
    without_labels: usize,
}

impl Data {
    fn read(features: &Table, labels: &Table, window_bars: u32) -> Result<Self, StageError> {
        let ts_ns = features.ts_ns()?.to_vec();
        check_same_rows(&ts_ns, labels.ts_ns()?)?;
        let names: Vec<String> = feature_columns(features.columns())?
            .into_iter()
            .skip(1)
            .map(|column| column.name)
            .collect();
        let mut values = Vec::with_capacity(names.len());
        for name in &names {
            let column = features.numbers(name)?;
            if let Some(row) = column.iter().position(|v| v.is_infinite()) {
                return Err(StageError::data_at(
                    row as u64,
                    name,
                    "the feature is infinite",
                ));
            }
            values.push(column);
        }
        let mut heads: [Vec<Option<i64>>; 4] = Default::default();
        for (head, name) in heads.iter_mut().zip(HEADS) {
            *head = labels.i64_or_null(name)?;
            let most = if name == "buy" || name == "sell" {
                1
            } else {
                i64::from(u8::MAX)
            };
            let is_wrong =
                |label: &Option<i64>| label.is_some_and(|class| !(0..=most).contains(&class));
            if let Some(row) = head.iter().position(is_wrong) {
                let message = format!("{} is no class", head[row].unwrap_or_default());
                return Err(StageError::data_at(row as u64, name, message));
            }
        }
        let mut data = Self {
            ts_ns,
            names,
            features: values,
            dropped: Vec::new(),
            labels: heads,
            ends: Vec::new(),
            without_features: 0,
            without_labels: 0,
        };
        data.find_ends(window_bars as usize);
        Ok(data)
    }

    /// Deals the labels out anew among the windows of each split.
    fn shuffle_labels(&mut self, splits: &Splits, stream: &mut Stream) {
        let windows: Vec<(usize, Split)> = splits
            .rows()
            .iter()
            .copied()
            .zip(splits.ids().iter().copied())
            .collect();
        for rows in windows.chunk_by(|a, b| a.1 == b.1) {
            let mut from: Vec<usize> = rows.iter().map(|(row, _)| *row).collect();
            stream.shuffle(&mut from);
            for head in &mut self.labels {
                let dealt: Vec<Option<i64>> = from.iter().map(|&row| head[row]).collect();
                for (&(row, _), label) in rows.iter().zip(dealt) {
                    head[row] = label;
                }
            }
        }
    }

    /// Leaves out the features without a value in training.
    ///
    /// Which rows those are must not depend on the features: the windows are split as though each held all of them.
    fn drop_undefined(&mut self, plan: &SplitPlan) -> Result<(), StageError> {
        let has_labels = |row: &usize| self.labels.iter().all(|head| head[*row].is_some());
        let first = plan.window_bars as usize - 1;
        let ends: Vec<usize> = (first..self.ts_ns.len()).filter(has_labels).collect();
        let n_rows = plan
            .apply(&ends)
            .map_or(self.ts_ns.len(), |splits| splits.last_training_row() + 1);
        let undefined = self.undefined(n_rows);
        if undefined.len() == self.names.len() {
            let message = "every feature is undefined on every row of training";
            return Err(StageError::data(message)
                .with_help("mend the candles that the features are computed from"));
        }
        let all = std::mem::take(&mut self.names)
            .into_iter()
            .zip(std::mem::take(&mut self.features));
        for (name, values) in all {
            if undefined.contains(&name) {
                self.dropped.push(name);
            } else {
                self.names.push(name);
                self.features.push(values);
            }
        }
        self.find_ends(plan.window_bars as usize);
        Ok(())
    }

    /// Names of the features without a value in the first `n_rows` rows.
    fn undefined(&self, n_rows: usize) -> Vec<String> {
        let is_undefined = |values: &[f64]| n_rows > 0 && values.iter().all(|v| v.is_nan());
        let columns = self.names.iter().zip(&self.features);
        columns
            .filter(|(_, values)| is_undefined(&values[..n_rows]))
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn find_ends(&mut self, window_bars: usize) {
        self.ends.clear();
        (self.without_features, self.without_labels) = (0, 0);
        let mut complete_rows = 0;
        for row in 0..self.ts_ns.len() {
            let is_complete = self.features.iter().all(|column| !column[row].is_nan());
            complete_rows = if is_complete { complete_rows + 1 } else { 0 };
            if complete_rows < window_bars {
                self.without_features += 1;
            } else if self.labels.iter().any(|head| head[row].is_none()) {
                self.without_labels += 1;
            } else {
                self.ends.push(row);
            }
        }
    }

    fn split(&self, plan: &SplitPlan) -> Result<Splits, StageError> {
        plan.apply(&self.ends).map_err(|problem| {
            let rows = self.ts_ns.len();
            let undefined = self.undefined(rows);
            if !undefined.is_empty() {
                let message = format!(
                    "no window holds every feature: undefined on each of the {rows} rows {} {}",
                    if undefined.len() == 1 { "is" } else { "are" },
                    listed(&undefined)
                );
                return StageError::data(message).with_help(
                    "no number of rows helps: `undefined_columns = \"drop\"` goes without these columns; those of volume are \
                     undefined where the volume is always zero",
                );
            }
            let message = format!(
                "{rows} rows give {} windows of {} bars ({} rows lack features or come too early, {} lack labels): {problem}",
                self.ends.len(),
                plan.window_bars,
                self.without_features,
                self.without_labels,
            );
            let missing = |column: &Vec<f64>| column.iter().filter(|v| v.is_nan()).count();
            let emptiest = (0..self.names.len()).max_by_key(|&i| missing(&self.features[i]));
            let emptiest = emptiest.map_or(String::new(), |i| {
                format!("; the feature that is missing most often is `{}`, on {} rows", self.names[i], missing(&self.features[i]))
            });
            let needed = rows - self.ends.len() + plan.least_windows();
            StageError::data(message).with_help(format!(
                "take {needed} rows or more, or fewer `window_bars` or `purge_bars`{emptiest}"
            ))
        })
    }

    fn matrix(
        &self,
        scaler: &Scaler,
        features: &Table,
        window_bars: u32,
    ) -> Result<Table, StageError> {
        let mut builder = Table::builder().time_index(self.ts_ns.clone());
        let kept = feature_columns(features.columns())?
            .into_iter()
            .filter(|column| self.names.contains(&column.name));
        for (i, column) in kept.enumerate() {
            let scaled = scaler.scaled(i, &self.features[i]);
            if let Some(row) = scaled.iter().position(|v| v.is_infinite()) {
                let message = format!(
                    "{} does not fit single precision once scaled",
                    self.features[i][row]
                );
                return Err(StageError::data_at(row as u64, &self.names[i], message));
            }
            builder = builder.f32(column, scaled);
        }
        for (name, value) in features.facts() {
            builder = builder.fact(name, value.clone());
        }
        Ok(builder.fact("window_bars", window_bars.into()).build()?)
    }
}

fn check_same_rows(features: &[i64], labels: &[i64]) -> Result<(), StageError> {
    let help = "compute both from the same candles";
    if let Some(row) = features.windows(2).position(|pair| pair[1] <= pair[0]) {
        let message = "the time is not after that of the row before";
        return Err(StageError::data_at(row as u64 + 1, "ts_ns", message));
    }
    if let Some(row) = features.iter().zip(labels).position(|(a, b)| a != b) {
        let message = "features and labels have different times";
        return Err(StageError::data_at(row as u64, "ts_ns", message).with_help(help));
    }
    if features.len() != labels.len() {
        let message = format!(
            "features have {} rows and labels {}",
            features.len(),
            labels.len()
        );
        return Err(StageError::data(message).with_help(help));
    }
    Ok(())
}

/// The time index and every feature, in single precision.
fn feature_columns(columns: &[Column]) -> Result<Vec<Column>, StageError> {
    let mut out = vec![Column::time_index()];
    for column in columns.iter().filter(|column| column.name != "ts_ns") {
        if matches!(
            column.column_type,
            ColumnType::Utf8 | ColumnType::TimestampNs
        ) {
            let message = format!(
                "feature `{}` is {}, not a number",
                column.name, column.column_type
            );
            return Err(StageError::data(message).with_help("leave the column out of the features"));
        }
        out.push(Column {
            column_type: ColumnType::F32,
            unit: "scaled".into(),
            ..column.clone()
        });
    }
    if out.len() == 1 {
        return Err(StageError::data("there are no features")
            .with_help("`features` needs a column besides `ts_ns`"));
    }
    Ok(out)
}

fn window_columns() -> Vec<Column> {
    let mut columns = vec![Column::time_index()];
    let described = [
        ("row", "row of the window's last bar in `matrix`"),
        ("split", "0 training, 1 validation, 2 test"),
        ("buy", "label of the last bar"),
        ("sell", "label of the last bar"),
        ("direction", "label of the last bar"),
        ("regime", "label of the last bar"),
        (
            "train_buy",
            "`buy`, in the training split balanced and perturbed",
        ),
        (
            "train_sell",
            "`sell`, in the training split balanced and perturbed",
        ),
    ];
    columns.extend(described.map(|(name, text)| {
        let unit = match name {
            "row" => "rows",
            "split" => "",
            _ => "class",
        };
        Column::new(name, ColumnType::I64)
            .unit(unit)
            .description(text)
    }));
    columns
}

fn scaler_columns() -> Vec<Column> {
    vec![
        Column::new("feature", ColumnType::Utf8).description("name of the column in `matrix`"),
        Column::new("mean", ColumnType::F64).description("subtracted first"),
        Column::new("scale", ColumnType::F64).description("divided by then, never 0"),
    ]
}

fn windows_table(
    data: &Data,
    splits: &Splits,
    trained: &[Vec<i64>; 2],
    facts: impl FnOnce(natron_artifacts::TableBuilder) -> natron_artifacts::TableBuilder,
) -> Result<Table, StageError> {
    let rows = splits.rows();
    let label = |head: usize| -> Vec<i64> {
        rows.iter()
            .map(|&row| data.labels[head][row].expect("windows end where labels are defined"))
            .collect()
    };
    let mut values = vec![
        rows.iter().map(|&row| row as i64).collect(),
        splits.ids().iter().map(|split| *split as i64).collect(),
    ];
    values.extend((0..HEADS.len()).map(label));
    values.extend(trained.iter().cloned());
    let times = rows.iter().map(|&row| data.ts_ns[row]).collect();
    let mut builder = Table::builder().time_index(times);
    for (column, values) in window_columns().into_iter().skip(1).zip(values) {
        builder = builder.i64(column, values);
    }
    Ok(facts(builder).build()?)
}

fn statistics(
    data: &Data,
    splits: &Splits,
    trained: &[Vec<i64>; 2],
    scaler: &Scaler,
    plan: &SplitPlan,
    horizon_bars: u32,
) -> Result<Metrics, String> {
    let mut metrics = Metrics::new();
    let rows = splits.rows();
    for (path, count) in [
        ("rows", data.ts_ns.len()),
        ("features", data.names.len()),
        ("dropped_features", data.dropped.len()),
        ("constant_features", scaler.constant_features()),
        ("window_bars", plan.window_bars as usize),
        ("label_horizon_bars", horizon_bars as usize),
        ("purge_bars", plan.purge_bars as usize),
        ("embargo_bars", plan.embargo_bars as usize),
        ("left_out.without_features", data.without_features),
        ("left_out.without_labels", data.without_labels),
        ("left_out.at_borders", data.ends.len() - rows.len()),
    ] {
        metrics.set_count(path, count as u64)?;
    }
    for split in [Split::Training, Split::Validation, Split::Test] {
        let name = split.name();
        let members: Vec<usize> = (0..rows.len())
            .filter(|&i| splits.ids()[i] == split)
            .collect();
        metrics.set_count(&format!("windows.{name}"), members.len() as u64)?;
        let (Some(&first), Some(&last)) = (members.first(), members.last()) else {
            continue;
        };
        metrics.set(
            &format!("times.{name}.first_s"),
            data.ts_ns[rows[first]] as f64 / 1e9,
        )?;
        metrics.set(
            &format!("times.{name}.last_s"),
            data.ts_ns[rows[last]] as f64 / 1e9,
        )?;
        for (head, labels) in HEADS.iter().zip(&data.labels) {
            let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
            for &i in &members {
                *counts
                    .entry(labels[rows[i]].unwrap_or_default())
                    .or_default() += 1;
            }
            let majority = counts.values().copied().max().unwrap_or(0);
            for (class, count) in counts {
                metrics.set(
                    &format!("shares.{name}.{head}.class_{class}"),
                    count as f64 / members.len() as f64,
                )?;
            }
            metrics.set(
                &format!("majority.{name}.{head}"),
                majority as f64 / members.len() as f64,
            )?;
        }
    }
    let training: Vec<usize> = (0..rows.len())
        .filter(|&i| splits.ids()[i] == Split::Training)
        .collect();
    for (head, labels) in trained.iter().enumerate() {
        let n = training.len() as f64;
        let positive: i64 = training.iter().map(|&i| labels[i]).sum();
        let changed = training
            .iter()
            .filter(|&&i| data.labels[head][rows[i]] != Some(labels[i]))
            .count();
        metrics.set(
            &format!("balancing.{}.positive_share", HEADS[head]),
            positive as f64 / n,
        )?;
        metrics.set(
            &format!("balancing.{}.changed_share", HEADS[head]),
            changed as f64 / n,
        )?;
    }
    Ok(metrics)
}

#[cfg(test)]
mod tests;
