//! Samples of ranges: `sample = { method = "sobol", n = 32, seed = 1 }` beside axes as `lr = { min = 1e-5, max = 1e-2 }`.
//!
//! The points are the same for ever: Philox streams named by method and axis, Sobol's sequence in the order of the axes' names,
//! logarithms and powers in portable arithmetic, and values rounded to few decimal digits, which print short and read back as
//! the same number.

use std::collections::BTreeSet;

use natron_artifacts::Streams;

use crate::{
    Diagnostic, code,
    definition::{check_keys, expect_choice, expect_seed, wrong_type},
    document::{Content, Node},
    matrix::value_text,
    sobol::{self, Sobol},
};

/// A range is cut into at least 10 to this many steps, and a factor of 2.7 on a logarithmic one.
const DIGITS: i32 = 5;

/// More points are never asked for.
const MAX_POINTS: u32 = 1_000_000;

/// How the points are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// Independently of each other.
    Random,
    /// Sobol's sequence.
    Sobol,
    /// Latin hypercube (`McKay`, Beckman and Conover, 1979): in each of `n` equal parts of every axis lies one point.
    LatinHypercube,
}

/// `sample = {...}`.
pub(crate) struct Plan {
    pub(crate) method: Method,
    pub(crate) n: usize,
    /// Without one, the sequence of Sobol is not shifted, and the others have the seed 0.
    pub(crate) seed: Option<u64>,
}

/// What an axis is sampled from.
pub(crate) enum Dimension {
    /// Whole numbers, both ends among them.
    Integers { min: i64, max: i64, is_log: bool },
    /// Numbers.
    Floats { min: f64, max: f64, is_log: bool },
    /// These values.
    Choices(Vec<Node>),
}

/// The plan in `node`.
pub(crate) fn read_plan(node: &Node, mistakes: &mut Vec<Diagnostic>) -> Option<Plan> {
    let help = "write `sample = { method = \"sobol\", n = 32, seed = 1 }`";
    let Some(table) = node.as_table() else {
        if !node.is_broken() {
            let message = format!("`sample` is {}, expected a table", node.type_name());
            mistakes.push(node.mistake(code::BAD_MATRIX, message, "").help(help));
        }
        return None;
    };
    let before = mistakes.len();
    check_keys("`sample`", table, &["method", "n", "seed"], mistakes);
    let method = table.get("method").and_then(|entry| {
        let choices = [
            ("random", Method::Random),
            ("sobol", Method::Sobol),
            ("lhs", Method::LatinHypercube),
        ];
        expect_choice("method", &entry.node, &choices, mistakes)
    });
    let n = table
        .get("n")
        .and_then(|entry| points(&entry.node, mistakes));
    let seed = table
        .get("seed")
        .and_then(|entry| expect_seed("seed", &entry.node, mistakes));
    for key in ["method", "n"] {
        if !table.contains_key(key) && mistakes.len() == before {
            let message = format!("`sample` does not say its `{key}`");
            mistakes.push(node.mistake(code::BAD_MATRIX, message, "").help(help));
        }
    }
    Some(Plan {
        method: method?,
        n: n?,
        seed,
    })
}

fn points(node: &Node, mistakes: &mut Vec<Diagnostic>) -> Option<usize> {
    let Content::Integer(integer) = node.content else {
        wrong_type("`n`", node, "a number of points", mistakes);
        return None;
    };
    let n = u32::try_from(integer)
        .ok()
        .filter(|n| (1..=MAX_POINTS).contains(n));
    if n.is_none() {
        let message = format!("`n` is {integer}, expected 1 to {MAX_POINTS}");
        mistakes.push(node.mistake(code::BAD_VALUE, message, ""));
    }
    n.map(|n| n as usize)
}

