//! Windows by doubling: statistics of 1, 2, 4, 8 ... rows, each put together from two of half the length.
//!
//! A window of `n` rows joins the lengths that are the binary digits of `n`, the smallest being the oldest rows: 20 rows are
//! the oldest 4 and the newest 16. Where counting a row twice does no harm (the largest of a window), two overlapping
//! lengths do. So a row costs about `log2(n)` joins, all rows of a block are joined side by side in SIMD lanes, and the
//! value of a row depends on the rows of its window alone. One row by itself is computed by the same tree, and so is a block
//! in registers of eight lanes, see [`registers`].

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their vectorised callers"
)]

use std::{fmt::Debug, marker::PhantomData};

use super::{
    super::kernel::{Id, Scratch, Window},
    lanes::{EightLanes, Kernel, Lanes, vectorised},
    registers,
};

/// Numbers that the levels of one tile may take up, so that they stay in the nearest cache.
const TILE_VALUES: usize = 5000;
/// Levels that are alive at a time: the longest so far, the joined digits, and the one that is written.
const LEVELS: usize = 3;

/// Something that is known of a run of rows if it is known of its two parts: `K` numbers, from which `O` are the result.
pub(super) trait Statistic<const K: usize, const O: usize>: Debug + Send + Sync {
    /// Name of the node.
    const NAME: &'static str;

    /// Whether the parts may overlap.
    const OVERLAPS: bool = false;

    /// The state of one row, from its value in the first and in the last input.
    fn leaf<V: Lanes>(x: [V; 2]) -> [V; K];

    /// The numbers that [`Self::join`] needs for parts of so many rows, whose first rows are `distance` rows apart.
    fn factors(older: usize, newer: usize, distance: usize) -> [f64; 3];

    /// The state of two parts. `apart` is how much more the last row of the newer part is than that of the older: with means
    /// taken from the last row of their part, nothing is lost where values are large and their differences small.
    fn join<V: Lanes>(older: [V; K], newer: [V; K], apart: [V; 2], factors: [V; 3]) -> [V; K];

    /// The numbers that [`Self::result`] needs for a window of so many rows.
    fn scale(n_rows: usize) -> [f64; 3];

    /// What is wanted of the state of a whole window, whose last row is `last` in the first input.
    fn result<V: Lanes>(state: [V; K], last: V, scale: [V; 3]) -> [V; O];
}

/// What a statistic takes of each row: two numbers, made of `I`.
pub(super) trait Terms<const I: usize>: Debug + Send + Sync {
    /// Name of the node.
    const NAME: &'static str;

    /// For each of the numbers, the input and how many rows ago.
    const READS: [(usize, usize); I];

    /// See [`Window::is_defined_from_the_start`].
    const FROM_THE_START: bool = false;

    /// The two numbers.
    fn of<V: Lanes>(x: [V; I]) -> [V; 2];
}

/// The inputs themselves.
#[derive(Debug)]
struct Plain;

impl Terms<2> for Plain {
    const NAME: &'static str = "";
    const READS: [(usize, usize); 2] = [(0, 0), (1, 0)];

    #[inline(always)]
    fn of<V: Lanes>(x: [V; 2]) -> [V; 2] {
        x
    }
}

/// A statistic of terms of the last `n_rows` rows: what would else be several nodes goes through the registers once.
#[derive(Debug)]
pub(super) struct TreeOf<T, S, const I: usize, const K: usize, const O: usize> {
    n_rows: usize,
    kinds: PhantomData<(T, S)>,
}

impl<T: Terms<I>, S, const I: usize, const K: usize, const O: usize> TreeOf<T, S, I, K, O> {
    /// Rows before a row that its terms are made of.
    const AGO: usize = {
        let (mut most, mut i) = (0, 0);
        while i < I {
            if T::READS[i].1 > most {
                most = T::READS[i].1;
            }
            i += 1;
        }
        most
    };

    pub(super) fn new(n_rows: usize) -> Self {
        assert!(n_rows > 0, "a window holds one row or more");
        Self {
            n_rows,
            kinds: PhantomData,
        }
    }
}

