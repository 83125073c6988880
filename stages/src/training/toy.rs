//! Test code: a small dataset with something to learn, and stages run on it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use natron_artifacts::{
    Artifact, Cancel, Column, ColumnType, Level, Observer, Progress, Schemas, Stage, StageContext,
    StageContextParts, StageError, Streams, Table,
};

use crate::models::parameters::Parameters;

/// Features of the toy matrix.
pub(crate) const FEATURES: usize = 5;

/// Length of the toy windows.
pub(crate) const WINDOW_BARS: usize = 8;

/// The tables `matrix`, `windows` and `scaler` of `n` bars: labels follow the last bar's features.
pub(crate) fn dataset(n: usize) -> BTreeMap<&'static str, Table> {
    let mut stream = Streams::new(11).stream("toy");
    let columns: Vec<Vec<f32>> = (0..FEATURES)
        .map(|_| {
            let mut level = 0.0;
            (0..n)
                .map(|_| {
                    level = 0.7 * level + 0.7 * stream.normal();
                    level as f32
                })
                .collect()
        })
        .collect();
    let mut matrix = Table::builder().time_index((0..n as i64).map(|i| i * 1_000).collect());
    for (f, values) in columns.iter().enumerate() {
        matrix = matrix.f32(
            Column::new(format!("f{f}"), ColumnType::F32),
            values.clone(),
        );
    }
    let matrix = matrix
        .fact("feature_plan", serde_json::json!({"set": "toy"}))
        .build()
        .unwrap();

    let rows: Vec<usize> = (WINDOW_BARS - 1..n).collect();
    let integer = |name: &str| Column::new(name, ColumnType::I64);
    let label = |f: &dyn Fn(usize) -> i64| -> Vec<i64> { rows.iter().map(|&row| f(row)).collect() };
    let buy = |row: usize| i64::from(columns[0][row] > 0.2);
    let sell = |row: usize| i64::from(columns[0][row] < -0.2);
    let windows = Table::builder()
        .time_index(rows.iter().map(|&row| row as i64 * 1_000).collect())
        .i64(integer("row"), label(&|row| row as i64))
        .i64(
            integer("split"),
            label(&|row| {
                if row < n * 7 / 10 {
                    0
                } else {
                    i64::from(row >= n * 8 / 10) + 1
                }
            }),
        )
        .i64(integer("buy"), label(&buy))
        .i64(integer("sell"), label(&sell))
        .i64(
            integer("direction"),
            label(&|row| {
                if columns[1][row] > 0.4 {
                    1
                } else {
                    2 * i64::from(columns[1][row] > -0.4)
                }
            }),
        )
        .i64(
            integer("regime"),
            label(&|row| ((columns[2][row] * 1.5 + 3.0) as i64).clamp(0, 5)),
        )
        .i64(integer("train_buy"), label(&buy))
        .i64(integer("train_sell"), label(&sell))
        .fact("window_bars", WINDOW_BARS.into())
        .fact("label_horizon_bars", 3.into())
        .build()
        .unwrap();
    let scaler = Table::builder()
        .utf8(
            Column::new("feature", ColumnType::Utf8),
            (0..FEATURES).map(|f| format!("f{f}")).collect(),
        )
        .f64(Column::new("mean", ColumnType::F64), vec![0.5; FEATURES])
        .f64(Column::new("scale", ColumnType::F64), vec![2.0; FEATURES])
        .build()
        .unwrap();
    [("matrix", matrix), ("windows", windows), ("scaler", scaler)].into()
}

/// Context parts with the toy dataset of `n` bars.
pub(crate) fn parts(directory: &Path, n: usize) -> StageContextParts {
    dataset(n).into_iter().fold(
        StageContextParts::for_test(directory),
        |parts, (port, table)| parts.input(port, table),
    )
}

/// A context for `stage` over `parts`.
pub(crate) fn context(stage: &impl Stage, parts: StageContextParts) -> StageContext {
    StageContext::new(parts, stage.signature(&Schemas::new()).unwrap())
}

/// The outputs of `stage`, run over `parts` with `threads` threads.
pub(crate) fn run(
    stage: &impl Stage,
    parts: StageContextParts,
    threads: usize,
) -> Result<BTreeMap<String, Artifact>, StageError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    let mut context = context(stage, parts);
    pool.install(|| stage.run(&mut context))?;
    context.finish()
}

/// Checks that every parameter receives a gradient from `loss` that is more than rounding.
pub(crate) fn check_gradients(parameters: &Parameters, loss: &candle_core::Tensor) {
    let gradients = loss.backward().unwrap();
    let largest: BTreeMap<&str, f32> = parameters
        .iter()
        .map(|(name, variable)| {
            let gradient = gradients
                .get(variable)
                .unwrap_or_else(|| panic!("`{name}` has no gradient"));
            let values = natron_kernels::to_vec(gradient).unwrap();
            (name, values.iter().fold(0.0, |most, g| g.abs().max(most)))
        })
        .collect();
    let most = largest.values().copied().fold(0.0, f32::max);
    for (name, found) in largest {
        assert!(
            found > 1e-5 * most,
            "the gradient of `{name}` is {found:e} at most, the largest of all is {most:e}"
        );
    }
}

/// The bytes of all outputs, by digest.
pub(crate) fn digests(outputs: &BTreeMap<String, Artifact>) -> BTreeMap<String, String> {
    outputs
        .iter()
        .map(|(port, artifact)| {
            (
                port.clone(),
                artifact.seal().unwrap().manifest.bytes.to_hex(),
            )
        })
        .collect()
}

/// Asks to stop once a step is reached.
#[derive(Debug)]
pub(crate) struct StopAt {
    step: u64,
    cancel: Cancel,
    /// The last step it was told of.
    pub(crate) seen: AtomicU64,
}

impl StopAt {
    /// Sets `cancel` at `step`.
    pub(crate) fn new(step: u64, cancel: Cancel) -> Arc<Self> {
        Arc::new(Self {
            step,
            cancel,
            seen: AtomicU64::new(0),
        })
    }
}

impl Observer for StopAt {
    fn progress(&self, progress: &Progress) {
        if progress.unit == "steps" {
            self.seen.store(progress.done, Ordering::SeqCst);
            if progress.done >= self.step {
                self.cancel.set();
            }
        }
    }

    fn metric(&self, _: &str, _: u64, _: f64) {}

    fn log(&self, _: Level, _: &str) {}
}
