//! Random graphs with failures, retries, policies, tokens, threads and cancels, run in process with stages that do nothing,
//! against a sequential model of what may have happened.
//!
//! Seen from inside the stages: none runs before its producers are done, none runs again once it is done, none is tried more
//! often than it may be, and no capacity is exceeded. Seen from outside: failures block what is below them and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use natron_artifacts::{
    Cancel, Kind, Metrics, PortSchema, Registry, Schemas, Signature, Stage, StageContext,
    StageError, Threads,
};
use natron_cache::Durability;
use natron_runner::{
    Event, LoadOptions, Outcome, RunOptions, Watcher, Workspace, load_text, run as run_graph,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Checked, Dice, While,
    sweep::{Family, Plan, Tally},
};

/// What the stages of one graph have seen.
#[derive(Debug, Default)]
struct Seen {
    attempts: BTreeMap<usize, u32>,
    done: BTreeSet<usize>,
    running: BTreeSet<usize>,
    threads: usize,
    tokens: BTreeMap<String, u32>,
    wrong: Vec<String>,
    cancel: Option<Cancel>,
    jobs: usize,
}

static SEEN: Mutex<BTreeMap<u64, Seen>> = Mutex::new(BTreeMap::new());

fn seen() -> MutexGuard<'static, BTreeMap<u64, Seen>> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stage of a random graph.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "it is the parameter's name")]
struct Node {
    /// Which graph.
    graph: u64,
    /// Which stage of it.
    node: usize,
    /// Those it reads from.
    #[serde(default)]
    producers: Vec<usize>,
    /// So many attempts fail.
    #[serde(default)]
    fails: u32,
    /// Panics instead.
    #[serde(default)]
    panics: bool,
    /// How long it takes.
    #[serde(default)]
    microseconds: u64,
    /// Threads it asks for; 0 for all.
    threads: usize,
    /// The token that it holds.
    #[serde(default)]
    token: Option<String>,
    /// Stops the run.
    #[serde(default)]
    cancels: bool,
    /// Attempts it may have.
    attempts: u32,
}

impl Stage for Node {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        let threads = match self.threads {
            0 => Threads::All,
            1 => Threads::One,
            n => Threads::Count(n as u32),
        };
        let mut signature = Signature::new()
            .output("metrics", PortSchema::of(Kind::Metrics))
            .threads(threads);
        if !self.producers.is_empty() {
            signature = signature.gathered_input("from", Kind::Metrics);
        }
        Ok(signature)
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let fails = self.begin(context.threads());
        if self.microseconds > 0 {
            thread::sleep(Duration::from_micros(self.microseconds));
        }
        let total: f64 = context
            .inputs("from")
            .iter()
            .filter_map(|input| match &input.artifact {
                natron_artifacts::Artifact::Metrics(metrics) => metrics.get("total"),
                _ => None,
            })
            .sum();
        self.end(context.threads(), !fails);
        assert!(!(fails && self.panics), "as declared");
        if fails {
            return Err(StageError::data("as declared"));
        }
        let mut metrics = Metrics::new();
        metrics
            .set("total", total + self.node as f64)
            .map_err(StageError::data)?;
        context.write("metrics", metrics)
    }
}

impl Node {
    /// Notes that the stage starts; says whether it shall fail.
    fn begin(&self, threads: usize) -> bool {
        let mut all = seen();
        let seen = all.entry(self.graph).or_default();
        let node = self.node;
        let mut wrong = Vec::new();
        for producer in &self.producers {
            if !seen.done.contains(producer) {
                wrong.push(format!("{node} runs before {producer}"));
            }
        }
        if seen.done.contains(&node) {
            wrong.push(format!("{node} runs again"));
        }
        if !seen.running.insert(node) {
            wrong.push(format!("{node} runs twice at once"));
        }
        seen.threads += threads;
        if seen.threads > seen.jobs.max(1) {
            wrong.push(format!(
                "{} threads of {} are in use",
                seen.threads, seen.jobs
            ));
        }
        if let Some(token) = &self.token {
            let held = seen.tokens.entry(token.clone()).or_default();
            *held += 1;
            if *held > 1 {
                wrong.push(format!("the token `{token}` is held {held} times"));
            }
        }
        seen.wrong.extend(wrong);
        if self.cancels
            && let Some(cancel) = &seen.cancel
        {
            cancel.set();
        }
        let attempts = seen.attempts.entry(node).or_default();
        *attempts += 1;
        *attempts <= self.fails
    }

    fn end(&self, threads: usize, is_done: bool) {
        let mut all = seen();
        let seen = all.entry(self.graph).or_default();
        seen.running.remove(&self.node);
        seen.threads = seen.threads.saturating_sub(threads);
        if let Some(token) = &self.token
            && let Some(held) = seen.tokens.get_mut(token)
        {
            *held = held.saturating_sub(1);
        }
        if is_done {
            seen.done.insert(self.node);
        }
    }
}

