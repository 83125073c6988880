//! Exponential and Wilder means.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]

use super::{
    output, rows,
    scan::{self, Average, Kernel, settling_rows},
    vector::Vector,
};
use crate::indicators::{
    catalog::{Indicator, Output, Unit},
    kernel::Id,
    program::{Builder, Series},
};

const ONE: &[Output] = &[output("", Unit::OfSeries)];

pub(in crate::indicators) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "ema",
        series: &["x"],
        bars: &[],
        parameters: &[rows("period")],
        outputs: ONE,
        definition: "exponential mean, `y += 2 / (period + 1) * (x - y)`, seeded by the mean of its first `period` values",
        source: "TA-Lib EMA",
        expand: |builder, series, p| vec![ema(builder, series[0], p[0] as usize)],
    },
    Indicator {
        name: "ema0",
        series: &["x"],
        bars: &[],
        parameters: &[rows("period")],
        outputs: ONE,
        definition: "exponential mean, `y += 2 / (period + 1) * (x - y)`, seeded by its first value",
        source: "pandas ewm(span=period, adjust=False)",
        expand: |builder, series, p| vec![ema0(builder, series[0], p[0] as usize)],
    },
    Indicator {
        name: "rma",
        series: &["x"],
        bars: &[],
        parameters: &[rows("period")],
        outputs: ONE,
        definition: "Wilder's mean, `y += (x - y) / period`, seeded by the mean of its first `period` values",
        source: "Wilder (1978), New Concepts in Technical Trading Systems",
        expand: |builder, series, p| vec![rma(builder, series[0], p[0] as usize)],
    },
];

/// See `ema` in [`INDICATORS`].
pub(in crate::indicators) fn ema(builder: &mut Builder, x: Series, period: usize) -> Series {
    ema_late(builder, x, period, 0)
}

/// The same without a look at the first `skip` values.
pub(in crate::indicators) fn ema_late(
    builder: &mut Builder,
    x: Series,
    period: usize,
    skip: usize,
) -> Series {
    let mean = Mean {
        id: Id::new("ema", [period as u64, skip as u64]),
        average: Average::exponential(period, skip),
    };
    scan::add(builder, mean, [x])[0]
}

/// See `ema0` in [`INDICATORS`].
pub(in crate::indicators) fn ema0(builder: &mut Builder, x: Series, period: usize) -> Series {
    let mean = Mean {
        id: Id::new("ema0", [period as u64]),
        average: Average::exponential(period, 0).seeded_by_one(),
    };
    scan::add(builder, mean, [x])[0]
}

/// See `rma` in [`INDICATORS`].
pub(in crate::indicators) fn rma(builder: &mut Builder, x: Series, period: usize) -> Series {
    rma_late(builder, x, period, 0)
}

/// The same without a look at the first `skip` values.
pub(in crate::indicators) fn rma_late(
    builder: &mut Builder,
    x: Series,
    period: usize,
    skip: usize,
) -> Series {
    let mean = Mean {
        id: Id::new("rma", [period as u64, skip as u64]),
        average: Average::wilder(period, skip),
    };
    scan::add(builder, mean, [x])[0]
}

/// One mean.
#[derive(Debug, Clone)]
struct Mean {
    id: Id,
    average: Average,
}

impl Kernel<1, 1, 3> for Mean {
    fn id(&self) -> Id {
        self.id.clone()
    }

    fn warm_up(&self) -> usize {
        self.average.seed_row()
    }

    fn memory(&self) -> Option<usize> {
        Some(self.average.seed_row() + 1 + settling_rows(self.average.decay.b))
    }

    #[inline(always)]
    fn row(&self, carry: &mut [f64; 3], row: usize, [x]: [f64; 1], [before]: [f64; 1]) -> [f64; 1] {
        let [s, sum, origin] = carry;
        if row == 0 {
            *origin = x;
        }
        let distance = self.average.row(s, sum, row, x - *origin, x - before);
        [distance.map_or(f64::NAN, |distance| x + distance)]
    }

    #[inline(always)]
    fn group<V: Vector>(&self, carry: &mut [V; 3], [x]: [V; 1], [before]: [V; 1]) -> [V; 1] {
        let Average { decay, .. } = &self.average;
        let s = decay.scan(&mut carry[0], x - before);
        [V::all(-decay.b).mul_add(s, x)]
    }
}

#[cfg(test)]
mod tests {
    use crate::indicators::{
        check::{Golden, values},
        program::Input,
    };

    const CLOSE: &[Input] = &[Input::Close];

    #[test]
    fn golden_means() {
        let Some(golden) = Golden::load() else {
            return;
        };
        for (name, period) in [
            ("ema_5", 5.0),
            ("ema_10", 10.0),
            ("ema_12", 12.0),
            ("ema_20", 20.0),
            ("ema_26", 26.0),
            ("ema_50", 50.0),
            ("ema0_5", 5.0),
            ("ema0_10", 10.0),
            ("ema0_20", 20.0),
            ("ema0_50", 50.0),
            ("rma_14", 14.0),
        ] {
            let kind = name.split('_').next().unwrap();
            golden.assert_is(name, &values(&golden.bars, kind, CLOSE, &[period], ""), 1.0);
        }
    }
}
