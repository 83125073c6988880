//! Windows joined with their predictions.

use std::collections::BTreeMap;

use natron_artifacts::{StageError, Table};

/// The splits that are scored, with their numbers in the table of windows. Training is split 0.
pub(super) const SCORED_SPLITS: [(&str, i64); 2] = [("validation", 1), ("test", 2)];

/// The number of the training split.
pub(super) const TRAINING: i64 = 0;

/// What is read of the windows.
pub(super) const WINDOW_COLUMNS: [&str; 8] = [
    "row",
    "split",
    "buy",
    "sell",
    "direction",
    "regime",
    "train_buy",
    "train_sell",
];

/// A head: its name, its classes, and the columns of their probabilities.
pub(super) struct HeadKind {
    /// Name, which is its label's too.
    pub(super) name: &'static str,
    /// Names of the classes in order.
    pub(super) classes: &'static [&'static str],
    /// Columns of the classes' probabilities; with one column it is the positive class's.
    columns: &'static [&'static str],
    /// Whether the label is a function of the same bar's inputs, so that a perfect score says nothing about the future.
    pub(super) is_function_of_inputs: bool,
}

/// The four heads.
pub(super) const HEADS: [HeadKind; 4] = [
    HeadKind {
        name: "buy",
        classes: &["no", "yes"],
        columns: &["buy"],
        is_function_of_inputs: true,
    },
    HeadKind {
        name: "sell",
        classes: &["no", "yes"],
        columns: &["sell"],
        is_function_of_inputs: true,
    },
    HeadKind {
        name: "direction",
        classes: &["down", "up", "neutral"],
        columns: &["direction_down", "direction_up", "direction_neutral"],
        is_function_of_inputs: false,
    },
    HeadKind {
        name: "regime",
        classes: &[
            "bull_strong",
            "bull_weak",
            "range",
            "bear_weak",
            "bear_strong",
            "volatile",
        ],
        columns: &[
            "regime_0", "regime_1", "regime_2", "regime_3", "regime_4", "regime_5",
        ],
        is_function_of_inputs: true,
    },
];

/// What was training data to whoever predicted must not be test data here.
fn same_split(table: &str, row: usize, expected: i64, found: i64) -> Result<(), StageError> {
    if expected == found {
        return Ok(());
    }
    let name = |split| match split {
        0 => "training",
        1 => "validation",
        2 => "test",
        _ => "unknown",
    };
    let (expected, found) = (name(expected), name(found));
    let message = format!(
        "the window that ends at bar {row} is in the {expected} split of `windows` and in the {found} split of `{table}`"
    );
    Err(StageError::data(message)
        .with_help("predictions, actions and windows must come from the same dataset"))
}

/// What is read of the predictions.
pub(super) fn prediction_columns() -> Vec<&'static str> {
    let heads = HEADS.iter().flat_map(|head| head.columns.iter().copied());
    ["row", "split"].into_iter().chain(heads).collect()
}

/// Every window with its labels and probabilities.
#[derive(Debug)]
pub(super) struct Observations {
    /// The window's last bar.
    pub(super) rows: Vec<usize>,
    /// Its split.
    pub(super) splits: Vec<i64>,
    /// Labels by head, in the order of [`HEADS`].
    pub(super) labels: Vec<Vec<usize>>,
    /// Probabilities by head: \[windows, classes\].
    pub(super) probabilities: Vec<Vec<f64>>,
    /// How many bars the labels look ahead.
    pub(super) horizon_bars: usize,
    /// How many bars a window has, where the table says so.
    pub(super) window_bars: Option<usize>,
    /// Windows outside the training split whose training label differs from their label.
    pub(super) perturbed_outside_training: usize,
    by_row: BTreeMap<usize, usize>,
}

impl Observations {
    /// Joins `windows` and `predictions` by row of the `n_bars` candles.
    pub(super) fn read(
        windows: &Table,
        predictions: &Table,
        n_bars: usize,
    ) -> Result<Self, StageError> {
        let fact = |name: &str| -> Option<usize> { Some(windows.fact(name)?.as_u64()? as usize) };
        let horizon_bars = fact("label_horizon_bars").ok_or_else(|| {
            StageError::data("`windows` does not state `label_horizon_bars`")
                .with_help("connect the output of `dataset`, which states it")
        })?;
        let rows = rows_below(windows, n_bars)?;
        let splits = windows.i64("split")?.to_vec();
        let by_row: BTreeMap<usize, usize> =
            rows.iter().enumerate().map(|(i, &row)| (row, i)).collect();
        let predicted = rows_below(predictions, n_bars)?;
        let at: BTreeMap<usize, usize> = predicted
            .iter()
            .enumerate()
            .map(|(i, &row)| (row, i))
            .collect();
        let order: Vec<usize> = rows
            .iter()
            .map(|row| {
                at.get(row).copied().ok_or_else(|| {
                    StageError::data(format!(
                        "`predictions` has no row for the window that ends at bar {row}"
                    ))
                    .with_help("predictions and windows must come from the same dataset")
                })
            })
            .collect::<Result<_, _>>()?;

        let predicted_splits = predictions.i64("split")?;
        for (i, &at) in order.iter().enumerate() {
            same_split("predictions", rows[i], splits[i], predicted_splits[at])?;
        }

        let mut labels = Vec::new();
        let mut probabilities = Vec::new();
        for head in &HEADS {
            labels.push(classes(windows, head)?);
            probabilities.push(head_probabilities(predictions, head, &order)?);
        }
        let mut perturbed_outside_training = 0;
        for name in ["buy", "sell"] {
            let (label, trained) = (
                windows.numbers(name)?,
                windows.numbers(&format!("train_{name}"))?,
            );
            perturbed_outside_training += (0..rows.len())
                .filter(|&i| splits[i] != TRAINING && (trained[i] - label[i]).abs() > 0.0)
                .count();
        }
        Ok(Self {
            rows,
            splits,
            labels,
            probabilities,
            horizon_bars,
            window_bars: fact("window_bars"),
            perturbed_outside_training,
            by_row,
        })
    }

