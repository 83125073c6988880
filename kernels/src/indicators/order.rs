//! Order statistics of a trailing window: quantiles, the median, and the median absolute deviation.
//!
//! They are exact, so every algorithm gives the same bits. A window of up to [`MOST_SORTED`] rows is sorted together with
//! its neighbours: the eight windows that end in a group of eight rows have all but eight rows in common. That common part,
//! the core, is merged from sorted groups for all groups of a block side by side; each of the eight windows adds its own
//! eight rows, and the wanted ranks come from the two sorted lists without merging them. Longer windows are kept sorted
//! from row to row.

use std::sync::Arc;

use super::{
    catalog::{Indicator, Output, Parameter, Range, Unit},
    kernel::{Id, Scratch, Window},
    network::{LANES, Network, key, ordered},
    program::{Builder, Series},
    rank::blank_torn_windows,
};
use crate::dispatch::dispatched;

/// Rows of a group; those that its windows do not have in common.
const GROUP: usize = LANES;
/// Rows whose cores are sorted at a time.
const ROWS: usize = 512;
/// Windows whose deviations are computed at a time.
const SIDE_BY_SIDE: usize = 64;
/// The longest window that is sorted by groups.
const MOST_SORTED: usize = 256;
/// The longest window whose deviations are found that way: there all ranks are merged.
const MOST_MERGED: usize = 64;
/// Blocks of fewer rows are computed row by row.
const FEWEST_SORTED: usize = 8;
/// The longest window that can be asked for.
const LONGEST: u32 = 100_000;

/// Where a quantile lies among the ascending values of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Position {
    /// Rank of the value below, counted from 0.
    lower: usize,
    /// Rank of the value above.
    upper: usize,
    /// How far it lies from the one to the other, from 0 to 1.
    share: f64,
}

impl Position {
    /// The `q` quantile of `n` values: at `q * (n - 1)`, linear between neighbours (numpy's `linear`).
    fn of(q: f64, n: usize) -> Self {
        let position = q * (n - 1) as f64;
        let lower = position.floor();
        Self {
            lower: lower as usize,
            upper: position.ceil() as usize,
            share: position - lower,
        }
    }

    /// The value between the values of both ranks, from the nearer end, so that a share of 1 is exactly the upper one.
    #[expect(
        clippy::inline_always,
        reason = "it must be compiled inside its dispatched callers"
    )]
    #[inline(always)]
    fn between(self, lower: f64, upper: f64) -> f64 {
        let height = upper - lower;
        if self.share < 0.5 {
            lower + height * self.share
        } else {
            upper - height * (1.0 - self.share)
        }
    }

    fn among(self, sorted: &[f64]) -> f64 {
        self.between(sorted[self.lower], sorted[self.upper])
    }
}

/// How the rows that all windows of a group have in common are sorted.
#[derive(Debug, Clone)]
struct Core {
    /// Rows of the core.
    n: usize,
    /// Whole groups of it.
    n_groups: usize,
    /// Sorts one group.
    group: Network,
    /// Merges two neighbouring runs of 1, 2, 4, ... groups.
    doubled: Vec<Network>,
    /// Joins the runs that make up the core, and the rest of a group.
    joined: Network,
    /// The place of each rank afterwards.
    order: Vec<usize>,
}

impl Core {
    /// The core of windows of `n + GROUP` rows; only `ranks` of it come out right.
    fn new(n: usize, ranks: impl Fn(usize) -> bool) -> Self {
        let n_groups = n / GROUP;
        let mut group = Network::default();
        group.sort(&ascending(0, GROUP));
        let mut doubled = Vec::new();
        let mut length = GROUP;
        while 2 * length <= n_groups * GROUP {
            let mut network = Network::default();
            network.merge(&ascending(0, length), &ascending(length, length));
            doubled.push(network);
            length *= 2;
        }
        let mut joined = Network::default();
        // The runs from the longest, newest one; then the rest of a group. Merged from the shortest.
        let mut start = 0;
        let mut lists = Vec::new();
        for level in (0..=doubled.len()).rev() {
            if n_groups >> level & 1 == 1 {
                let length = GROUP << level;
                lists.push(ascending(start, length));
                start += length;
            }
        }
        let rest = ascending(start, n % GROUP);
        let mut order = joined.sort(&rest);
        for list in lists.iter().rev() {
            order = joined.merge(list, &order);
        }
        let wanted = order.iter().enumerate();
        let wanted: Vec<usize> = wanted
            .filter(|(rank, _)| ranks(*rank))
            .map(|(_, place)| *place)
            .collect();
        let needed = joined.keep(&wanted);
        // The longest run comes first, and nothing else is made of it.
        let length = GROUP << doubled.len();
        if let Some(longest) = doubled.last_mut() {
            let needed = needed.iter().copied().filter(|place| *place < length);
            longest.keep(&needed.collect::<Vec<_>>());
        }
        Self {
            n,
            n_groups,
            group,
            doubled,
            joined,
            order,
        }
    }

