//! Root causes: what makes stages run that no stage makes, each once, with how many stages it makes run.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::Forecast;

use super::{Change, Changed, Engine, PastStage, Reason};

/// So many causes are listed with each stage.
const MOST_OF_STAGE: usize = 16;

/// So many places are listed with each cause.
const MOST_PLACES: usize = 64;

/// Something that makes stages run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RootCause {
    /// What it is.
    #[serde(flatten)]
    pub cause: Cause,
    /// The instances in which it lies; at most 64.
    pub stages: Vec<String>,
    /// In how many it lies.
    pub n_stages: usize,
    /// How many stages run because of it, themselves among them.
    pub run: usize,
    /// How many more may run because of it.
    pub maybe: usize,
    /// Seconds that all these took when they last ran, as far as known.
    pub expected_seconds: f64,
}

/// What a root cause is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum Cause {
    /// An ingredient that no other stage makes.
    Changed {
        /// What it was and is.
        change: Change,
    },
    /// An input that another stage made is not what it was, and why cannot be told any more.
    Untold {
        /// What it was and is.
        change: Change,
    },
    /// There is no result here.
    New,
    /// The record of the result is gone from the store.
    RecordEvicted,
    /// Content of the result is gone from the store.
    ContentLost {
        /// Whether it was found damaged.
        damaged: bool,
    },
    /// Somebody asked for it.
    Forced,
    /// It ran although its result was the same as before: forced, or the result was gone.
    Repeated,
    /// The newest attempt failed.
    PreviousAttemptFailed {
        /// How.
        error: String,
    },
    /// It failed, in a run that is over.
    Failed {
        /// How.
        error: String,
    },
}

impl Cause {
    fn identity(&self) -> String {
        match self {
            Self::Changed { change } | Self::Untold { change } => change.identity(),
            Self::New => "new".into(),
            Self::RecordEvicted => "evicted".into(),
            Self::ContentLost { damaged } => format!("lost {damaged}"),
            Self::Forced => "forced".into(),
            Self::Repeated => "repeated".into(),
            Self::PreviousAttemptFailed { error } | Self::Failed { error } => {
                format!("failed {error}")
            }
        }
    }
}

/// All causes, and those of each stage.
#[derive(Debug, Default)]
pub(super) struct Causes {
    pub(super) causes: Vec<RootCause>,
    pub(super) of_stage: Vec<Vec<usize>>,
}

/// The root causes of all stages that run or may run.
pub(super) fn root_causes(engine: &Engine<'_>) -> Causes {
    let mut finder = Finder {
        engine,
        causes: Vec::new(),
        known: BTreeMap::new(),
        memo: BTreeMap::new(),
    };
    let direct: Vec<BTreeSet<usize>> = (0..engine.stages.len())
        .map(|index| {
            if engine.is_open(index) {
                finder.direct(index)
            } else {
                BTreeSet::new()
            }
        })
        .collect();
    let found = finder.causes;
    let mut consumers = vec![Vec::new(); engine.stages.len()];
    for (index, stage) in engine.stages.iter().enumerate() {
        for producer in stage.producers().collect::<BTreeSet<_>>() {
            consumers[producer].push(index);
        }
    }
    let mut roots: Vec<Vec<usize>> = vec![Vec::new(); found.len()];
    for (index, causes) in direct.iter().enumerate() {
        for &cause in causes {
            roots[cause].push(index);
        }
    }
    let mut causes = Vec::new();
    let mut reached_by = Vec::new();
    let mut last_visit = vec![usize::MAX; engine.stages.len()];
    for (number, ((cause, places), roots)) in found.into_iter().zip(roots).enumerate() {
        let mut open = roots;
        let mut reached = Vec::new();
        for &root in &open {
            last_visit[root] = number;
        }
        while let Some(index) = open.pop() {
            reached.push(index);
            for &consumer in &consumers[index] {
                if engine.is_open(consumer) && last_visit[consumer] != number {
                    last_visit[consumer] = number;
                    open.push(consumer);
                }
            }
        }
        let run = reached
            .iter()
            .filter(|&&i| engine.stages[i].forecast == Forecast::Run)
            .count();
        let seconds = reached.iter().filter_map(|&i| engine.stages[i].seconds);
        causes.push(RootCause {
            cause,
            n_stages: places.len(),
            stages: places
                .iter()
                .take(MOST_PLACES)
                .map(|&index| engine.stages[index].name.clone())
                .collect(),
            run,
            maybe: reached.len() - run,
            expected_seconds: seconds.sum(),
        });
        reached_by.push(reached);
    }
    let mut order: Vec<usize> = (0..causes.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse((causes[i].run + causes[i].maybe, causes[i].run)));
    let mut of_stage = vec![Vec::new(); engine.stages.len()];
    for (position, &cause) in order.iter().enumerate() {
        for &stage in &reached_by[cause] {
            if of_stage[stage].len() < MOST_OF_STAGE {
                of_stage[stage].push(position);
            }
        }
    }
    let mut taken: Vec<Option<RootCause>> = causes.into_iter().map(Some).collect();
    let causes = order.into_iter().filter_map(|i| taken[i].take());
    Causes {
        causes: causes.collect(),
        of_stage,
    }
}

