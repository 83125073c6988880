//! Runs a program: whole series at once, or bar by bar.
//!
//! Data flow. A block of rows goes through all nodes before the next block does, so that what one node writes is still in
//! the cache when another reads it:
//!
//! ```text
//! bars ----------------------------+   read in place, from the first row that has enough rows before it
//!                                  v
//! arena [history | block]  <--> kernels <--> scratch
//!                |
//!                v  one NaN, f64 or f32, past the cache
//! results
//! ```
//!
//! * A series that nobody looks back at shares its place in the arena with those whose life is over.
//! * A series that windows look back at keeps the rows that they need before its block. After a block its last rows move to
//!   the front; a stream goes through the block row by row and moves them once in a block.
//! * Results are written once. Where they are many, they go from the arena, where they are hot, past the cache to memory, so
//!   that no cache line of them is read before it is written; few ones are computed where they shall be.
//! * Nothing is allocated after [`Engine::new`].
//!
//! Several threads share the work: outputs that follow from windows alone by runs of rows, the others by groups of columns.

mod arena;
mod columns;
mod few;
mod plan;
mod stream;
mod threads;

pub use columns::{Columns, Number};

use super::{
    kernel::{Recurrence, Scratch, Tape, Window},
    program::{Input, Node, Program, Work},
};
use crate::bars::{Bar, Bars};
use arena::{Arena, Cut};
use few::Few;
use plan::{Action, Place, Plan, Read};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use stream::Stream;

/// Rows that are computed at a time. What a window computes again for the rows before its block is little beside so many,
/// and the series of a program of a hundred nodes stay in the second-level cache. On a Zen 5 core a program of 87 outputs
/// takes 110, 93, 81 and 77 ns a row in blocks of 256, 512, 1024 and 2048; one of 234 outputs gains nothing beyond 1024.
const BLOCK: usize = 1024;
/// The same for a program of few nodes, which waits for memory more than it computes: the shorter a block, the sooner the
/// next one's rows are on their way while the present one's results still are. Shorter yet, windows compute too much again.
const SHORT_BLOCK: usize = 512;
/// Nodes of a program that takes short blocks, at most, inputs included.
const FEW_NODES: usize = 16;
/// What a program that only maps rows takes: nothing is computed again in it.
const SHORTEST_BLOCK: usize = 384;
/// Rows that it looks back at most.
const FEW_ROWS: usize = 2;
/// Nanoseconds of a day.
const DAY_NS: i64 = 86_400_000_000_000;

/// A program and all that it remembers of the rows so far.
#[derive(Debug)]
pub struct Engine {
    plan: Plan,
    stream: Stream,
    /// For each node, its window if it is one.
    windows: Vec<Option<Arc<dyn Window>>>,
    /// The states of those nodes that are recurrences, in order.
    states: Vec<Box<dyn Recurrence>>,
    arena: Arena,
    /// Where the next row goes in the blocks of series that have a history.
    cursor: usize,
    scratch: Scratch,
}

/// The rows that a step computes.
#[derive(Clone, Copy)]
struct Frame<'a> {
    ts_ns: &'a [i64],
    /// The bars' columns, from the first row of this run on.
    columns: &'a [&'a [f64]],
    /// The first row to compute.
    start: usize,
    /// The number of rows to compute.
    n: usize,
}

impl Frame<'_> {
    /// Whether readers of this column find all that they look back at in the bars.
    fn is_in_place(&self, history: usize) -> bool {
        self.start >= history
    }
}

/// Takes the rows of wanted outputs.
trait Sink {
    /// Where `n` rows from `start` on of output `output` may be written, if that is memory for `f64` close at hand.
    fn place(&mut self, _output: usize, _start: usize, _n: usize) -> Option<*mut f64> {
        None
    }

    /// Rows from `start` on of output `output`.
    fn put(&mut self, output: usize, start: usize, values: &[f64]);
}

