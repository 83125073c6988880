//! A run while it runs: one line per running stage, and one that stays for each finished stage.

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use natron_artifacts::{Level, Progress};
use natron_runner::{Event, Outcome, Watcher};

use crate::{
    output::Output,
    style::{Style, printable},
    units,
};

/// How a run shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Lines that move, on a terminal.
    Bars,
    /// Lines that stay.
    Plain,
    /// Only warnings.
    Quiet,
}

impl Mode {
    /// What `NATRON_PROGRESS` says, else bars on a terminal.
    pub(crate) fn choose(output: &Output) -> Self {
        match env::var("NATRON_PROGRESS").as_deref() {
            Ok("none") => Self::Quiet,
            Ok("plain") => Self::Plain,
            _ if output.is_interactive() => Self::Bars,
            _ => Self::Plain,
        }
    }
}

/// At least this much time lies between two plain lines of one stage.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// A graph with more stages than this does not list those whose result was there.
const MOST_HITS_LISTED: usize = 40;

/// Cells for names at the start, and the most that a longer one makes of them.
const FIRST_NAME_CELLS: usize = 12;
const MOST_NAME_CELLS: usize = 48;

/// A stage with more warnings than this has the rest in the log only.
const MOST_WARNINGS: usize = 5;

/// Cells of a bar.
const BAR_CELLS: usize = 20;

/// Shows a run on the standard error.
pub(crate) struct Display {
    mode: Mode,
    style: Style,
    /// Cells that the longest name so far takes.
    name_cells: AtomicUsize,
    bars: MultiProgress,
    /// Says a line in the plain mode.
    say: Box<dyn Fn(&str) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stages: usize,
    finished: usize,
    running: BTreeMap<String, Running>,
    /// Warnings of each stage so far.
    warnings: BTreeMap<String, usize>,
}

struct Running {
    bar: Option<ProgressBar>,
    started: Instant,
    /// The first progress that was told, from which the rate counts.
    first: Option<(Instant, u64)>,
    /// Unit and total of the phase that the rate is of.
    phase: Option<(&'static str, Option<u64>)>,
    last_plain: Instant,
}

impl Display {
    /// A display; `say` writes a line that stays when there are no moving ones.
    pub(crate) fn new(
        mode: Mode,
        style: Style,
        say: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let bars = MultiProgress::with_draw_target(match mode {
            Mode::Bars => ProgressDrawTarget::stderr_with_hz(12),
            Mode::Plain | Mode::Quiet => ProgressDrawTarget::hidden(),
        });
        Self {
            mode,
            style,
            name_cells: AtomicUsize::new(FIRST_NAME_CELLS),
            bars,
            say: Box::new(say),
            state: Mutex::default(),
        }
    }

    /// Says a line above the moving ones.
    pub(crate) fn line(&self, text: &str) {
        if self.mode == Mode::Bars && !self.bars.is_hidden() {
            let _ = self.bars.println(text);
        } else {
            (self.say)(text);
        }
    }

