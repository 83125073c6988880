//! Formulas of the values of one row, or of one row and an earlier one.
//!
//! All keep NaN: a value that is not known makes a result that is not known, except where a condition selects another.
//! A division by zero is not defined, and the logarithm of what is not positive neither.

#![allow(
    clippy::float_cmp,
    reason = "the language's comparisons are what they say"
)]

use super::{
    elementary,
    kernel::{Id, Scratch, Window},
    program::{Builder, Series},
};

/// A formula as a node.
#[derive(Debug)]
pub(super) struct Formula {
    /// Name of the function, with its module.
    pub(super) name: &'static str,
    pub(super) parameters: Vec<f64>,
    /// Rows between the present value and the earlier one that it reads besides.
    pub(super) lag: usize,
    /// Inputs with `lag` rows before the first output, parameters, output.
    pub(super) compute: fn(&[&[f64]], &[f64], &mut [f64]),
}

impl Formula {
    pub(super) fn node(self, builder: &mut Builder, inputs: &[Series]) -> Series {
        builder.window(self, inputs)[0]
    }
}

impl Window for Formula {
    fn id(&self) -> Id {
        let parameters = self.parameters.iter().map(|x| x.to_bits());
        Id::new(
            self.name,
            parameters.chain([self.lag as u64]).collect::<Vec<u64>>(),
        )
    }

    fn lookback(&self) -> usize {
        self.lag
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], _scratch: &mut Scratch) {
        (self.compute)(inputs, &self.parameters, outputs[0]);
    }
}

/// Defines functions that put a formula of series `x, ...` and numbers `p, ...` into a program:
/// `fn name(x, ...; p, ...) expression`.
macro_rules! formulas {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($x:ident),+ $(; $($p:ident),+)?) $body:expr)+) => {$(
        $(#[$meta])*
        $vis fn $name(
            builder: &mut $crate::indicators::program::Builder,
            $($x: $crate::indicators::program::Series,)+
            $($($p: f64,)+)?
        ) -> $crate::indicators::program::Series {
            $crate::dispatch::dispatched! {
                fn kernel($($x: &[f64],)+ $($($p: f64,)+)? out: &mut [f64]) {
                    let n = out.len();
                    $(let $x = &$x[..n];)+
                    for t in 0..n {
                        $(let $x = $x[t];)+
                        out[t] = $body;
                    }
                }
            }
            fn compute(inputs: &[&[f64]], parameters: &[f64], out: &mut [f64]) {
                if let ([$($x),+], [$($($p),+)?]) = (inputs, parameters) {
                    kernel($($x,)+ $($(*$p,)+)? out);
                }
            }
            let formula = $crate::indicators::pointwise::Formula {
                name: concat!(module_path!(), "::", stringify!($name)),
                parameters: vec![$($($p),+)?],
                lag: 0,
                compute,
            };
            formula.node(builder, &[$($x),+])
        }
    )+};
}
pub(super) use formulas;

/// The same with the values `lag` rows earlier: `fn name(x / x_before, ...; p, ...) expression`, called with the lag after
/// the series.
macro_rules! lagged_formulas {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($x:ident / $before:ident),+ $(; $($p:ident),+)?) $body:expr)+) => {$(
        $(#[$meta])*
        $vis fn $name(
            builder: &mut $crate::indicators::program::Builder,
            $($x: $crate::indicators::program::Series,)+
            lag: usize,
            $($($p: f64,)+)?
        ) -> $crate::indicators::program::Series {
            $crate::dispatch::dispatched! {
                fn kernel($($before: &[f64],)+ $($($p: f64,)+)? out: &mut [f64]) {
                    let n = out.len();
                    $(
                        let $x = &$before[$before.len() - n..];
                        let $before = &$before[..n];
                    )+
                    for t in 0..n {
                        $(
                            #[allow(unused_variables, reason = "not every formula reads every series twice")]
                            let ($x, $before) = ($x[t], $before[t]);
                        )+
                        out[t] = $body;
                    }
                }
            }
            fn compute(inputs: &[&[f64]], parameters: &[f64], out: &mut [f64]) {
                if let ([$($x),+], [$($($p),+)?]) = (inputs, parameters) {
                    kernel($($x,)+ $($(*$p,)+)? out);
                }
            }
            let formula = $crate::indicators::pointwise::Formula {
                name: concat!(module_path!(), "::", stringify!($name)),
                parameters: vec![$($($p),+)?],
                lag,
                compute,
            };
            formula.node(builder, &[$($x),+])
        }
    )+};
}
pub(super) use lagged_formulas;