impl Engine {
    /// The program before the first row.
    pub fn new(program: &Program) -> Self {
        let is_map = |node: &Node| match &node.work {
            Work::Input(_) => true,
            Work::Window(window) => window.lookback() <= FEW_ROWS,
            Work::Recurrence(_) => false,
        };
        let block = if program.nodes.len() > FEW_NODES {
            BLOCK
        } else if program.nodes.iter().all(is_map) {
            SHORTEST_BLOCK
        } else {
            SHORT_BLOCK
        };
        Self::with_block(program, block)
    }

    fn with_block(program: &Program, block: usize) -> Self {
        let plan = Plan::new(program, block);
        let window = |work: &Work| match work {
            Work::Window(window) => Some(Arc::clone(window)),
            _ => None,
        };
        let state = |work: &Work| match work {
            Work::Recurrence(recurrence) => Some(recurrence.fresh()),
            _ => None,
        };
        // The cells of the stream lie behind the blocks.
        let n_values = plan.n_values + plan.places.len();
        let mut engine = Self {
            stream: Stream::new(program, &plan, plan.n_values),
            windows: program
                .nodes
                .iter()
                .map(|node| window(&node.work))
                .collect(),
            states: program
                .nodes
                .iter()
                .filter_map(|node| state(&node.work))
                .collect(),
            arena: Arena::new(n_values),
            cursor: 0,
            scratch: Scratch::default(),
            plan,
        };
        let values = engine.arena.all();
        for (series, x) in &engine.plan.constants {
            let at = engine.plan.places[*series].at;
            values[at..at + block].fill(*x);
            values[engine.plan.n_values + series] = *x;
        }
        engine
    }

    /// Every output of a whole series, with the further `columns` that the program reads. See [`Columns`] for other
    /// types of numbers and for memory that is used again.
    ///
    /// # Panics
    /// As [`Columns::of`].
    pub fn batch(program: &Program, bars: Bars<'_>, columns: &[&[f64]]) -> Vec<Vec<f64>> {
        Columns::of(program, bars, columns).into_vecs()
    }

    /// Takes one bar in, with the further `columns` that the program reads, and writes the outputs of its row.
    ///
    /// # Panics
    /// If the program reads further columns than there are, or has other than `out.len()` outputs.
    pub fn update(&mut self, bar: Bar, columns: &[f64], out: &mut [f64]) {
        assert_eq!(
            out.len(),
            self.stream.n_results(),
            "as many results as the program has outputs"
        );
        let cut = self.arena.cut();
        let memory = (self.states.as_mut_slice(), &mut self.scratch);
        self.stream
            .row((bar, columns), cut, self.cursor, memory, out);
        self.cursor += 1;
        if self.cursor == self.plan.block {
            self.rewind();
        }
    }

    /// Writes all that is remembered down, or takes it up.
    pub fn state(&mut self, tape: &mut Tape) {
        let values = self.arena.all();
        for (place, _) in &self.plan.kept {
            let end = place.at + self.cursor;
            tape.all(&mut values[end - place.history..end]);
        }
        for state in &mut self.states {
            state.state(tape);
        }
    }

    /// Forgets all rows. For programs without recurrences.
    fn forget(&mut self) {
        assert!(self.states.is_empty(), "a state has no way back");
        self.cursor = 0;
        let values = self.arena.all();
        for (place, _) in &self.plan.kept {
            values[place.at - place.history..place.at].fill(f64::NAN);
        }
    }

    /// Moves the last rows of every series with a history to the front.
    fn rewind(&mut self) {
        let cursor = std::mem::take(&mut self.cursor);
        if cursor > 0 {
            let values = self.arena.all();
            for (place, _) in &self.plan.kept {
                shift(values, *place, cursor);
            }
        }
    }

    /// Takes all rows of `bars` in.
    fn run(&mut self, ts_ns: &[i64], columns: &[&[f64]], sink: &mut impl Sink) {
        self.rewind();
        let mut start = 0;
        while start < ts_ns.len() {
            let n = self.plan.block.min(ts_ns.len() - start);
            let frame = Frame {
                ts_ns: &ts_ns[start..start + n],
                columns,
                start,
                n,
            };
            self.compute(frame, sink);
            self.end_block(frame, start + n == ts_ns.len());
            start += n;
        }
    }

