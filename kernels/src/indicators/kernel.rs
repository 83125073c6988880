//! The two kinds of computation that a program is made of.

use std::{fmt::Debug, sync::Arc};

/// What a kernel computes, for finding equal nodes: its name and its parameters as words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Name of the computation.
    pub name: &'static str,
    /// Its parameters: whole numbers as they are, others by [`f64::to_bits`].
    pub parameters: Vec<u64>,
}

impl Id {
    /// The computation `name` with these parameters.
    pub fn new(name: &'static str, parameters: impl Into<Vec<u64>>) -> Self {
        Self {
            name,
            parameters: parameters.into(),
        }
    }
}

/// A value at row `t` that is a function of rows `t - lookback ..= t` of its inputs, and of nothing else: not of the place
/// in the series, and not of the rows that are computed with it.
pub trait Window: Debug + Send + Sync {
    /// What it computes.
    fn id(&self) -> Id;

    /// Rows before the present one that it reads, the same for all inputs.
    fn lookback(&self) -> usize;

    /// The number of outputs.
    fn n_outputs(&self) -> usize {
        1
    }

    /// Rows without value at the start of a series whose inputs are defined from the first row.
    fn warm_up(&self) -> usize {
        self.lookback()
    }

    /// Whether it has a value where its inputs have none yet, as a candle pattern that is 0 until enough candles are known.
    fn is_defined_from_the_start(&self) -> bool {
        false
    }

    /// This kernel with the outputs of the one that `other` names after its own, where one run gives both for less than
    /// two; it looks back as far and is defined from the same row on.
    fn joined(&self, _other: &Id) -> Option<Arc<dyn Window>> {
        None
    }

    /// Computes `n` rows: each output has `n`, each input `lookback + n`. Rows before the series are NaN.
    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch);
}

/// A value that is a function of a state that every row carries on.
pub trait Recurrence: Debug + Send + Sync {
    /// What it computes.
    fn id(&self) -> Id;

    /// The number of outputs.
    fn n_outputs(&self) -> usize {
        1
    }

    /// Rows without value at the start of a series whose inputs are defined from the first row.
    fn warm_up(&self) -> usize;

    /// Whether it has a value where its inputs have none yet, as a change of something that is 0 until it is known.
    fn is_defined_from_the_start(&self) -> bool {
        false
    }

    /// After how many rows an earlier start does not matter any more, to 1e-12 of the size of the series; nothing if it
    /// always does.
    fn memory(&self) -> Option<usize>;

    /// The same in the state before the first row.
    fn fresh(&self) -> Box<dyn Recurrence>;

    /// Computes the next rows; inputs and outputs all have the same number, one or more. The bits do not depend on how
    /// many are computed at a time.
    fn run(&mut self, inputs: &[&[f64]], outputs: &mut [&mut [f64]]);

    /// Writes the state down, or takes it up.
    fn state(&mut self, tape: &mut Tape);
}

/// Memory that kernels may use while they run. What is in it before does not matter.
#[derive(Debug, Default)]
pub struct Scratch {
    values: Vec<f64>,
    /// More of it, for a kernel that another one works for.
    pub(super) terms: Vec<f64>,
}

impl Scratch {
    /// `n` values, whatever they are.
    pub fn take(&mut self, n: usize) -> &mut [f64] {
        if self.values.len() < n {
            self.values.resize(n, f64::NAN);
        }
        &mut self.values[..n]
    }
}

/// Memory of numbers, for whole numbers.
pub(super) fn words(numbers: &mut [f64]) -> &mut [i64] {
    // SAFETY: both have the same size and alignment, and all bits are a number as well as a whole one.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), numbers.len()) }
}

/// A list of words that a state is written to or taken from: one function describes both ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tape {
    words: Vec<u64>,
    /// The next word to be taken; nothing while words are written.
    next: Option<usize>,
    is_torn: bool,
}

impl Tape {
    /// An empty tape to write to.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tape to take a state from.
    pub fn of(words: Vec<u64>) -> Self {
        Self {
            words,
            next: Some(0),
            is_torn: false,
        }
    }

    /// The words that were written.
    pub fn into_words(self) -> Vec<u64> {
        self.words
    }

    /// Whether exactly as many words were taken as there are.
    pub fn is_used_up(&self) -> bool {
        !self.is_torn && self.next == Some(self.words.len())
    }

    /// One word.
    pub fn word(&mut self, word: &mut u64) {
        match &mut self.next {
            None => self.words.push(*word),
            Some(next) => match self.words.get(*next) {
                Some(known) => {
                    *word = *known;
                    *next += 1;
                }
                None => self.is_torn = true,
            },
        }
    }

    /// A number, to the bit.
    pub fn f64(&mut self, x: &mut f64) {
        let mut word = x.to_bits();
        self.word(&mut word);
        *x = f64::from_bits(word);
    }

    /// Numbers.
    pub fn all(&mut self, values: &mut [f64]) {
        for x in values {
            self.f64(x);
        }
    }

    /// A count.
    pub fn count(&mut self, count: &mut usize) {
        let mut word = *count as u64;
        self.word(&mut word);
        *count = word as usize;
    }

    /// A truth.
    pub fn flag(&mut self, flag: &mut bool) {
        let mut word = u64::from(*flag);
        self.word(&mut word);
        *flag = word != 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_to_the_bit() {
        let state = |tape: &mut Tape, x: &mut f64, n: &mut usize, flag: &mut bool| {
            tape.f64(x);
            tape.count(n);
            tape.flag(flag);
        };
        let (mut x, mut n, mut flag) = (-0.0, 7, true);
        let mut written = Tape::new();
        state(&mut written, &mut x, &mut n, &mut flag);

        let (mut y, mut m, mut other) = (1.0, 0, false);
        let mut taken = Tape::of(written.into_words());
        state(&mut taken, &mut y, &mut m, &mut other);

        assert!(taken.is_used_up());
        assert_eq!((y.to_bits(), m, other), ((-0.0_f64).to_bits(), 7, true));
        taken.f64(&mut y);
        assert!(!taken.is_used_up());
    }
}