    /// Numbers that [`Core::run`] works on.
    fn n_values(&self, n_rows: usize) -> usize {
        let (width, run_width) = self.widths(n_rows);
        let runs: usize = (0..=self.doubled.len()).map(|level| GROUP << level).sum();
        self.n * width + runs * run_width
    }

    /// Lists side by side: cores, and runs.
    fn widths(&self, n_rows: usize) -> (usize, usize) {
        let n_cores = n_rows.div_ceil(GROUP);
        (
            n_cores.next_multiple_of(LANES),
            (n_cores + self.n_groups).next_multiple_of(LANES),
        )
    }

    /// Sorts the core of each group of rows. `x` are the keys of the rows of the block after the `n + GROUP - 1` rows before it. Leaves
    /// place `i` of the cores in `values[i * width..]`, and returns that width.
    fn run(&self, x: &[f64], n_rows: usize, values: &mut [f64]) -> usize {
        let (width, run_width) = self.widths(n_rows);
        let n_cores = n_rows.div_ceil(GROUP);
        let (cores, mut rest) = values.split_at_mut(self.n * width);
        // The block starts here, and the first run of one group `n_groups` groups before.
        let block = self.n + GROUP - 1;
        let first = block - self.n_groups * GROUP;
        let mut levels: Vec<&[f64]> = Vec::new();
        if self.n_groups > 0 {
            let (runs, others) = rest.split_at_mut(GROUP * run_width);
            let n_runs = n_cores + self.n_groups - 1;
            let groups = x[first..].as_chunks::<GROUP>().0;
            for (run, group) in groups[..n_runs].iter().enumerate() {
                for (i, x) in group.iter().enumerate() {
                    runs[i * run_width + run] = *x;
                }
            }
            for places in runs.chunks_exact_mut(run_width) {
                places[n_runs..].fill(0.0);
            }
            self.group.run(runs, run_width);
            levels.push(runs);
            rest = others;
        }
        for (exponent, network) in self.doubled.iter().enumerate() {
            let shorter = levels[exponent];
            let (runs, others) = rest.split_at_mut(2 * shorter.len());
            let (newer, older) = runs.split_at_mut(shorter.len());
            newer.copy_from_slice(shorter);
            let shift = 1 << exponent;
            for (older, newer) in older
                .chunks_exact_mut(run_width)
                .zip(shorter.chunks_exact(run_width))
            {
                older[..shift].fill(0.0);
                older[shift..].copy_from_slice(&newer[..run_width - shift]);
            }
            network.run(runs, run_width);
            levels.push(runs);
            rest = others;
        }
        let mut place = 0;
        let mut end = self.n_groups;
        for (exponent, runs) in levels.iter().enumerate().rev() {
            if self.n_groups >> exponent & 1 == 1 {
                for run in runs.chunks_exact(run_width) {
                    let core = &mut cores[place * width..][..width];
                    core[..n_cores].copy_from_slice(&run[end - 1..][..n_cores]);
                    core[n_cores..].fill(0.0);
                    place += 1;
                }
                end -= 1 << exponent;
            }
        }
        for i in place..self.n {
            // The newest rows of the group before the runs.
            let source = x[first - (self.n - i)..].iter().step_by(GROUP);
            let core = &mut cores[i * width..][..width];
            for (core, x) in core[..n_cores].iter_mut().zip(source) {
                *core = *x;
            }
            core[n_cores..].fill(0.0);
        }
        self.joined.run(cores, width);
        width
    }
}

fn ascending(first: usize, n: usize) -> Vec<usize> {
    (first..first + n).collect()
}

/// Whether window `lane` of a group has row `i` of the group already; it has the row `n` before it otherwise. A table, for a
/// comparison of the two would make the compiler treat every lane on its own.
static HAS_NEWEST: [[f64; LANES]; GROUP] = {
    let mut table = [[0.0; LANES]; GROUP];
    let mut i = 0;
    while i < GROUP {
        let mut lane = i;
        while lane < LANES {
            table[i][lane] = 1.0;
            lane += 1;
        }
        i += 1;
    }
    table
};

