//! Features with their parameters, ready to compute: whole series at once or bar by bar.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use natron_kernels::bars::{BarColumns, Bars};
use natron_kernels::indicators::cuda::Word;
use natron_kernels::indicators::engine::Engine;
use natron_kernels::indicators::kernel::Tape;
use natron_kernels::indicators::program::Program;
use thiserror::Error;

use super::device::{Computer, Processor};
use super::expression::compile::{
    self, BARS, Catalogue, Compiled, Frame, Known, Misdefined, Source, Step, WORDS,
};
use super::expression::mistake::suggestion;
use super::expression::parse::parse;
use super::expression::timeframe::{self, Timeframe};
use super::expression::tree::Expression;
use super::longer_bars::{LongerBars, Row};
use super::parameters::{FeatureParameters, FeatureSet};
use super::sets::{self, SetColumn};
use super::stream::{FeatureStream, FrameState, From};

/// One column of a feature table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureColumn {
    /// Name in the table.
    pub name: String,
    /// Unit of its values; empty if it is not known.
    pub unit: String,
    /// The definition, in one sentence.
    pub description: String,
    /// Rows at the start of every series that have no value, and what of longer bars has none.
    pub warm_up: Span,
    /// Bars before a row that decide its value. A series that starts at least this many bars before the row has the same
    /// value there as one that starts earlier: to the bit for windows, to 1e-12 of the column's scale for recurrences.
    /// Nothing if all bars do.
    pub memory: Option<Span>,
}

/// A stretch of bars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// Bars, of whatever length.
    pub rows: usize,
    /// Nanoseconds besides, for what is put together from longer bars.
    pub longer_ns: i64,
}

impl Span {
    /// How many bars of `interval_ns` that is; nothing if it depends on the interval and that is not known.
    pub fn rows(self, interval_ns: Option<i64>) -> Option<usize> {
        if self.longer_ns == 0 {
            return Some(self.rows);
        }
        let interval = interval_ns.filter(|interval| *interval > 0)?;
        let longer = (self.longer_ns as u64).div_ceil(interval as u64);
        Some(self.rows + longer as usize)
    }

    fn larger(self, other: Self) -> Self {
        Self {
            rows: self.rows.max(other.rows),
            longer_ns: self.longer_ns.max(other.longer_ns),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            longer_ns: self.longer_ns.saturating_add(other.longer_ns),
        }
    }
}

/// Parameters that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FeatureError {
    /// A number out of its range.
    #[error("`{parameter}` is {value}, expected {expected}")]
    OutOfRange {
        /// Path of the parameter below `with`.
        parameter: &'static str,
        /// What was given.
        value: String,
        /// The range, in words.
        expected: String,
    },
    /// Two columns of a set with one name.
    #[error("two features are called `{name}`; give its group different periods")]
    SameName {
        /// The name.
        name: String,
    },
    /// Anything else about one parameter.
    #[error("{message}")]
    Refused {
        /// Path of the parameter below `with`; empty for all of them.
        parameter: String,
        /// What is wrong with it.
        message: String,
        /// How to mend it; empty when there is nothing to add.
        help: String,
        /// The piece of the parameter's text that is wrong, in bytes.
        at: Option<std::ops::Range<usize>>,
    },
}

impl FeatureError {
    fn refused(
        parameter: impl Into<String>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self::Refused {
            parameter: parameter.into(),
            message: message.into(),
            help: help.into(),
            at: None,
        }
    }
}

/// The bars of one market, and further columns of its table.
#[derive(Debug, Clone, Copy)]
pub struct Market<'a> {
    /// The bars.
    pub bars: Bars<'a>,
    /// The columns that [`FeaturePlan::further_columns`] names, each as long as the bars.
    pub columns: &'a [&'a [f64]],
}

/// Features compiled from their parameters.
///
/// Batch and stream compute the same values to the bit, so that a server computes what training saw.
#[derive(Debug, Clone)]
pub struct FeaturePlan {
    parameters: FeatureParameters,
    columns: Vec<FeatureColumn>,
    frames: Arc<[Frame]>,
    /// The further columns of each market that are read, by its name; that of the candles is empty.
    further: BTreeMap<String, Vec<String>>,
}

/// The outputs of a frame, and for each row of the frame that it belongs to, how many of its own rows are over.
type Child = (Vec<Vec<f64>>, Vec<usize>);