impl<T, S, const I: usize, const K: usize, const O: usize> Window for TreeOf<T, S, I, K, O>
where
    T: Terms<I>,
    S: Statistic<K, O>,
{
    fn id(&self) -> Id {
        Id::new(T::NAME, [self.n_rows as u64])
    }

    fn lookback(&self) -> usize {
        self.n_rows - 1 + Self::AGO
    }

    fn n_outputs(&self) -> usize {
        O
    }

    fn is_defined_from_the_start(&self) -> bool {
        T::FROM_THE_START
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let rows = outputs[0].len() + self.n_rows - 1;
        let mut outputs = outputs.iter_mut();
        vectorised(RowsOf::<T, S, I, K, O> {
            window: self.n_rows,
            x: T::READS.map(|(input, ago)| &inputs[input][Self::AGO - ago..][..rows]),
            outputs: std::array::from_fn(|_| &mut **outputs.next().expect("all outputs")),
            scratch,
            kinds: PhantomData,
        });
    }
}

/// The rows of a [`TreeOf`].
struct RowsOf<'a, T, S, const I: usize, const K: usize, const O: usize> {
    window: usize,
    x: [&'a [f64]; I],
    outputs: [&'a mut [f64]; O],
    scratch: &'a mut Scratch,
    kinds: PhantomData<(T, S)>,
}

impl<T, S, const I: usize, const K: usize, const O: usize> Kernel for RowsOf<'_, T, S, I, K, O>
where
    T: Terms<I>,
    S: Statistic<K, O>,
{
    /// All terms first, then the tree.
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let n = self.x[0].len();
        let mut terms = std::mem::take(&mut self.scratch.terms);
        if terms.len() < 2 * n {
            terms.resize(2 * n, 0.0);
        }
        let (first, rest) = terms.split_at_mut(n);
        let last = &mut rest[..n];
        let whole = n - n % V::N;
        for t in (0..whole).step_by(V::N) {
            let mut x = [V::splat(0.0); I];
            for (x, rows) in x.iter_mut().zip(self.x) {
                // SAFETY: all have `n` rows, and `t + V::N` is at most that.
                *x = unsafe { V::load(rows.as_ptr().add(t)) };
            }
            let of = T::of(x);
            // SAFETY: both have `n` rows.
            unsafe {
                of[0].store(first.as_mut_ptr().add(t));
                of[1].store(last.as_mut_ptr().add(t));
            }
        }
        for t in whole..n {
            [first[t], last[t]] = T::of(self.x.map(|x| x[t]));
        }
        let rows = Rows::<S, K, O> {
            window: self.window,
            x: [first, last],
            outputs: self.outputs,
            scratch: &mut *self.scratch,
            statistic: PhantomData,
        };
        rows.run::<V>();
        self.scratch.terms = terms;
    }

    #[inline(always)]
    fn run_eight<V: EightLanes>(mut self) {
        const { assert!(K <= 2 && !S::OVERLAPS, "states that fit into registers") };
        let n = self.outputs[0].len() / 8 * 8;
        if self.window == 1 || n == 0 {
            return self.run::<V>();
        }
        assert!(
            self.outputs.iter().all(|out| out.len() >= n),
            "outputs have the same length"
        );
        let results = Results::<V, S, K, O> {
            outputs: self.outputs.each_mut().map(|out| out.as_mut_ptr()),
            last: self.x[0][self.window - 1..].as_ptr(),
            scale: splat(S::scale(self.window)),
            statistic: PhantomData,
        };
        registers::states::<V, T, S, I, K, O>(self.window, n, self.x, self.scratch, &results);
        let rest = RowsOf::<T, S, I, K, O> {
            window: self.window,
            x: self.x.map(|x| &x[n..]),
            outputs: self.outputs.map(|out| &mut out[n..]),
            scratch: self.scratch,
            kinds: PhantomData,
        };
        if !rest.outputs[0].is_empty() {
            rest.run::<V>();
        }
    }
}

/// A statistic of the last `n_rows` rows.
#[derive(Debug)]
pub(super) struct Tree<S, const K: usize, const O: usize> {
    n_rows: usize,
    statistic: PhantomData<S>,
}

impl<S, const K: usize, const O: usize> Tree<S, K, O> {
    pub(super) fn new(n_rows: usize) -> Self {
        assert!(n_rows > 0, "a window holds one row or more");
        Self {
            n_rows,
            statistic: PhantomData,
        }
    }
}

impl<S: Statistic<K, O>, const K: usize, const O: usize> Window for Tree<S, K, O> {
    fn id(&self) -> Id {
        Id::new(S::NAME, [self.n_rows as u64])
    }

    fn lookback(&self) -> usize {
        self.n_rows - 1
    }

