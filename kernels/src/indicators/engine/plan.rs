//! Where every series of a program lies while it runs, and what is read from where.

use std::ops::Range;

use super::super::program::{Input, Program, Series, Work};

/// Inputs or outputs of one kernel, at most.
pub(super) const MOST: usize = 256;
/// Numbers between two series: an odd number of cache lines, lest all series begin in the same set of the cache.
const GAP: usize = 17 * 8;

/// A program laid out for blocks of a given number of rows.
#[derive(Debug)]
pub(super) struct Plan {
    /// Rows of a block, at most.
    pub(super) block: usize,
    /// One for each node, in the same order.
    pub(super) steps: Vec<Step>,
    /// What the steps read, one after the other.
    pub(super) reads: Vec<Read>,
    /// Every output of every step, one after the other.
    pub(super) places: Vec<Place>,
    /// What leaves the program: the output among `places`, and its position among the results.
    pub(super) wanted: Vec<(usize, usize)>,
    /// The results that are all outputs of a step, in their order, one step after the other.
    pub(super) last: Vec<usize>,
    /// Those of `places` that have a history, with the column of the bars that they repeat.
    pub(super) kept: Vec<(Place, Option<usize>)>,
    /// Series that are filled once: which of `places`, and their number.
    pub(super) constants: Vec<(usize, f64)>,
    /// Numbers in all.
    pub(super) n_values: usize,
}

/// One node of the program.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) action: Action,
    /// Rows before the present one that it reads.
    pub(super) lookback: usize,
    pub(super) reads: Range<usize>,
    pub(super) places: Range<usize>,
    pub(super) wanted: Range<usize>,
    /// Where each output of a step is a result and nothing else, which of `last` they are; else empty.
    pub(super) last: Range<usize>,
}

/// What a step does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    /// Nothing: its rows are where they shall be from the start.
    Rest,
    /// Copies a column of the bars, unless its readers find it there.
    Copy(usize),
    /// Computes this from the bars.
    Input(Input),
    /// Runs the window of its node.
    Window,
    /// Runs this recurrence.
    Recurrence(usize),
}

/// A series that a step reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    /// Which of `places` it is.
    pub(super) series: usize,
    pub(super) place: Place,
    /// The column of the bars with the same rows.
    pub(super) column: Option<usize>,
}

/// Where a series lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The first row of the block.
    pub(super) at: usize,
    /// Rows that lie before it, because later rows look back at them.
    pub(super) history: usize,
}

/// Positions of the bars' columns; further ones follow.
fn column_of(input: Input) -> Option<usize> {
    match input {
        Input::Open => Some(0),
        Input::High => Some(1),
        Input::Low => Some(2),
        Input::Close => Some(3),
        Input::Volume => Some(4),
        Input::Column(position) => Some(N_BAR_COLUMNS + position),
        Input::Day | Input::TimeOfDay | Input::Constant(_) => None,
    }
}

/// Columns of numbers that bars have.
pub(super) const N_BAR_COLUMNS: usize = 5;

