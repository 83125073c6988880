//! What a program says while it runs: its log, and messages on descriptor 3.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
};

use natron_artifacts::{Level, Observer, Progress};
use natron_process::{Channel, Lines, shown};
use serde::Deserialize;

/// Later lines of the log are counted and dropped.
const MAX_LOG_LINES: usize = 10_000;

/// How many of the last lines an error shows.
const LAST_LINES: usize = 20;

/// How many lines that are no message are shown.
const MAX_COMPLAINTS: usize = 3;

/// How many series of metrics are numbered for a program that does not number them itself.
const MAX_SERIES: usize = 1000;

/// How much of a line that is no message is shown, in characters.
const EXCERPT: usize = 120;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    progress: Option<ProgressMessage>,
    metric: Option<MetricMessage>,
    log: Option<String>,
    warning: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProgressMessage {
    done: u64,
    total: Option<u64>,
    #[serde(default)]
    unit: String,
    loss: Option<f64>,
    #[serde(default)]
    note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricMessage {
    name: String,
    step: Option<u64>,
    value: f64,
}

/// Passes on what a program says.
pub(super) struct Messages<'a> {
    observer: &'a dyn Observer,
    secrets: Vec<String>,
    output: Lines,
    errors: Lines,
    replies: Lines,
    last: VecDeque<String>,
    logged: usize,
    complaints: usize,
    steps: BTreeMap<String, u64>,
}

impl<'a> Messages<'a> {
    /// Passes on to `observer`, with `***` in place of `secrets`.
    pub(super) fn new(observer: &'a dyn Observer, secrets: Vec<String>) -> Self {
        Self {
            observer,
            secrets,
            output: Lines::default(),
            errors: Lines::default(),
            replies: Lines::default(),
            last: VecDeque::new(),
            logged: 0,
            complaints: 0,
            steps: BTreeMap::new(),
        }
    }

    /// Takes bytes that the program wrote.
    pub(super) fn take(&mut self, channel: Channel, bytes: &[u8]) {
        let mut lines = std::mem::take(self.lines(channel));
        lines.push(bytes, &mut |line, dropped| {
            self.line(channel, line, dropped);
        });
        *self.lines(channel) = lines;
    }

    /// Ends the log. The last lines of output and errors.
    pub(super) fn finish(mut self) -> Vec<String> {
        for channel in [Channel::Output, Channel::Errors, Channel::Messages] {
            let mut lines = std::mem::take(self.lines(channel));
            lines.finish(&mut |line, dropped| self.line(channel, line, dropped));
        }
        if let Some(n) = self.logged.checked_sub(MAX_LOG_LINES).filter(|&n| n > 0) {
            self.observer
                .log(Level::Info, &format!("... {n} more lines dropped"));
        }
        if let Some(n) = self
            .complaints
            .checked_sub(MAX_COMPLAINTS)
            .filter(|&n| n > 0)
        {
            let message = format!("{n} more lines on descriptor 3 are no messages");
            self.observer.log(Level::Warning, &message);
        }
        self.last.into()
    }

    fn lines(&mut self, channel: Channel) -> &mut Lines {
        match channel {
            Channel::Output => &mut self.output,
            Channel::Errors => &mut self.errors,
            Channel::Messages => &mut self.replies,
        }
    }

    fn line(&mut self, channel: Channel, line: &[u8], dropped: usize) {
        if channel == Channel::Messages {
            return self.message(line, dropped);
        }
        let mut text = shown(line, &self.secrets);
        if dropped > 0 {
            let _ = write!(text, " ... {dropped} more bytes dropped");
        }
        self.log(Level::Info, &text);
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(text);
    }

    fn log(&mut self, level: Level, text: &str) {
        self.logged += 1;
        if self.logged <= MAX_LOG_LINES {
            self.observer.log(level, text);
        }
    }

    fn message(&mut self, line: &[u8], dropped: usize) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let message = match serde_json::from_slice::<Message>(line) {
            Ok(message) if dropped == 0 => message,
            Ok(_) => return self.complain(line, "it is too long"),
            Err(error) => return self.complain(line, &error.to_string()),
        };
        if let Some(progress) = message.progress {
            self.observer.progress(&Progress {
                done: progress.done,
                total: progress.total,
                unit: unit(&progress.unit),
                loss: progress.loss,
                note: shown(progress.note.as_bytes(), &self.secrets),
            });
        }
        if let Some(metric) = message.metric {
            let name = shown(metric.name.as_bytes(), &self.secrets);
            let step = metric.step.unwrap_or_else(|| self.next_step(&name));
            self.observer.metric(&name, step, metric.value);
        }
        for (level, text) in [
            (Level::Info, message.log),
            (Level::Warning, message.warning),
        ] {
            if let Some(text) = text {
                let text = shown(text.as_bytes(), &self.secrets);
                self.log(level, &text);
            }
        }
    }

    fn next_step(&mut self, name: &str) -> u64 {
        if let Some(step) = self.steps.get_mut(name) {
            *step += 1;
            return *step;
        }
        if self.steps.len() < MAX_SERIES {
            self.steps.insert(name.to_owned(), 0);
        }
        0
    }

    fn complain(&mut self, line: &[u8], why: &str) {
        self.complaints += 1;
        if self.complaints <= MAX_COMPLAINTS {
            let excerpt: String = shown(line, &self.secrets).chars().take(EXCERPT).collect();
            let message = format!("a line on descriptor 3 is no message ({why}): `{excerpt}`");
            self.observer.log(Level::Warning, &message);
        }
    }
}