    fn n_outputs(&self) -> usize {
        O
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
            return;
        };
        let n = outputs[0].len();
        let tile = (TILE_VALUES / (LEVELS * K)).max(self.n_rows);
        let mut start = 0;
        while start < n {
            let rows = start..(start + tile).min(n);
            let read = rows.start..rows.end + self.n_rows - 1;
            let mut tiles = outputs.iter_mut().map(|out| &mut out[rows.clone()]);
            let outputs = std::array::from_fn(|_| tiles.next().unwrap_or_default());
            vectorised(Rows::<S, K, O> {
                window: self.n_rows,
                x: [&first[read.clone()], &last[read]],
                outputs,
                scratch,
                statistic: PhantomData,
            });
            start = rows.end;
        }
    }
}

/// One tile of rows.
struct Rows<'a, S, const K: usize, const O: usize> {
    window: usize,
    x: [&'a [f64]; 2],
    outputs: [&'a mut [f64]; O],
    scratch: &'a mut Scratch,
    statistic: PhantomData<S>,
}

impl<S: Statistic<K, O>, const K: usize, const O: usize> Kernel for Rows<'_, S, K, O> {
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let n = self.outputs[0].len();
        assert!(
            self.outputs.iter().all(|out| out.len() == n),
            "outputs have the same length"
        );
        let scale = S::scale(self.window);
        if n < V::N || n == 1 {
            for t in 0..n {
                let [first, last] = self.x;
                let rows = t..t + self.window;
                let x = [&first[rows.clone()], &last[rows]];
                let last = x[0][self.window - 1];
                let result = S::result::<f64>(state_of_one::<S, K, O>(x), last, scale);
                for (out, result) in self.outputs.iter_mut().zip(result) {
                    out[t] = result;
                }
            }
        } else {
            let results = Results::<V, S, K, O> {
                outputs: self.outputs.each_mut().map(|out| out.as_mut_ptr()),
                last: self.x[0][self.window - 1..].as_ptr(),
                scale: splat(scale),
                statistic: PhantomData,
            };
            states_of_all::<V, S, K, O>(self.window, n, self.x, self.scratch, &results);
        }
    }

    #[inline(always)]
    fn run_eight<V: EightLanes>(mut self) {
        // What does not fill a register is done row by row. States of more numbers are more than the registers hold.
        let n = self.outputs[0].len() / 8 * 8;
        if S::OVERLAPS || K > 2 || self.window == 1 || n == 0 {
            return self.run::<V>();
        }
        assert!(
            self.outputs.iter().all(|out| out.len() >= n),
            "outputs have the same length"
        );
        let results = Results::<V, S, K, O> {
            outputs: self.outputs.each_mut().map(|out| out.as_mut_ptr()),
            last: self.x[0][self.window - 1..].as_ptr(),
            scale: splat(S::scale(self.window)),
            statistic: PhantomData,
        };
        registers::states::<V, Plain, S, 2, K, O>(self.window, n, self.x, self.scratch, &results);
        let [first, last] = self.x;
        let rest = Rows::<S, K, O> {
            window: self.window,
            x: [&first[n..], &last[n..]],
            outputs: self.outputs.map(|out| &mut out[n..]),
            scratch: self.scratch,
            statistic: PhantomData,
        };
        if !rest.outputs[0].is_empty() {
            rest.run::<V>();
        }
    }
}

/// The same numbers in all lanes.
#[inline(always)]
pub(super) fn splat<V: Lanes, const N: usize>(x: [f64; N]) -> [V; N] {
    let mut all = [V::splat(0.0); N];
    for (all, x) in all.iter_mut().zip(x) {
        *all = V::splat(x);
    }
    all
}

/// Where states go to. No closure: it must be compiled inside its caller.
pub(super) trait Sink<V: Lanes, const K: usize> {
    /// Takes the states of rows `t..t + V::N`.
    ///
    /// # Safety
    /// There are these rows.
    unsafe fn store(&self, t: usize, state: [V; K]);
}

/// Outputs of a node.
struct Results<V, S, const K: usize, const O: usize> {
    outputs: [*mut f64; O],
    last: *const f64,
    scale: [V; 3],
    statistic: PhantomData<S>,
}

