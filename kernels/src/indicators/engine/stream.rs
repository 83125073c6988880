//! One row at a time: the same kernels in the same places, with all that is the same for every row worked out before.
//!
//! A series that nobody looks back at has one cell. The cells lie together: those of a program of a hundred nodes fill a
//! dozen cache lines. A series with a history goes on in its block, see [`Plan`].

use std::sync::Arc;

use super::super::{
    kernel::{Recurrence, Scratch, Window},
    program::{Input, Program, Work},
};
use super::{
    DAY_NS,
    arena::Cut,
    columns::finite_or_nan,
    few::Few,
    plan::{Action, N_BAR_COLUMNS, Plan},
};
use crate::bars::Bar;

/// A program laid out for rows that come one by one.
#[derive(Debug)]
pub(super) struct Stream {
    /// What is taken over from the bar: position of the column, and where it goes.
    copies: Vec<(usize, Cells)>,
    steps: Vec<Step>,
    /// What the steps read and write.
    cells: Vec<Cells>,
    /// Where the results are in the end.
    results: Vec<Cells>,
}

#[derive(Debug)]
struct Step {
    action: RowAction,
    /// The first of `cells` that it reads; those that it writes follow.
    first: usize,
    n_inputs: usize,
    n_outputs: usize,
}

#[derive(Debug)]
enum RowAction {
    Window(Arc<dyn Window>),
    Recurrence(usize),
    Day,
    TimeOfDay,
    Constant(f64),
}

/// Consecutive numbers of the arena.
#[derive(Debug, Clone, Copy)]
struct Cells {
    at: usize,
    n: usize,
    /// All bits if they move on with every row, none if they stay.
    moves: usize,
}

impl Cells {
    fn start(self, cursor: usize) -> usize {
        self.at + (self.moves & cursor)
    }
}

impl Stream {
    /// The program as `plan` lays it out, with cells from `at` on, one for each series.
    pub(super) fn new(program: &Program, plan: &Plan, at: usize) -> Self {
        let cells_of = |series: usize, lookback: usize| {
            let place = plan.places[series];
            if place.history > 0 {
                Cells {
                    at: place.at - lookback,
                    n: lookback + 1,
                    moves: usize::MAX,
                }
            } else {
                Cells {
                    at: at + series,
                    n: 1,
                    moves: 0,
                }
            }
        };
        let mut stream = Self {
            copies: Vec::new(),
            steps: Vec::new(),
            cells: Vec::new(),
            results: vec![
                Cells {
                    at: 0,
                    n: 1,
                    moves: 0
                };
                program.outputs.len()
            ],
        };
        for (step, node) in plan.steps.iter().zip(&program.nodes) {
            let action = match (step.action, &node.work) {
                (Action::Copy(column), _) => {
                    let cells = cells_of(step.places.start, 0);
                    stream.copies.push((column, cells));
                    None
                }
                (Action::Recurrence(state), _) => Some(RowAction::Recurrence(state)),
                (_, Work::Window(window)) => Some(RowAction::Window(Arc::clone(window))),
                (_, Work::Input(Input::Day)) => Some(RowAction::Day),
                (_, Work::Input(Input::TimeOfDay)) => Some(RowAction::TimeOfDay),
                // It stays in its cell.
                (Action::Rest, _) => None,
                (_, Work::Input(Input::Constant(bits))) => {
                    Some(RowAction::Constant(f64::from_bits(*bits)))
                }
                (_, work) => unreachable!("{work:?} is no action"),
            };
            for &(series, output) in &plan.wanted[step.wanted.clone()] {
                stream.results[output] = cells_of(series, 0);
            }
            if let Some(action) = action {
                let first = stream.cells.len();
                let reads = plan.reads[step.reads.clone()].iter();
                stream
                    .cells
                    .extend(reads.map(|read| cells_of(read.series, step.lookback)));
                stream
                    .cells
                    .extend(step.places.clone().map(|series| cells_of(series, 0)));
                stream.steps.push(Step {
                    action,
                    first,
                    n_inputs: step.reads.len(),
                    n_outputs: step.places.len(),
                });
            }
        }
        stream
    }

    /// The number of results.
    pub(super) fn n_results(&self) -> usize {
        self.results.len()
    }

    /// Computes the row at `cursor` of the blocks.
    pub(super) fn row(
        &self,
        (bar, columns): (Bar, &[f64]),
        cut: Cut<'_>,
        cursor: usize,
        (states, scratch): (&mut [Box<dyn Recurrence>], &mut Scratch),
        out: &mut [f64],
    ) {
        let of_bar = [bar.open, bar.high, bar.low, bar.close, bar.volume];
        for &(column, cells) in &self.copies {
            // SAFETY: the only part that is borrowed.
            let to = unsafe { cut.write(cells.start(cursor), 1) };
            to[0] = match of_bar.get(column) {
                Some(x) => *x,
                None => columns[column - N_BAR_COLUMNS],
            };
        }
        let mut inputs = Few::<&[f64]>::new();
        let mut outputs = Few::<&mut [f64]>::new();
        for step in &self.steps {
            let cells = &self.cells[step.first..step.first + step.n_inputs + step.n_outputs];
            let (reads, writes) = cells.split_at(step.n_inputs);
            inputs.fill(reads.iter().map(|cells| {
                // SAFETY: what this step writes lies elsewhere: every series has cells or a block of its own, and rows
                // before the present one belong to no output.
                unsafe { cut.read(cells.start(cursor), cells.n) }
            }));
            outputs.fill(writes.iter().map(|cells| {
                // SAFETY: each output has a cell or a block of its own.
                unsafe { cut.write(cells.start(cursor), 1) }
            }));
            match &step.action {
                RowAction::Window(window) => window.run(inputs.all(), outputs.all(), scratch),
                RowAction::Recurrence(state) => states[*state].run(inputs.all(), outputs.all()),
                RowAction::Day => outputs.all()[0][0] = bar.ts_ns.div_euclid(DAY_NS) as f64,
                RowAction::TimeOfDay => outputs.all()[0][0] = bar.ts_ns.rem_euclid(DAY_NS) as f64,
                RowAction::Constant(x) => outputs.all()[0][0] = *x,
            }
        }
        for (out, cells) in out.iter_mut().zip(&self.results) {
            // SAFETY: no step is running.
            *out = finite_or_nan(unsafe { cut.read(cells.start(cursor), 1) }[0]);
        }
    }
}
