//! Swings, breakouts and changes of character: 6 columns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::{plan::FeatureError, sets::SetColumn};

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
    pub(super) fn columns(&self) -> Result<Vec<SetColumn>, FeatureError> {
        check_windows("smart_money.swing_bars", 1, &self.swing_bars)?;
        check_windows("smart_money.breakout_window", 1, &[self.breakout_window])?;
        check_windows("smart_money.lookback", 1, &[self.lookback])?;
        let ([left, right], n, lookback) = (self.swing_bars, self.breakout_window, self.lookback);

        let swing = |side: &str, extreme: &str| {
            SetColumn::new(
                format!("swing_{side}_{left}_{right}"),
                format!("swing({left}, {right}).{side}"),
                format!(
                    "1 on the bar that confirms a pivot {side}: the {side} {right} bars ago is strictly {extreme} those of \
                     {left} bars before and {right} after it"
                ),
            )
        };
        let breakout = |side: &str, condition: &str| {
            SetColumn::new(
                format!("bos_{side}_{n}"),
                format!("breakout({n}).{side}"),
                format!("1 when the close is {condition} of the {n} bars before"),
            )
        };
        Ok(vec![
            swing("high", "above"),
            swing("low", "below"),
            breakout("up", "above the highest high"),
            breakout("down", "below the lowest low"),
            SetColumn::new(
                format!("choch_{left}_{right}"),
                format!("choch({left}, {right}, {lookback})"),
                format!(
                    "1 on the first close above the last pivot high after one below the last pivot low, -1 on the reverse, else 0; \
                     pivots and breaks older than {lookback} bars are forgotten"
                ),
            ),
            SetColumn::new(
                format!("ob_dist_{n}"),
                format!("ob_dist({n})"),
                format!(
                    "distance to the nearer of the highest high and lowest low of {n} bars over the close"
                ),
            ),
        ])
    }
}
