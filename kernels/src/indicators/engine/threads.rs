//! Shares a program out among the threads of the current rayon pool.
//!
//! What depends on windows alone is cut into runs of rows: a run starts as many rows early as the longest chain of windows
//! looks back, and has the same bits as the whole. What depends on a recurrence goes through all rows in one go: its outputs
//! are put into groups, each of which is a program of its own with all that it needs. The groups start first, and the
//! threads that are done take runs of rows, so that all end together.
//!
//! How long each node takes is measured on a few blocks of the series itself. It decides who computes what, and nothing
//! that anybody sees: every output is computed in the same way by whoever computes it.

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    BLOCK, Engine, Frame, Sink,
    columns::{self, Number},
};
use crate::bars::Bars;
use crate::indicators::program::{Node, Program, Work};

/// Series with fewer rows are computed by one thread: to start others would take longer.
const FEWEST_ROWS: usize = 16 * BLOCK;
/// Rows of a run, at least: a thread's memory is warm long before.
const SHORTEST_RUN: usize = 16 * BLOCK;
/// Where bars and results have more bytes than this together, results are not expected to stay in the cache.
const CACHED_BYTES: usize = 16 << 20;
/// Nanoseconds that one row of one result takes on its way to memory, about.
const EMIT_NS: f64 = 0.3;
/// Blocks on which costs are measured, after one to warm up.
const SAMPLE_BLOCKS: usize = 4;

/// Computes every row of every result.
pub(super) fn compute<T: Number>(
    program: &Program,
    bars: Bars<'_>,
    columns: &[&[f64]],
    results: &mut [&mut [T]],
) {
    let n_rows = bars.len();
    assert!(
        columns.len() >= program.n_columns() && columns.iter().all(|column| column.len() == n_rows),
        "as many further columns as the program reads, of as many rows as there are bars"
    );
    let mut all = vec![bars.open, bars.high, bars.low, bars.close, bars.volume];
    all.extend(columns);
    let series = SeriesOfBars {
        ts_ns: bars.ts_ns,
        columns: all,
    };
    let is_read = |node: &Node| matches!(node.work, Work::Input(input) if input.is_column());
    let n_read = program.nodes.iter().filter(|node| is_read(node)).count();
    let results = Results {
        past_the_cache: n_rows * (n_read * size_of::<f64>() + results.len() * size_of::<T>())
            > CACHED_BYTES,
        columns: results
            .iter_mut()
            .map(|column| column.as_mut_ptr())
            .collect(),
        n_rows,
    };
    let n_threads = rayon::current_num_threads();
    if n_threads < 2 || n_rows < FEWEST_ROWS {
        let outputs: Vec<usize> = (0..program.n_outputs()).collect();
        let mut sink = Rows {
            results: &results,
            outputs: &outputs,
            skip: 0,
            first: 0,
        };
        Engine::new(program).run(series.ts_ns, &series.columns, &mut sink);
        columns::fence();
        return;
    }
    let shares = Shares::new(program, &costs(program, &series), n_rows, n_threads);
    let next = AtomicUsize::new(0);
    rayon::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|_| work(&shares, &series, &results, &next));
        }
    });
}

/// Takes what nobody has taken yet until nothing is left.
fn work<T: Number>(
    shares: &Shares,
    series: &SeriesOfBars<'_>,
    results: &Results<T>,
    next: &AtomicUsize,
) {
    let mut runner: Option<Engine> = None;
    loop {
        let task = next.fetch_add(1, Ordering::Relaxed);
        if let Some(part) = shares.groups.get(task) {
            let mut sink = Rows {
                results,
                outputs: &part.outputs,
                skip: 0,
                first: 0,
            };
            Engine::new(&part.program).run(series.ts_ns, &series.columns, &mut sink);
        } else if let Some(rows) = shares.run(task - shares.groups.len(), series.ts_ns.len()) {
            let engine = runner.get_or_insert_with(|| Engine::new(&shares.windows.program));
            engine.forget();
            let start = rows.start.saturating_sub(shares.lookback);
            let early = series.slice(start..rows.end);
            let mut sink = Rows {
                results,
                outputs: &shares.windows.outputs,
                skip: rows.start - start,
                first: rows.start,
            };
            engine.run(early.ts_ns, &early.columns, &mut sink);
        } else {
            break;
        }
    }
    columns::fence();
}

/// The times and all columns of bars.
struct SeriesOfBars<'a> {
    ts_ns: &'a [i64],
    columns: Vec<&'a [f64]>,
}

impl<'a> SeriesOfBars<'a> {
    fn slice(&self, rows: Range<usize>) -> SeriesOfBars<'a> {
        SeriesOfBars {
            ts_ns: &self.ts_ns[rows.clone()],
            columns: self
                .columns
                .iter()
                .map(|column| &column[rows.clone()])
                .collect(),
        }
    }
}

/// The columns of results, of which threads write different parts.
struct Results<T> {
    columns: Vec<*mut T>,
    n_rows: usize,
    past_the_cache: bool,
}

