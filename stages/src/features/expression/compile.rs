//! From trees to programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use natron_kernels::{
    indicators::{
        catalog::{self, Indicator, Parameter},
        pointwise,
        program::{Builder, Input, Program, Series},
    },
    math,
};

use super::{
    functions::{FUNCTIONS, Function, function, lag},
    mistake::{Mistake, alternatives, nearest, suggestion},
    timeframe::{self, Timeframe},
    tree::{Argument, Binary, Expression, Name, Unary, What},
    unit::Unit,
};

/// The longest lag that is accepted, in rows.
const LONGEST_LAG: f64 = 10_000.0;

/// Expressions in expressions, through the names of features: each costs some stack.
const DEEPEST: usize = 400;

/// The largest exponent that is taken apart into products.
const LARGEST_EXPONENT: f64 = 16.0;

/// Columns of bars by the names that expressions use.
pub(crate) const BARS: [(&str, Input); 5] = [
    ("open", Input::Open),
    ("high", Input::High),
    ("low", Input::Low),
    ("close", Input::Close),
    ("volume", Input::Volume),
];

/// Names with a meaning of their own.
pub(crate) const WORDS: [&str; 5] = ["and", "or", "not", "at", "of"];

/// The indicators that may be called.
pub(crate) struct Catalogue(BTreeMap<&'static str, &'static Indicator>);

impl Catalogue {
    /// Those of the kernels.
    pub(crate) fn all() -> Self {
        Self::of(catalog::catalog())
    }

    pub(crate) fn of(indicators: impl IntoIterator<Item = &'static Indicator>) -> Self {
        let named = indicators
            .into_iter()
            .map(|indicator| (indicator.name, indicator));
        Self(named.collect())
    }
}

/// What is known of the tables that features are computed from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// The columns with numbers of each table that is known, by the name of the market; that of the candles is empty.
    pub(crate) columns: BTreeMap<String, Vec<String>>,
}

/// Where a further column of a program comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The column of this name in the table that the bars come from.
    Table(String),
    /// An output of another frame: its last row that was over.
    Joined { frame: usize, output: usize },
}

/// How the bars of a frame come from those of the frame that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// They are the candles themselves.
    Candles,
    /// They are those of another market.
    Market(String),
    /// They are put together.
    Longer(Timeframe),
}

/// A program over bars of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// What its rows are.
    pub(crate) step: Step,
    /// The frame that it belongs to; the first one has none.
    pub(crate) parent: Option<usize>,
    pub(crate) program: Program,
    /// Its further columns.
    pub(crate) sources: Vec<Source>,
    /// Which columns of the bars it reads besides their times; that of longer bars counts for its parent.
    pub(crate) bars: BTreeSet<&'static str>,
    /// The outputs of other frames that each of its own depends on.
    pub(crate) uses: Vec<BTreeSet<(usize, usize)>>,
}

/// Programs for a list of expressions.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    /// The first one computes the columns; each comes before those whose outputs it reads.
    pub(crate) frames: Vec<Frame>,
    /// The unit of each column.
    pub(crate) units: Vec<Unit>,
}

/// A mistake, and the feature in whose expression it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misdefined {
    pub(crate) feature: String,
    pub(crate) mistake: Mistake,
}

/// Compiles the features `wanted` of `definitions`.
pub(crate) fn compile<'n>(
    definitions: &BTreeMap<String, Expression>,
    wanted: impl IntoIterator<Item = &'n str>,
    catalogue: &Catalogue,
    known: &Known,
) -> Result<Compiled, Misdefined> {
    let mut compiler = Compiler {
        definitions,
        catalogue,
        known,
        frames: vec![Rows::new(Step::Candles, None)],
        done: BTreeMap::new(),
        open: Vec::new(),
        depth: 0,
        used: BTreeSet::new(),
    };
    let mut units = Vec::new();
    for feature in wanted {
        compiler.used.clear();
        let value = compiler.feature(0, feature).map_err(|failure| Misdefined {
            feature: failure.feature.unwrap_or_else(|| feature.to_owned()),
            mistake: failure.mistake,
        })?;
        let series = value.series(&mut compiler.frames[0].builder);
        let used = compiler.used.clone();
        compiler.frames[0].outputs.push((series, used));
        units.push(value.unit);
    }
    let frames = compiler.frames.into_iter().map(Rows::finish).collect();
    Ok(Compiled { frames, units })
}

