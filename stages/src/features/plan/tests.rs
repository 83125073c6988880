use natron_kernels::bars::Bar;
use proptest::prelude::*;
use serde_json::json;

use super::super::fixtures::{golden_bars, market, read_csv, shared};
use super::*;

fn plan() -> FeaturePlan {
    FeaturePlan::compile(&FeatureParameters::of(FeatureSet::NatronV2)).unwrap()
}

fn of_json(parameters: serde_json::Value) -> FeaturePlan {
    let parameters: FeatureParameters = serde_json::from_value(parameters).unwrap();
    FeaturePlan::compile(&parameters).unwrap()
}

/// Every set, and features of all kinds of a pipeline's own.
fn plans() -> Vec<(&'static str, FeaturePlan)> {
    let sets = [
        ("natron_v2", FeatureSet::NatronV2),
        ("lstm_transformer", FeatureSet::LstmTransformer),
        ("tcn", FeatureSet::Tcn),
        ("hybrid_v11", FeatureSet::HybridV11),
        ("hybrid_v13", FeatureSet::HybridV13),
        ("hybrid_v15", FeatureSet::HybridV15),
        ("bounce_veto", FeatureSet::BounceVeto),
        ("golden", FeatureSet::Golden),
    ];
    let of = |set| FeaturePlan::compile(&FeatureParameters::of(set)).unwrap();
    let mut plans: Vec<_> = sets
        .into_iter()
        .map(|(name, set)| (name, of(set)))
        .collect();
    let own = json!({
        "columns": {
            "fast": "ema(close, 12) - ema(close, 26)",
            "cross": "fast > 0 and not (fast[1] > 0)",
            "slow": "at(\"15m\", rsi(close, 5)) + at(\"1h\", spread)",
            "vix_change": "of(\"vix\", close / close[1] - 1)",
            "vix_slow": "of(\"vix\", at(\"30m\", sma(futures, 3)) - futures)",
            "beta": "corr(return(close), of(\"vix\", return(close)), 20)",
            "wide": "spread > sma(spread, 10)",
        },
    });
    plans.push(("own", of_json(own)));
    let longer = json!({ "set": "tcn", "timeframes": ["5m", "1h"], "drop": ["rsi_14"] });
    plans.push(("longer", of_json(longer)));
    plans
}

/// Candles, the markets that a plan reads, and the further columns of all of them.
struct World {
    candles: BarColumns,
    markets: BTreeMap<String, BarColumns>,
}

impl World {
    fn of(plan: &FeaturePlan, n_rows: usize, seed: u64) -> Self {
        let markets = plan.markets().enumerate().map(|(i, name)| {
            let mut bars = market(n_rows, seed + 100 + i as u64);
            // Their bars end at other times, and some are missing.
            bars = bars
                .view()
                .iter()
                .enumerate()
                .filter(|(t, _)| (t + i) % 7 != 3)
                .map(|(_, bar)| Bar {
                    ts_ns: bar.ts_ns + 20_000_000_000 * i as i64,
                    ..bar
                })
                .collect();
            (name.to_owned(), bars)
        });
        Self {
            markets: markets.collect(),
            candles: market(n_rows, seed),
        }
    }

    /// A further column: made of the bars themselves, so that it changes with them.
    fn further(bar: Bar, i: usize) -> f64 {
        (bar.high - bar.low) * (i + 2) as f64 + bar.close * 0.01
    }

    fn batch(&self, plan: &FeaturePlan) -> Vec<Vec<f64>> {
        let Ok(columns) = self.batch_on(plan, &Processor);
        columns
    }

    fn batch_on<C: Computer>(
        &self,
        plan: &FeaturePlan,
        computer: &C,
    ) -> Result<Vec<Vec<f64>>, C::Error> {
        let further = |name: &str, bars: &BarColumns| -> Vec<Vec<f64>> {
            let columns = plan.further_columns(name).iter().enumerate();
            columns
                .map(|(i, _)| {
                    bars.view()
                        .iter()
                        .map(|bar| Self::further(bar, i))
                        .collect()
                })
                .collect()
        };
        let all: BTreeMap<&str, Vec<Vec<f64>>> = self
            .markets
            .iter()
            .map(|(name, bars)| (name.as_str(), further(name, bars)))
            .collect();
        let slices: BTreeMap<&str, Vec<&[f64]>> = all
            .iter()
            .map(|(name, columns)| (*name, columns.iter().map(Vec::as_slice).collect()))
            .collect();
        let markets = self.markets.iter().map(|(name, bars)| {
            let market = Market {
                bars: bars.view(),
                columns: &slices[name.as_str()],
            };
            (name.clone(), market)
        });
        let own = further("", &self.candles);
        let own: Vec<&[f64]> = own.iter().map(Vec::as_slice).collect();
        let candles = Market {
            bars: self.candles.view(),
            columns: &own,
        };
        plan.batch_on(computer, candles, &markets.collect())
    }

