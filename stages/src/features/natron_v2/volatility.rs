//! Ranges, bands and standard deviations: 15 columns.

use natron_kernels::recurrences::{ema_factor, settling_rows, wilder_factor};
use natron_kernels::volatility::{
    AverageTrueRange, Keltner, bollinger_bands, choppiness, parkinson_volatility, return_volatility,
};
use natron_kernels::windows::{quotient, rolling_standard_deviation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{check_positive, check_windows};
use crate::features::plan::{Family, FeatureColumn, FeatureError, Unit};

/// Parameters of the volatility columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Volatility {
    /// Periods of the average true range (Wilder's), the longer one first, in bars.
    pub atr_periods: [usize; 2],
    /// Window of the Bollinger bands, in bars.
    pub bollinger_window: usize,
    /// Distance of the Bollinger bands from their mean, in standard deviations.
    pub bollinger_deviations: f64,
    /// Periods of the mean and of the average true range of the Keltner channel, in bars.
    pub keltner_periods: [usize; 2],
    /// Distance of the Keltner channel from its mean, in average true ranges.
    pub keltner_ranges: f64,
    /// Windows of the standard deviations of the close, in bars.
    pub deviation_windows: [usize; 2],
    /// Window of the historical volatility, in bars.
    pub historical_window: usize,
    /// Bars in a year, to annualize the historical volatility. The document's 252 is that of daily bars; a scaler takes
    /// the factor out again.
    pub periods_per_year: f64,
    /// Window of the Parkinson volatility, in bars.
    pub parkinson_window: usize,
    /// Window of the choppiness index, in bars.
    pub choppiness_window: usize,
}

impl Default for Volatility {
    fn default() -> Self {
        Volatility {
            atr_periods: [14, 7],
            bollinger_window: 20,
            bollinger_deviations: 2.0,
            keltner_periods: [20, 14],
            keltner_ranges: 2.0,
            deviation_windows: [10, 20],
            historical_window: 20,
            periods_per_year: 252.0,
            parkinson_window: 20,
            choppiness_window: 14,
        }
    }
}

impl Volatility {
    pub(super) fn families(&self) -> Result<Vec<Family>, FeatureError> {
        check_windows("volatility.atr_periods", 1, &self.atr_periods)?;
        check_windows("volatility.bollinger_window", 2, &[self.bollinger_window])?;
        check_positive("volatility.bollinger_deviations", self.bollinger_deviations)?;
        check_windows("volatility.keltner_periods", 1, &self.keltner_periods)?;
        check_positive("volatility.keltner_ranges", self.keltner_ranges)?;
        check_windows("volatility.deviation_windows", 2, &self.deviation_windows)?;
        check_windows("volatility.historical_window", 2, &[self.historical_window])?;
        check_positive("volatility.periods_per_year", self.periods_per_year)?;
        check_windows("volatility.parkinson_window", 1, &[self.parkinson_window])?;
        check_windows("volatility.choppiness_window", 2, &[self.choppiness_window])?;

        let mut families = vec![
            ranges(self.atr_periods),
            bollinger(self.bollinger_window, self.bollinger_deviations),
            keltner(self.keltner_periods, self.keltner_ranges),
        ];
        families.extend(self.deviation_windows.map(deviation));
        families.push(historical(self.historical_window, self.periods_per_year));
        families.push(parkinson(self.parkinson_window));
        families.push(choppiness_index(self.choppiness_window));
        Ok(families)
    }
}

/// Bars that decide an average true range.
fn range_memory_rows(period: usize) -> usize {
    period + 1 + settling_rows(wilder_factor(period))
}

fn ranges([long, short]: [usize; 2]) -> Family {
    let column = |period: usize| {
        FeatureColumn::new(
            format!("atr_{period}"),
            Unit::Price,
            period,
            format!("average true range with Wilder's smoothing over {period} bars"),
        )
        .remembering(range_memory_rows(period))
    };
    let longest = long.max(short);
    let ratio = FeatureColumn::new(
        format!("atr_ratio_{short}_{long}"),
        Unit::Ratio,
        longest,
        format!("atr_{short} over atr_{long}"),
    );
    let columns = vec![
        column(long),
        column(short),
        ratio.remembering(range_memory_rows(longest)),
    ];
    Family::recurrence(columns, move || {
        let (mut long, mut short) = (AverageTrueRange::new(long), AverageTrueRange::new(short));
        move |bar, row| {
            let (long, short) = (long.update(bar), short.update(bar));
            row.copy_from_slice(&[long, short, quotient(short, long)]);
        }
    })
}

