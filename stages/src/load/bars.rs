//! The one place where bars from outside are checked: order, duplicates, gaps, and every value of every bar.

use std::collections::BTreeMap;

use natron_artifacts::{Column, Metrics, StageError, Table};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    columns::{VALUES, candle_columns},
    interval::Interval,
    time::shown,
};

/// Prices and volumes beyond this are mistakes: the squares and cubes that indicators take would lose all digits.
const LARGEST: f64 = 1e15;
/// Prices below this are taken for zero, for the same reason.
const SMALLEST_PRICE: f64 = 1e-12;
/// How many places a message lists.
const LISTED: usize = 8;
/// How many bars a table may have.
pub(crate) const MAX_BARS: usize = 100_000_000;

/// What to do about bars that break a rule. Each rule is an error unless said otherwise; what is dropped or changed is
/// counted in `statistics`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BarPolicies {
    /// Several bars of one time.
    pub(crate) duplicates: Duplicates,
    /// Bars missing between two bars. They are let through unless told otherwise: markets close at night, at weekends and on
    /// holidays, so almost every file has them, and only its owner knows which are the calendar's. `statistics` counts them.
    pub(crate) gaps: Gaps,
    /// The longest gap, in missing bars, that `gaps = "error"` lets through or `gaps = "fill"` fills. Default: none for
    /// `error`, any for `fill`.
    pub(crate) max_gap_bars: Option<u32>,
    /// Empty cells, nulls and NaN.
    pub(crate) missing: Missing,
    /// Infinite values, and values beyond 1e15, too large to compute with.
    pub(crate) non_finite: Unusable,
    /// Prices that are zero, negative or below 1e-12.
    pub(crate) zero_prices: Missing,
    /// Negative volumes.
    pub(crate) negative_volume: NegativeVolume,
    /// Bars whose high is below their low.
    pub(crate) high_below_low: HighBelowLow,
    /// Bars whose open or close is outside low and high.
    pub(crate) outside_range: OutsideRange,
}

/// What to do about several bars of one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Duplicates {
    /// Refuse them.
    #[default]
    Error,
    /// Keep the one that comes first in the file.
    KeepFirst,
    /// Keep the one that comes last in the file.
    KeepLast,
}

/// What to do about missing bars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Gaps {
    /// Leave them, as at weekends, and count them.
    #[default]
    Allow,
    /// Refuse those longer than `max_gap_bars`.
    Error,
    /// Put flat bars at the close before, without volume, into those of at most `max_gap_bars`.
    Fill,
}

/// What to do about a bar with a missing value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Missing {
    /// Refuse it.
    #[default]
    Error,
    /// Leave the bar out.
    Drop,
    /// Put a flat bar at the close before, without volume, in its place.
    FillPrevious,
}

/// What to do about a bar with a value that cannot be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unusable {
    /// Refuse it.
    #[default]
    Error,
    /// Leave the bar out.
    Drop,
}

/// What to do about a bar with a negative volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NegativeVolume {
    /// Refuse it.
    #[default]
    Error,
    /// Leave the bar out.
    Drop,
    /// Take it for zero.
    Zero,
}

/// What to do about a bar whose high is below its low.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HighBelowLow {
    /// Refuse it.
    #[default]
    Error,
    /// Leave the bar out.
    Drop,
    /// Exchange the two.
    Swap,
}

/// What to do about a bar whose open or close is outside low and high.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OutsideRange {
    /// Refuse it.
    #[default]
    Error,
    /// Leave the bar out.
    Drop,
    /// Widen low and high to hold them.
    Widen,
}

/// In which order a file has its bars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Oldest or newest first, as the first and the last bar say; anything else is an error.
    #[default]
    Auto,
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
    /// Any: sort them, and count those out of order in `statistics`.
    Sort,
}

/// Which end of the bar a file's times stand for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TimeIs {
    /// The end; `ts_ns` is the file's time. Also right for files that state the beginning, as long as all of a pipeline's
    /// files do: only calendar features are moved by one bar.
    #[default]
    Close,
    /// The beginning; `ts_ns` is the file's time plus one interval.
    Open,
}

/// How the times of bars are to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Timing {
    pub(crate) order: Order,
    pub(crate) time_is: TimeIs,
    pub(crate) interval: Option<Interval>,
}

/// Where bars come from, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    /// The file.
    pub(crate) file: &'a str,
    /// What a place in it is called.
    pub(crate) place: &'static str,
}

