//! The device functions of kernels, by their [`Id`]: it says all of what a kernel computes, so nothing else is needed of it.
//!
//! A twin's template arguments are the words of the Id.

use super::{
    super::kernel::{Id, Recurrence, Scratch, Window},
    code::{Chunks, Code, Value},
};
use crate::math;

mod tree;

/// The device functions, family by family.
pub(super) const SOURCE: &str = concat!(
    include_str!("elementary.cuh"),
    include_str!("pointwise.cuh"),
    include_str!("tree.cuh"),
    include_str!("averages.cuh"),
    include_str!("structure.cuh"),
    include_str!("order.cuh"),
);

/// How much a function of rows costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cost {
    /// Less than keeping its result.
    Light,
    Heavy,
}
use Cost::{Heavy, Light};

/// A window that one device function computes: its Id's name below `natron_kernels::indicators`, the rows that each input
/// looks back (all of the window's where nothing is said), the cost.
type Twin = (&'static str, &'static [usize], Cost);

const TWINS: &[Twin] = &[
    ("pointwise::add", &[], Light),
    ("pointwise::sub", &[], Light),
    ("pointwise::mul", &[], Light),
    ("pointwise::div", &[], Light),
    ("pointwise::neg", &[], Light),
    ("pointwise::abs", &[], Light),
    ("pointwise::ln", &[], Heavy),
    ("pointwise::exp", &[], Heavy),
    ("pointwise::sqrt", &[], Light),
    ("pointwise::sin", &[], Heavy),
    ("pointwise::cos", &[], Heavy),
    ("pointwise::max2", &[], Light),
    ("pointwise::min2", &[], Light),
    ("pointwise::gt", &[], Light),
    ("pointwise::ge", &[], Light),
    ("pointwise::lt", &[], Light),
    ("pointwise::le", &[], Light),
    ("pointwise::eq", &[], Light),
    ("pointwise::ne", &[], Light),
    ("pointwise::and", &[], Light),
    ("pointwise::or", &[], Light),
    ("pointwise::not", &[], Light),
    ("pointwise::select", &[], Light),
    ("pointwise::clip", &[], Light),
    ("pointwise::scaled", &[], Light),
    ("window::moments::root_mean", &[], Light),
    ("window::moments::share_of", &[], Light),
    ("window::moments::standardised", &[], Light),
    ("window::moments::band", &[], Light),
    ("window::moments::band_width", &[], Light),
    ("window::moments::place_between_bands", &[], Light),
    ("window::moments::skewness", &[], Light),
    ("window::moments::kurtosis", &[], Light),
    ("window::comoments::correlation", &[], Light),
    ("window::comoments::share_of", &[], Light),
    ("window::comoments::slope", &[], Light),
    ("window::regression::at", &[], Light),
    ("window::regression::explained", &[], Light),
    ("window::returns::before", &[], Light),
    ("window::returns::change", &[], Light),
    ("window::returns::relative", &[], Light),
    ("window::extremes::place_between", &[], Light),
    ("window::extremes::middle", &[], Light),
    ("window::oscillators::percent_of_range", &[], Light),
    ("window::oscillators::percent_below", &[], Light),
    ("window::oscillators::where_defined", &[], Light),
    ("window::oscillators::channel", &[], Light),
    ("window::oscillators::freshness", &[], Light),
    ("window::oscillators::ultimate", &[], Light),
    ("window::ranges::typical_price", &[], Light),
    ("window::ranges::middle_price", &[], Light),
    ("window::ranges::power", &[], Light),
    ("window::ranges::root", &[], Light),
    ("window::ranges::yang_zhang_of", &[], Light),
    ("window::volume::ratio", &[], Light),
    ("window::returns::log_relative", &[], Heavy),
    ("window::ranges::squared_log_range", &[], Heavy),
    ("window::ranges::garman_klass_of", &[], Heavy),
    ("window::ranges::rogers_satchell_of", &[], Heavy),
    ("window::ranges::log_body", &[], Heavy),
    ("window::ranges::choppiness", &[], Heavy),
    ("window::ranges::true_range_of", &[0, 0, 1], Light),
    ("window::ranges::log_gap", &[0, 1], Heavy),
    ("body_ratio", &[], Light),
    ("upper_shadow_ratio", &[], Light),
    ("lower_shadow_ratio", &[], Light),
    ("position_in_range", &[], Light),
    ("is_doji", &[], Light),
    ("candle_dir", &[], Light),
    ("gap_up", &[0, 1, 0, 0], Light),
    ("gap_down", &[1, 0, 0, 0], Light),
    ("body_pct", &[], Light),
    ("upper_shadow_pct", &[], Light),
    ("lower_shadow_pct", &[], Light),
    ("hl_ratio", &[], Light),
    ("co_ratio", &[], Light),
    ("fvg", &[0, 2, 2, 0], Light),
    ("cdl_engulfing", &[], Light),
    ("cdl_hammer", &[], Light),
    ("cdl_hangingman", &[], Light),
    ("cdl_harami", &[], Light),
    ("cdl_morningstar", &[], Light),
    ("cdl_eveningstar", &[], Light),
    ("cdl_3whitesoldiers", &[], Light),
    ("cdl_3blackcrows", &[], Light),
    ("cdl_piercing", &[], Light),
    ("cdl_darkcloudcover", &[], Light),
    ("swing", &[], Heavy),
    ("sweep", &[], Light),
    ("bos", &[], Light),
    ("breakout", &[0, 1, 1], Light),
    ("ob_dist", &[], Light),
    ("crossup", &[], Light),
    ("time_of_day", &[], Heavy),
    ("day_of_week", &[], Heavy),
    ("month_of_year", &[], Heavy),
    ("mean of two", &[], Light),
    ("force", &[1, 0], Light),
    ("channel", &[], Light),
    ("kama rest", &[], Heavy),
    ("place", &[], Heavy),
    ("mad", &[], Heavy),
    ("pctrank", &[], Heavy),
    ("rank", &[], Heavy),
    ("entropy", &[], Heavy),
    ("hurst", &[], Heavy),
    ("profile", &[], Heavy),
    ("greeks", &[], Heavy),
];

