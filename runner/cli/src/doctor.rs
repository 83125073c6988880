//! `natron doctor`: what the machine offers, and what will be slow or missing.

use clap::Args;
use serde_json::{Value, json};

use crate::{
    failure::Failure,
    layout::{Align, columns},
    machine::{self, Finding, Health},
    program::Program,
};

const EXAMPLES: &str = "\
Examples:
  natron doctor
  natron doctor --json";

/// Look at the machine: what will be slow or missing.
///
/// Processor, threads, memory, GPU, the speed of the store's disk, file locks, free space.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {}

pub(crate) fn run(program: &Program, _: &Arguments) -> Result<(), Failure> {
    let workspace = program.workspace()?;
    let findings = machine::findings(&workspace, program.registry.kinds().count());
    if program.output.is_json() {
        let findings: Vec<Value> = findings.iter().map(to_json).collect();
        program.output.json(json!({ "findings": findings }));
    } else {
        let style = program.output.data_style();
        let rows: Vec<Vec<String>> = findings
            .iter()
            .map(|finding| {
                let mark = match finding.health {
                    Health::Good => style.green("ok"),
                    Health::Note => style.cyan("--"),
                    Health::Warning => style.yellow("!!"),
                    Health::Bad => style.red("XX"),
                };
                let mut text = finding.text.clone();
                if !finding.help.is_empty() {
                    text.push_str(&style.dim(&format!("  ({})", finding.help)));
                }
                vec![mark, style.bold(finding.name), text]
            })
            .collect();
        for line in columns(&rows, &[Align::Left]) {
            program.output.data(&line);
        }
    }
    let bad: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.health == Health::Bad)
        .map(|finding| finding.name)
        .collect();
    if bad.is_empty() {
        Ok(())
    } else {
        Err(Failure::store(format!(
            "this machine cannot run pipelines here: {}",
            bad.join(", ")
        )))
    }
}

fn to_json(finding: &Finding) -> Value {
    let health = match finding.health {
        Health::Good => "good",
        Health::Note => "note",
        Health::Warning => "warning",
        Health::Bad => "bad",
    };
    json!({ "name": finding.name, "health": health, "text": finding.text, "help": finding.help })
}