impl Origin<'_> {
    /// An error about the whole file.
    pub(crate) fn wrong(&self, message: &str, help: &str) -> StageError {
        StageError::data(format!("`{}`: {message}", self.file)).with_help(help)
    }

    /// An error at one place.
    pub(crate) fn wrong_at(
        &self,
        place: u64,
        column: &str,
        message: &str,
        help: &str,
    ) -> StageError {
        let column = if column.is_empty() {
            String::new()
        } else {
            format!(", column `{column}`")
        };
        let message = format!("`{}`, {} {place}{column}: {message}", self.file, self.place);
        StageError::data(message).with_help(help)
    }

    fn all(&self, offences: &Offences) -> String {
        let mut places = offences.places.clone();
        places.sort_unstable();
        let shown: Vec<_> = places.iter().map(u64::to_string).collect();
        let more = if offences.total > places.len() {
            ", ..."
        } else {
            ""
        };
        format!(
            "{} such: {}s {}{more}",
            offences.total,
            self.place,
            shown.join(", ")
        )
    }
}

/// Bars as a file has them. A missing value is NaN, a missing time `None`.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawBars {
    /// Line or row of each bar.
    pub(crate) places: Vec<u64>,
    /// Time of each bar.
    pub(crate) times: Vec<Option<i64>>,
    /// Values in the order of [`VALUES`].
    pub(crate) values: [Vec<f64>; 5],
    /// Further columns by name; NaN stays missing.
    pub(crate) extra: Vec<(String, Vec<f64>)>,
}

/// Bars that keep every rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bars {
    pub(crate) ts_ns: Vec<i64>,
    pub(crate) values: [Vec<f64>; 5],
    pub(crate) extra: Vec<(String, Vec<f64>)>,
    pub(crate) statistics: Metrics,
}

impl Bars {
    /// The table `candles`.
    pub(crate) fn table(self) -> Result<Table, StageError> {
        let mut columns = candle_columns(self.extra.iter().map(|(name, _)| name))
            .into_iter()
            .skip(1);
        let mut builder = Table::builder().time_index(self.ts_ns);
        let extra = self.extra.into_iter().map(|(_, values)| values);
        for values in self.values.into_iter().chain(extra) {
            let column: Column = columns.next().expect("one declaration per column");
            builder = builder.f64(column, values);
        }
        Ok(builder.build()?)
    }
}

/// Bars that break one rule.
#[derive(Debug, Default)]
struct Offences {
    first: Option<(u64, &'static str, String)>,
    places: Vec<u64>,
    total: usize,
}

impl Offences {
    fn add(&mut self, place: u64, column: &'static str, message: impl FnOnce() -> String) {
        self.total += 1;
        if self.first.as_ref().is_none_or(|(first, ..)| place < *first) {
            self.first = Some((place, column, message()));
        }
        // The smallest places are wanted, whatever the order of the file.
        self.places.push(place);
        if self.places.len() > 4 * LISTED {
            self.keep_listed();
        }
    }

    fn keep_listed(&mut self) {
        self.places.sort_unstable();
        self.places.truncate(LISTED);
    }

    fn into_error(mut self, origin: &Origin<'_>, help: &str) -> Option<StageError> {
        self.keep_listed();
        let (place, column, message) = self.first.take()?;
        let message = if self.total > 1 {
            format!("{message} ({})", origin.all(&self))
        } else {
            message
        };
        Some(origin.wrong_at(place, column, &message, help))
    }
}

/// The rules about single bars, in the order they are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    Missing,
    NonFinite,
    ZeroPrices,
    NegativeVolume,
    HighBelowLow,
    OutsideRange,
}

impl Rule {
    const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NonFinite => "non_finite",
            Self::ZeroPrices => "zero_prices",
            Self::NegativeVolume => "negative_volume",
            Self::HighBelowLow => "high_below_low",
            Self::OutsideRange => "outside_range",
        }
    }

    const fn help(self) -> &'static str {
        match self {
            Self::Missing => {
                "mend the file, or say `policies.missing = \"drop\"` or `policies.missing = \"fill_previous\"`"
            }
            Self::NonFinite => "mend the file, or say `policies.non_finite = \"drop\"`",
            Self::ZeroPrices => {
                "mend the file, or say `policies.zero_prices = \"drop\"` or `policies.zero_prices = \"fill_previous\"`"
            }
            Self::NegativeVolume => {
                "mend the file, or say `policies.negative_volume = \"drop\"` or `policies.negative_volume = \"zero\"`"
            }
            Self::HighBelowLow => {
                "mend the file, or say `policies.high_below_low = \"swap\"` or `policies.high_below_low = \"drop\"`"
            }
            Self::OutsideRange => {
                "mend the file, or say `policies.outside_range = \"widen\"` or `policies.outside_range = \"drop\"`"
            }
        }
    }
}

/// What a policy does to a bar.
enum Remedy {
    Refuse,
    Drop,
    Fill,
    Mend,
}

