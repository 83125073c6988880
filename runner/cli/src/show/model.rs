//! A model: its card and its tensors.

use natron_artifacts::{Model, ModelCard, Tensor};
use serde_json::{Map, Value, json};

use crate::{
    layout::{Align, Block, columns, wrapped},
    parameters::toml_value,
    style::{Style, printable, truncated},
    units,
};

/// More tensors than this are summed up by the first parts of their names.
const MOST_TENSORS: usize = 40;

/// The model for people.
pub(super) fn text(name: &str, model: &Model, style: Style, width: usize) -> String {
    let card = &model.card;
    let mut block = Block::default();
    block.line(&format!(
        "{}: {}, {} weights in {}",
        style.bold(name),
        style.bold(&printable(&card.architecture)),
        units::count(n_weights(model) as u64),
        units::plural(model.tensors.len(), "tensor")
    ));
    for (name, value) in facts(card) {
        let value = truncated(&value, width.saturating_sub(24));
        block.line(&format!("  {}{value}", style.cyan(&format!("{name:20}"))));
    }
    section(
        &mut block,
        "hyper-parameters",
        &card.hyper_parameters,
        style,
        width,
    );
    section(&mut block, "feature plan", &card.feature_plan, style, width);
    if !card.features.is_empty() {
        block.line("");
        block.line(&style.bold(&units::plural(card.features.len(), "feature")));
        let names: Vec<String> = card.features.iter().map(|name| printable(name)).collect();
        block.lines(2, wrapped(&names.join(", "), width.saturating_sub(2)));
    }
    if !card.extra.is_empty() {
        let extra = card
            .extra
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        section(&mut block, "more", &Value::Object(extra), style, width);
    }
    block.line("");
    let (title, rows) = tensor_rows(model, style);
    block.line(&style.bold(title));
    let align = [
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Right,
        Align::Right,
    ];
    block.lines(2, columns(&rows, &align));
    block.text()
}

fn facts(card: &ModelCard) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if !card.made_by.is_empty() {
        facts.push(("made by", printable(&card.made_by)));
    }
    facts.push(("window", units::plural(card.window_bars as usize, "bar")));
    facts.push((
        "label horizon",
        units::plural(card.label_horizon_bars as usize, "bar"),
    ));
    facts.push(("trained on", card.trained_on.short()));
    for (head, outputs) in &card.heads {
        facts.push((
            "head",
            printable(&format!("{head}: {}", outputs.join(", "))),
        ));
    }
    let scaler = match &card.scaler {
        Some(scaler) => format!("{} means and scales", scaler.mean.len()),
        None => "none".to_owned(),
    };
    facts.push(("scaler", scaler));
    facts
}

fn section(block: &mut Block, title: &str, value: &Value, style: Style, width: usize) {
    let mut leaves = Vec::new();
    collect("", value, &mut leaves);
    if leaves.is_empty() {
        return;
    }
    block.line("");
    block.line(&style.bold(title));
    let longest = leaves.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in leaves {
        let value = truncated(&value, width.saturating_sub(longest + 4));
        block.line(&format!(
            "  {}  {value}",
            style.cyan(&format!("{name:longest$}"))
        ));
    }
}

fn collect(path: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = printable(name);
                let path = if path.is_empty() {
                    name
                } else {
                    format!("{path}.{name}")
                };
                collect(&path, value, out);
            }
        }
        value => out.push((path.to_owned(), printable(&toml_value(value)))),
    }
}

fn n_weights(model: &Model) -> usize {
    model
        .tensors
        .values()
        .map(|tensor| tensor.values.len())
        .sum()
}

fn tensor_rows(model: &Model, style: Style) -> (&'static str, Vec<Vec<String>>) {
    if model.tensors.len() <= MOST_TENSORS {
        let mut rows = vec![
            ["tensor", "shape", "weights", "mean", "deviation"]
                .map(|t| style.dim(t))
                .to_vec(),
        ];
        for (name, tensor) in &model.tensors {
            let (mean, deviation) = moments(tensor);
            rows.push(vec![
                style.cyan(&printable(name)),
                shape(tensor),
                units::count(tensor.values.len() as u64),
                units::number(mean),
                units::number(deviation),
            ]);
        }
        return ("tensors", rows);
    }
    let mut groups: Vec<(String, usize, usize)> = Vec::new();
    for (name, tensor) in &model.tensors {
        let group = name
            .rsplit_once('.')
            .map_or(name.as_str(), |(group, _)| group);
        match groups.last_mut() {
            Some((last, n, weights)) if last == group => {
                *n += 1;
                *weights += tensor.values.len();
            }
            _ => groups.push((group.to_owned(), 1, tensor.values.len())),
        }
    }
    let mut rows = vec![
        ["group", "tensors", "weights"]
            .map(|t| style.dim(t))
            .to_vec(),
    ];
    rows.extend(groups.into_iter().map(|(group, n, weights)| {
        vec![
            style.cyan(&printable(&group)),
            n.to_string(),
            units::count(weights as u64),
        ]
    }));
    ("tensors (all of them with --json)", rows)
}

fn shape(tensor: &Tensor) -> String {
    let extents: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
    extents.join("×")
}

fn moments(tensor: &Tensor) -> (f64, f64) {
    let n = tensor.values.len().max(1) as f64;
    let mean = tensor.values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = tensor
        .values
        .iter()
        .map(|&v| (f64::from(v) - mean) * (f64::from(v) - mean))
        .sum::<f64>()
        / n;
    (mean, variance.sqrt())
}

/// The model for machines.
pub(super) fn json(model: &Model) -> Value {
    let tensors: Map<String, Value> = model
        .tensors
        .iter()
        .map(|(name, tensor)| {
            let (mean, deviation) = moments(tensor);
            (
                name.clone(),
                json!({ "shape": tensor.shape, "mean": mean, "deviation": deviation }),
            )
        })
        .collect();
    json!({ "card": model.card, "weights": n_weights(model), "tensors": tensors })
}