/// What the axis `axis` is sampled from, as `{ min = 1e-5, max = 1e-2, scale = "log" }` or `{ values = ["a", "b"] }`.
pub(crate) fn read_dimension(
    axis: &str,
    node: &Node,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Dimension> {
    let table = node.as_table()?;
    let what = format!("axis `{axis}`");
    let before = mistakes.len();
    check_keys(&what, table, &["min", "max", "scale", "values"], mistakes);
    if let Some(values) = table.get("values") {
        if let Some(other) = ["min", "max", "scale"]
            .iter()
            .find_map(|key| table.get(key))
        {
            let message = format!("{what} has `values` and a range");
            let place = Node::new(other.key.clone(), Content::Broken);
            mistakes.push(
                place
                    .mistake(code::BAD_MATRIX, message, "")
                    .help("take one of them away"),
            );
        }
        let Content::Array(items) = &values.node.content else {
            wrong_type("`values`", &values.node, "a list", mistakes);
            return None;
        };
        return (mistakes.len() == before).then(|| Dimension::Choices(items.clone()));
    }
    let is_log = match table.get("scale") {
        None => Some(false),
        Some(entry) => {
            let choices = [("linear", false), ("log", true)];
            expect_choice("scale", &entry.node, &choices, mistakes)
        }
    };
    let mut ends = Vec::new();
    for key in ["min", "max"] {
        match table.get(key) {
            Some(entry) => ends.extend(end(key, &entry.node, mistakes)),
            None if mistakes.len() == before => {
                let message = format!("{what} has no `{key}`");
                mistakes.push(node.mistake(code::BAD_MATRIX, message, "").help(
                    "a range is `{ min = 1e-5, max = 1e-2, scale = \"log\" }`; a choice is `{ values = [\"a\", \"b\"] }`",
                ));
            }
            None => {}
        }
    }
    let (is_log, [min, max]) = (is_log?, <[&Node; 2]>::try_from(ends).ok()?);
    let (low, high) = (number(min)?, number(max)?);
    if low >= high {
        let (low, high) = (min.place.text(), max.place.text());
        let message = format!("{what} begins at {low} and ends at {high}");
        mistakes.push(
            min.mistake(code::BAD_MATRIX, message, "")
                .help("`min` lies below `max`"),
        );
        return None;
    }
    if is_log && low <= 0.0 {
        let message = format!("{what} is logarithmic and begins at {}", min.place.text());
        mistakes.push(
            min.mistake(code::BAD_MATRIX, message, "")
                .help("a logarithmic range begins above 0"),
        );
        return None;
    }
    Some(match (&min.content, &max.content) {
        (Content::Integer(min), Content::Integer(max)) => Dimension::Integers {
            min: i64::try_from(*min).ok()?,
            max: i64::try_from(*max).ok()?,
            is_log,
        },
        _ => Dimension::Floats {
            min: low,
            max: high,
            is_log,
        },
    })
}

fn end<'n>(key: &str, node: &'n Node, mistakes: &mut Vec<Diagnostic>) -> Option<&'n Node> {
    match node.content {
        Content::Integer(integer) if i64::try_from(integer).is_ok() => Some(node),
        Content::Float(float) if float.is_finite() => Some(node),
        Content::Integer(_) | Content::Float(_) => {
            let message = format!("`{key}` is {}, expected a finite number", node.place.text());
            mistakes.push(node.mistake(code::NOT_FINITE, message, ""));
            None
        }
        _ => {
            wrong_type(&format!("`{key}`"), node, "a number", mistakes);
            None
        }
    }
}

fn number(node: &Node) -> Option<f64> {
    match node.content {
        Content::Integer(integer) => Some(integer as f64),
        Content::Float(float) => Some(float),
        _ => None,
    }
}

impl Dimension {
    /// How many values there are, where they are few.
    fn count(&self) -> Option<u128> {
        match self {
            Self::Integers { min, max, .. } => {
                Some((i128::from(*max) - i128::from(*min) + 1).unsigned_abs())
            }
            Self::Floats { .. } => None,
            Self::Choices(values) => Some(values.len() as u128),
        }
    }

