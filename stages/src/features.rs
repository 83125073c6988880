//! `uses = "features"`: the columns that a model sees.
//!
//! Input `candles`: bars with the columns `open`, `high`, `low`, `close` and `volume`. Output `features`: the same rows, one
//! column per feature, missing where a column has not warmed up or is not defined. Causal: row `t` uses rows up to and
//! including `t`, and each column states how many bars before it decide its value.
//!
//! The table carries the plan's parameters as the fact `feature_plan`, so that whoever has a model can compute its inputs.

use natron_artifacts::{
    Column, ColumnType, PortSchema, Schemas, Signature, Stage, StageContext, StageError, Table,
    Threads,
};
use natron_kernels::bars::Bars;
use serde_json::json;

#[cfg(test)]
pub(crate) mod fixtures;
mod natron_v2;
mod parameters;
mod plan;

pub use parameters::{FeatureParameters, FeatureSet};
pub use plan::{FeatureColumn, FeatureError, FeaturePlan, FeatureStream, Unit};

/// Columns of bars besides their time.
pub(crate) const BAR_COLUMNS: [&str; 5] = ["open", "high", "low", "close", "volume"];

impl Stage for FeatureParameters {
    fn signature(&self, inputs: &Schemas) -> Result<Signature, StageError> {
        let plan = FeaturePlan::compile(self)?;
        let mut columns = vec![Column::time_index()];
        columns.extend(plan.columns().iter().map(declaration));
        let schema = facts(&plan)
            .into_iter()
            .fold(PortSchema::table(columns), |schema, (name, value)| {
                schema.fact(name, value)
            });
        Ok(Signature::new()
            .input_columns("candles", BAR_COLUMNS)
            // The features see what the candles see, so candles that look ahead make features that do.
            .output("features", schema.lookahead(inputs.lookahead_bars()))
            .threads(Threads::All))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let plan = FeaturePlan::compile(self)?;
        let candles = context.table("candles")?;
        let ts_ns = candles.ts_ns()?.to_vec();
        let values = with_bars(&candles, |bars| plan.batch(bars))?;
        let mut table = Table::builder().time_index(ts_ns);
        for (column, values) in plan.columns().iter().zip(values) {
            table = table.f64(declaration(column), values);
        }
        for (name, value) in facts(&plan) {
            table = table.fact(name, value);
        }
        context.write("features", table.build()?)
    }
}

/// What consumers of the table may need to know before and after it exists.
fn facts(plan: &FeaturePlan) -> [(&'static str, serde_json::Value); 3] {
    [
        ("feature_plan", json!(plan.parameters())),
        ("memory_rows", json!(plan.memory_rows())),
        ("warm_up_rows", json!(plan.warm_up_rows())),
    ]
}

fn declaration(column: &FeatureColumn) -> Column {
    let rows = match (column.warm_up_rows, column.memory_rows) {
        (0, 0) => "from the bar alone".to_owned(),
        (warm_up, memory) => format!("from row {warm_up} on, of {memory} bars before"),
    };
    Column::new(&column.name, ColumnType::F64)
        .unit(column.unit.name())
        .description(format!("{}; {rows}", column.description))
}

/// Calls `compute` with the bars of a candle table; missing values are NaN.
pub(crate) fn with_bars<T>(
    candles: &Table,
    compute: impl FnOnce(Bars<'_>) -> T,
) -> Result<T, StageError> {
    let [open, high, low, close, volume] = BAR_COLUMNS.map(|name| candles.f64(name));
    let (open, high, low, close, volume) = (open?, high?, low?, close?, volume?);
    let ts_ns = candles.ts_ns()?;
    Ok(compute(Bars {
        ts_ns,
        open: &open,
        high: &high,
        low: &low,
        close: &close,
        volume: &volume,
    }))
}

impl From<FeatureError> for StageError {
    fn from(error: FeatureError) -> Self {
        let message = error.to_string();
        match error {
            FeatureError::OutOfRange { parameter, .. } => StageError::parameter(parameter, message),
            FeatureError::SameName { .. } => StageError::parameter("", message),
        }
    }
}

#[cfg(test)]
mod tests {
    use natron_artifacts::{Artifact, Registry, StageContextParts};
    use serde_json::json;

    use super::fixtures::market;
    use super::*;

    fn candles() -> Table {
        let bars = market(150, 2);
        let price =
            |name: &str, values: &[f64]| (Column::new(name, ColumnType::F64), values.to_vec());
        [
            price("open", &bars.open),
            price("high", &bars.high),
            price("low", &bars.low),
            price("close", &bars.close),
            price("volume", &bars.volume),
        ]
        .into_iter()
        .fold(
            Table::builder().time_index(bars.ts_ns.clone()),
            |table, (column, values)| table.f64(column, values),
        )
        .build()
        .unwrap()
    }

    #[test]
    fn the_stage_writes_the_columns_that_it_declares() {
        let mut registry = Registry::new();
        registry.register::<FeatureParameters>("features", "test");
        let parsed = registry
            .get("features")
            .unwrap()
            .parse(&json!({"set": "natron_v2", "trend": {"adx_period": 7}}))
            .unwrap();
        let signature = parsed.stage.signature(&Schemas::new()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let parts = StageContextParts::for_test(directory.path()).input("candles", candles());
        let mut context = StageContext::new(parts, signature);

        parsed.stage.run(&mut context).unwrap();

        let outputs = context.finish().unwrap();
        let Artifact::Table(features) = &outputs["features"] else {
            panic!("features are a table")
        };
        assert_eq!(features.n_rows(), 150);
        assert_eq!(features.columns().len(), 99);
        let adx = features.f64("adx_7").unwrap();
        assert!(adx[12].is_nan() && !adx[13].is_nan());
        let plan: FeatureParameters =
            serde_json::from_value(features.fact("feature_plan").unwrap().clone()).unwrap();
        assert_eq!(plan.trend.adx_period, 7);
    }

    #[test]
    fn candles_that_look_ahead_make_features_that_do() {
        let ahead = |bars: u32| {
            let mut inputs = Schemas::new();
            inputs.push(
                "candles",
                PortSchema::of(natron_artifacts::Kind::Table).lookahead(bars),
            );
            let stage = FeatureParameters::of(FeatureSet::NatronV2);
            let signature = stage.signature(&inputs).unwrap();
            signature
                .output_port("features")
                .unwrap()
                .schema
                .lookahead_bars
        };

        assert_eq!([ahead(0), ahead(5)], [0, 5]);
    }

    #[test]
    fn a_mistake_in_a_group_is_placed() {
        let mut registry = Registry::new();
        registry.register::<FeatureParameters>("features", "test");
        let kind = registry.get("features").unwrap();

        let error = kind
            .parse(&json!({"set": "natron_v2", "trend": {"adx": 7}}))
            .err()
            .unwrap();
        assert_eq!(error.path, ["trend", "adx"]);
        let parsed = kind
            .parse(&json!({"set": "natron_v2", "trend": {"adx_period": 1}}))
            .unwrap();
        let error = parsed.stage.signature(&Schemas::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`trend.adx_period` is 1, expected 2 to 10000 bars"
        );
    }
}
