//! The language with a catalogue of its own, against a naive evaluator.

use std::collections::BTreeMap;

use natron_kernels::{
    bars::{BarColumns, Bars},
    indicators::{
        catalog::{self, Indicator, Output, Parameter, Range},
        engine::Engine,
        pointwise,
        program::{Builder, Input, Series},
    },
};
use proptest::prelude::*;

use super::{
    compile::{Catalogue, Compiled, Known, Misdefined, Source, Step, compile},
    functions::lag,
    mistake::Mistake,
    parse::parse,
    tree::{Argument, Binary, Expression, Name, Unary, What},
    unit::Unit,
};
use crate::features::fixtures::market;

const WINDOW: Parameter = Parameter {
    name: "n",
    range: Range::Whole(1, 50),
    default: Some(3.0),
};
const FACTOR: Parameter = Parameter {
    name: "k",
    range: Range::Real(0.5, 8.0),
    default: None,
};

fn output(name: &'static str, unit: catalog::Unit) -> Output {
    Output { name, unit }
}

/// The difference to `n` rows before.
fn change(builder: &mut Builder, series: &[Series], parameters: &[f64]) -> Vec<Series> {
    let before = lag(builder, series[0], parameters[0] as usize);
    vec![pointwise::sub(builder, series[0], before)]
}

/// A value times `k`, and over `k`.
fn bands(builder: &mut Builder, series: &[Series], parameters: &[f64]) -> Vec<Series> {
    let k = builder.constant(parameters[1]);
    let before = lag(builder, series[0], parameters[0] as usize);
    vec![
        pointwise::mul(builder, before, k),
        pointwise::div(builder, before, k),
    ]
}

fn height(builder: &mut Builder, _: &[Series], _: &[f64]) -> Vec<Series> {
    let (high, low) = (builder.input(Input::High), builder.input(Input::Low));
    vec![pointwise::sub(builder, high, low)]
}

fn catalogue() -> Catalogue {
    let template = Indicator {
        name: "change",
        series: &["x"],
        bars: &[],
        parameters: &[WINDOW],
        outputs: &[Output {
            name: "",
            unit: catalog::Unit::OfSeries,
        }],
        definition: "",
        source: "",
        expand: change,
    };
    let all: [Indicator; 3] = [
        template,
        Indicator {
            name: "bands",
            parameters: &[WINDOW, FACTOR],
            outputs: Box::leak(Box::new([
                output("upper", catalog::Unit::OfSeries),
                output("lower", catalog::Unit::Percent),
            ])),
            expand: bands,
            ..template
        },
        Indicator {
            name: "height",
            series: &[],
            bars: &[Input::High, Input::Low],
            parameters: &[],
            outputs: &[Output {
                name: "",
                unit: catalog::Unit::Price,
            }],
            expand: height,
            ..template
        },
    ];
    Catalogue::of(&*Box::leak(Box::new(all)))
}

fn known() -> Known {
    Known {
        columns: BTreeMap::from([
            (String::new(), vec!["spread".to_owned()]),
            ("vix".to_owned(), vec!["futures".to_owned()]),
        ]),
    }
}

fn compiled(features: &[(&str, &str)]) -> Result<Compiled, Misdefined> {
    let definitions = features
        .iter()
        .map(|(name, text)| ((*name).to_owned(), parse(text).unwrap()))
        .collect();
    let wanted = features.iter().map(|(name, _)| *name);
    compile(&definitions, wanted, &catalogue(), &known())
}

/// What is wrong with one expression, and the piece of it that is marked.
fn mistake(text: &str) -> (String, String, String) {
    let found: Mistake = match parse(text) {
        Err(mistake) => mistake,
        Ok(tree) => {
            let definitions = BTreeMap::from([("x".to_owned(), tree)]);
            compile(&definitions, ["x"], &catalogue(), &known())
                .unwrap_err()
                .mistake
        }
    };
    (text[found.at].to_owned(), found.message, found.help)
}