/// `numerator / denominator`, and `otherwise` where the denominator is 0.
#[inline]
pub(super) fn quotient_or(numerator: f64, denominator: f64, otherwise: f64) -> f64 {
    let quotient = numerator / denominator;
    // The NaN of a numerator that is not known is kept.
    if denominator == 0.0 && !numerator.is_nan() {
        otherwise
    } else {
        quotient
    }
}

/// 1 or 0; NaN where `x` or `y` is.
#[inline]
fn flag(is: bool, x: f64, y: f64) -> f64 {
    let flag = if is { 1.0 } else { 0.0 };
    if x.is_nan() || y.is_nan() {
        f64::NAN
    } else {
        flag
    }
}

/// The larger one; NaN if one is.
#[inline]
pub(super) fn larger(x: f64, y: f64) -> f64 {
    let larger = if x > y { x } else { y };
    if x.is_nan() { x } else { larger }
}

/// The smaller one; NaN if one is.
#[inline]
pub(super) fn smaller(x: f64, y: f64) -> f64 {
    let smaller = if x < y { x } else { y };
    if x.is_nan() { x } else { smaller }
}

/// The sine of `x` in radians.
pub fn sin(builder: &mut Builder, x: Series) -> Series {
    elementary(builder, x, concat!(module_path!(), "::sin"), |x, _, out| {
        elementary::sin_all(x[0], out);
    })
}

/// The cosine of `x` in radians.
pub fn cos(builder: &mut Builder, x: Series) -> Series {
    elementary(builder, x, concat!(module_path!(), "::cos"), |x, _, out| {
        elementary::cos_all(x[0], out);
    })
}

fn elementary(
    builder: &mut Builder,
    x: Series,
    name: &'static str,
    compute: fn(&[&[f64]], &[f64], &mut [f64]),
) -> Series {
    let formula = Formula {
        name,
        parameters: Vec::new(),
        lag: 0,
        compute,
    };
    formula.node(builder, &[x])
}

formulas! {
    /// `x + y`.
    pub fn add(x, y) x + y
    /// `x - y`.
    pub fn sub(x, y) x - y
    /// `x * y`.
    pub fn mul(x, y) x * y
    /// `x / y`; NaN where `y` is 0.
    pub fn div(x, y) quotient_or(x, y, f64::NAN)
    /// `-x`.
    pub fn neg(x) -x
    /// The absolute value of `x`.
    pub fn abs(x) x.abs()
    /// The natural logarithm of `x`; NaN where `x` is not positive.
    pub fn ln(x) elementary::ln(x)
    /// `e^x`.
    pub fn exp(x) elementary::exp(x)
    /// The square root of `x`; NaN where `x` is negative.
    pub fn sqrt(x) x.sqrt()
    /// The larger of `x` and `y`.
    pub fn max2(x, y) larger(x, y)
    /// The smaller of `x` and `y`.
    pub fn min2(x, y) smaller(x, y)
    /// 1 where `x > y`, else 0.
    pub fn gt(x, y) flag(x > y, x, y)
    /// 1 where `x >= y`, else 0.
    pub fn ge(x, y) flag(x >= y, x, y)
    /// 1 where `x < y`, else 0.
    pub fn lt(x, y) flag(x < y, x, y)
    /// 1 where `x <= y`, else 0.
    pub fn le(x, y) flag(x <= y, x, y)
    /// 1 where `x` equals `y`, else 0.
    pub fn eq(x, y) flag(x == y, x, y)
    /// 1 where `x` does not equal `y`, else 0.
    pub fn ne(x, y) flag(x != y, x, y)
    /// 1 where neither `x` nor `y` is 0, else 0.
    pub fn and(x, y) flag(x != 0.0 && y != 0.0, x, y)
    /// 1 where `x` or `y` is not 0, else 0.
    pub fn or(x, y) flag(x != 0.0 || y != 0.0, x, y)
    /// 1 where `x` is 0, else 0.
    pub fn not(x) flag(x == 0.0, x, x)
    /// `x` where `condition` is not 0, else `y`; NaN where the condition is NaN.
    pub fn select(condition, x, y) {
        let chosen = if condition == 0.0 { y } else { x };
        if condition.is_nan() { condition } else { chosen }
    }
    /// `x`, but not less than `least` and not more than `most`.
    pub fn clip(x, least, most) smaller(larger(x, least), most)
    /// `x * factor`.
    pub fn scaled(x; factor) x * factor
}

#[cfg(test)]
mod tests {
    use super::{
        super::{engine::Engine, program::Input},
        *,
    };
    use crate::{bars::Bars, math};

    const X: [f64; 5] = [-2.0, 0.0, 0.5, 3.0, f64::NAN];
    const Y: [f64; 5] = [-2.0, 0.0, 2.0, -1.0, 1.0];

