//! TA-Lib's candle patterns with its default candle settings.
//!
//! TA-Lib keeps running totals of bodies and ranges; here every row has its own sum of 5 or 10 rows, so that a wild bar is
//! forgotten with the window that holds it. A pattern is 0 while too few candles are known for TA-Lib to begin, and where
//! one of the candles that it compares with is missing; it has no value where the present candle is missing.

#![expect(
    clippy::inline_always,
    reason = "they must be compiled inside loops for several instruction sets"
)]

use super::{
    candles::{BARS, bars},
    catalog::{Indicator, Output, Unit},
    program::{Builder, Series},
    rowwise::{Rowwise, max, min, rowwise},
    window::candle_means::{doji, mean_body_before, mean_range_before, shooting_star},
};

/// Rows of the means of bodies and of ranges that "long", "short", "doji" and "very short shadow" are measured with.
pub(super) const MEAN_ROWS: usize = 10;
/// Rows of the mean range that "near" and "far" are measured with.
const NEAR_ROWS: usize = 5;
/// A doji's body and a very short shadow are at most this share of the mean range.
pub(super) const VERY_SHORT: f64 = 0.1;
/// Near is within this share of the mean range.
const NEAR: f64 = 0.2;
/// Far shorter is shorter by this share of the mean range.
const FAR: f64 = 0.6;
/// How far the third candle of a star reaches into the body of the first.
const STAR_PENETRATION: f64 = 0.3;
/// How far the second candle of a piercing line or a dark cloud reaches into the body of the first.
const CLOUD_PENETRATION: f64 = 0.5;

/// What the parts of a candle are measured with: means over the candles before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    /// The mean body of ten.
    Body,
    /// The mean range of ten.
    Range,
    /// The mean range of five.
    Near,
}
use Measure::{Body, Near, Range};

/// Adds a pattern that reads the candles, then these measures.
fn expand(builder: &mut Builder, pattern: Rowwise, measures: &[Measure]) -> Vec<Series> {
    let mut inputs = bars(builder).to_vec();
    let measures = measures.iter().map(|measure| match measure {
        Body => mean_body_before(builder, MEAN_ROWS),
        Range => mean_range_before(builder, MEAN_ROWS),
        Near => mean_range_before(builder, NEAR_ROWS),
    });
    let measures: Vec<Series> = measures.collect();
    inputs.extend(measures);
    builder.window(pattern, &inputs)
}

/// `mark` where the pattern is, else 0; NaN where the present candle is missing.
#[inline(always)]
fn pattern(is_there: bool, mark: f64, present: [f64; 4]) -> f64 {
    let mark = if is_there { mark } else { 0.0 };
    let [o, h, l, c] = present;
    if o.is_nan() | h.is_nan() | l.is_nan() | c.is_nan() {
        f64::NAN
    } else {
        mark
    }
}

#[inline(always)]
fn body_of(o: f64, c: f64) -> f64 {
    (c - o).abs()
}

/// TA-Lib counts a candle without body as white.
#[inline(always)]
fn is_white(o: f64, c: f64) -> bool {
    c >= o
}

#[inline(always)]
fn is_black(o: f64, c: f64) -> bool {
    c < o
}

