//! Shape of single bars, gaps between neighbours and fair value gaps.

#![expect(
    clippy::inline_always,
    reason = "they must be compiled inside loops for several instruction sets"
)]

use super::{
    catalog::{Indicator, Output, Unit},
    program::{Builder, Input, Series},
    rowwise::{Rowwise, flag, max, min, rowwise},
};

/// The largest body of a doji, as a share of the bar's range.
const DOJI_BODY: f64 = 0.1;

pub(super) const BARS: &[Input] = &[Input::Open, Input::High, Input::Low, Input::Close];

/// The columns of [`BARS`], in their order.
pub(super) fn bars(builder: &mut Builder) -> [Series; 4] {
    [Input::Open, Input::High, Input::Low, Input::Close].map(|input| builder.input(input))
}

/// `part / range`, or `without_range` for a bar whose high is its low.
#[inline(always)]
fn share(part: f64, range: f64, without_range: f64) -> f64 {
    let share = if range == 0.0 {
        without_range
    } else {
        part / range
    };
    if part.is_nan() { part } else { share }
}

rowwise! {
    BODY_RATIO = "body_ratio", false, 0, (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0) -> (ratio) {
        [share((c - o).abs(), h - l, 0.0)]
    }
    UPPER_SHADOW_RATIO = "upper_shadow_ratio", false, 0,
        (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0) -> (ratio) {
        [share(h - max(o, c), h - l, 0.0)]
    }
    LOWER_SHADOW_RATIO = "lower_shadow_ratio", false, 0,
        (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0) -> (ratio) {
        [share(min(o, c) - l, h - l, 0.0)]
    }
    POSITION_IN_RANGE = "position_in_range", false, 0, (h = 1 - 0, l = 2 - 0, c = 3 - 0) -> (ratio) {
        [share(c - l, h - l, 0.5)]
    }
    IS_DOJI = "is_doji", false, 0, (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0) -> (is_doji) {
        // Decimal ties are decided by this order of operations.
        let (body, most) = ((c - o).abs(), DOJI_BODY * (h - l));
        [flag(body < most, body.is_nan() | most.is_nan())]
    }
    CANDLE_DIR = "candle_dir", false, 0, (o = 0 - 0, c = 3 - 0) -> (is_rising) {
        [flag(c > o, c.is_nan() | o.is_nan())]
    }
    GAP_UP = "gap_up", false, 1, (low = 2 - 0, high = 1 - 1) -> (is_gap) {
        [flag(low > high, low.is_nan() | high.is_nan())]
    }
    GAP_DOWN = "gap_down", false, 1, (high = 1 - 0, low = 2 - 1) -> (is_gap) {
        [flag(high < low, low.is_nan() | high.is_nan())]
    }
    BODY_PCT = "body_pct", false, 0, (o = 0 - 0, c = 3 - 0) -> (ratio) {
        [(c - o).abs() / c]
    }
    UPPER_SHADOW_PCT = "upper_shadow_pct", false, 0, (o = 0 - 0, h = 1 - 0, c = 3 - 0) -> (ratio) {
        [(h - max(o, c)) / c]
    }
    LOWER_SHADOW_PCT = "lower_shadow_pct", false, 0, (o = 0 - 0, l = 2 - 0, c = 3 - 0) -> (ratio) {
        [(min(o, c) - l) / c]
    }
    HL_RATIO = "hl_ratio", false, 0, (h = 1 - 0, l = 2 - 0, c = 3 - 0) -> (ratio) {
        [(h - l) / c]
    }
    CO_RATIO = "co_ratio", false, 0, (o = 0 - 0, c = 3 - 0) -> (ratio) {
        [(c - o) / o]
    }
    FAIR_VALUE_GAPS = "fvg", false, 2,
        (high_before = 1 - 2, low_before = 2 - 2, high = 1 - 0, low = 2 - 0, c = 3 - 0)
        -> (bull, bear, bull_pct, bear_pct) {
        let (above, below) = (low - high_before, low_before - high);
        [
            flag(low > high_before, above.is_nan()),
            flag(high < low_before, below.is_nan()),
            max(above, 0.0) / c,
            max(below, 0.0) / c,
        ]
    }
}

const FLAG: &[Output] = &[Output {
    name: "",
    unit: Unit::Flag,
}];
const RATIO: &[Output] = &[Output {
    name: "",
    unit: Unit::Ratio,
}];

fn expand(builder: &mut Builder, window: Rowwise) -> Vec<Series> {
    let inputs = bars(builder);
    builder.window(window, &inputs)
}

/// An indicator without series and parameters.
macro_rules! of_bars {
    ($name:literal, $kernel:ident, $outputs:expr, $source:expr, $definition:literal) => {
        Indicator {
            name: $name,
            series: &[],
            bars: BARS,
            parameters: &[],
            outputs: $outputs,
            definition: $definition,
            source: $source,
            expand: |builder, _, _| expand(builder, $kernel),
        }
    };
}

const CANDLESTICKS: &str = "Nison (1991), Japanese Candlestick Charting Techniques";
const COMMON: &str = "common usage";

