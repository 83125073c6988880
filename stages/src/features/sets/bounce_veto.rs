//! The set `bounce_veto`: bands, their width among those of late, structure, volume profile and gaps.
//!
//! Levels stand as distances from the close over the close: prices themselves say nothing in another year or market.

use super::{SetColumn, golden, written_out};

/// Columns that have reference values.
const KNOWN: [&str; 13] = [
    "bb1_20_2_bandwidth",
    "bb1_bandwidth_pctrank_100",
    "bb1_squeeze_100",
    "bb1_expansion_100",
    "zscore_20",
    "bear_sweep_3_3",
    "bull_sweep_3_3",
    "bull_bos_3_3",
    "bear_bos_3_3",
    "fvg_bull",
    "fvg_bear",
    "fvg_bull_pct",
    "fvg_bear_pct",
];

pub(super) fn columns() -> Vec<SetColumn> {
    let distance = |name: &str, level: &str, what: &str| {
        SetColumn::new(
            format!("{name}_dist"),
            format!("(close - {level}) / close"),
            format!("distance of the close from {what}, over the close"),
        )
    };
    let mut columns = vec![
        distance("basis_20", "sma(close, 20)", "the mean of 20 closes"),
        distance(
            "bb1_20_2_upper",
            "bbands(close, 20, 2, 1).upper",
            "the upper Bollinger band",
        ),
        distance(
            "bb1_20_2_lower",
            "bbands(close, 20, 2, 1).lower",
            "the lower Bollinger band",
        ),
        SetColumn::new("std_20_pct", "std(close, 20) / close", ""),
        distance(
            "pivot_high_3_3",
            "last_pivot(3, 3).high",
            "the last confirmed pivot high",
        ),
        distance(
            "pivot_low_3_3",
            "last_pivot(3, 3).low",
            "the last confirmed pivot low",
        ),
    ];
    columns.extend(golden::chosen(&KNOWN));
    let parts = [
        SetColumn::new("area_high", "profile(96, 20, 0.7).vah", ""),
        SetColumn::new("area_low", "profile(96, 20, 0.7).val", ""),
    ];
    columns.extend([
        distance(
            "vp_96_20_poc",
            "profile(96, 20, 0.7).poc",
            "the point of control of 96 bars",
        ),
        distance(
            "vp_96_20_vah",
            "area_high",
            "the upper end of the value area",
        ),
        distance(
            "vp_96_20_val",
            "area_low",
            "the lower end of the value area",
        ),
        SetColumn::new("above_value_area", "close > area_high", ""),
        SetColumn::new("below_value_area", "close < area_low", ""),
        SetColumn::new(
            "in_value_area",
            "close >= area_low and close <= area_high",
            "",
        ),
        distance(
            "vwap_96",
            "vwap(96)",
            "the volume-weighted price of 96 bars",
        ),
        distance(
            "vwap_672",
            "vwap(672)",
            "the volume-weighted price of 672 bars",
        ),
    ]);
    written_out(columns, &parts)
}