/// A frame that is being put together.
struct Rows {
    step: Step,
    parent: Option<usize>,
    builder: Builder,
    sources: Vec<Source>,
    bars: BTreeSet<&'static str>,
    outputs: Vec<(Series, BTreeSet<(usize, usize)>)>,
}

impl Rows {
    fn new(step: Step, parent: Option<usize>) -> Self {
        Self {
            step,
            parent,
            builder: Builder::new(),
            sources: Vec::new(),
            bars: BTreeSet::new(),
            outputs: Vec::new(),
        }
    }

    fn source(&mut self, source: Source) -> Series {
        let known = self.sources.iter().position(|other| *other == source);
        let position = known.unwrap_or_else(|| {
            self.sources.push(source);
            self.sources.len() - 1
        });
        self.builder.input(Input::Column(position))
    }

    fn finish(self) -> Frame {
        let (series, uses): (Vec<Series>, Vec<_>) = self.outputs.into_iter().unzip();
        Frame {
            step: self.step,
            parent: self.parent,
            program: self.builder.finish(&series),
            sources: self.sources,
            bars: self.bars,
            uses,
        }
    }
}

/// What an expression gives.
#[derive(Debug, Clone, Copy)]
struct Value {
    what: Content,
    unit: Unit,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    Number(f64),
    Series(Series),
}

impl Value {
    fn of_series(series: Series, unit: Unit) -> Self {
        Self {
            what: Content::Series(series),
            unit,
        }
    }

    fn series(self, builder: &mut Builder) -> Series {
        match self.what {
            Content::Number(x) => builder.constant(x),
            Content::Series(series) => series,
        }
    }

    fn number(self) -> Option<f64> {
        match self.what {
            Content::Number(x) => Some(x),
            Content::Series(_) => None,
        }
    }
}

/// A mistake, and the feature in whose expression it is unless it is the one that is being compiled.
struct Failure {
    feature: Option<String>,
    mistake: Mistake,
}

impl From<Mistake> for Failure {
    fn from(mistake: Mistake) -> Self {
        Self {
            feature: None,
            mistake,
        }
    }
}

type Found<T> = Result<T, Failure>;

/// What a feature became in a frame, and the outputs of other frames that it reads.
type Done = (Value, BTreeSet<(usize, usize)>);

struct Compiler<'a> {
    definitions: &'a BTreeMap<String, Expression>,
    catalogue: &'a Catalogue,
    known: &'a Known,
    frames: Vec<Rows>,
    /// Features that are compiled, by frame and name.
    done: BTreeMap<(usize, String), Done>,
    /// Features that are being compiled.
    open: Vec<(usize, String)>,
    depth: usize,
    /// Outputs of other frames that the present feature reads.
    used: BTreeSet<(usize, usize)>,
}