/// The eight rows that each window of a group has beside the core, sorted: row `i` of the result holds rank `i` of all
/// eight windows. `newest` are the rows of the group, `oldest` the seven rows before the core.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
fn sorted_rest(newest: &[f64; GROUP], oldest: &[f64; GROUP - 1]) -> [[f64; LANES]; GROUP] {
    let mut sorted = [[0.0; LANES]; GROUP];
    for lane in 0..LANES {
        let mut v = [newest[0]; GROUP];
        for i in 1..GROUP {
            let (new, old) = (newest[i], oldest[i - 1]);
            v[i] = if HAS_NEWEST[i][lane] > 0.0 { new } else { old };
        }
        macro_rules! compare {
            ($($a:literal $b:literal,)*) => {$( (v[$a], v[$b]) = ordered(v[$a], v[$b]); )*};
        }
        // The shortest network for eight, 19 comparators (D. E. Knuth, The Art of Computer Programming 3, 5.3.4).
        compare! {
            0 1, 2 3, 4 5, 6 7, 0 2, 1 3, 4 6, 5 7, 1 2, 5 6, 0 4, 3 7, 1 5, 2 6, 1 4, 3 6, 2 4, 3 5, 3 4,
        }
        for i in 0..GROUP {
            sorted[i][lane] = v[i];
        }
    }
    sorted
}

dispatched! {
    /// Numbers of `x`, with one zero, and zero for NaN, and some zeros more. Returns whether there is a NaN.
    fn copy_of_numbers(x: &[f64], numbers: &mut [f64]) -> bool {
        let mut is_torn = false;
        for (number, x) in numbers.iter_mut().zip(x) {
            is_torn |= x.is_nan();
            *number = if x.is_nan() { 0.0 } else { x + 0.0 };
        }
        numbers[x.len()..].fill(0.0);
        is_torn
    }

    fn replace_by_keys(numbers: &mut [f64]) {
        for number in numbers {
            *number = key(*number);
        }
    }
}

/// Quantiles of one window.
#[derive(Debug, Clone)]
pub(super) struct Quantiles {
    n: usize,
    q: Vec<f64>,
    positions: Vec<Position>,
    core: Option<Core>,
    /// Sorts a window of at most a group, and the place of each rank afterwards.
    small: (Network, Vec<usize>),
}

impl Quantiles {
    /// The quantiles `q` of the last `n` rows; one output each.
    pub(super) fn new(n: usize, q: &[f64]) -> Self {
        let positions: Vec<Position> = q.iter().map(|q| Position::of(*q, n)).collect();
        let core = (n > GROUP && n <= MOST_SORTED).then(|| {
            let is_near = |rank: usize, of: usize| (rank..=rank + GROUP).contains(&of);
            Core::new(n - GROUP, |rank| {
                let mut positions = positions.iter();
                positions.any(|p| is_near(rank, p.lower) || is_near(rank, p.upper))
            })
        });
        let mut network = Network::default();
        let order = network.sort(&ascending(0, n.min(GROUP)));
        Self {
            n,
            q: q.to_vec(),
            positions,
            core,
            small: (network, order),
        }
    }
}

impl Window for Quantiles {
    fn id(&self) -> Id {
        let q = self.q.iter().map(|q| q.to_bits());
        let parameters: Vec<u64> = std::iter::once(self.n as u64).chain(q).collect();
        Id::new("quantile", parameters)
    }

    fn lookback(&self) -> usize {
        self.n - 1
    }

    fn n_outputs(&self) -> usize {
        self.q.len()
    }

    fn joined(&self, other: &Id) -> Option<Arc<dyn Window>> {
        let own = self.id();
        let (n, q) = other.parameters.split_first()?;
        if other.name != own.name || *n != self.n as u64 {
            return None;
        }
        let q: Vec<f64> = self
            .q
            .iter()
            .copied()
            .chain(q.iter().map(|q| f64::from_bits(*q)))
            .collect();
        Some(Arc::new(Quantiles::new(self.n, &q)))
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let n_rows = outputs[0].len();
        if n_rows <= ROWS {
            self.rows(inputs[0], outputs, scratch);
            return;
        }
        for start in (0..n_rows).step_by(ROWS) {
            let end = (start + ROWS).min(n_rows);
            let x = &inputs[0][start..end + self.n - 1];
            let outputs = outputs.iter_mut().map(|out| &mut out[start..end]);
            self.rows(x, &mut outputs.collect::<Vec<_>>(), scratch);
        }
    }
}

