//! The tree of [`states_of_all`](super::tree::states_of_all) with the lengths up to 16 in registers of eight rows.
//!
//! A register holds the runs that end in eight rows. The runs that end 1, 2 or 4 rows earlier are in it and in the register
//! before, and a shift of the two brings them into place; those that end 8 or 16 rows earlier are whole registers. So no
//! level is written to memory for windows below 32 rows, and longer ones read and write whole aligned registers.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their vectorised callers"
)]

use std::marker::PhantomData;

use super::{
    super::kernel::Scratch,
    lanes::EightLanes,
    tree::{Sink, Statistic, Terms, factors},
};

/// Rows of a register.
const WIDTH: usize = 8;
/// The longest run that stays in registers, 2^4.
const MOST: u32 = 4;
/// Levels in memory that are alive at a time: the longest so far, the joined digits, and the one that is written.
const LEVELS: usize = 3;

/// The states of the windows of `n_rows` rows that end in the last `n` rows of `x`, handed to `sink` with the number of the
/// first of eight. `n` is a multiple of 8, and `x` has `n + n_rows - 1` rows or more, the windows being those of the first.
#[inline(always)]
pub(super) fn states<
    V: EightLanes,
    T: Terms<I>,
    S: Statistic<K, O>,
    const I: usize,
    const K: usize,
    const O: usize,
>(
    n_rows: usize,
    n: usize,
    x: [&[f64]; I],
    scratch: &mut Scratch,
    sink: &impl Sink<V, K>,
) {
    let total = n + n_rows - 1;
    assert!(
        n.is_multiple_of(WIDTH) && x.iter().all(|x| x.len() >= total),
        "a window reads the rows before it"
    );
    let inputs = Inputs::<T, I> {
        x: x.map(|x| &x[..total]),
        terms: PhantomData,
    };
    match n_rows.ilog2() {
        0 | 1 => short::<V, T, S, I, K, O, 1>(n_rows, &inputs, sink),
        2 => short::<V, T, S, I, K, O, 2>(n_rows, &inputs, sink),
        3 => short::<V, T, S, I, K, O, 3>(n_rows, &inputs, sink),
        4 => short::<V, T, S, I, K, O, 4>(n_rows, &inputs, sink),
        _ => long::<V, T, S, I, K, O>(n_rows, n, &inputs, scratch, sink),
    }
}

/// The leaves in registers whose last row is the last of them, or 8 * `i` rows before.
struct Inputs<'a, T, const I: usize> {
    x: [&'a [f64]; I],
    terms: PhantomData<T>,
}

impl<T: Terms<I>, const I: usize> Inputs<'_, T, I> {
    /// How many registers it takes.
    #[inline(always)]
    fn n_registers(&self) -> usize {
        self.x[0].len().div_ceil(WIDTH)
    }

    /// Rows that the first register lacks; what they are made of is 0.
    #[inline(always)]
    fn n_lacking(&self) -> usize {
        self.n_registers() * WIDTH - self.x[0].len()
    }

    /// Register 0, which may lack rows.
    #[inline(always)]
    fn first<V: EightLanes>(&self) -> [V; 2] {
        let lacking = self.n_lacking();
        let mut x = [V::splat(0.0); I];
        for (x, rows) in x.iter_mut().zip(self.x) {
            let mut lanes = [0.0; WIDTH];
            lanes[lacking..].copy_from_slice(&rows[..WIDTH - lacking]);
            // SAFETY: eight numbers.
            *x = unsafe { V::load(lanes.as_ptr()) };
        }
        T::of(x)
    }

    /// Register `i`.
    ///
    /// # Safety
    /// `i` is below `n_registers`, and not 0 if that one lacks rows.
    #[inline(always)]
    unsafe fn at<V: EightLanes>(&self, i: usize) -> [V; 2] {
        let start = i * WIDTH - self.n_lacking();
        let mut x = [V::splat(0.0); I];
        for (x, rows) in x.iter_mut().zip(self.x) {
            // SAFETY: the rows end with those of the input at the latest.
            *x = unsafe { V::load(rows.as_ptr().add(start)) };
        }
        T::of(x)
    }
}