    /// Readies histories for the next block.
    fn end_block(&mut self, frame: Frame<'_>, is_last: bool) {
        let values = self.arena.all();
        for (place, column) in &self.plan.kept {
            match column {
                Some(column) if frame.is_in_place(place.history) => {
                    if is_last {
                        let end = frame.start + frame.n;
                        let last = &frame.columns[*column][end - place.history..end];
                        values[place.at - place.history..place.at].copy_from_slice(last);
                    }
                }
                _ => shift(values, *place, frame.n),
            }
        }
    }

    /// Computes all nodes for the rows of `frame`, and says how long each took.
    fn compute_timed(&mut self, frame: Frame<'_>, mut took: impl FnMut(usize, Duration)) {
        let cut = self.arena.cut();
        for (node, (step, window)) in self.plan.steps.iter().zip(&self.windows).enumerate() {
            let begin = Instant::now();
            let (states, scratch) = (&mut self.states, &mut self.scratch);
            step.run(&self.plan, window.as_deref(), states, cut, scratch, frame);
            took(node, begin.elapsed());
        }
    }

    /// Computes all nodes for the rows of `frame`.
    fn compute(&mut self, frame: Frame<'_>, sink: &mut impl Sink) {
        let Self {
            plan,
            windows,
            states,
            arena,
            scratch,
            ..
        } = self;
        let cut = arena.cut();
        for (step, window) in plan.steps.iter().zip(windows) {
            let mut placed = Few::<&mut [f64]>::new();
            for result in &plan.last[step.last.clone()] {
                let Some(place) = sink.place(*result, frame.start, frame.n) else {
                    break;
                };
                // SAFETY: the sink says that there is memory for so many rows of this result, which nothing else holds.
                placed.push(unsafe { std::slice::from_raw_parts_mut(place, frame.n) });
            }
            if placed.len() == step.places.len() {
                let inputs = step.inputs(plan, cut, frame);
                step.kernel(window.as_deref(), states, inputs, placed.all(), scratch);
                for values in placed.all() {
                    columns::keep_finite(values);
                }
                continue;
            }
            step.run(plan, window.as_deref(), states, cut, scratch, frame);
            for &(series, output) in &plan.wanted[step.wanted.clone()] {
                let place = plan.places[series];
                let values = match step.action {
                    Action::Copy(column) if frame.is_in_place(place.history) => {
                        &frame.columns[column][frame.start..frame.start + frame.n]
                    }
                    // SAFETY: no step is running.
                    _ => unsafe { cut.read(place.at, frame.n) },
                };
                sink.put(output, frame.start, values);
            }
        }
    }
}

impl plan::Step {
    #[inline]
    fn run(
        &self,
        plan: &Plan,
        window: Option<&dyn Window>,
        states: &mut [Box<dyn Recurrence>],
        cut: Cut<'_>,
        scratch: &mut Scratch,
        frame: Frame<'_>,
    ) {
        match self.action {
            Action::Rest => {}
            Action::Copy(column) => {
                let place = plan.places[self.places.start];
                if !frame.is_in_place(place.history) {
                    // SAFETY: the only part that is borrowed.
                    let out = unsafe { cut.write(place.at, frame.n) };
                    let rows = &frame.columns[column][frame.start..frame.start + frame.n];
                    out.copy_from_slice(rows);
                }
            }
            Action::Input(input) => {
                let place = plan.places[self.places.start];
                // SAFETY: the only part that is borrowed.
                let out = unsafe { cut.write(place.at, frame.n) };
                match input {
                    Input::Constant(bits) => out.fill(f64::from_bits(bits)),
                    Input::Day => split_days(frame.ts_ns, |t, day, _| out[t] = day as f64),
                    _ => split_days(frame.ts_ns, |t, _, rest| out[t] = rest as f64),
                }
            }
            Action::Window | Action::Recurrence(_) => {
                let inputs = self.inputs(plan, cut, frame);
                let mut outputs = Few::<&mut [f64]>::new();
                for place in &plan.places[self.places.clone()] {
                    // SAFETY: the outputs of a node have places of their own, which those of its inputs do not overlap.
                    outputs.push(unsafe { cut.write(place.at, frame.n) });
                }
                self.kernel(window, states, inputs, outputs.all(), scratch);
            }
        }
    }