impl Quantiles {
    fn rows(&self, x: &[f64], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let n_rows = outputs[0].len();
        let n_numbers = x.len() + GROUP;
        let n_values = match &self.core {
            Some(core) if n_rows >= FEWEST_SORTED => {
                core.n_values(n_rows) + 2 * n_rows.div_ceil(GROUP)
            }
            _ => 0,
        };
        let spare = scratch.take(n_numbers + n_values + LANES);
        let (numbers, values) = spare.split_at_mut(n_numbers);
        let values = aligned(values);
        let is_torn = copy_of_numbers(x, numbers);
        match &self.core {
            _ if n_rows < FEWEST_SORTED => {
                for t in 0..n_rows {
                    let window = &numbers[t..t + self.n];
                    for (out, position) in outputs.iter_mut().zip(&self.positions) {
                        let (lower, upper) = of_ranks(window, position.lower, position.upper);
                        out[t] = position.between(lower, upper);
                    }
                }
            }
            Some(core) => {
                replace_by_keys(numbers);
                let (cores, constants) = values.split_at_mut(core.n_values(n_rows));
                let width = core.run(numbers, n_rows, cores);
                for (out, position) in outputs.iter_mut().zip(&self.positions) {
                    choose(
                        numbers,
                        cores,
                        width,
                        &core.order,
                        *position,
                        constants,
                        out,
                    );
                }
            }
            None if self.n <= GROUP => {
                let (network, order) = &self.small;
                replace_by_keys(numbers);
                let mut rows = [0.0; GROUP * SIDE_BY_SIDE];
                for start in (0..n_rows).step_by(SIDE_BY_SIDE) {
                    let end = (start + SIDE_BY_SIDE).min(n_rows);
                    for (i, row) in rows.chunks_exact_mut(SIDE_BY_SIDE).take(self.n).enumerate() {
                        row[..end - start].copy_from_slice(&numbers[start + i..end + i]);
                    }
                    network.run(&mut rows, SIDE_BY_SIDE);
                    for (out, position) in outputs.iter_mut().zip(&self.positions) {
                        let row = |rank: usize| &rows[order[rank] * SIDE_BY_SIDE..];
                        let ranks = row(position.lower).iter().zip(row(position.upper));
                        for (out, (lower, upper)) in out[start..end].iter_mut().zip(ranks) {
                            *out = position.between(key(*lower), key(*upper));
                        }
                    }
                }
            }
            None => with_sorted_windows(&numbers[..x.len()], self.n, |t, sorted| {
                for (out, position) in outputs.iter_mut().zip(&self.positions) {
                    out[t] = position.among(sorted);
                }
            }),
        }
        if is_torn {
            for out in outputs {
                blank_torn_windows(x, self.n, out);
            }
        }
    }
}

/// Calls `f` with each row of the block and its window in ascending order.
fn with_sorted_windows(numbers: &[f64], n: usize, mut f: impl FnMut(usize, &[f64])) {
    let mut sorted = numbers[..n].to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    f(0, &sorted);
    for t in 1..=numbers.len() - n {
        let (leaving, coming) = (numbers[t - 1], numbers[t + n - 1]);
        let from = sorted.partition_point(|x| *x < leaving);
        let to = sorted.partition_point(|x| *x < coming);
        if to > from {
            sorted.copy_within(from + 1..to, from);
            sorted[to - 1] = coming;
        } else {
            sorted.copy_within(to..from, to + 1);
            sorted[to] = coming;
        }
        f(t, &sorted);
    }
}

dispatched! {
    /// The values of both ranks.
    fn of_ranks(window: &[f64], lower: usize, upper: usize) -> (f64, f64) {
        if window.len() <= 32 {
            of_ranks_by::<32>(window, lower, upper)
        } else {
            of_ranks_by::<64>(window, lower, upper)
        }
    }

    /// One quantile of every row, from the sorted cores and the rows beside them.
    fn choose(
        numbers: &[f64],
        cores: &[f64],
        width: usize,
        order: &[usize],
        position: Position,
        constants: &mut [f64],
        out: &mut [f64],
    ) {
        let n = order.len() + GROUP;
        let n_groups = out.len().div_ceil(GROUP);
        let (below, above) = constants[..2 * n_groups].split_at_mut(n_groups);
        below.fill(key(f64::NEG_INFINITY));
        above.fill(key(f64::INFINITY));
        // For each number of values from the rest below the rank, the value from the core.
        let values_of = |rank: usize| {
            std::array::from_fn(|from_rest| {
                let place = rank.checked_sub(from_rest).map(|rank| order.get(rank));
                match place {
                    Some(Some(place)) => &cores[place * width..][..n_groups],
                    None if from_rest == rank + 1 => &*below,
                    _ => &*above,
                }
            })
        };
        let lower: [&[f64]; GROUP + 1] = values_of(position.lower);
        let upper: [&[f64]; GROUP + 1] = values_of(position.upper);
        let (whole, part) = out.as_chunks_mut::<GROUP>();
        for (group, out) in whole.iter_mut().enumerate() {
            *out = choose_in_group(numbers, n, group, &lower, &upper, position);
        }
        if !part.is_empty() {
            let values = choose_in_group(numbers, n, whole.len(), &lower, &upper, position);
            part.copy_from_slice(&values[..part.len()]);
        }
    }
}

