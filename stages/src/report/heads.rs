//! The heads: scores beside baselines, worth against forward returns, confusion, calibration.

use natron_artifacts::{Metrics, StageError};
use serde_json::Value;

use super::{
    Sources,
    chart::{Chart, Line, Look, share},
    html::{escape, fixed, number, percent, section, table, words},
};

const HEADS: [&str; 4] = ["buy", "sell", "direction", "regime"];

const SCORES: [(&str, &str); 9] = [
    ("accuracy", "Accuracy"),
    ("balanced_accuracy", "Balanced accuracy"),
    ("f1", "F1"),
    ("macro_f1", "Macro F1"),
    ("mcc", "Matthews correlation"),
    ("auc", "AUC"),
    ("log_loss", "Log loss (lower is better)"),
    ("brier_score", "Brier score (lower is better)"),
    ("calibration_error", "Calibration error (lower is better)"),
];

/// Scores of the test split, with those of the validation split folded away.
pub(super) fn scores(sources: &Sources) -> String {
    let Some(metrics) = &sources.evaluation else {
        return String::new();
    };
    let test = score_table(metrics, "test");
    if test.is_empty() {
        return String::new();
    }
    let legend = "<div class=\"legendline\"><span class=\"key\"><span class=\"strip\"><i style=\"left:10%;width:80%\"></i><b style=\"left:50%\"></b></span>model with 95&#8239;% interval</span>\
                  <span class=\"key\"><span class=\"strip\"><u style=\"left:50%\"></u></span>base rate: what a model without inputs scores</span>\
                  <span class=\"key\"><span class=\"strip\"><u class=\"second\" style=\"left:50%\"></u></span>persistence: the last label known</span></div>";
    let note = "<p class=\"note\"><strong>Buy, sell and regime labels are functions of the same bar's inputs.</strong> \
                A perfect score on them is reading, not prediction: the rule itself would reach it without a model. \
                What these heads are worth to a trader stands in the next section.</p>";
    let validation = score_table(metrics, "validation");
    let left_out = left_out(metrics);
    let block = metrics
        .get("heads.test.block_bars")
        .map_or(String::new(), |bars| {
            format!(
                " Intervals: stationary block bootstrap, mean block {} bars.",
                number(bars)
            )
        });
    let lead = format!(
        "Test split, {} windows. The gain is over the better of the two baselines.{block}",
        number(metrics.get("heads.test.n_windows").unwrap_or(0.0))
    );
    let folded = if validation.is_empty() {
        String::new()
    } else {
        format!("<details><summary>Validation split</summary>{validation}</details>")
    };
    section(
        "heads",
        "Heads",
        &lead,
        &format!("{note}{legend}{test}{left_out}{folded}"),
    )
}

fn score_table(metrics: &Metrics, split: &str) -> String {
    let mut rows = String::new();
    for head in HEADS {
        let at =
            |score: &str, what: &str| metrics.get(&format!("heads.{split}.{head}.{score}.{what}"));
        let mut some = String::new();
        for (score, called) in SCORES {
            let Some(value) = at(score, "value") else {
                continue;
            };
            let interval = at(score, "low").zip(at(score, "high"));
            let show = |v: Option<f64>| {
                v.map_or_else(
                    || "<span class=\"none\">\u{2013}</span>".into(),
                    |v| fixed(v, 3),
                )
            };
            let badge = match (at(score, "gain_low"), at(score, "gain_high")) {
                (Some(low), _) if low > 0.0 => "<span class=\"badge good\">better</span>",
                (_, Some(high)) if high < 0.0 => "<span class=\"badge bad\">worse</span>",
                (Some(_), Some(_)) => "<span class=\"badge\">no difference shown</span>",
                _ => "",
            };
            let (base, last) = (at(score, "base_rate"), at(score, "persistence"));
            some += &format!(
                "<tr><th scope=\"row\">{called}</th><td><strong>{}</strong></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{badge}</td></tr>\n",
                fixed(value, 3),
                interval.map_or(String::new(), |(low, high)| format!(
                    "{} to {}",
                    fixed(low, 3),
                    fixed(high, 3)
                )),
                strip(value, interval, base, last),
                show(base),
                show(last),
            );
        }
        if !some.is_empty() {
            rows += &format!(
                "<tr class=\"group\"><th colspan=\"7\" scope=\"rowgroup\">{}</th></tr>\n{some}",
                heading(head)
            );
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">score</th><th scope=\"col\">model</th><th scope=\"col\">95&#8239;% interval</th><th></th>\
         <th scope=\"col\">base rate</th><th scope=\"col\">persistence</th><th scope=\"col\">against the better</th></tr></thead><tbody>\n{rows}</tbody></table></div>\n"
    )
}

fn heading(head: &str) -> String {
    let mut letters = head.chars();
    let first = letters
        .next()
        .map_or(String::new(), |c| c.to_uppercase().collect());
    escape(&format!("{first}{}", letters.as_str()))
}

/// A line with the model's interval and point and the baselines' marks.
fn strip(value: f64, interval: Option<(f64, f64)>, base: Option<f64>, last: Option<f64>) -> String {
    let (from, to) = interval.unwrap_or((value, value));
    let all = [Some(value), Some(from), Some(to), base, last];
    let (low, high) = all
        .into_iter()
        .flatten()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v), high.max(v))
        });
    let width = (high - low).max(1e-9);
    let place = |v: f64| share(0.05 + 0.9 * (v - low) / width);
    let mut out = format!(
        "<i style=\"left:{}%;width:{}%\"></i>",
        place(from),
        share(0.9 * (to - from) / width)
    );
    if let Some(base) = base {
        out += &format!("<u style=\"left:{}%\"></u>", place(base));
    }
    if let Some(last) = last {
        out += &format!("<u class=\"second\" style=\"left:{}%\"></u>", place(last));
    }
    format!(
        "<span class=\"strip\">{out}<b style=\"left:{}%\"></b></span>",
        place(value)
    )
}

