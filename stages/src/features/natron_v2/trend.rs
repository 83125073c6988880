//! Strength and direction of the trend: 6 columns.

use natron_kernels::recurrences::{settling_rows, settling_rows_of_second, wilder_factor};
use natron_kernels::trend::{Directional, aroon};
use natron_kernels::windows::zip_with;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::plan::{Family, FeatureColumn, FeatureError, Unit};

/// Parameters of the trend columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Trend {
    /// Period of the directional movement (Wilder's), in bars.
    pub adx_period: usize,
    /// Window of Aroon, in bars.
    pub aroon_window: usize,
}

impl Default for Trend {
    fn default() -> Self {
        Trend {
            adx_period: 14,
            aroon_window: 25,
        }
    }
}

impl Trend {
    pub(super) fn families(&self) -> Result<Vec<Family>, FeatureError> {
        check_windows("trend.adx_period", 2, &[self.adx_period])?;
        check_windows("trend.aroon_window", 1, &[self.aroon_window])?;
        Ok(vec![
            directional_movement(self.adx_period),
            aroon_lines(self.aroon_window),
        ])
    }
}

fn directional_movement(period: usize) -> Family {
    let memory_rows = period + settling_rows(wilder_factor(period));
    let adx_memory_rows = 2 * period + settling_rows_of_second(wilder_factor(period));
    let columns = vec![
        FeatureColumn::new(
            format!("adx_{period}"),
            Unit::Percent,
            2 * period - 1,
            format!("average directional index: Wilder mean of the imbalance of +DI and -DI over {period} bars"),
        )
        .remembering(adx_memory_rows),
        FeatureColumn::new(
            format!("plus_di_{period}"),
            Unit::Percent,
            period,
            format!("+DI: upward movement over true range, Wilder sums of {period} bars"),
        )
        .remembering(memory_rows),
        FeatureColumn::new(
            format!("minus_di_{period}"),
            Unit::Percent,
            period,
            format!("-DI: downward movement over true range, Wilder sums of {period} bars"),
        )
        .remembering(memory_rows),
    ];
    Family::recurrence(columns, move || {
        let mut movement = Directional::new(period);
        move |bar, row| {
            let now = movement.update(bar);
            row.copy_from_slice(&[now.adx, now.plus_di, now.minus_di]);
        }
    })
}

fn aroon_lines(window: usize) -> Family {
    let column = |line: &str, description: String| {
        FeatureColumn::new(
            format!("aroon_{window}_{line}"),
            Unit::Percent,
            window,
            description,
        )
    };
    let columns = vec![
        column(
            "up",
            format!(
                "recency of the highest high of the last {window} bars and this one, 100 when it is new"
            ),
        ),
        column(
            "down",
            format!(
                "recency of the lowest low of the last {window} bars and this one, 100 when it is new"
            ),
        ),
        column("osc", format!("aroon_{window}_up less aroon_{window}_down")),
    ];
    Family::windows(columns, move |bars| {
        let lines = aroon(bars, window);
        let oscillator = zip_with(&lines.up, &lines.down, |up, down| up - down);
        vec![lines.up, lines.down, oscillator]
    })
}
