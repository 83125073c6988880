//! Windows by doubling, level by level: windows of several lengths over one series share levels.

use super::{
    super::{
        super::kernel::Id,
        code::{Code, Value},
    },
    function,
};

/// A statistic of `tree.cuh`.
struct Statistic {
    /// Name of the Id.
    name: &'static str,
    /// Name of the device type.
    device: &'static str,
    /// Numbers of a state.
    n_state: usize,
    n_outputs: usize,
    /// Whether two parts may overlap.
    overlaps: bool,
    kind: Kind,
}

/// What a state has to do with the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// That of one row is the row, joining reads states alone, and the results are the state.
    Plain,
    /// Joining reads states alone.
    Apart,
    /// Joining reads the first rows of both parts.
    Anchored,
}
use Kind::{Anchored, Apart, Plain};

const STATISTICS: &[Statistic] = &[
    statistic("sum", "Sum", 1, 1, false, Plain),
    statistic("mean", "Mean", 1, 1, false, Plain),
    statistic("max", "Largest", 1, 1, true, Plain),
    statistic("min", "Smallest", 1, 1, true, Plain),
    statistic("argmax", "PlaceOfLargest", 2, 1, true, Apart),
    statistic("argmin", "PlaceOfSmallest", 2, 1, true, Apart),
    statistic("spread", "Spread", 2, 3, false, Anchored),
    statistic("shape", "Shape", 4, 3, false, Anchored),
    statistic("together", "Together", 5, 3, false, Anchored),
    statistic("line", "Line", 2, 2, false, Anchored),
    statistic("wma", "Weighted", 2, 1, false, Apart),
];
const ANCHORED_MEAN: Statistic = statistic("anchored mean", "AnchoredMean", 1, 1, false, Anchored);

const fn statistic(
    name: &'static str,
    device: &'static str,
    n_state: usize,
    n_outputs: usize,
    overlaps: bool,
    kind: Kind,
) -> Statistic {
    Statistic {
        name,
        device,
        n_state,
        n_outputs,
        overlaps,
        kind,
    }
}

/// The state of every run of rows of some length, by the run's last row.
#[derive(Debug, Clone)]
enum Runs {
    /// Single rows of the inputs.
    Leaves,
    States(Vec<Value>),
}

/// Two parts of a run.
struct Parts {
    older: usize,
    newer: usize,
    /// Rows between their first rows.
    distance: usize,
    /// Rows between their last rows.
    shift: usize,
}

/// The operations of a window by doubling; nothing if it is none.
pub(super) fn operations(code: &mut Code, id: &Id, inputs: &[Value]) -> Option<Vec<Value>> {
    let statistic = STATISTICS.iter().find(|s| s.name == id.name)?;
    let n_rows = *id.parameters.first()? as usize;
    let state = state(code, statistic, n_rows, inputs);
    if statistic.kind == Plain {
        return Some(state);
    }
    let mut reads = vec![(inputs[0], n_rows - 1)];
    reads.extend(state.iter().map(|value| (*value, 0)));
    let name = if statistic.n_outputs == 1 {
        "result"
    } else {
        "results"
    };
    let function = format!("{name}<{}, {n_rows}>", statistic.device);
    Some(code.rows(function, &reads, statistic.n_outputs, true))
}

/// Distance of the last row from the mean of `n_rows`, and the mean absolute deviation from it.
pub(super) fn deviation(code: &mut Code, n_rows: usize, x: Value) -> Vec<Value> {
    let mean = state(code, &ANCHORED_MEAN, n_rows, &[x])[0];
    let reads = [(x, n_rows - 1), (mean, 0)];
    code.rows(format!("deviation<{n_rows}>"), &reads, 2, false)
}