impl BarPolicies {
    fn remedy(&self, rule: Rule) -> Remedy {
        let missing = |policy| match policy {
            Missing::Error => Remedy::Refuse,
            Missing::Drop => Remedy::Drop,
            Missing::FillPrevious => Remedy::Fill,
        };
        match rule {
            Rule::Missing => missing(self.missing),
            Rule::NonFinite => match self.non_finite {
                Unusable::Error => Remedy::Refuse,
                Unusable::Drop => Remedy::Drop,
            },
            Rule::ZeroPrices => missing(self.zero_prices),
            Rule::NegativeVolume => match self.negative_volume {
                NegativeVolume::Error => Remedy::Refuse,
                NegativeVolume::Drop => Remedy::Drop,
                NegativeVolume::Zero => Remedy::Mend,
            },
            Rule::HighBelowLow => match self.high_below_low {
                HighBelowLow::Error => Remedy::Refuse,
                HighBelowLow::Drop => Remedy::Drop,
                HighBelowLow::Swap => Remedy::Mend,
            },
            Rule::OutsideRange => match self.outside_range {
                OutsideRange::Error => Remedy::Refuse,
                OutsideRange::Drop => Remedy::Drop,
                OutsideRange::Widen => Remedy::Mend,
            },
        }
    }

    /// Whether the parameters make sense together.
    pub(crate) fn check(&self) -> Result<(), StageError> {
        if self.gaps == Gaps::Allow && self.max_gap_bars.is_some() {
            let message = "`max_gap_bars` means nothing with `gaps = \"allow\"`";
            return Err(StageError::parameter("policies.max_gap_bars", message)
                .with_help("say `gaps = \"error\"` or `gaps = \"fill\"` too"));
        }
        Ok(())
    }
}

/// The first rule that `bar` breaks: with the column, what is wrong there.
fn broken_rule(bar: &[f64; 5]) -> Option<(Rule, usize, String)> {
    if let Some(i) = bar.iter().position(|v| v.is_nan()) {
        return Some((Rule::Missing, i, "the value is missing".into()));
    }
    if let Some(i) = bar.iter().position(|v| v.abs() > LARGEST) {
        let message = if bar[i].is_infinite() {
            "the value is infinite or too large for a number of double precision".into()
        } else {
            format!("{:e} is beyond 1e15, too large to compute with", bar[i])
        };
        return Some((Rule::NonFinite, i, message));
    }
    if let Some(i) = bar[..4].iter().position(|&v| v < SMALLEST_PRICE) {
        return Some((Rule::ZeroPrices, i, no_price(bar[i])));
    }
    let [open, high, low, close, volume] = *bar;
    if volume < 0.0 {
        return Some((Rule::NegativeVolume, 4, format!("{volume} is no volume")));
    }
    if high < low {
        return Some((
            Rule::HighBelowLow,
            1,
            format!("the high {high} is below the low {low}"),
        ));
    }
    for (i, value) in [(0, open), (3, close)] {
        if value < low || value > high {
            let message = format!("{value} is outside low {low} and high {high}");
            return Some((Rule::OutsideRange, i, message));
        }
    }
    None
}

fn no_price(value: f64) -> String {
    let is_tiny = value > 0.0;
    if is_tiny {
        format!("{value:e} is no price")
    } else {
        format!("{value} is no price")
    }
}

/// Brings bars into order and applies every rule.
pub(crate) fn checked(
    raw: &RawBars,
    policies: &BarPolicies,
    timing: Timing,
    origin: &Origin<'_>,
) -> Result<Bars, StageError> {
    let n_read = raw.places.len();
    if n_read == 0 {
        return Err(origin.wrong("there are no bars in it", "the file holds a header at most"));
    }
    let mut counts = BTreeMap::new();
    let timed = timed(raw, policies, origin, &mut counts)?;
    let ordered = ordered(raw, timed, timing.order, origin, &mut counts)?;
    let mended = mended(raw, &ordered, policies, origin, &mut counts)?;
    let unique = without_duplicates(mended, policies.duplicates, origin, &mut counts)?;
    let interval_ns = timing
        .interval
        .map(Interval::ns)
        .or_else(|| median_step(&unique));
    let mut bars = across_gaps(unique, interval_ns, policies, origin, &mut counts)?;
    if bars.times.is_empty() {
        return Err(origin.wrong(
            "no bar is left after the policies dropped theirs",
            "loosen `policies`",
        ));
    }
    if timing.time_is == TimeIs::Open {
        let step = interval_ns.ok_or_else(|| {
            origin.wrong(
                "the length of a bar cannot be told from one bar",
                "say `interval`",
            )
        })?;
        for ts_ns in &mut bars.times {
            *ts_ns = ts_ns.checked_add(step).ok_or_else(|| {
                origin.wrong("the last bar closes after the year 2262", "check the times")
            })?;
        }
    }
    let mut statistics = statistics(&bars.times, &bars.values, interval_ns);
    let mut count = |path: &str, n: u64| statistics.set_count(path, n).map_err(StageError::data);
    count("bars_read", n_read as u64)?;
    for (path, n) in counts {
        count(&path, n)?;
    }
    Ok(Bars {
        ts_ns: bars.times,
        values: bars.values,
        extra: bars.extra,
        statistics,
    })
}