/// The values of both ranks: each the largest one of those that have at most so many values below them; `N` values are
/// compared with all at a time.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
fn of_ranks_by<const N: usize>(window: &[f64], lower: usize, upper: usize) -> (f64, f64) {
    let (lower, upper) = (lower as f64, upper as f64);
    let mut found = [[f64::NEG_INFINITY; N]; 2];
    let mut values = [f64::INFINITY; N];
    for chunk in window.chunks(N) {
        values[..chunk.len()].copy_from_slice(chunk);
        values[chunk.len()..].fill(f64::INFINITY);
        let mut below = [0.0; N];
        for x in window {
            for lane in 0..N {
                below[lane] += if *x < values[lane] { 1.0 } else { 0.0 };
            }
        }
        for lane in 0..N {
            let x = values[lane];
            let to_lower = if below[lane] <= lower {
                x
            } else {
                f64::NEG_INFINITY
            };
            let to_upper = if below[lane] <= upper {
                x
            } else {
                f64::NEG_INFINITY
            };
            found[0][lane] = if to_lower > found[0][lane] {
                to_lower
            } else {
                found[0][lane]
            };
            found[1][lane] = if to_upper > found[1][lane] {
                to_upper
            } else {
                found[1][lane]
            };
        }
    }
    let mut n_left = N;
    while n_left > 1 {
        n_left /= 2;
        for found in &mut found {
            for lane in 0..n_left {
                let (a, b) = (found[lane], found[lane + n_left]);
                found[lane] = if a > b { a } else { b };
            }
        }
    }
    (found[0][0], found[1][0])
}

/// The smallest, over how many come from the rest, of the larger of both lists' last values.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
fn choose_in_group(
    numbers: &[f64],
    n: usize,
    group: usize,
    lower: &[&[f64]; GROUP + 1],
    upper: &[&[f64]; GROUP + 1],
    position: Position,
) -> [f64; LANES] {
    let newest: &[f64; GROUP] = array(numbers, n - 1 + group * GROUP);
    let oldest: &[f64; GROUP - 1] = array(numbers, group * GROUP);
    let rest = sorted_rest(newest, oldest);
    let lower: [f64; GROUP + 1] = std::array::from_fn(|i| lower[i][group]);
    let upper: [f64; GROUP + 1] = std::array::from_fn(|i| upper[i][group]);
    let mut values = [0.0; LANES];
    for lane in 0..LANES {
        let (mut below, mut above) = (lower[0], upper[0]);
        for i in 0..GROUP {
            below = ordered(below, ordered(lower[i + 1], rest[i][lane]).1).0;
            above = ordered(above, ordered(upper[i + 1], rest[i][lane]).1).0;
        }
        values[lane] = position.between(key(below), key(above));
    }
    values
}

/// All but the first few: rows of a multiple of [`LANES`] then begin with cache lines. Loads and stores that cross lines take
/// twice as long.
fn aligned(values: &mut [f64]) -> &mut [f64] {
    let start = values.as_ptr().align_offset(64).min(LANES);
    &mut values[start..]
}

/// The numbers from `start` on.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
fn array<const N: usize>(numbers: &[f64], start: usize) -> &[f64; N] {
    numbers[start..]
        .first_chunk()
        .expect("as many numbers follow")
}

/// Median absolute deviation of one window.
#[derive(Debug, Clone)]
struct MedianDeviation {
    n: usize,
    position: Position,
    core: Option<Core>,
    /// Merges the core with the rest, and the place of each rank afterwards.
    merged: Network,
    order: Vec<usize>,
}