impl<V: Lanes, S: Statistic<K, O>, const K: usize, const O: usize> Sink<V, K>
    for Results<V, S, K, O>
{
    #[inline(always)]
    unsafe fn store(&self, t: usize, state: [V; K]) {
        // SAFETY: the inputs have the rows of the outputs, and those before.
        let last = unsafe { V::load(self.last.add(t)) };
        let result = S::result(state, last, self.scale);
        for (out, result) in self.outputs.into_iter().zip(result) {
            // SAFETY: the caller promises the rows.
            unsafe { result.store(out.add(t)) }
        }
    }
}

/// Does `$body` for rows `$t` so that `V::N` from each on cover `0..$n`, the last ones perhaps twice; `$n` is `V::N` or more.
macro_rules! each {
    ($v:ident, $n:expr, $t:ident, $body:expr) => {{
        let last = $n - $v::N;
        let mut $t = 0;
        loop {
            $body;
            if $t == last {
                break;
            }
            $t = ($t + $v::N).min(last);
        }
    }};
}

/// Where states are read from: the inputs themselves, or a level. Row `t` is the run that begins at `t`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Leaves,
    Level(usize),
}

/// The levels of one tile.
#[derive(Debug)]
struct Levels<S, const K: usize, const O: usize> {
    x: [*const f64; 2],
    base: *mut f64,
    stride: usize,
    statistic: PhantomData<S>,
}

impl<S: Statistic<K, O>, const K: usize, const O: usize> Levels<S, K, O> {
    /// # Safety
    /// There are `V::N` rows from `t` on in the inputs.
    #[inline(always)]
    unsafe fn leaf<V: Lanes>(&self, t: usize) -> [V; K] {
        let [first, last] = self.x;
        // SAFETY: the caller promises it.
        S::leaf(unsafe { [V::load(first.add(t)), V::load(last.add(t))] })
    }

    /// How much more the inputs are at `newer` than at `older`.
    ///
    /// # Safety
    /// There are `V::N` rows from both on in the inputs.
    #[inline(always)]
    unsafe fn apart<V: Lanes>(&self, older: usize, newer: usize) -> [V; 2] {
        let [first, last] = self.x;
        // SAFETY: the caller promises it.
        unsafe {
            [
                V::load(first.add(newer)).sub(V::load(first.add(older))),
                V::load(last.add(newer)).sub(V::load(last.add(older))),
            ]
        }
    }

    /// Joins row `older` of `from` with row `newer` of it, runs of `length` rows.
    ///
    /// # Safety
    /// There are `V::N` runs from both on.
    #[inline(always)]
    unsafe fn joined<V: Lanes>(
        &self,
        from: Source,
        [older, newer, length]: [usize; 3],
        by: [V; 3],
    ) -> [V; K] {
        // SAFETY: the caller promises it.
        unsafe {
            let apart = self.apart(older + length - 1, newer + length - 1);
            match from {
                Source::Leaves => S::join(self.leaf(older), self.leaf(newer), apart, by),
                Source::Level(level) => {
                    S::join(self.load(level, older), self.load(level, newer), apart, by)
                }
            }
        }
    }

    /// # Safety
    /// There are `V::N` rows from `t` on in a level.
    #[inline(always)]
    unsafe fn load<V: Lanes>(&self, level: usize, t: usize) -> [V; K] {
        let mut state = [V::splat(0.0); K];
        for (k, x) in state.iter_mut().enumerate() {
            // SAFETY: the caller promises it.
            *x = unsafe { V::load(self.base.add((level * K + k) * self.stride + t)) };
        }
        state
    }

    /// # Safety
    /// There are `V::N` rows from `t` on in a level.
    #[inline(always)]
    unsafe fn store<V: Lanes>(&self, level: usize, t: usize, state: [V; K]) {
        for (k, x) in state.into_iter().enumerate() {
            // SAFETY: the caller promises it.
            unsafe { x.store(self.base.add((level * K + k) * self.stride + t)) }
        }
    }

    /// A level that is neither of these.
    #[inline(always)]
    fn free(one: Source, other: Option<(Source, usize)>) -> usize {
        let other = other.map_or(Source::Leaves, |(source, _)| source);
        let mut level = 0;
        while one == Source::Level(level) || other == Source::Level(level) {
            level += 1;
        }
        level
    }
}

/// A level as the place to which states go.
struct ToLevel<'a, S, const K: usize, const O: usize> {
    levels: &'a Levels<S, K, O>,
    level: usize,
}