/// The units that progress is shown in.
fn unit(name: &str) -> &'static str {
    [
        "rows", "steps", "epochs", "files", "bytes", "windows", "symbols",
    ]
    .into_iter()
    .find(|unit| *unit == name)
    .unwrap_or("")
}

/// Reads all that a program may say, and passes it on to nobody: whatever the bytes are, there is no panic.
pub(crate) fn read(bytes: &[u8]) {
    let mut messages = Messages::new(&natron_artifacts::Silent, Vec::new());
    for channel in [Channel::Messages, Channel::Output, Channel::Errors] {
        for part in bytes.chunks(4096) {
            messages.take(channel, part);
        }
    }
    messages.finish();
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Observer for Notes {
        fn progress(&self, p: &Progress) {
            let text = format!("progress {}/{:?} {} {:?}", p.done, p.total, p.unit, p.loss);
            self.0.lock().unwrap().push(text);
        }
        fn metric(&self, name: &str, step: u64, value: f64) {
            self.0
                .lock()
                .unwrap()
                .push(format!("metric {name} {step} {value}"));
        }
        fn log(&self, level: Level, message: &str) {
            self.0.lock().unwrap().push(format!("{level:?} {message}"));
        }
    }

    fn said(channel: Channel, bytes: &[u8]) -> (Vec<String>, Vec<String>) {
        let notes = Notes::default();
        let mut messages = Messages::new(&notes, Vec::new());
        messages.take(channel, bytes);
        let last = messages.finish();
        (notes.0.into_inner().unwrap(), last)
    }

    #[test]
    fn messages_reach_whoever_watches() {
        let text = br#"{"progress": {"done": 1, "total": 2, "unit": "rows", "loss": 0.5}}
{"metric": {"name": "auc", "value": 0.7}, "log": "one"}
{"metric": {"name": "auc", "value": 0.8}}
{"warning": "two"}
"#;

        let (notes, _) = said(Channel::Messages, text);
        assert_eq!(
            notes,
            [
                "progress 1/Some(2) rows Some(0.5)",
                "metric auc 0 0.7",
                "Info one",
                "metric auc 1 0.8",
                "Warning two"
            ]
        );
    }

    #[test]
    fn what_is_no_message_is_a_warning_with_an_excerpt() {
        let (notes, _) = said(
            Channel::Messages,
            b"{\"metric\": {\"name\": \"x\", \"value\": NaN}}\nhello\n[1]\n4\n5",
        );

        assert_eq!(notes.len(), 4, "{notes:?}");
        assert!(
            notes[0].contains("is no message (expected value"),
            "{notes:?}"
        );
        assert!(notes[1].ends_with("`hello`"), "{notes:?}");
        assert_eq!(
            notes[3],
            "Warning 2 more lines on descriptor 3 are no messages"
        );
    }

    #[test]
    fn a_flood_is_cut_and_its_end_kept() {
        let lines: Vec<String> = (0..MAX_LOG_LINES + 5)
            .map(|i| format!("line {i}"))
            .collect();
        let flood = lines.join("\n");

        let (notes, last) = said(Channel::Errors, flood.as_bytes());
        assert_eq!(notes.len(), MAX_LOG_LINES + 1);
        assert_eq!(notes[MAX_LOG_LINES], "Info ... 5 more lines dropped");
        assert_eq!(last.len(), LAST_LINES);
        assert_eq!(last[LAST_LINES - 1], format!("line {}", MAX_LOG_LINES + 4));
    }

    proptest! {
        #[test]
        fn no_bytes_on_descriptor_3_break_it(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            json in "(\\{\"(progress|metric|log)\": ?(\\{\"done\": ?-?[0-9]{1,25}\\}|[0-9e.]{1,8}|\"x\")\\}\n?){0,4}",
        ) {
            said(Channel::Messages, &bytes);
            said(Channel::Messages, json.as_bytes());
        }
    }
}