    /// Takes the moving lines away.
    pub(crate) fn finish(&self) {
        for running in std::mem::take(&mut self.lock().running).into_values() {
            running.bar.inspect(ProgressBar::finish_and_clear);
        }
        let _ = self.bars.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn padded(&self, name: &str) -> String {
        let name = printable(name);
        let cells = crate::style::width(&name);
        let column = self
            .name_cells
            .fetch_max(cells.min(MOST_NAME_CELLS), Ordering::Relaxed)
            .max(cells);
        let missing = column - cells;
        format!("{name}{}", " ".repeat(missing))
    }

    fn start(&self, stage: &str, kind: &str) {
        let now = Instant::now();
        let bar = (self.mode == Mode::Bars).then(|| {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.set_style(
                ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}")
                    .expect("the template is valid"),
            );
            bar.set_message(format!("{}  {}", self.padded(stage), self.style.dim(kind)));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let running = Running {
            bar,
            started: now,
            first: None,
            phase: None,
            last_plain: now,
        };
        self.lock().running.insert(stage.to_owned(), running);
    }

    fn advance(&self, stage: &str, progress: &Progress) {
        let mut state = self.lock();
        let Some(running) = state.running.get_mut(stage) else {
            return;
        };
        let now = Instant::now();
        // Another unit or total is another phase, with a pace of its own.
        let phase = (progress.unit, progress.total);
        if running.phase.replace(phase) != Some(phase) {
            running.first = None;
        }
        let (since, done) = *running.first.get_or_insert((now, progress.done));
        let pace = Pace::of(progress, progress.done.saturating_sub(done), now - since);
        if let Some(bar) = &running.bar {
            let name = self.padded(stage);
            bar.set_message(format!(
                "{name}  {}",
                progress_text(progress, pace, self.style, true)
            ));
        } else if self.mode == Mode::Plain && now - running.last_plain >= PLAIN_INTERVAL {
            running.last_plain = now;
            let text = progress_text(progress, pace, Style::PLAIN, false);
            drop(state);
            self.line(&format!("        {}  {text}", self.padded(stage)));
        }
    }

    fn warn(&self, stage: &str, message: &str) {
        let mut state = self.lock();
        let n = state.warnings.entry(stage.to_owned()).or_default();
        *n += 1;
        let is_too_many = *n > MOST_WARNINGS && !stage.is_empty();
        drop(state);
        if is_too_many {
            return;
        }
        let who = if stage.is_empty() {
            String::new()
        } else {
            format!("{}: ", printable(stage))
        };
        self.line(&format!(
            "{}: {who}{}",
            self.style.yellow("warning"),
            printable(message)
        ));
    }

    /// Says how many warnings of the stage were not said.
    fn sum_up_warnings(&self, stage: &str) {
        let n = self.lock().warnings.remove(stage).unwrap_or(0);
        if n > MOST_WARNINGS {
            let more = units::plural(n - MOST_WARNINGS, "warning");
            let text = format!(
                "{}: {}: {more} more in the log",
                self.style.yellow("warning"),
                printable(stage)
            );
            self.line(&text);
        }
    }

    fn end(&self, stage: &str, outcome: Outcome, seconds: f64) {
        let mut state = self.lock();
        state.finished += 1;
        let (finished, stages) = (state.finished, state.stages);
        let running = state.running.remove(stage);
        drop(state);
        // A stage that did not end well is not measured by the runner.
        let seconds = match &running {
            Some(running) if !outcome.is_done() => running.started.elapsed().as_secs_f64(),
            _ => seconds,
        };
        if let Some(bar) = running.and_then(|running| running.bar) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        self.sum_up_warnings(stage);
        if self.mode == Mode::Quiet || (outcome == Outcome::Hit && stages > MOST_HITS_LISTED) {
            return;
        }
        let time = match outcome {
            Outcome::Hit | Outcome::Skipped => String::new(),
            _ => format!("  {}", units::seconds(seconds)),
        };
        let line = format!("{} {}{time}", mark(outcome, self.style), self.padded(stage));
        let line = line.trim_end();
        match self.mode {
            Mode::Bars => self.line(line),
            Mode::Plain | Mode::Quiet => {
                let digits = stages.to_string().len();
                self.line(&format!("[{finished:digits$}/{stages}] {line}"));
            }
        }
    }
}

impl Watcher for Display {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Planned { stages, at_hand } => {
                let mut state = self.lock();
                (state.stages, state.finished) = (*stages, *at_hand);
            }
            Event::Started { stage, kind } => self.start(stage, kind),
            Event::Progress { stage, progress } => self.advance(stage, progress),
            Event::Finished {
                stage,
                outcome,
                seconds,
            } => self.end(stage, *outcome, *seconds),
            Event::Log {
                stage,
                level: Level::Warning,
                message,
            } => self.warn(stage, message),
            Event::Metric { .. } | Event::Log { .. } => {}
        }
    }
}

/// The outcome in four letters.
fn mark(outcome: Outcome, style: Style) -> String {
    match outcome {
        Outcome::Hit => style.dim("hit "),
        Outcome::Ran => style.green("ran "),
        Outcome::Unchanged => style.green("same"),
        Outcome::Failed => style.red("FAIL"),
        Outcome::Skipped => style.yellow("skip"),
        Outcome::Interrupted => style.yellow("stop"),
    }
}

/// How fast a stage goes, and how long it still takes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pace {
    per_second: Option<f64>,
    seconds_left: Option<f64>,
}

impl Pace {
    fn of(progress: &Progress, done: u64, elapsed: Duration) -> Self {
        // A rate over less time than this would jump about.
        let per_second = (done > 0 && elapsed >= Duration::from_millis(500))
            .then(|| done as f64 / elapsed.as_secs_f64());
        let left = progress
            .total
            .map(|total| total.saturating_sub(progress.done));
        let seconds_left = per_second.zip(left).map(|(rate, left)| left as f64 / rate);
        Self {
            per_second,
            seconds_left,
        }
    }
}

