//! The set `natron_v2`: eleven groups, 98 columns.
//!
//! The groups and their counts are those of the Natron V2 document. Definitions are TA-Lib's where TA-Lib has one, else
//! the plain ones that each column's description states. Three things differ from the published original:
//!
//! - Nothing accumulates from the first row: on-balance volume and volume-price trend are sums of a window.
//! - Volume profile and swing points are what their names say, and a swing is written on the bar that confirms it.
//! - Columns that repeated another one to a factor gave way: the cumulative return, the distance to the mean, the middle of
//!   the Bollinger bands.

pub(super) mod candle_patterns;
pub(super) mod market_profile;
pub(super) mod momentum;
pub(super) mod moving_averages;
pub(super) mod returns;
pub(super) mod smart_money;
pub(super) mod statistics;
pub(super) mod support_resistance;
pub(super) mod trend;
pub(super) mod volatility;
pub(super) mod volume;

use super::parameters::FeatureParameters;
use super::plan::FeatureError;
use super::sets::SetColumn;

/// The longest window or period that is accepted, in bars.
const LONGEST_WINDOW: usize = 10_000;

/// All columns of the set, group by group.
pub(super) fn columns(parameters: &FeatureParameters) -> Result<Vec<SetColumn>, FeatureError> {
    let groups = [
        parameters.moving_averages.columns()?,
        parameters.momentum.columns()?,
        parameters.volatility.columns()?,
        parameters.volume.columns()?,
        candle_patterns::columns(),
        parameters.returns.columns()?,
        parameters.trend.columns()?,
        parameters.statistics.columns()?,
        parameters.support_resistance.columns()?,
        parameters.smart_money.columns()?,
        parameters.market_profile.columns()?,
    ];
    Ok(groups.into_iter().flatten().collect())
}

/// Refuses windows shorter than `shortest` or longer than any sensible one.
fn check_windows(
    parameter: &'static str,
    shortest: usize,
    windows: &[usize],
) -> Result<(), FeatureError> {
    match windows
        .iter()
        .find(|&&window| window < shortest || window > LONGEST_WINDOW)
    {
        None => Ok(()),
        Some(window) => Err(FeatureError::OutOfRange {
            parameter,
            value: window.to_string(),
            expected: format!("{shortest} to {LONGEST_WINDOW} bars"),
        }),
    }
}

/// Refuses factors that are not positive numbers.
fn check_positive(parameter: &'static str, value: f64) -> Result<(), FeatureError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(FeatureError::OutOfRange {
        parameter,
        value: value.to_string(),
        expected: "a number above 0".to_owned(),
    })
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "flags and volumes match to the bit")]
mod tests {
    use super::super::fixtures::{golden_bars, read_csv, shared};
    use super::super::{FeatureParameters, FeaturePlan, FeatureSet};

    /// Columns that the reference values do not have: windowed sums for cumulative ones, and what stands on the profile.
    const WITHOUT_TWIN: [&str; 8] = [
        "obv_sum_20",
        "vpt_sum_20",
        "price_to_vp_96_20_poc",
        "price_to_vp_96_20_vah",
        "price_to_vp_96_20_val",
        "vp_96_20_balance",
        "vp_96_20_poc_share",
        "vp_96_20_entropy",
    ];

    fn plan() -> FeaturePlan {
        FeaturePlan::compile(&FeatureParameters::of(FeatureSet::NatronV2)).unwrap()
    }

    #[test]
    fn has_the_eleven_groups_of_the_document() {
        let names: Vec<String> = plan()
            .columns()
            .iter()
            .map(|column| column.name.clone())
            .collect();

        let firsts = [
            (0, "sma_5"),
            (13, "rsi_14"),
            (26, "atr_14"),
            (41, "volume_sma_10"),
            (50, "body_ratio"),
            (58, "return_1"),
            (66, "adx_14"),
            (72, "skew_20"),
            (78, "dist_high_20"),
            (82, "swing_high_3_3"),
            (88, "vp_96_20_poc"),
        ];
        for (at, name) in firsts {
            assert_eq!(names[at], name);
        }
        assert_eq!(names.len(), 98);
    }

    #[test]
    fn every_column_with_a_twin_matches_the_reference_values() {
        let Some(shared) = shared() else { return };
        let (plan, bars) = (plan(), golden_bars(&shared));
        let golden = read_csv(&shared.join("golden/indicators.csv"), |_| true);

        let mut without_twin = Vec::new();
        for (column, values) in plan.columns().iter().zip(plan.batch(bars.view())) {
            let name = column.name.as_str();
            let Some(expected) = golden.get(name) else {
                without_twin.push(name);
                continue;
            };
            let typical = match column.unit.as_str() {
                "percent" => 100.0,
                "volume" => 1e3,
                _ if name.starts_with("cci") => 100.0,
                _ => 1.0,
            };
            let mut n_far = 0;
            for (t, (a, b)) in values.iter().zip(expected).enumerate() {
                assert_eq!(a.is_nan(), b.is_nan(), "{name}, row {t}: {a} against {b}");
                let allowed = 1e-11 * a.abs().max(b.abs()) + 1e-12 * typical;
                if column.unit == "flag" {
                    assert!(a.is_nan() || a == b, "{name}, row {t}: {a} against {b}");
                } else if (a - b).abs() > allowed {
                    n_far += 1;
                    assert!(name.starts_with("vp_"), "{name}, row {t}: {a} against {b}");
                }
            }
            // The edges of price bins are decided by rounding.
            assert!(
                n_far <= values.len() / 200,
                "{name}: {n_far} rows differ by whole bins"
            );
            let first = expected.iter().position(|x| !x.is_nan());
            assert_eq!(first, Some(column.warm_up.rows), "warm-up of {name}");
        }
        assert_eq!(without_twin, WITHOUT_TWIN);
    }

    #[test]
    fn windowed_sums_are_differences_of_the_cumulative_ones() {
        let Some(shared) = shared() else { return };
        let (plan, bars) = (plan(), golden_bars(&shared));
        let golden = read_csv(&shared.join("golden/indicators.csv"), |name| {
            name == "obv" || name == "vpt"
        });
        let values = plan.batch(bars.view());

        for (name, cumulative) in [("obv_sum_20", "obv"), ("vpt_sum_20", "vpt")] {
            let at = plan
                .columns()
                .iter()
                .position(|column| column.name == name)
                .unwrap();
            let total = &golden[cumulative];
            for t in 20..total.len() {
                assert!(
                    (values[at][t] - (total[t] - total[t - 20])).abs() < 1e-6,
                    "{name}, row {t}"
                );
            }
        }
    }
}