impl<V: Lanes, S: Statistic<K, O>, const K: usize, const O: usize> Sink<V, K>
    for ToLevel<'_, S, K, O>
{
    #[inline(always)]
    unsafe fn store(&self, t: usize, state: [V; K]) {
        // SAFETY: the caller promises the rows.
        unsafe { self.levels.store(self.level, t, state) }
    }
}

/// The factors of a join in all lanes.
#[inline(always)]
pub(super) fn factors<V: Lanes, S: Statistic<K, O>, const K: usize, const O: usize>(
    older: usize,
    newer: usize,
    distance: usize,
) -> [V; 3] {
    splat(S::factors(older, newer, distance))
}

/// The states of the windows of `n_rows` rows that begin at rows `0..n` of `x`, handed to `sink`. Wants `n >= V::N` and
/// `n + n_rows - 1` rows of `x`; calls with rows below `n` only.
#[inline(always)]
pub(super) fn states_of_all<V: Lanes, S: Statistic<K, O>, const K: usize, const O: usize>(
    n_rows: usize,
    n: usize,
    x: [&[f64]; 2],
    scratch: &mut Scratch,
    sink: &impl Sink<V, K>,
) {
    let total = n + n_rows - 1;
    assert!(
        x[0].len() >= total && x[1].len() >= total && n >= V::N,
        "a window reads the rows before it"
    );
    // Whole cache lines, and an odd number of them, so that components do not fall upon each other's place in the cache.
    let stride = total.next_multiple_of(16) + 8;
    let levels = scratch.take(LEVELS * K * stride + 8);
    // Elements up to a cache line's begin; fewer than 8.
    let skipped = levels.as_ptr().align_offset(64).min(8);
    let at = &Levels::<S, K, O> {
        x: [x[0].as_ptr(), x[1].as_ptr()],
        base: levels[skipped..].as_mut_ptr(),
        stride,
        statistic: PhantomData,
    };
    let top: usize = 1 << n_rows.ilog2();
    let digits = if S::OVERLAPS { 0 } else { n_rows };

    // Every access below is to `V::N` rows from `t + offset` on, where `t + V::N` is at most the number of rows stated, so
    // chosen that the runs that begin in these rows end within `total`; each level has room for `total` rows.
    if n_rows == 1 {
        // SAFETY: see above.
        each!(V, n, t, unsafe { sink.store(t, at.leaf(t)) });
        return;
    }
    let mut joined = (digits & 1 == 1).then_some((Source::Leaves, 1));
    let mut source = Source::Leaves;
    let mut length = 1;
    while length < top {
        let by = factors::<V, S, K, O>(length, length, length);
        if 2 * length == n_rows {
            return double::<V, S, K, O>(at, source, length, n, by, sink);
        }
        let level = Levels::<S, K, O>::free(source, joined);
        let is_quadrupled = 4 * length <= top && 4 * length != n_rows && digits & (2 * length) == 0;
        if is_quadrupled {
            let by_two = factors::<V, S, K, O>(2 * length, 2 * length, 2 * length);
            let rows = total - 4 * length + 1;
            // The source is told apart outside of the loop.
            match source {
                Source::Leaves => {
                    quadruple::<V, S, K, O>(at, Source::Leaves, length, rows, [by, by_two], level);
                }
                Source::Level(from) => {
                    let from = Source::Level(from);
                    quadruple::<V, S, K, O>(at, from, length, rows, [by, by_two], level);
                }
            }
            length *= 4;
        } else {
            let rows = total - 2 * length + 1;
            let to = ToLevel { levels: at, level };
            double::<V, S, K, O>(at, source, length, rows, by, &to);
            length *= 2;
        }
        source = Source::Level(level);
        if length < top && digits & length != 0 {
            joined = Some(match joined {
                None => (source, length),
                Some((older, rows_older)) => {
                    let level = Levels::<S, K, O>::free(source, joined);
                    let by = factors::<V, S, K, O>(rows_older, length, rows_older);
                    let rows = total - length - rows_older + 1;
                    let to = ToLevel { levels: at, level };
                    let lengths = [rows_older, length, rows_older];
                    join::<V, S, K, O>(at, [older, source], lengths, rows, by, &to);
                    (Source::Level(level), rows_older + length)
                }
            });
        }
    }
    if S::OVERLAPS {
        let distance = n_rows - top;
        let by = factors::<V, S, K, O>(top, top, distance);
        join::<V, S, K, O>(at, [source, source], [top, top, distance], n, by, sink);
    } else if let Some((older, rows_older)) = joined {
        let by = factors::<V, S, K, O>(rows_older, top, rows_older);
        let lengths = [rows_older, top, rows_older];
        join::<V, S, K, O>(at, [older, source], lengths, n, by, sink);
    }
}