    /// The same market up to a row, and what its markets know by then.
    fn up_to(&self, cut: usize) -> Self {
        let end = self.candles.ts_ns[cut - 1];
        let before =
            |bars: &BarColumns| bars.view().iter().filter(|bar| bar.ts_ns <= end).collect();
        Self {
            candles: before(&self.candles),
            markets: self
                .markets
                .iter()
                .map(|(name, bars)| (name.clone(), before(bars)))
                .collect(),
        }
    }

    /// The same market with other prices and volumes after the row before `cut`.
    fn with_another_future(&self, cut: usize, factor: f64) -> Self {
        let end = self.candles.ts_ns[cut - 1];
        let changed = |bars: &BarColumns| {
            let cut = bars.ts_ns.iter().take_while(|ts_ns| **ts_ns <= end).count();
            with_another_future(bars, cut, factor)
        };
        Self {
            candles: changed(&self.candles),
            markets: self
                .markets
                .iter()
                .map(|(name, bars)| (name.clone(), changed(bars)))
                .collect(),
        }
    }
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
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn no_column_ever_sees_the_future(seed in 1_u64..1_000_000, cut in 1_usize..260, factor in 1.001_f64..1.5) {
        for (_, plan) in plans() {
            let world = World::of(&plan, 260, seed);
            let before = world.batch(&plan);

            assert_same_past(&plan, &before, &world.up_to(cut).batch(&plan), cut);
            for factor in [factor, 1.0 / factor, f64::NAN] {
                let changed = world.with_another_future(cut, factor);
                assert_same_past(&plan, &before, &changed.batch(&plan), cut);
            }
        }
    }
}

#[test]
fn no_column_sees_the_next_bars_at_any_of_many_cuts() {
    // A flag may change at few rows only: neighbouring cuts find what one cut misses.
    for (_, plan) in plans() {
        let world = World::of(&plan, 320, 77);
        let before = world.batch(&plan);

        for cut in (300..320).chain([1, 2, 50, 101, 200]) {
            for factor in [1.02, 0.98] {
                let changed = world.with_another_future(cut, factor);
                let changed = changed.up_to((cut + 12).min(320));
                assert_same_past(&plan, &before, &changed.batch(&plan), cut);
            }
        }
    }
}

#[test]
fn a_stream_has_the_bits_of_a_batch_also_when_it_is_taken_up_again() {
    for (set, plan) in plans() {
        let mut world = World::of(&plan, 600, 9);
        // A missing close starts the recurrences anew in both.
        world.candles.close[250] = f64::NAN;
        let batch = world.batch(&plan);
        let further = |name: &str, bar: Bar| -> Vec<f64> {
            let columns = 0..plan.further_columns(name).len();
            columns.map(|i| World::further(bar, i)).collect()
        };

        let mut stream = plan.stream();
        let mut others: Vec<(&String, std::vec::IntoIter<Bar>)> = world
            .markets
            .iter()
            .map(|(name, bars)| (name, bars.view().iter().collect::<Vec<_>>().into_iter()))
            .collect();
        for (t, bar) in world.candles.view().iter().enumerate() {
            for (name, others) in &mut others {
                // Bars of other markets may come early.
                let early = bar.ts_ns + 180_000_000_000;
                let due = others
                    .as_slice()
                    .iter()
                    .take_while(|other| other.ts_ns <= early)
                    .count();
                for other in others.take(due) {
                    stream.update_market(name, other, &further(name, other));
                }
            }
            let row = stream.update_with(bar, &further("", bar));
            for ((column, values), x) in plan.columns().iter().zip(&batch).zip(row) {
                assert_eq!(
                    values[t].to_bits(),
                    x.to_bits(),
                    "{set}: {}, row {t}: {} against {x}",
                    column.name,
                    values[t]
                );
            }
            if t == 303 {
                let words = plan.state(&mut stream);
                stream = plan.resume(&words).unwrap();
                assert!(plan.resume(&words[..words.len() - 1]).is_none());
                assert!(plan.resume(&words[1..]).is_none());
            }
        }
    }
}

