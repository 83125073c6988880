//! Mean bodies and ranges of the candles before the present one, and patterns that little more than compares with them.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their vectorised callers"
)]

use std::marker::PhantomData;

use super::{
    super::{
        patterns::{MEAN_ROWS, VERY_SHORT},
        program::{Builder, Input, Series},
    },
    lanes::Lanes,
    tree::{Statistic, Terms, TreeOf},
};

/// The sum over the number of rows, divided last, as TA-Lib has it: patterns compare with shares of it, to the bit.
#[derive(Debug)]
struct SumOverRows;

impl Statistic<1, 1> for SumOverRows {
    const NAME: &'static str = "sum over rows";

    #[inline(always)]
    fn leaf<V: Lanes>([x, _]: [V; 2]) -> [V; 1] {
        [x]
    }

    #[inline(always)]
    fn factors(_older: usize, _newer: usize, _distance: usize) -> [f64; 3] {
        [0.0; 3]
    }

    #[inline(always)]
    fn join<V: Lanes>(
        [older]: [V; 1],
        [newer]: [V; 1],
        _apart: [V; 2],
        _factors: [V; 3],
    ) -> [V; 1] {
        [newer.add(older)]
    }

    #[inline(always)]
    fn scale(n_rows: usize) -> [f64; 3] {
        [n_rows as f64, 0.0, 0.0]
    }

    #[inline(always)]
    fn result<V: Lanes>([sum]: [V; 1], _last: V, [n_rows, ..]: [V; 3]) -> [V; 1] {
        [sum.div(n_rows)]
    }
}

/// Bodies of opens and closes a row ago.
#[derive(Debug)]
struct Bodies;

impl Terms<2> for Bodies {
    const NAME: &'static str = "mean body before";
    const READS: [(usize, usize); 2] = [(0, 1), (1, 1)];

    #[inline(always)]
    fn of<V: Lanes>([open, close]: [V; 2]) -> [V; 2] {
        let body = close.sub(open).abs();
        [body, body]
    }
}

/// Ranges of highs and lows a row ago.
#[derive(Debug)]
struct Ranges;

impl Terms<2> for Ranges {
    const NAME: &'static str = "mean range before";
    const READS: [(usize, usize); 2] = [(0, 1), (1, 1)];

    #[inline(always)]
    fn of<V: Lanes>([high, low]: [V; 2]) -> [V; 2] {
        let range = high.sub(low);
        [range, range]
    }
}

/// Terms of which the first is averaged over the candles before the present one, and the second compared with that.
trait Compared<const I: usize>: Terms<I> + 'static {
    /// The share of the mean that the present candle's number must be below.
    const SHARE: f64;
    /// Whether it may also be equal.
    const OR_EQUAL: bool;
    /// The result where it is; 0 elsewhere, and where the mean is missing.
    const MARK: f64;
}

/// The sum of the first terms, and the second one of the newest row.
#[derive(Debug)]
struct Comparison<T, const I: usize>(PhantomData<T>);

impl<T: Compared<I>, const I: usize> Statistic<2, 1> for Comparison<T, I> {
    const NAME: &'static str = T::NAME;

    #[inline(always)]
    fn leaf<V: Lanes>(x: [V; 2]) -> [V; 2] {
        x
    }

    #[inline(always)]
    fn factors(_older: usize, _newer: usize, _distance: usize) -> [f64; 3] {
        [0.0; 3]
    }

    #[inline(always)]
    fn join<V: Lanes>(
        [older, _]: [V; 2],
        [newer, present]: [V; 2],
        _apart: [V; 2],
        _factors: [V; 3],
    ) -> [V; 2] {
        [newer.add(older), present]
    }

    #[inline(always)]
    fn scale(n_rows: usize) -> [f64; 3] {
        [n_rows as f64, 0.0, 0.0]
    }

    #[inline(always)]
    fn result<V: Lanes>([sum, present]: [V; 2], _last: V, [n_rows, ..]: [V; 3]) -> [V; 1] {
        let most = V::splat(T::SHARE).mul(sum.div(n_rows));
        let (mark, nothing) = (V::splat(T::MARK), V::splat(0.0));
        let mut is_there = most.if_ge(present, mark, nothing);
        if !T::OR_EQUAL {
            is_there = present.if_ge(most, nothing, is_there);
        }
        [present.if_ge(present, is_there, present)]
    }
}

/// 0; NaN where one of the present candle's prices is.
#[inline(always)]
fn nothing<V: Lanes>([open, high, low, close]: [V; 4]) -> V {
    open.add(close).add(high.sub(low)).mul(V::splat(0.0))
}

/// A body against ranges.
#[derive(Debug)]
struct Doji;