/// What a name stands for.
struct Definition {
    /// Where its expression stands below `with`.
    place: String,
    unit: String,
    description: String,
}

/// All names of a plan.
#[derive(Default)]
struct Names {
    expressions: BTreeMap<String, Expression>,
    definitions: BTreeMap<String, Definition>,
    /// Those that are columns, in order.
    columns: Vec<String>,
}

impl Names {
    fn add(
        &mut self,
        name: String,
        text: &str,
        definition: Definition,
        is_column: bool,
    ) -> Result<(), FeatureError> {
        let expression = parse(text).map_err(|mistake| FeatureError::Refused {
            parameter: definition.place.clone(),
            message: mistake.message,
            help: mistake.help,
            at: Some(mistake.at),
        })?;
        self.expressions.insert(name.clone(), expression);
        self.definitions.insert(name.clone(), definition);
        if is_column {
            self.columns.push(name);
        }
        Ok(())
    }
}

impl FeaturePlan {
    /// The plan of these parameters, for candles of which nothing is known.
    pub fn compile(parameters: &FeatureParameters) -> Result<FeaturePlan, FeatureError> {
        Self::compile_for(parameters, &Known::default())
    }

    /// The plan of these parameters.
    pub(super) fn compile_for(
        parameters: &FeatureParameters,
        known: &Known,
    ) -> Result<FeaturePlan, FeatureError> {
        if let Some(group) = parameters.group_in_use()
            && parameters.set != Some(FeatureSet::NatronV2)
        {
            return Err(FeatureError::refused(
                group,
                format!("`{group}` belongs to the set `natron_v2`"),
                "leave it out, or say `set = \"natron_v2\"`",
            ));
        }
        let mut names = Names::default();
        of_set(parameters, &mut names)?;
        own(parameters, &mut names)?;
        if names.columns.is_empty() {
            return Err(FeatureError::refused(
                "",
                "there are no features",
                "name a `set`, or write `columns = { name = \"expression\" }`",
            ));
        }
        let chosen = chosen(parameters, &names.columns)?;
        if chosen.is_empty() {
            return Err(FeatureError::refused("drop", "no feature is left", ""));
        }

        let catalogue = Catalogue::all();
        let compiled = compile::compile(
            &names.expressions,
            chosen.iter().map(String::as_str),
            &catalogue,
            known,
        );
        let compiled = compiled.map_err(|error| located(error, &names))?;
        check_parts(parameters, &names, &catalogue, known)?;
        Ok(Self::assembled(parameters, &names, &chosen, compiled))
    }

    fn assembled(
        parameters: &FeatureParameters,
        names: &Names,
        chosen: &[String],
        compiled: Compiled,
    ) -> Self {
        let frames: Arc<[Frame]> = compiled.frames.into();
        let columns = chosen.iter().zip(&compiled.units).enumerate();
        let columns = columns
            .map(|(position, (name, unit))| {
                let definition = &names.definitions[name];
                FeatureColumn {
                    name: name.clone(),
                    unit: if definition.unit.is_empty() {
                        unit.name().to_owned()
                    } else {
                        definition.unit.clone()
                    },
                    description: if definition.description.is_empty() {
                        names.expressions[name].to_string()
                    } else {
                        definition.description.clone()
                    },
                    warm_up: warm_up(&frames, 0, position),
                    memory: memory(&frames, 0, position),
                }
            })
            .collect();
        let mut further: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (index, frame) in frames.iter().enumerate() {
            let of_market = further
                .entry(market_of(&frames, index).to_owned())
                .or_default();
            of_market.extend(frame.sources.iter().filter_map(|source| match source {
                Source::Table(name) => Some(name.clone()),
                Source::Joined { .. } => None,
            }));
        }
        let further = further.into_iter();
        FeaturePlan {
            parameters: parameters.clone(),
            columns,
            frames,
            further: further
                .map(|(market, names)| (market, names.into_iter().collect()))
                .collect(),
        }
    }

    /// What the plan was compiled from.
    pub fn parameters(&self) -> &FeatureParameters {
        &self.parameters
    }

    /// The columns in the order of `batch` and of a stream's rows.
    pub fn columns(&self) -> &[FeatureColumn] {
        &self.columns
    }

