//! Swings, breakouts and changes of character: 6 columns.

use natron_kernels::structure::{
    Structure, breakout_down, breakout_up, distance_to_nearest_extreme, swing_high, swing_low,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::plan::{Family, FeatureColumn, FeatureError, Unit};

/// Parameters of the market structure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SmartMoney {
    /// Bars before and after a pivot that it must stand out from. The swing is known that many bars after the pivot.
    pub swing_bars: [usize; 2],
    /// Bars before this one whose high or low a breakout passes; also the window of the distance to the nearest extreme.
    pub breakout_window: usize,
    /// Bars after which a pivot, or a break that no other followed, is forgotten. It bounds the memory of changes of
    /// character.
    pub lookback: usize,
}

impl Default for SmartMoney {
    fn default() -> Self {
        SmartMoney {
            swing_bars: [3, 3],
            breakout_window: 10,
            lookback: 240,
        }
    }
}

impl SmartMoney {
    pub(super) fn families(&self) -> Result<Vec<Family>, FeatureError> {
        check_windows("smart_money.swing_bars", 1, &self.swing_bars)?;
        check_windows("smart_money.breakout_window", 1, &[self.breakout_window])?;
        check_windows("smart_money.lookback", 1, &[self.lookback])?;
        let ([left, right], window) = (self.swing_bars, self.breakout_window);

        let swing = |side: &str, extreme: &str| {
            FeatureColumn::new(
                format!("swing_{side}_{left}_{right}"),
                Unit::Flag,
                left + right,
                format!(
                    "1 on the bar that confirms a pivot {side}: the {side} {right} bars ago is strictly {extreme} those of \
                     {left} bars before and {right} after it"
                ),
            )
        };
        let breakout = |side: &str, condition: &str| {
            FeatureColumn::new(
                format!("bos_{side}_{window}"),
                Unit::Flag,
                window,
                format!("1 when the close is {condition} of the {window} bars before"),
            )
        };
        let nearest = FeatureColumn::new(
            format!("ob_dist_{window}"),
            Unit::Ratio,
            window - 1,
            format!(
                "distance to the nearer of the highest high and lowest low of {window} bars over the close"
            ),
        );
        Ok(vec![
            Family::window(swing("high", "above"), move |bars| {
                swing_high(bars.high, left, right)
            }),
            Family::window(swing("low", "below"), move |bars| {
                swing_low(bars.low, left, right)
            }),
            Family::window(breakout("up", "above the highest high"), move |bars| {
                breakout_up(bars, window)
            }),
            Family::window(breakout("down", "below the lowest low"), move |bars| {
                breakout_down(bars, window)
            }),
            change_of_character(left, right, self.lookback),
            Family::window(nearest, move |bars| {
                distance_to_nearest_extreme(bars, window)
            }),
        ])
    }
}

fn change_of_character(left: usize, right: usize, lookback: usize) -> Family {
    let column = FeatureColumn::new(
        format!("choch_{left}_{right}"),
        Unit::Flag,
        0,
        format!(
            "1 on the first close above the last pivot high after one below the last pivot low, -1 on the reverse, else 0; \
             pivots and breaks older than {lookback} bars are forgotten"
        ),
    );
    Family::recurrence(
        vec![column.remembering(Structure::memory_rows(left, right, lookback))],
        move || {
            let mut structure = Structure::new(left, right, lookback);
            move |bar, row| row[0] = structure.update(bar)
        },
    )
}