/// What every loader tells about its candles.
pub(crate) fn statistics(
    ts_ns: &[i64],
    values: &[Vec<f64>; 5],
    interval_ns: Option<i64>,
) -> Metrics {
    let mut metrics = Metrics::new();
    let mut set = |path: &str, value: f64| {
        metrics
            .set(path, value)
            .expect("bars are finite, and the paths are literals");
    };
    let n_rows = ts_ns.len();
    set("rows", n_rows as f64);
    set("first_time_s", ts_ns[0] as f64 / 1e9);
    set("last_time_s", ts_ns[n_rows - 1] as f64 / 1e9);
    let close = &values[3];
    set("first_close", close[0]);
    set("last_close", close[n_rows - 1]);
    set(
        "lowest_low",
        values[2].iter().copied().fold(f64::INFINITY, f64::min),
    );
    set(
        "highest_high",
        values[1].iter().copied().fold(0.0, f64::max),
    );
    set("mean_volume", values[4].iter().sum::<f64>() / n_rows as f64);
    set(
        "bars_without_volume",
        values[4].iter().filter(|&&v| v <= 0.0).count() as f64,
    );
    if let Some(interval_ns) = interval_ns {
        set("interval_s", interval_ns as f64 / 1e9);
        let steps = ts_ns.windows(2).map(|pair| pair[1] - pair[0]);
        let (mut gaps, mut missing, mut short) = (0_u64, 0_u64, 0_u64);
        for step in steps {
            let absent = missing_bars(step, interval_ns);
            gaps += u64::from(absent > 0);
            missing += absent;
            short += u64::from(step < interval_ns);
        }
        set("gaps.count", gaps as f64);
        set("gaps.missing_bars", missing as f64);
        set("gaps.steps_below_interval", short as f64);
    }
    metrics
}

/// Whole bars that are missing in a step: a step is taken for the nearest whole number of intervals.
fn missing_bars(step: i64, interval_ns: i64) -> u64 {
    let intervals =
        (step / interval_ns) as u64 + u64::from(step % interval_ns >= (interval_ns + 1) / 2);
    intervals.saturating_sub(1)
}

fn count(counts: &mut BTreeMap<String, u64>, what: &str, rule: &str) {
    *counts.entry(format!("{what}.{rule}")).or_default() += 1;
}

/// The bars that have a time, by index.
fn timed(
    raw: &RawBars,
    policies: &BarPolicies,
    origin: &Origin<'_>,
    counts: &mut BTreeMap<String, u64>,
) -> Result<Vec<usize>, StageError> {
    let mut timed = Vec::with_capacity(raw.times.len());
    let mut offences = Offences::default();
    for (i, time) in raw.times.iter().enumerate() {
        match (time, policies.missing) {
            (Some(_), _) => timed.push(i),
            (None, Missing::Drop) => count(counts, "dropped", "missing_time"),
            (None, _) => offences.add(raw.places[i], "time", || "the time is missing".into()),
        }
    }
    let help = "mend the file, or say `policies.missing = \"drop\"`";
    offences.into_error(origin, help).map_or(Ok(timed), Err)
}

/// The bars with the oldest first; bars of one time in the order of the file.
fn ordered(
    raw: &RawBars,
    mut timed: Vec<usize>,
    order: Order,
    origin: &Origin<'_>,
    counts: &mut BTreeMap<String, u64>,
) -> Result<Vec<usize>, StageError> {
    let time = |i: usize| raw.times[i].unwrap_or_default();
    let newest_first = match (order, timed.first(), timed.last()) {
        (Order::Ascending, ..) => false,
        (Order::Descending, ..) => true,
        (_, Some(&first), Some(&last)) => time(first) > time(last),
        _ => false,
    };
    let mut offences = Offences::default();
    for pair in timed.windows(2) {
        let (before, after) = (time(pair[0]), time(pair[1]));
        if if newest_first {
            after > before
        } else {
            after < before
        } {
            offences.add(raw.places[pair[1]], "time", || {
                let way = if newest_first { "later" } else { "earlier" };
                format!(
                    "{} is {way} than the bar before, {}",
                    shown(after),
                    shown(before)
                )
            });
        }
    }
    if order == Order::Sort {
        if offences.total > 0 {
            counts.insert("sorted.out_of_order".into(), offences.total as u64);
        }
    } else if let Some(error) =
        offences.into_error(origin, "mend the file, or say `order = \"sort\"`")
    {
        return Err(error);
    }
    timed.sort_by_key(|&i| time(i));
    Ok(timed)
}