impl Plan {
    /// Lays a program out. Series that nobody looks back at share memory with those whose life is over.
    ///
    /// # Panics
    /// If a kernel has more than [`MOST`] inputs or outputs.
    pub(super) fn new(program: &Program, block: usize) -> Self {
        let nodes = &program.nodes;
        let Uses {
            first,
            history,
            mut last_reader,
        } = Uses::of(program);
        let n_series = history.len();
        let index = |series: &Series| first[series.node] + series.output;

        let mut plan = Self {
            block,
            steps: Vec::with_capacity(nodes.len()),
            reads: Vec::new(),
            places: Vec::with_capacity(n_series),
            wanted: Vec::new(),
            last: Vec::new(),
            kept: Vec::new(),
            constants: Vec::new(),
            n_values: 0,
        };
        let mut column_of_series = vec![None; n_series];
        let mut n_recurrences = 0;
        let mut free: Vec<usize> = Vec::new();
        for (position, node) in nodes.iter().enumerate() {
            let series = first[position]..first[position] + node.n_outputs;
            let reads = plan.reads.len();
            for input in &node.inputs {
                plan.reads.push(Read {
                    series: index(input),
                    place: plan.places[index(input)],
                    column: column_of_series[index(input)],
                });
            }
            let mut action = match &node.work {
                Work::Input(input) => match column_of(*input) {
                    Some(column) => {
                        column_of_series[series.start] = Some(column);
                        Action::Copy(column)
                    }
                    None => Action::Input(*input),
                },
                Work::Window(_) => Action::Window,
                Work::Recurrence(_) => {
                    n_recurrences += 1;
                    Action::Recurrence(n_recurrences - 1)
                }
            };
            for one in series.clone() {
                let history = history[one];
                let place = match action {
                    _ if history > 0 => plan.place(history, block),
                    // All its readers find it in the bars.
                    Action::Copy(_) => Place { at: 0, history: 0 },
                    Action::Input(Input::Constant(bits)) => {
                        let place = plan.place(0, block);
                        plan.constants.push((one, f64::from_bits(bits)));
                        action = Action::Rest;
                        place
                    }
                    _ => match free.pop() {
                        Some(at) => Place { at, history: 0 },
                        None => plan.place(0, block),
                    },
                };
                if history > 0 {
                    plan.kept.push((place, column_of_series[one]));
                }
                plan.places.push(place);
            }
            let is_made = matches!(action, Action::Window | Action::Recurrence(_));
            let (wanted, last) = plan.results(program, position, &first, &last_reader, is_made);
            plan.steps.push(Step {
                last,
                action,
                lookback: lookback(&node.work),
                reads: reads..plan.reads.len(),
                places: series,
                wanted,
            });
            // The outputs of this node have their places by now: they never overlap what it reads.
            let ended = node
                .inputs
                .iter()
                .map(index)
                .chain(first[position]..first[position] + node.n_outputs);
            for one in ended {
                let is_shared = matches!(
                    plan.steps[node_of(&first, one)].action,
                    Action::Window | Action::Recurrence(_) | Action::Input(_)
                ) && history[one] == 0;
                if is_shared && last_reader[one] == position {
                    // A node may read the same series twice.
                    last_reader[one] = usize::MAX;
                    free.push(plan.places[one].at);
                }
            }
        }
        plan
    }

    /// Notes which results the node at `position` makes: all of them, and those that nobody reads later if no other series
    /// of the node stays. `is_made`: its series are computed by a kernel.
    fn results(
        &mut self,
        program: &Program,
        position: usize,
        first: &[usize],
        last_reader: &[usize],
        is_made: bool,
    ) -> (Range<usize>, Range<usize>) {
        let (wanted, last) = (self.wanted.len(), self.last.len());
        for (result, output) in program.outputs.iter().enumerate() {
            if output.node == position {
                self.wanted.push((first[position] + output.output, result));
            }
        }
        let leaves = |one: usize| {
            let mut results = self.wanted[wanted..].iter().filter(|w| w.0 == one);
            match (results.next(), results.next()) {
                (Some((_, result)), None) if last_reader[one] == position => Some(*result),
                _ => None,
            }
        };
        let series = first[position]..first[position] + program.nodes[position].n_outputs;
        if is_made && let Some(results) = series.map(leaves).collect::<Option<Vec<_>>>() {
            self.last.extend(results);
        }
        (wanted..self.wanted.len(), last..self.last.len())
    }

    /// The next free place.
    fn place(&mut self, history: usize, block: usize) -> Place {
        let at = self.n_values + history.next_multiple_of(8);
        self.n_values = (at + block).next_multiple_of(8) + GAP;
        Place { at, history }
    }
}

/// How series are used. They are counted through: all outputs of the first node, then those of the next.
struct Uses {
    /// For each node, its first series.
    first: Vec<usize>,
    /// For each series, how many rows those that read it look back.
    history: Vec<usize>,
    /// For each series, the last node that reads it, or the one that makes it.
    last_reader: Vec<usize>,
}

impl Uses {
    fn of(program: &Program) -> Self {
        let mut uses = Self {
            first: Vec::with_capacity(program.nodes.len()),
            history: Vec::new(),
            last_reader: Vec::new(),
        };
        for (position, node) in program.nodes.iter().enumerate() {
            assert!(
                node.inputs.len() <= MOST && node.n_outputs <= MOST,
                "a kernel has at most {MOST} inputs and outputs"
            );
            let first = uses.history.len();
            uses.first.push(first);
            uses.history.resize(first + node.n_outputs, 0);
            uses.last_reader.resize(first + node.n_outputs, position);
            for input in &node.inputs {
                let series = uses.first[input.node] + input.output;
                uses.history[series] = uses.history[series].max(lookback(&node.work));
                uses.last_reader[series] = position;
            }
        }
        uses
    }
}

fn lookback(work: &Work) -> usize {
    match work {
        Work::Window(window) => window.lookback(),
        Work::Input(_) | Work::Recurrence(_) => 0,
    }
}

/// The node that a series is an output of.
fn node_of(first: &[usize], series: usize) -> usize {
    first.partition_point(|start| *start <= series) - 1
}