impl Compiler<'_> {
    /// The feature of this name, computed from the rows of `frame`.
    fn feature(&mut self, frame: usize, name: &str) -> Found<Value> {
        let key = (frame, name.to_owned());
        if let Some((value, used)) = self.done.get(&key) {
            self.used.extend(used);
            return Ok(*value);
        }
        let Some(expression) = self.definitions.get(name) else {
            return Err(Mistake::new(0..0, format!("there is no feature `{name}`")).into());
        };
        self.open.push(key.clone());
        let outer = std::mem::take(&mut self.used);
        let found = self.expression(frame, expression);
        let inner = std::mem::replace(&mut self.used, outer);
        self.open.pop();
        let value = found.map_err(|mut failure| {
            failure.feature.get_or_insert_with(|| name.to_owned());
            failure
        })?;
        self.used.extend(&inner);
        self.done.insert(key, (value, inner));
        Ok(value)
    }

    fn expression(&mut self, frame: usize, expression: &Expression) -> Found<Value> {
        if self.depth >= DEEPEST {
            return Err(Mistake::new(
                expression.at.clone(),
                "too many features build on each other here",
            )
            .into());
        }
        self.depth += 1;
        let found = self.any(frame, expression);
        self.depth -= 1;
        found
    }

    fn any(&mut self, frame: usize, expression: &Expression) -> Found<Value> {
        let at = &expression.at;
        match &expression.what {
            What::Number(x) => Ok(Value {
                what: Content::Number(*x),
                unit: Unit::Number,
            }),
            What::Text(_) => Err(Mistake::new(at.clone(), "a text is no value")
                .help("a timeframe stands in `at(\"4h\", ...)`, a market in `of(\"vix\", ...)`")
                .into()),
            What::Name(name) => self.name(frame, name, at),
            What::Call(name, arguments) => self.call(frame, name, arguments, at, None),
            What::Output(value, output) => match &value.what {
                What::Call(name, arguments) => {
                    self.call(frame, name, arguments, &value.at, Some(output))
                }
                _ => Err(Mistake::new(
                    output.at.clone(),
                    format!("`.{}` follows no indicator", output.name),
                )
                .help("a column of an indicator is named after its call, as `macd(close).signal`")
                .into()),
            },
            What::Lag(value, rows) => self.lag(frame, value, rows),
            What::Unary(operator, value) => self.unary(frame, *operator, value),
            What::Binary(operator, left, right) => self.binary(frame, *operator, left, right, at),
        }
    }

    fn name(&mut self, frame: usize, name: &str, at: &Range<usize>) -> Found<Value> {
        if self.definitions.contains_key(name) {
            let is_open = |open: &(usize, String)| open.1 == *name;
            if let Some(first) = self.open.iter().position(is_open) {
                let mut circle: Vec<&str> = self.open[first..]
                    .iter()
                    .map(|(_, name)| name.as_str())
                    .collect();
                circle.push(name);
                let message = format!("`{name}` is defined by itself: {}", circle.join(" <- "));
                return Err(Mistake::new(at.clone(), message).into());
            }
            return self.feature(frame, name);
        }
        if let Some((name, input)) = BARS.iter().find(|(known, _)| *known == name) {
            let unit = if *name == "volume" {
                Unit::VOLUME
            } else {
                Unit::PRICE
            };
            let rows = &mut self.frames[frame];
            rows.bars.insert(name);
            return Ok(Value::of_series(rows.builder.input(*input), unit));
        }
        let market = self.market(frame);
        let known = self.known.columns.get(&market);
        if known.is_some_and(|columns| !columns.iter().any(|column| column == name)) {
            return Err(self.unknown_name(name, at, &market).into());
        }
        let series = self.frames[frame].source(Source::Table(name.to_owned()));
        Ok(Value::of_series(series, Unit::Unknown))
    }

    /// The market whose bars `frame` has; empty for the candles.
    fn market(&self, frame: usize) -> String {
        match (&self.frames[frame].step, self.frames[frame].parent) {
            (Step::Market(market), _) => market.clone(),
            (_, Some(parent)) => self.market(parent),
            (_, None) => String::new(),
        }
    }

    fn unknown_name(&self, name: &str, at: &Range<usize>, market: &str) -> Mistake {
        let message = if market.is_empty() {
            format!("`{name}` is neither a column of the candles nor a feature")
        } else {
            format!("`{name}` is neither a column of `{market}` nor a feature")
        };
        let mistake = Mistake::new(at.clone(), message);
        if let Some(indicator) = self.catalogue.0.get(name) {
            return mistake.help(format!(
                "the indicator of this name is called as `{}`",
                usage(indicator)
            ));
        }
        let columns = self.known.columns.get(market).into_iter().flatten();
        let names = BARS
            .iter()
            .map(|(name, _)| *name)
            .chain(columns.map(String::as_str))
            .chain(self.definitions.keys().map(String::as_str));
        let otherwise = "a name is `open`, `high`, `low`, `close`, `volume`, another column of the table, or a feature";
        mistake.help(suggestion(name, names, otherwise))
    }

    fn lag(&mut self, frame: usize, value: &Expression, rows: &Expression) -> Found<Value> {
        let of = self.expression(frame, value)?;
        let n = self.expression(frame, rows)?;
        let Content::Series(series) = of.what else {
            return Err(Mistake::new(value.at.clone(), "a number has no earlier rows").into());
        };
        let Some(n) = n.number() else {
            return Err(Mistake::new(
                rows.at.clone(),
                "the number of rows to go back is not written as a number",
            )
            .into());
        };
        if n < 0.0 {
            return Err(Mistake::new(
                rows.at.clone(),
                format!("`[{n}]` would look at rows that are not there yet"),
            )
            .help("`close[1]` is the close one row before")
            .into());
        }
        if n.trunc().total_cmp(&n).is_ne() || n > LONGEST_LAG {
            return Err(Mistake::new(
                rows.at.clone(),
                format!("{n} rows back, expected a whole number from 0 to {LONGEST_LAG}"),
            )
            .into());
        }
        if n < 1.0 {
            return Ok(of);
        }
        let series = lag(&mut self.frames[frame].builder, series, n as usize);
        Ok(Value::of_series(series, of.unit))
    }

    /// A value that is a condition.
    fn condition(&mut self, frame: usize, expression: &Expression, of: &str) -> Found<Series> {
        let value = self.expression(frame, expression)?;
        match value.what {
            Content::Series(series) if value.unit == Unit::Flag => Ok(series),
            _ => Err(Mistake::new(
                expression.at.clone(),
                format!(
                    "`{of}` takes a condition here, and this is a {}",
                    word(value)
                ),
            )
            .help("compare it with something, as `x > 0`")
            .into()),
        }
    }

    fn unary(&mut self, frame: usize, operator: Unary, value: &Expression) -> Found<Value> {
        match operator {
            Unary::Not => {
                let series = self.condition(frame, value, "not")?;
                let builder = &mut self.frames[frame].builder;
                Ok(Value::of_series(
                    pointwise::not(builder, series),
                    Unit::Flag,
                ))
            }
            Unary::Minus => {
                let value = self.expression(frame, value)?;
                Ok(match value.what {
                    Content::Number(x) => Value {
                        what: Content::Number(-x),
                        ..value
                    },
                    Content::Series(series) => {
                        let builder = &mut self.frames[frame].builder;
                        Value::of_series(pointwise::neg(builder, series), value.unit)
                    }
                })
            }
        }
    }

    fn binary(
        &mut self,
        frame: usize,
        operator: Binary,
        left: &Expression,
        right: &Expression,
        at: &Range<usize>,
    ) -> Found<Value> {
        if matches!(operator, Binary::And | Binary::Or) {
            let (a, b) = (
                self.condition(frame, left, operator.text())?,
                self.condition(frame, right, operator.text())?,
            );
            let builder = &mut self.frames[frame].builder;
            let series = if operator == Binary::And {
                pointwise::and(builder, a, b)
            } else {
                pointwise::or(builder, a, b)
            };
            return Ok(Value::of_series(series, Unit::Flag));
        }
        let a = self.expression(frame, left)?;
        let b = self.expression(frame, right)?;
        let builder = &mut self.frames[frame].builder;
        if operator == Binary::Power {
            return power(builder, a, b, right, at);
        }
        if let (Some(x), Some(y)) = (a.number(), b.number()) {
            return folded(of_numbers(operator, x, y, at)?, at);
        }
        let unit = match (operator, a.unit, b.number()) {
            (Binary::Over, Unit::Percent, Some(100.0)) => Unit::RATIO,
            _ => Unit::of_binary(operator, a.unit, b.unit),
        };
        let (a, b) = (a.series(builder), b.series(builder));
        let combine = match operator {
            Binary::Less => pointwise::lt,
            Binary::LessOrEqual => pointwise::le,
            Binary::Greater => pointwise::gt,
            Binary::GreaterOrEqual => pointwise::ge,
            Binary::Equal => pointwise::eq,
            Binary::NotEqual => pointwise::ne,
            Binary::Plus => pointwise::add,
            Binary::Minus => pointwise::sub,
            Binary::Times => pointwise::mul,
            Binary::Over => pointwise::div,
            Binary::And => pointwise::and,
            Binary::Or => pointwise::or,
            Binary::Power => return Err(Mistake::new(at.clone(), "a power of what?").into()),
        };
        Ok(Value::of_series(combine(builder, a, b), unit))
    }

    fn call(
        &mut self,
        frame: usize,
        name: &Name,
        arguments: &[Argument],
        at: &Range<usize>,
        output: Option<&Name>,
    ) -> Found<Value> {
        if let Some(indicator) = self.catalogue.0.get(name.name.as_str()) {
            return self.indicator(frame, indicator, arguments, at, output);
        }
        if let Some(output) = output
            && (function(&name.name).is_some() || WORDS.contains(&name.name.as_str()))
        {
            return Err(Mistake::new(
                output.at.clone(),
                format!("`{}` gives one column, and it has no name", name.name),
            )
            .into());
        }
        match name.name.as_str() {
            "at" => self.longer(frame, arguments, at),
            "of" => self.other_market(frame, arguments, at),
            _ => match function(&name.name) {
                Some(function) => self.function(frame, function, arguments, at),
                None => Err(self.unknown_call(name).into()),
            },
        }
    }

    fn unknown_call(&self, name: &Name) -> Mistake {
        let text = name.name.as_str();
        let is_value =
            BARS.iter().any(|(known, _)| *known == text) || self.definitions.contains_key(text);
        let mistake = Mistake::new(
            name.at.clone(),
            if is_value {
                format!("`{text}` is a column, and only indicators and functions are called")
            } else {
                format!("unknown indicator or function `{text}`")
            },
        );
        let names = self
            .catalogue
            .0
            .keys()
            .copied()
            .chain(FUNCTIONS.iter().map(|function| function.name))
            .chain(["at", "of"]);
        mistake.help(if is_value {
            format!("the value of {text} one row before is `{text}[1]`")
        } else {
            suggestion(
                text,
                names,
                "`natron stages features --indicators` lists all of them",
            )
        })
    }

    fn function(
        &mut self,
        frame: usize,
        function: &'static Function,
        arguments: &[Argument],
        at: &Range<usize>,
    ) -> Found<Value> {
        let usage = || format!("`{}({})`", function.name, function.arguments.join(", "));
        if arguments.len() != function.arguments.len() {
            return Err(Mistake::new(
                at.clone(),
                format!(
                    "`{}` takes {}, and {} given here",
                    function.name,
                    counted(function.arguments.len(), "argument"),
                    are(arguments.len())
                ),
            )
            .help(format!("it is called as {}", usage()))
            .into());
        }
        let mut values = Vec::with_capacity(arguments.len());
        for (position, argument) in arguments.iter().enumerate() {
            if let Some(name) = &argument.name {
                return Err(Mistake::new(
                    name.at.clone(),
                    format!("the arguments of `{}` have no names", function.name),
                )
                .help(format!("it is called as {}", usage()))
                .into());
            }
            values.push(if position < function.n_conditions {
                let series = self.condition(frame, &argument.value, function.name)?;
                Value::of_series(series, Unit::Flag)
            } else {
                self.expression(frame, &argument.value)?
            });
        }
        let numbers: Option<Vec<f64>> = values.iter().map(|value| value.number()).collect();
        if let Some(numbers) = numbers {
            return folded((function.number)(&numbers), at);
        }
        let units: Vec<Unit> = values.iter().map(|value| value.unit).collect();
        let builder = &mut self.frames[frame].builder;
        let series: Vec<Series> = values.iter().map(|value| value.series(builder)).collect();
        let series = (function.series)(builder, &series);
        Ok(Value::of_series(series, (function.unit)(&units)))
    }

    fn indicator(
        &mut self,
        frame: usize,
        indicator: &'static Indicator,
        arguments: &[Argument],
        at: &Range<usize>,
        output: Option<&Name>,
    ) -> Found<Value> {
        let places = assigned(indicator, arguments, at)?;
        let (of_series, of_parameters) = places.split_at(indicator.series.len());
        let (mut series, mut unit) = (Vec::new(), None);
        for (name, place) in indicator.series.iter().zip(of_series) {
            let Some(argument) = place else {
                return Err(Mistake::new(
                    at.clone(),
                    format!("`{}` lacks its series `{name}`", indicator.name),
                )
                .help(format!("it is called as `{}`", usage(indicator)))
                .into());
            };
            let value = self.expression(frame, &argument.value)?;
            let Content::Series(found) = value.what else {
                return Err(Mistake::new(
                    argument.value.at.clone(),
                    format!(
                        "`{name}` of `{}` is a number, expected a series",
                        indicator.name
                    ),
                )
                .help(format!("it is called as `{}`", usage(indicator)))
                .into());
            };
            unit.get_or_insert(value.unit);
            series.push(found);
        }
        let mut numbers = Vec::new();
        for (parameter, place) in indicator.parameters.iter().zip(of_parameters) {
            numbers.push(self.parameter(frame, indicator, parameter, *place, at)?);
        }
        let position = output_position(indicator, output, at)?;
        let rows = &mut self.frames[frame];
        for input in indicator.bars {
            let bar = BARS.iter().find(|(_, known)| known == input);
            rows.bars.extend(bar.map(|(name, _)| *name));
        }
        let outputs = (indicator.expand)(&mut rows.builder, &series, &numbers);
        let unit = Unit::of_output(
            indicator.outputs[position].unit,
            unit.unwrap_or(Unit::PRICE),
        );
        Ok(Value::of_series(outputs[position], unit))
    }

    fn parameter(
        &mut self,
        frame: usize,
        indicator: &Indicator,
        parameter: &Parameter,
        place: Option<&Argument>,
        at: &Range<usize>,
    ) -> Found<f64> {
        let Some(argument) = place else {
            return parameter.default.ok_or_else(|| {
                Mistake::new(
                    at.clone(),
                    format!("`{}` lacks its `{}`", indicator.name, parameter.name),
                )
                .help(format!("it is called as `{}`", usage(indicator)))
                .into()
            });
        };
        let place = argument.value.at.clone();
        let what = format!("`{}` of `{}`", parameter.name, indicator.name);
        let value = self.expression(frame, &argument.value)?;
        let Some(x) = value.number() else {
            let mistake = Mistake::new(place, format!("{what} is a series, expected a number"));
            return Err(match indicator.name {
                "max" => mistake.help("the larger of two values is `max2(a, b)`"),
                "min" => mistake.help("the smaller of two values is `min2(a, b)`"),
                _ => mistake.help("windows and the like are written as numbers, as `20`"),
            }
            .into());
        };
        let (is_inside, expected) = match parameter.range {
            catalog::Range::Whole(least, most) => (
                x.trunc().total_cmp(&x).is_eq() && x >= f64::from(least) && x <= f64::from(most),
                format!("a whole number from {least} to {most}"),
            ),
            catalog::Range::Real(least, most) => (
                x >= least && x <= most,
                format!("a number from {least} to {most}"),
            ),
        };
        if is_inside {
            return Ok(x);
        }
        Err(Mistake::new(place, format!("{what} is {x}, expected {expected}")).into())
    }

    /// `at("4h", value)`.
    fn longer(&mut self, frame: usize, arguments: &[Argument], at: &Range<usize>) -> Found<Value> {
        let help = "it is called as `at(\"4h\", value)`";
        let (text, place, value) = text_and_value("at", arguments, at, help)?;
        let Some(timeframe) = Timeframe::parse(text) else {
            return Err(Mistake::new(
                place.clone(),
                format!("`{}` is no timeframe up to four weeks", text.escape_debug()),
            )
            .help(format!("write {}", timeframe::SHAPE))
            .into());
        };
        if matches!(self.frames[frame].step, Step::Longer(_)) {
            return Err(Mistake::new(at.clone(), "`at` stands inside another `at`")
                .help("both are of the candles: name them one after the other")
                .into());
        }
        self.joined(frame, &Step::Longer(timeframe), value)
    }

    /// `of("vix", value)`.
    fn other_market(
        &mut self,
        frame: usize,
        arguments: &[Argument],
        at: &Range<usize>,
    ) -> Found<Value> {
        let help = "it is called as `of(\"vix\", value)`";
        let (market, place, value) = text_and_value("of", arguments, at, help)?;
        let mut letters = market.chars();
        let is_name = letters.next().is_some_and(|c| c.is_ascii_lowercase())
            && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_name || market == "candles" {
            return Err(Mistake::new(
                place.clone(),
                format!("`{}` is no name of another market", market.escape_debug()),
            )
            .help("write the name of an input of the stage, of small letters, digits and `_`")
            .into());
        }
        if self.frames[frame].step != Step::Candles {
            return Err(Mistake::new(at.clone(), "`of` stands inside `of` or `at`")
                .help(format!(
                    "longer bars of it are `of(\"{market}\", at(\"4h\", value))`"
                ))
                .into());
        }
        self.joined(frame, &Step::Market(market.to_owned()), value)
    }

    /// A value of the rows that `step` leads to, for the rows of `frame`.
    fn joined(&mut self, frame: usize, step: &Step, expression: &Expression) -> Found<Value> {
        let is_it = |rows: &Rows| rows.parent == Some(frame) && rows.step == *step;
        let child = self.frames.iter().position(is_it).unwrap_or_else(|| {
            self.frames.push(Rows::new(step.clone(), Some(frame)));
            self.frames.len() - 1
        });
        let outer = std::mem::take(&mut self.used);
        let value = self.expression(child, expression);
        let inner = std::mem::replace(&mut self.used, outer);
        let value = value?;
        let Content::Series(series) = value.what else {
            return Ok(value);
        };
        let outputs = &mut self.frames[child].outputs;
        let known = outputs.iter().position(|(other, _)| *other == series);
        let output = known.unwrap_or_else(|| {
            outputs.push((series, inner));
            outputs.len() - 1
        });
        self.used.insert((child, output));
        let source = Source::Joined {
            frame: child,
            output,
        };
        let series = self.frames[frame].source(source);
        Ok(Value::of_series(series, value.unit))
    }
}

