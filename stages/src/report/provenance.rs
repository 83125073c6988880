//! Where everything comes from: stated targets, graph, parameters, digests.

use natron_artifacts::StageContext;
use serde_json::Value;

use super::{
    Sources, graph,
    html::{escape, number, section, table},
};

/// What the system's document promises beside what was found.
pub(super) fn targets(sources: &Sources) -> String {
    let stated = |name: &str| sources.figure(&format!("targets.{name}.stated"));
    let mut rows = Vec::new();
    if let Some(bars) = stated("window_bars") {
        let measured = sources.figure("targets.window_bars.measured");
        rows.push(vec![
            "Bars in a window".to_owned(),
            number(bars),
            measured.map_or_else(|| "\u{2013}".into(), number),
        ]);
    }
    if let Some(features) = stated("features") {
        let measured = sources
            .model
            .as_ref()
            .map(|model| model.card.features.len() as f64);
        rows.push(vec![
            "Features".to_owned(),
            format!("about {}", number(features)),
            measured.map_or_else(|| "\u{2013}".into(), number),
        ]);
    }
    if let Some(latency) = stated("latency_ms") {
        rows.push(vec![
            "Latency of a prediction through the socket".to_owned(),
            format!("under {}\u{2009}ms", number(latency)),
            "not measured here: a report holds no clock".to_owned(),
        ]);
    }
    if rows.is_empty() {
        return String::new();
    }
    rows.push(vec![
        "Accuracy, return, Sharpe ratio".to_owned(),
        "none stated".to_owned(),
        "see above".to_owned(),
    ]);
    section(
        "targets",
        "The document's targets",
        "What the system's own description promises, and what was found.",
        &table("narrow", &["", "stated", "found"], &rows),
    )
}

/// The graph above the report, every stage's parameters, and the digests of what came in.
pub(super) fn html(context: &StageContext) -> String {
    let mut body = String::new();
    if let Some(lineage) = context.lineage() {
        body += &graph::svg(lineage);
        body += "<h3>Parameters, defaults filled in</h3>\n";
        for stage in &lineage.stages {
            let parameters = match &stage.parameters {
                Value::Object(map) if map.is_empty() => "none".to_owned(),
                Value::Null => "none".to_owned(),
                other => serde_json::to_string_pretty(other).unwrap_or_default(),
            };
            body += &format!(
                "<details><summary>{} <span class=\"kind\">{}</span></summary><pre>{}</pre></details>\n",
                escape(&stage.name),
                escape(&stage.kind),
                escape(&parameters)
            );
        }
    }
    let ports: Vec<String> = context.input_ports().map(str::to_owned).collect();
    let rows: Vec<Vec<String>> = ports
        .iter()
        .flat_map(|port| context.inputs(port).iter().map(move |input| (port, input)))
        .map(|(port, input)| {
            vec![
                escape(port),
                escape(&input.label),
                format!("<code>{}</code>", escape(&input.logical.to_string())),
            ]
        })
        .collect();
    if !rows.is_empty() {
        body += &format!(
            "<h3>Inputs of this report, by the BLAKE3 digest of their content</h3>\n{}",
            table("left", &["port", "artifact", "digest"], &rows)
        );
    }
    if body.is_empty() {
        return String::new();
    }
    section("provenance", "Pipeline and provenance", "", &body)
}