/// Recurrences that one device type computes: what takes it up is in `averages.cuh`.
const RECURRENCES: &[&str] = &[
    "ema",
    "ema0",
    "rma",
    "atr",
    "natr",
    "macd",
    "macd0",
    "rsi",
    "cmo",
    "dema",
    "tema",
    "trix",
    "t3",
    "apo",
    "ppo",
    "direction",
    "kama",
    "ewma_vol",
    "adosc",
];

/// Those whose effect is carried from chunk to chunk, with the words of their states.
const CARRIED: &[(&str, usize)] = &[("cumsum", 2), ("obv", 2), ("vpt", 2), ("ad", 2)];

/// Those without a bound on their memory that find into the right state all the same, with the rows in which they mostly
/// do, and the words of their states.
const SUPPOSED: &[(&str, usize, usize)] = &[
    ("sar", 1024, 7),
    ("supertrend", 1024, 8),
    ("last_pivot", 1024, 4),
    ("choch", 1024, 2),
    // A day of bars of a minute, and two of them.
    ("vwap_day", 1440, 3),
    ("pivots", 2880, 9),
];

/// The name below `natron_kernels::indicators`.
fn short(id: &Id) -> &'static str {
    id.name
        .strip_prefix(concat!(env!("CARGO_CRATE_NAME"), "::indicators::"))
        .unwrap_or(id.name)
}

/// A device function's name, with the Id's words as template arguments.
fn function(id: &Id) -> String {
    let mut name = short(id).replace([' ', '-'], "_");
    // Words of C++ cannot be names.
    if ["and", "or", "not"]
        .iter()
        .any(|word| name.ends_with(&format!("::{word}")))
    {
        name.push('_');
    }
    let words: Vec<String> = id
        .parameters
        .iter()
        .map(|word| format!("0x{word:x}ull"))
        .collect();
    if words.is_empty() {
        name
    } else {
        format!("{name}<{}>", words.join(", "))
    }
}

