//! What a verification says to people.

use std::collections::{BTreeMap, BTreeSet};

use natron_runner::{
    Blame, Choice, Perturbation, Reproducible, Sample, StageVerdict, Surroundings, Verdict,
    Verification,
};

use crate::{
    failure::Failure,
    layout::{Align, columns},
    program::Program,
    style::{Style, printable},
    units,
};

/// Stages of a long list that are named.
const MOST_NAMED: usize = 8;

/// What the result means for the exit code.
pub(super) fn failure(program: &Program, verification: &Verification) -> Option<Failure> {
    let has = |wanted: fn(&Verdict) -> bool| {
        verification
            .stages
            .iter()
            .any(|stage| wanted(&stage.verdict))
    };
    if verification.interrupted {
        return Some(program.stop.failure().unwrap_or(Failure::Interrupted));
    }
    if has(|v| matches!(v, Verdict::Differs { .. } | Verdict::Failed { .. })) {
        return Some(Failure::Differs(None));
    }
    if has(|v| matches!(v, Verdict::NotCached)) {
        let text = "some stages have no result to compare with";
        return Some(Failure::usage(text).help("`natron run` makes them"));
    }
    None
}

/// A table, what is wrong, and a line at the end.
pub(super) fn show(program: &Program, verification: &Verification, choice: Choice) {
    let output = &program.output;
    let style = output.note_style();
    if !verification.stages.is_empty() {
        for line in table(verification, style) {
            output.note(&line);
        }
    }
    for stage in &verification.stages {
        for line in wrong(stage, verification, style) {
            output.note(&line);
        }
    }
    let tighter: Vec<String> = verification
        .stages
        .iter()
        .filter_map(|stage| {
            let class = stage.could_be?;
            let declared = stage.declared.class();
            Some(format!(
                "`{}` gave {class}, not only {declared}",
                stage.stage
            ))
        })
        .collect();
    if !tighter.is_empty() {
        let list = some_of(&tighter);
        output.note(&format!(
            "{}: `reproducible` could be tightened: {list}",
            style.cyan("note")
        ));
    }
    left_out(program, verification, style);
    for line in not_changed(verification) {
        output.note(&style.dim(&line));
    }
    output.note(&closing(verification, choice, style));
}

fn some_of(names: &[String]) -> String {
    let more = names.len().saturating_sub(MOST_NAMED);
    let mut list = names[..names.len().min(MOST_NAMED)].join(", ");
    if more > 0 {
        list.push_str(&format!(" and {more} more"));
    }
    list
}

fn table(verification: &Verification, style: Style) -> Vec<String> {
    let head = [
        "stage",
        "result",
        "has to be",
        "repeated",
        "took",
        "confirmed before",
    ];
    let mut rows = vec![head.map(|cell| style.dim(cell)).to_vec()];
    for stage in &verification.stages {
        let result = match &stage.verdict {
            Verdict::Confirmed { class } => style.green(class.name()),
            Verdict::Differs { .. } => style.red("differs"),
            Verdict::Failed { .. } => style.red("failed"),
            Verdict::NotCached => style.yellow("no result"),
        };
        let before = match stage.confirmed_before {
            0 => style.dim("never"),
            1 => "once".to_owned(),
            n => format!("{} times", units::count(n)),
        };
        rows.push(vec![
            stage.stage.clone(),
            result,
            declared(&stage.declared),
            units::count(stage.repetitions.len() as u64),
            units::seconds(stage.seconds),
            before,
        ]);
    }
    let align = [
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Left,
    ];
    columns(&rows, &align)
        .into_iter()
        .map(|line| format!("  {line}"))
        .collect()
}