// Inputs: 0 open, 1 high, 2 low, 3 close, then the measures in the order in which `expand` is given them. A digit in a
// variable's name says how many rows ago it is; `m` are means of bodies, `r` of ranges, `near` of the ranges of five.
rowwise! {
    ENGULFING = "cdl_engulfing", true, 2,
        (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0, o1 = 0 - 1, c1 = 3 - 1, c2 = 3 - 2) -> (mark) {
        let rises = is_white(o, c)
            & is_black(o1, c1)
            & (((c >= o1) & (o < c1)) | ((c > o1) & (o <= c1)));
        let falls = is_black(o, c)
            & is_white(o1, c1)
            & (((o >= c1) & (c < o1)) | ((o > c1) & (c <= o1)));
        // TA-Lib begins at row 2.
        let is_there = (rises | falls) & !c2.is_nan();
        let touches = ((o >= c1) & (o <= c1)) | ((c >= o1) & (c <= o1));
        let size = if touches { 80.0 } else { 100.0 };
        let mark = if rises { size } else { -size };
        [pattern(is_there, mark, [o, h, l, c])]
    }

    HAMMER = "cdl_hammer", true, 1,
        (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0, m = 4 - 0, r = 5 - 0, l1 = 2 - 1, m1 = 4 - 1, near1 = 6 - 1) -> (mark) {
        let is_there = (body_of(o, c) < m)
            & (min(o, c) - l > body_of(o, c))
            & (h - max(o, c) < VERY_SHORT * r)
            & (min(o, c) <= l1 + NEAR * near1)
            & !m1.is_nan();
        [pattern(is_there, 100.0, [o, h, l, c])]
    }

    HANGING_MAN = "cdl_hangingman", true, 1,
        (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0, m = 4 - 0, r = 5 - 0, h1 = 1 - 1, m1 = 4 - 1, near1 = 6 - 1) -> (mark) {
        let is_there = (body_of(o, c) < m)
            & (min(o, c) - l > body_of(o, c))
            & (h - max(o, c) < VERY_SHORT * r)
            & (min(o, c) >= h1 - NEAR * near1)
            & !m1.is_nan();
        [pattern(is_there, -100.0, [o, h, l, c])]
    }

    HARAMI = "cdl_harami", true, 1,
        (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0, m = 4 - 0, o1 = 0 - 1, c1 = 3 - 1, m1 = 4 - 1) -> (mark) {
        let (top, bottom, top1, bottom1) = (max(o, c), min(o, c), max(o1, c1), min(o1, c1));
        let is_there = (body_of(o1, c1) > m1) & (body_of(o, c) <= m) & (top <= top1) & (bottom >= bottom1);
        let size = if (top < top1) & (bottom > bottom1) { 100.0 } else { 80.0 };
        let mark = if is_white(o1, c1) { -size } else { size };
        [pattern(is_there, mark, [o, h, l, c])]
    }

    MORNING_STAR = "cdl_morningstar", true, 2,
        (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0, m = 4 - 0, o1 = 0 - 1, c1 = 3 - 1, m1 = 4 - 1,
         o2 = 0 - 2, c2 = 3 - 2, m2 = 4 - 2) -> (mark) {
        let is_there = (body_of(o2, c2) > m2)
            & is_black(o2, c2)
            & (body_of(o1, c1) <= m1)
            & (max(o1, c1) < min(o2, c2))
            & (body_of(o, c) > m)
            & is_white(o, c)
            & (c > c2 + body_of(o2, c2) * STAR_PENETRATION);
        [pattern(is_there, 100.0, [o, h, l, c])]
    }

    EVENING_STAR = "cdl_eveningstar", true, 2,
        (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0, m = 4 - 0, o1 = 0 - 1, c1 = 3 - 1, m1 = 4 - 1,
         o2 = 0 - 2, c2 = 3 - 2, m2 = 4 - 2) -> (mark) {
        let is_there = (body_of(o2, c2) > m2)
            & is_white(o2, c2)
            & (body_of(o1, c1) <= m1)
            & (min(o1, c1) > max(o2, c2))
            & (body_of(o, c) > m)
            & is_black(o, c)
            & (c < c2 - body_of(o2, c2) * STAR_PENETRATION);
        [pattern(is_there, -100.0, [o, h, l, c])]
    }

    THREE_WHITE_SOLDIERS = "cdl_3whitesoldiers", true, 2,
        (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0, m = 4 - 0, r = 5 - 0,
         o1 = 0 - 1, h1 = 1 - 1, c1 = 3 - 1, r1 = 5 - 1, near1 = 6 - 1,
         o2 = 0 - 2, h2 = 1 - 2, c2 = 3 - 2, r2 = 5 - 2, near2 = 6 - 2) -> (mark) {
        let is_there = is_white(o2, c2)
            & (h2 - c2 < VERY_SHORT * r2)
            & is_white(o1, c1)
            & (h1 - c1 < VERY_SHORT * r1)
            & is_white(o, c)
            & (h - c < VERY_SHORT * r)
            & (c > c1)
            & (c1 > c2)
            & (o1 > o2)
            & (o1 <= c2 + NEAR * near2)
            & (o > o1)
            & (o <= c1 + NEAR * near1)
            & (body_of(o1, c1) > body_of(o2, c2) - FAR * near2)
            & (body_of(o, c) > body_of(o1, c1) - FAR * near1)
            & (body_of(o, c) > m);
        [pattern(is_there, 100.0, [o, h, l, c])]
    }

    THREE_BLACK_CROWS = "cdl_3blackcrows", true, 3,
        (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0, r = 4 - 0,
         o1 = 0 - 1, l1 = 2 - 1, c1 = 3 - 1, r1 = 4 - 1,
         o2 = 0 - 2, l2 = 2 - 2, c2 = 3 - 2, r2 = 4 - 2,
         o3 = 0 - 3, h3 = 1 - 3, c3 = 3 - 3, r3 = 4 - 3) -> (mark) {
        let is_there = is_white(o3, c3)
            & is_black(o2, c2)
            & (c2 - l2 < VERY_SHORT * r2)
            & is_black(o1, c1)
            & (c1 - l1 < VERY_SHORT * r1)
            & is_black(o, c)
            & (c - l < VERY_SHORT * r)
            & (o1 < o2)
            & (o1 > c2)
            & (o < o1)
            & (o > c1)
            & (h3 > c2)
            & (c2 > c1)
            & (c1 > c)
            // TA-Lib begins at row 13.
            & !r3.is_nan();
        [pattern(is_there, -100.0, [o, h, l, c])]
    }

    PIERCING = "cdl_piercing", true, 1,
        (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0, m = 4 - 0, o1 = 0 - 1, l1 = 2 - 1, c1 = 3 - 1, m1 = 4 - 1) -> (mark) {
        let is_there = is_black(o1, c1)
            & (body_of(o1, c1) > m1)
            & is_white(o, c)
            & (body_of(o, c) > m)
            & (o < l1)
            & (c < o1)
            & (c > c1 + body_of(o1, c1) * CLOUD_PENETRATION);
        [pattern(is_there, 100.0, [o, h, l, c])]
    }

    DARK_CLOUD_COVER = "cdl_darkcloudcover", true, 1,
        (o = 0 - 0, h = 1 - 0, l = 2 - 0, c = 3 - 0, o1 = 0 - 1, h1 = 1 - 1, c1 = 3 - 1, m1 = 4 - 1) -> (mark) {
        let is_there = is_white(o1, c1)
            & (body_of(o1, c1) > m1)
            & is_black(o, c)
            & (o > h1)
            & (c > o1)
            & (c < c1 - body_of(o1, c1) * CLOUD_PENETRATION);
        [pattern(is_there, -100.0, [o, h, l, c])]
    }
}