#[test]
fn longer_bars_and_other_markets_count_from_their_end_on() {
    let plan = of_json(json!({
        "columns": [
            { "name": "slow", "expression": "at(\"5m\", close)" },
            { "name": "range", "expression": "at(\"5m\", high - low)" },
            { "name": "other", "expression": "of(\"other\", close)" },
        ],
    }));
    let bars = market(60, 5);
    // The other market's bars end half a minute after every third candle.
    let other: BarColumns = bars
        .view()
        .iter()
        .step_by(3)
        .map(|bar| Bar {
            ts_ns: bar.ts_ns + 30_000_000_000,
            ..bar
        })
        .collect();
    let markets = BTreeMap::from([(
        "other".to_owned(),
        Market {
            bars: other.view(),
            columns: &[],
        },
    )]);
    let candles = Market {
        bars: bars.view(),
        columns: &[],
    };
    let found: Vec<Vec<f64>> = plan.batch_of(candles, &markets);

    // Candle `t` ends at minute `t`, so that the first longer bar is the first candle alone.
    for t in 0..60 {
        let end = t / 5 * 5;
        assert_eq!(found[0][t].to_bits(), bars.close[end].to_bits(), "row {t}");
        let first = (end + 1).saturating_sub(5);
        let high = bars.high[first..=end]
            .iter()
            .fold(f64::MIN, |a, b| a.max(*b));
        let low = bars.low[first..=end]
            .iter()
            .fold(f64::MAX, |a, b| a.min(*b));
        assert_eq!(found[1][t].to_bits(), (high - low).to_bits(), "row {t}");
        match t.checked_sub(1) {
            Some(before) => {
                let last = bars.close[before / 3 * 3];
                assert_eq!(found[2][t].to_bits(), last.to_bits(), "row {t}");
            }
            None => assert!(found[2][t].is_nan()),
        }
    }
}

