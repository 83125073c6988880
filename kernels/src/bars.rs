//! Market bars as borrowed columns: what every indicator reads.

use std::ops::Range;

/// Columns of one market, oldest bar first. All slices have the same length.
#[derive(Debug, Clone, Copy)]
pub struct Bars<'a> {
    /// UTC nanoseconds of each bar's close, ascending.
    pub ts_ns: &'a [i64],
    /// First price of each bar.
    pub open: &'a [f64],
    /// Highest price of each bar.
    pub high: &'a [f64],
    /// Lowest price of each bar.
    pub low: &'a [f64],
    /// Last price of each bar.
    pub close: &'a [f64],
    /// Units traded in each bar.
    pub volume: &'a [f64],
}

/// One market bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// UTC nanoseconds of the bar's close.
    pub ts_ns: i64,
    /// First price.
    pub open: f64,
    /// Highest price.
    pub high: f64,
    /// Lowest price.
    pub low: f64,
    /// Last price.
    pub close: f64,
    /// Units traded.
    pub volume: f64,
}

impl<'a> Bars<'a> {
    /// The number of bars.
    ///
    /// # Panics
    /// If the columns differ in length.
    pub fn len(&self) -> usize {
        let n_rows = self.close.len();
        let lengths = [
            self.ts_ns.len(),
            self.open.len(),
            self.high.len(),
            self.low.len(),
            self.volume.len(),
        ];
        assert!(
            lengths.iter().all(|&length| length == n_rows),
            "columns of bars differ in length"
        );
        n_rows
    }

    /// Whether there is no bar.
    pub fn is_empty(&self) -> bool {
        self.close.is_empty()
    }

    /// The bars of `rows`.
    #[must_use]
    pub fn slice(&self, rows: Range<usize>) -> Bars<'a> {
        Bars {
            ts_ns: &self.ts_ns[rows.clone()],
            open: &self.open[rows.clone()],
            high: &self.high[rows.clone()],
            low: &self.low[rows.clone()],
            close: &self.close[rows.clone()],
            volume: &self.volume[rows],
        }
    }

    /// The bar at row `t`.
    pub fn bar(&self, t: usize) -> Bar {
        Bar {
            ts_ns: self.ts_ns[t],
            open: self.open[t],
            high: self.high[t],
            low: self.low[t],
            close: self.close[t],
            volume: self.volume[t],
        }
    }

    /// Every bar, oldest first.
    pub fn iter(self) -> impl Iterator<Item = Bar> + 'a {
        (0..self.len()).map(move |t| self.bar(t))
    }
}

/// Owned columns of bars, for those who build them row by row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BarColumns {
    /// See [`Bars::ts_ns`].
    pub ts_ns: Vec<i64>,
    /// See [`Bars::open`].
    pub open: Vec<f64>,
    /// See [`Bars::high`].
    pub high: Vec<f64>,
    /// See [`Bars::low`].
    pub low: Vec<f64>,
    /// See [`Bars::close`].
    pub close: Vec<f64>,
    /// See [`Bars::volume`].
    pub volume: Vec<f64>,
}

impl BarColumns {
    /// Appends one bar.
    pub fn push(&mut self, bar: Bar) {
        self.ts_ns.push(bar.ts_ns);
        self.open.push(bar.open);
        self.high.push(bar.high);
        self.low.push(bar.low);
        self.close.push(bar.close);
        self.volume.push(bar.volume);
    }

    /// The columns as slices.
    pub fn view(&self) -> Bars<'_> {
        Bars {
            ts_ns: &self.ts_ns,
            open: &self.open,
            high: &self.high,
            low: &self.low,
            close: &self.close,
            volume: &self.volume,
        }
    }

    /// Forgets all but the last `n_rows` bars.
    pub fn keep_last(&mut self, n_rows: usize) {
        let surplus = self.close.len().saturating_sub(n_rows);
        self.ts_ns.drain(..surplus);
        for column in [
            &mut self.open,
            &mut self.high,
            &mut self.low,
            &mut self.close,
            &mut self.volume,
        ] {
            column.drain(..surplus);
        }
    }
}

impl FromIterator<Bar> for BarColumns {
    fn from_iter<I: IntoIterator<Item = Bar>>(bars: I) -> Self {
        let mut columns = BarColumns::default();
        bars.into_iter().for_each(|bar| columns.push(bar));
        columns
    }
}