    /// The windows of a split, in order.
    pub(super) fn of_split(&self, split: i64) -> Vec<usize> {
        (0..self.rows.len())
            .filter(|&i| self.splits[i] == split)
            .collect()
    }

    /// The window that ends at bar `row`.
    pub(super) fn at_row(&self, row: usize) -> Option<usize> {
        self.by_row.get(&row).copied()
    }

    /// The probability of `class` for window `i` by the head at position `head`.
    pub(super) fn probability(&self, head: usize, i: usize, class: usize) -> f64 {
        self.probabilities[head][i * HEADS[head].classes.len() + class]
    }

    /// First and last bar of a split's windows; `None` without windows.
    pub(super) fn bars_of_split(&self, split: i64) -> Option<(usize, usize)> {
        let rows = self.of_split(split).into_iter().map(|i| self.rows[i]);
        rows.fold(None, |range, row| match range {
            None => Some((row, row)),
            Some((first, last)) => Some((first.min(row), last.max(row))),
        })
    }
}

fn rows_below(table: &Table, n_bars: usize) -> Result<Vec<usize>, StageError> {
    table
        .i64("row")?
        .iter()
        .enumerate()
        .map(|(i, &row)| {
            let index = usize::try_from(row).ok().filter(|&row| row < n_bars);
            index.ok_or_else(|| {
                StageError::data_at(
                    i as u64,
                    "row",
                    format!("bar {row} is not one of the {n_bars} candles"),
                )
                .with_help("candles, windows and predictions must come from the same run")
            })
        })
        .collect()
}

fn classes(windows: &Table, head: &HeadKind) -> Result<Vec<usize>, StageError> {
    let n_classes = head.classes.len();
    windows
        .numbers(head.name)?
        .iter()
        .enumerate()
        .map(|(i, &value)| {
            let class = value as usize;
            let is_class = value >= 0.0 && class < n_classes && (value - class as f64).abs() < 1e-9;
            is_class.then_some(class).ok_or_else(|| {
                StageError::data_at(
                    i as u64,
                    head.name,
                    format!(
                        "label {value} is none of the classes 0 to {}",
                        n_classes - 1
                    ),
                )
            })
        })
        .collect()
}

fn head_probabilities(
    predictions: &Table,
    head: &HeadKind,
    order: &[usize],
) -> Result<Vec<f64>, StageError> {
    let columns = head
        .columns
        .iter()
        .map(|&name| {
            let values = predictions.numbers(name)?;
            match values
                .iter()
                .position(|p| !(-1e-6..=1.0 + 1e-6).contains(p))
            {
                None => Ok(values),
                Some(i) => Err(StageError::data_at(
                    i as u64,
                    name,
                    format!("{} is no probability", values[i]),
                )),
            }
        })
        .collect::<Result<Vec<_>, StageError>>()?;
    let mut probabilities = Vec::with_capacity(order.len() * head.classes.len());
    for &i in order {
        if let [positive] = &columns[..] {
            let p = positive[i].clamp(0.0, 1.0);
            probabilities.extend([1.0 - p, p]);
        } else {
            probabilities.extend(columns.iter().map(|column| column[i].clamp(0.0, 1.0)));
        }
    }
    Ok(probabilities)
}

/// The policy's positions by bar, as shares of equity: 1 long, 0 flat, -1 short.
pub(super) fn positions(
    actions: &Table,
    observations: &Observations,
) -> Result<BTreeMap<usize, f64>, StageError> {
    let (rows, positions) = (actions.i64("row")?, actions.f64("position")?);
    for (&row, &split) in rows.iter().zip(actions.i64("split")?) {
        let window = usize::try_from(row)
            .ok()
            .and_then(|row| observations.at_row(row));
        if let Some(i) = window {
            same_split(
                "actions",
                observations.rows[i],
                observations.splits[i],
                split,
            )?;
        }
    }
    rows.iter()
        .zip(positions.iter())
        .enumerate()
        .map(|(i, (&row, &position))| match usize::try_from(row) {
            Ok(row) if (-1.0..=1.0).contains(&position) => Ok((row, position)),
            _ => Err(StageError::data_at(
                i as u64,
                "position",
                format!("position {position} at bar {row} does not lie from -1 to 1"),
            )),
        })
        .collect()
}
