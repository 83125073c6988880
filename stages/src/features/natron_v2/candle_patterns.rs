//! Shape of the bar and gaps to the one before: 8 columns, without parameters.

use natron_kernels::bars::Bars;
use natron_kernels::candles;

use crate::features::plan::{Family, FeatureColumn, Unit};

pub(super) fn families() -> Vec<Family> {
    let column = |name: &str,
                  unit: Unit,
                  warm_up_rows: usize,
                  description: &str,
                  compute: fn(Bars<'_>) -> Vec<f64>| {
        Family::window(
            FeatureColumn::new(name, unit, warm_up_rows, description),
            compute,
        )
    };
    vec![
        column(
            "body_ratio",
            Unit::Ratio,
            0,
            "body over the bar's range; 0 without range",
            candles::body_ratio,
        ),
        column(
            "upper_shadow_ratio",
            Unit::Ratio,
            0,
            "upper shadow over the bar's range; 0 without range",
            candles::upper_shadow_ratio,
        ),
        column(
            "lower_shadow_ratio",
            Unit::Ratio,
            0,
            "lower shadow over the bar's range; 0 without range",
            candles::lower_shadow_ratio,
        ),
        column(
            "is_doji",
            Unit::Flag,
            0,
            "1 when the body is less than a tenth of the range",
            candles::is_doji,
        ),
        column(
            "gap_up",
            Unit::Flag,
            1,
            "1 when the low is above the previous high",
            candles::gap_up,
        ),
        column(
            "gap_down",
            Unit::Flag,
            1,
            "1 when the high is below the previous low",
            candles::gap_down,
        ),
        column(
            "position_in_range",
            Unit::Ratio,
            0,
            "position of the close in the bar's range, 0 at the low; 0.5 without range",
            candles::position_in_range,
        ),
        column(
            "candle_dir",
            Unit::Flag,
            0,
            "1 when the close is above the open",
            candles::is_rising,
        ),
    ]
}