// SAFETY: no two tasks have an output and a row in common, and each part is written by the thread that has taken its task.
unsafe impl<T: Send> Sync for Results<T> {}

/// Where the outputs of one task go.
struct Rows<'a, T> {
    results: &'a Results<T>,
    /// For each output of the task's program, its position among the results.
    outputs: &'a [usize],
    /// Rows that are computed for later ones alone.
    skip: usize,
    /// The row of the results that the first row after them is.
    first: usize,
}

impl<T: Number> Rows<'_, T> {
    /// The first of `n` rows of that output from row `row` of the results on.
    fn rows(&self, output: usize, row: usize, n: usize) -> *mut T {
        assert!(row + n <= self.results.n_rows, "rows of the results");
        // SAFETY: rows of that column, by the check above.
        unsafe { self.results.columns[self.outputs[output]].add(row) }
    }
}

impl<T: Number> Sink for Rows<'_, T> {
    fn place(&mut self, output: usize, start: usize, n: usize) -> Option<*mut f64> {
        if !T::IS_F64 || self.results.past_the_cache || start < self.skip {
            return None;
        }
        let rows = self.rows(output, self.first + start - self.skip, n);
        Some(rows.cast())
    }

    fn put(&mut self, output: usize, start: usize, values: &[f64]) {
        let skipped = self.skip.saturating_sub(start).min(values.len());
        let values = &values[skipped..];
        if values.is_empty() {
            return;
        }
        let row = self.first + start + skipped - self.skip;
        let rows = self.rows(output, row, values.len());
        // SAFETY: this task alone has them.
        let out = unsafe { std::slice::from_raw_parts_mut(rows, values.len()) };
        T::emit(values, out, self.results.past_the_cache);
    }
}

/// A program of some of the outputs.
#[derive(Debug)]
struct Part {
    program: Program,
    outputs: Vec<usize>,
}

/// Who computes what.
#[derive(Debug)]
struct Shares {
    /// What depends on recurrences, the longest first.
    groups: Vec<Part>,
    /// What depends on windows alone.
    windows: Part,
    /// Rows that those look back, all in all.
    lookback: usize,
    /// Rows of them that are computed at a time.
    rows_of_run: usize,
}

impl Shares {
    fn new(program: &Program, costs: &[f64], n_rows: usize, n_threads: usize) -> Self {
        let mut has_state = vec![false; program.nodes.len()];
        for (position, node) in program.nodes.iter().enumerate() {
            has_state[position] = matches!(node.work, Work::Recurrence(_))
                || node.inputs.iter().any(|input| has_state[input.node]);
        }
        let lookback_of = |output: usize| program.memory(output).unwrap_or(usize::MAX);
        let (windows, others): (Vec<usize>, Vec<usize>) =
            (0..program.n_outputs()).partition(|output| {
                !has_state[program.outputs[*output].node]
                    && lookback_of(*output) < n_rows / (8 * n_threads)
            });
        let lookback = windows.iter().map(|output| lookback_of(*output)).max();
        let lookback = lookback.unwrap_or(0);

        let load = |outputs: &[usize]| {
            let needs = program.needs(outputs.iter().map(|output| program.outputs[*output].node));
            let nodes = needs.iter().zip(costs);
            let sum: f64 = nodes
                .map(|(is_needed, cost)| if *is_needed { *cost } else { 0.0 })
                .sum();
            sum + outputs.len() as f64 * EMIT_NS
        };
        let load_of_windows = load(&windows);
        let mut groups = Vec::new();
        for n_groups in 1..=n_threads {
            groups = group(program, costs, &others, n_groups);
            let loads = groups.iter().map(|outputs| load(outputs));
            let longest = loads.clone().fold(0.0, f64::max);
            if longest * n_threads as f64 <= loads.sum::<f64>() + load_of_windows {
                break;
            }
        }
        groups.sort_by(|a, b| load(b).total_cmp(&load(a)));
        let part = |outputs: Vec<usize>| Part {
            program: program.part(&outputs),
            outputs,
        };
        Self {
            groups: groups.into_iter().map(part).collect(),
            windows: part(windows),
            lookback,
            rows_of_run: (n_rows / (8 * n_threads))
                .max(SHORTEST_RUN)
                .max(8 * lookback)
                .next_multiple_of(BLOCK),
        }
    }

    /// The rows of run `position`, if there is one.
    fn run(&self, position: usize, n_rows: usize) -> Option<Range<usize>> {
        let start = position * self.rows_of_run;
        (!self.windows.outputs.is_empty() && start < n_rows)
            .then(|| start..(start + self.rows_of_run).min(n_rows))
    }
}