    /// The value at `unit` of the way, which is in \[0, 1).
    fn value(&self, unit: f64) -> Content {
        match self {
            Self::Choices(values) => {
                let index = (unit * values.len() as f64) as usize;
                values[index.min(values.len() - 1)].content.clone()
            }
            Self::Integers { min, max, is_log } => {
                // Each number takes an equal part; on a logarithmic axis, the part from half a number below it to half above.
                let value = if *is_log {
                    let (low, high) = (*min as f64 - 0.5, *max as f64 + 0.5);
                    libm::round(between_logarithms(low, high, unit))
                } else {
                    let steps = (*max as f64 - *min as f64) + 1.0;
                    *min as f64 + libm::floor(unit * steps)
                };
                Content::Integer(i128::from((value as i64).clamp(*min, *max)))
            }
            Self::Floats { min, max, is_log } => {
                let value = if *is_log {
                    let ratio = libm::log(*max / *min);
                    let more = libm::ceil(-libm::log10(ratio.min(1.0))) as i32;
                    let digits = (DIGITS + more).clamp(1, 15) as usize;
                    let value = between_logarithms(*min, *max, unit);
                    format!("{value:.*e}", digits - 1)
                } else {
                    let magnitude = libm::floor(libm::log10(*max - *min)) as i32;
                    let decimals = (DIGITS - magnitude).clamp(0, 300) as usize;
                    format!("{:.decimals$}", min + unit * (max - min))
                };
                let value: f64 = value.parse().expect("a printed number reads back");
                Content::Float(value.clamp(*min, *max))
            }
        }
    }
}

fn between_logarithms(low: f64, high: f64, unit: f64) -> f64 {
    let (low, high) = (libm::log(low), libm::log(high));
    libm::exp(low + unit * (high - low))
}

/// The points of `plan`, each with a value for every one of `axes`, no two equal; or why there are not that many.
pub(crate) fn draw(plan: &Plan, axes: &[(&str, Dimension)]) -> Result<Vec<Vec<Content>>, String> {
    if plan.method == Method::Sobol && axes.len() > sobol::MAX_DIMENSIONS {
        return Err(format!(
            "a Sobol sample has at most {} axes, and there are {}",
            sobol::MAX_DIMENSIONS,
            axes.len()
        ));
    }
    let all = axes
        .iter()
        .map(|(_, dimension)| dimension.count())
        .try_fold(1_u128, |product, count| {
            Some(product.saturating_mul(count?))
        });
    if let Some(all) = all.filter(|all| *all < plan.n as u128) {
        let n = plan.n;
        return Err(format!(
            "{n} points are asked for, and there are only {all}"
        ));
    }
    let mut units = Units::new(plan, axes);
    let mut seen = BTreeSet::new();
    let mut points = Vec::with_capacity(plan.n);
    // Rounded points may meet; then the next one is taken.
    for _ in 0..plan.n.saturating_mul(200) {
        if points.len() == plan.n {
            break;
        }
        let point: Vec<Content> = units
            .point()
            .iter()
            .zip(axes)
            .map(|(unit, (_, dimension))| dimension.value(*unit))
            .collect();
        let text: Vec<String> = point.iter().map(text_of).collect();
        if seen.insert(text) {
            points.push(point);
        }
    }
    if points.len() < plan.n {
        return Err(format!(
            "{} points are asked for, and only {} different ones were found",
            plan.n,
            points.len()
        ));
    }
    Ok(points)
}

fn text_of(content: &Content) -> String {
    let file = crate::SourceText::new("", "");
    let place = crate::Place { file, span: 0..0 };
    value_text(&Node::new(place, content.clone()))
}

/// Points of the unit cube.
enum Units {
    Streams(Vec<natron_artifacts::Stream>),
    Sobol(Sobol),
    LatinHypercube {
        /// For every axis, which of the parts each point takes.
        parts: Vec<Vec<u32>>,
        streams: Vec<natron_artifacts::Stream>,
        taken: usize,
    },
}

