//! A feature set with its parameters, ready to compute: whole series at once or bar by bar.

use std::collections::BTreeSet;
use std::sync::Arc;

use natron_kernels::bars::{Bar, BarColumns, Bars};
use rayon::prelude::*;
use thiserror::Error;

use super::natron_v2;
use super::parameters::{FeatureParameters, FeatureSet};

/// One column of a feature table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureColumn {
    /// Name in the table.
    pub name: String,
    /// Unit of its values.
    pub unit: Unit,
    /// The definition, in one sentence.
    pub description: String,
    /// Rows at the start of every series that have no value.
    pub warm_up_rows: usize,
    /// Bars before a row that decide its value. A series that starts at least this many bars before the row has the same
    /// value there as one that starts earlier: to the bit for windows, to 1e-12 of the column's scale for recurrences.
    pub memory_rows: usize,
}

/// Unit of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Quote currency per unit, as the bars have it.
    Price,
    /// A share of a price, a range or a sum: no dimension.
    Ratio,
    /// 0 to 100, or -100 to 100.
    Percent,
    /// Units traded, as the bars have them.
    Volume,
    /// 0 or 1, or -1, 0 or 1.
    Flag,
    /// Standard deviations from a mean.
    StandardDeviations,
    /// Entropy with the natural logarithm.
    Nats,
}

impl Unit {
    /// The unit's name in a table's schema.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Price => "price",
            Unit::Ratio => "ratio",
            Unit::Percent => "percent",
            Unit::Volume => "volume",
            Unit::Flag => "flag",
            Unit::StandardDeviations => "standard deviations",
            Unit::Nats => "nats",
        }
    }
}

impl FeatureColumn {
    /// A column whose value is decided by its row and the `warm_up_rows` before it.
    pub(super) fn new(
        name: impl Into<String>,
        unit: Unit,
        warm_up_rows: usize,
        description: impl Into<String>,
    ) -> Self {
        FeatureColumn {
            name: name.into(),
            unit,
            description: description.into(),
            warm_up_rows,
            memory_rows: warm_up_rows,
        }
    }

    /// The same column with a longer memory than its warm-up.
    pub(super) fn remembering(self, memory_rows: usize) -> Self {
        FeatureColumn {
            memory_rows,
            ..self
        }
    }
}

/// Columns that are computed together.
pub(super) struct Family {
    columns: Vec<FeatureColumn>,
    compute: Compute,
}