#[track_caller]
fn assert_mistake(text: &str, marked: &str, message: &str, help: &str) {
    let (at, found, found_help) = mistake(text);
    assert_eq!((at.as_str(), found.as_str()), (marked, message), "{text}");
    assert!(
        found_help.contains(help) && (help.is_empty() == found_help.is_empty()),
        "{text}: {found_help}"
    );
}

fn batch(text: &str, bars: Bars<'_>) -> Vec<f64> {
    let compiled = compiled(&[("x", text)]).unwrap();
    assert_eq!(compiled.frames.len(), 1);
    Engine::batch(&compiled.frames[0].program, bars, &[]).swap_remove(0)
}

fn without_places(expression: &Expression) -> Expression {
    let name = |name: &Name| Name {
        name: name.name.clone(),
        at: 0..0,
    };
    let inner = |value: &Expression| Box::new(without_places(value));
    let what = match &expression.what {
        What::Call(called, arguments) => {
            let arguments = arguments.iter().map(|argument| Argument {
                name: argument.name.as_ref().map(name),
                value: without_places(&argument.value),
            });
            What::Call(name(called), arguments.collect())
        }
        What::Output(value, output) => What::Output(inner(value), name(output)),
        What::Lag(value, rows) => What::Lag(inner(value), inner(rows)),
        What::Unary(operator, value) => What::Unary(*operator, inner(value)),
        What::Binary(operator, left, right) => What::Binary(*operator, inner(left), inner(right)),
        other => other.clone(),
    };
    Expression { what, at: 0..0 }
}

/// Draws small numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }

    fn number(&mut self) -> Expression {
        let x = [0.0, 1.0, 2.0, 0.5, 100.0, 1e-7, 12345.678][self.below(7)];
        of(What::Number(x))
    }

    fn window(&mut self) -> Expression {
        of(What::Number((1 + self.below(12)) as f64))
    }

    /// A series of numbers.
    fn series(&mut self, depth: usize) -> Expression {
        let bar = ["open", "high", "low", "close", "volume"][self.below(5)];
        if depth == 0 {
            return of(What::Name(bar.to_owned()));
        }
        let inner = depth - 1;
        match self.below(12) {
            0 => of(What::Name(bar.to_owned())),
            1 => of(What::Unary(Unary::Minus, Box::new(self.series(inner)))),
            2 => of(What::Lag(
                Box::new(self.series(inner)),
                Box::new(self.window()),
            )),
            3 => call("abs", vec![self.series(inner)]),
            4 => call("max2", vec![self.series(inner), self.value(inner)]),
            5 => call(
                "if",
                vec![self.condition(inner), self.value(inner), self.series(inner)],
            ),
            6 => call("change", vec![self.series(inner), self.window()]),
            7 => {
                let arguments = vec![self.series(inner), self.window(), of(What::Number(2.5))];
                let name = ["upper", "lower"][self.below(2)].to_owned();
                of(What::Output(
                    Box::new(call("bands", arguments)),
                    Name { name, at: 0..0 },
                ))
            }
            8 => {
                let exponent = Box::new(of(What::Number((2 + self.below(2)) as f64)));
                of(What::Binary(
                    Binary::Power,
                    Box::new(self.series(inner)),
                    exponent,
                ))
            }
            _ => {
                let operator =
                    [Binary::Plus, Binary::Minus, Binary::Times, Binary::Over][self.below(4)];
                let (series, other) = (self.series(inner), self.value(inner));
                let (left, right) = if self.below(2) == 0 {
                    (series, other)
                } else {
                    (other, series)
                };
                of(What::Binary(operator, Box::new(left), Box::new(right)))
            }
        }
    }

    fn value(&mut self, depth: usize) -> Expression {
        if self.below(4) == 0 {
            self.number()
        } else {
            self.series(depth)
        }
    }

    fn condition(&mut self, depth: usize) -> Expression {
        let inner = depth.saturating_sub(1);
        let (what, is_joined) = (self.below(10), depth > 0);
        match what {
            0 if is_joined => of(What::Unary(Unary::Not, Box::new(self.condition(inner)))),
            1 | 2 if is_joined => {
                let operator = [Binary::And, Binary::Or][what - 1];
                let (left, right) = (self.condition(inner), self.condition(inner));
                of(What::Binary(operator, Box::new(left), Box::new(right)))
            }
            _ => {
                let operators: Vec<Binary> = Binary::ALL
                    .iter()
                    .map(|(operator, _)| *operator)
                    .filter(|operator| operator.is_comparison())
                    .collect();
                let operator = operators[self.below(operators.len())];
                let (left, right) = (self.series(inner), self.value(inner));
                of(What::Binary(operator, Box::new(left), Box::new(right)))
            }
        }
    }
}