    fn values(make: impl Fn(&mut Builder, Series, Series) -> Series) -> Vec<f64> {
        let mut builder = Builder::new();
        let (x, y) = (builder.input(Input::Open), builder.input(Input::Close));
        let out = make(&mut builder, x, y);
        let program = builder.finish(&[out]);
        let bars = Bars {
            ts_ns: &[0, 1, 2, 3, 4],
            open: &X,
            high: &X,
            low: &X,
            close: &Y,
            volume: &Y,
        };
        Engine::batch(&program, bars, &[]).remove(0)
    }

    fn assert_are(values: &[f64], expected: [f64; 5]) {
        for (x, y) in values.iter().zip(expected) {
            assert!(
                (x.is_nan() && y.is_nan()) || (x - y).abs() < 1e-15,
                "{values:?} against {expected:?}"
            );
        }
    }

    #[test]
    fn every_operator_computed_by_hand() {
        let nan = f64::NAN;
        assert_are(&values(add), [-4.0, 0.0, 2.5, 2.0, nan]);
        assert_are(&values(sub), [0.0, 0.0, -1.5, 4.0, nan]);
        assert_are(&values(mul), [4.0, 0.0, 1.0, -3.0, nan]);
        assert_are(&values(div), [1.0, nan, 0.25, -3.0, nan]);
        assert_are(&values(max2), [-2.0, 0.0, 2.0, 3.0, nan]);
        assert_are(&values(min2), [-2.0, 0.0, 0.5, -1.0, nan]);
        assert_are(&values(|b, x, y| max2(b, y, x)), [-2.0, 0.0, 2.0, 3.0, nan]);
        assert_are(&values(gt), [0.0, 0.0, 0.0, 1.0, nan]);
        assert_are(&values(ge), [1.0, 1.0, 0.0, 1.0, nan]);
        assert_are(&values(lt), [0.0, 0.0, 1.0, 0.0, nan]);
        assert_are(&values(le), [1.0, 1.0, 1.0, 0.0, nan]);
        assert_are(&values(eq), [1.0, 1.0, 0.0, 0.0, nan]);
        assert_are(&values(ne), [0.0, 0.0, 1.0, 1.0, nan]);
        assert_are(&values(and), [1.0, 0.0, 1.0, 1.0, nan]);
        assert_are(&values(or), [1.0, 0.0, 1.0, 1.0, nan]);
        assert_are(&values(|b, x, _| neg(b, x)), [2.0, 0.0, -0.5, -3.0, nan]);
        assert_are(&values(|b, x, _| abs(b, x)), [2.0, 0.0, 0.5, 3.0, nan]);
        assert_are(&values(|b, x, _| not(b, x)), [0.0, 1.0, 0.0, 0.0, nan]);
        assert_are(
            &values(|b, x, _| sqrt(b, x)),
            [nan, 0.0, 0.5_f64.sqrt(), 3.0_f64.sqrt(), nan],
        );
        assert_are(
            &values(|b, x, _| ln(b, x)),
            [nan, nan, -std::f64::consts::LN_2, math::ln(3.0), nan],
        );
        assert_are(
            &values(|b, x, _| exp(b, x)),
            [math::exp(-2.0), 1.0, math::exp(0.5), math::exp(3.0), nan],
        );
        assert_are(
            &values(|b, x, _| sin(b, x)),
            [math::sin(-2.0), 0.0, math::sin(0.5), math::sin(3.0), nan],
        );
        assert_are(
            &values(|b, x, _| cos(b, x)),
            [math::cos(-2.0), 1.0, math::cos(0.5), math::cos(3.0), nan],
        );
        assert_are(
            &values(|b, x, y| select(b, x, y, x)),
            [-2.0, 0.0, 2.0, -1.0, nan],
        );
        assert_are(
            &values(|b, x, y| {
                let (least, most) = (b.constant(-1.0), b.constant(1.0));
                let inside = clip(b, x, least, most);
                add(b, inside, y)
            }),
            [-3.0, 0.0, 2.5, 0.0, nan],
        );
        assert_are(
            &values(|b, x, _| scaled(b, x, 3.0)),
            [-6.0, 0.0, 1.5, 9.0, nan],
        );
    }

    #[test]
    fn formulas_with_other_parameters_are_other_nodes() {
        let mut builder = Builder::new();
        let x = builder.input(Input::Close);

        assert_eq!(scaled(&mut builder, x, 2.0), scaled(&mut builder, x, 2.0));
        assert_ne!(scaled(&mut builder, x, 2.0), scaled(&mut builder, x, 3.0));
        assert_ne!(sin(&mut builder, x), cos(&mut builder, x));
    }
}
