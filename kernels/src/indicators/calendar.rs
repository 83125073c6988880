//! Place of a bar in the day, the week and the year, as sine and cosine.

#![expect(
    clippy::float_cmp,
    clippy::needless_bitwise_bool,
    reason = "whole numbers, and conditions without branches, which vectorise"
)]

use super::{
    catalog::{Indicator, Output, Unit},
    kernel::{Id, Scratch, Window},
    program::Input,
};
use crate::dispatch::dispatched;

/// A cycle of the calendar, from the day (days since 1970-01-01) or the time of day (nanoseconds).
#[derive(Debug, Clone, Copy)]
enum Cycle {
    Day,
    Week,
    Year,
}

impl Window for Cycle {
    fn id(&self) -> Id {
        Id::new(
            match self {
                Cycle::Day => "time_of_day",
                Cycle::Week => "day_of_week",
                Cycle::Year => "month_of_year",
            },
            [],
        )
    }

    fn lookback(&self) -> usize {
        0
    }

    fn n_outputs(&self) -> usize {
        2
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], _: &mut Scratch) {
        let ([time], [sine, cosine]) = (inputs, outputs) else {
            unreachable!("a cycle has one input and two outputs")
        };
        match self {
            Cycle::Day => parts_of_day(time, sine),
            Cycle::Week => parts_of_week(time, sine),
            Cycle::Year => parts_of_year(time, sine),
        }
        sines_and_cosines(sine, cosine);
    }
}

/// Nanoseconds of a day.
const DAY_NS: f64 = 86_400e9;

dispatched! {
    fn parts_of_day(time_of_day_ns: &[f64], part: &mut [f64]) {
        for (part, ns) in part.iter_mut().zip(time_of_day_ns) {
            *part = ns / DAY_NS;
        }
    }

    fn parts_of_week(day: &[f64], part: &mut [f64]) {
        for (part, day) in part.iter_mut().zip(day) {
            // 1970-01-01 was a Thursday: three days after a Monday.
            let since_monday = day + 3.0;
            let in_week = (-7.0_f64).mul_add((since_monday / 7.0).floor(), since_monday);
            *part = in_week / 7.0;
        }
    }

    /// Replaces angles in turns from 0 to 1, 1 not included, by their sines; their cosines are the other output.
    ///
    /// The polynomials are those of fdlibm (Sun Microsystems, 1993) for angles up to an eighth of a turn. In turns, the
    /// reduction to that range is exact, and so are the values at quarters of a turn.
    fn sines_and_cosines(turns_to_sine: &mut [f64], cosine: &mut [f64]) {
        let n_rows = cosine.len();
        let turns_to_sine = &mut turns_to_sine[..n_rows];
        for t in 0..n_rows {
            let turns = turns_to_sine[t];
            let quarter = 4.0_f64.mul_add(turns, 0.5).floor();
            let x = (-0.25_f64).mul_add(quarter, turns) * std::f64::consts::TAU;
            let z = x * x;
            let tail = SINE[1..].iter().rev().fold(0.0, |sum: f64, c| sum.mul_add(z, *c));
            let sine = (x * z).mul_add(z.mul_add(tail, SINE[0]), x);
            let tail = COSINE.iter().rev().fold(0.0, |sum: f64, c| sum.mul_add(z, *c));
            let (half, near) = (0.5 * z, 1.0 - 0.5 * z);
            let cos = near + (z * z).mul_add(tail, (1.0 - near) - half);
            // The first, third and fifth quarter begin where sine and cosine change places.
            let is_swapped = (quarter == 1.0) | (quarter == 3.0);
            let (s, c) = if is_swapped { (cos, sine) } else { (sine, cos) };
            let s = if (quarter == 2.0) | (quarter == 3.0) { 0.0 - s } else { s };
            let c = if (quarter == 1.0) | (quarter == 2.0) { 0.0 - c } else { c };
            turns_to_sine[t] = s;
            cosine[t] = c;
        }
    }
}

/// Coefficients of `x^3, x^5 ...` of the sine.
const SINE: [f64; 6] = [
    -1.666_666_666_666_663_2e-1,
    8.333_333_333_322_49e-3,
    -1.984_126_982_985_795e-4,
    2.755_731_370_707_006_8e-6,
    -2.505_076_025_340_686_3e-8,
    1.589_690_995_211_55e-10,
];
/// Coefficients of `x^4, x^6 ...` of the cosine.
const COSINE: [f64; 6] = [
    4.166_666_666_666_66e-2,
    -1.388_888_888_887_411e-3,
    2.480_158_728_947_673e-5,
    -2.755_731_435_139_066_3e-7,
    2.087_572_321_298_175e-9,
    -1.135_964_755_778_819_5e-11,
];

fn parts_of_year(days: &[f64], part: &mut [f64]) {
    // A month is looked up once for all bars of a day.
    let mut known = (f64::NAN, f64::NAN);
    for (part, &day) in part.iter_mut().zip(days) {
        if known.0 != day {
            known = (day, (month(day as i64) - 1) as f64 / 12.0);
        }
        *part = known.1;
    }
}