#[inline(always)]
fn difference<V: EightLanes>(newer: [V; 2], older: [V; 2]) -> [V; 2] {
    [newer[0].sub(older[0]), newer[1].sub(older[1])]
}

#[inline(always)]
fn earlier<V: EightLanes, const K: usize, const ROWS: usize>(
    state: [V; K],
    previous: [V; K],
) -> [V; K] {
    let mut earlier = state;
    for (x, previous) in earlier.iter_mut().zip(previous) {
        *x = x.earlier::<ROWS>(previous);
    }
    earlier
}

/// What the runs of a register need of those before, up to length 2^`LOG`.
struct Carried<V, const K: usize> {
    /// The inputs of one and two registers before.
    x: [[V; 2]; 2],
    /// Runs of 2, 4 and 8 rows of the register before.
    runs: [[V; K]; 3],
    /// The joined digits below 2, 4, 8 and 16 of the register before.
    digits: [[V; K]; 4],
    /// The last of these two registers before.
    last_digits: [V; K],
}

/// The factors of the joins in [`step`].
struct Factors<V> {
    /// For two runs of 1, 2, 4 and 8 rows.
    runs: [[V; 3]; 4],
    /// For the digits below 2, 4, 8 and 16 with a run of that length.
    digits: [[V; 3]; 4],
}

#[inline(always)]
fn all_factors<V: EightLanes, S: Statistic<K, O>, const K: usize, const O: usize>(
    n_rows: usize,
) -> Factors<V> {
    let mut all = Factors {
        runs: [[V::splat(0.0); 3]; 4],
        digits: [[V::splat(0.0); 3]; 4],
    };
    for log in 0..MOST as usize {
        let length = 1 << log;
        all.runs[log] = factors::<V, S, K, O>(length, length, length);
        let below = n_rows & (2 * length - 1);
        if below != 0 {
            all.digits[log] = factors::<V, S, K, O>(below, 2 * length, below);
        }
    }
    all
}

/// One register: the runs of length 2^`LOG`, and the digits of `n_rows` below that length joined (if there are any), not yet
/// brought into place.
#[inline(always)]
fn step<V: EightLanes, S: Statistic<K, O>, const K: usize, const O: usize, const LOG: u32>(
    n_rows: usize,
    x: [V; 2],
    by: &Factors<V>,
    carried: &mut Carried<V, K>,
) -> ([V; K], [V; K]) {
    let one = S::leaf(x);
    let before = carried.x[0];
    let x_1 = earlier::<V, 2, 1>(x, before);
    let two = S::join(S::leaf(x_1), one, difference(x, x_1), by.runs[0]);
    let mut digits = one;
    if LOG == 1 {
        return (two, digits);
    }

    let x_2 = earlier::<V, 2, 2>(x, before);
    let apart = difference(x, x_2);
    let four = S::join(
        earlier::<V, K, 2>(two, carried.runs[0]),
        two,
        apart,
        by.runs[1],
    );
    if n_rows & 2 != 0 {
        digits = if n_rows & 1 != 0 {
            let older = earlier::<V, K, 2>(digits, carried.digits[0]);
            S::join(older, two, apart, by.digits[0])
        } else {
            two
        };
    }
    carried.digits[0] = one;
    carried.runs[0] = two;
    if LOG == 2 {
        return (four, digits);
    }

    let x_4 = earlier::<V, 2, 4>(x, before);
    let apart = difference(x, x_4);
    let eight = S::join(
        earlier::<V, K, 4>(four, carried.runs[1]),
        four,
        apart,
        by.runs[2],
    );
    let below = digits;
    if n_rows & 4 != 0 {
        digits = if n_rows & 3 != 0 {
            let older = earlier::<V, K, 4>(digits, carried.digits[1]);
            S::join(older, four, apart, by.digits[1])
        } else {
            four
        };
    }
    carried.digits[1] = below;
    carried.runs[1] = four;
    if LOG == 3 {
        return (eight, digits);
    }

    let apart = difference(x, before);
    let sixteen = S::join(carried.runs[2], eight, apart, by.runs[3]);
    let below = digits;
    if n_rows & 8 != 0 {
        digits = if n_rows & 7 != 0 {
            S::join(carried.digits[2], eight, apart, by.digits[2])
        } else {
            eight
        };
    }
    carried.digits[2] = below;
    carried.runs[2] = eight;
    (sixteen, digits)
}

