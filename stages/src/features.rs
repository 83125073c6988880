//! `uses = "features"`: the columns that a model sees.
//!
//! Input `candles`: bars with the columns `open`, `high`, `low`, `close` and `volume`, and whatever other columns expressions
//! name; one more input for each other market that they name. Output `features`: the rows of the candles, one column per
//! feature, missing where a column has not warmed up or is not defined. Causal: row `t` uses rows up to and including `t`,
//! and each column states how many bars before it decide its value.
//!
//! The table carries the plan's parameters as the fact `feature_plan`, so that whoever has a model can compute its inputs,
//! and as the fact `feature_probe` what the plan computes on one fixed market, so that they can tell whether they do.

use std::collections::BTreeMap;

use natron_artifacts::{
    Column, ColumnType, Gpu, PortSchema, Schemas, Signature, Stage, StageContext, StageError,
    Table, Threads,
};
use natron_kernels::bars::Bars;
use natron_kernels::indicators::cuda::Word;
use serde_json::json;

mod columns;
mod device;
mod expression;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod listing;
mod longer_bars;
mod natron_v2;
mod parameters;
mod plan;
pub(crate) mod probe;
mod sets;
mod stream;

pub use columns::{Entry, FeatureColumns, FeatureDefinition};
pub use parameters::{Device, FeatureParameters, FeatureSet, Precision};
pub use plan::{FeatureColumn, FeatureError, FeaturePlan, Market, Span};
pub use stream::FeatureStream;

use device::Card;
use expression::compile::Known;

/// Columns of bars besides their time.
pub(crate) const BAR_COLUMNS: [&str; 5] = ["open", "high", "low", "close", "volume"];

impl FeatureParameters {
    /// The plan, given what is known of the inputs.
    fn plan(&self, inputs: &Schemas) -> Result<FeaturePlan, StageError> {
        let mut known = Known::default();
        for port in inputs.ports() {
            let Some(columns) = inputs.get(port).and_then(|schema| schema.columns.as_ref()) else {
                continue;
            };
            let market = if port == "candles" { "" } else { port };
            let numbers = columns
                .iter()
                .filter(|column| is_number(column.column_type));
            let names = numbers.map(|column| column.name.clone()).collect();
            known.columns.insert(market.to_owned(), names);
        }
        Ok(FeaturePlan::compile_for(self, &known)?)
    }
}

fn is_number(column_type: ColumnType) -> bool {
    matches!(
        column_type,
        ColumnType::F64 | ColumnType::F32 | ColumnType::I64 | ColumnType::Bool
    )
}

impl Stage for FeatureParameters {
    fn signature(&self, inputs: &Schemas) -> Result<Signature, StageError> {
        let plan = self.plan(inputs)?;
        if self.device == Device::Cuda {
            device::check_twins(&plan)?;
        }
        let mut columns = vec![Column::time_index()];
        columns.extend(
            plan.columns()
                .iter()
                .map(|column| declaration(column, self.precision)),
        );
        let schema = facts(&plan)
            .into_iter()
            .fold(PortSchema::table(columns), |schema, (name, value)| {
                schema.fact(name, value)
            });
        let candles = BAR_COLUMNS.map(str::to_owned).into_iter();
        let candles = candles.chain(plan.further_columns("").iter().cloned());
        let mut signature = Signature::new().input_columns("candles", candles);
        for market in plan.markets() {
            let bars = plan.bar_columns(market).into_iter().map(str::to_owned);
            let columns = bars.chain(plan.further_columns(market).iter().cloned());
            signature = signature.input_columns(market, columns);
        }
        Ok(signature
            // The features see what the candles see, so candles that look ahead make features that do.
            .output("features", schema.lookahead(inputs.lookahead_bars()))
            .threads(Threads::All)
            .gpu(match self.device {
                Device::Auto => Gpu::Auto,
                Device::Cpu => Gpu::Never,
                Device::Cuda => Gpu::Required,
            }))
    }

    fn gpu_class(&self) -> Result<String, StageError> {
        let class = natron_kernels::cuda::class().as_ref();
        class.cloned().map_err(device::failed)
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let plan = self.plan(&Schemas::new())?;
        let candles = Series::read(context, &plan, "")?;
        check_timeframes(&plan, &candles)?;
        let mut others = BTreeMap::new();
        for market in plan.markets() {
            others.insert(market.to_owned(), Series::read(context, &plan, market)?);
        }
        let slices: BTreeMap<&str, Vec<&[f64]>> = others
            .iter()
            .map(|(name, series)| (name.as_str(), series.further()))
            .collect();
        let markets: BTreeMap<String, Market<'_>> = others
            .iter()
            .map(|(name, series)| (name.clone(), series.market(&slices[name.as_str()])))
            .collect();
        let further = candles.further();
        let all = candles.market(&further);

        let card = Card::granted(context, self.device)?;
        let mut table = Table::builder().time_index(candles.ts_ns.clone());
        match self.precision {
            Precision::F64 => {
                let columns = computed(&plan, card.as_ref(), all, &markets)?;
                for (column, values) in plan.columns().iter().zip(columns) {
                    table = table.f64(declaration(column, self.precision), values);
                }
            }
            Precision::F32 => {
                let columns = computed(&plan, card.as_ref(), all, &markets)?;
                for (column, values) in plan.columns().iter().zip(columns) {
                    table = table.f32(declaration(column, self.precision), values);
                }
            }
        }
        for (name, value) in facts(&plan) {
            table = table.fact(name, value);
        }
        table = table.fact("feature_probe", json!(probe::probe(&plan)));
        context.write("features", table.build()?)
    }
}

