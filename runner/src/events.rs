//! What a run tells whoever watches it.

use natron_artifacts::{Level, Progress};
use serde::{Deserialize, Serialize};

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its result was in the cache.
    Hit,
    /// It was executed, and its outputs are new.
    Ran,
    /// It was executed, and every output has the content that it had before: what is below it need not run.
    Unchanged,
    /// It failed.
    Failed,
    /// It was not started, because something above it failed or the run was stopped.
    Skipped,
    /// It was stopped; it continues from its checkpoint next time.
    Interrupted,
}

impl Outcome {
    /// Whether the stage's outputs exist.
    pub fn is_done(self) -> bool {
        matches!(self, Self::Hit | Self::Ran | Self::Unchanged)
    }
}

/// Something that happened during a run.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// The run starts with this many stages.
    Planned {
        /// Instances in the graph that the run is about.
        stages: usize,
        /// Of these, how many are seen at a glance to have their results: nothing more is told of them.
        at_hand: usize,
    },
    /// A stage starts to execute.
    Started {
        /// Instance name.
        stage: &'a str,
        /// Its kind.
        kind: &'a str,
    },
    /// A stage has come further.
    Progress {
        /// Instance name.
        stage: &'a str,
        /// How far.
        progress: &'a Progress,
    },
    /// A stage measured something on its way.
    Metric {
        /// Instance name.
        stage: &'a str,
        /// Name of the series.
        name: &'a str,
        /// Position in the series.
        step: u64,
        /// The value.
        value: f64,
    },
    /// A stage, or the run itself (empty name), says something.
    Log {
        /// Instance name.
        stage: &'a str,
        /// How loud.
        level: Level,
        /// What.
        message: &'a str,
    },
    /// A stage ended.
    Finished {
        /// Instance name.
        stage: &'a str,
        /// How.
        outcome: Outcome,
        /// How long it took here, or took when it ran, for a hit.
        seconds: f64,
    },
}

/// Whoever watches a run. Called from several threads.
pub trait Watcher: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn event(&self, _: &Event<'_>) {}
}
