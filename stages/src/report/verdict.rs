//! The head of the page: what came out, in one sentence and a strip of figures.

use natron_artifacts::StageError;

use super::{
    Sources,
    html::{day, escape, fixed, number, percent},
};

/// The heading and the verdict.
pub(super) fn html(title: &str, sources: &Sources) -> Result<String, StageError> {
    let mut facts = Vec::new();
    if let Some(candles) = &sources.candles {
        let ts_ns = candles.ts_ns()?;
        if let (Some(&first), Some(&last)) = (ts_ns.first(), ts_ns.last()) {
            let bars = number(candles.n_rows() as f64);
            facts.push(format!("{bars} bars, {} to {}", day(first), day(last)));
        }
    }
    if let Some(equity) = &sources.equity {
        let ts_ns = equity.ts_ns()?;
        if let (Some(&first), Some(&last)) = (ts_ns.first(), ts_ns.last()) {
            facts.push(format!("tested on {} to {}", day(first), day(last)));
        }
    }
    facts.push("times in UTC".to_owned());
    let heading = format!(
        "<header><div><h1>{}</h1><div class=\"sub\">{}</div></div><button id=\"theme\" type=\"button\">Dark</button></header>\n",
        escape(title),
        escape(&facts.join(" \u{b7} "))
    );
    if sources.evaluation.is_none() {
        return Ok(heading);
    }
    Ok(format!(
        "{heading}<section id=\"verdict\"><p class=\"verdict\">{}</p>\n<div class=\"cards\">{}</div></section>\n",
        sentence(sources),
        cards(sources)
    ))
}

fn sharpe(sources: &Sources, name: &str) -> Option<(f64, Option<(f64, f64)>)> {
    let at = |figure: &str| sources.figure(&format!("backtest.test.{name}.{figure}"));
    let interval = at("sharpe_ratio_low").zip(at("sharpe_ratio_high"));
    Some((at("sharpe_ratio")?, interval))
}

fn sentence(sources: &Sources) -> String {
    let mut parts = Vec::new();
    for (name, called) in [("signals", "The signals"), ("policy", "The policy")] {
        let Some((value, interval)) = sharpe(sources, name) else {
            continue;
        };
        let Some((low, high)) = interval else {
            continue;
        };
        let verdict = if low > 0.0 {
            "earned a positive risk-adjusted return after costs"
        } else if high < 0.0 {
            "lost money after costs"
        } else {
            "show no profit after costs that chance does not explain"
        };
        let verdict = match (name, verdict.strip_prefix("show ")) {
            ("policy", Some(rest)) => format!("shows {rest}"),
            _ => verdict.to_owned(),
        };
        parts.push(format!(
            "{called} {verdict}: Sharpe ratio {} (95&#8239;% interval {} to {}).",
            fixed(value, 2),
            fixed(low, 2),
            fixed(high, 2)
        ));
    }
    if let Some((value, _)) = sharpe(sources, "buy_and_hold") {
        parts.push(format!(
            "Buying at the start and holding gave {}.",
            fixed(value, 2)
        ));
    }
    if parts.is_empty() {
        return "No strategy traded on the test split.".to_owned();
    }
    format!("On data that took no part in training: {}", parts.join(" "))
}

fn card(what: &str, value: &str, more: &str) -> String {
    format!(
        "<div class=\"card\"><div class=\"what\">{what}</div><div class=\"value\">{value}</div><div class=\"more\">{more}</div></div>\n"
    )
}

fn cards(sources: &Sources) -> String {
    let mut cards = String::new();
    let test = |name: &str, figure: &str| sources.figure(&format!("backtest.test.{name}.{figure}"));
    for (name, called) in [("signals", "signals"), ("policy", "policy")] {
        let Some((value, interval)) = sharpe(sources, name) else {
            continue;
        };
        let more = interval.map_or(String::new(), |(low, high)| {
            format!(
                "95&#8239;% interval {} to {}",
                fixed(low, 2),
                fixed(high, 2)
            )
        });
        cards += &card(
            &format!("Net Sharpe ratio, {called}"),
            &fixed(value, 2),
            &more,
        );
    }
    let returns = |name: &str| test(name, "total_return").map(percent);
    if let Some(held) = returns("buy_and_hold") {
        for (name, called) in [("signals", "signals"), ("policy", "policy")] {
            if let Some(earned) = returns(name) {
                let what = format!("Net return, {called}");
                cards += &card(&what, &earned, &format!("buy and hold {held}"));
            }
        }
    }
    if let Some(drawdown) = test("signals", "max_drawdown") {
        let more = test("buy_and_hold", "max_drawdown")
            .map_or(String::new(), |d| format!("buy and hold {}", percent(d)));
        cards += &card("Largest drawdown, signals", &percent(drawdown), &more);
    }
    if let Some(turnover) = test("signals", "turnover_per_year") {
        let cost = sources.figure("costs.fee_bps").unwrap_or(0.0)
            + sources.figure("costs.slippage_bps").unwrap_or(0.0);
        let more = format!("times equity a year, {} bps a fill", number(cost));
        cards += &card(
            "Turnover, signals",
            &format!("{}\u{d7}", number(turnover.round())),
            &more,
        );
    }
    if let Some(deflated) = test("signals", "deflated_sharpe_ratio") {
        let tried = sources.figure("signals.n_rules_that_traded").unwrap_or(0.0);
        let more = format!(
            "chance to beat the luckiest of {} worthless rules",
            number(tried)
        );
        cards += &card("Deflated Sharpe ratio", &percent(deflated), &more);
    }
    let checks: Vec<f64> = [
        "chronological",
        "labels_purged",
        "labels_within_data",
        "evaluation_labels_unperturbed",
    ]
    .iter()
    .filter_map(|name| sources.figure(&format!("checks.{name}")))
    .collect();
    if !checks.is_empty() {
        let passed = checks.iter().filter(|&&check| check > 0.5).count();
        let class = if passed == checks.len() {
            "good"
        } else {
            "bad"
        };
        let value = format!(
            "<span class=\"{class}\">{passed} of {}</span>",
            checks.len()
        );
        cards += &card(
            "Leakage checks passed",
            &value,
            "splits in order, labels purged and unperturbed",
        );
    }
    cards
}