fn of(what: What) -> Expression {
    Expression { what, at: 0..0 }
}

fn call(name: &str, values: Vec<Expression>) -> Expression {
    let arguments = values
        .into_iter()
        .map(|value| Argument { name: None, value });
    let name = Name {
        name: name.to_owned(),
        at: 0..0,
    };
    of(What::Call(name, arguments.collect()))
}

/// The value of an expression in row `t`: the definition, with no thought of speed.
fn naive(expression: &Expression, bars: Bars<'_>, t: usize) -> f64 {
    let at = |value: &Expression, back: f64| {
        let back = back as usize;
        if back > t {
            f64::NAN
        } else {
            naive(value, bars, t - back)
        }
    };
    let flag = |truth: bool| f64::from(u8::from(truth));
    match &expression.what {
        What::Number(x) => *x,
        What::Name(name) => match name.as_str() {
            "open" => bars.open[t],
            "high" => bars.high[t],
            "low" => bars.low[t],
            "close" => bars.close[t],
            _ => bars.volume[t],
        },
        What::Lag(value, rows) => at(value, naive(rows, bars, t)),
        What::Unary(Unary::Minus, value) => -at(value, 0.0),
        What::Unary(Unary::Not, value) => match at(value, 0.0) {
            x if x.is_nan() => x,
            x => flag(x == 0.0),
        },
        What::Binary(operator, left, right) => {
            let (a, b) = (at(left, 0.0), at(right, 0.0));
            let of_flag = |truth: bool| {
                if a.is_nan() || b.is_nan() {
                    f64::NAN
                } else {
                    flag(truth)
                }
            };
            match operator {
                Binary::Plus => a + b,
                Binary::Minus => a - b,
                Binary::Times => a * b,
                Binary::Over if b == 0.0 => f64::NAN,
                Binary::Over => a / b,
                Binary::Power => (1..b as usize).fold(a, |x, _| x * a),
                Binary::And => of_flag(a != 0.0 && b != 0.0),
                Binary::Or => of_flag(a != 0.0 || b != 0.0),
                Binary::Less => of_flag(a < b),
                Binary::LessOrEqual => of_flag(a <= b),
                Binary::Greater => of_flag(a > b),
                Binary::GreaterOrEqual => of_flag(a >= b),
                Binary::Equal => of_flag(a == b),
                Binary::NotEqual => of_flag(a != b),
            }
        }
        What::Output(value, output) => {
            let What::Call(_, arguments) = &value.what else {
                panic!("an output follows a call")
            };
            let before = at(&arguments[0].value, naive(&arguments[1].value, bars, t));
            let k = naive(&arguments[2].value, bars, t);
            if output.name == "upper" {
                before * k
            } else {
                before / k
            }
        }
        What::Call(name, arguments) => {
            let x = |i: usize| at(&arguments[i].value, 0.0);
            match name.name.as_str() {
                "abs" => x(0).abs(),
                "change" => x(0) - at(&arguments[0].value, x(1)),
                "max2" if x(0).is_nan() || x(1).is_nan() => f64::NAN,
                "max2" if x(0) > x(1) => x(0),
                "max2" => x(1),
                _ if x(0).is_nan() => f64::NAN,
                _ if x(0) != 0.0 => x(1),
                _ => x(2),
            }
        }
        What::Text(_) => panic!("no text is drawn"),
    }
}

/// Whether numbers alone stand where the language wants a series, or give something infinite.
fn is_refused(error: &Misdefined) -> bool {
    error.mistake.message == "this is no finite number"
}