fn declared(reproducible: &Reproducible) -> String {
    let Reproducible::Numeric(tolerances) = reproducible else {
        return reproducible.class().to_string();
    };
    let all = tolerances.all;
    let mut parts = Vec::new();
    if all.abs > 0.0 {
        parts.push(format!("abs {:e}", all.abs));
    }
    if all.rel > 0.0 {
        parts.push(format!("rel {:e}", all.rel));
    }
    if all.ulps > 0 {
        parts.push(format!("{} ulps", all.ulps));
    }
    let named = tolerances.columns.len() + tolerances.metrics.len();
    if named > 0 {
        parts.push(format!("{named} by name"));
    }
    format!("numeric ({})", parts.join(", "))
}

/// What is wrong with a stage; nothing if nothing is.
fn wrong(stage: &StageVerdict, verification: &Verification, style: Style) -> Vec<String> {
    let error = |text: &str| {
        let name = printable(&stage.stage);
        format!(
            "{}: stage `{name}`: {}",
            style.red("error"),
            printable(text)
        )
    };
    let more = |text: &str| format!("  {} {}", style.cyan("|"), printable(text));
    let help = |text: &str| format!("  {} help: {text}", style.cyan("="));
    let mut lines = Vec::new();
    match &stage.verdict {
        Verdict::Confirmed { .. } => return lines,
        Verdict::NotCached => {
            lines.push(error("no result to compare with; `natron run` makes it"));
            return lines;
        }
        Verdict::Failed { message, .. } => {
            let mut text = message.lines();
            let first = text.next().unwrap_or_default();
            lines.push(error(&format!("failed this time: {first}")));
            lines.extend(text.map(more));
        }
        Verdict::Differs {
            output, divergence, ..
        } => lines.push(error(&format!("output `{output}` differs: {divergence}"))),
    }
    if let Some(recorded) = &stage.recorded {
        lines.push(more(&format!("recorded on {}", surroundings(recorded))));
        let mut here = verification.here.clone();
        // Threads of the stage, not of the machine.
        let threads = stage.repetitions.last().and_then(|repetition| {
            let of_threads = |c: &&natron_runner::Circumstance| c.what == Perturbation::Threads;
            repetition
                .conditions
                .iter()
                .find(of_threads)?
                .here
                .parse()
                .ok()
        });
        here.threads = threads.unwrap_or(0);
        lines.push(more(&format!("repeated on {}", surroundings(&here))));
    }
    if let Some(repetition) = stage.repetitions.last() {
        let changed: Vec<String> = repetition
            .conditions
            .iter()
            .filter(|c| c.changed)
            .map(|c| c.what.name().to_owned())
            .collect();
        if !changed.is_empty() {
            lines.push(more(&format!("changed: {}", changed.join(", "))));
        }
    }
    if let Verdict::Differs { blame, .. } | Verdict::Failed { blame, .. } = &stage.verdict {
        let has_failed = matches!(stage.verdict, Verdict::Failed { .. });
        match blame {
            Blame::Unknown { why } => {
                lines.push(help(&format!("what it depends on is not known: {why}")));
            }
            Blame::Anyway if has_failed => {
                lines.push(help("it fails under the same conditions too"));
            }
            Blame::Anyway => lines.push(help(
                "it differs under the same conditions too: keep the clock, random numbers without the stage's seed, the \
                 order in which threads end and the path of the working folder out of the output",
            )),
            Blame::Together => {
                lines.push(help("no changed condition makes it differ alone; it may be chance"));
            }
            Blame::Conditions { conditions } => {
                for condition in conditions {
                    let advice = condition.advice();
                    lines.push(help(&format!("it depends on `{condition}`: {advice}")));
                }
            }
        }
    }
    lines
}

fn surroundings(s: &Surroundings) -> String {
    let mut parts = vec![if s.host.is_empty() {
        "an unknown machine".to_owned()
    } else {
        s.host.clone()
    }];
    if !s.processor.is_empty() {
        parts.push(s.processor.clone());
    }
    if !s.features.is_empty() {
        parts.push(s.features.join(" "));
    }
    if s.threads > 0 {
        parts.push(units::plural(s.threads as usize, "thread"));
    }
    if !s.natron.is_empty() {
        parts.push(format!("natron {}", s.natron));
    }
    if !s.time.is_empty() {
        parts.push(s.time.clone());
    }
    parts.join(", ")
}

