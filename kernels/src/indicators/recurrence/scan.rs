//! First-order recurrences in groups of eight rows, so that eight rows wait for one another only once.
//!
//! `y[t] = b * y[t-1] + u[t]` over a group is a scan: partial sums of 1, 2, 4 and 8 rows, then `b^(j+1)` times the value
//! before the group. Groups are counted from the first row after a missing number, never from the start of a block; rows
//! that come one at a time fill a group up, whose later lanes decide nothing. So the bits depend on no cutting into blocks.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "closures and iterators over vectors are not always compiled into their callers"
)]

use std::fmt::Debug;

#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{LANES, Lanes, Portable, Vector};
use crate::{
    dispatch::{Level, level},
    indicators::{
        kernel::{Id, Recurrence, Tape},
        program::{Builder, Series},
    },
    math,
};

/// `y[t] = b * y[t-1] + u[t]`.
#[derive(Debug, Clone)]
pub(super) struct Decay {
    pub(super) b: f64,
    b2: f64,
    b4: f64,
    b8: f64,
    /// `b^(j+1)`.
    powers: Lanes,
    /// Zeros that the compiler does not know of: a shift with known zeros becomes a slow instruction.
    nothing: Lanes,
}

impl Decay {
    pub(super) fn new(b: f64) -> Self {
        let mut powers = [b; LANES];
        for j in 1..LANES {
            powers[j] = powers[j - 1] * b;
        }
        Self {
            b,
            b2: powers[1],
            b4: powers[3],
            b8: powers[7],
            powers,
            nothing: std::hint::black_box([0.0; LANES]),
        }
    }

    /// The next value.
    #[inline(always)]
    pub(super) fn step(&self, y: &mut f64, u: f64) -> f64 {
        *y = self.b.mul_add(*y, u);
        *y
    }

    /// The next eight values; all lanes of `y` are the one before them, and afterwards the last of them.
    #[inline(always)]
    pub(super) fn scan<V: Vector>(&self, y: &mut V, u: V) -> V {
        let nothing = V::load(&self.nothing);
        let two = V::all(self.b).mul_add(u.shifted::<1>(nothing), u);
        let four = V::all(self.b2).mul_add(two.shifted::<2>(nothing), two);
        let eight = V::all(self.b4).mul_add(four.shifted::<4>(nothing), four);
        let start = *y;
        *y = V::all(self.b8).mul_add(start, eight.last());
        V::load(&self.powers).mul_add(start, eight)
    }
}

/// `y[t] = a[t] * y[t-1] + u[t]`.
#[derive(Debug, Clone)]
pub(super) struct Varying {
    /// See [`Decay`]'s.
    nothing: Lanes,
    ones: Lanes,
}

impl Varying {
    pub(super) fn new() -> Self {
        Self {
            nothing: std::hint::black_box([0.0; LANES]),
            ones: std::hint::black_box([1.0; LANES]),
        }
    }

    /// The next eight values; all lanes of `y` are the one before them, and afterwards the last of them.
    #[inline(always)]
    pub(super) fn scan<V: Vector>(&self, y: &mut V, a: V, u: V) -> V {
        let (a, u) = self.doubled::<1, V>(a, u);
        let (a, u) = self.doubled::<2, V>(a, u);
        let (a, u) = self.doubled::<4, V>(a, u);
        let start = *y;
        *y = a.last().mul_add(start, u.last());
        a.mul_add(start, u)
    }

    /// What `2 K` rows do, from what `K` do.
    #[inline(always)]
    fn doubled<const K: usize, V: Vector>(&self, a: V, u: V) -> (V, V) {
        let before = u.shifted::<K>(V::load(&self.nothing));
        let u = a.mul_add(before, u);
        (a * a.shifted::<K>(V::load(&self.ones)), u)
    }
}

/// A mean with fading weights, `y += a * (x - y)` with `a = 1 - b`, seeded by a plain mean.
///
/// Its state is `s = (x - y) / b`, which obeys `s[t] = b * s[t-1] + (x[t] - x[t-1])`: only changes of the series enter, so
/// `y = x - b * s` keeps the digits of a series that lies far from zero, the difference of two such means needs no `x` at
/// all, a motionless series has itself as mean, and the change of the mean is `a * s`, ready for the next of a cascade.
#[derive(Debug, Clone)]
pub(super) struct Average {
    pub(super) decay: Decay,
    /// `1 - b`.
    pub(super) a: f64,
    /// The first row of the seed.
    first: usize,
    /// How many rows the seed has.
    n_seeds: usize,
}

