//! Functions of one row, or of one row and an earlier one, that the families here need between their recurrences.

use crate::indicators::kernel::{Id, Scratch, Window};

/// What a [`Rows`] does: its parameters, its inputs with `lookback` rows before the outputs', its outputs.
pub(super) type Function = fn(&[f64], &[&[f64]], &mut [&mut [f64]]);

/// A function of the rows `t` and `t - lookback`.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub(super) name: &'static str,
    pub(super) lookback: usize,
    pub(super) n_outputs: usize,
    pub(super) parameters: Vec<f64>,
    pub(super) function: Function,
}

impl Window for Rows {
    fn id(&self) -> Id {
        let mut words: Vec<u64> = self.parameters.iter().map(|x| x.to_bits()).collect();
        words.push(self.lookback as u64);
        Id::new(self.name, words)
    }

    fn lookback(&self) -> usize {
        self.lookback
    }

    fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], _: &mut Scratch) {
        (self.function)(&self.parameters, inputs, outputs);
    }
}
