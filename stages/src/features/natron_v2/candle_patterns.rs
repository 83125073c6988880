//! Shape of the bar and gaps to the one before: 8 columns, without parameters.

use crate::features::sets::SetColumn;

pub(super) fn columns() -> Vec<SetColumn> {
    [
        ("body_ratio", "body over the bar's range; 0 without range"),
        (
            "upper_shadow_ratio",
            "upper shadow over the bar's range; 0 without range",
        ),
        (
            "lower_shadow_ratio",
            "lower shadow over the bar's range; 0 without range",
        ),
        (
            "is_doji",
            "1 when the body is less than a tenth of the range",
        ),
        ("gap_up", "1 when the low is above the previous high"),
        ("gap_down", "1 when the high is below the previous low"),
        (
            "position_in_range",
            "position of the close in the bar's range, 0 at the low; 0.5 without range",
        ),
        ("candle_dir", "1 when the close is above the open"),
    ]
    .map(|(name, description)| SetColumn::new(name, format!("{name}()"), description))
    .into()
}