    /// Names of the markets besides the candles that are read, in order.
    pub fn markets(&self) -> impl Iterator<Item = &str> {
        let names = self.further.keys().map(String::as_str);
        names.filter(|market| !market.is_empty())
    }

    /// Names of the columns of a market's table that are read besides those of bars; that of the candles is empty.
    pub fn further_columns(&self, market: &str) -> &[String] {
        self.further.get(market).map_or(&[], Vec::as_slice)
    }

    /// Names of the columns of bars that are read of a market.
    pub(super) fn bar_columns(&self, market: &str) -> BTreeSet<&'static str> {
        let frames =
            (0..self.frames.len()).filter(|frame| market_of(&self.frames, *frame) == market);
        frames
            .flat_map(|frame| self.frames[frame].bars.iter().copied())
            .collect()
    }

    /// The shortest bars that are put together, if any are.
    pub(super) fn shortest_timeframe(&self) -> Option<Timeframe> {
        let timeframes = self.frames.iter().filter_map(|frame| match frame.step {
            Step::Longer(timeframe) => Some(timeframe),
            _ => None,
        });
        timeframes.min()
    }

    /// What at the start of a series has no value in some column.
    pub fn warm_up(&self) -> Span {
        let spans = self.columns.iter().map(|column| column.warm_up);
        spans.fold(Span::default(), Span::larger)
    }

    /// What before a row decides its values; see [`FeatureColumn::memory`].
    pub fn memory(&self) -> Option<Span> {
        let mut spans = self.columns.iter().map(|column| column.memory);
        spans.try_fold(Span::default(), |a, b| Some(a.larger(b?)))
    }

    /// Every column of a series, in the order of [`FeaturePlan::columns`]. Undefined values are NaN, never infinite. Further
    /// columns and markets are missing everywhere.
    ///
    /// The bits do not depend on the number of threads.
    pub fn batch(&self, bars: Bars<'_>) -> Vec<Vec<f64>> {
        let missing = vec![f64::NAN; bars.len()];
        let columns: Vec<&[f64]> = self.further_columns("").iter().map(|_| &*missing).collect();
        let candles = Market {
            bars,
            columns: &columns,
        };
        self.batch_of(candles, &BTreeMap::new())
    }

    /// Every column of a series in the type of numbers that is asked for.
    ///
    /// # Panics
    /// If columns differ in length or number from what [`FeaturePlan::further_columns`] says.
    pub fn batch_of<T: Word>(
        &self,
        candles: Market<'_>,
        markets: &BTreeMap<String, Market<'_>>,
    ) -> Vec<Vec<T>> {
        let Ok(columns) = self.batch_on(&Processor, candles, markets);
        columns
    }

    /// The same, computed by `computer`.
    pub(super) fn batch_on<T: Word, C: Computer>(
        &self,
        computer: &C,
        candles: Market<'_>,
        markets: &BTreeMap<String, Market<'_>>,
    ) -> Result<Vec<Vec<T>>, C::Error> {
        let rows = Rows {
            bars: candles.bars,
            columns: candles.columns.to_vec(),
        };
        self.frame(computer, 0, &rows, markets)
    }

    /// The programs that compute the columns.
    pub(super) fn programs(&self) -> impl Iterator<Item = &Program> {
        self.frames.iter().map(|frame| &frame.program)
    }

    /// The outputs of a frame whose rows are `rows`.
    fn frame<T: Word, C: Computer>(
        &self,
        computer: &C,
        index: usize,
        rows: &Rows<'_>,
        markets: &BTreeMap<String, Market<'_>>,
    ) -> Result<Vec<Vec<T>>, C::Error> {
        let frame = &self.frames[index];
        let further = self.further_columns(market_of(&self.frames, index));
        let mut joined: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
        for (child, other) in self.frames.iter().enumerate() {
            if other.parent != Some(index) {
                continue;
            }
            let (outputs, counts) = self.child(computer, child, rows, markets)?;
            for source in &frame.sources {
                if let Source::Joined { frame, output } = source
                    && *frame == child
                {
                    let values = &outputs[*output];
                    let last = |n: &usize| n.checked_sub(1).map_or(f64::NAN, |row| values[row]);
                    joined.insert((child, *output), counts.iter().map(last).collect());
                }
            }
        }
        let columns = frame.sources.iter().map(|source| match source {
            Source::Table(name) => rows.columns[position(further, name)],
            Source::Joined { frame, output } => joined[&(*frame, *output)].as_slice(),
        });
        let columns: Vec<&[f64]> = columns.collect();
        computer.compute(&frame.program, rows.bars, &columns)
    }

    /// The outputs of a frame that belongs to the one with these rows, and for each of them how many of its own rows are
    /// over.
    fn child<C: Computer>(
        &self,
        computer: &C,
        index: usize,
        rows: &Rows<'_>,
        markets: &BTreeMap<String, Market<'_>>,
    ) -> Result<Child, C::Error> {
        match &self.frames[index].step {
            Step::Market(name) => {
                let n_columns = self.further_columns(name).len();
                let Some(market) = markets.get(name) else {
                    let none = BarColumns::default();
                    let rows_of_none = Rows {
                        bars: none.view(),
                        columns: vec![&[]; n_columns],
                    };
                    let counts = vec![0; rows.bars.len()];
                    let outputs = self.frame(computer, index, &rows_of_none, markets)?;
                    return Ok((outputs, counts));
                };
                let own = Rows {
                    bars: market.bars,
                    columns: market.columns.to_vec(),
                };
                let mut over = 0;
                let counts = rows.bars.ts_ns.iter().map(|ts_ns| {
                    let later = &market.bars.ts_ns[over..];
                    over += later.iter().take_while(|end| *end <= ts_ns).count();
                    over
                });
                let counts = counts.collect();
                Ok((self.frame(computer, index, &own, markets)?, counts))
            }
            Step::Longer(timeframe) => {
                let mut longer = LongerBars::new(*timeframe);
                let (mut bars, mut columns) =
                    (BarColumns::default(), vec![Vec::new(); rows.columns.len()]);
                let mut counts = Vec::with_capacity(rows.bars.len());
                let mut row = Row::empty(rows.columns.len());
                for (t, bar) in rows.bars.iter().enumerate() {
                    row.bar = bar;
                    for (x, column) in row.columns.iter_mut().zip(&rows.columns) {
                        *x = column[t];
                    }
                    longer.push(&row, |over| {
                        bars.push(over.bar);
                        for (column, x) in columns.iter_mut().zip(over.columns) {
                            column.push(x);
                        }
                    });
                    counts.push(bars.close.len());
                }
                let own = Rows {
                    bars: bars.view(),
                    columns: columns.iter().map(Vec::as_slice).collect(),
                };
                Ok((self.frame(computer, index, &own, markets)?, counts))
            }
            Step::Candles => unreachable!("the candles belong to no other frame"),
        }
    }

    /// A computation that takes bars one by one, from the start of a series.
    pub fn stream(&self) -> FeatureStream {
        let states = self.frames.iter().enumerate().map(|(index, frame)| {
            let further = self.further_columns(market_of(&self.frames, index));
            let children = self.frames.iter().enumerate();
            FrameState {
                engine: Engine::new(&frame.program),
                reads: frame
                    .sources
                    .iter()
                    .map(|source| match source {
                        Source::Table(name) => From::Column(position(further, name)),
                        Source::Joined { frame, output } => From::Frame(*frame, *output),
                    })
                    .collect(),
                inputs: vec![f64::NAN; frame.sources.len()],
                outputs: vec![f64::NAN; frame.program.n_outputs()],
                children: children
                    .filter(|(_, child)| child.parent == Some(index))
                    .map(|(child, _)| child)
                    .collect(),
                longer: match frame.step {
                    Step::Longer(timeframe) => Some(LongerBars::new(timeframe)),
                    _ => None,
                },
                waiting: VecDeque::new(),
                n_columns: further.len(),
            }
        });
        let names = self.frames.iter().map(|frame| match &frame.step {
            Step::Market(name) => name.clone(),
            _ => String::new(),
        });
        FeatureStream {
            frames: states.collect(),
            markets: names.collect(),
            row: Row::empty(self.further_columns("").len()),
        }
    }

    /// The stream whose [state](Self::state) is `words`; nothing if it is that of another plan.
    pub fn resume(&self, words: &[u64]) -> Option<FeatureStream> {
        let (mark, words) = words.split_first()?;
        if *mark != self.mark() {
            return None;
        }
        let mut stream = self.stream();
        let mut tape = Tape::of(words.to_vec());
        stream.tape(&mut tape, words.len());
        tape.is_used_up().then_some(stream)
    }

    /// The state of `stream`, which is one of this plan's.
    pub fn state(&self, stream: &mut FeatureStream) -> Vec<u64> {
        let mut tape = Tape::new();
        stream.tape(&mut tape, 0);
        let mut words = vec![self.mark()];
        words.extend(tape.into_words());
        words
    }

    /// Tells the states of plans apart.
    fn mark(&self) -> u64 {
        let parameters = serde_json::to_vec(&self.parameters).unwrap_or_default();
        let digest = blake3::hash(&parameters);
        digest.as_bytes()[..8]
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    }
}