impl MedianDeviation {
    fn new(n: usize) -> Self {
        let core = (n > GROUP && n <= MOST_MERGED).then(|| Core::new(n - GROUP, |_| true));
        let mut merged = Network::default();
        let mut order = Vec::new();
        if let Some(core) = &core {
            order = merged.merge(&ascending(0, core.n), &ascending(core.n, GROUP));
        }
        Self {
            n,
            position: Position::of(0.5, n),
            core,
            merged,
            order,
        }
    }
}

impl Window for MedianDeviation {
    fn id(&self) -> Id {
        Id::new("mad", [self.n as u64])
    }

    fn lookback(&self) -> usize {
        self.n - 1
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let x = inputs[0];
        let out = &mut *outputs[0];
        let n_rows = out.len();
        let n_numbers = x.len() + GROUP;
        let core = self.core.as_ref().filter(|_| n_rows >= FEWEST_SORTED);
        let n_values = core.map_or(0, |core| core.n_values(n_rows));
        let spare = scratch.take(n_numbers + n_values + self.n * SIDE_BY_SIDE + LANES);
        let (numbers, values) = spare.split_at_mut(n_numbers);
        let (values, rest) = aligned(values).split_at_mut(n_values);
        let lanes = &mut rest[..self.n * SIDE_BY_SIDE];
        let is_torn = copy_of_numbers(x, numbers);
        if let Some(core) = core {
            replace_by_keys(numbers);
            let width = core.run(numbers, n_rows, values);
            for (chunk, out) in out.chunks_mut(SIDE_BY_SIDE).enumerate() {
                let first = chunk * SIDE_BY_SIDE / GROUP;
                put_sorted_parts(numbers, core, (values, width), first, lanes);
                self.merged.run(lanes, SIDE_BY_SIDE);
                deviations_of_sorted(lanes, &self.order, self.position, out);
            }
        } else {
            with_sorted_windows(&numbers[..x.len()], self.n, |t, sorted| {
                out[t] = median_deviation(sorted, self.position);
            });
        }
        if is_torn {
            blank_torn_windows(x, self.n, out);
        }
    }
}

/// Median absolute deviation of ascending values.
fn median_deviation(sorted: &[f64], median: Position) -> f64 {
    let middle = median.among(sorted);
    // The values at most so far from the middle are neighbours: of all runs of neighbours as long, the one whose farther
    // end is nearest. The distance of the first falls from run to run, that of the last grows.
    let of_rank = |rank: usize| {
        let mut runs = 0..sorted.len() - rank;
        let distance = |start: usize| {
            let (first, last) = (middle - sorted[start], sorted[start + rank] - middle);
            if first > last { first } else { last }
        };
        while runs.len() > 1 {
            let start = runs.start + (runs.len() - 1) / 2;
            if middle - sorted[start] > sorted[start + rank] - middle {
                runs.start = start + 1;
            } else {
                runs.end = start + 1;
            }
        }
        let start = runs.start;
        let before = start.saturating_sub(1);
        let (a, b) = (distance(before), distance(start));
        if a < b { a } else { b }
    };
    median.between(of_rank(median.lower), of_rank(median.upper))
}

dispatched! {
    /// The sorted core of each window, and the rest after it, of the groups from `first` on.
    fn put_sorted_parts(
        numbers: &[f64],
        core: &Core,
        cores: (&[f64], usize),
        first: usize,
        windows: &mut [f64],
    ) {
        let (cores, width) = cores;
        let n = core.n + GROUP;
        let n_groups = (SIDE_BY_SIDE / GROUP).min(width - first);
        let (core_rows, rest_rows) = windows.split_at_mut(core.n * SIDE_BY_SIDE);
        for (row, place) in core_rows.chunks_exact_mut(SIDE_BY_SIDE).zip(&core.order) {
            let cores = &cores[place * width + first..][..n_groups];
            for (lanes, core) in row.as_chunks_mut::<LANES>().0.iter_mut().zip(cores) {
                *lanes = [*core; LANES];
            }
        }
        for group in 0..n_groups {
            let start = (first + group) * GROUP;
            if start + n - 1 + GROUP > numbers.len() {
                return;
            }
            let sorted = sorted_rest(array(numbers, n - 1 + start), array(numbers, start));
            for (row, sorted) in rest_rows.chunks_exact_mut(SIDE_BY_SIDE).zip(sorted) {
                row[group * LANES..][..LANES].copy_from_slice(&sorted);
            }
        }
    }

    /// As [`median_deviation`], for sorted windows of keys side by side.
    fn deviations_of_sorted(
        windows: &mut [f64],
        order: &[usize],
        median: Position,
        out: &mut [f64],
    ) {
        for number in &mut *windows {
            *number = key(*number);
        }
        let rows = windows.as_chunks::<SIDE_BY_SIDE>().0;
        let (lower, upper) = (&rows[order[median.lower]], &rows[order[median.upper]]);
        let mut middle = [0.0; SIDE_BY_SIDE];
        for lane in 0..SIDE_BY_SIDE {
            middle[lane] = median.between(lower[lane], upper[lane]);
        }
        let mut of_rank = [[f64::INFINITY; SIDE_BY_SIDE]; 2];
        for (nearest, rank) in of_rank.iter_mut().zip([median.lower, median.upper]) {
            for (first, last) in order.iter().zip(&order[rank..]) {
                let (first, last) = (&rows[*first], &rows[*last]);
                for lane in 0..SIDE_BY_SIDE {
                    let (before, after) = (middle[lane] - first[lane], last[lane] - middle[lane]);
                    let farther = if before > after { before } else { after };
                    let known = nearest[lane];
                    nearest[lane] = if farther < known { farther } else { known };
                }
            }
        }
        for (lane, out) in out.iter_mut().enumerate() {
            *out = median.between(of_rank[0][lane], of_rank[1][lane]);
        }
    }
}

