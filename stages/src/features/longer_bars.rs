//! Longer bars, put together from shorter ones.

use natron_kernels::{bars::Bar, indicators::kernel::Tape};

use super::expression::timeframe::Timeframe;

/// A bar and the further columns of its row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) bar: Bar,
    pub(super) columns: Vec<f64>,
}

impl Row {
    /// A place for a row.
    pub(super) fn empty(n_columns: usize) -> Self {
        Self {
            bar: Bar {
                ts_ns: 0,
                open: f64::NAN,
                high: f64::NAN,
                low: f64::NAN,
                close: f64::NAN,
                volume: f64::NAN,
            },
            columns: vec![f64::NAN; n_columns],
        }
    }

    /// Writes the row down, or takes one up.
    pub(super) fn state(&mut self, tape: &mut Tape) {
        let mut time = self.bar.ts_ns as u64;
        tape.word(&mut time);
        self.bar.ts_ns = time as i64;
        let bar = &mut self.bar;
        for x in [
            &mut bar.open,
            &mut bar.high,
            &mut bar.low,
            &mut bar.close,
            &mut bar.volume,
        ] {
            tape.f64(x);
        }
        tape.all(&mut self.columns);
    }
}

/// Puts bars together: the first open, the highest high, the lowest low, the last close and further columns, and the sum of
/// volumes. A value that is missing makes that of the longer bar missing, but for the first and the last ones.
#[derive(Debug, Clone)]
pub(super) struct LongerBars {
    timeframe: Timeframe,
    /// The bar that is not over, which has its end as its time.
    open: Option<Row>,
}

impl LongerBars {
    pub(super) fn new(timeframe: Timeframe) -> Self {
        Self {
            timeframe,
            open: None,
        }
    }

    /// Takes a shorter bar in and hands over, oldest first, the longer ones that are over with it: those that ended before
    /// it did, and the one that it ends.
    pub(super) fn push(&mut self, row: &Row, mut over: impl FnMut(Row)) {
        let bar = row.bar;
        let end = self.timeframe.end_of(bar.ts_ns);
        if self.open.as_ref().is_some_and(|open| open.bar.ts_ns != end) {
            self.open.take().into_iter().for_each(&mut over);
        }
        match &mut self.open {
            Some(open) => {
                let so_far = &mut open.bar;
                so_far.high = larger(so_far.high, bar.high);
                so_far.low = -larger(-so_far.low, -bar.low);
                so_far.close = bar.close;
                so_far.volume += bar.volume;
                open.columns.copy_from_slice(&row.columns);
            }
            none => {
                *none = Some(Row {
                    bar: Bar { ts_ns: end, ..bar },
                    columns: row.columns.clone(),
                });
            }
        }
        if bar.ts_ns == end {
            self.open.take().into_iter().for_each(&mut over);
        }
    }

    /// Writes the bar that is not over down, or takes one up.
    pub(super) fn state(&mut self, n_columns: usize, tape: &mut Tape) {
        let mut is_open = self.open.is_some();
        tape.flag(&mut is_open);
        if is_open {
            let open = self.open.get_or_insert_with(|| Row::empty(n_columns));
            open.state(tape);
        } else {
            self.open = None;
        }
    }
}

/// The larger one; NaN if one is.
fn larger(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() {
        f64::NAN
    } else {
        x.max(y)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "bars are put together without rounding")]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000_000;

    fn row(minute: i64, [open, high, low, close]: [f64; 4]) -> Row {
        Row {
            bar: Bar {
                ts_ns: minute * MINUTE,
                open,
                high,
                low,
                close,
                volume: 1.0,
            },
            columns: vec![close / 2.0],
        }
    }

    #[test]
    fn a_longer_bar_is_over_when_its_time_is_or_a_later_one_begins() {
        let mut longer = LongerBars::new(Timeframe::parse("5m").unwrap());
        let mut over = Vec::new();
        let mut push = |row: Row| {
            let before = over.len();
            longer.push(&row, |row| over.push(row));
            over.len() - before
        };

        assert_eq!(push(row(3, [5.0, 6.0, 4.0, 5.5])), 0);
        assert_eq!(push(row(5, [5.5, 7.0, 5.0, 6.5])), 1);
        // The bar of minute 10 is missing, and so are all of the next five minutes.
        assert_eq!(push(row(8, [6.0, 6.0, 6.0, 6.0])), 0);
        assert_eq!(push(row(18, [7.0, 9.0, 6.5, 8.0])), 1);
        assert_eq!(push(row(25, [8.0, 8.5, 7.5, f64::NAN])), 2);

        let first = &over[0];
        assert_eq!(first.bar.ts_ns, 5 * MINUTE);
        assert_eq!(
            [
                first.bar.open,
                first.bar.high,
                first.bar.low,
                first.bar.close,
                first.bar.volume
            ],
            [5.0, 7.0, 4.0, 6.5, 2.0]
        );
        assert_eq!(first.columns, [3.25]);
        let ends: Vec<i64> = over.iter().map(|row| row.bar.ts_ns / MINUTE).collect();
        assert_eq!(ends, [5, 10, 20, 25]);
        assert!(over[3].bar.close.is_nan());
    }
}