/// The operations of a window; nothing if it has no twin.
pub(super) fn window(code: &mut Code, window: &dyn Window, inputs: &[Value]) -> Option<Vec<Value>> {
    let id = window.id();
    let of_tree = tree::operations(code, &id, inputs);
    if let Some(values) = of_tree.or_else(|| tree::of_terms(code, &id, inputs)) {
        return Some(values);
    }
    match short(&id) {
        "deviation" => {
            return Some(tree::deviation(
                code,
                window.lookback() + 1,
                *inputs.first()?,
            ));
        }
        "quantile" => return quantiles(code, &id, window.lookback(), inputs),
        "fractional difference" | "ricker" => return Some(weighted(code, window, inputs)),
        "spectral entropy" => return spectral_entropy(code, &id, inputs),
        _ => {}
    }
    // Patterns are written for all measures; which of them stand for those that a pattern does not read does not matter.
    let with_measures: Vec<Value>;
    let inputs = if short(&id).starts_with("cdl_") && (5..7).contains(&inputs.len()) {
        let measures = [4, inputs.len() - 1, 4].map(|k| inputs[k]);
        with_measures = [&inputs[..4], &measures].concat();
        &with_measures
    } else {
        inputs
    };
    let (_, lookback, cost) = TWINS.iter().find(|(name, ..)| *name == short(&id))?;
    let reads: Vec<(Value, usize)> = inputs
        .iter()
        .enumerate()
        .map(|(k, input)| {
            (
                *input,
                lookback.get(k).copied().unwrap_or(window.lookback()),
            )
        })
        .collect();
    Some(code.rows(function(&id), &reads, window.n_outputs(), *cost == Light))
}

/// The operations of a recurrence; nothing if it has no twin.
pub(super) fn recurrence(
    code: &mut Code,
    recurrence: &dyn Recurrence,
    inputs: &[Value],
) -> Option<Vec<Value>> {
    let id = recurrence.id();
    let name = short(&id);
    let carried = CARRIED.iter().find(|(carried, _)| *carried == name);
    let supposed = SUPPOSED.iter().find(|(supposed, ..)| *supposed == name);
    let chunks = match (carried, supposed, recurrence.memory()) {
        (Some((_, words)), ..) => Chunks::Carry(*words),
        (None, Some((_, run_up, words)), None) => Chunks::Suppose {
            run_up: *run_up,
            words: *words,
        },
        (None, _, Some(rows)) if supposed.is_some() || RECURRENCES.contains(&name) => {
            Chunks::Restart(rows)
        }
        _ => return None,
    };
    let start = format!("{}()", function(&id));
    Some(code.chunks(start, chunks, inputs, recurrence.n_outputs()))
}

/// A quantile at a time: windows of one series and length share nothing else.
fn quantiles(code: &mut Code, id: &Id, lookback: usize, inputs: &[Value]) -> Option<Vec<Value>> {
    let (n, q) = id.parameters.split_first()?;
    let one = |q: &u64| {
        code.row(
            format!("quantile<{n}, 0x{q:x}ull>"),
            &[(inputs[0], lookback)],
        )
    };
    Some(q.iter().map(one).collect())
}

/// A weighted sum. Its weights are its answers to a single 1 among zeros.
fn weighted(code: &mut Code, window: &dyn Window, inputs: &[Value]) -> Vec<Value> {
    let lookback = window.lookback();
    let mut impulse = vec![0.0; 2 * lookback + 1];
    impulse[lookback] = 1.0;
    let mut weights = vec![0.0; lookback + 1];
    window.run(&[&impulse], &mut [&mut weights], &mut Scratch::default());
    let table = code.table(weights);
    vec![code.row(
        format!("weighted<{table}, {}>", lookback + 1),
        &[(inputs[0], lookback)],
    )]
}

fn spectral_entropy(code: &mut Code, id: &Id, inputs: &[Value]) -> Option<Vec<Value>> {
    let n = *id.parameters.first()? as usize;
    let angles = (0..n).map(|turn| std::f64::consts::TAU * (turn as f64 / n as f64));
    let waves = angles.clone().map(math::cos).chain(angles.map(math::sin));
    let table = code.table(waves.collect());
    Some(vec![code.row(
        format!("spectral_entropy<{table}, {n}>"),
        &[(inputs[0], n - 1)],
    )])
}
