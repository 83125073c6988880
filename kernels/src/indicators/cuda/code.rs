//! What a program becomes for the GPU: small operations, each made once, that a device function computes row by row.

use std::collections::BTreeMap;

use super::super::program::Input;

/// An output of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Value {
    pub(super) operation: usize,
    pub(super) output: usize,
}

/// How a recurrence is cut into chunks that run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chunks {
    /// A chunk starts this many rows early and from nothing; what it makes of them is thrown away.
    Restart(usize),
    /// A chunk's effect on the state before it can be written down: chunks run once for that, then, one after another, their
    /// effects are applied, then they run again from the state before them.
    /// Its state has so many 64-bit words.
    Carry(usize),
    /// As `Restart`, from so many rows early, but nothing bounds how long an earlier start matters: the states before and
    /// after each chunk are written down, and chunks that were not started from the state that the one before ended in are
    /// computed again. So the result is that of one run. A state has so many 64-bit words.
    Suppose { run_up: usize, words: usize },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    Input(Input),
    /// A device function of rows `t - lookback ..= t` of each input: `double name(x, y, ...)` for one output, else
    /// `void name(x, y, ..., double& a, double& b, ...)`.
    Rows {
        function: String,
        lookback: Vec<usize>,
        /// Whether computing it twice costs less than keeping it.
        is_light: bool,
    },
    /// A device type with `step`, started as this expression.
    Chunks {
        start: String,
        chunks: Chunks,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) work: Work,
    pub(super) inputs: Vec<Value>,
    pub(super) n_outputs: usize,
    /// The number of recurrences on the longest way to it.
    pub(super) level: usize,
}

/// Operations, each after those that it reads.
#[derive(Debug, Clone, Default)]
pub(super) struct Code {
    pub(super) operations: Vec<Operation>,
    /// Numbers that are the same in every row.
    pub(super) tables: Vec<Vec<f64>>,
    known: BTreeMap<(Work, Vec<Value>), usize>,
}

impl Code {
    pub(super) fn input(&mut self, input: Input) -> Value {
        self.make(Work::Input(input), Vec::new(), 1)[0]
    }

    /// A function with one output; each input stands with the rows that it looks back.
    pub(super) fn row(&mut self, function: String, reads: &[(Value, usize)]) -> Value {
        self.rows(function, reads, 1, false)[0]
    }

    /// A function with `n_outputs`.
    pub(super) fn rows(
        &mut self,
        function: String,
        reads: &[(Value, usize)],
        n_outputs: usize,
        is_light: bool,
    ) -> Vec<Value> {
        let (inputs, lookback) = reads.iter().copied().unzip();
        let work = Work::Rows {
            function,
            lookback,
            is_light,
        };
        self.make(work, inputs, n_outputs)
    }

    /// A recurrence.
    pub(super) fn chunks(
        &mut self,
        start: String,
        chunks: Chunks,
        inputs: &[Value],
        n_outputs: usize,
    ) -> Vec<Value> {
        self.make(Work::Chunks { start, chunks }, inputs.to_vec(), n_outputs)
    }

    /// The device type that gives these numbers.
    pub(super) fn table(&mut self, numbers: Vec<f64>) -> String {
        let bits = |numbers: &[f64]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let known = self
            .tables
            .iter()
            .position(|table| bits(table) == bits(&numbers));
        let position = known.unwrap_or_else(|| {
            self.tables.push(numbers);
            self.tables.len() - 1
        });
        format!("Table{position}")
    }

    fn make(&mut self, work: Work, inputs: Vec<Value>, n_outputs: usize) -> Vec<Value> {
        let operations = &mut self.operations;
        let operation = *self
            .known
            .entry((work.clone(), inputs.clone()))
            .or_insert_with(|| {
                let before = inputs.iter().map(|input| operations[input.operation].level);
                let own = usize::from(matches!(work, Work::Chunks { .. }));
                operations.push(Operation {
                    level: before.max().unwrap_or(0) + own,
                    work,
                    inputs,
                    n_outputs,
                });
                operations.len() - 1
            });
        (0..n_outputs)
            .map(|output| Value { operation, output })
            .collect()
    }
}