/// Windows of 2^`LOG` to 2^(`LOG` + 1) - 1 rows.
#[inline(always)]
fn short<
    V: EightLanes,
    T: Terms<I>,
    S: Statistic<K, O>,
    const I: usize,
    const K: usize,
    const O: usize,
    const LOG: u32,
>(
    n_rows: usize,
    inputs: &Inputs<'_, T, I>,
    sink: &impl Sink<V, K>,
) {
    let by = all_factors::<V, S, K, O>(n_rows);
    let mut carried = nothing_carried::<V, K>();
    let is_power = n_rows == 1 << LOG;
    let n_warm = (n_rows - 1).div_ceil(WIDTH);
    let n_registers = inputs.n_registers();
    let mut i = 0;
    while i < n_registers {
        let x = if i == 0 {
            inputs.first::<V>()
        } else {
            // SAFETY: `i` is from 1 to below the number of registers.
            unsafe { inputs.at::<V>(i) }
        };
        let (run, digits) = step::<V, S, K, O, LOG>(n_rows, x, &by, &mut carried);
        let before = carried.x[0];
        let state = if is_power {
            run
        } else {
            let place = LOG as usize - 1;
            let previous = carried.digits[place];
            let (older, older_x) = match LOG {
                1 => (
                    earlier::<V, K, 2>(digits, previous),
                    earlier::<V, 2, 2>(x, before),
                ),
                2 => (
                    earlier::<V, K, 4>(digits, previous),
                    earlier::<V, 2, 4>(x, before),
                ),
                3 => (previous, before),
                _ => (carried.last_digits, carried.x[1]),
            };
            if LOG == MOST {
                carried.last_digits = previous;
            }
            carried.digits[place] = digits;
            S::join(older, run, difference(x, older_x), by.digits[place])
        };
        carried.x = [x, before];
        if i >= n_warm {
            // SAFETY: the registers after the warm-up are those of the outputs.
            unsafe { sink.store((i - n_warm) * WIDTH, state) }
        }
        i += 1;
    }
}

#[inline(always)]
fn nothing_carried<V: EightLanes, const K: usize>() -> Carried<V, K> {
    let zero = V::splat(0.0);
    Carried {
        x: [[zero; 2]; 2],
        runs: [[zero; K]; 3],
        digits: [[zero; K]; 4],
        last_digits: [zero; K],
    }
}

/// Levels in memory, in whole registers.
struct Levels {
    base: *mut f64,
    stride: usize,
}

impl Levels {
    /// # Safety
    /// The level has a register `i`.
    #[inline(always)]
    unsafe fn load<V: EightLanes, const K: usize>(&self, level: usize, i: usize) -> [V; K] {
        let mut state = [V::splat(0.0); K];
        for (k, x) in state.iter_mut().enumerate() {
            // SAFETY: the caller promises it.
            *x = unsafe { V::load(self.base.add((level * K + k) * self.stride + i * WIDTH)) };
        }
        state
    }

    /// # Safety
    /// The level has a register `i`.
    #[inline(always)]
    unsafe fn store<V: EightLanes, const K: usize>(&self, level: usize, i: usize, state: [V; K]) {
        for (k, x) in state.into_iter().enumerate() {
            // SAFETY: the caller promises it.
            unsafe { x.store(self.base.add((level * K + k) * self.stride + i * WIDTH)) }
        }
    }
}

/// Windows of 32 rows and more.
#[inline(always)]
fn long<
    V: EightLanes,
    T: Terms<I>,
    S: Statistic<K, O>,
    const I: usize,
    const K: usize,
    const O: usize,