/// `rsi(x, n = 14)`.
pub(crate) fn usage(indicator: &Indicator) -> String {
    let series = indicator.series.iter().map(|name| (*name).to_owned());
    let parameters = indicator
        .parameters
        .iter()
        .map(|parameter| match parameter.default {
            Some(default) => format!("{} = {default}", parameter.name),
            None => parameter.name.to_owned(),
        });
    let arguments: Vec<String> = series.chain(parameters).collect();
    format!("{}({})", indicator.name, arguments.join(", "))
}

/// The argument for each series and parameter of `indicator`, in this order.
fn assigned<'e>(
    indicator: &Indicator,
    arguments: &'e [Argument],
    at: &Range<usize>,
) -> Result<Vec<Option<&'e Argument>>, Mistake> {
    let parameters = indicator.parameters.iter().map(|parameter| parameter.name);
    let names: Vec<&str> = indicator.series.iter().copied().chain(parameters).collect();
    let called = || format!("it is called as `{}`", usage(indicator));
    let mut places: Vec<Option<&Argument>> = vec![None; names.len()];
    let mut is_by_name = false;
    for (position, argument) in arguments.iter().enumerate() {
        let place = match &argument.name {
            None if is_by_name => {
                return Err(Mistake::new(
                    argument.value.at.clone(),
                    "an argument without a name follows one with a name",
                )
                .help(called()));
            }
            None if position >= names.len() => {
                return Err(Mistake::new(
                    argument.value.at.clone(),
                    format!(
                        "`{}` takes {}, and this is one more",
                        indicator.name,
                        counted(names.len(), "argument")
                    ),
                )
                .help(called()));
            }
            None => position,
            Some(name) => {
                is_by_name = true;
                let found = names.iter().position(|known| *known == name.name);
                found.ok_or_else(|| {
                    Mistake::new(
                        name.at.clone(),
                        format!("`{}` has no argument `{}`", indicator.name, name.name),
                    )
                    .help(match nearest(&name.name, names.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`? {}", called()),
                        None => called(),
                    })
                })?
            }
        };
        if places[place].replace(argument).is_some() {
            let name = argument.name.as_ref();
            let twice = name.map_or(at, |name| &name.at).clone();
            return Err(Mistake::new(
                twice,
                format!("`{}` is given twice", names[place]),
            ));
        }
    }
    Ok(places)
}

fn output_position(
    indicator: &Indicator,
    output: Option<&Name>,
    at: &Range<usize>,
) -> Result<usize, Mistake> {
    let names: Vec<String> = indicator
        .outputs
        .iter()
        .map(|output| format!(".{}", output.name))
        .collect();
    let is_only = indicator.outputs.len() == 1 && indicator.outputs[0].name.is_empty();
    match output {
        None if is_only => Ok(0),
        None => Err(Mistake::new(
            at.clone(),
            format!(
                "`{}` gives {}",
                indicator.name,
                counted(names.len(), "column")
            ),
        )
        .help(format!("add {}", alternatives(&names)))),
        Some(output) if is_only => Err(Mistake::new(
            output.at.clone(),
            format!("`{}` gives one column, and it has no name", indicator.name),
        )),
        Some(output) => {
            let found = indicator
                .outputs
                .iter()
                .position(|known| known.name == output.name);
            found.ok_or_else(|| {
                let known = indicator.outputs.iter().map(|known| known.name);
                let otherwise = format!("it gives {}", alternatives(&names));
                Mistake::new(
                    output.at.clone(),
                    format!("`{}` gives no `.{}`", indicator.name, output.name),
                )
                .help(match nearest(&output.name, known) {
                    Some(near) => format!("did you mean `.{near}`?"),
                    None => otherwise,
                })
            })
        }
    }
}

fn text_and_value<'e>(
    name: &str,
    arguments: &'e [Argument],
    at: &Range<usize>,
    help: &str,
) -> Result<(&'e str, &'e Range<usize>, &'e Expression), Mistake> {
    let [first, second] = arguments else {
        return Err(Mistake::new(
            at.clone(),
            format!(
                "`{name}` takes 2 arguments, and {} given here",
                are(arguments.len())
            ),
        )
        .help(help));
    };
    if let Some(argument) = first.name.as_ref().or(second.name.as_ref()) {
        return Err(Mistake::new(
            argument.at.clone(),
            format!("the arguments of `{name}` have no names"),
        )
        .help(help));
    }
    match &first.value.what {
        What::Text(text) => Ok((text, &first.value.at, &second.value)),
        _ => Err(Mistake::new(first.value.at.clone(), "expected a text between quotes").help(help)),
    }
}

fn counted(n: usize, what: &str) -> String {
    match n {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

fn are(n: usize) -> String {
    match n {
        0 => "none is".to_owned(),
        1 => "1 is".to_owned(),
        n => format!("{n} are"),
    }
}

fn word(value: Value) -> &'static str {
    match value.what {
        Content::Number(_) => "number",
        Content::Series(_) => "series of numbers",
    }
}

fn folded(x: f64, at: &Range<usize>) -> Found<Value> {
    if x.is_finite() {
        return Ok(Value {
            what: Content::Number(x),
            unit: Unit::Number,
        });
    }
    Err(Mistake::new(at.clone(), "this is no finite number").into())
}

fn of_numbers(operator: Binary, x: f64, y: f64, at: &Range<usize>) -> Result<f64, Mistake> {
    match operator {
        Binary::Plus => Ok(x + y),
        Binary::Minus => Ok(x - y),
        Binary::Times => Ok(x * y),
        Binary::Over => Ok(x / y),
        _ => Err(Mistake::new(
            at.clone(),
            format!("`{}` compares two written numbers", operator.text()),
        )
        .help("one of them is to be a series")),
    }
}

fn power(
    builder: &mut Builder,
    base: Value,
    exponent: Value,
    place: &Expression,
    at: &Range<usize>,
) -> Found<Value> {
    let Some(n) = exponent.number() else {
        return Err(Mistake::new(
            place.at.clone(),
            "the exponent is a series, expected a number",
        )
        .help("`exp(y * ln(x))` is x to the power y")
        .into());
    };
    let series = match base.what {
        Content::Number(x) => return folded(math::pow(x, n), at),
        Content::Series(series) => series,
    };
    let unit = base.unit.power(n);
    if n.total_cmp(&0.5).is_eq() {
        return Ok(Value::of_series(pointwise::sqrt(builder, series), unit));
    }
    let is_product = n.trunc().total_cmp(&n).is_eq() && (1.0..=LARGEST_EXPONENT).contains(&n.abs());
    if !is_product {
        return Err(Mistake::new(
            place.at.clone(),
            format!(
                "the exponent is {n}, expected 0.5 or a whole number from 1 to {LARGEST_EXPONENT} or below 0"
            ),
        )
        .help(format!("`exp({n} * ln(x))` is x to the power {n}"))
        .into());
    }
    let product = whole_power(builder, series, n.abs() as u32);
    let series = if n < 0.0 {
        let one = builder.constant(1.0);
        pointwise::div(builder, one, product)
    } else {
        product
    };
    Ok(Value::of_series(series, unit))
}

fn whole_power(builder: &mut Builder, x: Series, n: u32) -> Series {
    if n == 1 {
        return x;
    }
    let half = whole_power(builder, x, n / 2);
    let square = pointwise::mul(builder, half, half);
    if n.is_multiple_of(2) {
        square
    } else {
        pointwise::mul(builder, square, x)
    }
}