type OnWindows = Box<dyn Fn(Bars<'_>) -> Vec<Vec<f64>> + Send + Sync>;
type OnBars = Box<dyn FnMut(Bar, &mut [f64]) + Send>;

enum Compute {
    /// Every value is a function of the row and the rows of its warm-up.
    Windows(OnWindows),
    /// Every value is a function of a state that each bar carries on. Makes a fresh state.
    Recurrence(Box<dyn Fn() -> OnBars + Send + Sync>),
}

impl Family {
    pub(super) fn window(
        column: FeatureColumn,
        compute: impl Fn(Bars<'_>) -> Vec<f64> + Send + Sync + 'static,
    ) -> Self {
        Self::windows(vec![column], move |bars| vec![compute(bars)])
    }

    pub(super) fn windows(
        columns: Vec<FeatureColumn>,
        compute: impl Fn(Bars<'_>) -> Vec<Vec<f64>> + Send + Sync + 'static,
    ) -> Self {
        Family {
            columns,
            compute: Compute::Windows(Box::new(compute)),
        }
    }

    pub(super) fn recurrence<State>(
        columns: Vec<FeatureColumn>,
        start: impl Fn() -> State + Send + Sync + 'static,
    ) -> Self
    where
        State: FnMut(Bar, &mut [f64]) + Send + 'static,
    {
        Family {
            columns,
            compute: Compute::Recurrence(Box::new(move || Box::new(start()))),
        }
    }

    /// Bars that a window needs for its last row.
    fn lookback_rows(&self) -> usize {
        self.columns
            .iter()
            .map(|column| column.warm_up_rows + 1)
            .max()
            .unwrap_or(0)
    }

    fn batch(&self, bars: Bars<'_>) -> Vec<Vec<f64>> {
        let mut columns = match &self.compute {
            Compute::Windows(compute) => compute(bars),
            Compute::Recurrence(start) => {
                let mut state = start();
                let mut columns = vec![Vec::with_capacity(bars.len()); self.columns.len()];
                let mut row = vec![f64::NAN; self.columns.len()];
                for bar in bars.iter() {
                    state(bar, &mut row);
                    columns
                        .iter_mut()
                        .zip(&row)
                        .for_each(|(column, x)| column.push(*x));
                }
                columns
            }
        };
        assert_eq!(
            columns.len(),
            self.columns.len(),
            "a family computes the columns that it names"
        );
        columns
            .iter_mut()
            .flatten()
            .for_each(|x| *x = finite_or_nan(*x));
        columns
    }
}

/// One NaN for everything that is no number.
fn finite_or_nan(x: f64) -> f64 {
    if x.is_finite() { x } else { f64::NAN }
}

/// A parameter of a feature set that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FeatureError {
    /// A number out of its range.
    #[error("`{parameter}` is {value}, expected {expected}")]
    OutOfRange {
        /// Path of the parameter below `with`.
        parameter: &'static str,
        /// What was given.
        value: String,
        /// The range, in words.
        expected: String,
    },
    /// Two columns with one name.
    #[error("two features are called `{name}`; give its group different periods")]
    SameName {
        /// The name.
        name: String,
    },
}

/// A feature set compiled from its parameters.
///
/// `batch` and `stream` compute the same values to the bit, so that a server computes what training saw.
#[derive(Clone)]
pub struct FeaturePlan {
    parameters: FeatureParameters,
    columns: Vec<FeatureColumn>,
    families: Arc<[Family]>,
}

impl FeaturePlan {
    /// The plan of these parameters.
    pub fn compile(parameters: &FeatureParameters) -> Result<FeaturePlan, FeatureError> {
        let families: Arc<[Family]> = match parameters.set {
            FeatureSet::NatronV2 => natron_v2::families(parameters)?.into(),
        };
        let columns: Vec<FeatureColumn> = families
            .iter()
            .flat_map(|family| family.columns.iter().cloned())
            .collect();
        let mut names = BTreeSet::new();
        for column in &columns {
            if !names.insert(column.name.as_str()) {
                return Err(FeatureError::SameName {
                    name: column.name.clone(),
                });
            }
        }
        Ok(FeaturePlan {
            parameters: parameters.clone(),
            columns,
            families,
        })
    }

    /// What the plan was compiled from.
    pub fn parameters(&self) -> &FeatureParameters {
        &self.parameters
    }

    /// The columns in the order of `batch` and of a stream's rows.
    pub fn columns(&self) -> &[FeatureColumn] {
        &self.columns
    }

    /// Rows at the start of a series in which some column has no value.
    pub fn warm_up_rows(&self) -> usize {
        self.columns
            .iter()
            .map(|column| column.warm_up_rows)
            .max()
            .unwrap_or(0)
    }

    /// Bars before a row that decide its values; see [`FeatureColumn::memory_rows`].
    pub fn memory_rows(&self) -> usize {
        self.columns
            .iter()
            .map(|column| column.memory_rows)
            .max()
            .unwrap_or(0)
    }

    /// Every column of a series, in the order of [`FeaturePlan::columns`]. Undefined values are NaN, never infinite.
    ///
    /// Families are computed in parallel, each by one thread: the bits do not depend on how many there are.
    pub fn batch(&self, bars: Bars<'_>) -> Vec<Vec<f64>> {
        let families: Vec<Vec<Vec<f64>>> = self
            .families
            .par_iter()
            .map(|family| family.batch(bars))
            .collect();
        families.into_iter().flatten().collect()
    }

    /// A computation that takes bars one by one, from the start of a series.
    pub fn stream(&self) -> FeatureStream {
        let states = self.families.iter().map(|family| match &family.compute {
            Compute::Windows(_) => None,
            Compute::Recurrence(start) => Some(start()),
        });
        FeatureStream {
            states: states.collect(),
            families: Arc::clone(&self.families),
            kept_rows: self
                .families
                .iter()
                .map(Family::lookback_rows)
                .max()
                .unwrap_or(0),
            recent: BarColumns::default(),
            row: vec![f64::NAN; self.columns.len()],
        }
    }
}

impl std::fmt::Debug for FeaturePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeaturePlan")
            .field("parameters", &self.parameters)
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

/// Features of a series whose bars arrive one by one.
pub struct FeatureStream {
    families: Arc<[Family]>,
    /// The state of each family that is a recurrence.
    states: Vec<Option<OnBars>>,
    /// Bars that the longest window needs.
    kept_rows: usize,
    recent: BarColumns,
    row: Vec<f64>,
}

impl FeatureStream {
    /// The row of the newest bar: what [`FeaturePlan::batch`] of all bars so far has in its last row.
    pub fn update(&mut self, bar: Bar) -> &[f64] {
        self.recent.push(bar);
        self.recent.keep_last(self.kept_rows);
        let mut row = self.row.as_mut_slice();
        for (family, state) in self.families.iter().zip(&mut self.states) {
            let (own, rest) = row.split_at_mut(family.columns.len());
            row = rest;
            if let Some(state) = state {
                state(bar, own);
                for x in own {
                    *x = finite_or_nan(*x);
                }
            } else {
                let columns = family.batch(self.recent.view().tail(family.lookback_rows()));
                for (x, column) in own.iter_mut().zip(&columns) {
                    *x = column.last().copied().unwrap_or(f64::NAN);
                }
            }
        }
        &self.row
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixtures::{golden_bars, market, shared};
    use super::*;

    fn plan() -> FeaturePlan {
        FeaturePlan::compile(&FeatureParameters::of(FeatureSet::NatronV2)).unwrap()
    }

    fn bits(values: &[f64]) -> Vec<u64> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    /// Every price and volume from row `cut` on, times `factor`.
    fn with_another_future(bars: &BarColumns, cut: usize, factor: f64) -> BarColumns {
        let mut bars = bars.clone();
        for column in [
            &mut bars.open,
            &mut bars.high,
            &mut bars.low,
            &mut bars.close,
            &mut bars.volume,
        ] {
            column[cut..].iter_mut().for_each(|x| *x *= factor);
        }
        bars
    }

    fn assert_same_past(plan: &FeaturePlan, before: &[Vec<f64>], after: &[Vec<f64>], cut: usize) {
        for (column, (before, after)) in plan.columns().iter().zip(before.iter().zip(after)) {
            assert_eq!(
                bits(&before[..cut]),
                bits(&after[..cut]),
                "{} before row {cut}",
                column.name
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

        #[test]
        fn no_column_ever_sees_the_future(seed in 1_u64..1_000_000, cut in 1_usize..260, factor in 1.001_f64..1.5) {
            let (plan, bars) = (plan(), market(260, seed));
            let before = plan.batch(bars.view());

            assert_same_past(&plan, &before, &plan.batch(bars.view().slice(0..cut)), cut);
            for factor in [factor, 1.0 / factor, f64::NAN] {
                let changed = with_another_future(&bars, cut, factor);
                assert_same_past(&plan, &before, &plan.batch(changed.view()), cut);
            }
        }
    }

    #[test]
    fn no_column_sees_the_next_bars_at_any_of_many_cuts() {
        // A flag may change at few rows only: neighbouring cuts find what one cut misses.
        let (plan, bars) = (plan(), market(320, 77));
        let before = plan.batch(bars.view());

        for cut in (300..320).chain([1, 2, 50, 101, 200]) {
            for factor in [1.02, 0.98] {
                let changed = with_another_future(&bars, cut, factor);
                let shorter = changed.view().slice(0..(cut + 12).min(320));
                assert_same_past(&plan, &before, &plan.batch(shorter), cut);
            }
        }
    }

    #[test]
    fn a_stream_has_the_bits_of_a_batch() {
        let (plan, mut bars) = (plan(), market(600, 9));
        // A missing close starts the recurrences anew in both.
        bars.close[250] = f64::NAN;
        let batch = plan.batch(bars.view());

        let mut stream = plan.stream();
        for (t, bar) in bars.view().iter().enumerate() {
            let row = stream.update(bar);
            for ((column, values), x) in plan.columns().iter().zip(&batch).zip(row) {
                assert_eq!(values[t].to_bits(), x.to_bits(), "{}, row {t}", column.name);
            }
        }
    }

    #[test]
    fn a_later_start_agrees_after_the_memory() {
        let mut markets = vec![market(1700, 4), market(1700, 5)];
        if let Some(shared) = shared() {
            markets.push(golden_bars(&shared).view().slice(0..1700).iter().collect());
        }
        let plan = plan();
        for bars in markets {
            let early = plan.batch(bars.view());
            for start in [1, 61, 400, 977] {
                let late = plan.batch(bars.view().slice(start..1700));
                for ((column, early), late) in plan.columns().iter().zip(&early).zip(&late) {
                    let scale = early
                        .iter()
                        .filter(|x| !x.is_nan())
                        .fold(0.0_f64, |scale, x| scale.max(x.abs()));
                    let is_window = column.memory_rows == column.warm_up_rows;
                    for t in column.memory_rows..late.len() {
                        let (a, b) = (early[start + t], late[t]);
                        assert_eq!(
                            a.is_nan(),
                            b.is_nan(),
                            "{}, row {t} after a start at {start}",
                            column.name
                        );
                        let is_same = if is_window || column.unit == Unit::Flag {
                            a.is_nan() || a.to_bits() == b.to_bits()
                        } else {
                            a.is_nan() || (a - b).abs() <= 1e-12 * scale
                        };
                        assert!(
                            is_same,
                            "{}, row {t} after a start at {start}: {a} against {b}",
                            column.name
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_motionless_market_leaves_ratios_of_nothing_undefined() {
        let plan = plan();
        let price = |volume: f64| {
            let bar = Bar {
                ts_ns: 0,
                open: 0.1,
                high: 0.1,
                low: 0.1,
                close: 0.1,
                volume,
            };
            let bars: BarColumns = std::iter::repeat_n(bar, 700).collect();
            let batch = plan.batch(bars.view());
            let undefined = plan
                .columns()
                .iter()
                .zip(batch)
                .filter(|(_, values)| values[699].is_nan());
            undefined
                .map(|(column, _)| column.name.clone())
                .collect::<Vec<_>>()
        };
        let profile = [
            "vp_96_20_poc",
            "vp_96_20_vah",
            "vp_96_20_val",
            "price_to_vp_96_20_poc",
            "price_to_vp_96_20_vah",
            "price_to_vp_96_20_val",
            "vp_96_20_balance",
            "vp_96_20_poc_share",
            "vp_96_20_entropy",
        ];
        let moving = [
            "skew_20",
            "kurt_20",
            "zscore_20",
            "hurst_100",
            "autocorr_20_1",
            "autocorr_20_5",
        ];

        let traded = [
            &[
                "atr_ratio_7_14",
                "bbands_20_2_pctb",
                "chop_14",
                "volume_z_20",
            ],
            &moving[..],
            &profile,
        ]
        .concat();
        assert_eq!(price(7.0), traded);
        let volume = ["volume_ratio_20", "volume_z_20", "cmf_20", "vwap_roll_20"];
        let untraded = [
            &["atr_ratio_7_14", "bbands_20_2_pctb", "chop_14"],
            &volume[..],
            &moving,
            &profile,
        ]
        .concat();
        assert_eq!(price(0.0), untraded);
    }

    #[test]
    fn one_bad_tick_spoils_no_more_than_its_memory() {
        let (plan, bars) = (plan(), market(1400, 21));
        let good = plan.batch(bars.view());
        for tick in [f64::NAN, 1e9] {
            let mut bad = bars.clone();
            for column in [
                &mut bad.open,
                &mut bad.high,
                &mut bad.low,
                &mut bad.close,
                &mut bad.volume,
            ] {
                column[700] = tick;
            }

            for ((column, good), bad) in
                plan.columns().iter().zip(&good).zip(plan.batch(bad.view()))
            {
                assert_eq!(
                    bits(&good[..700]),
                    bits(&bad[..700]),
                    "{} before the tick",
                    column.name
                );
                assert_eq!(
                    bad[700].is_nan(),
                    tick.is_nan(),
                    "{} at the tick",
                    column.name
                );
                if column.memory_rows == column.warm_up_rows {
                    let after = 701 + column.memory_rows;
                    assert_eq!(
                        bits(&good[after..]),
                        bits(&bad[after..]),
                        "{} after the tick",
                        column.name
                    );
                } else if tick.is_nan() {
                    let scale = good
                        .iter()
                        .filter(|x| !x.is_nan())
                        .fold(0.0_f64, |scale, x| scale.max(x.abs()));
                    for t in 701 + column.memory_rows..1400 {
                        let is_close =
                            good[t].is_nan() || (good[t] - bad[t]).abs() <= 1e-12 * scale;
                        assert!(
                            is_close,
                            "{}, row {t}: {} against {}",
                            column.name, good[t], bad[t]
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn names_the_parameter_it_cannot_use() {
        let mut parameters = FeatureParameters::of(FeatureSet::NatronV2);
        parameters.momentum.cci_window = 1;
        let error = FeaturePlan::compile(&parameters).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`momentum.cci_window` is 1, expected 2 to 10000 bars"
        );

        let mut parameters = FeatureParameters::of(FeatureSet::NatronV2);
        parameters.momentum.rsi_periods = [9, 9];
        let error = FeaturePlan::compile(&parameters).unwrap_err();
        assert_eq!(
            error.to_string(),
            "two features are called `rsi_9`; give its group different periods"
        );
    }

    #[test]
    fn other_windows_give_other_names() {
        let mut parameters = FeatureParameters::of(FeatureSet::NatronV2);
        parameters.moving_averages.sma_windows = [3, 6, 12, 24];
        parameters.volatility.bollinger_deviations = 2.5;
        let plan = FeaturePlan::compile(&parameters).unwrap();

        let names: Vec<&str> = plan
            .columns()
            .iter()
            .map(|column| column.name.as_str())
            .collect();

        assert_eq!(names.len(), 98);
        for name in [
            "sma_24",
            "cross_sma_6_12",
            "price_to_sma_24",
            "bbands_20_2.5_upper",
        ] {
            assert!(names.contains(&name), "no {name}");
        }
    }
}