impl Units {
    fn new(plan: &Plan, axes: &[(&str, Dimension)]) -> Self {
        let seeded = Streams::new(plan.seed.unwrap_or(0));
        let streams = |method: &str| {
            // Named by the axis, so that another axis beside it does not change its values.
            let name = |axis: &str| format!("matrix sample {method} {axis}");
            axes.iter()
                .map(|(axis, _)| seeded.stream(&name(axis)))
                .collect::<Vec<_>>()
        };
        match plan.method {
            Method::Random => Self::Streams(streams("random")),
            Method::Sobol => Self::Sobol(Sobol::new(match plan.seed {
                None => vec![0; axes.len()],
                Some(_) => streams("sobol")
                    .iter_mut()
                    .map(natron_artifacts::Stream::next_u32)
                    .collect(),
            })),
            Method::LatinHypercube => {
                let mut streams = streams("lhs");
                let parts = streams
                    .iter_mut()
                    .map(|stream| {
                        let mut parts: Vec<u32> = (0..plan.n as u32).collect();
                        stream.shuffle(&mut parts);
                        parts
                    })
                    .collect();
                Self::LatinHypercube {
                    parts,
                    streams,
                    taken: 0,
                }
            }
        }
    }

    fn point(&mut self) -> Vec<f64> {
        match self {
            Self::Streams(streams) => streams
                .iter_mut()
                .map(natron_artifacts::Stream::uniform)
                .collect(),
            Self::Sobol(sobol) => sobol.point(),
            Self::LatinHypercube {
                parts,
                streams,
                taken,
            } => {
                let point = parts
                    .iter()
                    .zip(streams)
                    .map(|(parts, stream)| {
                        let unit = stream.uniform();
                        // Where rounded points have met, those that take their places lie anywhere.
                        parts
                            .get(*taken)
                            .map_or(unit, |part| (f64::from(*part) + unit) / parts.len() as f64)
                    })
                    .collect();
                *taken += 1;
                point
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(method: Method, n: usize, seed: u64) -> Plan {
        Plan {
            method,
            n,
            seed: Some(seed),
        }
    }

    fn rate() -> Dimension {
        Dimension::Floats {
            min: 1e-5,
            max: 1e-2,
            is_log: true,
        }
    }

    fn texts(points: &[Vec<Content>]) -> Vec<String> {
        points
            .iter()
            .map(|point| point.iter().map(text_of).collect::<Vec<_>>().join(","))
            .collect()
    }

    #[test]
    fn samples_are_the_same_for_ever() {
        let axes = [
            (
                "dropout",
                Dimension::Floats {
                    min: 0.0,
                    max: 0.5,
                    is_log: false,
                },
            ),
            (
                "layers",
                Dimension::Integers {
                    min: 1,
                    max: 8,
                    is_log: false,
                },
            ),
            ("lr", rate()),
        ];
        let draw = |method| texts(&draw(&plan(method, 3, 1), &axes).unwrap());

        assert_eq!(draw(Method::Random), SAMPLES[0]);
        assert_eq!(draw(Method::Sobol), SAMPLES[1]);
        assert_eq!(draw(Method::LatinHypercube), SAMPLES[2]);
    }

    const SAMPLES: [[&str; 3]; 3] = [
        [
            "0.471998,7,3.8725e-5",
            "0.170244,4,1.2912e-5",
            "0.231155,3,8.6966e-4",
        ],
        [
            "0.197579,6,5.5405e-5",
            "0.447579,2,0.0017521",
            "0.322579,8,3.1157e-4",
        ],
        [
            "0.140609,4,1.0188e-5",
            "0.176344,6,0.0084878",
            "0.381521,1,1.5696e-4",
        ],
    ];

    #[test]
    fn values_print_short_and_read_back() {
        for method in [Method::Random, Method::Sobol, Method::LatinHypercube] {
            let axes = [
                ("a", rate()),
                (
                    "b",
                    Dimension::Floats {
                        min: -3.0,
                        max: 1000.0,
                        is_log: false,
                    },
                ),
                (
                    "c",
                    Dimension::Floats {
                        min: 0.5,
                        max: 0.5001,
                        is_log: true,
                    },
                ),
            ];
            for point in draw(&plan(method, 1000, 7), &axes).unwrap() {
                for (content, (_, dimension)) in point.iter().zip(&axes) {
                    let text = text_of(content);
                    let Content::Float(value) = content else {
                        panic!()
                    };
                    let Dimension::Floats { min, max, .. } = dimension else {
                        panic!()
                    };
                    assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits());
                    assert!((*min..=*max).contains(value), "{text}");
                    assert!(text.len() <= 12, "{text}");
                }
            }
        }
    }

    #[test]
    fn a_latin_hypercube_has_one_point_in_each_part() {
        let whole = Dimension::Floats {
            min: 0.0,
            max: 1.0,
            is_log: false,
        };
        let axes = [
            ("a", whole),
            (
                "b",
                Dimension::Floats {
                    min: 0.0,
                    max: 1.0,
                    is_log: false,
                },
            ),
        ];

        let points = draw(&plan(Method::LatinHypercube, 50, 3), &axes).unwrap();

        for axis in 0..2 {
            let cells: BTreeSet<u32> = points
                .iter()
                .map(|point| match point[axis] {
                    Content::Float(value) => (value * 50.0) as u32,
                    _ => panic!(),
                })
                .collect();
            assert!(
                cells.len() >= 49,
                "rounding moves a point over a border at most: {cells:?}"
            );
        }
    }

    #[test]
    fn whole_numbers_and_choices_come_equally_often() {
        let file = crate::SourceText::new("p.toml", "v = ['a', 'b', 'c', 'd']");
        let root = crate::document::parse(&file).unwrap();
        let Content::Array(values) = root.at(&["v"]).unwrap().content.clone() else {
            panic!()
        };
        let axes = [
            ("choice", Dimension::Choices(values)),
            (
                "number",
                Dimension::Integers {
                    min: -1,
                    max: 2,
                    is_log: false,
                },
            ),
            (
                "x",
                Dimension::Floats {
                    min: 0.0,
                    max: 1.0,
                    is_log: false,
                },
            ),
        ];

        let points = draw(
            &Plan {
                method: Method::Sobol,
                n: 64,
                seed: None,
            },
            &axes,
        )
        .unwrap();

        for axis in 0..2 {
            let all = texts(
                &points
                    .iter()
                    .map(|p| vec![p[axis].clone()])
                    .collect::<Vec<_>>(),
            );
            let kinds: BTreeSet<&String> = all.iter().collect();
            assert_eq!(kinds.len(), 4);
            for kind in kinds {
                assert_eq!(
                    all.iter().filter(|text| *text == kind).count(),
                    16,
                    "{kind}"
                );
            }
        }
    }

    #[test]
    fn says_when_there_are_too_few_points() {
        let axes = [(
            "n",
            Dimension::Integers {
                min: 1,
                max: 3,
                is_log: true,
            },
        )];

        assert_eq!(draw(&plan(Method::Random, 3, 0), &axes).unwrap().len(), 3);
        let error = draw(&plan(Method::Random, 4, 0), &axes).unwrap_err();
        assert_eq!(error, "4 points are asked for, and there are only 3");
        let many: Vec<(&str, Dimension)> = (0..29).map(|_| ("x", rate())).collect();
        let error = draw(&plan(Method::Sobol, 4, 0), &many).unwrap_err();
        assert!(error.contains("at most 28 axes"), "{error}");
    }

    #[test]
    fn more_points_leave_the_first_ones_as_they_are() {
        for method in [Method::Random, Method::Sobol] {
            let axes = [("lr", rate())];
            let few = texts(&draw(&plan(method, 10, 5), &axes).unwrap());
            let many = texts(&draw(&plan(method, 500, 5), &axes).unwrap());
            assert_eq!(few, many[..10]);
        }
    }
}