fn progress_text(progress: &Progress, pace: Pace, style: Style, with_bar: bool) -> String {
    let mut parts = Vec::new();
    let (done, unit) = (units::count(progress.done), progress.unit);
    match progress.total {
        Some(total) if total > 0 => {
            let share = (progress.done as f64 / total as f64).min(1.0);
            if with_bar {
                parts.push(bar(share, style));
            }
            parts.push(format!("{:3.0}%", (share * 100.0).floor()));
            parts.push(format!("{done}/{} {unit}", units::count(total)));
        }
        _ => parts.push(format!("{done} {unit}")),
    }
    if let Some(rate) = pace.per_second {
        parts.push(if rate >= 10.0 {
            format!("{}/s", units::count(rate.round() as u64))
        } else {
            format!("{rate:.1}/s")
        });
    }
    if let Some(loss) = progress.loss {
        parts.push(style.bold(&format!("loss {loss:.4}")));
    }
    if let Some(left) = pace.seconds_left {
        parts.push(format!("ETA {}", units::seconds(left.ceil())));
    }
    if !progress.note.is_empty() {
        parts.push(style.dim(&printable(&progress.note)));
    }
    parts.join("  ")
}

fn bar(share: f64, style: Style) -> String {
    let halves = (share * 2.0 * BAR_CELLS as f64).floor() as usize;
    let mut full = "━".repeat(halves / 2);
    if halves % 2 == 1 {
        full.push('╸');
    }
    let rest = "─".repeat(BAR_CELLS - full.chars().count());
    format!("{}{}", style.cyan(&full), style.dim(&rest))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn progress(done: u64, total: Option<u64>) -> Progress {
        Progress {
            done,
            total,
            unit: "steps",
            loss: Some(0.5),
            note: "epoch 2\nof 3".into(),
        }
    }

    #[test]
    fn says_rate_loss_and_time_left() {
        let progress = progress(1500, Some(3000));
        let pace = Pace::of(&progress, 1000, Duration::from_secs(10));

        assert_eq!(
            progress_text(&progress, pace, Style::PLAIN, true),
            "━━━━━━━━━━──────────   50%  1,500/3,000 steps  100/s  loss 0.5000  ETA 15.0 s  epoch 2 / of 3"
        );
    }

    #[test]
    fn nothing_is_guessed_from_nothing() {
        let unknown = progress(7, None);
        let pace = Pace::of(&unknown, 7, Duration::from_millis(10));
        assert_eq!(
            progress_text(&unknown, pace, Style::PLAIN, true),
            "7 steps  loss 0.5000  epoch 2 / of 3"
        );
        let beyond = progress(11, Some(10));
        let pace = Pace::of(&beyond, 11, Duration::from_secs(1));
        assert!(progress_text(&beyond, pace, Style::PLAIN, true).contains("100%"));
        assert_eq!(pace.seconds_left, Some(0.0));
    }

    #[test]
    fn many_warnings_become_few_lines() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&lines);
        let display = Display::new(Mode::Plain, Style::PLAIN, move |line| {
            written.lock().unwrap().push(line.to_owned());
        });

        for _ in 0..MOST_WARNINGS + 2 {
            display.event(&Event::Log {
                stage: "evaluate",
                level: Level::Warning,
                message: "one class",
            });
        }
        display.event(&Event::Finished {
            stage: "evaluate",
            outcome: Outcome::Ran,
            seconds: 1.0,
        });

        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), MOST_WARNINGS + 2);
        assert_eq!(
            lines[MOST_WARNINGS],
            "warning: evaluate: 2 warnings more in the log"
        );
    }

    #[test]
    fn plain_lines_count_stages() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&lines);
        let display = Display::new(Mode::Plain, Style::PLAIN, move |line| {
            written.lock().unwrap().push(line.to_owned());
        });

        display.event(&Event::Planned {
            stages: 2,
            at_hand: 0,
        });
        display.event(&Event::Finished {
            stage: "bars",
            outcome: Outcome::Hit,
            seconds: 3.0,
        });
        display.event(&Event::Started {
            stage: "features",
            kind: "features",
        });
        let warning = Event::Log {
            stage: "features",
            level: Level::Warning,
            message: "constant\u{1b}",
        };
        display.event(&warning);
        display.event(&Event::Finished {
            stage: "features",
            outcome: Outcome::Ran,
            seconds: 1.25,
        });

        assert_eq!(
            *lines.lock().unwrap(),
            [
                "[1/2] hit  bars",
                "warning: features: constant\\u{1b}",
                "[2/2] ran  features      1.2 s"
            ]
        );
    }
}