/// The state of all `n_rows` rows, by the CPU's tree: lengths 1, 2, 4 ..., the smallest binary digit being the oldest rows.
fn state(code: &mut Code, statistic: &Statistic, n_rows: usize, inputs: &[Value]) -> Vec<Value> {
    let of_one = |statistic: &Statistic| {
        if statistic.kind == Plain {
            Runs::States(vec![inputs[0]])
        } else {
            Runs::Leaves
        }
    };
    let top = 1 << n_rows.ilog2();
    let is_digit = |length: usize| !statistic.overlaps && n_rows & length != 0;
    let mut runs = of_one(statistic);
    let mut joined = (is_digit(1) && top > 1).then(|| (of_one(statistic), 1));
    let mut length = 1;
    while length < top {
        let halves = Parts {
            older: length,
            newer: length,
            distance: length,
            shift: length,
        };
        runs = Runs::States(join(code, statistic, inputs, &runs, &runs, &halves));
        length *= 2;
        if length < top && is_digit(length) {
            joined = Some(match joined {
                None => (runs.clone(), length),
                Some((older, rows)) => {
                    let parts = Parts {
                        older: rows,
                        newer: length,
                        distance: rows,
                        shift: length,
                    };
                    let states = join(code, statistic, inputs, &older, &runs, &parts);
                    (Runs::States(states), rows + length)
                }
            });
        }
    }
    let last = if statistic.overlaps && n_rows > top {
        let parts = Parts {
            older: top,
            newer: top,
            distance: n_rows - top,
            shift: n_rows - top,
        };
        Runs::States(join(code, statistic, inputs, &runs, &runs, &parts))
    } else if let Some((older, rows)) = joined {
        let parts = Parts {
            older: rows,
            newer: top,
            distance: rows,
            shift: top,
        };
        Runs::States(join(code, statistic, inputs, &older, &runs, &parts))
    } else {
        runs
    };
    match last {
        Runs::States(state) => state,
        Runs::Leaves => {
            let here: Vec<(Value, usize)> = inputs.iter().map(|value| (*value, 0)).collect();
            let name = if statistic.n_state == 1 {
                "leaf_one"
            } else {
                "leaf"
            };
            let function = format!("{name}<{}, {}>", statistic.device, inputs.len());
            code.rows(function, &here, statistic.n_state, true)
        }
    }
}