/// Bars in order, each with its place.
#[derive(Debug, Default)]
struct Ordered {
    places: Vec<u64>,
    times: Vec<i64>,
    values: [Vec<f64>; 5],
    extra: Vec<(String, Vec<f64>)>,
}

impl Ordered {
    fn like(extra: &[(String, Vec<f64>)], capacity: usize) -> Self {
        Self {
            places: Vec::with_capacity(capacity),
            times: Vec::with_capacity(capacity),
            values: std::array::from_fn(|_| Vec::with_capacity(capacity)),
            extra: extra
                .iter()
                .map(|(name, _)| (name.clone(), Vec::with_capacity(capacity)))
                .collect(),
        }
    }

    fn bar(&self, i: usize) -> [f64; 5] {
        std::array::from_fn(|k| self.values[k][i])
    }

    fn push(&mut self, place: u64, time: i64, bar: [f64; 5], extra: impl Iterator<Item = f64>) {
        self.places.push(place);
        self.times.push(time);
        for (column, value) in self.values.iter_mut().zip(bar) {
            // Adding zero turns -0 into 0: the two are equal but have different bytes.
            column.push(value + 0.0);
        }
        for ((_, column), value) in self.extra.iter_mut().zip(extra) {
            column.push(value + 0.0);
        }
    }
}

/// Applies the rules about single bars.
fn mended(
    raw: &RawBars,
    order: &[usize],
    policies: &BarPolicies,
    origin: &Origin<'_>,
    counts: &mut BTreeMap<String, u64>,
) -> Result<Ordered, StageError> {
    let mut out = Ordered::like(&raw.extra, order.len());
    let mut offences: BTreeMap<Rule, Offences> = BTreeMap::new();
    'bars: for &i in order {
        let mut bar: [f64; 5] = std::array::from_fn(|k| raw.values[k][i]);
        let place = raw.places[i];
        while let Some((rule, column, message)) = broken_rule(&bar) {
            let previous = out.values[3].last().copied();
            match policies.remedy(rule) {
                Remedy::Drop => {
                    count(counts, "dropped", rule.name());
                    continue 'bars;
                }
                Remedy::Fill if previous.is_some() => {
                    count(counts, "filled", rule.name());
                    let close = previous.unwrap_or_default();
                    bar = [close, close, close, close, 0.0];
                }
                Remedy::Mend => {
                    count(counts, "mended", rule.name());
                    mend(rule, &mut bar);
                }
                Remedy::Refuse => {
                    offences
                        .entry(rule)
                        .or_default()
                        .add(place, VALUES[column], || message);
                    continue 'bars;
                }
                Remedy::Fill => {
                    let message = || format!("{message}, and no bar comes before to fill it from");
                    offences
                        .entry(rule)
                        .or_default()
                        .add(place, VALUES[column], message);
                    continue 'bars;
                }
            }
        }
        let time = raw.times[i].expect("bars without a time are not in the order");
        let extra = raw.extra.iter().map(|(_, values)| values[i]);
        out.push(place, time, bar, extra);
    }
    let others: Vec<_> = offences.iter().map(|(rule, o)| (*rule, o.total)).collect();
    let earliest = offences
        .into_iter()
        .min_by_key(|(_, o)| o.first.as_ref().map(|(place, ..)| *place));
    match earliest {
        None => Ok(out),
        Some((rule, mut found)) => {
            let others: Vec<_> = others
                .iter()
                .filter(|(other, _)| *other != rule)
                .map(|(other, total)| format!("{total} of `{}`", other.name()))
                .collect();
            if let (Some((_, _, message)), false) = (&mut found.first, others.is_empty()) {
                *message = format!(
                    "{message}; besides, bars that break other rules: {}",
                    others.join(", ")
                );
            }
            Err(found
                .into_error(origin, rule.help())
                .expect("a bar broke the rule"))
        }
    }
}

fn mend(rule: Rule, bar: &mut [f64; 5]) {
    match rule {
        Rule::NegativeVolume => bar[4] = 0.0,
        Rule::HighBelowLow => bar.swap(1, 2),
        _ => {
            bar[1] = bar[0].max(bar[3]).max(bar[1]);
            bar[2] = bar[0].min(bar[3]).min(bar[2]);
        }
    }
}

