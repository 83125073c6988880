//! Equity, drawdown, figures, costs and trades of the strategies.

use std::collections::BTreeMap;

use natron_artifacts::{StageError, Table};

use super::{
    Sources,
    chart::{Chart, Line, Look, round_values},
    html::{day, fixed, hour, minute, month, number, percent, price, section, table, words},
};

/// Strategies with their names and colours.
const STRATEGIES: [(&str, &str, &str); 3] = [
    ("signals", "Signals", "s1"),
    ("policy", "Policy", "s2"),
    ("buy_and_hold", "Buy and hold", "muted"),
];

/// Equity on a logarithmic scale, drawdown below it, and returns by month.
pub(super) fn curves(sources: &Sources) -> Result<String, StageError> {
    let Some(equity) = &sources.equity else {
        return Ok(String::new());
    };
    let ts_ns = equity.ts_ns()?;
    let column = |name: &str| -> Result<Vec<f64>, StageError> { Ok(equity.numbers(name)?) };
    let mut lines = Vec::new();
    let mut falls = Vec::new();
    for (name, called, class) in STRATEGIES {
        let values = column(name)?;
        if values.iter().all(|v| v.is_nan()) {
            continue;
        }
        if name != "buy_and_hold" {
            lines.push(Line {
                name: format!("{called} before costs"),
                class,
                y: column(&format!("{name}_gross"))?,
                look: Look::Dashed,
            });
        }
        let look = if name == "signals" {
            Look::Area
        } else {
            Look::Solid
        };
        falls.push(Line {
            name: called.into(),
            class,
            y: drawdown(&values),
            look,
        });
        lines.push(Line {
            name: called.into(),
            class,
            y: values,
            look: Look::Solid,
        });
    }
    let months = monthly(sources, equity)?;
    let (x, x_ticks, x_names) = time_axis(ts_ns);
    let growth = |v: f64| percent(v - 1.0);
    let equity_chart = Chart {
        id: "equity".into(),
        title: "net return of the strategies since the start of the test, logarithmic".into(),
        x: x.clone(),
        x_ticks: x_ticks.clone(),
        x_names: x_names.clone(),
        lines,
        log: true,
        at_least: None,
        reference: Some(1.0),
        format: &growth,
        size: "tall",
    };
    let drawdown_chart = Chart {
        id: "drawdown".into(),
        title: "drawdown from the highest equity so far".into(),
        x,
        x_ticks,
        x_names,
        lines: falls,
        log: false,
        at_least: Some((-0.001, 0.0)),
        reference: None,
        format: &percent,
        size: "small",
    };
    let body = format!(
        "<h3>Return since the start of the test, logarithmic</h3>\n{}<h3>Drawdown</h3>\n{}{months}",
        equity_chart.html(),
        drawdown_chart.html()
    );
    let lead = "Decisions at the close, fills at the next open, fee and slippage on every fill. All cash goes into each position.";
    Ok(section(
        "equity-section",
        "Equity on the test split",
        lead,
        &body,
    ))
}

fn drawdown(equity: &[f64]) -> Vec<f64> {
    let mut peak = f64::NEG_INFINITY;
    equity
        .iter()
        .map(|&value| {
            peak = peak.max(value);
            value / peak - 1.0
        })
        .collect()
}

type TimeAxis = (Vec<f64>, Vec<(f64, String)>, Vec<String>);

/// Below this the ticks of a time axis show hours too: two weeks.
const SHORT_SPAN_NS: f64 = 14.0 * 86_400e9;

/// Positions, seven ticks, and the name of every bar.
fn time_axis(ts_ns: &[i64]) -> TimeAxis {
    let start = ts_ns.first().copied().unwrap_or(0);
    let x: Vec<f64> = ts_ns.iter().map(|&t| (t - start) as f64).collect();
    let span = x.last().copied().unwrap_or(0.0);
    let n_ticks = 6;
    let ticks = (0..=n_ticks)
        .map(|k| {
            let at = span * (0.04 + 0.88 * f64::from(k) / f64::from(n_ticks));
            let t = start + at as i64;
            (
                at,
                if span < SHORT_SPAN_NS {
                    hour(t)
                } else {
                    day(t)
                },
            )
        })
        .collect();
    (x, ticks, ts_ns.iter().map(|&t| minute(t)).collect())
}