/// A random graph, and how it is run.
#[derive(Debug)]
struct Case {
    nodes: Vec<Node>,
    retries: Vec<u32>,
    policies: Vec<&'static str>,
    keep_going: bool,
    jobs: usize,
    has_cancel: bool,
}

impl Case {
    fn random(graph: u64, dice: &mut Dice) -> Self {
        let most = if dice.once_in(10) { 40 } else { 12 };
        let n = 1 + dice.below(most);
        let shape = dice.below(4);
        let trouble = 2 + dice.below(8);
        let has_cancel = dice.once_in(8);
        let jobs = 1 + dice.below(4);
        let canceller = dice.below(n);
        let mut case = Self {
            nodes: Vec::new(),
            retries: Vec::new(),
            policies: Vec::new(),
            keep_going: dice.once_in(2),
            jobs,
            has_cancel,
        };
        for node in 0..n {
            let mut producers = BTreeSet::new();
            if node > 0 {
                match shape {
                    0 => {
                        producers.insert(node - 1);
                    }
                    1 => {
                        producers.insert(0);
                    }
                    _ => producers.extend((0..dice.below(4)).map(|_| dice.below(node))),
                }
            }
            let fails = if dice.once_in(trouble) {
                1 + dice.below(3) as u32
            } else {
                0
            };
            let retries = if dice.once_in(3) {
                dice.below(3) as u32
            } else {
                0
            };
            case.nodes.push(Node {
                graph,
                node,
                producers: producers.into_iter().collect(),
                fails,
                panics: fails > 0 && dice.once_in(8),
                microseconds: if dice.once_in(3) {
                    dice.below(400) as u64
                } else {
                    0
                },
                threads: *dice.pick(&[1, 1, 1, 2, 3, 0]),
                token: dice.once_in(4).then(|| format!("t{}", dice.below(2))),
                cancels: has_cancel && node == canceller,
                attempts: retries + 1,
            });
            case.retries.push(retries);
            case.policies
                .push(*dice.pick(&["", "", "stop", "continue", "ignore"]));
        }
        case
    }

    fn pipeline(&self) -> Checked<String> {
        let mut text = "[pipeline]\nname = \"graph\"\n".to_owned();
        for (node, (&retries, &policy)) in self
            .nodes
            .iter()
            .zip(self.retries.iter().zip(&self.policies))
        {
            let with = serde_json::to_value(node).at("JSON")?;
            let with: Vec<String> = with
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| format!("{name} = {value}"))
                .collect();
            text.push_str(&format!(
                "[stages.n{}]\nuses = \"toy.node\"\nwith = {{ {} }}\n",
                node.node,
                with.join(", ")
            ));
            if !node.producers.is_empty() {
                let list: Vec<String> =
                    node.producers.iter().map(|p| format!("\"n{p}\"")).collect();
                text.push_str(&format!("inputs.from = [{}]\n", list.join(", ")));
            }
            if retries > 0 {
                text.push_str(&format!("retries = {retries}\n"));
            }
            if !policy.is_empty() {
                text.push_str(&format!("on_failure = \"{policy}\"\n"));
            }
            if let Some(token) = &node.token {
                text.push_str(&format!("resources.tokens = {{ {token} = 1 }}\n"));
            }
        }
        Ok(text)
    }

    /// Whether each stage is reached and fails for good, when nothing stops the run; `tried` are attempts of earlier runs.
    fn fates(&self, tried: &BTreeMap<usize, u32>) -> Vec<Fate> {
        let mut fates = Vec::with_capacity(self.nodes.len());
        for (node, &retries) in self.nodes.iter().zip(&self.retries) {
            let is_blocked = node
                .producers
                .iter()
                .any(|&producer| fates[producer] != Fate::Done);
            let failing = node
                .fails
                .saturating_sub(tried.get(&node.node).copied().unwrap_or(0));
            fates.push(if is_blocked {
                Fate::Blocked
            } else if failing > retries {
                Fate::Fails
            } else {
                Fate::Done
            });
        }
        fates
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    Fails,
    Blocked,
}

/// Counts the ends of stages.
#[derive(Debug, Default)]
struct Ends(Mutex<BTreeMap<String, u32>>);

impl Watcher for Ends {
    fn event(&self, event: &Event<'_>) {
        if let Event::Finished { stage, .. } = event {
            let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *ends.entry((*stage).to_owned()).or_default() += 1;
        }
    }
}

