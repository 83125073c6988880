//! Sensitivities of an option at the money.

use super::{
    catalog::{Indicator, Output, Parameter, Range, Unit},
    elementary::exp,
    kernel::{Id, Scratch, Window},
};
use crate::{dispatch::dispatched, math};

/// Calendar days of a year.
const DAYS_PER_YEAR: f64 = 365.0;

/// A call whose strike is the present price.
#[derive(Debug, Clone, Copy)]
struct AtTheMoney {
    days: f64,
    rate: f64,
}

impl Window for AtTheMoney {
    fn id(&self) -> Id {
        Id::new("greeks", [self.days.to_bits(), self.rate.to_bits()])
    }

    fn lookback(&self) -> usize {
        0
    }

    fn n_outputs(&self) -> usize {
        4
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], _scratch: &mut Scratch) {
        let [delta, gamma, theta, vega] = outputs else {
            return;
        };
        let terms = Terms::new(self.days / DAYS_PER_YEAR, self.rate);
        greeks(inputs[0], inputs[1], terms, [delta, gamma, theta, vega]);
    }
}

/// What all rows have in common.
#[derive(Debug, Clone, Copy)]
struct Terms {
    years_root: f64,
    rate: f64,
    discount: f64,
}

impl Terms {
    fn new(years: f64, rate: f64) -> Self {
        Self {
            years_root: years.sqrt(),
            rate,
            discount: math::exp(-rate * years),
        }
    }
}

/// The normal distribution function.
fn normal(x: f64) -> f64 {
    0.5 * (1.0 + math::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

dispatched! {
    fn greeks(price: &[f64], sigma: &[f64], terms: Terms, outputs: [&mut [f64]; 4]) {
        /// 1 / sqrt(2 pi).
        const DENSITY_AT_ZERO: f64 = 0.398_942_280_401_432_7;
        let Terms { years_root, rate, discount } = terms;
        let [delta, gamma, theta, vega] = outputs;
        for t in 0..price.len() {
            // With the strike at the price its logarithm falls out.
            let first = (rate / sigma[t] + 0.5 * sigma[t]) * years_root;
            delta[t] = if sigma[t] > 0.0 && price[t] > 0.0 { first } else { f64::NAN };
            gamma[t] = DENSITY_AT_ZERO * exp(-0.5 * first * first);
        }
        for t in 0..price.len() {
            let (first, density) = (delta[t], gamma[t]);
            let second = first - sigma[t] * years_root;
            vega[t] = price[t] * density * years_root;
            theta[t] = -0.5 * price[t] * density * sigma[t] / years_root
                - rate * price[t] * discount * normal(second);
            gamma[t] = density / (price[t] * sigma[t] * years_root);
            delta[t] = normal(first);
        }
        for t in 0..price.len() {
            let is_defined = !delta[t].is_nan();
            gamma[t] = if is_defined { gamma[t] } else { f64::NAN };
            theta[t] = if is_defined { theta[t] } else { f64::NAN };
            vega[t] = if is_defined { vega[t] } else { f64::NAN };
        }
    }
}

const fn output(name: &'static str, unit: Unit) -> Output {
    Output { name, unit }
}

pub(super) const INDICATORS: &[Indicator] = &[Indicator {
    name: "greeks",
    series: &["x", "sigma"],
    bars: &[],
    parameters: &[
        Parameter {
            name: "days",
            range: Range::Real(0.01, 10_000.0),
            default: None,
        },
        Parameter {
            name: "rate",
            range: Range::Real(-1.0, 1.0),
            default: None,
        },
    ],
    outputs: &[
        output("delta", Unit::Ratio),
        output("gamma", Unit::Ratio),
        output("theta", Unit::OfSeries),
        output("vega", Unit::OfSeries),
    ],
    definition: "Black-Scholes sensitivities of a call on x with strike x that expires in this many days of a year of 365, at the yearly volatility sigma and the yearly continuous rate: delta, gamma, theta per year, vega per 1 of volatility; not defined unless x and sigma are above zero.",
    source: "Black and Scholes, The pricing of options and corporate liabilities, 1973",
    expand: |builder, series, p| {
        let call = AtTheMoney {
            days: p[0],
            rate: p[1],
        };
        builder.window(call, &[series[0], series[1]])
    },
}];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indicators::{
        check::{market, values},
        program::Input,
    };

    /// Value of the call, with the strike told apart from the price.
    fn value(price: f64, strike: f64, sigma: f64, years: f64, rate: f64) -> f64 {
        let spread = sigma * years.sqrt();
        let first = (math::ln(price / strike) + (rate + 0.5 * sigma * sigma) * years) / spread;
        price * normal(first) - strike * math::exp(-rate * years) * normal(first - spread)
    }

    #[test]
    fn sensitivities_are_the_derivatives_of_the_value() {
        let mut bars = market(40, 3);
        for (t, sigma) in bars.volume.iter_mut().enumerate() {
            *sigma = 0.02 + 0.03 * t as f64;
        }
        let (days, rate) = (65.0, 0.04);
        let years = days / 365.0;
        let output = |name| {
            let series = [Input::Close, Input::Volume];
            values(&bars, "greeks", &series, &[days, rate], name)
        };
        let (delta, gamma, theta, vega) = (
            output("delta"),
            output("gamma"),
            output("theta"),
            output("vega"),
        );

        for t in 0..40 {
            let (x, sigma) = (bars.close[t], bars.volume[t]);
            let slope = |f: &dyn Fn(f64) -> f64, h: f64| (f(h) - f(-h)) / (2.0 * h);
            let at = |price: f64| value(price, x, sigma, years, rate);
            let close = |a: f64, b: f64| (a - b).abs() < 2e-5 * b.abs().max(1e-3);

            assert!(close(slope(&|h| at(x + h), 1e-4 * x), delta[t]), "row {t}");
            let second = (at(x * 1.0005) - 2.0 * at(x) + at(x * 0.9995)) / (x * x * 2.5e-7);
            assert!((second - gamma[t]).abs() < 5e-3 * gamma[t], "row {t}");
            let later = |h: f64| value(x, x, sigma, years - h, rate);
            assert!(close(slope(&later, 1e-5), theta[t]), "row {t}");
            let wilder = |h: f64| value(x, x, sigma + h, years, rate);
            assert!(close(slope(&wilder, 1e-5), vega[t]), "row {t}");
        }
    }

    #[test]
    fn without_volatility_there_is_none() {
        let mut bars = market(2, 3);
        bars.volume = vec![0.0, 0.2];

        for name in ["delta", "gamma", "theta", "vega"] {
            let series = [Input::Close, Input::Volume];
            let values = values(&bars, "greeks", &series, &[65.0, 0.04], name);
            assert!(values[0].is_nan() && values[1].is_finite(), "{name}");
        }
    }
}