/// Net return of each month of the test.
fn monthly(sources: &Sources, equity: &Table) -> Result<String, StageError> {
    let ts_ns = equity.ts_ns()?;
    let mut months: Vec<String> = ts_ns.iter().map(|&t| month(t)).collect();
    months.dedup();
    if months.len() < 2 {
        return Ok(String::new());
    }
    let mut rows = Vec::new();
    let mut head = vec![""];
    head.extend(months.iter().map(String::as_str));
    for (name, called, _) in STRATEGIES {
        if sources
            .figure(&format!("backtest.test.{name}.total_return"))
            .is_none()
        {
            continue;
        }
        let values = equity.numbers(name)?;
        let mut last: BTreeMap<String, f64> = BTreeMap::new();
        for (&t, &value) in ts_ns.iter().zip(&values) {
            last.insert(month(t), value);
        }
        let mut before = values.first().copied().unwrap_or(1.0);
        let mut row = vec![called.to_owned()];
        for month in &months {
            let value = last.get(month).copied().unwrap_or(before);
            let change = value / before - 1.0;
            let class = if change < 0.0 { "bad" } else { "good" };
            row.push(format!(
                "<span class=\"{class}\">{}</span>",
                percent(change)
            ));
            before = value;
        }
        rows.push(row);
    }
    Ok(format!(
        "<h3>Net return by month</h3>\n{}",
        table("", &head, &rows)
    ))
}

/// How a figure is written.
type Show = fn(f64) -> String;

/// Figures of all strategies side by side, and what costs do to them.
pub(super) fn figures(sources: &Sources) -> String {
    let present: Vec<_> = STRATEGIES
        .into_iter()
        .filter(|(name, _, _)| {
            sources
                .figure(&format!("backtest.test.{name}.total_return"))
                .is_some()
        })
        .collect();
    if present.is_empty() {
        return String::new();
    }
    let two: Show = |v| fixed(v, 2);
    let rows_of: [(&str, Show); 20] = [
        ("total_return", percent),
        ("annual_return", percent),
        ("annual_volatility", percent),
        ("sharpe_ratio", two),
        ("gross_sharpe_ratio", two),
        ("sortino_ratio", two),
        ("max_drawdown", percent),
        ("value_at_risk_95", percent),
        ("expected_shortfall_95", percent),
        ("probabilistic_sharpe_ratio", percent),
        ("turnover_per_year", number),
        ("exposure", percent),
        ("time_in_market", percent),
        ("n_trades", number),
        ("hit_rate", percent),
        ("profit_factor", two),
        ("mean_win", percent),
        ("mean_loss", percent),
        ("mean_holding_bars", number),
        ("fees", percent),
    ];
    let mut head = vec![String::new()];
    head.extend(present.iter().map(|(_, called, _)| (*called).to_owned()));
    head.extend(
        present
            .iter()
            .map(|(_, called, _)| format!("{called}, validation")),
    );
    let rows: Vec<Vec<String>> = rows_of
        .iter()
        .filter_map(|(figure, show)| {
            let mut row = vec![words(figure)];
            let mut any = false;
            for split in ["test", "validation"] {
                for (name, _, _) in &present {
                    let value = sources.figure(&format!("backtest.{split}.{name}.{figure}"));
                    any |= value.is_some();
                    row.push(value.map_or_else(missing, show));
                }
            }
            any.then_some(row)
        })
        .collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut body = table("", &head, &rows);
    let charts = cost_curves(sources);
    if !charts.is_empty() {
        body += &format!("<h3>Sharpe ratio against cost per fill, in basis points</h3>\n{charts}");
    }
    let chosen = chosen_rule(sources);
    section("strategies", "Strategies", &chosen, &body)
}

fn missing() -> String {
    "<span class=\"none\" title=\"cannot be computed\">\u{2013}</span>".to_owned()
}

fn chosen_rule(sources: &Sources) -> String {
    let chosen = |name: &str| sources.figure(&format!("signals.chosen.{name}"));
    let Some(quantile) = chosen("entry_quantile") else {
        return "No rule traded on the validation split, so the signals stay out of the market."
            .into();
    };
    let head = if chosen("uses_direction_head") > Some(0.5) {
        "direction"
    } else {
        "buy and sell"
    };
    let exit = if chosen("waits_for_opposite") > Some(0.5) {
        "held until the opposite signal"
    } else {
        "left as soon as the signal ends"
    };
    format!(
        "The signals' rule was chosen among {} on the validation split alone: the {head} head, entry above {} for long and {} for the \
         opposite (quantile {}), {exit}. Figures of the validation split are therefore too good for the signals.",
        number(sources.figure("signals.n_rules_tried").unwrap_or(0.0)),
        number(chosen("long_threshold").unwrap_or(0.0)),
        number(chosen("short_threshold").unwrap_or(0.0)),
        number(quantile),
    )
}