fn without_duplicates(
    bars: Ordered,
    policy: Duplicates,
    origin: &Origin<'_>,
    counts: &mut BTreeMap<String, u64>,
) -> Result<Ordered, StageError> {
    let n_rows = bars.times.len();
    let repeats = |i: usize| bars.times[i] == bars.times[i - 1];
    if !(1..n_rows).any(repeats) {
        return Ok(bars);
    }
    if policy == Duplicates::Error {
        let mut offences = Offences::default();
        for i in (1..n_rows).filter(|&i| repeats(i)) {
            let same = if bars.bar(i).map(f64::to_bits) == bars.bar(i - 1).map(f64::to_bits) {
                "the same values"
            } else {
                "other values"
            };
            offences.add(bars.places[i], "time", || {
                format!(
                    "{} was there already, on {} {}, with {same}",
                    shown(bars.times[i]),
                    origin.place,
                    bars.places[i - 1]
                )
            });
        }
        let help = "mend the file, or say `policies.duplicates = \"keep_first\"` or `policies.duplicates = \"keep_last\"`";
        return offences.into_error(origin, help).map_or(Ok(bars), Err);
    }
    let mut out = Ordered::like(&bars.extra, n_rows);
    for i in 0..n_rows {
        let is_repeated = match policy {
            Duplicates::KeepLast => i + 1 < n_rows && repeats(i + 1),
            _ => i > 0 && repeats(i),
        };
        if is_repeated {
            count(counts, "dropped", "duplicates");
        } else {
            let extra = bars.extra.iter().map(|(_, values)| values[i]);
            out.push(bars.places[i], bars.times[i], bars.bar(i), extra);
        }
    }
    Ok(out)
}

/// The middle of the sorted steps, the lower of two: the usual length of a bar.
fn median_step(bars: &Ordered) -> Option<i64> {
    let mut steps: Vec<i64> = bars
        .times
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]))
        .collect();
    if steps.is_empty() {
        return None;
    }
    let middle = (steps.len() - 1) / 2;
    Some(*steps.select_nth_unstable(middle).1)
}