proptest! {
    #[test]
    fn printed_and_parsed_again_it_is_the_same_tree(seed in 1_u64.., depth in 0_usize..7) {
        let mut dice = Dice(seed);
        for tree in [dice.series(depth), dice.condition(depth)] {
            let text = tree.to_string();
            prop_assert_eq!(&without_places(&parse(&text).unwrap()), &tree, "{}", text);
        }
    }

    #[test]
    fn a_random_expression_is_what_the_naive_evaluator_says(seed in 1_u64.., depth in 1_usize..7) {
        let mut dice = Dice(seed);
        let bars = market(90, seed);
        for tree in [dice.series(depth), dice.condition(depth)] {
            let definitions = BTreeMap::from([("x".to_owned(), tree.clone())]);
            let compiled = match compile(&definitions, ["x"], &catalogue(), &known()) {
                Ok(compiled) => compiled,
                Err(error) => {
                    prop_assert!(is_refused(&error), "{tree}: {error:?}");
                    continue;
                }
            };
            let found = Engine::batch(&compiled.frames[0].program, bars.view(), &[]).swap_remove(0);
            for (t, x) in found.iter().enumerate() {
                let expected = naive(&tree, bars.view(), t);
                let expected = if expected.is_finite() { expected } else { f64::NAN };
                prop_assert!(
                    (x.is_nan() && expected.is_nan()) || x - expected == 0.0,
                    "{tree}, row {t}: {x} against {expected}"
                );
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(seed in 1_u64.., changes in 1_usize..8, noise in "[a-z0-9 ()\\[\\].,+*/^<>=!\"'€-]{0,40}") {
        let mut dice = Dice(seed);
        let letters: Vec<char> = "()[]+-*/^<>=!.,\"' 019eE_axclosenotand\u{20ac}\n&".chars().collect();
        let text = format!("at(\"4h\", {}) + of('vix', futures[2] / {noise})", dice.condition(4));
        let mut text: Vec<char> = text.chars().collect();
        for _ in 0..changes {
            let place = dice.below(text.len());
            let letter = letters[dice.below(letters.len())];
            match dice.below(3) {
                0 => text[place] = letter,
                1 => text.insert(place, letter),
                _ => {
                    text.remove(place);
                }
            }
        }
        let text: String = text.into_iter().collect();
        for text in [text, noise] {
            let found = match parse(&text) {
                Ok(tree) => {
                    let again = parse(&tree.to_string()).unwrap();
                    prop_assert_eq!(without_places(&again), without_places(&tree));
                    let definitions = BTreeMap::from([("x".to_owned(), tree)]);
                    let found = compile(&definitions, ["x"], &catalogue(), &known());
                    found.err().map(|error| error.mistake)
                }
                Err(mistake) => Some(mistake),
            };
            if let Some(mistake) = found {
                prop_assert!(text.get(mistake.at.clone()).is_some(), "{text}: {mistake:?}");
                prop_assert!(!mistake.message.is_empty());
            }
        }
    }
}

#[test]
fn operators_bind_as_everywhere() {
    for (text, full) in [
        ("-close ^ 2", "-(close ^ 2)"),
        ("2 ^ 3 ^ 2", "2 ^ (3 ^ 2)"),
        ("open - high - low", "(open - high) - low"),
        ("open - (high - low)", "open - (high - low)"),
        ("open + high * low", "open + (high * low)"),
        (
            "not open > high and low > close",
            "(not (open > high)) and (low > close)",
        ),
        (
            "open > 1 or open > 2 and open > 3",
            "(open > 1) or ((open > 2) and (open > 3))",
        ),
        ("-close[1]", "-(close[1])"),
        ("bands(close).upper[1]", "((bands(close)).upper)[1]"),
    ] {
        let (short, long) = (parse(text).unwrap(), parse(full).unwrap());
        assert_eq!(without_places(&short), without_places(&long), "{text}");
        assert_eq!(short.to_string(), text);
    }
}

#[test]
fn mistakes_of_writing_are_marked() {
    let close_by_name = "give parts of it names";
    assert_mistake("close +", "", "a value is missing at the end", "");
    assert_mistake("(close", "(", "this `(` is not closed", "");
    assert_mistake("close)", ")", "this `)` closes nothing", "");
    assert_mistake("change(close, 3", "(", "this `(` is not closed", "");
    assert_mistake(
        "close open",
        "open",
        "an operator is missing before this",
        "",
    );
    assert_mistake(
        "close = open",
        "=",
        "`=` gives an argument its name",
        "`==`",
    );
    assert_mistake(
        "close && open",
        "&",
        "`&` means nothing in an expression",
        "`and`",
    );
    assert_mistake(
        "!open",
        "!",
        "`!` means nothing in an expression",
        "`not condition`",
    );
    assert_mistake(
        "1 < close < 2",
        "<",
        "comparisons do not join each other",
        "a < b and b < c",
    );
    assert_mistake("3x", "3x", "`3x` is neither a number nor a name", "");
    assert_mistake("1e999", "1e999", "this number is too large", "");
    assert_mistake(
        "at(\"4h, close)",
        "\"4h, close)",
        "the text that begins here has no end",
        "\"",
    );
    assert_mistake("", "", "the expression is empty", "");
    assert_mistake("close.5", "5", "a column's name is missing here", "");
    for text in ["(", "-", "not ", "abs(", "close + ("] {
        let text = text.repeat(5000);
        let found = parse(&text).unwrap_err();
        assert!(found.message.starts_with("more than") || found.message.contains("bytes"));
        assert!(found.help.contains(close_by_name));
    }
    let sum = vec!["close"; 300].join(" + ");
    assert!(parse(&sum).unwrap_err().message.contains("nested"));
}

#[test]
fn mistakes_of_meaning_are_marked() {
    assert_mistake(
        "clsoe + 1",
        "clsoe",
        "`clsoe` is neither a column of the candles nor a feature",
        "`close`",
    );
    assert_mistake(
        "of(\"vix\", spread)",
        "spread",
        "`spread` is neither a column of `vix` nor a feature",
        "a name is",
    );
    assert_mistake(
        "height + 1",
        "height",
        "`height` is neither a column of the candles nor a feature",
        "`height()`",
    );
    assert_mistake(
        "chnage(close)",
        "chnage",
        "unknown indicator or function `chnage`",
        "`change`",
    );
    assert_mistake(
        "close(3)",
        "close",
        "`close` is a column, and only indicators and functions are called",
        "`close[1]`",
    );
    assert_mistake(
        "change(close, 0)",
        "0",
        "`n` of `change` is 0, expected a whole number from 1 to 50",
        "",
    );
    assert_mistake(
        "change(close, 1.5)",
        "1.5",
        "`n` of `change` is 1.5, expected a whole number from 1 to 50",
        "",
    );
    assert_mistake(
        "change(close, 2 * 30)",
        "2 * 30",
        "`n` of `change` is 60, expected a whole number from 1 to 50",
        "",
    );
    assert_mistake(
        "change(close, open)",
        "open",
        "`n` of `change` is a series, expected a number",
        "as `20`",
    );
    assert_mistake(
        "change(14)",
        "14",
        "`x` of `change` is a number, expected a series",
        "`change(x, n = 3)`",
    );
    assert_mistake(
        "change()",
        "change()",
        "`change` lacks its series `x`",
        "`change(x, n = 3)`",
    );
    assert_mistake(
        "bands(close).upper",
        "bands(close)",
        "`bands` lacks its `k`",
        "`bands(x, n = 3, k)`",
    );
    assert_mistake(
        "bands(close, m = 2).upper",
        "m",
        "`bands` has no argument `m`",
        "did you mean `k`",
    );
    assert_mistake(
        "bands(close, k = 2, k = 3).upper",
        "k",
        "`k` is given twice",
        "",
    );
    assert_mistake(
        "bands(close, n = 2, 3).upper",
        "3",
        "an argument without a name follows one with a name",
        "bands(",
    );
    assert_mistake(
        "change(close, 1, 2)",
        "2",
        "`change` takes 2 arguments, and this is one more",
        "change(",
    );
    assert_mistake(
        "bands(close, 3, 2)",
        "bands(close, 3, 2)",
        "`bands` gives 2 columns",
        "`.upper` or `.lower`",
    );
    assert_mistake(
        "bands(close, 3, 2).uper",
        "uper",
        "`bands` gives no `.uper`",
        "`.upper`",
    );
    assert_mistake(
        "change(close).line",
        "line",
        "`change` gives one column, and it has no name",
        "",
    );
    assert_mistake(
        "close.signal",
        "signal",
        "`.signal` follows no indicator",
        "macd(close).signal",
    );
    assert_mistake(
        "abs(close).x",
        "x",
        "`abs` gives one column, and it has no name",
        "",
    );
    assert_mistake(
        "close[-1]",
        "-1",
        "`[-1]` would look at rows that are not there yet",
        "`close[1]`",
    );
    assert_mistake(
        "close[1.5]",
        "1.5",
        "1.5 rows back, expected a whole number from 0 to 10000",
        "",
    );
    assert_mistake(
        "close[open]",
        "open",
        "the number of rows to go back is not written as a number",
        "",
    );
    assert_mistake("3[1]", "3", "a number has no earlier rows", "");
    assert_mistake(
        "close and open > 1",
        "close",
        "`and` takes a condition here, and this is a series of numbers",
        "x > 0",
    );
    assert_mistake(
        "if(close, 1, 2)",
        "close",
        "`if` takes a condition here, and this is a series of numbers",
        "x > 0",
    );
    assert_mistake(
        "if(close > 1, 2)",
        "if(close > 1, 2)",
        "`if` takes 3 arguments, and 2 are given here",
        "if(condition",
    );
    assert_mistake("1 / 0 + close", "1 / 0", "this is no finite number", "");
    assert_mistake(
        "1 < 2",
        "1 < 2",
        "`<` compares two written numbers",
        "series",
    );
    assert_mistake(
        "close ^ open",
        "open",
        "the exponent is a series, expected a number",
        "exp(y * ln(x))",
    );
    assert_mistake(
        "close ^ 1.5",
        "1.5",
        "the exponent is 1.5, expected 0.5 or a whole number from 1 to 16 or below 0",
        "exp(1.5 * ln(x))",
    );
    assert_mistake(
        "at(\"4x\", close)",
        "\"4x\"",
        "`4x` is no timeframe up to four weeks",
        "`4h`",
    );
    assert_mistake(
        "at(4, close)",
        "4",
        "expected a text between quotes",
        "at(\"4h\", value)",
    );
    assert_mistake(
        "at(\"4h\", at(\"1d\", close))",
        "at(\"1d\", close)",
        "`at` stands inside another `at`",
        "candles",
    );
    assert_mistake(
        "at(\"4h\", of(\"vix\", close))",
        "of(\"vix\", close)",
        "`of` stands inside `of` or `at`",
        "of(\"vix\", at(",
    );
    assert_mistake(
        "of(\"VIX\", close)",
        "\"VIX\"",
        "`VIX` is no name of another market",
        "input",
    );
    assert_mistake("\"4h\"", "\"4h\"", "a text is no value", "at(");
}

#[test]
fn features_build_on_each_other_in_any_order_but_not_in_circles() {
    let bars = market(40, 3);
    let two = compiled(&[("b", "a * 2"), ("a", "close + b0"), ("b0", "open")]).unwrap();
    let found = Engine::batch(&two.frames[0].program, bars.view(), &[]);
    for t in 0..40 {
        assert!((found[0][t] - 2.0 * (bars.close[t] + bars.open[t])).abs() < 1e-9);
    }

    let error = compiled(&[("a", "close + b"), ("b", "a / 2")]).unwrap_err();
    assert_eq!(error.feature, "b");
    assert_eq!(
        error.mistake.message,
        "`a` is defined by itself: a <- b <- a"
    );
    assert_eq!(error.mistake.at, 0..1);

    let error = compiled(&[("a", "close + b"), ("b", "clsoe")]).unwrap_err();
    assert_eq!((error.feature.as_str(), error.mistake.at), ("b", 0..5));

    let names: Vec<String> = (0..2000).map(|i| format!("f{i}")).collect();
    let texts: Vec<String> = (0..2000).map(|i| format!("-(1 + f{})", i + 1)).collect();
    let mut chain: Vec<(&str, &str)> = names
        .iter()
        .zip(&texts)
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    chain.push(("f2000", "close"));
    let error = compiled(&chain).unwrap_err();
    assert_eq!(
        error.mistake.message,
        "too many features build on each other here"
    );
}

#[test]
fn equal_parts_are_computed_once() {
    let once = compiled(&[("x", "change(close, 5)")]).unwrap();
    let twice = compiled(&[
        ("x", "change(close, 5)"),
        ("y", "change(x = close, n = 5)"),
        ("z", "close - close[5]"),
    ])
    .unwrap();

    let nodes = |compiled: &Compiled| {
        format!("{:?}", compiled.frames[0].program)
            .matches("Node {")
            .count()
    };
    assert_eq!(nodes(&once), nodes(&twice));
}

#[test]
fn functions_and_folded_numbers_have_their_values() {
    let bars = market(30, 8);
    let close = &bars.close;
    for (text, of) in [
        (
            "sqrt(close) + ln(close)",
            &(|x: f64| x.sqrt() + natron_kernels::math::ln(x)) as &dyn Fn(f64) -> f64,
        ),
        ("exp(close / 100)", &|x| {
            natron_kernels::math::exp(x / 100.0)
        }),
        ("sin(close) + cos(close)", &|x| {
            natron_kernels::math::sin(x) + natron_kernels::math::cos(x)
        }),
        ("sign(close - 100)", &|x| {
            if x > 100.0 {
                1.0
            } else if x < 100.0 {
                -1.0
            } else {
                0.0
            }
        }),
        ("clip(close, 99, 101)", &|x| x.clamp(99.0, 101.0)),
        ("min2(close, 100) + max2(100, close)", &|x| {
            x.min(100.0) + x.max(100.0)
        }),
        ("where(close > 100, 1, -1)", &|x| {
            if x > 100.0 { 1.0 } else { -1.0 }
        }),
        ("close ^ -2", &|x| 1.0 / (x * x)),
        ("close ^ 0.5", &f64::sqrt),
        (
            "close * (2 ^ 3 - sqrt(16) / abs(-2) + max2(1, 2) + if(1 > close, 1, 0))",
            &|x| x * 8.0,
        ),
    ] {
        let found = batch(text, bars.view());
        for t in 0..30 {
            let expected = of(close[t]);
            assert!(
                (found[t] - expected).abs() <= 1e-12 * expected.abs().max(1.0),
                "{text}: {} against {expected}",
                found[t]
            );
        }
    }
}

#[test]
fn units_follow_from_what_is_computed() {
    let squared = Unit::Amount {
        price: 2,
        volume: 0,
    };
    for (text, unit) in [
        ("close - open", Unit::PRICE),
        ("close - 1", Unit::PRICE),
        ("(close - open) / open", Unit::RATIO),
        ("close / open - 1", Unit::RATIO),
        ("close * volume / volume[1]", Unit::PRICE),
        (
            "close * volume",
            Unit::Amount {
                price: 1,
                volume: 1,
            },
        ),
        ("close ^ 2", squared),
        ("sqrt(close ^ 2)", Unit::PRICE),
        ("close + volume", Unit::Unknown),
        ("ln(close / open)", Unit::RATIO),
        ("ln(close)", Unit::Unknown),
        ("close > open", Unit::Flag),
        ("(close > open) * volume", Unit::VOLUME),
        ("close / open * (close > open)", Unit::RATIO),
        ("close / open * sqrt(252)", Unit::RATIO),
        ("change(close)", Unit::PRICE),
        ("bands(volume, 1, 2).lower / 100", Unit::RATIO),
        ("bands(volume, 1, 2).lower - 50", Unit::Percent),
        ("if(close > open, close, open)", Unit::PRICE),
        ("spread", Unit::Unknown),
        ("spread / spread", Unit::Unknown),
        ("height() / close", Unit::RATIO),
        ("at(\"1d\", close) / close", Unit::RATIO),
    ] {
        assert_eq!(compiled(&[("x", text)]).unwrap().units, [unit], "{text}");
    }
}

#[test]
fn longer_bars_and_other_markets_are_frames_of_their_own() {
    let found = compiled(&[
        (
            "a",
            "at(\"4h\", change(close, 2)) - at('4h', change(close, 2))[1]",
        ),
        ("b", "of(\"vix\", futures / at(\"1d\", close)) + spread"),
    ])
    .unwrap();

    let steps: Vec<(String, Option<usize>)> = found
        .frames
        .iter()
        .map(|frame| (format!("{:?}", frame.step), frame.parent))
        .collect();
    assert_eq!(steps.len(), 4, "{steps:?}");
    assert_eq!(found.frames[0].step, Step::Candles);
    assert_eq!(
        (found.frames[2].step.clone(), found.frames[2].parent),
        (Step::Market("vix".to_owned()), Some(0))
    );
    assert_eq!(found.frames[3].parent, Some(2));
    assert_eq!(
        found.frames[0].sources,
        [
            Source::Joined {
                frame: 1,
                output: 0
            },
            Source::Joined {
                frame: 2,
                output: 0
            },
            Source::Table("spread".to_owned()),
        ]
    );
    assert_eq!(
        found.frames[2].sources[0],
        Source::Table("futures".to_owned())
    );
    assert_eq!(
        found.frames[2].uses[0].iter().copied().collect::<Vec<_>>(),
        [(3, 0)]
    );
    assert_eq!(
        found.frames[0].uses[0].iter().copied().collect::<Vec<_>>(),
        [(1, 0)]
    );
}

#[test]
fn a_series_in_several_blocks_is_one_series() {
    let bars: BarColumns = market(1500, 4);
    let text = "bands(change(close, 7), 40, 2).upper / height()[3]";
    let tree = parse(text).unwrap();
    let found = batch(text, bars.view());
    for t in [46, 47, 511, 512, 513, 1030, 1499] {
        let expected = naive(
            &parse("2 * change(close, 7)[40] / (high[3] - low[3])").unwrap(),
            bars.view(),
            t,
        );
        assert!(
            (found[t] - expected).abs() <= 1e-12 * expected.abs()
                || (found[t].is_nan() && !expected.is_finite()),
            "{tree}, row {t}"
        );
    }
}

#[test]
fn no_indicator_of_the_catalogue_breaks_on_parameters_in_their_ranges() {
    let bars = market(130, 6);
    let mut dice = Dice(77);
    for indicator in catalog::catalog() {
        for round in 0..25 {
            let mut builder = Builder::new();
            let inputs = [Input::Close, Input::Volume, Input::High];
            let series: Vec<Series> = (0..indicator.series.len())
                .map(|i| builder.input(inputs[i % 3]))
                .collect();
            let parameters: Vec<f64> = indicator
                .parameters
                .iter()
                .map(|parameter| match (parameter.range, round) {
                    (Range::Whole(least, _), 0) => f64::from(least),
                    (Range::Whole(least, most), _) => f64::from(
                        least
                            + dice.below(most.min(least + 60).abs_diff(least) as usize + 1) as u32,
                    ),
                    (Range::Real(least, _), 0) => least,
                    (Range::Real(least, most), 1) => most.min(least + 1e6),
                    (Range::Real(least, most), _) => {
                        least + (most.min(least + 10.0) - least) * dice.below(1000) as f64 / 1000.0
                    }
                })
                .collect();
            let outputs = (indicator.expand)(&mut builder, &series, &parameters);
            assert_eq!(outputs.len(), indicator.outputs.len());
            let program = builder.finish(&outputs);
            let found = Engine::batch(&program, bars.view(), &[]);
            let shown = (indicator.name, &parameters);
            assert!(found.iter().all(|column| column.len() == 130), "{shown:?}");
            assert!(
                found.iter().flatten().all(|x| !x.is_infinite()),
                "{shown:?}"
            );
        }
    }
}