/// The `q` quantile of the last `n` rows of `x`; all that are asked of one window are computed together.
fn quantile(builder: &mut Builder, x: Series, n: f64, q: f64) -> Vec<Series> {
    builder.window(Quantiles::new(n as usize, &[q]), &[x])
}

const WINDOW: Parameter = Parameter {
    name: "n",
    range: Range::Whole(1, LONGEST),
    default: None,
};

const OF_SERIES: &[Output] = &[Output {
    name: "",
    unit: Unit::OfSeries,
}];

pub(super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "median",
        series: &["x"],
        bars: &[],
        parameters: &[WINDOW],
        outputs: OF_SERIES,
        definition: "The middle of the last n values in ascending order, or the mean of both middle ones.",
        source: "plain definition",
        expand: |builder, series, p| quantile(builder, series[0], p[0], 0.5),
    },
    Indicator {
        name: "quantile",
        series: &["x"],
        bars: &[],
        parameters: &[
            WINDOW,
            Parameter {
                name: "q",
                range: Range::Real(0.0, 1.0),
                default: None,
            },
        ],
        outputs: OF_SERIES,
        definition: "Of the last n values in ascending order, that at position q * (n - 1), linear between neighbours.",
        source: "numpy, method `linear`",
        expand: |builder, series, p| quantile(builder, series[0], p[0], p[1]),
    },
    Indicator {
        name: "mad",
        series: &["x"],
        bars: &[],
        parameters: &[WINDOW],
        outputs: OF_SERIES,
        definition: "Median absolute deviation: the median of the distances of the last n values from their median.",
        source: "plain definition",
        expand: |builder, series, p| {
            builder.window(MedianDeviation::new(p[0] as usize), &[series[0]])
        },
    },
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::indicators::{
        check::{Golden, market, values},
        engine::Engine,
        program::Input,
    };

    fn sorted_of(window: &[f64]) -> Vec<f64> {
        let mut sorted: Vec<f64> = window.iter().map(|x| x + 0.0).collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// Runs a window on `x` in blocks of these lengths, over and over.
    fn run(window: &impl Window, x: &[f64], blocks: &[usize]) -> Vec<f64> {
        let padded = [vec![f64::NAN; window.lookback()], x.to_vec()].concat();
        let mut scratch = Scratch::default();
        let mut out = vec![0.0; x.len()];
        let mut start = 0;
        for n_rows in blocks.iter().cycle() {
            let end = (start + n_rows).min(x.len());
            let inputs = &padded[start..end + window.lookback()];
            window.run(&[inputs], &mut [&mut out[start..end]], &mut scratch);
            start = end;
            if start == x.len() {
                return out;
            }
        }
        out
    }

    fn assert_is_plain(x: &[f64], n: usize, out: &[f64], plain: impl Fn(&[f64]) -> f64) {
        for (t, out) in out.iter().enumerate() {
            let window = &x[(t + 1).saturating_sub(n)..=t];
            let expected = if window.len() < n || window.iter().any(|x| x.is_nan()) {
                f64::NAN
            } else {
                plain(window)
            };
            assert!(
                out.to_bits() == expected.to_bits() || (out.is_nan() && expected.is_nan()),
                "n {n}, row {t}: {out} against {expected}"
            );
        }
    }

    fn plain_mad(window: &[f64]) -> f64 {
        let median = Position::of(0.5, window.len());
        let middle = median.among(&sorted_of(window));
        let distances: Vec<f64> = window.iter().map(|x| (x - middle).abs()).collect();
        median.among(&sorted_of(&distances))
    }

    fn series() -> impl Strategy<Value = Vec<f64>> {
        let value = prop_oneof![
            60 => -3.0..3.0_f64,
            20 => (-2..3_i32).prop_map(f64::from),
            5 => Just(-0.0),
            1 => Just(f64::NAN),
        ];
        proptest::collection::vec(value, 1..700)
    }

    fn windows() -> impl Strategy<Value = usize> {
        prop_oneof![1..70_usize, 70..300_usize]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_quantile_is_that_of_the_sorted_window(
            x in series(),
            n in windows(),
            q in prop_oneof![0.0..=1.0, Just(0.0), Just(0.5), Just(1.0)],
            block in prop_oneof![Just(1_usize), 2..40_usize, Just(512)],
        ) {
            let out = run(&Quantiles::new(n, &[q]), &x, &[block, 1]);

            assert_is_plain(&x, n, &out, |window| Position::of(q, n).among(&sorted_of(window)));
        }

        #[test]
        fn a_median_deviation_is_that_of_the_sorted_distances(
            x in series(),
            n in windows(),
            block in prop_oneof![Just(1_usize), 2..40_usize, Just(512)],
        ) {
            let out = run(&MedianDeviation::new(n), &x, &[block, 1]);

            assert_is_plain(&x, n, &out, plain_mad);
        }
    }

    #[test]
    fn quantiles_of_one_window_are_one_node() {
        let bars = market(900, 3);
        let mut builder = Builder::new();
        let (close, open) = (builder.input(Input::Close), builder.input(Input::Open));
        let mut outputs = Vec::new();
        for (x, n, q) in [
            (close, 20.0, 0.25),
            (close, 20.0, 0.75),
            (close, 21.0, 0.5),
            (open, 20.0, 0.5),
        ] {
            outputs.extend(quantile(&mut builder, x, n, q));
        }
        outputs.extend(quantile(&mut builder, close, 20.0, 0.5));
        outputs.extend(quantile(&mut builder, close, 20.0, 0.75));
        assert_eq!(outputs[1], outputs[5]);
        let program = builder.finish(&outputs);

        // Two inputs and three windows.
        assert_eq!(program.nodes.len(), 5);
        let together = Engine::batch(&program, bars.view(), &[]);
        for (column, q) in [(0, 0.25), (1, 0.75), (4, 0.5)] {
            let alone = values(&bars, "quantile", &[Input::Close], &[20.0, q], "");
            for (a, b) in together[column].iter().zip(&alone) {
                assert_eq!(a.to_bits(), b.to_bits());
            }
        }
    }

    #[test]
    fn ranks_lie_at_their_places() {
        let sorted = [1.0, 2.0, 4.0];

        for (q, expected) in [
            (0.0, 1.0),
            (0.25, 1.5),
            (0.5, 2.0),
            (0.75, 3.0),
            (1.0, 4.0_f64),
        ] {
            assert_eq!(
                Position::of(q, 3).among(&sorted).to_bits(),
                expected.to_bits()
            );
        }
        assert_eq!(
            plain_mad(&[1.0, 2.0, 9.0, 4.0]).to_bits(),
            1.5_f64.to_bits()
        );
    }

    #[test]
    fn order_statistics_are_the_reference_ones() {
        let Some(golden) = Golden::load() else { return };
        for (column, name, input, parameters) in [
            ("median_20", "median", Input::Close, &[20.0][..]),
            ("mad_20", "mad", Input::Close, &[20.0]),
            ("quantile_20_25", "quantile", Input::Close, &[20.0, 0.25]),
            ("quantile_20_75", "quantile", Input::Close, &[20.0, 0.75]),
            ("vah_q_20", "quantile", Input::High, &[20.0, 0.7]),
            ("val_q_20", "quantile", Input::Low, &[20.0, 0.3]),
            ("poc_med_20", "median", Input::Close, &[20.0]),
            ("vah_q_50", "quantile", Input::High, &[50.0, 0.7]),
            ("val_q_50", "quantile", Input::Low, &[50.0, 0.3]),
            ("poc_med_50", "median", Input::Close, &[50.0]),
        ] {
            let values = values(&golden.bars, name, &[input], parameters, "");
            golden.assert_is(column, &values, 1.0);
        }
    }
}