fn cost_curves(sources: &Sources) -> String {
    let Some(metrics) = &sources.evaluation else {
        return String::new();
    };
    let mut x = Vec::new();
    let mut lines = Vec::new();
    for (name, called, class) in STRATEGIES {
        let series = |of: &str| metrics.series(&format!("backtest.test.{name}.cost_curve.{of}"));
        if let (Some(costs), Some(ratios)) = (series("cost_bps"), series("sharpe_ratio"))
            && costs.len() > 1
            && (x.is_empty() || x == costs)
        {
            x = costs;
            lines.push(Line {
                name: called.into(),
                class,
                y: ratios,
                look: Look::Dots,
            });
        }
    }
    if lines.is_empty() {
        return String::new();
    }
    let ticks = round_values(x[0], x[x.len() - 1], 6)
        .into_iter()
        .map(|v| (v, number(v)))
        .collect();
    let two = |v: f64| fixed(v, 2);
    Chart {
        id: "costs".into(),
        title: "Sharpe ratio against cost per fill".into(),
        x_names: x
            .iter()
            .map(|&v| format!("{} bps a fill", number(v)))
            .collect(),
        x,
        x_ticks: ticks,
        lines,
        log: false,
        at_least: None,
        reference: Some(0.0),
        format: &two,
        size: "medium",
    }
    .html()
}

/// How the trades' profits are spread, and the latest of them.
pub(super) fn trades(sources: &Sources, n_listed: usize) -> Result<String, StageError> {
    let Some(trades) = sources.trades.as_ref().filter(|trades| trades.n_rows() > 0) else {
        return Ok(String::new());
    };
    let (strategy, side) = (trades.utf8("strategy")?, trades.i64("side")?);
    let (entry, exit) = (trades.times("entry_ts_ns")?, trades.times("exit_ts_ns")?);
    let number_of = |name: &str| -> Result<Vec<f64>, StageError> { Ok(trades.numbers(name)?) };
    let (opened, closed, pnl, bars) = (
        number_of("entry_price")?,
        number_of("exit_price")?,
        number_of("pnl")?,
        number_of("holding_bars")?,
    );
    let mut body = String::new();
    let mut charts = String::new();
    for (name, called, class) in STRATEGIES {
        let profits: Vec<f64> = (0..pnl.len())
            .filter(|&i| strategy[i] == name)
            .map(|i| pnl[i])
            .collect();
        if profits.len() >= 5 {
            charts += &format!(
                "<div><h3>{called}: {} trades, net profit of each, sorted</h3>\n{}</div>",
                number(profits.len() as f64),
                sorted_profits(name, class, profits)
            );
        }
    }
    if !charts.is_empty() {
        body += &format!("<div class=\"two\">{charts}</div>");
    }
    let rows: Vec<Vec<String>> = (0..trades.n_rows())
        .filter(|&i| {
            let later = (i + 1..trades.n_rows())
                .filter(|&j| strategy[j] == strategy[i])
                .count();
            later < n_listed
        })
        .map(|i| {
            let class = if pnl[i] > 0.0 { "good" } else { "bad" };
            vec![
                words(strategy[i]),
                if side[i] > 0 {
                    "long".into()
                } else {
                    "short".into()
                },
                minute(entry[i]),
                minute(exit[i]),
                number(bars[i]),
                price(opened[i]),
                price(closed[i]),
                format!("<span class=\"{class}\">{}</span>", percent(pnl[i])),
            ]
        })
        .collect();
    let head = [
        "strategy",
        "side",
        "entry",
        "exit",
        "bars",
        "entry price",
        "exit price",
        "net profit",
    ];
    body += &format!(
        "<h3>The latest trades of each strategy; profit as a share of the initial capital</h3>\n{}",
        table("", &head, &rows)
    );
    Ok(section("trades", "Trades", "", &body))
}

fn sorted_profits(name: &str, class: &'static str, mut profits: Vec<f64>) -> String {
    profits.sort_by(f64::total_cmp);
    let n = profits.len();
    Chart {
        id: format!("profits-{name}"),
        title: "net profit of every trade, sorted".into(),
        x: (0..n).map(|i| i as f64).collect(),
        x_ticks: vec![],
        x_names: (1..=n).map(|i| format!("trade {i} of {n}")).collect(),
        lines: vec![Line {
            name: "net profit".into(),
            class,
            y: profits,
            look: Look::Area,
        }],
        log: false,
        at_least: Some((0.0, 0.0)),
        reference: Some(0.0),
        format: &percent,
        size: "small",
    }
    .html()
}