/// The features of the set, and those on longer bars.
fn of_set(parameters: &FeatureParameters, names: &mut Names) -> Result<(), FeatureError> {
    let set = sets::columns(parameters)?;
    let definition = |column: &SetColumn| Definition {
        place: "set".to_owned(),
        unit: column.unit.to_owned(),
        description: column.description.clone(),
    };
    for column in &set {
        if names.expressions.contains_key(&column.name) {
            return Err(FeatureError::SameName {
                name: column.name.clone(),
            });
        }
        names.add(
            column.name.clone(),
            &column.expression,
            definition(column),
            true,
        )?;
    }
    for (i, text) in parameters.timeframes.iter().enumerate() {
        let place = format!("timeframes.{i}");
        if Timeframe::parse(text).is_none() {
            return Err(FeatureError::refused(
                place,
                format!("`{}` is no timeframe up to four weeks", text.escape_debug()),
                format!("write {}", timeframe::SHAPE),
            ));
        }
        if set.is_empty() {
            return Err(FeatureError::refused(
                "timeframes",
                "`timeframes` computes the columns of a set on longer bars, and there is no `set`",
                format!("write `at(\"{text}\", ...)` in `columns`"),
            ));
        }
        if parameters.timeframes[..i].contains(text) {
            return Err(FeatureError::refused(
                place,
                format!("`{text}` stands twice"),
                "",
            ));
        }
        for column in &set {
            // The expression itself: the name may hold what no name in an expression does.
            let expression = format!("at(\"{text}\", {})", column.expression);
            let of_longer = Definition {
                description: match column.description.as_str() {
                    "" => String::new(),
                    known => format!("of bars of {text}: {known}"),
                },
                ..definition(column)
            };
            names.add(
                format!("{}_{text}", column.name),
                &expression,
                of_longer,
                true,
            )?;
        }
    }
    Ok(())
}

