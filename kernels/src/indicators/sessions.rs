//! Values of the UTC day so far and of the day before.

#![expect(clippy::float_cmp, reason = "days are whole numbers")]

use super::{
    catalog::{Indicator, Output, Unit},
    kernel::{Id, Recurrence, Tape},
    program::{Builder, Input, Series},
};

/// The mean typical price of the day so far, weighted by volume. Inputs: day, high, low, close, volume.
#[derive(Debug, Clone)]
struct VwapOfDay {
    day: f64,
    turnover: f64,
    volume: f64,
}

impl VwapOfDay {
    fn new() -> Self {
        Self {
            day: f64::NAN,
            turnover: 0.0,
            volume: 0.0,
        }
    }
}

impl Recurrence for VwapOfDay {
    fn id(&self) -> Id {
        Id::new("vwap_day", [])
    }

    fn warm_up(&self) -> usize {
        0
    }

    fn memory(&self) -> Option<usize> {
        None // A day has any number of bars.
    }

    fn fresh(&self) -> Box<dyn Recurrence> {
        Box::new(Self::new())
    }

    fn run(&mut self, inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
        let ([day, high, low, close, volume], [vwap]) = (inputs, outputs) else {
            unreachable!("the mean of a day has five inputs and one output")
        };
        let n = vwap.len();
        let (day, high, low) = (&day[..n], &high[..n], &low[..n]);
        let (close, volume) = (&close[..n], &volume[..n]);
        // A missing bar makes the rest of its day NaN, and no more.
        let (mut today, mut turnover, mut total) = (self.day, self.turnover, self.volume);
        for t in 0..n {
            if day[t] != today {
                (today, turnover, total) = (day[t], 0.0, 0.0);
            }
            turnover += (high[t] + low[t] + close[t]) / 3.0 * volume[t];
            total += volume[t];
            vwap[t] = turnover / total;
        }
        (self.day, self.turnover, self.volume) = (today, turnover, total);
    }

    fn state(&mut self, tape: &mut Tape) {
        tape.f64(&mut self.day);
        tape.f64(&mut self.turnover);
        tape.f64(&mut self.volume);
    }
}

/// Pivot points of the day before. Inputs: day, high, low, close; outputs: P, R1, S1, R2, S2.
#[derive(Debug, Clone)]
struct Pivots {
    day: f64,
    /// Highest, lowest and last price of the day so far.
    today: [f64; 3],
    /// What is written today.
    levels: [f64; 5],
}

impl Pivots {
    fn new() -> Self {
        Self {
            day: f64::NAN,
            today: [f64::NAN; 3],
            levels: [f64::NAN; 5],
        }
    }
}

impl Recurrence for Pivots {
    fn id(&self) -> Id {
        Id::new("pivots", [])
    }

    fn n_outputs(&self) -> usize {
        5
    }

    fn warm_up(&self) -> usize {
        1
    }

    fn memory(&self) -> Option<usize> {
        None // A day has any number of bars.
    }

    fn fresh(&self) -> Box<dyn Recurrence> {
        Box::new(Self::new())
    }

    fn run(&mut self, inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
        let [day, high, low, close] = inputs else {
            unreachable!("pivots have four inputs")
        };
        let n = day.len();
        let mut start = 0;
        while start < n {
            // A missing bar makes the levels of the next day NaN, and no more.
            if day[start] != self.day {
                let [highest, lowest, last] = self.today;
                let (middle, range) = ((highest + lowest + last) / 3.0, highest - lowest);
                self.levels = [
                    middle,
                    2.0 * middle - lowest,
                    2.0 * middle - highest,
                    middle + range,
                    middle - range,
                ];
                self.day = day[start];
                self.today = [f64::NEG_INFINITY, f64::INFINITY, 0.0];
            }
            let length = day[start..].iter().position(|day| *day != self.day);
            let rows = start..length.map_or(n, |length| start + length);
            for (output, level) in outputs.iter_mut().zip(self.levels) {
                output[rows.clone()].fill(level);
            }
            let [mut highest, mut lowest, mut last] = self.today;
            for t in rows.clone() {
                highest = if high[t] > highest { high[t] } else { highest };
                lowest = if low[t] < lowest { low[t] } else { lowest };
                // NaN from a missing price on.
                let is_missing = last.is_nan() | high[t].is_nan() | low[t].is_nan();
                last = if is_missing { f64::NAN } else { close[t] };
            }
            self.today = [highest, lowest, last];
            start = rows.end;
        }
    }