fn across_gaps(
    bars: Ordered,
    interval_ns: Option<i64>,
    policies: &BarPolicies,
    origin: &Origin<'_>,
    counts: &mut BTreeMap<String, u64>,
) -> Result<Ordered, StageError> {
    let (Some(interval_ns), true) = (interval_ns, policies.gaps != Gaps::Allow) else {
        return Ok(bars);
    };
    let absent =
        |i: usize| missing_bars(bars.times[i].saturating_sub(bars.times[i - 1]), interval_ns);
    if policies.gaps == Gaps::Error {
        let allowed = u64::from(policies.max_gap_bars.unwrap_or(0));
        let mut offences = Offences::default();
        for i in (1..bars.times.len()).filter(|&i| absent(i) > allowed) {
            offences.add(bars.places[i], "time", || {
                format!(
                    "{} bars are missing between {} and {}",
                    absent(i),
                    shown(bars.times[i - 1]),
                    shown(bars.times[i])
                )
            });
        }
        let help = "mend the file, raise `policies.max_gap_bars`, or say `policies.gaps = \"allow\"` or `policies.gaps = \"fill\"`";
        return offences.into_error(origin, help).map_or(Ok(bars), Err);
    }
    let longest = policies.max_gap_bars.map_or(u64::MAX, u64::from);
    let wanted = (1..bars.times.len()).map(absent).filter(|&n| n <= longest);
    let wanted = wanted.fold(0, u64::saturating_add);
    if wanted.saturating_add(bars.times.len() as u64) > MAX_BARS as u64 {
        let message =
            format!("{wanted} bars would have to be filled in, and a table may have {MAX_BARS}");
        return Err(origin.wrong(
            &message,
            "set `policies.max_gap_bars`, or check the times and `interval`",
        ));
    }
    let mut out = Ordered::like(&bars.extra, bars.times.len() + wanted as usize);
    for i in 0..bars.times.len() {
        if i > 0 && absent(i) <= longest {
            let close = bars.values[3][i - 1];
            for k in 1..=absent(i) as i64 {
                let time = bars.times[i - 1] + k * interval_ns;
                if time < bars.times[i] {
                    count(counts, "filled", "gaps");
                    let extra = bars.extra.iter().map(|_| f64::NAN);
                    out.push(
                        bars.places[i - 1],
                        time,
                        [close, close, close, close, 0.0],
                        extra,
                    );
                }
            }
        }
        let extra = bars.extra.iter().map(|(_, values)| values[i]);
        out.push(bars.places[i], bars.times[i], bars.bar(i), extra);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000_000;
    const ORIGIN: Origin<'_> = Origin {
        file: "bars.csv",
        place: "line",
    };
    const GOOD: [f64; 5] = [10.0, 12.0, 9.0, 11.0, 5.0];

    /// Bars at these hours, from line 2 on.
    fn raw(bars: &[(i64, [f64; 5])]) -> RawBars {
        RawBars {
            places: (2..).take(bars.len()).collect(),
            times: bars.iter().map(|(hour, _)| Some(hour * HOUR)).collect(),
            values: std::array::from_fn(|k| bars.iter().map(|(_, bar)| bar[k]).collect()),
            extra: Vec::new(),
        }
    }

    fn run(bars: &[(i64, [f64; 5])], policies: &BarPolicies) -> Result<Bars, String> {
        checked(&raw(bars), policies, Timing::default(), &ORIGIN).map_err(|e| e.to_string())
    }

    #[test]
    fn newest_first_gives_the_same_bars() {
        let b = [1.0, 2.0, 0.5, 1.5, 3.0];
        let up = run(&[(1, GOOD), (2, b), (3, GOOD)], &BarPolicies::default()).unwrap();
        let down = run(&[(3, GOOD), (2, b), (1, GOOD)], &BarPolicies::default()).unwrap();

        assert_eq!(up, down);
        assert_eq!(up.ts_ns, [HOUR, 2 * HOUR, 3 * HOUR]);
    }

    #[test]
    fn lists_the_places_and_counts_the_rest() {
        let bad = [10.0, 8.0, 9.0, 9.0, 5.0];
        let bars: Vec<_> = (0..20)
            .map(|i| (i, if i % 2 == 0 { bad } else { GOOD }))
            .collect();

        let error = run(&bars, &BarPolicies::default()).unwrap_err();
        assert_eq!(
            error,
            "`bars.csv`, line 2, column `high`: the high 8 is below the low 9 (10 such: lines 2, 4, 6, 8, 10, 12, 14, 16, ...)"
        );
    }

    #[test]
    fn the_earliest_broken_rule_is_named_and_the_others_are_counted() {
        let mut missing = GOOD;
        missing[4] = f64::NAN;
        let zero = [0.0, 12.0, 9.0, 11.0, 5.0];

        let error = run(
            &[(1, GOOD), (2, zero), (3, missing)],
            &BarPolicies::default(),
        )
        .unwrap_err();
        assert_eq!(
            error,
            "`bars.csv`, line 3, column `open`: 0 is no price; besides, bars that break other rules: 1 of `missing`"
        );
    }

    #[test]
    fn policies_mend_what_they_say() {
        let mut missing = GOOD;
        missing[1] = f64::NAN;
        let policies = BarPolicies {
            missing: Missing::FillPrevious,
            high_below_low: HighBelowLow::Swap,
            outside_range: OutsideRange::Widen,
            negative_volume: NegativeVolume::Zero,
            zero_prices: Missing::Drop,
            non_finite: Unusable::Drop,
            ..BarPolicies::default()
        };
        let bars = [
            (1, GOOD),
            (2, missing),
            (3, [10.0, 9.0, 12.0, 11.0, -5.0]),
            (4, [13.0, 12.0, 9.0, 8.0, 5.0]),
            (5, [0.0, 12.0, 9.0, 11.0, 5.0]),
            (6, [f64::INFINITY, 12.0, 9.0, 11.0, 5.0]),
        ];

        let bars = run(&bars, &policies).unwrap();
        assert_eq!(bars.ts_ns, [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR]);
        assert_eq!(bars.values[0], [10.0, 11.0, 10.0, 13.0]);
        assert_eq!(bars.values[1], [12.0, 11.0, 12.0, 13.0]);
        assert_eq!(bars.values[2], [9.0, 11.0, 9.0, 8.0]);
        assert_eq!(bars.values[4], [5.0, 0.0, 0.0, 5.0]);
        let count = |path: &str| bars.statistics.get(path);
        assert_eq!(count("filled.missing"), Some(1.0));
        assert_eq!(count("mended.high_below_low"), Some(1.0));
        assert_eq!(count("mended.outside_range"), Some(1.0));
        assert_eq!(count("mended.negative_volume"), Some(1.0));
        assert_eq!(count("dropped.zero_prices"), Some(1.0));
        assert_eq!(count("dropped.non_finite"), Some(1.0));
        assert_eq!((count("bars_read"), count("rows")), (Some(6.0), Some(4.0)));
    }

    #[test]
    fn a_first_bar_has_nothing_to_be_filled_from() {
        let missing = [f64::NAN; 5];
        let policies = BarPolicies {
            missing: Missing::FillPrevious,
            ..BarPolicies::default()
        };

        let error = run(&[(1, missing), (2, GOOD)], &policies).unwrap_err();
        assert!(
            error.contains("line 2") && error.contains("no bar comes before"),
            "{error}"
        );
    }

    #[test]
    fn duplicates_are_kept_by_their_place_in_the_file() {
        let other = [20.0, 22.0, 19.0, 21.0, 5.0];
        let up = [(1, GOOD), (2, GOOD), (2, other), (3, GOOD)];
        let down = [(3, GOOD), (2, other), (2, GOOD), (1, GOOD)];

        let error = run(&up, &BarPolicies::default()).unwrap_err();
        assert!(error.contains("line 4, column `time`: 1970-01-01T02:00:00Z was there already, on line 3, with other values"), "{error}");
        for (policy, opens) in [
            (Duplicates::KeepFirst, [10.0, 20.0]),
            (Duplicates::KeepLast, [20.0, 10.0]),
        ] {
            let policies = BarPolicies {
                duplicates: policy,
                ..BarPolicies::default()
            };
            for (bars, expected) in [(&up, opens[0]), (&down, opens[1])] {
                let kept = run(bars, &policies).unwrap();
                assert_eq!(kept.values[0], [10.0, expected, 10.0]);
                assert_eq!(kept.statistics.get("dropped.duplicates"), Some(1.0));
            }
        }
    }

    #[test]
    fn gaps_are_counted_refused_or_filled() {
        let bars: Vec<_> = [1, 2, 3, 6, 7, 20].map(|hour| (hour, GOOD)).into();

        let allowed = run(&bars, &BarPolicies::default()).unwrap();
        assert_eq!(allowed.statistics.get("gaps.count"), Some(2.0));
        assert_eq!(allowed.statistics.get("gaps.missing_bars"), Some(14.0));
        let strict = BarPolicies {
            gaps: Gaps::Error,
            max_gap_bars: Some(2),
            ..BarPolicies::default()
        };
        let error = run(&bars, &strict).unwrap_err();
        assert_eq!(
            error,
            "`bars.csv`, line 7, column `time`: 12 bars are missing between 1970-01-01T07:00:00Z and 1970-01-01T20:00:00Z"
        );
        let fill = BarPolicies {
            gaps: Gaps::Fill,
            max_gap_bars: Some(2),
            ..BarPolicies::default()
        };
        let filled = run(&bars, &fill).unwrap();
        assert_eq!(
            filled.ts_ns.iter().map(|t| t / HOUR).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5, 6, 7, 20]
        );
        assert_eq!(filled.values[0][3..5], [11.0, 11.0]);
        assert_eq!(filled.values[4][3..5], [0.0, 0.0]);
    }

    #[test]
    fn filling_for_ever_is_refused() {
        let bars = [(0, GOOD), (1, GOOD), (2, GOOD), (2_000_000, GOOD)];
        let timing = Timing {
            interval: "1ms".parse().ok(),
            ..Timing::default()
        };
        let fill = BarPolicies {
            gaps: Gaps::Fill,
            ..BarPolicies::default()
        };

        let error = checked(&raw(&bars), &fill, timing, &ORIGIN).unwrap_err();
        assert!(
            error.to_string().contains("would have to be filled in"),
            "{error}"
        );
    }

    #[test]
    fn order_is_an_error_unless_sorting_is_asked_for() {
        let bars = [(1, GOOD), (3, GOOD), (2, GOOD), (4, GOOD)];

        let error = run(&bars, &BarPolicies::default()).unwrap_err();
        assert!(
            error.contains(
                "line 4, column `time`: 1970-01-01T02:00:00Z is earlier than the bar before"
            ),
            "{error}"
        );
        let timing = Timing {
            order: Order::Sort,
            ..Timing::default()
        };
        let sorted = checked(&raw(&bars), &BarPolicies::default(), timing, &ORIGIN).unwrap();
        assert_eq!(sorted.ts_ns, [1, 2, 3, 4].map(|h| h * HOUR));
    }

    #[test]
    fn times_of_openings_become_closes() {
        let timing = Timing {
            time_is: TimeIs::Open,
            ..Timing::default()
        };
        let bars = [(1, GOOD), (2, GOOD), (3, GOOD)];

        let bars = checked(&raw(&bars), &BarPolicies::default(), timing, &ORIGIN).unwrap();
        assert_eq!(bars.ts_ns, [2, 3, 4].map(|h| h * HOUR));
        let one =
            checked(&raw(&[(1, GOOD)]), &BarPolicies::default(), timing, &ORIGIN).unwrap_err();
        assert_eq!(one.help(), Some("say `interval`"));
    }

    #[test]
    fn negative_zero_becomes_zero() {
        let mut bar = GOOD;
        bar[4] = -0.0;

        let bars = run(&[(1, bar)], &BarPolicies::default()).unwrap();
        assert_eq!(bars.values[4][0].to_bits(), 0);
    }
}