    #[inline]
    fn kernel(
        &self,
        window: Option<&dyn Window>,
        states: &mut [Box<dyn Recurrence>],
        mut inputs: Few<&[f64]>,
        outputs: &mut [&mut [f64]],
        scratch: &mut Scratch,
    ) {
        match (window, self.action) {
            (Some(window), _) => window.run(inputs.all(), outputs, scratch),
            (None, Action::Recurrence(state)) => states[state].run(inputs.all(), outputs),
            (None, _) => unreachable!("a window's node has a window"),
        }
    }

    #[inline]
    fn inputs<'a>(&self, plan: &Plan, cut: Cut<'a>, frame: Frame<'a>) -> Few<&'a [f64]> {
        let mut inputs = Few::new();
        for read in &plan.reads[self.reads.clone()] {
            inputs.push(self.read(read, cut, frame));
        }
        inputs
    }

    /// The rows of an input, with those before that it looks back at.
    #[inline]
    fn read<'a>(&self, read: &Read, cut: Cut<'a>, frame: Frame<'a>) -> &'a [f64] {
        match read.column {
            Some(column) if frame.is_in_place(read.place.history) => {
                &frame.columns[column][frame.start - self.lookback..frame.start + frame.n]
            }
            _ => {
                let row = read.place.at;
                // SAFETY: the outputs that this step writes lie elsewhere.
                unsafe { cut.read(row - self.lookback, self.lookback + frame.n) }
            }
        }
    }
}

/// Moves the last rows of a series, `n` rows further than the last time, to the front.
fn shift(values: &mut [f64], place: Place, n: usize) {
    let end = place.at + n;
    values.copy_within(end - place.history..end, place.at - place.history);
}