#[test]
fn every_column_of_the_golden_set_has_its_reference_values() {
    let Some(shared) = shared() else { return };
    let plan = FeaturePlan::compile(&FeatureParameters::of(FeatureSet::Golden)).unwrap();
    let bars = golden_bars(&shared);
    let golden = read_csv(&shared.join("golden/indicators.csv"), |_| true);
    let mut wrong = Vec::new();
    for (column, values) in plan.columns().iter().zip(plan.batch(bars.view())) {
        let expected = &golden[&column.name];
        let size = match column.unit.as_str() {
            "percent" => 100.0,
            "price" | "ratio" | "standard deviations" | "nats" => 1.0,
            "flag" | "pattern" => 0.0,
            // Running totals.
            _ => 1e6,
        };
        let is_far = |(x, y): (&f64, &f64)| {
            let allowed = 1e-9 * x.abs().max(y.abs()) + 1e-12 * size;
            x.is_nan() != y.is_nan() || (x - y).abs() > allowed
        };
        let far: Vec<usize> = values
            .iter()
            .zip(expected)
            .enumerate()
            .filter(|(_, pair)| is_far(*pair))
            .map(|(t, _)| t)
            .collect();
        // The edges of price bins and equal ranks are decided by rounding.
        let allowed = match column.name.as_str() {
            name if name.starts_with("vp_") => values.len() / 200,
            "bb1_bandwidth_pctrank_100" => 1,
            _ => 0,
        };
        if far.len() > allowed {
            let t = far[0];
            wrong.push(format!(
                "{} ({}): {} rows, first {t}: {} against {}",
                column.name,
                column.unit,
                far.len(),
                values[t],
                expected[t]
            ));
        }
    }
    assert_eq!(
        plan.columns().len(),
        golden.len() - 1,
        "all columns but the row's number"
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
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
                let memory = column.memory.unwrap().rows;
                let is_window = memory == column.warm_up.rows;
                for t in memory..late.len() {
                    let (a, b) = (early[start + t], late[t]);
                    assert_eq!(
                        a.is_nan(),
                        b.is_nan(),
                        "{}, row {t} after a start at {start}",
                        column.name
                    );
                    let is_same = if is_window || column.unit == "flag" {
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

        for ((column, good), bad) in plan.columns().iter().zip(&good).zip(plan.batch(bad.view())) {
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
            if column.memory.unwrap() == column.warm_up {
                let after = 701 + column.memory.unwrap().rows;
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
                for t in 701 + column.memory.unwrap().rows..1400 {
                    let is_close = good[t].is_nan() || (good[t] - bad[t]).abs() <= 1e-12 * scale;
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

#[test]
fn one_missing_bar_spoils_no_column_of_any_set_beyond_its_memory() {
    for (set, plan) in plans() {
        let world = World::of(&plan, 1400, 21);
        let good = world.batch(&plan);
        let mut bad = World::of(&plan, 1400, 21);
        for column in [
            &mut bad.candles.open,
            &mut bad.candles.high,
            &mut bad.candles.low,
            &mut bad.candles.close,
            &mut bad.candles.volume,
        ] {
            column[700] = f64::NAN;
        }
        for ((column, good), bad) in plan.columns().iter().zip(&good).zip(bad.batch(&plan)) {
            let name = format!("{set}: {}", column.name);
            assert_eq!(
                bits(&good[..700]),
                bits(&bad[..700]),
                "{name} before the bar"
            );
            let Some(memory) = column
                .memory
                .and_then(|memory| memory.rows(Some(60_000_000_000)))
            else {
                continue;
            };
            let scale = good
                .iter()
                .filter(|x| !x.is_nan())
                .fold(0.0_f64, |a, x| a.max(x.abs()));
            for t in (701 + memory).min(1400)..1400 {
                let (a, b) = (good[t], bad[t]);
                assert!(
                    (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-12 * scale,
                    "{name}, row {t}: {a} against {b}"
                );
            }
        }
    }
}

fn refusal(
    parameters: serde_json::Value,
) -> (String, String, String, Option<std::ops::Range<usize>>) {
    let parameters: FeatureParameters = serde_json::from_value(parameters).unwrap();
    let known = Known {
        columns: BTreeMap::from([(String::new(), vec!["spread".to_owned()])]),
    };
    match FeaturePlan::compile_for(&parameters, &known).unwrap_err() {
        FeatureError::Refused {
            parameter,
            message,
            help,
            at,
        } => (parameter, message, help, at),
        other => panic!("{other}"),
    }
}

#[test]
fn mistakes_are_placed() {
    let at = |parameters: serde_json::Value| {
        let (parameter, message, _, at) = refusal(parameters);
        (parameter, message, at)
    };
    let place = |parameter: &str, message: &str, at: Option<std::ops::Range<usize>>| {
        (parameter.to_owned(), message.to_owned(), at)
    };
    assert_eq!(at(json!({})), place("", "there are no features", None));
    assert_eq!(
        at(json!({ "columns": { "x": "close + clsoe" } })),
        place(
            "columns.x",
            "`clsoe` is neither a column of the candles nor a feature",
            Some(8..13)
        )
    );
    assert_eq!(
        at(json!({ "columns": [{ "name": "x", "expression": "rsi(close, 0)" }] })).0,
        "columns.0.expression"
    );
    assert_eq!(
        at(json!({ "columns": { "x": "part" }, "let": { "part": "1 +" } })),
        place("let.part", "a value is missing at the end", Some(3..3))
    );
    assert_eq!(
        at(json!({ "columns": { "x": "close" }, "let": { "unused": "sma(close)" } })).0,
        "let.unused"
    );
    assert_eq!(
        at(json!({ "columns": { "x": "rsi_14", "close": "1 + open" } })),
        place(
            "columns.close",
            "`close` means something else in an expression",
            None
        )
    );
    assert_eq!(
        at(json!({ "set": "natron_v2", "columns": { "rsi_14": "close" } })),
        place("columns.rsi_14", "`rsi_14` is a feature of the set", None)
    );
    assert_eq!(
        at(json!({ "columns": { "a b": "close" } })),
        place("columns.a b", "`a b` is no name of a feature", None)
    );
    assert_eq!(
        at(json!({ "set": "tcn", "drop": ["rsi_41"] })),
        place("drop.0", "there is no feature `rsi_41`", None)
    );
    assert_eq!(
        refusal(json!({ "set": "tcn", "only": ["rsi_15"] })).2,
        "did you mean `rsi_14`?"
    );
    assert_eq!(
        at(json!({ "set": "tcn", "trend": { "adx_period": 7 } })),
        place("trend", "`trend` belongs to the set `natron_v2`", None)
    );
    assert_eq!(
        at(json!({ "set": "tcn", "timeframes": ["4x"] })),
        place(
            "timeframes.0",
            "`4x` is no timeframe up to four weeks",
            None
        )
    );
    assert_eq!(
        at(json!({ "columns": { "x": "close" }, "timeframes": ["4h"] })).0,
        "timeframes"
    );
}

#[test]
fn sets_have_their_columns_and_may_be_chosen_from_and_added_to() {
    let counts: Vec<(&str, usize)> = plans()
        .iter()
        .map(|(set, plan)| (*set, plan.columns().len()))
        .collect();
    assert_eq!(
        counts,
        [
            ("natron_v2", 98),
            ("lstm_transformer", 30),
            ("tcn", 12),
            ("hybrid_v11", 12),
            ("hybrid_v13", 22),
            ("hybrid_v15", 24),
            ("bounce_veto", 27),
            ("golden", 234),
            ("own", 7),
            ("longer", 35),
        ]
    );
    let plan = of_json(json!({
        "set": "natron_v2",
        "only": ["sma_5", "mine", "atr_14"],
        "columns": { "mine": { "expression": "rsi_14 / 100 - 0.5", "unit": "share", "description": "mine" } },
    }));
    let names: Vec<&str> = plan
        .columns()
        .iter()
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(names, ["sma_5", "atr_14", "mine"]);
    assert_eq!(
        (
            plan.columns()[2].unit.as_str(),
            plan.columns()[2].description.as_str()
        ),
        ("share", "mine")
    );
    assert_eq!(plan.columns()[2].warm_up.rows, 14);

    let hybrid = of_json(json!({ "set": "hybrid_v15" }));
    let markets: Vec<&str> = hybrid.markets().collect();
    assert_eq!(markets, ["rates", "vix", "xlk", "xlp", "xlu", "xly"]);
    assert_eq!(
        hybrid.bar_columns("vix").into_iter().collect::<Vec<_>>(),
        ["close"]
    );
}

#[test]
fn units_are_those_that_the_columns_always_had() {
    let units: BTreeMap<String, String> = plan()
        .columns()
        .iter()
        .map(|column| (column.name.clone(), column.unit.clone()))
        .collect();
    for (unit, names) in [
        (
            "price",
            &[
                "sma_5",
                "macd_hist_diff_1",
                "atr_14",
                "bbands_20_2_upper",
                "kc_20_14_2_lower",
                "std_10",
                "vwap_roll_20",
                "vp_96_20_poc",
            ][..],
        ),
        (
            "ratio",
            &[
                "sma_20_slope_5",
                "price_to_sma_20",
                "cci_20",
                "atr_ratio_7_14",
                "bbands_20_2_width",
                "hist_vol_20",
                "volume_ratio_20",
                "cmf_20",
                "return_1",
                "ffd_04_100",
                "skew_20",
                "dist_low_20",
                "ob_dist_10",
                "vp_96_20_poc_share",
            ],
        ),
        (
            "percent",
            &[
                "rsi_14",
                "roc_10",
                "stoch_14_3_3_k",
                "willr_14",
                "chop_14",
                "mfi_14",
                "adx_14",
                "aroon_25_osc",
            ],
        ),
        ("volume", &["volume_sma_10", "obv_sum_20", "vpt_sum_20"]),
        (
            "flag",
            &[
                "cross_sma_5_10",
                "is_doji",
                "gap_up",
                "swing_high_3_3",
                "bos_up_10",
                "choch_3_3",
            ],
        ),
        ("standard deviations", &["volume_z_20", "zscore_20"]),
        ("nats", &["vp_96_20_entropy", "entropy_vol_20_10"]),
    ] {
        for name in names {
            assert_eq!(units[*name], unit, "{name}");
        }
    }
    assert!(units.values().all(|unit| !unit.is_empty()), "{units:?}");
}

/// A computer that fails at one of its programs.
struct Fails {
    at: usize,
    n_programs: std::cell::Cell<usize>,
}

impl Computer for Fails {
    type Error = usize;

    fn compute<T: Word>(
        &self,
        program: &Program,
        bars: Bars<'_>,
        columns: &[&[f64]],
    ) -> Result<Vec<Vec<T>>, usize> {
        let n = self.n_programs.replace(self.n_programs.get() + 1);
        if n == self.at {
            return Err(n);
        }
        let Ok(columns) = Processor.compute(program, bars, columns);
        Ok(columns)
    }
}

#[test]
fn every_program_of_a_plan_goes_to_the_computer_and_its_failure_comes_back() {
    for (name, plan) in plans() {
        let world = World::of(&plan, 80, 5);
        let n_programs = plan.programs().count();

        for at in 0..=n_programs {
            let computer = Fails {
                at,
                n_programs: std::cell::Cell::new(0),
            };
            let made = world.batch_on(&plan, &computer);

            if at < n_programs {
                assert_eq!(made.unwrap_err(), at, "{name}");
            } else {
                assert_eq!(computer.n_programs.get(), n_programs, "{name}");
                let made = made.unwrap();
                let expected = world.batch(&plan);
                assert!(
                    made.iter().zip(&expected).all(|(a, b)| bits(a) == bits(b)),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn a_gpu_can_compute_every_set() {
    for (name, plan) in plans() {
        let refused = super::super::device::check_twins(&plan);

        assert!(refused.is_ok(), "{name}: {refused:?}");
    }
}