impl Average {
    /// The factor `2 / (period + 1)`, seeded by the `period` rows from `first` on.
    pub(super) fn exponential(period: usize, first: usize) -> Self {
        let n = period as f64;
        Self {
            decay: Decay::new((n - 1.0) / (n + 1.0)),
            a: 2.0 / (n + 1.0),
            first,
            n_seeds: period,
        }
    }

    /// The factor `1 / period`, seeded by the `period` rows from `first` on.
    pub(super) fn wilder(period: usize, first: usize) -> Self {
        let n = period as f64;
        Self {
            decay: Decay::new((n - 1.0) / n),
            a: 1.0 / n,
            first,
            n_seeds: period,
        }
    }

    /// The same, seeded by its first value alone.
    pub(super) fn seeded_by_one(mut self) -> Self {
        self.n_seeds = 1;
        self
    }

    /// The row that its first value is of.
    pub(super) fn seed_row(&self) -> usize {
        self.first + self.n_seeds - 1
    }

    /// Row by row: the distance `y - x` at `row`, if there is one yet. `x` may be measured from any fixed origin, `change`
    /// is its change since the row before; `sum` starts at 0.
    #[inline(always)]
    pub(super) fn row(
        &self,
        s: &mut f64,
        sum: &mut f64,
        row: usize,
        x: f64,
        change: f64,
    ) -> Option<f64> {
        if row < self.first {
            return None;
        }
        if row > self.seed_row() {
            self.decay.step(s, change);
        } else {
            *sum += x;
            if row < self.seed_row() {
                return None;
            }
            let distance = x - *sum / self.n_seeds as f64;
            *s = if self.decay.b == 0.0 {
                0.0
            } else {
                distance / self.decay.b
            };
        }
        Some(-(self.decay.b * *s))
    }
}

/// Groups that [`Kernel::groups`] computes at a time.
pub(super) const DEPTH: usize = 4;

/// How a recurrence goes on, row by row and in groups. `I` inputs, `O` outputs, `C` numbers carried along, 0 at first.
pub(super) trait Kernel<const I: usize, const O: usize, const C: usize>:
    Debug + Clone + Send + Sync + 'static
{
    /// Whether [`Kernel::groups`] is faster than group after group.
    const IS_DEEP: bool = false;

    /// See [`Recurrence::id`].
    fn id(&self) -> Id;

    /// See [`Recurrence::warm_up`].
    fn warm_up(&self) -> usize;

    /// See [`Recurrence::memory`].
    fn memory(&self) -> Option<usize>;

    /// How many rows go one by one, at least, before groups begin: until all seeds are there. Nothing if all rows do.
    fn n_seeds(&self) -> Option<usize> {
        Some(self.warm_up() + 1)
    }

    /// The outputs of one row, `row` rows after a missing number or the start. `before` are the inputs of the row before,
    /// whatever they were.
    fn row(&self, carry: &mut [f64; C], row: usize, x: [f64; I], before: [f64; I]) -> [f64; O];

    /// The outputs of eight rows. No lane may depend on a later one. `before` are the inputs, one row earlier. What is
    /// carried along stands in all lanes: vectors are passed on faster than numbers that are to become vectors.
    fn group<V: Vector>(&self, _carry: &mut [V; C], _x: [V; I], _before: [V; I]) -> [V; O] {
        unreachable!("all rows go one by one")
    }

    /// The outputs of several groups, one after another. A kernel that has long ways to go within a group may go each
    /// part of the way for all of them: the machine looks ahead over a part, but not over the whole.
    #[inline(always)]
    fn groups<V: Vector>(
        &self,
        carry: &mut [V; C],
        x: [[V; I]; DEPTH],
        before: [[V; I]; DEPTH],
    ) -> [[V; O]; DEPTH] {
        std::array::from_fn(|g| self.group(carry, x[g], before[g]))
    }
}

/// A kernel on its way through a series.
///
/// A row in which an input is missing gives NaN and starts all anew.
#[derive(Debug, Clone)]
pub(super) struct Scan<K, const I: usize, const O: usize, const C: usize> {
    kernel: K,
    /// Rows since the start or the last missing number.
    row: usize,
    /// What is carried along: after the last row, or, in the middle of a group, after the group before.
    carry: [f64; C],
    /// The inputs of the row before the present group, or before the next row.
    last: [f64; I],
    /// The inputs of the present group so far.
    group: [Lanes; I],
}