/// The operations of a window over terms that it makes of its inputs itself: here they are operations of their own. Nothing
/// if it is none.
pub(super) fn of_terms(code: &mut Code, id: &Id, inputs: &[Value]) -> Option<Vec<Value>> {
    let n_rows = *id.parameters.first()? as usize;
    let mut row = |name: &'static str, words: &[u64], reads: &[(usize, usize)]| {
        let reads: Vec<_> = reads.iter().map(|(k, ago)| (inputs[*k], *ago)).collect();
        code.rows(function(&Id::new(name, words)), &reads, 1, true)[0]
    };
    let of_bar = [(0, 0), (1, 0), (2, 0), (3, 0)];
    let ratio = Id::new("window::volume::ratio", [0]);
    let percent = |otherwise: f64| Id::new("window::volume::percent", [otherwise.to_bits(), 0]);
    let (part, all, quotient) = match id.name {
        "vwma" => (row("pointwise::mul", &[0], &of_bar[..2]), inputs[1], ratio),
        "cmf" => (
            row("window::volume::flow_in_range", &[0], &of_bar),
            inputs[3],
            ratio,
        ),
        "mfi" | "mfi_plain" => {
            let (same, otherwise) = if id.name == "mfi" {
                (1e-14_f64, 0.0)
            } else {
                (1e-12, 50.0)
            };
            let price = row("window::ranges::typical_price", &[0], &of_bar[..3]);
            let reads = [(price, 1), (inputs[3], 0)];
            let words = [same.to_bits(), 1];
            let flow = |code: &mut Code, name| code.row(function(&Id::new(name, words)), &reads);
            (
                flow(code, "window::volume::rising_flow"),
                flow(code, "window::volume::flow"),
                percent(otherwise),
            )
        }
        "rsi_sma" => (
            row("window::oscillators::rise", &[1], &[(0, 1)]),
            row("window::oscillators::movement", &[1], &[(0, 1)]),
            percent(0.0),
        ),
        "vortex plus" | "vortex minus" => {
            let (end, other) = if id.name == "vortex plus" {
                (0, 1)
            } else {
                (1, 0)
            };
            (
                row("window::oscillators::reach", &[1], &[(end, 0), (other, 1)]),
                row(TRUE_RANGE, &[1], &[(0, 0), (1, 0), (2, 1)]),
                ratio,
            )
        }
        "buying pressure" => (
            row("window::oscillators::pressure", &[1], &[(1, 0), (2, 1)]),
            row(TRUE_RANGE, &[1], &[(0, 0), (1, 0), (2, 1)]),
            Id::new("window::oscillators::share", [0]),
        ),
        "hma" => {
            let ahead = row("window::regression::twice_less", &[0], &of_bar[..2]);
            return operations(code, &Id::new("wma", [n_rows as u64]), &[ahead]);
        }
        "mean median price" => {
            let price = row("window::ranges::middle_price", &[0], &of_bar[..2]);
            return operations(code, &Id::new("mean", [n_rows as u64]), &[price]);
        }
        "mean body before" | "mean range before" => {
            let name = if id.name == "mean body before" {
                "body_size"
            } else {
                "bar_range"
            };
            let part = row(name, &[], &of_bar[..2]);
            return Some(vec![mean_before(code, n_rows, part)?]);
        }
        "cdl_doji" | "star" | "cdl_shootingstar" => {
            let (part, lookback) = if id.name == "star" {
                (row("body_size", &[], &[(0, 0), (3, 0)]), 1)
            } else {
                (row("bar_range", &[], &[(1, 0), (2, 0)]), 0)
            };
            let mut reads: Vec<_> = inputs.iter().map(|x| (*x, lookback)).collect();
            reads.push((mean_before(code, n_rows, part)?, lookback));
            return Some(vec![code.row(id.name.to_owned(), &reads)]);
        }
        _ => return None,
    };
    let mut sum = |x| operations(code, &Id::new("sum", [n_rows as u64]), &[x]);
    let reads = [(sum(part)?[0], 0), (sum(all)?[0], 0)];
    Some(code.rows(function(&quotient), &reads, 1, true))
}

/// The mean of the `n_rows` rows before the present one.
fn mean_before(code: &mut Code, n_rows: usize, x: Value) -> Option<Value> {
    let sum = operations(code, &Id::new("sum", [n_rows as u64]), &[x])?;
    let function = format!("sum_over_rows_before<{n_rows}>");
    Some(code.row(function, &[(sum[0], 1)]))
}

const TRUE_RANGE: &str = "window::ranges::true_range_of";

fn join(
    code: &mut Code,
    statistic: &Statistic,
    inputs: &[Value],
    older: &Runs,
    newer: &Runs,
    parts: &Parts,
) -> Vec<Value> {
    let Parts {
        older: n_older,
        newer: n_newer,
        distance,
        shift,
    } = parts;
    let mut reads = Vec::new();
    let is_leaf = |runs: &Runs| matches!(runs, Runs::Leaves);
    // The first row of the older part is read the farthest back.
    let n_inputs = if statistic.kind == Anchored || is_leaf(older) || is_leaf(newer) {
        reads.extend(inputs.iter().map(|value| (*value, n_newer - 1 + distance)));
        inputs.len()
    } else {
        0
    };
    for (runs, back) in [(older, *shift), (newer, 0)] {
        if let Runs::States(values) = runs {
            reads.extend(values.iter().map(|value| (*value, back)));
        }
    }
    let name = if statistic.n_state == 1 {
        "join_one"
    } else {
        "join"
    };
    let function = format!(
        "{name}<{}, {n_inputs}, {n_older}, {n_newer}, {distance}, {shift}, {}, {}>",
        statistic.device,
        is_leaf(older),
        is_leaf(newer)
    );
    code.rows(function, &reads, statistic.n_state, false)
}