    fn state(&mut self, tape: &mut Tape) {
        tape.f64(&mut self.day);
        tape.all(&mut self.today);
        tape.all(&mut self.levels);
    }
}

fn inputs<const N: usize>(builder: &mut Builder, inputs: [Input; N]) -> [Series; N] {
    inputs.map(|input| builder.input(input))
}

const PRICE: Unit = Unit::Price;

pub(super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "vwap_day",
        series: &[],
        bars: &[
            Input::Day,
            Input::High,
            Input::Low,
            Input::Close,
            Input::Volume,
        ],
        parameters: &[],
        outputs: &[Output {
            name: "",
            unit: PRICE,
        }],
        definition: "Sum of typical price (high + low + close) / 3 times volume over sum of volume, over the UTC day so far, this \
                     bar included; not defined before the first volume of a day and after a missing bar of it.",
        source: "Berkowitz, Logue and Noser (1988), The Total Cost of Transactions on the NYSE",
        expand: |builder, _, _| {
            let inputs = inputs(
                builder,
                [
                    Input::Day,
                    Input::High,
                    Input::Low,
                    Input::Close,
                    Input::Volume,
                ],
            );
            builder.recurrence(VwapOfDay::new(), &inputs)
        },
    },
    Indicator {
        name: "pivots",
        series: &[],
        bars: &[Input::Day, Input::High, Input::Low, Input::Close],
        parameters: &[],
        outputs: &[
            Output {
                name: "p",
                unit: PRICE,
            },
            Output {
                name: "r1",
                unit: PRICE,
            },
            Output {
                name: "s1",
                unit: PRICE,
            },
            Output {
                name: "r2",
                unit: PRICE,
            },
            Output {
                name: "s2",
                unit: PRICE,
            },
        ],
        definition: "Floor pivots from the high H, low L and last close C of the last UTC day before this one that has bars: P = \
                     (H + L + C) / 3, R1 = 2P - L, S1 = 2P - H, R2 = P + (H - L), S2 = P - (H - L); not defined on the first day \
                     and after a day with a missing bar.",
        source: "floor traders' usage",
        expand: |builder, _, _| {
            let inputs = inputs(builder, [Input::Day, Input::High, Input::Low, Input::Close]);
            builder.recurrence(Pivots::new(), &inputs)
        },
    },
];

#[cfg(test)]
mod tests {
    use super::super::check::{Golden, values};
    use crate::bars::{Bar, BarColumns};

    /// Three bars a day.
    fn market(closes: &[f64]) -> BarColumns {
        let bar = |(t, &close): (usize, &f64)| Bar {
            ts_ns: t as i64 * 8 * 3_600_000_000_000,
            open: close,
            high: close + 1.0,
            low: close - 1.0,
            close,
            volume: 1.0 + (t % 3) as f64,
        };
        closes.iter().enumerate().map(bar).collect()
    }

    #[test]
    fn sessions_are_the_reference() {
        let Some(golden) = Golden::load() else { return };

        let column = values(&golden.bars, "vwap_day", &[], &[], "");
        golden.assert_is("vwap_day", &column, 1.0);
        for output in ["p", "r1", "s1", "r2", "s2"] {
            let column = values(&golden.bars, "pivots", &[], &[], output);
            golden.assert_is(&format!("pivot_{output}"), &column, 1.0);
        }
    }

    #[test]
    fn a_day_starts_anew_and_a_missing_bar_spoils_its_day_only() {
        let mut bars = market(&[3.0, 6.0, 4.0, 8.0, 8.0, 2.0, 9.0, 9.0, 9.0, 1.0, 1.0]);

        let of = |bars: &BarColumns, name: &str, output: &str| values(bars, name, &[], &[], output);
        assert_eq!(of(&bars, "vwap_day", "")[..4], [3.0, 5.0, 4.5, 8.0]);
        let levels = of(&bars, "pivots", "p");
        assert!(levels[..3].iter().all(|x| x.is_nan()));
        assert_eq!(levels[3..6], [13.0 / 3.0; 3]);
        assert_eq!(of(&bars, "pivots", "r2")[3], 13.0 / 3.0 + 5.0);

        bars.close[4] = f64::NAN;
        let vwap = of(&bars, "vwap_day", "");
        let nan = |column: &[f64]| column.iter().map(|x| x.is_nan()).collect::<Vec<_>>();
        assert_eq!(nan(&vwap[3..7]), [false, true, true, false]);
        let levels = of(&bars, "pivots", "s1");
        assert_eq!(nan(&levels[5..10]), [false, true, true, true, false]);
    }
}