/// A candle pattern.
macro_rules! of_candles {
    ($name:literal, $expand:expr, $definition:literal) => {
        Indicator {
            name: $name,
            series: &[],
            bars: BARS,
            parameters: &[],
            outputs: &[Output {
                name: "",
                unit: Unit::Pattern,
            }],
            definition: $definition,
            source: "TA-Lib with its default candle settings; Morris, Candlestick Charting Explained",
            expand: $expand,
        }
    };
}

pub(super) const INDICATORS: &[Indicator] = &[
    of_candles!(
        "cdl_doji",
        |builder, _, _| {
            let bars = bars(builder);
            vec![doji(builder, bars)]
        },
        "100 where the body is at most a tenth of the mean range of the ten candles before, else 0; 0 in the first 10 rows."
    ),
    of_candles!(
        "cdl_engulfing",
        |builder, _, _| {
            let inputs = bars(builder);
            builder.window(ENGULFING, &inputs)
        },
        "100 where a white body engulfs the black body before, -100 where a black one engulfs a white one, 80 and -80 where they \
         match at one end, else 0; 0 in the first 2 rows."
    ),
    of_candles!(
        "cdl_hammer",
        |builder, _, _| expand(builder, HAMMER, &[Body, Range, Near]),
        "100 for a short body with a lower shadow longer than it and a very short upper one, at or near the low before, else 0; 0 \
         in the first 11 rows."
    ),
    of_candles!(
        "cdl_shootingstar",
        |builder, _, _| {
            let bars = bars(builder);
            vec![shooting_star(builder, bars)]
        },
        "-100 for a short body above the body before, with an upper shadow longer than it and a very short lower one, else 0; 0 in \
         the first 11 rows."
    ),
    of_candles!(
        "cdl_morningstar",
        |builder, _, _| expand(builder, MORNING_STAR, &[Body]),
        "100 for a long black candle, a short body below it, and a long white candle that closes more than 0.3 of the first body \
         above the first close, else 0; 0 in the first 12 rows."
    ),
    of_candles!(
        "cdl_eveningstar",
        |builder, _, _| expand(builder, EVENING_STAR, &[Body]),
        "-100 for a long white candle, a short body above it, and a long black candle that closes more than 0.3 of the first body \
         below the first close, else 0; 0 in the first 12 rows."
    ),
    of_candles!(
        "cdl_harami",
        |builder, _, _| expand(builder, HARAMI, &[Body]),
        "100 for a short body within the long black body before, -100 within a long white one, 80 and -80 where they match at one \
         end, else 0; 0 in the first 11 rows."
    ),
    of_candles!(
        "cdl_3whitesoldiers",
        |builder, _, _| expand(builder, THREE_WHITE_SOLDIERS, &[Body, Range, Near]),
        "100 for three white candles with rising closes and very short upper shadows, each opening within or near the body before, \
         none far shorter than the one before and the last not short, else 0; 0 in the first 12 rows."
    ),
    of_candles!(
        "cdl_3blackcrows",
        |builder, _, _| expand(builder, THREE_BLACK_CROWS, &[Range]),
        "-100 for three black candles with falling closes and very short lower shadows after a white candle, each opening within \
         the body before, else 0; 0 in the first 13 rows."
    ),
    of_candles!(
        "cdl_hangingman",
        |builder, _, _| expand(builder, HANGING_MAN, &[Body, Range, Near]),
        "-100 for a short body with a lower shadow longer than it and a very short upper one, at or near the high before, else 0; \
         0 in the first 11 rows."
    ),
    of_candles!(
        "cdl_piercing",
        |builder, _, _| expand(builder, PIERCING, &[Body]),
        "100 for a long black candle and a long white one that opens below its low and closes within the upper half of its body, \
         else 0; 0 in the first 11 rows."
    ),
    of_candles!(
        "cdl_darkcloudcover",
        |builder, _, _| expand(builder, DARK_CLOUD_COVER, &[Body]),
        "-100 for a long white candle and a black one that opens above its high and closes within the lower half of its body, else \
         0; 0 in the first 11 rows."
    ),
];

