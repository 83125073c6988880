//! Plans and runs pipelines.
//!
//! From the text of a pipeline file to a checked [`Graph`] of stage instances ([`load`]), from there to results in the store
//! ([`run`]), and back from results to reasons: [`explain`], [`verify`], the run records of [`history`], the lock file of
//! [`lock`].
//!
//! Invariant: names no stage kind; it sees the `Stage` trait and a `Registry`.

mod binary;
mod diagnostic;
mod did_you_mean;
mod document;
mod names;

mod interpolate;
mod overrides;

mod accept;
mod axis;
mod condition;
mod definition;
mod matrix;
mod parameters;
mod part;
mod plain_toml;
mod ready;
mod references;
mod reproducible;
mod sample;
mod settings;
mod sobol;

mod drafts;
mod wiring;

mod connect;
mod graph;

mod events;
mod execute;
mod expand;
mod gpus;
mod ingredients;
mod isolated;
mod schedule;
mod views;
mod worker;
mod workers;
mod workspace;

mod artifact_change;
mod divergence;
mod explain;
pub mod history;
pub mod lock;
mod noop;
mod outline;
mod pipeline_schema;
pub mod render;
mod roots;
mod run_list;
mod session;
mod source_text;
mod table;
mod tensorboard;
mod text_diff;
mod verify;

pub use accept::{Acceptance, AcceptanceVerdict, accept};
pub use artifact_change::{
    ArtifactChange, BLOCK_ROWS, ColumnChange, ColumnDifference, Extent, PartChange, Presence,
};
pub use axis::{AxisValues, Take};
pub use diagnostic::{Diagnostic, Label, Place, Severity, SourceText, code};
pub use did_you_mean::nearest as did_you_mean;
pub use divergence::{Comparison, Divergence, compare, first_divergence};
pub use events::{Event, Outcome, Unwatched, Watcher};
pub use execute::{
    Forecast, RunError, RunOptions, RunSummary, Standing, run, select, standings, with_producers,
};
pub use expand::load_known;
pub use explain::{
    Cause, Change, Changed, Cutoff, ExplainOptions, Explanation, FileChange, MetricDiff, Nearest,
    OutputDiff, Partner, Reason, RootCause, RunDiff, RunHead, StageDiff, StageExplanation,
    WhyCached, explain, explain_run, run_diff,
};
pub use graph::{
    AwaitedAxis, Deferred, DeviceChoice, EdgeLabel, Graph, InputEdge, Instance, LoadOptions,
    Numeric, OnFailure, Parsed, load, load_text,
};
pub use isolated::execute_isolated;
pub use lock::{LockDifference, LockEntry, LockError, LockFile, LockedOutput, lock_path};
pub use noop::forget;
pub use parameters::typical_signature;
pub use part::{Part, Partition, Rows};
pub use pipeline_schema::pipeline_schema;
pub use reproducible::{Class, Reproducible, Tolerance, Tolerances};
pub use roots::{Doubt, roots};
pub use run_list::{FindRunError, Outcomes, RunEnd, RunEntry, RunList, find_run};
pub use session::{Invocation, LockMode, SessionError, SessionSummary, run_file};
pub use source_text::{LONGEST_TEXT, SourceFact, SourceFacts, SourceTexts};
pub use text_diff::unified_diff;
pub use verify::{
    Blame, Choice, Circumstance, Interruption, InterruptionOptions, InterruptionTrial, Kill,
    LeftOut, Means, Perturbation, Repetition, Sample, StageVerdict, Surroundings, Verdict,
    Verification, VerifyOptions, interrupt, interrupted_child, perturbations,
    perturbed_environment, verify, verify_locked,
};
pub use views::write_view;
pub use workspace::Workspace;