/// Adds a kernel to a program.
pub(super) fn add<K, const I: usize, const O: usize, const C: usize>(
    builder: &mut Builder,
    kernel: K,
    inputs: [Series; I],
) -> Vec<Series>
where
    K: Kernel<I, O, C>,
{
    builder.recurrence(Scan::new(kernel), &inputs)
}

impl<K: Kernel<I, O, C>, const I: usize, const O: usize, const C: usize> Scan<K, I, O, C> {
    pub(super) fn new(kernel: K) -> Self {
        Self {
            kernel,
            row: 0,
            carry: [0.0; C],
            last: [f64::NAN; I],
            group: [[0.0; LANES]; I],
        }
    }

    /// Rows until groups begin: whole groups, so that all kernels of a program begin theirs with the block's.
    #[inline(always)]
    fn n_single(&self) -> usize {
        let n_seeds = self.kernel.n_seeds();
        n_seeds.map_or(usize::MAX, |n| n.next_multiple_of(LANES))
    }

    #[inline(always)]
    fn advance<V: Vector>(&mut self, inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
        let n = outputs[0].len();
        let inputs: [&[f64]; I] = std::array::from_fn(|i| &inputs[i][..n]);
        let outputs: &mut [&mut [f64]; O] = outputs
            .try_into()
            .expect("a kernel gets as many outputs as it has");
        let (row, carry, last, group) = (self.row, self.carry, self.last, self.group);
        if self.stretch::<V>(&inputs, outputs, 0, n) {
            return;
        }
        // Something is missing: once more, from gap to gap.
        (self.row, self.carry, self.last, self.group) = (row, carry, last, group);
        let mut at = 0;
        while at < n {
            let missing = (at..n).find(|&t| inputs.iter().any(|x| !x[t].is_finite()));
            let end = missing.unwrap_or(n);
            self.stretch::<V>(&inputs, outputs, at, end);
            if end < n {
                for out in outputs.iter_mut() {
                    out[end] = f64::NAN;
                }
                self.last = std::array::from_fn(|i| inputs[i][end]);
                self.row = 0;
                self.carry = [0.0; C];
            }
            at = end + 1;
        }
    }

    /// Rows as if nothing were missing in them; whether that is so.
    #[inline(always)]
    fn stretch<V: Vector>(
        &mut self,
        inputs: &[&[f64]; I],
        outputs: &mut [&mut [f64]; O],
        mut at: usize,
        end: usize,
    ) -> bool {
        // 0 times what is finite is 0.
        let mut doubt = 0.0;
        let n_single = self.n_single().saturating_sub(self.row).min(end - at);
        let (mut carry, mut last) = (self.carry, self.last);
        for row in self.row..self.row + n_single {
            let x: [f64; I] = std::array::from_fn(|i| inputs[i][at]);
            doubt = x.iter().fold(doubt, |doubt, x| doubt + 0.0 * x);
            let y = self.kernel.row(&mut carry, row, x, last);
            for (out, y) in outputs.iter_mut().zip(y) {
                out[at] = y;
            }
            last = x;
            at += 1;
        }
        (self.carry, self.last) = (carry, last);
        self.row += n_single;
        while at < end {
            let phase = self.row % LANES;
            if phase == 0 && at > 0 && at + LANES <= end {
                at = self.whole_groups::<V>(inputs, outputs, at, end, &mut doubt);
            } else {
                let n = (LANES - phase).min(end - at);
                for input in inputs {
                    doubt = input[at..at + n]
                        .iter()
                        .fold(doubt, |doubt, x| doubt + 0.0 * x);
                }
                self.part_of_group::<V>(inputs, outputs, at, n);
                at += n;
            }
        }
        doubt == 0.0
    }