/// Joins four rows of `source`, `length` rows apart, for `rows` rows whose runs lie within the tile.
#[inline(always)]
fn quadruple<V: Lanes, S: Statistic<K, O>, const K: usize, const O: usize>(
    at: &Levels<S, K, O>,
    source: Source,
    length: usize,
    rows: usize,
    [by, by_two]: [[V; 3]; 2],
    level: usize,
) {
    each!(V, rows, t, {
        // SAFETY: the caller promises the rows.
        unsafe {
            let older = at.joined(source, [t, t + length, length], by);
            let newer = at.joined(source, [t + 2 * length, t + 3 * length, length], by);
            let apart = at.apart(t + 2 * length - 1, t + 4 * length - 1);
            at.store::<V>(level, t, S::join(older, newer, apart, by_two));
        }
    });
}

/// Joins row `t` of `source` with its row `t + length`, for `rows` rows whose runs lie within the tile.
#[inline(always)]
fn double<V: Lanes, S: Statistic<K, O>, const K: usize, const O: usize>(
    at: &Levels<S, K, O>,
    source: Source,
    length: usize,
    rows: usize,
    by: [V; 3],
    sink: &impl Sink<V, K>,
) {
    match source {
        Source::Leaves => each!(V, rows, t, {
            // SAFETY: the caller promises the rows.
            unsafe { sink.store(t, at.joined(Source::Leaves, [t, t + length, length], by)) }
        }),
        Source::Level(level) => each!(V, rows, t, {
            // SAFETY: the caller promises the rows.
            unsafe {
                sink.store(
                    t,
                    at.joined(Source::Level(level), [t, t + length, length], by),
                );
            }
        }),
    }
}

/// Joins row `t` of `older` with row `t + distance` of `newer`, a level, for `rows` rows whose runs, of so many rows, lie
/// within the tile.
#[inline(always)]
fn join<V: Lanes, S: Statistic<K, O>, const K: usize, const O: usize>(
    at: &Levels<S, K, O>,
    [older, newer]: [Source; 2],
    [rows_older, rows_newer, distance]: [usize; 3],
    rows: usize,
    by: [V; 3],
    sink: &impl Sink<V, K>,
) {
    let Source::Level(newer) = newer else { return };
    match older {
        Source::Leaves => each!(V, rows, t, {
            // SAFETY: the caller promises the rows.
            unsafe {
                let apart = at.apart(t + rows_older - 1, t + distance + rows_newer - 1);
                let state = S::join(at.leaf(t), at.load(newer, t + distance), apart, by);
                sink.store(t, state);
            }
        }),
        Source::Level(older) => each!(V, rows, t, {
            // SAFETY: the caller promises the rows.
            unsafe {
                let apart = at.apart(t + rows_older - 1, t + distance + rows_newer - 1);
                let state = S::join(at.load(older, t), at.load(newer, t + distance), apart, by);
                sink.store(t, state);
            }
        }),
    }
}

/// The state of all rows of `x`, by the tree of [`states_of_all`].
#[inline(always)]
pub(super) fn state_of_one<S: Statistic<K, O>, const K: usize, const O: usize>(
    x: [&[f64]; 2],
) -> [f64; K] {
    let n_rows = x[0].len();
    let top = 1 << n_rows.ilog2();
    if S::OVERLAPS {
        let distance = n_rows - top;
        let oldest = state_of_power::<S, K, O>(x, 0, top);
        if distance == 0 {
            return oldest;
        }
        let newest = state_of_power::<S, K, O>(x, distance, top);
        let by = S::factors(top, top, distance);
        return S::join(oldest, newest, apart(x, top - 1, n_rows - 1), by);
    }
    let mut length = 1 << n_rows.trailing_zeros();
    let mut state = state_of_power::<S, K, O>(x, 0, length);
    let mut rows = length;
    while rows < n_rows {
        length *= 2;
        if n_rows & length != 0 {
            let newer = state_of_power::<S, K, O>(x, rows, length);
            let by = S::factors(rows, length, rows);
            state = S::join(state, newer, apart(x, rows - 1, rows + length - 1), by);
            rows += length;
        }
    }
    state
}