/// The root causes of what changed in the stage at `index` since the result `past`.
pub(super) fn roots_since(engine: &Engine<'_>, index: usize, past: &PastStage) -> Vec<Change> {
    let mut finder = Finder {
        engine,
        causes: Vec::new(),
        known: BTreeMap::new(),
        memo: BTreeMap::new(),
    };
    finder.since(index, past);
    let causes = finder.causes.into_iter();
    causes
        .filter_map(|(cause, _)| match cause {
            Cause::Changed { change } | Cause::Untold { change } => Some(change),
            _ => None,
        })
        .collect()
}

struct Finder<'a> {
    engine: &'a Engine<'a>,
    /// Each with the positions of the stages in which it lies.
    causes: Vec<(Cause, BTreeSet<usize>)>,
    known: BTreeMap<String, usize>,
    /// What changed in a stage since a run.
    memo: BTreeMap<(usize, String), BTreeSet<usize>>,
}

impl Finder<'_> {
    /// The causes that lie in the stage at `index`, or above it in stages that need not run.
    fn direct(&mut self, index: usize) -> BTreeSet<usize> {
        let engine = self.engine;
        let stage = &engine.stages[index];
        let (reason, _) = engine.reason(index, false, false);
        let own = match reason {
            Reason::New { .. } => Some(Cause::New),
            Reason::RecordEvicted => Some(Cause::RecordEvicted),
            Reason::ContentLost { damaged, .. } => Some(Cause::ContentLost { damaged }),
            Reason::Forced => Some(Cause::Forced),
            Reason::Repeated => Some(Cause::Repeated),
            Reason::PreviousAttemptFailed { error, .. } => {
                Some(Cause::PreviousAttemptFailed { error })
            }
            Reason::Failed { error } => Some(Cause::Failed { error }),
            _ => None,
        };
        let mut causes = BTreeSet::new();
        if let Some(cause) = own {
            causes.insert(self.note(cause, index));
        }
        match engine.past.result(&stage.name) {
            Some(past) => causes.extend(self.since(index, past)),
            None if stage.forecast == Forecast::Maybe && engine.graph.is_some() => {
                causes.insert(self.note(Cause::New, index));
            }
            None => {}
        }
        causes
    }

    /// The causes of what changed in the stage at `index` since the result `past`.
    fn since(&mut self, index: usize, past: &PastStage) -> BTreeSet<usize> {
        let id = (index, past.run.id.clone());
        if let Some(causes) = self.memo.get(&id) {
            return causes.clone();
        }
        let mut causes = BTreeSet::new();
        for change in self.engine.changes(index, past, false) {
            match self.producer(&change) {
                Some(producer) => causes.extend(self.through(index, producer, past, change)),
                None => {
                    causes.insert(self.note(Cause::Changed { change }, index));
                }
            }
        }
        self.memo.insert(id, causes.clone());
        causes
    }

    /// The causes of an input's change: they lie in the stage that made it.
    fn through(
        &mut self,
        index: usize,
        producer: usize,
        past: &PastStage,
        change: Change,
    ) -> BTreeSet<usize> {
        if self.engine.is_open(producer) {
            // It has causes of its own, which reach down to here.
            return BTreeSet::new();
        }
        let then = PastStage {
            run: past.run.clone(),
            name: self.engine.stages[producer].name.clone(),
        };
        let causes = if then.run.stages.contains_key(&then.name) {
            self.since(producer, &then)
        } else {
            BTreeSet::new()
        };
        if causes.is_empty() {
            return BTreeSet::from([self.note(Cause::Untold { change }, index)]);
        }
        causes
    }

    fn producer(&self, change: &Change) -> Option<usize> {
        let Changed::Artifact {
            from: Some(from), ..
        } = &change.what
        else {
            return None;
        };
        let (stage, _) = from.rsplit_once('.')?;
        self.engine.position(stage)
    }

    fn note(&mut self, cause: Cause, place: usize) -> usize {
        let identity = cause.identity();
        let number = *self.known.entry(identity).or_insert_with(|| {
            self.causes.push((cause, BTreeSet::new()));
            self.causes.len() - 1
        });
        self.causes[number].1.insert(place);
        number
    }
}
