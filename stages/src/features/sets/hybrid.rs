//! The sets `hybrid_v11`, `hybrid_v13` and `hybrid_v15`: an index or a metal among volatility, rates and sectors.
//!
//! `robust` is the distance from the median of 60 rows over the distance of their quartiles.

use super::{SetColumn, written_out};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V11,
    V13,
    V15,
}

/// Rows of the robust normalization.
const WINDOW: usize = 60;

pub(super) fn columns(version: Version) -> Vec<SetColumn> {
    let part = |name: &str, expression: &str| SetColumn::new(name, expression, "");
    let parts = vec![
        part("gap", "open / close[1] - 1"),
        part("slope_5", "linreg(close, 5).slope / close"),
        part("relative_atr", "atr(14) / close"),
        part("vix", "of(\"vix\", close)"),
        part("rates", "of(\"rates\", close)"),
        part("implied_volatility", "relative_atr * sqrt(252)"),
        part("vix_slope", "linreg(vix, 5).slope"),
        part("consumers", "of(\"xly\", close) / of(\"xlp\", close)"),
        part("technology", "of(\"xlk\", close) / of(\"xlu\", close)"),
    ];
    let plain = |name: &str, expression: &str, description: &str| {
        SetColumn::new(name, expression, description)
    };
    let mut columns = vec![
        plain("log_ret", "log_return(close)", ""),
        plain("log_ret_sum_3", "sum(log_ret, 3)", ""),
        plain("log_ret_sum_5", "sum(log_ret, 5)", ""),
        plain("log_ret_sum_20", "sum(log_ret, 20)", ""),
        robust("gap_norm", "gap", "the gap to the close before"),
        robust(
            "slope_5d_norm",
            "slope_5",
            "the slope of a line through 5 closes, over the close",
        ),
        plain("rsi", "rsi(close, 14) / 100", ""),
        plain("rsi_sma_3", "sma(rsi, 3)", ""),
        robust(
            "atr_norm",
            "relative_atr",
            "the average true range over the close",
        ),
        robust("vix_norm", "vix", "the volatility index"),
        robust("rates_norm", "rates", "the ten-year rate"),
        robust("vol_norm", "volume", "the volume"),
    ];
    if version >= Version::V13 {
        let greek = |name: &str| {
            let expression = format!("greeks(close, implied_volatility, 65, 0).{name}");
            let description = format!(
                "Black-Scholes {name} of a call at the money with 65 days, volatility from the true range"
            );
            SetColumn::new(name, expression, description)
        };
        columns.extend([
            plain("log_ret_sum_60", "sum(log_ret, 60)", ""),
            robust(
                "price_accel_5_norm",
                "(slope_5 - slope_5[1])",
                "the change of the slope of 5 closes",
            ),
            plain("rsi_slope_5", "linreg(rsi, 5).slope", ""),
            greek("delta"),
            greek("gamma"),
            greek("theta"),
            greek("vega"),
            robust(
                "iv_norm",
                "implied_volatility",
                "the volatility from the true range, a year's",
            ),
            plain(
                "vix_slope_5",
                "vix_slope",
                "slope of a line through 5 values of the volatility index",
            ),
            plain(
                "vix_accel_5",
                "vix_slope - vix_slope[1]",
                "change of the slope of the volatility index",
            ),
        ]);
    }
    if version >= Version::V15 {
        columns.extend([
            robust(
                "xly_xlp_norm",
                "consumers",
                "cyclical over defensive consumer shares",
            ),
            robust(
                "xlk_xlu_norm",
                "technology",
                "technology shares over utilities",
            ),
        ]);
    }
    written_out(columns, &parts)
}

fn robust(name: &str, x: &str, what: &str) -> SetColumn {
    let expression = format!(
        "({x} - median({x}, {WINDOW})) / (quantile({x}, {WINDOW}, 0.75) - quantile({x}, {WINDOW}, 0.25))"
    );
    let description = format!(
        "{what}: distance from the median of {WINDOW} rows in distances of their quartiles"
    );
    SetColumn::new(name, expression, description)
}
