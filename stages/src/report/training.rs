//! Curves of the training phases, and statistics of the labels.

use std::collections::BTreeMap;

use natron_artifacts::Metrics;
use serde_json::Value;

use super::{
    Sources,
    chart::{Chart, Line, Look, round_values},
    html::{escape, number, section, table, words},
};

/// Words of a series' name that tell lines of one chart apart, with the line's class.
const VARIANTS: [(&str, &str, &str); 6] = [
    ("train", "training", "s1"),
    ("training", "training", "s1"),
    ("validation", "validation", "s2"),
    ("valid", "validation", "s2"),
    ("val", "validation", "s2"),
    ("test", "test", "s3"),
];

/// One chart for each quantity that a phase recorded, training and validation together.
pub(super) fn curves(sources: &Sources) -> String {
    let phases = [
        ("pretrain", "Pretraining", "epoch", &sources.pretrain),
        ("finetune", "Fine-tuning", "epoch", &sources.finetune),
        ("rl", "Reinforcement learning", "update", &sources.rl),
    ];
    let mut body = String::new();
    for (id, called, unit, metrics) in phases {
        let Some(metrics) = metrics else { continue };
        let mut series = Vec::new();
        collect(
            "",
            metrics.value("curves").unwrap_or(&Value::Null),
            &mut series,
        );
        let charts: String = grouped(series)
            .into_iter()
            .map(|(title, lines)| {
                format!(
                    "<div><h3>{}</h3>{}</div>\n",
                    words(&title),
                    chart(id, &title, unit, lines)
                )
            })
            .collect();
        let facts = facts(metrics);
        if !charts.is_empty() || !facts.is_empty() {
            body += &format!("<h3>{called}</h3>\n{facts}<div class=\"four\">{charts}</div>");
        }
    }
    if body.is_empty() {
        return String::new();
    }
    section("training", "Training", "", &body)
}

fn collect(path: &str, value: &Value, series: &mut Vec<(String, Vec<f64>)>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                collect(&path, value, series);
            }
        }
        Value::Array(items) => {
            if let Some(values) = items
                .iter()
                .map(Value::as_f64)
                .collect::<Option<Vec<f64>>>()
                && !values.is_empty()
            {
                series.push((path.to_owned(), values));
            }
        }
        _ => {}
    }
}

type Lines = Vec<(String, &'static str, Vec<f64>)>;

/// Series by what they measure: `loss.train` and `validation_loss` are two lines of the chart `loss`.
fn grouped(series: Vec<(String, Vec<f64>)>) -> BTreeMap<String, Lines> {
    let mut charts: BTreeMap<String, Lines> = BTreeMap::new();
    for (path, values) in series {
        let mut rest = Vec::new();
        let mut variant = ("value".to_owned(), "s1");
        for word in path.split(['.', '_']) {
            match VARIANTS.iter().find(|(name, _, _)| *name == word) {
                Some((_, called, class)) => variant = ((*called).to_owned(), class),
                None => rest.push(word),
            }
        }
        let title = if rest.is_empty() {
            "loss".to_owned()
        } else {
            rest.join(" ")
        };
        charts
            .entry(title)
            .or_default()
            .push((variant.0, variant.1, values));
    }
    charts
}

fn chart(phase: &str, title: &str, unit: &str, lines: Lines) -> String {
    let n = lines
        .iter()
        .map(|(_, _, values)| values.len())
        .max()
        .unwrap_or(0);
    let x: Vec<f64> = (1..=n).map(|k| k as f64).collect();
    let ticks = if n > 1 {
        round_values(1.0, n as f64, 4)
    } else {
        vec![1.0]
    };
    let ticks = ticks
        .into_iter()
        .filter(|v| (v - v.round()).abs() < 1e-9)
        .map(|v| (v, number(v)))
        .collect();
    let lines = lines
        .into_iter()
        .map(|(name, class, mut y)| {
            y.resize(n, f64::NAN);
            let look = if n <= 12 { Look::Dots } else { Look::Solid };
            Line {
                name,
                class,
                y,
                look,
            }
        })
        .collect();
    Chart {
        id: format!("{phase}-{}", title.replace(' ', "-")),
        title: title.to_owned(),
        x_names: x.iter().map(|k| format!("{unit} {}", number(*k))).collect(),
        x,
        x_ticks: ticks,
        lines,
        log: false,
        at_least: None,
        reference: None,
        format: &number,
        size: "small",
    }
    .html()
}

/// The phase's single numbers in one line.
fn facts(metrics: &Metrics) -> String {
    let facts: Vec<String> = metrics
        .numbers()
        .into_iter()
        .filter(|(path, _)| !path.contains('.'))
        .map(|(path, value)| format!("{} <strong>{}</strong>", words(&path), number(value)))
        .collect();
    if facts.is_empty() {
        return String::new();
    }
    format!("<p class=\"sub\">{}</p>\n", facts.join(" \u{b7} "))
}

/// Whatever the labels' stage found out about them.
pub(super) fn labels(sources: &Sources) -> String {
    let Some(metrics) = &sources.labels else {
        return String::new();
    };
    // One table a top-level name, where a second level makes the rows and the rest the columns.
    let mut groups: BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>> = BTreeMap::new();
    for (path, value) in metrics.numbers() {
        let mut parts = path.splitn(3, '.');
        let (first, second, third) = (parts.next().unwrap_or(""), parts.next(), parts.next());
        let (group, row, column) = match (second, third) {
            (Some(second), Some(third)) => (first, second, third),
            (Some(second), None) => ("", first, second),
            _ => ("", first, "value"),
        };
        groups
            .entry(group.to_owned())
            .or_default()
            .entry(row.to_owned())
            .or_default()
            .insert(column.to_owned(), value);
    }
    let mut body = String::new();
    for (group, rows) in &groups {
        let mut columns: Vec<&String> = rows.values().flat_map(BTreeMap::keys).collect();
        columns.sort();
        columns.dedup();
        let head: Vec<String> = columns
            .iter()
            .map(|c| words(&c.replace('.', " ")))
            .collect();
        let mut head: Vec<&str> = head.iter().map(String::as_str).collect();
        head.insert(0, "");
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|(name, values)| {
                let cells = columns
                    .iter()
                    .map(|c| values.get(*c).map_or(String::new(), |v| number(*v)));
                std::iter::once(words(name)).chain(cells).collect()
            })
            .collect();
        if !group.is_empty() {
            body += &format!("<h3>{}</h3>", escape(&group.replace('_', " ")));
        }
        body += &table("narrow", &head, &rows);
    }
    if body.is_empty() {
        return String::new();
    }
    let lead = "How often each class occurs, and how it goes with the returns of the bars that follow. Direction is defined by those \
                returns; a label that is to predict them should show a correlation too.";
    section("labels", "Labels", lead, &body)
}
