//! Largest and smallest values of windows.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their vectorised callers"
)]

use super::{
    super::{
        catalog::{Indicator, Output, Unit},
        pointwise::{formulas, quotient_or},
        program::{Builder, Input, Series},
    },
    lanes::Lanes,
    rows,
    tree::{Statistic, Tree},
};

macro_rules! extreme {
    ($(#[$doc:meta])* $name:ident, $id:literal, $pick:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;

        impl Statistic<1, 1> for $name {
            const NAME: &'static str = $id;
            const OVERLAPS: bool = true;

            #[inline(always)]
            fn leaf<V: Lanes>([x, _]: [V; 2]) -> [V; 1] {
                [x]
            }

            #[inline(always)]
            fn factors(_older: usize, _newer: usize, _distance: usize) -> [f64; 3] {
                [0.0; 3]
            }

            #[inline(always)]
            fn join<V: Lanes>([older]: [V; 1], [newer]: [V; 1], _apart: [V; 2], _factors: [V; 3]) -> [V; 1] {
                [newer.$pick(older)]
            }

            #[inline(always)]
            fn scale(_n_rows: usize) -> [f64; 3] {
                [0.0; 3]
            }

            #[inline(always)]
            fn result<V: Lanes>(state: [V; 1], _last: V, _scale: [V; 3]) -> [V; 1] {
                state
            }
        }
    };
}

extreme!(
    /// The largest value.
    Largest,
    "max",
    max
);
extreme!(
    /// The smallest value.
    Smallest,
    "min",
    min
);

macro_rules! place_of_extreme {
    ($(#[$doc:meta])* $name:ident, $id:literal, $pick:ident, |$a:ident, $b:ident| $is_at_least:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;

        impl Statistic<2, 1> for $name {
            const NAME: &'static str = $id;
            const OVERLAPS: bool = true;

            #[inline(always)]
            fn leaf<V: Lanes>([x, _]: [V; 2]) -> [V; 2] {
                [x, V::splat(0.0)]
            }

            #[inline(always)]
            fn factors(_older: usize, _newer: usize, distance: usize) -> [f64; 3] {
                [distance as f64, 0.0, 0.0]
            }

            /// The value, and its rows after the first; the newest of equal ones.
            #[inline(always)]
            fn join<V: Lanes>(
                [older, place]: [V; 2],
                [newer, newer_place]: [V; 2],
                _apart: [V; 2],
                [distance, ..]: [V; 3],
            ) -> [V; 2] {
                let ($a, $b) = (newer, older);
                let (x, y): (V, V) = $is_at_least;
                [
                    newer.$pick(older),
                    x.if_ge(y, newer_place.add(distance), place),
                ]
            }

            #[inline(always)]
            fn scale(n_rows: usize) -> [f64; 3] {
                [n_rows as f64 - 1.0, 0.0, 0.0]
            }

            /// The rows since; NaN if the value is.
            #[inline(always)]
            fn result<V: Lanes>([x, place]: [V; 2], _last: V, [last, ..]: [V; 3]) -> [V; 1] {
                [x.if_ge(x, last.sub(place), x)]
            }
        }
    };
}

place_of_extreme!(
    /// The place of the newest of the largest values.
    PlaceOfLargest,
    "argmax",
    max,
    |newer, older| (newer, older)
);
place_of_extreme!(
    /// The place of the newest of the smallest values.
    PlaceOfSmallest,
    "argmin",
    min,
    |newer, older| (older, newer)
);

/// Rows since the largest of the last `n` rows, the newest of equal ones.
pub(in super::super) fn argmax(builder: &mut Builder, x: Series, n: usize) -> Series {
    builder.window(Tree::<PlaceOfLargest, 2, 1>::new(n), &[x])[0]
}

/// Rows since the smallest of the last `n` rows, the newest of equal ones.
pub(in super::super) fn argmin(builder: &mut Builder, x: Series, n: usize) -> Series {
    builder.window(Tree::<PlaceOfSmallest, 2, 1>::new(n), &[x])[0]
}

/// Largest value of the last `n` rows.
pub(in super::super) fn max(builder: &mut Builder, x: Series, n: usize) -> Series {
    builder.window(Tree::<Largest, 1, 1>::new(n), &[x])[0]
}

/// Smallest value of the last `n` rows.
pub(in super::super) fn min(builder: &mut Builder, x: Series, n: usize) -> Series {
    builder.window(Tree::<Smallest, 1, 1>::new(n), &[x])[0]
}

formulas! {
    /// Place between two bounds, 0 to 1; NaN where they are equal.
    fn place_between(x, least, most) quotient_or(x - least, most - least, f64::NAN)
    /// The middle of two numbers.
    fn middle(x, y) 0.5 * (x + y)
}

fn price_position(builder: &mut Builder, x: Series, n: usize) -> Series {
    let (least, most) = (min(builder, x, n), max(builder, x, n));
    place_between(builder, x, least, most)
}

fn donchian(builder: &mut Builder, n: usize) -> Vec<Series> {
    let (upper, lower) = highest_lowest(builder, n);
    vec![upper, lower, middle(builder, upper, lower)]
}

/// Highest high and lowest low of the last `n` bars.
pub(in super::super) fn highest_lowest(builder: &mut Builder, n: usize) -> (Series, Series) {
    let (high, low) = (builder.input(Input::High), builder.input(Input::Low));
    (max(builder, high, n), min(builder, low, n))
}

const VALUE: &[Output] = &[Output {
    name: "",
    unit: Unit::OfSeries,
}];

const ROWS: &[Output] = &[Output {
    name: "",
    unit: Unit::Rows,
}];

pub(in super::super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "max",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 1, None)],
        outputs: VALUE,
        definition: "Largest of the last n rows.",
        source: "",
        expand: |b, x, p| vec![max(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "min",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 1, None)],
        outputs: VALUE,
        definition: "Smallest of the last n rows.",
        source: "",
        expand: |b, x, p| vec![min(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "argmax",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 1, None)],
        outputs: ROWS,
        definition: "Rows since the largest of the last n rows, 0 if it is the present one; since the newest of equal ones.",
        source: "",
        expand: |b, x, p| vec![argmax(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "argmin",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 1, None)],
        outputs: ROWS,
        definition: "Rows since the smallest of the last n rows, 0 if it is the present one; since the newest of equal ones.",
        source: "",
        expand: |b, x, p| vec![argmin(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "price_position",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 2, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Place of the value between the smallest and the largest of the last n rows, 0 to 1; not defined where all are equal.",
        source: "",
        expand: |b, x, p| vec![price_position(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "donchian",
        series: &[],
        bars: &[Input::High, Input::Low],
        parameters: &[rows("n", 1, None)],
        outputs: &[
            Output {
                name: "upper",
                unit: Unit::Price,
            },
            Output {
                name: "lower",
                unit: Unit::Price,
            },
            Output {
                name: "mid",
                unit: Unit::Price,
            },
        ],
        definition: "Donchian channel: highest high and lowest low of the last n bars, the present one included, and the middle between them.",
        source: "",
        expand: |b, _, p| donchian(b, p[0] as usize),
    },
];

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use super::super::super::{
        check::{market, values},
        program::Input,
    };

    #[test]
    fn extremes_and_their_places_are_the_plain_ones() {
        let mut bars = market(400, 11);
        // Ties of all kinds, and a gap.
        bars.close.iter_mut().for_each(|x| *x = x.round());
        bars.close[200] = f64::NAN;
        for n in [1, 2, 3, 5, 8, 14, 15, 16, 17, 33] {
            let of = |name| values(&bars, name, &[Input::Close], &[n as f64], "");
            let (max, min, argmax, argmin) = (of("max"), of("min"), of("argmax"), of("argmin"));
            for t in 0..bars.close.len() {
                let rows: &[f64] = if t + 1 < n {
                    &[f64::NAN]
                } else {
                    &bars.close[t + 1 - n..=t]
                };
                if rows.iter().any(|x| x.is_nan()) {
                    let all = [max[t], min[t], argmax[t], argmin[t]];
                    assert!(all.iter().all(|x| x.is_nan()), "row {t} of {n}: {all:?}");
                    continue;
                }
                let since = |x: f64| rows.iter().rev().position(|y| *y == x).unwrap() as f64;
                let largest = rows.iter().copied().fold(f64::MIN, f64::max);
                let smallest = rows.iter().copied().fold(f64::MAX, f64::min);
                assert_eq!(
                    [max[t], min[t], argmax[t], argmin[t]],
                    [largest, smallest, since(largest), since(smallest)],
                    "row {t} of {n}"
                );
            }
        }
    }
}