fn left_out(metrics: &Metrics) -> String {
    let names: Vec<String> = metrics
        .numbers()
        .into_iter()
        .filter_map(|(path, _)| {
            Some(format!(
                "<code>{}</code>",
                escape(path.strip_prefix("left_out.")?)
            ))
        })
        .collect();
    if names.is_empty() {
        return String::new();
    }
    format!(
        "<p class=\"sub\">Left out because only one class or value occurs: {}.</p>",
        names.join(", ")
    )
}

/// What the heads say of the returns that follow.
pub(super) fn forward(sources: &Sources) -> String {
    let Some(metrics) = &sources.evaluation else {
        return String::new();
    };
    let mut rows = Vec::new();
    for head in ["buy", "sell", "direction"] {
        let at =
            |name: &str, what: &str| metrics.get(&format!("forward.test.{head}.{name}.{what}"));
        for (name, called) in [
            ("information_coefficient", "information coefficient"),
            ("auc", "AUC for a rise"),
            ("hit_rate", "hit rate"),
            (
                "label_information_coefficient",
                "information coefficient of the true label",
            ),
        ] {
            let Some(value) = at(name, "value") else {
                continue;
            };
            let (interval, baseline) =
                (at(name, "low").zip(at(name, "high")), at(name, "baseline"));
            let badge = match (interval, baseline) {
                (Some((low, _)), Some(base)) if low > base => {
                    "<span class=\"badge good\">better</span>"
                }
                (Some((_, high)), Some(base)) if high < base => {
                    "<span class=\"badge bad\">worse</span>"
                }
                (Some(_), Some(_)) => "<span class=\"badge\">no difference shown</span>",
                _ => "",
            };
            rows.push(vec![
                format!("{}: {called}", heading(head)),
                format!("<strong>{}</strong>", fixed(value, 3)),
                interval.map_or(String::new(), |(low, high)| {
                    format!("{} to {}", fixed(low, 3), fixed(high, 3))
                }),
                strip(value, interval, baseline, None),
                baseline.map_or(String::new(), |v| fixed(v, 3)),
                badge.to_owned(),
            ]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let horizon = metrics.get("label_horizon_bars").unwrap_or(0.0);
    let lead = format!(
        "Rank correlation of each head's probability with the return over the next {} bars, how well it tells rises from falls, and how often \
         the price went where the head called. The last line of each head is what a perfect head would reach, since it uses the true label.",
        number(horizon)
    );
    let head = ["", "model", "95&#8239;% interval", "", "baseline", ""];
    section(
        "forward",
        "Heads against the returns that follow",
        &lead,
        &table("", &head, &rows),
    )
}

/// Confusion matrices of the test split, shaded by share of the true class.
pub(super) fn confusion(sources: &Sources) -> String {
    let Some(metrics) = &sources.evaluation else {
        return String::new();
    };
    let mut matrices = String::new();
    for head in HEADS {
        let Some(Value::Object(rows)) = metrics.value(&format!("heads.test.{head}.confusion"))
        else {
            continue;
        };
        let name = |key: &str| words(key.split_once('_').map_or(key, |(_, name)| name));
        let columns: Vec<String> = rows
            .values()
            .next()
            .and_then(Value::as_object)
            .map_or(Vec::new(), |row| row.keys().map(|key| name(key)).collect());
        let mut body = String::new();
        for (truth, row) in rows {
            let cells: Vec<f64> = row.as_object().map_or(Vec::new(), |row| {
                row.values().filter_map(Value::as_f64).collect()
            });
            let total: f64 = cells.iter().sum();
            let cells: String = cells
                .iter()
                .map(|&cell| {
                    let part = if total > 0.0 { cell / total } else { 0.0 };
                    format!(
                        "<td style=\"background:rgba(var(--heat),{:.2})\" title=\"{} of the true class\">{}</td>",
                        0.04 + 0.5 * part,
                        escape(&percent(part)),
                        number(cell)
                    )
                })
                .collect();
            body += &format!("<tr><th scope=\"row\">{}</th>{cells}</tr>", name(truth));
        }
        let head_cells: String = columns
            .iter()
            .map(|c| format!("<th scope=\"col\">{c}</th>"))
            .collect();
        matrices += &format!(
            "<div><h3>{}</h3><div class=\"scroll\"><table class=\"heat narrow\"><thead><tr><th></th>{head_cells}</tr></thead><tbody>{body}</tbody></table></div></div>\n",
            heading(head)
        );
    }
    if matrices.is_empty() {
        return String::new();
    }
    section(
        "confusion",
        "Confusion matrices",
        "True class in rows, predicted class in columns; shaded by the share of the true class.",
        &format!("<div class=\"two\">{matrices}</div>"),
    )
}

/// Reliability curves of the test split.
pub(super) fn reliability(sources: &Sources) -> Result<String, StageError> {
    let Some(calibration) = &sources.calibration else {
        return Ok(String::new());
    };
    let (split, head) = (calibration.utf8("split")?, calibration.utf8("head")?);
    let (stated, observed) = (
        calibration.numbers("mean_predicted")?,
        calibration.numbers("observed")?,
    );
    let count = calibration.i64("count")?;
    let mut charts = String::new();
    for name in HEADS {
        let rows: Vec<usize> = (0..head.len())
            .filter(|&i| {
                split[i] == "test"
                    && head[i] == name
                    && stated[i].is_finite()
                    && observed[i].is_finite()
            })
            .collect();
        if rows.is_empty() {
            continue;
        }
        let mut x = vec![0.0];
        x.extend(rows.iter().map(|&i| stated[i].clamp(0.0, 1.0)));
        x.push(1.0);
        let mut y = vec![f64::NAN];
        y.extend(rows.iter().map(|&i| observed[i]));
        y.push(f64::NAN);
        let mut x_names = vec![String::new()];
        x_names.extend(rows.iter().map(|&i| {
            format!(
                "{} windows said {}",
                number(count[i] as f64),
                percent(stated[i])
            )
        }));
        x_names.push(String::new());
        let chart = Chart {
            id: format!("reliability-{name}"),
            title: format!("stated and observed probability of {name}"),
            x_ticks: [0.0, 0.25, 0.5, 0.75, 1.0]
                .map(|v| (v, percent_tick(v)))
                .to_vec(),
            lines: vec![
                Line {
                    name: "perfect".into(),
                    class: "muted",
                    y: x.clone(),
                    look: Look::Dashed,
                },
                Line {
                    name: "came true".into(),
                    class: "s1",
                    y,
                    look: Look::Dots,
                },
            ],
            x,
            x_names,
            log: false,
            at_least: Some((0.0, 1.0)),
            reference: None,
            format: &percent_tick,
            size: "medium",
        };
        charts += &format!("<div><h3>{}</h3>{}</div>\n", heading(name), chart.html());
    }
    if charts.is_empty() {
        return Ok(String::new());
    }
    let lead = "How often it came true (up) when the model stated a probability (right): of the positive class for buy and sell, of the \
                predicted class for direction and regime. On the diagonal, probabilities mean what they say.";
    Ok(section(
        "reliability",
        "Calibration on the test split",
        lead,
        &format!("<div class=\"four\">{charts}</div>"),
    ))
}

fn percent_tick(v: f64) -> String {
    format!("{}\u{2009}%", fixed(v * 100.0, 0))
}
