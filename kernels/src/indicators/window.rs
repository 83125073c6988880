//! Windows over a fixed number of rows: sums, means, extremes, moments, co-moments, lines, and the indicators made of them.
//!
//! All of them grow by doubling, see [`tree`]: no running sum carries an error from row to row, a bad tick spoils the
//! windows that hold it and no other, and a window of equal values has exactly no spread.

mod lanes;
mod registers;
mod tree;

pub(super) mod candle_means;
pub(super) mod comoments;
pub(super) mod deviation;
pub(super) mod extremes;
pub(super) mod moments;
pub(super) mod oscillators;
pub(super) mod ranges;
pub(super) mod regression;
pub(super) mod returns;
pub(super) mod sums;
pub(super) mod volume;

use super::catalog::{Parameter, Range};

/// The longest window that may be asked for.
const LONGEST: u32 = 10_000;

/// A number of rows, `least` or more.
const fn rows(name: &'static str, least: u32, default: Option<f64>) -> Parameter {
    Parameter {
        name,
        range: Range::Whole(least, LONGEST),
        default,
    }
}

/// The divisor `n - ddof` of a variance.
const fn ddof(default: f64) -> Parameter {
    Parameter {
        name: "ddof",
        range: Range::Whole(0, 1),
        default: Some(default),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            catalog::{self, Indicator},
            check::{Golden, market, program, typical, values},
            engine::Engine,
            pointwise,
            program::{Builder, Input, Series},
        },
        comoments, deviation, extremes, moments, oscillators, ranges, regression, returns, sums,
        volume,
    };
    use crate::bars::BarColumns;

    const FAMILIES: &[&[Indicator]] = &[
        comoments::INDICATORS,
        deviation::INDICATORS,
        extremes::INDICATORS,
        moments::INDICATORS,
        oscillators::INDICATORS,
        ranges::INDICATORS,
        regression::INDICATORS,
        returns::INDICATORS,
        sums::INDICATORS,
        volume::INDICATORS,
    ];

    const CLOSE: &[Input] = &[Input::Close];
    const VOLUME: &[Input] = &[Input::Volume];

    /// A column, the indicator that gives it, and the typical size of what that reads.
    type Case = (
        &'static str,
        &'static str,
        &'static [Input],
        &'static [f64],
        &'static str,
        f64,
    );

    const CASES: &[Case] = &[
        ("sma_5", "sma", CLOSE, &[5.0], "", 1.0),
        ("sma_10", "sma", CLOSE, &[10.0], "", 1.0),
        ("sma_20", "sma", CLOSE, &[20.0], "", 1.0),
        ("sma_50", "sma", CLOSE, &[50.0], "", 1.0),
        ("sma_200", "sma", CLOSE, &[200.0], "", 1.0),
        ("volume_sma_10", "sma", VOLUME, &[10.0], "", 1e3),
        ("volume_sma_20", "sma", VOLUME, &[20.0], "", 1e3),
        ("std_10", "std", CLOSE, &[10.0, 1.0], "", 1e-3),
        ("std_20", "std", CLOSE, &[20.0, 1.0], "", 1e-3),
        ("stdp_20", "std", CLOSE, &[20.0, 0.0], "", 1e-2),
        ("volume_std_10", "std", VOLUME, &[10.0, 1.0], "", 1e3),
        ("zscore_20", "zscore", CLOSE, &[20.0], "", 1.0),
        ("volume_z_20", "zscore", VOLUME, &[20.0], "", 1.0),
        ("return_1", "return", CLOSE, &[1.0], "", 1.0),
        ("return_5", "return", CLOSE, &[5.0], "", 1.0),
        ("return_10", "return", CLOSE, &[10.0], "", 1.0),
        ("return_20", "return", CLOSE, &[20.0], "", 1.0),
        ("log_return_1", "log_return", CLOSE, &[1.0], "", 1.0),
        ("log_return_5", "log_return", CLOSE, &[5.0], "", 1.0),
        ("roc_10", "roc", CLOSE, &[10.0], "", 100.0),
        ("roc_20", "roc", CLOSE, &[20.0], "", 100.0),
        (
            "bbands_20_2_upper",
            "bbands",
            CLOSE,
            &[20.0, 2.0, 0.0],
            "upper",
            1.0,
        ),
        (
            "bbands_20_2_mid",
            "bbands",
            CLOSE,
            &[20.0, 2.0, 0.0],
            "mid",
            1.0,
        ),
        (
            "bbands_20_2_lower",
            "bbands",
            CLOSE,
            &[20.0, 2.0, 0.0],
            "lower",
            1.0,
        ),
        (
            "bbands_20_2_width",
            "bbands",
            CLOSE,
            &[20.0, 2.0, 0.0],
            "width",
            1.0,
        ),
        (
            "bbands_20_2_pctb",
            "bbands",
            CLOSE,
            &[20.0, 2.0, 0.0],
            "pctb",
            1.0,
        ),
        (
            "bb1_20_2_upper",
            "bbands",
            CLOSE,
            &[20.0, 2.0, 1.0],
            "upper",
            1.0,
        ),
        (
            "bb1_20_2_lower",
            "bbands",
            CLOSE,
            &[20.0, 2.0, 1.0],
            "lower",
            1.0,
        ),
        (
            "bb1_20_2_bandwidth",
            "bbands",
            CLOSE,
            &[20.0, 2.0, 1.0],
            "width",
            1.0,
        ),
        ("realized_vol_20", "realized_vol", CLOSE, &[20.0], "", 1e-3),
        (
            "corr_cv_20",
            "corr",
            &[Input::Close, Input::Volume],
            &[20.0],
            "",
            1.0,
        ),
        ("linreg_20_slope", "linreg", CLOSE, &[20.0], "slope", 1.0),
        ("linreg_20_end", "linreg", CLOSE, &[20.0], "end", 1.0),
        ("linreg_20_r2", "linreg", CLOSE, &[20.0], "r2", 1.0),
        ("wma_20", "wma", CLOSE, &[20.0], "", 1.0),
        ("hma_20", "hma", CLOSE, &[20.0], "", 1.0),
        ("trima_20", "trima", CLOSE, &[20.0], "", 1.0),
        ("vwma_20", "vwma", CLOSE, &[20.0], "", 1.0),
        ("vwap_roll_20", "vwap", &[], &[20.0], "", 1.0),
        ("volume_ratio_20", "volume_ratio", &[], &[20.0], "", 1.0),
        ("cmf_20", "cmf", &[], &[20.0], "", 1.0),
        ("mfi_14", "mfi", &[], &[14.0], "", 100.0),
        ("mfi_plain_14", "mfi_plain", &[], &[14.0], "", 100.0),
        ("donchian_20_upper", "donchian", &[], &[20.0], "upper", 0.0),
        ("donchian_20_lower", "donchian", &[], &[20.0], "lower", 0.0),
        ("donchian_20_mid", "donchian", &[], &[20.0], "mid", 1.0),
        (
            "price_position_20",
            "price_position",
            CLOSE,
            &[20.0],
            "",
            1.0,
        ),
        (
            "stoch_14_3_3_k",
            "stoch",
            &[],
            &[14.0, 3.0, 3.0],
            "k",
            100.0,
        ),
        ("stochf_14_3_k", "stochf", &[], &[14.0, 3.0], "k", 100.0),
        (
            "stoch_14_3_3_d",
            "stoch",
            &[],
            &[14.0, 3.0, 3.0],
            "d",
            100.0,
        ),
        ("stochf_14_3_d", "stochf", &[], &[14.0, 3.0], "d", 100.0),
        ("willr_14", "willr", &[], &[14.0], "", 100.0),
        ("cci_14", "cci", &[], &[14.0], "", 1e4),
        ("cci_20", "cci", &[], &[20.0], "", 1e4),
        ("aroon_14_up", "aroon", &[], &[14.0], "up", 100.0),
        ("aroon_14_down", "aroon", &[], &[14.0], "down", 100.0),
        ("aroon_14_osc", "aroon", &[], &[14.0], "osc", 100.0),
        ("aroon_25_up", "aroon", &[], &[25.0], "up", 100.0),
        ("aroon_25_down", "aroon", &[], &[25.0], "down", 100.0),
        ("aroon_25_osc", "aroon", &[], &[25.0], "osc", 100.0),
        (
            "ultosc_7_14_28",
            "ultosc",
            &[],
            &[7.0, 14.0, 28.0],
            "",
            100.0,
        ),
        ("vortex_14_plus", "vortex", &[], &[14.0], "plus", 1.0),
        ("vortex_14_minus", "vortex", &[], &[14.0], "minus", 1.0),
        ("rsi_sma_14", "rsi_sma", CLOSE, &[14.0], "", 100.0),
        ("bop", "bop", &[], &[], "", 1.0),
        ("tr", "tr", &[], &[], "", 0.0),
        ("chop_14", "chop", &[], &[14.0], "", 100.0),
        ("parkinson_20", "parkinson", &[], &[20.0], "", 1e-3),
        ("garman_klass_20", "garman_klass", &[], &[20.0], "", 1e-3),
        (
            "rogers_satchell_20",
            "rogers_satchell",
            &[],
            &[20.0],
            "",
            1e-3,
        ),
        ("yang_zhang_20", "yang_zhang", &[], &[20.0], "", 1e-3),
        ("mom_10", "mom", CLOSE, &[10.0], "", 1.0),
    ];

    #[test]
    fn columns_are_the_reference() {
        let Some(golden) = Golden::load() else { return };
        for (column, name, series, parameters, output, size) in CASES {
            let values = values(&golden.bars, name, series, parameters, output);
            golden.assert_is(column, &values, *size);
        }
    }

    /// What an indicator gives of a series that the program makes itself.
    fn made(bars: &BarColumns, make: impl Fn(&mut Builder) -> Series) -> Vec<f64> {
        let mut builder = Builder::new();
        let series = make(&mut builder);
        let program = builder.finish(&[series]);
        Engine::batch(&program, bars.view(), &[]).remove(0)
    }

    #[test]
    fn columns_of_composed_indicators_are_the_reference() {
        let Some(golden) = Golden::load() else { return };
        let of_returns = |name: &str, parameters: &[f64]| {
            made(&golden.bars, |builder| {
                let close = builder.input(Input::Close);
                let returns = returns::simple_return(builder, close, 1);
                let indicator = catalog::find(name).unwrap();
                (indicator.expand)(builder, &[returns], parameters)[0]
            })
        };
        golden.assert_is("skew_20", &of_returns("skew", &[20.0]), 1.0);
        golden.assert_is("kurt_20", &of_returns("kurt", &[20.0]), 1.0);
        golden.assert_is("autocorr_20_1", &of_returns("autocorr", &[20.0, 1.0]), 1.0);
        golden.assert_is("autocorr_20_5", &of_returns("autocorr", &[20.0, 5.0]), 1.0);
        golden.assert_is("vol_r_5", &of_returns("std", &[5.0, 1.0]), 1e-3);
        golden.assert_is("vol_r_20", &of_returns("std", &[20.0, 1.0]), 1e-3);

        let path = made(&golden.bars, |builder| {
            let close = builder.input(Input::Close);
            let returns = returns::log_return(builder, close, 1);
            sums::sum(builder, returns, 20)
        });
        golden.assert_is("cum_log_return_20", &path, 1e-2);
        let range = made(&golden.bars, |builder| {
            let range = ranges::true_range(builder);
            sums::sma(builder, range, 14)
        });
        golden.assert_is("atr_sma_14", &range, 1e-3);
        let ratio = made(&golden.bars, |builder| {
            let close = builder.input(Input::Close);
            let mean = sums::sma(builder, close, 50);
            pointwise::div(builder, close, mean)
        });
        golden.assert_is("price_to_sma_50", &ratio, 1.0);
        let is_above = made(&golden.bars, |builder| {
            let close = builder.input(Input::Close);
            let (fast, slow) = (sums::sma(builder, close, 5), sums::sma(builder, close, 10));
            pointwise::gt(builder, fast, slow)
        });
        golden.assert_is("cross_sma_5_10", &is_above, 0.0);
    }

    /// A walk in steps of 1 / 1024 around 4, so that adding a large power of two is exact.
    fn walk() -> BarColumns {
        let mut bars = market(500, 5);
        let grid = |x: f64| 4.0 + (x * 16.0).round() / 1024.0 - 1600.0 / 1024.0;
        for column in [
            &mut bars.open,
            &mut bars.high,
            &mut bars.low,
            &mut bars.close,
        ] {
            for x in column {
                *x = grid(*x);
            }
        }
        bars
    }

    fn with_prices(bars: &BarColumns, price: impl Fn(f64) -> f64) -> BarColumns {
        let mut bars = bars.clone();
        for column in [
            &mut bars.open,
            &mut bars.high,
            &mut bars.low,
            &mut bars.close,
        ] {
            for x in column {
                *x = price(*x);
            }
        }
        bars
    }

    /// Two-pass statistics of the closes and volumes `from..=t`.
    fn plain(name: &str, x: &[f64], y: &[f64]) -> f64 {
        let n = x.len() as f64;
        let deviations = |x: &[f64]| -> Vec<f64> {
            let from_first: Vec<f64> = x.iter().map(|v| v - x[0]).collect();
            let mean = from_first.iter().sum::<f64>() / n;
            from_first.iter().map(|v| v - mean).collect()
        };
        let (dx, dy) = (deviations(x), deviations(y));
        let power = |k: i32| {
            dx.iter()
                .map(|d| (0..k).fold(1.0, |p, _| p * d))
                .sum::<f64>()
        };
        let xy: f64 = dx.iter().zip(&dy).map(|(x, y)| x * y).sum();
        let yy: f64 = dy.iter().map(|y| y * y).sum();
        let time: f64 = dx
            .iter()
            .enumerate()
            .map(|(k, d)| (k as f64 - (n - 1.0) / 2.0) * d)
            .sum();
        let size = dx.iter().map(|d| d.abs()).sum::<f64>() / n;
        match name {
            "std" => (power(2) / (n - 1.0)).sqrt(),
            "var" => power(2) / (n - 1.0),
            "zscore" => dx[dx.len() - 1] / (power(2) / (n - 1.0)).sqrt(),
            "skew" => {
                let ratio = power(3) / n / ((power(2) / n) * (power(2) / n).sqrt());
                ratio * (n * (n - 1.0)).sqrt() / (n - 2.0)
            }
            "kurt" => {
                let excess = power(4) / n / (power(2) / n * (power(2) / n)) - 3.0;
                ((n + 1.0) * excess + 6.0) * (n - 1.0) / ((n - 2.0) * (n - 3.0))
            }
            "avgdev" => size,
            "corr" => xy / (power(2) * yy).sqrt(),
            "cov" => xy / (n - 1.0),
            "beta" => xy / yy,
            "linreg" => 12.0 * time / (n * (n * n - 1.0)),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn digits_are_kept_on_large_and_on_small_prices() {
        let base = walk();
        let both: &[Input] = &[Input::Close, Input::Volume];
        let cases: &[(&str, &[Input], &[f64], &str)] = &[
            ("std", CLOSE, &[1.0], ""),
            ("var", CLOSE, &[1.0], ""),
            ("zscore", CLOSE, &[], ""),
            ("skew", CLOSE, &[], ""),
            ("kurt", CLOSE, &[], ""),
            ("avgdev", CLOSE, &[], ""),
            ("corr", both, &[], ""),
            ("cov", both, &[], ""),
            ("beta", both, &[], ""),
            ("linreg", CLOSE, &[], "slope"),
        ];
        let prices: [fn(f64) -> f64; 3] = [|x| x, |x| x + 1_048_576.0, |x| x * 1e-8];
        for price in prices {
            let bars = with_prices(&base, price);
            for n in [5, 20, 37] {
                for (name, series, rest, output) in cases {
                    let parameters = [&[n as f64], *rest].concat();
                    let column = values(&bars, name, series, &parameters, output);
                    for t in n - 1..bars.close.len() {
                        let rows = t + 1 - n..=t;
                        let expected = plain(name, &bars.close[rows.clone()], &bars.volume[rows]);
                        let scale = if matches!(*name, "skew" | "kurt" | "zscore" | "corr") {
                            1.0
                        } else {
                            // A slope or a covariance may be near 0 while its parts are not.
                            0.01 * column
                                .iter()
                                .fold(0.0, |a: f64, x| if *x > a { *x } else { a })
                        };
                        assert!(
                            (column[t] - expected).abs() <= 1e-9 * expected.abs().max(scale),
                            "{name}({n}), row {t}: {} against {expected}",
                            column[t]
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_bad_tick_spoils_the_windows_that_hold_it_and_no_other() {
        let good = market(600, 21);
        for tick in [f64::NAN, 1e9] {
            let mut bad = good.clone();
            let at = 300;
            for column in [&mut bad.open, &mut bad.high, &mut bad.low, &mut bad.close] {
                column[at] = tick;
            }
            bad.volume[at] = tick;
            for indicator in FAMILIES.iter().flat_map(|family| family.iter()) {
                let (series, parameters) = typical(indicator);
                let program = program(indicator, &series, &parameters);
                let [before, after] =
                    [&good, &bad].map(|bars| Engine::batch(&program, bars.view(), &[]));
                for (position, (before, after)) in before.iter().zip(&after).enumerate() {
                    let memory = program.memory(position).unwrap();
                    for t in (0..at).chain(at + memory + 1..600) {
                        assert_eq!(
                            before[t].to_bits(),
                            after[t].to_bits(),
                            "{}, row {t}",
                            indicator.name
                        );
                    }
                    assert!(!tick.is_nan() || after[at].is_nan() || indicator.name == "lag");
                }
            }
        }
    }

    #[test]
    fn windows_without_spread_have_none() {
        let bars = with_prices(&market(80, 1), |_| 0.1);
        let last = |name: &str, parameters: &[f64], output: &str| {
            let series: &[Input] = match name {
                "corr" => &[Input::Close, Input::Volume],
                "stoch" | "willr" | "cci" | "bop" | "chop" => &[],
                _ => CLOSE,
            };
            values(&bars, name, series, parameters, output)[79]
        };
        for (name, parameters, output) in [
            ("std", [20.0, 1.0].as_slice(), ""),
            ("avgdev", &[20.0], ""),
            ("linreg", &[20.0], "slope"),
            ("stoch", &[14.0, 3.0, 3.0], "k"),
            ("willr", &[14.0], ""),
            ("cci", &[20.0], ""),
            ("bop", &[], ""),
            ("rsi_sma", &[14.0], ""),
        ] {
            assert!(
                last(name, parameters, output).abs() < f64::MIN_POSITIVE,
                "{name}"
            );
        }
        for (name, parameters, output) in [
            ("zscore", [20.0].as_slice(), ""),
            ("skew", &[20.0], ""),
            ("kurt", &[20.0], ""),
            ("corr", &[20.0], ""),
            ("autocorr", &[20.0, 1.0], ""),
            ("linreg", &[20.0], "r2"),
            ("bbands", &[20.0, 2.0, 0.0], "pctb"),
            ("price_position", &[20.0], ""),
            ("chop", &[14.0], ""),
        ] {
            assert!(last(name, parameters, output).is_nan(), "{name}");
        }
        for (name, parameters) in [
            ("sma", [7.0]),
            ("wma", [7.0]),
            ("trima", [7.0]),
            ("hma", [7.0]),
        ] {
            assert_eq!(
                last(name, &parameters, "").to_bits(),
                0.1_f64.to_bits(),
                "{name}"
            );
        }
    }
}