    /// Whole groups from `at` on, where the block has the row before; the row after them.
    #[inline(always)]
    fn whole_groups<V: Vector>(
        &mut self,
        inputs: &[&[f64]; I],
        outputs: &mut [&mut [f64]; O],
        mut at: usize,
        end: usize,
        doubt: &mut f64,
    ) -> usize {
        let start = at;
        let mut carry = self.carry.map(V::all);
        let mut doubts = V::all(0.0);
        while K::IS_DEEP && at + DEPTH * LANES <= end {
            let nothing = [[V::all(0.0); I]; DEPTH];
            let (mut x, mut before) = (nothing, nothing);
            for g in 0..DEPTH {
                for i in 0..I {
                    let row = at + g * LANES;
                    x[g][i] = V::load(&inputs[i][row..]);
                    before[g][i] = V::load(&inputs[i][row - 1..]);
                    doubts = x[g][i].mul_add(V::all(0.0), doubts);
                }
            }
            let y = self.kernel.groups(&mut carry, x, before);
            for g in 0..DEPTH {
                for o in 0..O {
                    y[g][o].store(&mut outputs[o][at + g * LANES..]);
                }
            }
            at += DEPTH * LANES;
        }
        while at + LANES <= end {
            let x: [V; I] = std::array::from_fn(|i| V::load(&inputs[i][at..]));
            for x in x {
                doubts = x.mul_add(V::all(0.0), doubts);
            }
            let before = std::array::from_fn(|i| V::load(&inputs[i][at - 1..]));
            let y = self.kernel.group(&mut carry, x, before);
            for (out, y) in outputs.iter_mut().zip(y) {
                y.store(&mut out[at..]);
            }
            at += LANES;
        }
        let mut lanes = [0.0; LANES];
        doubts.store(&mut lanes);
        *doubt += lanes.iter().sum::<f64>();
        self.carry = carry.map(V::first);
        self.row += at - start;
        self.last = std::array::from_fn(|i| inputs[i][at - 1]);
        at
    }

