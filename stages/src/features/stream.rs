//! Features of a series whose bars arrive one by one.

use std::collections::VecDeque;

use natron_kernels::bars::Bar;
use natron_kernels::indicators::engine::Engine;
use natron_kernels::indicators::kernel::Tape;

use super::longer_bars::{LongerBars, Row};

/// Where a further column of a stream comes from.
pub(super) enum From {
    /// The row's own table.
    Column(usize),
    /// An output of another frame.
    Frame(usize, usize),
}

/// A frame and what it remembers.
pub(super) struct FrameState {
    pub(super) engine: Engine,
    pub(super) reads: Vec<From>,
    pub(super) inputs: Vec<f64>,
    pub(super) outputs: Vec<f64>,
    pub(super) children: Vec<usize>,
    pub(super) longer: Option<LongerBars>,
    /// Bars of a market that the candles have not reached.
    pub(super) waiting: VecDeque<Row>,
    pub(super) n_columns: usize,
}

/// Features of a series whose bars arrive one by one.
pub struct FeatureStream {
    pub(super) frames: Vec<FrameState>,
    /// The market of each frame that is one; others are empty.
    pub(super) markets: Vec<String>,
    pub(super) row: Row,
}

impl FeatureStream {
    /// The row of the newest bar: what [`super::FeaturePlan::batch`] of all bars so far has in its last row.
    pub fn update(&mut self, bar: Bar) -> &[f64] {
        self.row.bar = bar;
        self.row.columns.fill(f64::NAN);
        let row = std::mem::replace(&mut self.row, Row::empty(0));
        self.push(0, &row);
        self.row = row;
        &self.frames[0].outputs
    }

    /// The same with the further columns of the candles' row, as [`super::FeaturePlan::further_columns`] names them.
    ///
    /// # Panics
    /// If there are other than as many.
    pub fn update_with(&mut self, bar: Bar, columns: &[f64]) -> &[f64] {
        self.row.bar = bar;
        self.row.columns.copy_from_slice(columns);
        let row = std::mem::replace(&mut self.row, Row::empty(0));
        self.push(0, &row);
        self.row = row;
        &self.frames[0].outputs
    }

    /// Takes a bar of another market in. It counts for candles that end when it does, or later: one that comes after
    /// such a candle counts from the next candle on.
    ///
    /// # Panics
    /// If there are other than as many further columns as [`super::FeaturePlan::further_columns`] names.
    pub fn update_market(&mut self, market: &str, bar: Bar, columns: &[f64]) {
        for (frame, name) in self.frames.iter_mut().zip(&self.markets) {
            if !name.is_empty() && name == market {
                assert_eq!(
                    columns.len(),
                    frame.n_columns,
                    "further columns of `{market}`"
                );
                frame.waiting.push_back(Row {
                    bar,
                    columns: columns.to_vec(),
                });
            }
        }
    }

    fn push(&mut self, index: usize, row: &Row) {
        for position in 0..self.frames[index].children.len() {
            let child = self.frames[index].children[position];
            if let Some(mut longer) = self.frames[child].longer.take() {
                longer.push(row, |over| self.push(child, &over));
                self.frames[child].longer = Some(longer);
            } else {
                let is_over = |next: &mut Row| next.bar.ts_ns <= row.bar.ts_ns;
                while let Some(next) = self.frames[child].waiting.pop_front_if(is_over) {
                    self.push(child, &next);
                }
            }
        }
        for position in 0..self.frames[index].reads.len() {
            let value = match self.frames[index].reads[position] {
                From::Column(column) => row.columns[column],
                From::Frame(frame, output) => self.frames[frame].outputs[output],
            };
            self.frames[index].inputs[position] = value;
        }
        let frame = &mut self.frames[index];
        frame
            .engine
            .update(row.bar, &frame.inputs, &mut frame.outputs);
    }

    /// Writes all that is remembered down, or takes it up from a tape of `n_words`.
    pub(super) fn tape(&mut self, tape: &mut Tape, n_words: usize) {
        for frame in &mut self.frames {
            frame.engine.state(tape);
            tape.all(&mut frame.outputs);
            if let Some(longer) = &mut frame.longer {
                longer.state(frame.n_columns, tape);
            }
            let mut n_waiting = frame.waiting.len();
            tape.count(&mut n_waiting);
            // What is not a state may announce any number.
            let n_waiting = n_waiting.min(n_words.max(frame.waiting.len()));
            frame
                .waiting
                .resize_with(n_waiting, || Row::empty(frame.n_columns));
            for row in &mut frame.waiting {
                row.state(tape);
            }
        }
    }
}

impl std::fmt::Debug for FeatureStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeatureStream")
            .field("outputs", &self.frames[0].outputs)
            .finish_non_exhaustive()
    }
}