/// The columns of a plan, on the card where there is one.
fn computed<T: Word>(
    plan: &FeaturePlan,
    card: Option<&Card>,
    candles: Market<'_>,
    markets: &BTreeMap<String, Market<'_>>,
) -> Result<Vec<Vec<T>>, StageError> {
    match card {
        Some(card) => plan.batch_on(card, candles, markets),
        None => Ok(plan.batch_of(candles, markets)),
    }
}

/// The table of one market, as far as it is read. A column of bars that is not read is missing everywhere.
struct Series {
    ts_ns: Vec<i64>,
    bars: [Vec<f64>; 5],
    further: Vec<Vec<f64>>,
}

impl Series {
    /// The table at the input of a market; that of the candles is empty.
    fn read(
        context: &mut StageContext,
        plan: &FeaturePlan,
        market: &str,
    ) -> Result<Self, StageError> {
        let is_candles = market.is_empty();
        let table = context.table(if is_candles { "candles" } else { market })?;
        let ts_ns = table.ts_ns()?.to_vec();
        let is_joined = plan.shortest_timeframe().is_some() || plan.markets().next().is_some();
        let disorder = ts_ns.windows(2).position(|pair| pair[0] >= pair[1]);
        if let Some(row) = disorder.filter(|_| is_joined) {
            return Err(StageError::data_at(
                row as u64 + 1,
                "ts_ns",
                "the bar is not later than the one before",
            ));
        }
        let read = plan.bar_columns(market);
        let mut bars: [Vec<f64>; 5] = Default::default();
        for (values, name) in bars.iter_mut().zip(BAR_COLUMNS) {
            *values = if is_candles || read.contains(name) {
                table.numbers(name)?
            } else {
                vec![f64::NAN; ts_ns.len()]
            };
        }
        let further = plan.further_columns(market).iter();
        let further = further
            .map(|name| table.numbers(name))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            ts_ns,
            bars,
            further,
        })
    }

    fn further(&self) -> Vec<&[f64]> {
        self.further.iter().map(Vec::as_slice).collect()
    }

    fn market<'a>(&'a self, further: &'a [&'a [f64]]) -> Market<'a> {
        let [open, high, low, close, volume] = &self.bars;
        Market {
            bars: Bars {
                ts_ns: &self.ts_ns,
                open,
                high,
                low,
                close,
                volume,
            },
            columns: further,
        }
    }
}

/// Refuses to put bars together from longer ones.
fn check_timeframes(plan: &FeaturePlan, candles: &Series) -> Result<(), StageError> {
    let mut steps: Vec<i64> = candles
        .ts_ns
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    steps.sort_unstable();
    let (Some(timeframe), Some(&step)) = (plan.shortest_timeframe(), steps.get(steps.len() / 2))
    else {
        return Ok(());
    };
    if step <= timeframe.length_ns() {
        return Ok(());
    }
    Err(StageError::data(format!(
        "the candles are {} s apart, and no bars of {timeframe} can be put together from them",
        step as f64 / 1e9
    ))
    .with_help("load shorter candles, or name longer timeframes"))
}

/// What consumers of the table may need to know before and after it exists.
fn facts(plan: &FeaturePlan) -> [(&'static str, serde_json::Value); 3] {
    let memory = plan.memory().and_then(|memory| memory.rows(None));
    [
        ("feature_plan", json!(plan.parameters())),
        ("memory_rows", json!(memory)),
        ("warm_up_rows", json!(plan.warm_up().rows(None))),
    ]
}

fn declaration(column: &FeatureColumn, precision: Precision) -> Column {
    let memory = column.memory.map(|memory| memory.rows(None));
    let rows = match (column.warm_up.rows(None), memory) {
        (Some(0), Some(Some(0))) => "from the bar alone".to_owned(),
        (Some(warm_up), Some(Some(memory))) => {
            format!("from row {warm_up} on, of {memory} bars before")
        }
        (Some(warm_up), None) => format!("from row {warm_up} on, of all bars before"),
        _ => "of longer bars that are over".to_owned(),
    };
    let column_type = match precision {
        Precision::F64 => ColumnType::F64,
        Precision::F32 => ColumnType::F32,
    };
    Column::new(&column.name, column_type)
        .unit(&column.unit)
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
            FeatureError::Refused {
                parameter,
                help,
                at,
                ..
            } => {
                let error = StageError::parameter(parameter, message).with_help(help);
                match at {
                    Some(at) => error.at(at),
                    None => error,
                }
            }
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