    /// The next `n` rows of the present group.
    #[inline(always)]
    fn part_of_group<V: Vector>(
        &mut self,
        inputs: &[&[f64]; I],
        outputs: &mut [&mut [f64]; O],
        at: usize,
        n: usize,
    ) {
        let phase = self.row % LANES;
        for (group, input) in self.group.iter_mut().zip(inputs) {
            group[phase..phase + n].copy_from_slice(&input[at..at + n]);
        }
        let x = std::array::from_fn(|i| V::load(&self.group[i]));
        let before = std::array::from_fn(|i| x[i].shifted::<1>(V::all(self.last[i])));
        let mut carry = self.carry.map(V::all);
        let y: [V; O] = self.kernel.group(&mut carry, x, before);
        for (out, y) in outputs.iter_mut().zip(y) {
            let mut lanes = [0.0; LANES];
            y.store(&mut lanes);
            out[at..at + n].copy_from_slice(&lanes[phase..phase + n]);
        }
        self.row += n;
        if phase + n == LANES {
            self.carry = carry.map(V::first);
            self.last = std::array::from_fn(|i| self.group[i][LANES - 1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn avx512<K: Kernel<I, O, C>, const I: usize, const O: usize, const C: usize>(
    scan: &mut Scan<K, I, O, C>,
    inputs: &[&[f64]],
    outputs: &mut [&mut [f64]],
) {
    scan.advance::<Avx512>(inputs, outputs);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<K: Kernel<I, O, C>, const I: usize, const O: usize, const C: usize>(
    scan: &mut Scan<K, I, O, C>,
    inputs: &[&[f64]],
    outputs: &mut [&mut [f64]],
) {
    scan.advance::<Avx2>(inputs, outputs);
}

impl<K: Kernel<I, O, C>, const I: usize, const O: usize, const C: usize> Recurrence
    for Scan<K, I, O, C>
{
    fn id(&self) -> Id {
        self.kernel.id()
    }

    fn n_outputs(&self) -> usize {
        O
    }

    fn warm_up(&self) -> usize {
        self.kernel.warm_up()
    }

    fn memory(&self) -> Option<usize> {
        self.kernel.memory()
    }

    fn fresh(&self) -> Box<dyn Recurrence> {
        Box::new(Self::new(self.kernel.clone()))
    }

    fn run(&mut self, inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
        match level() {
            Level::Baseline => self.advance::<Portable>(inputs, outputs),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `level` has just found the features that the function is compiled for.
            Level::Avx512 => unsafe { avx512(self, inputs, outputs) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `level` has just found the features that the function is compiled for.
            Level::Avx2 => unsafe { avx2(self, inputs, outputs) },
        }
    }

    fn state(&mut self, tape: &mut Tape) {
        tape.count(&mut self.row);
        tape.all(&mut self.carry);
        tape.all(&mut self.last);
        self.group.iter_mut().for_each(|lanes| tape.all(lanes));
    }
}

/// How far the weight of the rows before it has faded when a recurrence counts as settled.
///
/// A thousandth of the promised 1e-12, because two starts may differ by more than the present size of the series.
const SETTLED: f64 = 1e-15;

/// Rows until what came before has faded to 1e-15 of its weight in `y[t] = b * y[t-1] + u[t]`.
pub(super) fn settling_rows(b: f64) -> usize {
    if b <= 0.0 {
        return 1;
    }
    (math::ln(SETTLED) / math::ln(b)).ceil() as usize
}

/// The same for the last of `order` means, each of the one before.
pub(super) fn settling_rows_of_cascade(b: f64, order: usize) -> usize {
    // What is left of a common value of all means when the series is 0 from then on.
    let mut left = vec![1.0; order];
    let mut rows = 0;
    while left.iter().any(|y| *y > SETTLED) {
        let mut x = 0.0;
        for y in &mut left {
            *y = (1.0 - b) * x + b * *y;
            x = *y;
        }
        rows += 1;
    }
    rows
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a kernel over `inputs`, cut into blocks of the lengths `cuts`, over and over.
    pub(in crate::indicators::recurrence) fn in_blocks<
        K: Kernel<I, O, C>,
        const I: usize,
        const O: usize,
        const C: usize,
    >(
        kernel: &K,
        inputs: [&[f64]; I],
        cuts: &[usize],
    ) -> [Vec<f64>; O] {
        let mut scan = Scan::new(kernel.clone());
        let n = inputs[0].len();
        let mut out: [Vec<f64>; O] = std::array::from_fn(|_| vec![0.0; n]);
        let mut cuts = cuts.iter().cycle();
        let mut at = 0;
        while at < n {
            let end = n.min(at + cuts.next().unwrap());
            let inputs = inputs.map(|x| &x[at..end]);
            let mut outputs: Vec<&mut [f64]> = out.iter_mut().map(|x| &mut x[at..end]).collect();
            scan.run(&inputs, &mut outputs);
            // What a state leaves out would be missed from here on.
            let mut written = Tape::new();
            scan.state(&mut written);
            let mut taken = Tape::of(written.into_words());
            scan = Scan::new(kernel.clone());
            scan.state(&mut taken);
            assert!(taken.is_used_up());
            at = end;
        }
        out
    }

    /// A plain mean, and a running sum.
    #[derive(Debug, Clone)]
    struct Both {
        average: Average,
        sum: Decay,
    }

    impl Kernel<1, 2, 4> for Both {
        fn id(&self) -> Id {
            Id::new("both", [])
        }

        fn warm_up(&self) -> usize {
            0
        }

        fn memory(&self) -> Option<usize> {
            None
        }

        fn n_seeds(&self) -> Option<usize> {
            Some(self.average.seed_row() + 1)
        }

        fn row(
            &self,
            carry: &mut [f64; 4],
            row: usize,
            [x]: [f64; 1],
            [before]: [f64; 1],
        ) -> [f64; 2] {
            let [total, s, sum, origin] = carry;
            if row == 0 {
                *origin = x;
            }
            let mean = self.average.row(s, sum, row, x - *origin, x - before);
            [
                self.sum.step(total, x),
                mean.map_or(f64::NAN, |distance| x + distance),
            ]
        }

        fn group<V: Vector>(&self, carry: &mut [V; 4], [x]: [V; 1], [before]: [V; 1]) -> [V; 2] {
            let [total, s, ..] = carry;
            let s = self.average.decay.scan(s, x - before);
            let b = V::all(self.average.decay.b);
            [self.sum.scan(total, x), (-b).mul_add(s, x)]
        }
    }

    type Advance = fn(&mut Scan<Both, 1, 2, 4>, &[&[f64]], &mut [&mut [f64]]);

    fn both(period: usize, first: usize) -> Both {
        Both {
            average: Average::exponential(period, first),
            sum: Decay::new(1.0),
        }
    }

    /// The definition, without a thought of speed.
    fn plain_mean(x: &[f64], period: usize, first: usize) -> Vec<f64> {
        let mut out = vec![f64::NAN; x.len()];
        let mut start = 0;
        for t in 0..x.len() {
            if x[t].is_nan() {
                start = t + 1;
                continue;
            }
            let seed = start + first + period - 1;
            if t == seed {
                out[t] = x[start + first..=t].iter().sum::<f64>() / period as f64;
            } else if t > seed {
                out[t] = out[t - 1] + 2.0 / (period as f64 + 1.0) * (x[t] - out[t - 1]);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn bits_do_not_depend_on_the_cut(
            mut x in proptest::collection::vec(-1e3_f64..1e3, 1..300),
            missing in proptest::collection::vec(0_usize..300, 0..4),
            cuts in proptest::collection::vec(1_usize..40, 1..9),
            period in 1_usize..30,
            first in 0_usize..20,
        ) {
            for t in missing {
                if t < x.len() {
                    x[t] = if t % 2 == 0 { f64::NAN } else { f64::INFINITY };
                }
            }
            let kernel = both(period, first);
            let whole = in_blocks(&kernel, [&x], &[x.len()]);
            for cuts in [&cuts[..], &[1], &[8], &[512]] {
                let cut = in_blocks(&kernel, [&x], cuts);
                for (a, b) in whole.iter().flatten().zip(cut.iter().flatten()) {
                    prop_assert_eq!(a.to_bits(), b.to_bits());
                }
            }
        }

        #[test]
        fn the_mean_is_as_defined(
            mut x in proptest::collection::vec(0.5_f64..1.5, 1..300),
            missing in 0_usize..600,
            period in 1_usize..30,
            first in 0_usize..20,
        ) {
            if missing < x.len() {
                x[missing] = f64::NAN;
            }
            let [sum, mean] = in_blocks(&both(period, first), [&x], &[512]);
            for (a, b) in mean.iter().zip(plain_mean(&x, period, first)) {
                prop_assert_eq!(a.is_nan(), b.is_nan());
                prop_assert!(a.is_nan() || (a - b).abs() < 1e-14, "{} against {}", a, b);
            }
            let start = x.iter().rposition(|x| x.is_nan()).map_or(0, |t| t + 1);
            let plain: f64 = x[start..].iter().sum();
            prop_assert!(start == x.len() || (sum[x.len() - 1] - plain).abs() < 1e-12);
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_instruction_set() {
        let x: Vec<f64> = (0..700_u32)
            .map(|t| f64::from(t * t % 1009) / 7.0)
            .collect();
        let kernel = both(14, 3);
        let run = |advance: Advance| {
            let (mut sum, mut mean) = (vec![0.0; 700], vec![0.0; 700]);
            let mut scan = Scan::new(kernel.clone());
            advance(&mut scan, &[&x], &mut [&mut sum, &mut mean]);
            [sum, mean].map(|y| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>())
        };
        let plain = run(Scan::advance::<Portable>);

        assert_eq!(run(Scan::run), plain);
        #[cfg(target_arch = "x86_64")]
        if level() != Level::Baseline {
            // SAFETY: every level but the lowest has AVX2 and FMA.
            let narrow = run(|scan, x, y| unsafe { avx2(scan, x, y) });
            assert_eq!(narrow, plain);
        }
    }

    #[test]
    fn a_motionless_series_is_its_own_mean_to_the_bit() {
        let [_, mean] = in_blocks(&both(20, 0), [&[0.1; 99]], &[7]);
        assert!(mean[19..].iter().all(|y| y.to_bits() == 0.1_f64.to_bits()));
    }

    #[test]
    fn a_mean_keeps_its_digits_far_from_zero() {
        let small: Vec<f64> = (0..300_i32).map(|t| f64::from(t * t % 97) / 64.0).collect();
        let large: Vec<f64> = small.iter().map(|x| x + 1_048_576.0).collect();
        let [_, a] = in_blocks(&both(20, 0), [&small], &[512]);
        let [_, b] = in_blocks(&both(20, 0), [&large], &[512]);
        for (a, b) in a[19..].iter().zip(&b[19..]) {
            assert!((b - 1_048_576.0 - a).abs() <= 2.4e-10, "{a} against {b}");
        }
    }

    #[test]
    fn settling_rows_are_those_of_the_weights() {
        let b = 19.0 / 21.0;
        let one = settling_rows(b);
        assert_eq!(one, settling_rows_of_cascade(b, 1));
        assert!(settling_rows_of_cascade(b, 2) > one);
        assert_eq!(settling_rows(0.0), 1);
        assert_eq!(settling_rows_of_cascade(0.0, 3), 1);
    }
}
