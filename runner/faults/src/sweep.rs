//! Runs families of cases: in parallel, against the clock, with a line of JSON for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufWriter, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{Checked, While, playground};

/// How a sweep is run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Decides everything random.
    pub seed: u64,
    /// A small part of everything.
    pub fast: bool,
    /// Where the lines and the workspaces of failures go.
    pub out: PathBuf,
    /// Where workspaces are made: in memory, if there is such a place.
    pub work: PathBuf,
    /// The program with the toy stages.
    pub program: PathBuf,
    /// Cases at a time.
    pub threads: usize,
    /// The longest that a family may take.
    pub longest: Duration,
    /// Only the case of this id.
    pub case: Option<String>,
}

impl Plan {
    /// `fast` or `full`, whichever is asked for.
    pub fn size(&self, fast: usize, full: usize) -> usize {
        if self.fast { fast } else { full }
    }
}

/// What a family has counted.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Cases that were run.
    pub cases: u64,
    /// Ids of those that failed, and why.
    pub failures: Vec<(String, String)>,
    /// What could not be run on this machine, and how many cases that were.
    pub skips: BTreeMap<String, u64>,
    /// Whatever else is worth counting.
    pub counts: BTreeMap<String, u64>,
    /// Distinct points at which something happened.
    pub points: BTreeSet<String>,
    /// How long it took.
    pub seconds: f64,
    /// Whether time ran out before everything was run.
    pub cut_short: bool,
}

/// A family that is being run.
#[derive(Debug)]
pub struct Family<'a> {
    /// How.
    pub plan: &'a Plan,
    /// Its name.
    pub name: &'static str,
    started: Instant,
    lines: Mutex<BufWriter<File>>,
    tally: Mutex<Tally>,
    next_folder: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// After so many failures a family stops: the rest would say the same.
const MOST_FAILURES: usize = 60;
/// Workspaces of failures that are kept.
const MOST_KEPT: usize = 20;

impl<'a> Family<'a> {
    /// Starts the family `name`.
    pub fn start(plan: &'a Plan, name: &'static str) -> Checked<Self> {
        fs::create_dir_all(&plan.out).at("create")?;
        fs::create_dir_all(plan.work.join(name)).at("create")?;
        let lines = File::create(plan.out.join(format!("{name}.jsonl"))).at("create")?;
        Ok(Self {
            plan,
            name,
            started: Instant::now(),
            lines: Mutex::new(BufWriter::new(lines)),
            tally: Mutex::default(),
            next_folder: AtomicU64::new(0),
        })
    }

    /// A name for a new folder in the place for workspaces.
    pub fn folder(&self) -> PathBuf {
        let n = self.next_folder.fetch_add(1, Ordering::Relaxed);
        self.plan.work.join(self.name).join(n.to_string())
    }

    /// Runs one case in a new folder: removed when all is well, kept when not. Says what it gave, or nothing if it failed
    /// or was not asked for. The id must say how to make the case again with the same seed.
    pub fn case<T>(&self, id: &str, act: impl FnOnce(&Path) -> Checked<T>) -> Option<T> {
        if self.plan.case.as_deref().is_some_and(|wanted| wanted != id) {
            return None;
        }
        let folder = self.folder();
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| act(&folder))).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panicked: {}", text.unwrap_or("no message")))
        });
        let milliseconds = started.elapsed().as_secs_f64() * 1000.0;
        let mut tally = lock(&self.tally);
        tally.cases += 1;
        let (value, error) = match result {
            Ok(value) => (Some(value), None),
            Err(error) => (None, Some(error)),
        };
        let mut kept = None;
        if let Some(error) = &error {
            tally.failures.push((id.to_owned(), error.clone()));
            if tally.failures.len() <= MOST_KEPT && folder.exists() {
                kept = Some(folder.clone());
            }
        }
        drop(tally);
        let line = json!({
            "family": self.name, "id": id, "seed": self.plan.seed,
            "result": error.as_deref().unwrap_or("ok"), "ms": (milliseconds * 10.0).round() / 10.0,
            "kept": kept,
        });
        let _ = writeln!(lock(&self.lines), "{line}");
        if let Some(error) = error {
            let repeat = format!(
                "natron-faults run --only {} --seed {} --case '{id}'",
                self.name, self.plan.seed
            );
            let kept = kept.map_or_else(String::new, |path| format!(" in {}", path.display()));
            say(&format!("FAILED {id}{kept}: {error}\n  repeat: {repeat}"));
        } else if folder.exists() {
            let _ = playground::remove(&folder);
        }
        value
    }

    /// Counts cases that this machine cannot run.
    pub fn skip(&self, why: &str, cases: u64) {
        *lock(&self.tally).skips.entry(why.to_owned()).or_default() += cases;
        say(&format!("{}: {cases} cannot run: {why}", self.name));
    }

    /// Adds to a count.
    pub fn count(&self, what: &str, n: u64) {
        *lock(&self.tally).counts.entry(what.to_owned()).or_default() += n;
    }

    /// Notes a point at which something happened.
    pub fn point(&self, point: impl Into<String>) {
        lock(&self.tally).points.insert(point.into());
    }

    /// What a count has reached.
    pub fn reached(&self, what: &str) -> u64 {
        lock(&self.tally).counts.get(what).copied().unwrap_or(0)
    }

    /// Whether time is up or too much has failed.
    pub fn is_over(&self) -> bool {
        let mut tally = lock(&self.tally);
        if self.started.elapsed() > self.plan.longest {
            tally.cut_short = true;
        }
        tally.cut_short || tally.failures.len() >= MOST_FAILURES
    }

    /// Does every job, several at a time, until time is up.
    pub fn each<T: Send>(
        &self,
        jobs: impl IntoIterator<Item = T, IntoIter: Send>,
        act: impl Fn(T) + Sync,
    ) {
        let jobs = Mutex::new(jobs.into_iter());
        thread::scope(|scope| {
            for _ in 0..self.plan.threads {
                scope.spawn(|| {
                    while !self.is_over() {
                        let Some(job) = lock(&jobs).next() else {
                            break;
                        };
                        act(job);
                    }
                });
            }
        });
    }

    /// Ends the family.
    pub fn finish(self) -> Tally {
        let _ = lock(&self.lines).flush();
        let mut tally = self
            .tally
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        tally.seconds = self.started.elapsed().as_secs_f64();
        say(&format!(
            "{}: {} cases / {} failures in {:.0} s{}",
            self.name,
            tally.cases,
            tally.failures.len(),
            tally.seconds,
            if tally.cut_short { ", cut short" } else { "" }
        ));
        tally
    }
}

/// Says something to a person.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