>(
    n_rows: usize,
    n: usize,
    inputs: &Inputs<'_, T, I>,
    scratch: &mut Scratch,
    sink: &impl Sink<V, K>,
) {
    let n_registers = inputs.n_registers();
    // An odd number of cache lines, so that components do not fall upon each other's place in the cache.
    let stride = (n_registers | 1) * WIDTH;
    let values = scratch.take(LEVELS * K * stride + WIDTH);
    // Elements up to a cache line's begin.
    let skipped = values.as_ptr().align_offset(64).min(WIDTH);
    let levels = Levels {
        base: values[skipped..].as_mut_ptr(),
        stride,
    };

    let by = all_factors::<V, S, K, O>(n_rows);
    let mut carried = nothing_carried::<V, K>();
    let mut digits = n_rows & 15;
    let (mut run_level, mut digits_level) = (0, 1);
    let mut i = 0;
    while i < n_registers {
        let x = if i == 0 {
            inputs.first::<V>()
        } else {
            // SAFETY: `i` is from 1 to below the number of registers.
            unsafe { inputs.at::<V>(i) }
        };
        let (run, below) = step::<V, S, K, O, MOST>(n_rows, x, &by, &mut carried);
        carried.x[0] = x;
        // SAFETY: a level has `n_registers` registers.
        unsafe {
            levels.store::<V, K>(run_level, i, run);
            if digits != 0 {
                levels.store::<V, K>(digits_level, i, below);
            }
        }
        i += 1;
    }

    // A register begins with the last row of the first window, whole registers away. So of runs and digits of so many rows
    // the first registers that are read begin with the last row of the first of them, or later; those earlier are not made.
    let lacking = inputs.n_lacking();
    let mut length = 1 << MOST;
    let n_warm = (n_rows - 1).div_ceil(WIDTH);
    let n_out = n / WIDTH;
    loop {
        let back = length / WIDTH;
        let is_last = 2 * length > n_rows;
        if n_rows & length != 0 || is_last {
            let by = factors::<V, S, K, O>(digits.max(1), length, digits.max(1));
            if is_last {
                let mut i = n_warm;
                while i < n_warm + n_out {
                    // SAFETY: register `i` ends with windows, so `i - back` lacks no row.
                    unsafe {
                        let newer = levels.load::<V, K>(run_level, i);
                        let state = if digits == 0 {
                            newer
                        } else {
                            let apart = difference(inputs.at::<V>(i), inputs.at::<V>(i - back));
                            let older = levels.load::<V, K>(digits_level, i - back);
                            S::join(older, newer, apart, by)
                        };
                        sink.store((i - n_warm) * WIDTH, state);
                    }
                    i += 1;
                }
                return;
            }
            let free = LEVELS - run_level - digits_level;
            if digits == 0 {
                // The runs themselves; the next level goes elsewhere.
                digits_level = run_level;
            } else {
                let mut i = (digits + length - 1 + lacking).div_ceil(WIDTH);
                while i < n_registers {
                    // SAFETY: register `i` ends with runs of `digits + length` rows, so `i - back` lacks no row.
                    unsafe {
                        let apart = difference(inputs.at::<V>(i), inputs.at::<V>(i - back));
                        let older = levels.load::<V, K>(digits_level, i - back);
                        let newer = levels.load::<V, K>(run_level, i);
                        levels.store::<V, K>(free, i, S::join(older, newer, apart, by));
                    }
                    i += 1;
                }
                digits_level = free;
            }
            digits += length;
        }
        let free = if digits_level == run_level {
            (run_level + 1) % LEVELS
        } else {
            LEVELS - run_level - digits_level
        };
        let by = factors::<V, S, K, O>(length, length, length);
        let mut i = (2 * length - 1 + lacking).div_ceil(WIDTH);
        while i < n_registers {
            // SAFETY: register `i` ends with runs of `2 * length` rows, so `i - back` lacks no row.
            unsafe {
                let apart = difference(inputs.at::<V>(i), inputs.at::<V>(i - back));
                let older = levels.load::<V, K>(run_level, i - back);
                let newer = levels.load::<V, K>(run_level, i);
                levels.store::<V, K>(free, i, S::join(older, newer, apart, by));
            }
            i += 1;
        }
        run_level = free;
        length *= 2;
    }
}
