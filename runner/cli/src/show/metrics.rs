//! A tree of metrics.

use natron_artifacts::Metrics;
use serde_json::{Map, Value};

use crate::{
    layout::Block,
    style::{Style, printable},
    units,
};

/// A list of at most this many numbers is written out.
const MOST_IN_LINE: usize = 6;

/// The tree for people, names below names.
pub(super) fn text(name: &str, metrics: &Metrics, style: Style) -> String {
    let mut block = Block::default();
    block.line(&format!(
        "{}: {} numbers",
        style.bold(name),
        units::count(metrics.numbers().len() as u64)
    ));
    table(&mut block, metrics.tree(), 1, style);
    block.text()
}

fn table(block: &mut Block, fields: &Map<String, Value>, depth: usize, style: Style) {
    let leaf_names = fields
        .iter()
        .filter(|(_, value)| !value.is_object())
        .map(|(name, _)| name);
    let longest = leaf_names
        .map(|name| crate::style::width(name))
        .max()
        .unwrap_or(0);
    for (name, value) in fields {
        let indent = "  ".repeat(depth);
        let name = printable(name);
        if let Value::Object(inner) = value {
            block.line(&format!("{indent}{}", style.bold(&name)));
            table(block, inner, depth + 1, style);
        } else {
            let padding = " ".repeat(longest.saturating_sub(crate::style::width(&name)));
            block.line(&format!(
                "{indent}{}{padding}  {}",
                style.cyan(&name),
                leaf(value)
            ));
        }
    }
}

fn leaf(value: &Value) -> String {
    match value {
        Value::Number(number) => number
            .as_f64()
            .map_or_else(|| number.to_string(), units::number),
        Value::Array(items) if items.iter().any(Value::is_array) => {
            let rows: Vec<String> = items.iter().take(MOST_IN_LINE).map(leaf).collect();
            let more = if items.len() > MOST_IN_LINE {
                ", …"
            } else {
                ""
            };
            format!("[{}{more}]", rows.join(", "))
        }
        Value::Array(items) if items.len() <= MOST_IN_LINE => {
            let items: Vec<String> = items.iter().map(leaf).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Array(items) => format!(
            "[{} numbers: {}, {}, … {}]",
            units::count(items.len() as u64),
            leaf(&items[0]),
            leaf(&items[1]),
            leaf(&items[items.len() - 1])
        ),
        other => printable(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_indented() {
        let mut metrics = Metrics::new();
        metrics.set("test.auc", 0.625).unwrap();
        metrics.set_count("rows", 1200).unwrap();
        metrics
            .set_series("test.curve", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
            .unwrap();

        assert_eq!(
            text("evaluate", &metrics, Style::PLAIN),
            "evaluate: 2 numbers\n  rows  1200\n  test\n    auc    0.625\n    curve  [7 numbers: 1, 2, … 7]\n"
        );
    }
}