/// The features and parts of a pipeline's own.
fn own(parameters: &FeatureParameters, names: &mut Names) -> Result<(), FeatureError> {
    for (definition, place) in parameters.columns.definitions() {
        let at = place.strip_suffix(".expression").unwrap_or(&place);
        check_name(&definition.name, at, names)?;
        let told = Definition {
            place,
            unit: definition.unit,
            description: definition.description,
        };
        names.add(definition.name, &definition.expression, told, true)?;
    }
    for (name, text) in &parameters.parts {
        let place = format!("let.{name}");
        check_name(name, &place, names)?;
        let told = Definition {
            place,
            unit: String::new(),
            description: String::new(),
        };
        names.add(name.clone(), text, told, false)?;
    }
    Ok(())
}

/// Refuses names that no expression could use, and those that are taken.
fn check_name(name: &str, place: &str, names: &Names) -> Result<(), FeatureError> {
    /// Longer names are refused.
    const LONGEST: usize = 100;
    let mut letters = name.chars();
    let is_name = letters
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.len() <= LONGEST;
    let shown = name.escape_debug();
    if !is_name {
        return Err(FeatureError::refused(
            place,
            format!("`{shown}` is no name of a feature"),
            "a name begins with a letter or `_` and goes on with letters, digits and `_`",
        ));
    }
    if WORDS.contains(&name) || name == "ts_ns" || BARS.iter().any(|(bar, _)| *bar == name) {
        return Err(FeatureError::refused(
            place,
            format!("`{shown}` means something else in an expression"),
            "choose another name",
        ));
    }
    if names.expressions.contains_key(name) {
        let is_of_set = names.definitions[name].place == "set";
        let owner = if is_of_set { "of the set" } else { "already" };
        return Err(FeatureError::refused(
            place,
            format!("`{shown}` is a feature {owner}"),
            "choose another name",
        ));
    }
    Ok(())
}

