//! Windows that compute each row by itself from a few values of a few rows.

#![expect(
    clippy::inline_always,
    reason = "they must be compiled inside loops for several instruction sets"
)]

use super::kernel::{Id, Scratch, Window};

/// A window without parameters whose rows are functions of some rows of its inputs. [`rowwise`] makes them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rowwise {
    pub(super) name: &'static str,
    pub(super) lookback: usize,
    pub(super) n_outputs: usize,
    /// See [`Window::is_defined_from_the_start`].
    pub(super) is_defined_from_the_start: bool,
    pub(super) rows: fn(&[&[f64]], &mut [&mut [f64]]),
}

impl Window for Rowwise {
    fn id(&self) -> Id {
        Id::new(self.name, [])
    }

    fn lookback(&self) -> usize {
        self.lookback
    }

    fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    fn is_defined_from_the_start(&self) -> bool {
        self.is_defined_from_the_start
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], _: &mut Scratch) {
        (self.rows)(inputs, outputs);
    }
}

/// Defines a [`Rowwise`]: its name, whether rows without value count as defined, how many rows it looks back, the value
/// that each variable stands for as `input - rows ago`, the outputs, and their values as an array.
macro_rules! rowwise {
    ($($(#[$meta:meta])* $kernel:ident = $name:literal, $from_the_start:literal, $lookback:literal,
        ($($x:ident = $input:literal - $ago:literal),* $(,)?) -> ($($out:ident),*) $body:block)*) => {$(
        $(#[$meta])*
        #[allow(
            clippy::float_cmp,
            clippy::many_single_char_names,
            clippy::needless_bitwise_bool,
            clippy::too_many_arguments,
            reason = "conditions without branches and a slice for every value are what vectorises"
        )]
        const $kernel: $crate::indicators::rowwise::Rowwise = {
            // Slices that are arguments of their own are known not to overlap.
            $crate::dispatch::dispatched! {
                fn loop_over_rows(n: usize, $($x: &[f64],)* $($out: &mut [f64],)*) {
                    $(let $x = &$x[..n];)*
                    $(let $out = &mut $out[..n];)*
                    for t in 0..n {
                        $(let $x = $x[t];)*
                        [$($out[t]),*] = $body;
                    }
                }
            }
            fn rows(inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
                let [$($out),*] = outputs else {
                    unreachable!("`{}` has other outputs", $name)
                };
                let n = inputs[0].len() - $lookback;
                loop_over_rows(n, $(&inputs[$input][$lookback - $ago..],)* $($out,)*);
            }
            $crate::indicators::rowwise::Rowwise {
                name: $name,
                lookback: $lookback,
                n_outputs: [$(stringify!($out)),*].len(),
                is_defined_from_the_start: $from_the_start,
                rows,
            }
        };
    )*};
}

pub(super) use rowwise;

/// 1 or 0, and NaN where `is_missing`.
#[inline(always)]
pub(super) fn flag(holds: bool, is_missing: bool) -> f64 {
    let flag = if holds { 1.0 } else { 0.0 };
    if is_missing { f64::NAN } else { flag }
}

/// The larger one; NaN if one of them is.
#[inline(always)]
pub(super) fn max(a: f64, b: f64) -> f64 {
    let larger = if a > b { a } else { b };
    if a.is_nan() { a } else { larger }
}

/// The smaller one; NaN if one of them is.
#[inline(always)]
pub(super) fn min(a: f64, b: f64) -> f64 {
    let smaller = if a < b { a } else { b };
    if a.is_nan() { a } else { smaller }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_wins_over_any_number() {
        for (a, b) in [(f64::NAN, 1.0), (1.0, f64::NAN)] {
            assert!(max(a, b).is_nan() && min(a, b).is_nan());
        }
        assert_eq!((max(1.0, 2.0), min(1.0, 2.0)), (2.0, 1.0));
        assert!(flag(true, true).is_nan());
    }
}