/// Puts outputs into groups, the most costly first: each where the load of the group and what is computed there although
/// another group has it already are least together.
fn group(program: &Program, costs: &[f64], outputs: &[usize], n_groups: usize) -> Vec<Vec<usize>> {
    /// The cost of the nodes that `needs` has and `there` has not.
    fn beyond(needs: &[bool], there: &[bool], costs: &[f64]) -> f64 {
        let each = needs.iter().zip(there).zip(costs);
        let new = each.filter(|((is_needed, is_there), _)| **is_needed && !**is_there);
        new.map(|(_, cost)| cost).sum()
    }
    let nothing = vec![false; program.nodes.len()];
    let mut open: Vec<(f64, usize, Vec<bool>)> = outputs
        .iter()
        .map(|output| {
            let needs = program.needs([program.outputs[*output].node]);
            (beyond(&needs, &nothing, costs), *output, needs)
        })
        .collect();
    open.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut anywhere = nothing.clone();
    let mut groups = vec![(0.0, nothing, Vec::new()); n_groups];
    for (_, output, needs) in open {
        let first_time = beyond(&needs, &anywhere, costs);
        let more = groups
            .iter()
            .map(|(_, there, _)| beyond(&needs, there, costs));
        let more: Vec<f64> = more.collect();
        let burden = |position: &usize| groups[*position].0 + 2.0 * more[*position] - first_time;
        let best = (0..n_groups).min_by(|a, b| burden(a).total_cmp(&burden(b)));
        let best = best.unwrap_or(0);
        let (load, there, members) = &mut groups[best];
        *load += more[best] + EMIT_NS;
        members.push(output);
        for ((is_there, is_anywhere), is_needed) in there.iter_mut().zip(&mut anywhere).zip(&needs)
        {
            *is_there |= is_needed;
            *is_anywhere |= is_needed;
        }
    }
    let groups = groups.into_iter().map(|(_, _, mut outputs)| {
        outputs.sort_unstable();
        outputs
    });
    groups.filter(|outputs| !outputs.is_empty()).collect()
}

/// Nanoseconds that each node takes for a row, measured in the middle of the series.
fn costs(program: &Program, series: &SeriesOfBars<'_>) -> Vec<f64> {
    let mut engine = Engine::new(program);
    let mut costs = vec![f64::INFINITY; program.nodes.len()];
    let middle = series.ts_ns.len() / 2;
    let rows = engine.plan.block;
    for block in 0..=SAMPLE_BLOCKS {
        let start = middle + block * rows;
        let n = rows.min(series.ts_ns.len() - start);
        if n == 0 {
            break;
        }
        let rows = series.slice(start..start + n);
        let frame = Frame {
            ts_ns: rows.ts_ns,
            columns: &rows.columns,
            start: 0,
            n,
        };
        engine.compute_timed(frame, |node, time| {
            if block > 0 {
                costs[node] = costs[node].min(time.as_nanos() as f64 / n as f64);
            }
        });
        engine.end_block(frame, false);
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indicators::{
        catalog,
        program::{Builder, Input},
    };

    /// Means and exponential means of the close, of these lengths.
    fn means(windows: &[usize], recurrences: &[usize]) -> Program {
        let mut builder = Builder::new();
        let close = builder.input(Input::Close);
        let mut outputs = Vec::new();
        for (name, lengths) in [("sma", windows), ("ema", recurrences)] {
            let indicator = catalog::find(name).unwrap();
            for n in lengths {
                outputs.extend((indicator.expand)(&mut builder, &[close], &[*n as f64]));
            }
        }
        builder.finish(&outputs)
    }

    #[test]
    fn windows_are_cut_into_runs_and_recurrences_put_into_groups() {
        let program = means(&[5, 90, 20], &[3, 4, 5, 6]);
        let costs = vec![1.0; program.nodes.len()];

        let shares = Shares::new(&program, &costs, 1_000_000, 2);

        assert_eq!(shares.windows.outputs, [0, 1, 2]);
        assert_eq!(shares.lookback, 89);
        let mut end = 0;
        for position in 0.. {
            let Some(rows) = shares.run(position, 1_000_000) else {
                break;
            };
            assert_eq!(rows.start, end);
            end = rows.end;
        }
        assert_eq!(end, 1_000_000);
        let mut others: Vec<usize> = shares
            .groups
            .iter()
            .flat_map(|part| part.outputs.clone())
            .collect();
        others.sort_unstable();
        assert_eq!(others, [3, 4, 5, 6]);
    }

    #[test]
    fn what_looks_back_too_far_goes_through_in_one_go() {
        let program = means(&[5, 9000], &[]);
        let costs = vec![1.0; program.nodes.len()];

        let shares = Shares::new(&program, &costs, 50_000, 2);

        assert_eq!(shares.windows.outputs, [0]);
        assert_eq!(shares.groups[0].outputs, [1]);
    }

    #[test]
    fn outputs_that_share_a_chain_stay_together() {
        let mut builder = Builder::new();
        let close = builder.input(Input::Close);
        let macd = catalog::find("macd").unwrap();
        let mut outputs = (macd.expand)(&mut builder, &[close], &[12.0, 26.0, 9.0]);
        outputs.extend((macd.expand)(&mut builder, &[close], &[5.0, 35.0, 5.0]));
        let program = builder.finish(&outputs);
        let costs = vec![10.0; program.nodes.len()];

        let groups = group(&program, &costs, &[0, 1, 2, 3, 4, 5], 2);

        assert_eq!(groups, [vec![0, 1, 2], vec![3, 4, 5]]);
    }
}