pub(super) const INDICATORS: &[Indicator] = &[
    of_bars!(
        "body_ratio",
        BODY_RATIO,
        RATIO,
        CANDLESTICKS,
        "|close - open| / (high - low); 0 for a bar without range."
    ),
    of_bars!(
        "upper_shadow_ratio",
        UPPER_SHADOW_RATIO,
        RATIO,
        CANDLESTICKS,
        "(high - max(open, close)) / (high - low); 0 for a bar without range."
    ),
    of_bars!(
        "lower_shadow_ratio",
        LOWER_SHADOW_RATIO,
        RATIO,
        CANDLESTICKS,
        "(min(open, close) - low) / (high - low); 0 for a bar without range."
    ),
    of_bars!(
        "position_in_range",
        POSITION_IN_RANGE,
        RATIO,
        COMMON,
        "(close - low) / (high - low); 0.5 for a bar without range."
    ),
    of_bars!(
        "is_doji",
        IS_DOJI,
        FLAG,
        CANDLESTICKS,
        "1 where |close - open| < 0.1 * (high - low), else 0."
    ),
    of_bars!(
        "candle_dir",
        CANDLE_DIR,
        FLAG,
        CANDLESTICKS,
        "1 where the close is above the open, else 0."
    ),
    of_bars!(
        "gap_up",
        GAP_UP,
        FLAG,
        CANDLESTICKS,
        "1 where the low is above the high of the bar before, else 0."
    ),
    of_bars!(
        "gap_down",
        GAP_DOWN,
        FLAG,
        CANDLESTICKS,
        "1 where the high is below the low of the bar before, else 0."
    ),
    of_bars!(
        "body_pct",
        BODY_PCT,
        RATIO,
        COMMON,
        "|close - open| / close."
    ),
    of_bars!(
        "upper_shadow_pct",
        UPPER_SHADOW_PCT,
        RATIO,
        COMMON,
        "(high - max(open, close)) / close."
    ),
    of_bars!(
        "lower_shadow_pct",
        LOWER_SHADOW_PCT,
        RATIO,
        COMMON,
        "(min(open, close) - low) / close."
    ),
    of_bars!("hl_ratio", HL_RATIO, RATIO, COMMON, "(high - low) / close."),
    of_bars!(
        "co_ratio",
        CO_RATIO,
        RATIO,
        COMMON,
        "(close - open) / open: the return within the bar."
    ),
    of_bars!(
        "fvg",
        FAIR_VALUE_GAPS,
        &[
            Output {
                name: "bull",
                unit: Unit::Flag
            },
            Output {
                name: "bear",
                unit: Unit::Flag
            },
            Output {
                name: "bull_pct",
                unit: Unit::Ratio
            },
            Output {
                name: "bear_pct",
                unit: Unit::Ratio
            },
        ],
        COMMON,
        "Fair value gaps: `bull` is 1 where the low is above the high two bars before, `bear` where the high is below the low \
         two bars before; `bull_pct` and `bear_pct` are the sizes of these gaps over the close, 0 where there is none."
    ),
];

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use super::super::check::{Golden, values};
    use super::*;
    use crate::bars::BarColumns;

    #[test]
    fn shape_of_bars_computed_by_hand() {
        let bars = BarColumns {
            ts_ns: vec![0, 1, 2],
            open: vec![2.0, 5.0, 7.0],
            high: vec![4.0, 6.0, 7.0],
            low: vec![0.0, 4.5, 7.0],
            close: vec![3.0, 5.1, 7.0],
            volume: vec![1.0; 3],
        };
        let of = |name: &str| values(&bars, name, &[], &[], "");

        assert_eq!(of("body_ratio")[0], 0.25);
        assert_eq!(of("upper_shadow_ratio")[0], 0.25);
        assert_eq!(of("lower_shadow_ratio")[0], 0.5);
        assert_eq!(of("position_in_range")[0], 0.75);
        assert_eq!(
            (of("body_ratio")[2], of("position_in_range")[2]),
            (0.0, 0.5)
        );
        assert_eq!(of("is_doji"), [0.0, 1.0, 0.0]);
        assert_eq!(of("candle_dir"), [1.0, 1.0, 0.0]);
        assert!(of("gap_up")[0].is_nan());
        assert_eq!(of("gap_up")[1..], [1.0, 1.0]);
        assert_eq!(of("gap_down")[1..], [0.0, 0.0]);
        assert_eq!(of("co_ratio")[0], 0.5);
        assert_eq!(values(&bars, "fvg", &[], &[], "bull")[2], 1.0);
        assert_eq!(values(&bars, "fvg", &[], &[], "bull_pct")[2], 3.0 / 7.0);
        assert_eq!(values(&bars, "fvg", &[], &[], "bear_pct")[2], 0.0);
    }

    #[test]
    fn a_missing_price_has_no_shape() {
        let bars = BarColumns {
            ts_ns: vec![0],
            open: vec![f64::NAN],
            high: vec![7.0],
            low: vec![7.0],
            close: vec![7.0],
            volume: vec![1.0],
        };

        for name in ["body_ratio", "upper_shadow_ratio", "is_doji", "candle_dir"] {
            assert!(values(&bars, name, &[], &[], "")[0].is_nan(), "{name}");
        }
    }

    #[test]
    fn candles_are_the_reference() {
        let Some(golden) = Golden::load() else { return };

        for indicator in INDICATORS.iter().filter(|one| one.outputs.len() == 1) {
            let size = f64::from(u8::from(indicator.outputs[0].unit != Unit::Flag));
            let column = values(&golden.bars, indicator.name, &[], &[], "");
            golden.assert_is(indicator.name, &column, size);
        }
        for (output, size) in [
            ("bull", 0.0),
            ("bear", 0.0),
            ("bull_pct", 1.0),
            ("bear_pct", 1.0),
        ] {
            let column = values(&golden.bars, "fvg", &[], &[], output);
            golden.assert_is(&format!("fvg_{output}"), &column, size);
        }
    }
}