impl Terms<6> for Doji {
    const NAME: &'static str = "cdl_doji";
    const READS: [(usize, usize); 6] = [(0, 0), (1, 0), (2, 0), (3, 0), (1, 1), (2, 1)];
    const FROM_THE_START: bool = true;

    #[inline(always)]
    fn of<V: Lanes>([open, high, low, close, high_before, low_before]: [V; 6]) -> [V; 2] {
        let body = close.sub(open).abs();
        [
            high_before.sub(low_before),
            body.add(nothing([open, high, low, close])),
        ]
    }
}

impl Compared<6> for Doji {
    const SHARE: f64 = VERY_SHORT;
    const OR_EQUAL: bool = true;
    const MARK: f64 = 100.0;
}

/// A body against bodies, where the rest of a shooting star is there but for its lower shadow.
#[derive(Debug)]
struct Star;

impl Terms<8> for Star {
    const NAME: &'static str = "star";
    /// The oldest candle must be there for a mean of the row before.
    const READS: [(usize, usize); 8] = [
        (0, 0),
        (1, 0),
        (2, 0),
        (3, 0),
        (0, 1),
        (3, 1),
        (0, MEAN_ROWS + 1),
        (3, MEAN_ROWS + 1),
    ];
    const FROM_THE_START: bool = true;

    #[inline(always)]
    fn of<V: Lanes>(x: [V; 8]) -> [V; 2] {
        let [
            open,
            high,
            low,
            close,
            open_1,
            close_1,
            oldest_open,
            oldest_close,
        ] = x;
        let body = close.sub(open).abs();
        let none = V::splat(f64::INFINITY);
        let oldest = oldest_close.sub(oldest_open);
        // What is compared is more than any mean unless all of these hold.
        let upper = high.sub(open.max(close));
        let is_free = body.if_ge(upper, none, body);
        let is_above = open_1.max(close_1).if_ge(open.min(close), none, is_free);
        let is_known = oldest.if_ge(oldest, is_above, none);
        let is_after = open_1.if_ge(open_1, close_1.if_ge(close_1, is_known, none), none);
        [
            close_1.sub(open_1).abs(),
            is_after.add(nothing([open, high, low, close])),
        ]
    }
}

impl Compared<8> for Star {
    const SHARE: f64 = 1.0;
    const OR_EQUAL: bool = false;
    const MARK: f64 = 1.0;
}

/// The lower shadow of a [`Star`], the last input, against ranges.
#[derive(Debug)]
struct LowerShadow;

impl Terms<6> for LowerShadow {
    const NAME: &'static str = "cdl_shootingstar";
    const READS: [(usize, usize); 6] = [(0, 0), (2, 0), (3, 0), (1, 1), (2, 1), (4, 0)];
    const FROM_THE_START: bool = true;

    #[inline(always)]
    fn of<V: Lanes>([open, low, close, high_before, low_before, is_star]: [V; 6]) -> [V; 2] {
        let shadow = open.min(close).sub(low);
        let none = V::splat(f64::INFINITY).mul(is_star.add(V::splat(1.0)));
        [
            high_before.sub(low_before),
            is_star.if_ge(V::splat(1.0), shadow, none),
        ]
    }
}

impl Compared<6> for LowerShadow {
    const SHARE: f64 = VERY_SHORT;
    const OR_EQUAL: bool = false;
    const MARK: f64 = -100.0;
}

fn comparison<T: Compared<I>, const I: usize>(builder: &mut Builder, inputs: &[Series]) -> Series {
    builder.window(
        TreeOf::<T, Comparison<T, I>, I, 2, 1>::new(MEAN_ROWS),
        inputs,
    )[0]
}

/// The pattern `cdl_doji` of open, high, low and close.
pub(in super::super) fn doji(builder: &mut Builder, bars: [Series; 4]) -> Series {
    comparison::<Doji, 6>(builder, &bars)
}

/// The pattern `cdl_shootingstar` of open, high, low and close.
pub(in super::super) fn shooting_star(builder: &mut Builder, bars: [Series; 4]) -> Series {
    let [open, high, low, close] = bars;
    let star = comparison::<Star, 8>(builder, &bars);
    comparison::<LowerShadow, 6>(builder, &[open, high, low, close, star])
}

/// The mean body of the `n` candles before the present one.
pub(in super::super) fn mean_body_before(builder: &mut Builder, n: usize) -> Series {
    let inputs = [Input::Open, Input::Close].map(|input| builder.input(input));
    builder.window(TreeOf::<Bodies, SumOverRows, 2, 1, 1>::new(n), &inputs)[0]
}

/// The mean range of the `n` candles before the present one.
pub(in super::super) fn mean_range_before(builder: &mut Builder, n: usize) -> Series {
    let inputs = [Input::High, Input::Low].map(|input| builder.input(input));
    builder.window(TreeOf::<Ranges, SumOverRows, 2, 1, 1>::new(n), &inputs)[0]
}