#[expect(clippy::too_many_lines, reason = "one story, told from top to bottom")]
fn judge(folder: &Path, graph: u64, dice: &mut Dice) -> Checked<bool> {
    let case = Case::random(graph, dice);
    let mut registry = Registry::new();
    registry.register::<Node>("toy.node", "1");
    std::fs::create_dir_all(folder).at("create")?;
    let text = case.pipeline()?;
    std::fs::write(folder.join("graph.toml"), &text).at("write")?;
    let load = LoadOptions {
        workspace: folder.to_owned(),
        ..LoadOptions::default()
    };
    let loaded = load_text("graph.toml", &text, &load, &registry).map_err(|mistakes| {
        format!(
            "the pipeline has mistakes: {}",
            mistakes
                .first()
                .map_or_else(String::new, ToString::to_string)
        )
    })?;
    let workspace = Workspace::new(folder, None);
    let mut hits: BTreeSet<usize> = BTreeSet::new();
    let rounds = 1 + usize::from(dice.once_in(3));
    for round in 0..rounds {
        let cancel = Cancel::new();
        let tried = {
            let mut all = seen();
            let seen = all.entry(graph).or_default();
            seen.cancel = Some(cancel.clone());
            seen.jobs = case.jobs;
            seen.attempts.clone()
        };
        let options = RunOptions {
            jobs: Some(case.jobs),
            keep_going: case.keep_going,
            durability: Durability::None,
            ..RunOptions::default()
        };
        let ends = Arc::new(Ends::default());
        let watcher: Arc<dyn Watcher> = Arc::clone(&ends) as Arc<_>;
        let summary = run_graph(&loaded, &workspace, &options, &watcher, &cancel).at("run")?;
        let (wrong, attempts, done) = {
            let all = seen();
            let seen = &all[&graph];
            (seen.wrong.clone(), seen.attempts.clone(), seen.done.clone())
        };
        if let Some(wrong) = wrong.first() {
            return Err(format!("run {round}: {wrong}"));
        }
        let fates = case.fates(&tried);
        let stops = |node: usize| {
            fates[node] == Fate::Fails
                && !case.keep_going
                && !matches!(case.policies[node], "continue" | "ignore")
        };
        let may_stop = (0..fates.len()).any(stops) || cancel.is_set();
        for (node, fate) in fates.iter().enumerate() {
            let name = format!("n{node}");
            let record = summary
                .record
                .stage(&name)
                .ok_or_else(|| format!("run {round}: {name} is not in the record"))?;
            let of_run =
                attempts.get(&node).copied().unwrap_or(0) - tried.get(&node).copied().unwrap_or(0);
            let is_right = match (fate, record.outcome) {
                (Fate::Done, Outcome::Hit) => hits.contains(&node) && of_run == 0,
                (Fate::Done, Outcome::Ran | Outcome::Unchanged) => {
                    of_run >= 1 && !hits.contains(&node)
                }
                (Fate::Fails, Outcome::Failed) => of_run == case.retries[node] + 1,
                (Fate::Blocked, Outcome::Skipped) => of_run == 0,
                (Fate::Done | Fate::Fails, Outcome::Skipped) => may_stop,
                (Fate::Done | Fate::Fails, Outcome::Interrupted) => cancel.is_set() || may_stop,
                // An attempt failed, and then the run was stopped.
                (Fate::Done, Outcome::Failed) => may_stop && of_run <= case.nodes[node].fails,
                _ => false,
            };
            if !is_right {
                return Err(format!(
                    "run {round}: {name} ended as {:?} after {of_run} attempts, its fate is {fate:?}, keep_going {}, policy `{}`, may stop {may_stop}",
                    record.outcome, case.keep_going, case.policies[node]
                ));
            }
            if record.outcome.is_done() != done.contains(&node) {
                return Err(format!(
                    "run {round}: {name} ended as {:?}, and the stage saw otherwise",
                    record.outcome
                ));
            }
        }
        if fates.iter().all(|fate| *fate == Fate::Done) && !cancel.is_set() && !summary.succeeded()
        {
            return Err(format!(
                "run {round}: everything is done, and the run failed"
            ));
        }
        if (0..fates.len())
            .any(|node| fates[node] == Fate::Fails && case.policies[node] != "ignore")
            && summary.succeeded()
        {
            return Err(format!(
                "run {round}: a stage failed, and the run succeeded"
            ));
        }
        let ends = ends.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((stage, n)) = ends.iter().find(|(_, n)| **n > 1) {
            return Err(format!("run {round}: {stage} ended {n} times"));
        }
        drop(ends);
        hits = done;
    }
    Ok(case.has_cancel)
}

/// Runs the family.
pub fn run(plan: &Plan) -> Checked<Tally> {
    let family = Family::start(plan, "scheduler")?;
    // Panics of stages are as declared; their messages would fill the screen.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let n = plan.size(400, 10_500) as u64;
    family.each(0..n, |graph| {
        let id = format!("graph {graph}");
        let mut dice = Dice::named(plan.seed, &id);
        if family.case(&id, |folder| judge(folder, graph, &mut dice)) == Some(true) {
            family.count("graphs with a cancel", 1);
        }
        seen().remove(&graph);
    });
    std::panic::set_hook(hook);
    Ok(family.finish())
}