#[inline(always)]
fn apart(x: [&[f64]; 2], older: usize, newer: usize) -> [f64; 2] {
    [x[0][newer] - x[0][older], x[1][newer] - x[1][older]]
}

#[inline(always)]
fn one<S: Statistic<K, O>, const K: usize, const O: usize>(x: [&[f64]; 2], t: usize) -> [f64; K] {
    S::leaf::<f64>([x[0][t], x[1][t]])
}

#[inline(always)]
fn two<S: Statistic<K, O>, const K: usize, const O: usize>(x: [&[f64]; 2], t: usize) -> [f64; K] {
    let (older, newer) = (one::<S, K, O>(x, t), one::<S, K, O>(x, t + 1));
    S::join(older, newer, apart(x, t, t + 1), S::factors(1, 1, 1))
}

#[inline(always)]
fn four<S: Statistic<K, O>, const K: usize, const O: usize>(x: [&[f64]; 2], t: usize) -> [f64; K] {
    let (older, newer) = (two::<S, K, O>(x, t), two::<S, K, O>(x, t + 2));
    S::join(older, newer, apart(x, t + 1, t + 3), S::factors(2, 2, 2))
}

#[inline(always)]
fn eight<S: Statistic<K, O>, const K: usize, const O: usize>(x: [&[f64]; 2], t: usize) -> [f64; K] {
    let (older, newer) = (four::<S, K, O>(x, t), four::<S, K, O>(x, t + 4));
    S::join(older, newer, apart(x, t + 3, t + 7), S::factors(4, 4, 4))
}