fn left_out(program: &Program, verification: &Verification, style: Style) {
    let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for left in &verification.left_out {
        let reason = left.why.split(':').next().unwrap_or_default();
        let detail = left.why.strip_prefix(reason).unwrap_or_default();
        let detail = detail.trim_start_matches(':').trim();
        let name = printable(&left.stage);
        by_reason
            .entry(reason)
            .or_default()
            .push(if detail.is_empty() {
                format!("`{name}`")
            } else {
                format!("`{name}` ({detail})")
            });
    }
    for (reason, names) in by_reason {
        let n = units::plural(names.len(), "stage");
        program.output.note(&format!(
            "{}: {n} left out, {reason}: {}",
            style.cyan("note"),
            some_of(&names)
        ));
    }
}

/// What should have been changed for some stage and was not, once each.
fn not_changed(verification: &Verification) -> Vec<String> {
    let mut notes: BTreeMap<(Perturbation, &str), usize> = BTreeMap::new();
    for stage in &verification.stages {
        let Some(repetition) = stage.repetitions.first() else {
            continue;
        };
        for circumstance in &repetition.conditions {
            let is_wanted = verification.perturb.contains(&circumstance.what);
            if let Some(note) = &circumstance.note
                && is_wanted
            {
                *notes.entry((circumstance.what, note.as_str())).or_default() += 1;
            }
        }
    }
    // What holds for a part of the stages only is in the report.
    let all = verification.stages.iter();
    let all = all.filter(|stage| !stage.repetitions.is_empty()).count();
    notes
        .into_iter()
        .filter(|((what, _), n)| *n == all && *what != Perturbation::Home)
        .map(|((what, note), _)| format!("{what}: {note}"))
        .collect()
}

fn closing(verification: &Verification, choice: Choice, style: Style) -> String {
    let all = verification.planned;
    let stages = &verification.stages;
    let confirmed = stages.iter().filter(|stage| stage.is_confirmed()).count();
    let in_bytes = stages.iter().all(
        |stage| matches!(stage.verdict, Verdict::Confirmed { class } if class.name() == "bytes"),
    );
    if verification.interrupted {
        let wrong = stages.len() - confirmed;
        let wrong = if wrong > 0 {
            format!(", {wrong} not as recorded")
        } else {
            String::new()
        };
        return format!(
            "{}: {confirmed} of {} verified{wrong}, stopped",
            style.yellow("interrupted"),
            units::plural(all, "stage")
        );
    }
    let word = if confirmed == all && confirmed > 0 {
        style.green("verified")
    } else if stages.len() < all || stages.is_empty() {
        style.yellow("not all verified")
    } else {
        style.red("differs")
    };
    let same = if in_bytes {
        "the same bytes again"
    } else {
        "what they have to again"
    };
    let runs = match verification.runs {
        1 => String::new(),
        n => format!(", {n} times each"),
    };
    // What was really changed for some stage, not what was asked for.
    let changed: BTreeSet<Perturbation> = stages
        .iter()
        .flat_map(|stage| &stage.repetitions)
        .flat_map(|repetition| &repetition.conditions)
        .filter(|c| c.changed)
        .map(|c| c.what)
        .collect();
    let changed = match changed.len() {
        0 => "nothing changed".to_owned(),
        n if n > 4 => format!("{n} of {} conditions changed", Perturbation::ALL.len()),
        _ => {
            let names: Vec<&str> = changed.iter().map(|p| p.name()).collect();
            format!("changed: {}", names.join(", "))
        }
    };
    let seed = match choice {
        Choice::Sample(Sample::Part(_) | Sample::Count(_)) => {
            format!(", sample of seed {}", verification.seed)
        }
        Choice::All | Choice::Budget(_) => format!(", seed {}", verification.seed),
    };
    format!(
        "{word}: {confirmed} of {} gave {same}{runs} ({changed}{seed})",
        units::plural(all, "stage")
    )
}