/// The month, 1 to 12, of a day since 1970-01-01 in the Gregorian calendar (Hinnant, 2013, `chrono`-compatible low-level
/// date algorithms, `civil_from_days`).
fn month(day: i64) -> i64 {
    let since_march_0 = day + 719_468;
    let of_era = since_march_0.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let since_march = (5 * of_year + 2) / 153;
    if since_march < 10 {
        since_march + 3
    } else {
        since_march - 9
    }
}

macro_rules! cycle {
    ($name:literal, $cycle:expr, $input:expr, $definition:literal) => {
        Indicator {
            name: $name,
            series: &[],
            bars: &[$input],
            parameters: &[],
            outputs: &[
                Output {
                    name: "sin",
                    unit: Unit::Ratio,
                },
                Output {
                    name: "cos",
                    unit: Unit::Ratio,
                },
            ],
            definition: $definition,
            source: "common usage",
            expand: |builder, _, _| {
                let input = builder.input($input);
                builder.window($cycle, &[input])
            },
        }
    };
}

pub(super) const INDICATORS: &[Indicator] = &[
    cycle!(
        "time_of_day",
        Cycle::Day,
        Input::TimeOfDay,
        "Sine and cosine of 2 pi times the part of the UTC day that has passed."
    ),
    cycle!(
        "day_of_week",
        Cycle::Week,
        Input::Day,
        "Sine and cosine of 2 pi / 7 times the day of the week in UTC, from 0 for Monday to 6 for Sunday."
    ),
    cycle!(
        "month_of_year",
        Cycle::Year,
        Input::Day,
        "Sine and cosine of 2 pi / 12 times the month in UTC, from 0 for January to 11 for December."
    ),
];

#[cfg(test)]
mod tests {
    use super::super::check::{Golden, values};
    use super::*;
    use crate::{
        bars::{Bar, BarColumns},
        math,
    };

    const HOUR_NS: i64 = 3_600_000_000_000;

    fn at(times: impl IntoIterator<Item = i64>) -> BarColumns {
        let bar = |ts_ns| Bar {
            ts_ns,
            open: 1.0,
            high: 1.0,
            low: 1.0,
            close: 1.0,
            volume: 1.0,
        };
        times.into_iter().map(bar).collect()
    }

    #[test]
    fn quarters_of_a_day_are_exact() {
        let bars = at((0..4).map(|quarter| quarter * 6 * HOUR_NS));

        let of = |output| values(&bars, "time_of_day", &[], &[], output);

        assert_eq!(of("sin"), [0.0, 1.0, 0.0, -1.0]);
        assert_eq!(of("cos"), [1.0, 0.0, -1.0, 0.0]);
    }

    #[test]
    fn every_minute_is_near_the_sine_of_the_math_library() {
        let bars = at((0..1440).map(|minute| minute * 60_000_000_000));
        let (sine, cosine) = (
            values(&bars, "time_of_day", &[], &[], "sin"),
            values(&bars, "time_of_day", &[], &[], "cos"),
        );

        for minute in 0..1440 {
            let angle = std::f64::consts::TAU * minute as f64 / 1440.0;
            assert!((sine[minute] - math::sin(angle)).abs() < 2e-15, "{minute}");
            assert!(
                (cosine[minute] - math::cos(angle)).abs() < 2e-15,
                "{minute}"
            );
        }
    }

    #[test]
    fn weeks_begin_on_monday_and_time_before_1970_counts() {
        // 2024-01-01 was a Monday; 1969-12-29 too.
        for monday in [19_723, -3] {
            let bars = at((0..7).map(|day| (monday + day) * 24 * HOUR_NS + 5));
            let sine = values(&bars, "day_of_week", &[], &[], "sin");

            for (day, sine) in sine.iter().enumerate() {
                let expected = math::sin(std::f64::consts::TAU * day as f64 / 7.0);
                assert!((sine - expected).abs() < 1e-15, "{day}");
            }
        }
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        let days = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut day = 19_723; // 2024-01-01
        for (month_of_year, days) in (1..).zip(days) {
            assert_eq!(
                (month(day), month(day + days - 1)),
                (month_of_year, month_of_year)
            );
            day += days;
        }
        assert_eq!((month(-1), month(0), month(11_016)), (12, 1, 2)); // 2000-02-29
        let bars = at([19_723 + 3 * 31].map(|day| day * 24 * HOUR_NS));
        assert_eq!(values(&bars, "month_of_year", &[], &[], "sin"), [1.0]);
    }

    #[test]
    fn the_calendar_is_the_reference() {
        let Some(golden) = Golden::load() else { return };

        for name in ["time_of_day", "day_of_week"] {
            for output in ["sin", "cos"] {
                let column = values(&golden.bars, name, &[], &[], output);
                golden.assert_is(&format!("{name}_{output}"), &column, 1.0);
            }
        }
    }
}