/// The state of `n_rows` rows from `start` on, a power of two.
#[inline(always)]
fn state_of_power<S: Statistic<K, O>, const K: usize, const O: usize>(
    x: [&[f64]; 2],
    start: usize,
    n_rows: usize,
) -> [f64; K] {
    let x = [&x[0][start..start + n_rows], &x[1][start..start + n_rows]];
    match n_rows {
        1 => one::<S, K, O>(x, 0),
        2 => two::<S, K, O>(x, 0),
        4 => four::<S, K, O>(x, 0),
        _ => {
            // Place `i` waits for its newer half, 8 * 2^i rows: a binary counter.
            let mut waiting = [[0.0; K]; usize::BITS as usize];
            for group in 0..n_rows / 8 {
                let last = 8 * group + 7;
                let mut state = eight::<S, K, O>(x, 8 * group);
                let (mut bits, mut place) = (group, 0);
                while bits & 1 == 1 {
                    let rows = 8 << place;
                    let by = S::factors(rows, rows, rows);
                    state = S::join(waiting[place], state, apart(x, last - rows, last), by);
                    bits >>= 1;
                    place += 1;
                }
                waiting[place] = state;
            }
            waiting[n_rows.ilog2() as usize - 3]
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            comoments::{Deviations, Together},
            deviation::Deviation,
            extremes::{Largest, PlaceOfLargest, Smallest},
            moments::{Shape, Spread},
            regression::Line,
            sums::Mean,
        },
        *,
    };

    /// The first row that a state was made of, and how many; NaN if the parts did not follow each other.
    #[derive(Debug)]
    struct Trace;

    impl Statistic<2, 2> for Trace {
        const NAME: &'static str = "trace";

        fn leaf<V: Lanes>([x, _]: [V; 2]) -> [V; 2] {
            [x, V::splat(1.0)]
        }

        fn factors(older: usize, _newer: usize, distance: usize) -> [f64; 3] {
            assert_eq!(older, distance);
            [older as f64, 0.0, 0.0]
        }

        fn join<V: Lanes>(
            [first, rows]: [V; 2],
            [newer, newer_rows]: [V; 2],
            [apart, _]: [V; 2],
            [older_rows, ..]: [V; 3],
        ) -> [V; 2] {
            // NaN unless the older part has the length that was said and the newer part begins where it ends.
            let is_next = first
                .add(older_rows)
                .if_ge(newer, V::splat(1.0), V::splat(f64::NAN));
            let is_next_too = newer.if_ge(first.add(rows), V::splat(1.0), V::splat(f64::NAN));
            let is_apart =
                newer_rows
                    .sub(apart)
                    .if_ge(V::splat(0.0), V::splat(1.0), V::splat(f64::NAN));
            let is_apart_too =
                apart
                    .sub(newer_rows)
                    .if_ge(V::splat(0.0), V::splat(1.0), V::splat(f64::NAN));
            let is_good = is_next.mul(is_next_too).mul(is_apart).mul(is_apart_too);
            [first.mul(is_good), rows.add(newer_rows)]
        }

        fn scale(_n_rows: usize) -> [f64; 3] {
            [0.0; 3]
        }

        fn result<V: Lanes>(state: [V; 2], _last: V, _scale: [V; 3]) -> [V; 2] {
            state
        }
    }

    #[test]
    fn every_window_holds_its_rows_once_and_in_order() {
        let x: Vec<f64> = (0..2000).map(f64::from).collect();
        let mut scratch = Scratch::default();
        for n_rows in (1..140).chain([255, 256, 257, 1000]) {
            for n in [1, 3, 4, 7, 8, 9, 16, 31, 500, 900] {
                let (mut first, mut rows) = (vec![0.0; n], vec![0.0; n]);
                Tree::<Trace, 2, 2>::new(n_rows).run(
                    &[&x[..n_rows - 1 + n]],
                    &mut [&mut first, &mut rows],
                    &mut scratch,
                );
                for t in 0..n {
                    assert!(
                        (first[t] - t as f64).abs() < 0.5 && (rows[t] - n_rows as f64).abs() < 0.5,
                        "{n_rows} rows, row {t} of {n}: {} from {}",
                        rows[t],
                        first[t]
                    );
                }
            }
        }
    }

    /// Prices with a bad tick and a gap.
    fn prices() -> Vec<f64> {
        let price = |t: i32| 1e3 + f64::from((t * 7919) % 1013) / 64.0 + f64::from(t % 7) / 3.0;
        let mut x: Vec<f64> = (0..1500).map(price).collect();
        x[700] = f64::NAN;
        x[900] = 1e9;
        x
    }

    fn bits(outputs: &[Vec<f64>]) -> Vec<Vec<u64>> {
        let of = |x: &f64| if x.is_nan() { 0 } else { x.to_bits() };
        let column = |x: &Vec<f64>| x.iter().map(of).collect();
        outputs.iter().map(column).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn bits_depend_on_the_rows_of_the_window_alone(
            n_rows in prop_oneof![1_usize..70, 100_usize..300],
            start in 0_usize..200,
            sizes in proptest::collection::vec(prop_oneof![1_usize..20, 100_usize..700], 1..20),
        ) {
            let x = prices();
            let y: Vec<f64> = x.iter().rev().copied().collect();
            let mut scratch = Scratch::default();
            let windows: [Box<dyn Window>; 10] = [
                Box::new(Tree::<Mean, 1, 1>::new(n_rows)),
                Box::new(Tree::<Spread, 2, 3>::new(n_rows)),
                Box::new(Tree::<Shape, 4, 3>::new(n_rows)),
                Box::new(Tree::<Together, 5, 3>::new(n_rows)),
                Box::new(Tree::<Line, 2, 2>::new(n_rows)),
                Box::new(Deviation { n_rows }),
                Box::new(Deviations { n_rows }),
                Box::new(Tree::<PlaceOfLargest, 2, 1>::new(n_rows)),
                Box::new(Tree::<Largest, 1, 1>::new(n_rows)),
                Box::new(Tree::<Smallest, 1, 1>::new(n_rows)),
            ];
            for window in windows {
                let n = x.len() - start - (n_rows - 1);
                let mut whole = vec![vec![0.0; n]; window.n_outputs()];
                let mut outputs: Vec<&mut [f64]> = whole.iter_mut().map(Vec::as_mut_slice).collect();
                window.run(&[&x[start..], &y[start..]], &mut outputs, &mut scratch);

                let mut pieces = vec![vec![0.0; n]; window.n_outputs()];
                let mut t = 0;
                for size in sizes.iter().cycle() {
                    let rows = t..(t + size).min(n);
                    let mut outputs: Vec<&mut [f64]> =
                        pieces.iter_mut().map(|out| &mut out[rows.clone()]).collect();
                    let read = start + rows.start..start + rows.end + n_rows - 1;
                    window.run(&[&x[read.clone()], &y[read]], &mut outputs, &mut scratch);
                    t = rows.end;
                    if t == n {
                        break;
                    }
                }

                prop_assert!(bits(&whole) == bits(&pieces), "{window:?}");
            }
        }
    }
}