fn bollinger(window: usize, deviations: f64) -> Family {
    let column = |part: &str, unit: Unit, description: String| {
        FeatureColumn::new(
            format!("bbands_{window}_{deviations}_{part}"),
            unit,
            window - 1,
            description,
        )
    };
    let columns = vec![
        column(
            "upper",
            Unit::Price,
            format!("mean of {window} closes plus {deviations} standard deviations (n)"),
        ),
        column(
            "lower",
            Unit::Price,
            format!("mean of {window} closes less {deviations} standard deviations (n)"),
        ),
        column(
            "width",
            Unit::Ratio,
            "distance of the Bollinger bands over their mean".to_owned(),
        ),
        column(
            "pctb",
            Unit::Ratio,
            "position of the close between the Bollinger bands, 0 at the lower".to_owned(),
        ),
    ];
    Family::windows(columns, move |bars| {
        let bands = bollinger_bands(bars.close, window, deviations);
        vec![bands.upper, bands.lower, bands.width, bands.position]
    })
}

fn keltner([ema_period, atr_period]: [usize; 2], ranges: f64) -> Family {
    let warm_up_rows = atr_period.max(ema_period - 1);
    let memory_rows =
        range_memory_rows(atr_period).max(ema_period + settling_rows(ema_factor(ema_period)));
    let column = |part: &str, unit: Unit, description: String| {
        let name = format!("kc_{ema_period}_{atr_period}_{ranges}_{part}");
        FeatureColumn::new(name, unit, warm_up_rows, description).remembering(memory_rows)
    };
    let columns = vec![
        column(
            "upper",
            Unit::Price,
            format!("exponential mean of {ema_period} closes plus {ranges} atr_{atr_period}"),
        ),
        column(
            "lower",
            Unit::Price,
            format!("exponential mean of {ema_period} closes less {ranges} atr_{atr_period}"),
        ),
        column(
            "width",
            Unit::Ratio,
            "width of the Keltner channel over its mean".to_owned(),
        ),
    ];
    Family::recurrence(columns, move || {
        let mut channel = Keltner::new(ema_period, atr_period, ranges);
        move |bar, row| {
            let now = channel.update(bar);
            row.copy_from_slice(&[now.upper, now.lower, now.width]);
        }
    })
}

fn deviation(window: usize) -> Family {
    let column = FeatureColumn::new(
        format!("std_{window}"),
        Unit::Price,
        window - 1,
        format!("sample standard deviation (n - 1) of the last {window} closes"),
    );
    Family::window(column, move |bars| {
        rolling_standard_deviation(bars.close, window, 1)
    })
}

fn historical(window: usize, periods_per_year: f64) -> Family {
    let column = FeatureColumn::new(
        format!("hist_vol_{window}"),
        Unit::Ratio,
        window,
        format!(
            "sample standard deviation of the last {window} simple returns times the root of {periods_per_year}"
        ),
    );
    Family::window(column, move |bars| {
        let scale = periods_per_year.sqrt();
        return_volatility(bars.close, window)
            .into_iter()
            .map(|x| x * scale)
            .collect()
    })
}

fn parkinson(window: usize) -> Family {
    let column = FeatureColumn::new(
        format!("parkinson_{window}"),
        Unit::Ratio,
        window - 1,
        format!(
            "volatility per bar from the ranges of {window} bars: root of mean squared ln(high / low) over 4 ln 2"
        ),
    );
    Family::window(column, move |bars| parkinson_volatility(bars, window))
}

fn choppiness_index(window: usize) -> Family {
    let column = FeatureColumn::new(
        format!("chop_{window}"),
        Unit::Percent,
        window,
        format!("choppiness index: logarithm of the path of {window} bars over their range"),
    );
    Family::window(column, move |bars| choppiness(bars, window))
}
