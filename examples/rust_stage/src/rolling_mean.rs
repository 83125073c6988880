//! `uses = "rolling_mean"`: trailing mean of each named column.

use std::num::NonZeroU32;

use natron_artifacts::{
    Column, ColumnType, PortSchema, Schemas, Signature, Stage, StageContext, StageError, Table,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Trailing mean of each named column.
///
/// Input `bars` (table with `ts_ns` and the columns); output `features` (table: `ts_ns` and one column `<name>_mean` for
/// each name, same rows, null until the window is full). Causal: row `t` uses rows up to and including `t`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollingMean {
    /// Input columns to average.
    columns: Vec<String>,
    /// Length of the trailing window, in bars.
    window_bars: NonZeroU32,
}

impl RollingMean {
    fn mean_column(&self, name: &str) -> Column {
        let window = self.window_bars;
        Column::new(format!("{name}_mean"), ColumnType::F64)
            .description(format!("mean of `{name}` over the last {window} bars"))
    }
}

impl Stage for RollingMean {
    fn signature(&self, inputs: &Schemas) -> Result<Signature, StageError> {
        if self.columns.is_empty() {
            return Err(
                StageError::parameter("columns", "there is no column to average")
                    .with_help("`columns = [\"close\"]` names one"),
            );
        }
        let means = self.columns.iter().map(|name| self.mean_column(name));
        let columns = [Column::time_index()].into_iter().chain(means).collect();
        let features = PortSchema::table(columns).lookahead(inputs.lookahead_bars());
        Ok(Signature::new()
            .input_columns("bars", self.columns.clone())
            .output("features", features))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let bars = context.table("bars")?;
        let window = self.window_bars.get() as usize;
        let mut features = Table::builder().column_of(&bars, "ts_ns");
        for name in &self.columns {
            let mean = rolling_mean(&bars.numbers(name)?, window);
            // A table has null where a column has NaN.
            features = features.f64(self.mean_column(name), mean);
        }
        context.write("features", features.build()?)
    }
}

/// The mean of the last `window` values; NaN until there are as many.
fn rolling_mean(x: &[f64], window: usize) -> Vec<f64> {
    let warm_up = (window - 1).min(x.len());
    let means = x
        .windows(window)
        .map(|last| last.iter().sum::<f64>() / window as f64);
    std::iter::repeat_n(f64::NAN, warm_up)
        .chain(means)
        .collect()
}

#[cfg(test)]
mod tests {
    use natron_artifacts::{Artifact, StageContextParts};

    use super::*;

    fn stage(columns: &[&str]) -> RollingMean {
        RollingMean {
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            window_bars: NonZeroU32::new(3).unwrap(),
        }
    }

    fn means(stage: &RollingMean, close: &[f64]) -> Vec<f64> {
        let directory = tempfile::tempdir().unwrap();
        let bars = Table::builder()
            .time_index((0..close.len() as i64).collect())
            .f64(Column::new("close", ColumnType::F64), close.to_vec())
            .build()
            .unwrap();
        let parts = StageContextParts::for_test(directory.path()).input("bars", bars);
        let signature = stage.signature(&Schemas::new()).unwrap();
        let mut context = StageContext::new(parts, signature);
        stage.run(&mut context).unwrap();
        let Artifact::Table(features) = &context.finish().unwrap()["features"] else {
            panic!("the output is a table");
        };
        features.f64("close_mean").unwrap().into_owned()
    }

    #[test]
    fn matches_a_case_computed_by_hand() {
        let means = means(&stage(&["close"]), &[1.0, 2.0, 6.0, 4.0]);

        assert!(means[0].is_nan() && means[1].is_nan());
        assert_eq!(means[2..], [3.0, 4.0]);
    }

    #[test]
    fn never_sees_the_future() {
        let stage = stage(&["close"]);
        let close = [1.0, 2.0, 6.0, 4.0, 9.0];
        let whole = means(&stage, &close);

        for n in 3..close.len() {
            assert_eq!(means(&stage, &close[..n])[2..], whole[2..n]);
        }
    }

    #[test]
    fn bars_that_look_ahead_make_means_that_do() {
        let mut inputs = Schemas::new();
        inputs.push("bars", PortSchema::table(Vec::new()).lookahead(5));

        let signature = stage(&["close"]).signature(&inputs).unwrap();

        let features = &signature.output_port("features").unwrap().schema;
        assert_eq!(features.lookahead_bars, 5);
    }

    #[test]
    fn an_empty_list_of_columns_is_a_mistake() {
        let error = stage(&[]).signature(&Schemas::new()).unwrap_err();

        assert!(
            matches!(error, StageError::Parameters { parameter, .. } if parameter == "columns")
        );
    }
}