/// The columns that `only` and `drop` leave.
fn chosen(parameters: &FeatureParameters, columns: &[String]) -> Result<Vec<String>, FeatureError> {
    for (parameter, listed) in [("only", &parameters.only), ("drop", &parameters.drop)] {
        for (i, name) in listed.iter().enumerate() {
            if !columns.contains(name) {
                let known = columns.iter().map(String::as_str);
                return Err(FeatureError::refused(
                    format!("{parameter}.{i}"),
                    format!("there is no feature `{}`", name.escape_debug()),
                    suggestion(name, known, ""),
                ));
            }
        }
    }
    let (only, drop): (BTreeSet<&String>, BTreeSet<&String>) = (
        parameters.only.iter().collect(),
        parameters.drop.iter().collect(),
    );
    let is_kept = |name: &&String| (only.is_empty() || only.contains(name)) && !drop.contains(name);
    Ok(columns.iter().filter(is_kept).cloned().collect())
}

/// Refuses mistakes in what is written but not computed.
fn check_parts(
    parameters: &FeatureParameters,
    names: &Names,
    catalogue: &Catalogue,
    known: &Known,
) -> Result<(), FeatureError> {
    let own = parameters.columns.definitions();
    let own = own.iter().map(|(definition, _)| definition.name.as_str());
    compile::compile(&names.expressions, own, catalogue, known)
        .map_err(|error| located(error, names))?;
    for name in parameters.parts.keys() {
        // It may be meant for another market, whose columns it names.
        compile::compile(
            &names.expressions,
            [name.as_str()],
            catalogue,
            &Known::default(),
        )
        .map_err(|error| located(error, names))?;
    }
    Ok(())
}

fn located(error: Misdefined, names: &Names) -> FeatureError {
    let place = names.definitions.get(&error.feature);
    let place = place.map_or("", |definition| definition.place.as_str());
    let is_of_set = place == "set";
    FeatureError::Refused {
        parameter: place.to_owned(),
        message: if is_of_set {
            format!("`{}`: {}", error.feature, error.mistake.message)
        } else {
            error.mistake.message
        },
        help: error.mistake.help,
        at: (!is_of_set).then_some(error.mistake.at),
    }
}

/// The market whose bars a frame has; empty for the candles.
fn market_of(frames: &[Frame], index: usize) -> &str {
    match (&frames[index].step, frames[index].parent) {
        (Step::Market(market), _) => market,
        (_, Some(parent)) => market_of(frames, parent),
        (_, None) => "",
    }
}

fn position(names: &[String], name: &str) -> usize {
    let found = names.iter().position(|known| known == name);
    found.expect("a plan knows all columns that it reads")
}

/// What of its parent's rows one row of a frame takes, and what `rows` of its own do.
fn in_parent(frame: &Frame, own: Span) -> Span {
    match frame.step {
        // The bar that is not over is one more.
        Step::Longer(timeframe) => Span {
            rows: 0,
            longer_ns: timeframe.length_ns().saturating_mul(own.rows as i64 + 2),
        },
        _ => own,
    }
}

fn memory(frames: &[Frame], index: usize, output: usize) -> Option<Span> {
    let frame = &frames[index];
    let own = Span {
        rows: frame.program.memory(output)?,
        longer_ns: 0,
    };
    let mut below = Span::default();
    for (child, output) in &frame.uses[output] {
        let span = memory(frames, *child, *output)?;
        below = below.larger(in_parent(&frames[*child], span));
    }
    Some(own.plus(below))
}

fn warm_up(frames: &[Frame], index: usize, output: usize) -> Span {
    let frame = &frames[index];
    let own = Span {
        rows: frame.program.warm_up(output),
        longer_ns: 0,
    };
    let below = frame.uses[output].iter().map(|(child, output)| {
        let of_child = warm_up(frames, *child, *output);
        match frames[*child].step {
            Step::Longer(timeframe) => Span {
                rows: 0,
                longer_ns: timeframe.length_ns().saturating_mul(of_child.rows as i64),
            },
            _ => of_child,
        }
    });
    own.plus(below.fold(Span::default(), Span::larger))
}

/// The rows of a frame.
struct Rows<'a> {
    bars: Bars<'a>,
    columns: Vec<&'a [f64]>,
}

#[cfg(test)]
#[expect(clippy::needless_range_loop, reason = "a loop over rows")]
mod tests;