#[cfg(test)]
mod tests {
    use super::super::check::{Golden, market, values};
    use super::*;

    #[test]
    fn patterns_are_those_of_ta_lib() {
        let Some(golden) = Golden::load() else { return };

        for indicator in INDICATORS {
            let column = values(&golden.bars, indicator.name, &[], &[], "");
            golden.assert_is(indicator.name, &column, 0.0);
        }
    }

    #[test]
    fn a_wild_candle_is_forgotten_with_its_window() {
        let bars = market(400, 3);
        let mut wild = bars.clone();
        (wild.high[200], wild.low[200]) = (1e9, 1e-9);

        for indicator in INDICATORS {
            let (tame, wild) = (
                values(&bars, indicator.name, &[], &[], ""),
                values(&wild, indicator.name, &[], &[], ""),
            );
            assert_eq!(tame[..200], wild[..200], "{}", indicator.name);
            assert_eq!(tame[214..], wild[214..], "{}", indicator.name);
        }
    }

    #[test]
    fn every_pattern_occurs_in_candles_made_for_it() {
        // Ten plain candles, then the pattern: open, high, low, close.
        let plain = [[10.0, 10.6, 9.4, 10.4], [10.4, 11.0, 9.8, 10.0]];
        let cases: [(&str, f64, &[[f64; 4]]); 12] = [
            ("cdl_doji", 100.0, &[[10.0, 10.5, 9.5, 10.01]]),
            (
                "cdl_engulfing",
                100.0,
                &[[10.4, 10.5, 9.9, 10.0], [9.9, 10.6, 9.8, 10.5]],
            ),
            (
                "cdl_hammer",
                100.0,
                &[[10.0, 10.6, 9.4, 10.4], [9.5, 9.62, 8.5, 9.6]],
            ),
            (
                "cdl_hangingman",
                -100.0,
                &[[10.0, 10.6, 9.4, 10.4], [10.5, 10.62, 9.5, 10.6]],
            ),
            (
                "cdl_shootingstar",
                -100.0,
                &[[10.0, 10.6, 9.4, 10.4], [10.5, 11.5, 10.48, 10.6]],
            ),
            (
                "cdl_harami",
                100.0,
                &[[11.0, 11.1, 9.9, 10.0], [10.4, 10.7, 10.3, 10.6]],
            ),
            (
                "cdl_morningstar",
                100.0,
                &[
                    [11.0, 11.1, 9.9, 10.0],
                    [9.8, 9.9, 9.6, 9.7],
                    [9.8, 10.9, 9.7, 10.8],
                ],
            ),
            (
                "cdl_eveningstar",
                -100.0,
                &[
                    [10.0, 11.1, 9.9, 11.0],
                    [11.2, 11.4, 11.1, 11.3],
                    [11.2, 11.3, 10.1, 10.2],
                ],
            ),
            (
                "cdl_3whitesoldiers",
                100.0,
                &[
                    [10.0, 11.0, 9.9, 11.0],
                    [10.5, 11.5, 10.4, 11.5],
                    [11.0, 12.0, 10.9, 12.0],
                ],
            ),
            (
                "cdl_3blackcrows",
                -100.0,
                &[
                    [11.0, 12.1, 10.9, 12.0],
                    [12.0, 12.1, 11.0, 11.0],
                    [11.5, 11.6, 10.5, 10.5],
                    [11.0, 11.1, 10.0, 10.0],
                ],
            ),
            (
                "cdl_piercing",
                100.0,
                &[[11.0, 11.1, 9.9, 10.0], [9.8, 10.9, 9.7, 10.8]],
            ),
            (
                "cdl_darkcloudcover",
                -100.0,
                &[[10.0, 11.1, 9.9, 11.0], [11.2, 11.3, 10.1, 10.2]],
            ),
        ];
        for (name, mark, candles) in cases {
            let mut bars = crate::bars::BarColumns::default();
            for [open, high, low, close] in plain.iter().cycle().take(16).chain(candles).copied() {
                bars.push(crate::bars::Bar {
                    ts_ns: 0,
                    open,
                    high,
                    low,
                    close,
                    volume: 1.0,
                });
            }

            let column = values(&bars, name, &[], &[], "");

            assert_eq!(column.last(), Some(&mark), "{name}");
            bars.close.last_mut().unwrap().clone_from(&f64::NAN);
            assert!(
                values(&bars, name, &[], &[], "").last().unwrap().is_nan(),
                "{name}"
            );
        }
    }
}