/// Calls `put` with each row, its day and the nanoseconds since that began. Divides once a day.
fn split_days(ts_ns: &[i64], mut put: impl FnMut(usize, i64, i64)) {
    let Some(first) = ts_ns.first() else { return };
    let mut day = first.div_euclid(DAY_NS);
    let mut start = first - first.rem_euclid(DAY_NS);
    for (t, ts_ns) in ts_ns.iter().enumerate() {
        let mut rest = ts_ns - start;
        if !(0..DAY_NS).contains(&rest) {
            day = ts_ns.div_euclid(DAY_NS);
            rest = ts_ns.rem_euclid(DAY_NS);
            start = ts_ns - rest;
        }
        put(t, day, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        catalog,
        check::{market, typical},
        kernel::Id,
        program::{Builder, Series},
    };
    use super::*;
    use columns::finite_or_nan;

    /// `x[t] - x[t - n]` and `x[t] / y[t - n]`, which is infinite now and then.
    #[derive(Debug)]
    struct Lagged(usize);

    impl Window for Lagged {
        fn id(&self) -> Id {
            Id::new("lagged", [self.0 as u64])
        }

        fn lookback(&self) -> usize {
            self.0
        }

        fn n_outputs(&self) -> usize {
            2
        }

        fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
            scratch.take(outputs[0].len()).fill(f64::NAN);
            for t in 0..outputs[0].len() {
                let (x, y) = (inputs[0][t + self.0], inputs[inputs.len() - 1][t]);
                outputs[0][t] = x - inputs[0][t];
                outputs[1][t] = x / y;
            }
        }
    }

    /// A mean with a short memory, and the number of rows since the last NaN.
    #[derive(Debug, Clone)]
    struct Fading {
        share: f64,
        mean: f64,
        n_rows: usize,
    }

    impl Recurrence for Fading {
        fn id(&self) -> Id {
            Id::new("fading", [self.share.to_bits()])
        }

        fn n_outputs(&self) -> usize {
            2
        }

        fn warm_up(&self) -> usize {
            0
        }

        fn memory(&self) -> Option<usize> {
            Some(100)
        }

        fn fresh(&self) -> Box<dyn Recurrence> {
            Box::new(Self {
                mean: 0.0,
                n_rows: 0,
                share: self.share,
            })
        }

        fn run(&mut self, inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
            for (t, x) in inputs[0].iter().enumerate() {
                self.n_rows += 1;
                if x.is_nan() {
                    (self.mean, self.n_rows) = (0.0, 0);
                } else {
                    self.mean += self.share * (x - self.mean);
                }
                outputs[0][t] = self.mean;
                outputs[1][t] = self.n_rows as f64;
            }
        }

        fn state(&mut self, tape: &mut Tape) {
            tape.f64(&mut self.mean);
            tape.count(&mut self.n_rows);
        }
    }

    /// Chains that share parts, with histories of many lengths, inputs that are results, and one result twice.
    fn tangle() -> Program {
        let mut builder = Builder::new();
        let mut series: Vec<Series> = [
            Input::Close,
            Input::Volume,
            Input::High,
            Input::Column(0),
            Input::Day,
            Input::TimeOfDay,
        ]
        .map(|input| builder.input(input))
        .to_vec();
        series.push(builder.constant(0.0));
        series.push(builder.constant(2.5));
        for i in 0..40 {
            let (a, b) = (series[i * 7 % series.len()], series[i * 5 % series.len()]);
            let made = if i % 4 == 3 {
                let share = 1.0 / (i as f64 + 1.5);
                builder.recurrence(
                    Fading {
                        share,
                        mean: 0.0,
                        n_rows: 0,
                    },
                    &[a],
                )
            } else {
                builder.window(Lagged([0, 0, 1, 3, 20, 97][i % 6]), &[a, b])
            };
            series.extend(made);
        }
        let mut wanted: Vec<Series> = series.iter().copied().step_by(2).collect();
        wanted.extend([series[1], series[3], series[3], series[7]]);
        builder.finish(&wanted)
    }

    fn input(n_rows: usize) -> (crate::bars::BarColumns, Vec<f64>) {
        let mut bars = market(n_rows, 3);
        bars.close[n_rows / 2] = f64::NAN;
        bars.close[n_rows / 3] = f64::INFINITY;
        let further = (0..n_rows).map(|t| (t % 17) as f64).collect();
        (bars, further)
    }

    fn results(program: &Program, block: usize, n_rows: usize) -> Vec<Vec<f64>> {
        struct All(Vec<Vec<f64>>);
        impl Sink for All {
            fn put(&mut self, output: usize, start: usize, values: &[f64]) {
                assert_eq!(self.0[output].len(), start);
                self.0[output].extend(values.iter().map(|x| finite_or_nan(*x)));
            }
        }
        let (bars, further) = input(n_rows);
        let bars = bars.view();
        let columns = [
            bars.open,
            bars.high,
            bars.low,
            bars.close,
            bars.volume,
            &further,
        ];
        let mut all = All(vec![Vec::new(); program.n_outputs()]);
        Engine::with_block(program, block).run(bars.ts_ns, &columns, &mut all);
        all.0
    }

    fn assert_same(a: &[Vec<f64>], b: &[Vec<f64>], what: &str) {
        assert_eq!(a.len(), b.len());
        for (output, (a, b)) in a.iter().zip(b).enumerate() {
            assert_eq!(a.len(), b.len());
            for (t, (x, y)) in a.iter().zip(b).enumerate() {
                assert_eq!(
                    x.to_bits(),
                    y.to_bits(),
                    "{what}: output {output}, row {t}: {x}, {y}"
                );
            }
        }
    }

    #[test]
    fn blocks_of_any_length_give_the_same_bits() {
        let program = tangle();
        let whole = results(&program, 3000, 3000);

        for block in [1, 7, 64, 100, 1024] {
            assert_same(
                &whole,
                &results(&program, block, 3000),
                &format!("blocks of {block}"),
            );
        }
        assert!(whole.iter().flatten().any(|x| x.is_finite()));
    }

    #[test]
    fn a_stream_that_goes_on_from_a_state_is_the_same_as_the_whole() {
        let n_rows = 700;
        let program = tangle();
        let whole = results(&program, 1024, n_rows);
        let (bars, further) = input(n_rows);

        for (block, breaks) in [(64, [1, 63, 200]), (1024, [64, 65, 699])] {
            let mut engine = Engine::with_block(&program, block);
            let mut stream = vec![Vec::new(); program.n_outputs()];
            let mut row = vec![0.0; program.n_outputs()];
            for (t, bar) in bars.view().iter().enumerate() {
                if breaks.contains(&t) {
                    let mut written = Tape::new();
                    engine.state(&mut written);
                    let words = written.into_words();
                    engine = Engine::with_block(&program, 96);
                    // What is in the state does not depend on where in its block the engine is.
                    for _ in 0..t % 5 {
                        engine.update(bar, &[0.0], &mut row);
                    }
                    let mut taken = Tape::of(words.clone());
                    engine.state(&mut taken);
                    assert!(taken.is_used_up());
                    let mut again = Tape::new();
                    engine.state(&mut again);
                    assert_eq!(again.into_words(), words);
                }
                engine.update(bar, &[further[t]], &mut row);
                stream
                    .iter_mut()
                    .zip(&row)
                    .for_each(|(column, x)| column.push(*x));
            }
            assert_same(&whole, &stream, &format!("a stream in blocks of {block}"));
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let n_rows = 40_000;
        let program = tangle();
        let whole = results(&program, 1024, n_rows);
        let (bars, further) = input(n_rows);

        for n_threads in [1, 2, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(n_threads)
                .build()
                .unwrap();
            let columns: Columns<f64> =
                pool.install(|| Columns::of(&program, bars.view(), &[&further]));
            assert_same(
                &whole,
                &columns.into_vecs(),
                &format!("{n_threads} threads"),
            );
        }
    }

    #[test]
    fn all_indicators_have_the_same_bits_on_any_number_of_threads() {
        let mut builder = Builder::new();
        let mut outputs = Vec::new();
        for indicator in catalog::catalog() {
            let (series, parameters) = typical(indicator);
            let series: Vec<_> = series.iter().map(|input| builder.input(*input)).collect();
            outputs.extend((indicator.expand)(&mut builder, &series, &parameters));
        }
        let program = builder.finish(&outputs);
        let mut bars = market(18_000, 5);
        bars.close[9000] = f64::NAN;
        let on = |n_threads| -> Columns<f64> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
            let pool = pool.build().unwrap();
            pool.install(|| Columns::of(&program, bars.view(), &[]))
        };
        let whole = on(1).into_vecs();

        for n_threads in [2, 3, 8] {
            assert_same(
                &whole,
                &on(n_threads).into_vecs(),
                &format!("{n_threads} threads"),
            );
        }
    }

    #[test]
    fn f32_is_f64_rounded_and_memory_is_used_again() {
        let program = tangle();
        let whole = results(&program, 1024, 5000);
        let (bars, further) = input(5000);
        let mut columns: Columns<f32> = Columns::of(&program, bars.view(), &[&further]);
        let first = columns[0].as_ptr();

        columns.fill(&program, bars.view().slice(0..4000), &[&further[..4000]]);

        assert_eq!(columns[0].as_ptr(), first);
        for (rounded, exact) in columns.iter().zip(&whole) {
            assert_eq!(rounded.len(), 4000);
            for (x, y) in rounded.iter().zip(exact) {
                assert_eq!(x.to_bits(), (*y as f32).to_bits());
            }
        }
    }

    #[test]
    fn days_begin_at_midnight_utc() {
        let mut days = Vec::new();
        let times = [-1, 0, DAY_NS - 1, DAY_NS, 3 * DAY_NS + 5, 2 * DAY_NS];

        split_days(&times, |t, day, rest| days.push((t, day, rest)));

        let expected = [
            (0, -1, DAY_NS - 1),
            (1, 0, 0),
            (2, 0, DAY_NS - 1),
            (3, 1, 0),
            (4, 3, 5),
            (5, 2, 0),
        ];
        assert_eq!(days, expected);
    }
}
