//! What the runner, not the stage, reads of a stage: seed, resources, retries, views.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
    time::Duration,
};

use natron_artifacts::{Gpu, Hasher, Limits, Threads, canonical};

use crate::{
    Diagnostic, OnFailure, code,
    definition::{check_keys, expect_choice, expect_seed, expect_str, expect_table, wrong_type},
    did_you_mean::{listed, suggestion_or},
    document::{Content, Node, Table},
    interpolate::Coordinates,
    names,
    reproducible::{self, Reproducible},
};

/// Everything below `[stages.NAME]` but `uses`, `inputs`, `with`, `matrix` and `when`.
#[derive(Default)]
pub(crate) struct Settings {
    /// The seed, if the file says one.
    pub(crate) seed: Option<u64>,
    /// Axes that give the instances different seeds.
    pub(crate) seed_axes: Vec<String>,
    pub(crate) threads: Option<Threads>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) gpu: Option<GpuRequest>,
    pub(crate) tokens: BTreeMap<String, u32>,
    pub(crate) retries: u32,
    /// How long to wait before the first retry; twice as long before each further one.
    pub(crate) backoff: Duration,
    /// By what the memory grows with each attempt.
    pub(crate) memory_growth: f64,
    pub(crate) timeout: Option<Duration>,
    /// Whether the stage shall have a process of its own.
    pub(crate) isolated: bool,
    pub(crate) limits: Limits,
    pub(crate) on_failure: OnFailure,
    pub(crate) salt: Option<String>,
    pub(crate) reproducible: Reproducible,
    /// Output port -> path as written, with its place.
    pub(crate) views: BTreeMap<String, View>,
}

/// `resources.gpu`.
#[derive(Clone)]
pub(crate) struct GpuRequest {
    pub(crate) policy: Gpu,
    /// How many.
    pub(crate) count: u32,
    /// Memory that each of them has, in bytes.
    pub(crate) memory_bytes: u64,
    /// The value, for messages.
    pub(crate) node: Node,
}

/// A path that shows an output.
pub(crate) struct View {
    /// Relative to the workspace, without `.` and `..`.
    pub(crate) path: String,
    /// Where the port's name stands.
    pub(crate) port: crate::Place,
    /// The path as a value.
    pub(crate) node: Node,
}

/// The settings in `table`, references filled in.
pub(crate) fn read(
    table: &Table,
    coordinates: &Coordinates,
    declared_tokens: Option<&BTreeMap<String, u32>>,
    mistakes: &mut Vec<Diagnostic>,
) -> Settings {
    let mut settings = Settings {
        memory_growth: 1.0,
        ..Settings::default()
    };
    for (key, entry) in table {
        let node = &entry.node;
        match key.as_str() {
            "seed" if node.as_str() == Some("auto") => {}
            "seed" if node.as_str().is_some() => {
                wrong_type("`seed`", node, "a whole number or `auto`", mistakes);
            }
            "seed" => settings.seed = expect_seed("seed", node, mistakes),
            "seed_axes" => settings.seed_axes = seed_axes(node, coordinates, mistakes),
            "resources" => resources(node, declared_tokens, &mut settings, mistakes),
            "retries" => retries(node, &mut settings, mistakes),
            "timeout" => settings.timeout = time("timeout", node, mistakes),
            "isolation" => {
                let choices = [("none", false), ("process", true)];
                let choice = expect_choice("isolation", node, &choices, mistakes);
                settings.isolated = choice.unwrap_or_default();
            }
            "limits" => limits(node, &mut settings.limits, mistakes),
            "on_failure" => {
                let choices = [
                    ("stop", OnFailure::Stop),
                    ("continue", OnFailure::Continue),
                    ("ignore", OnFailure::Ignore),
                ];
                if let Some(choice) = expect_choice("on_failure", node, &choices, mistakes) {
                    settings.on_failure = choice;
                }
            }
            "salt" => settings.salt = expect_str("salt", node, mistakes).map(str::to_owned),
            "reproducible" => settings.reproducible = reproducible::read(node, mistakes),
            "views" => settings.views = views(node, mistakes),
            _ => {}
        }
    }
    settings
}

/// The seed of an instance that does not choose one: a hash of the root seed, the kind and the values on its seed axes.
pub(crate) fn automatic_seed(
    root: u64,
    kind: &str,
    seed_axes: &[String],
    coordinates: &Coordinates,
) -> u64 {
    let axes: serde_json::Map<_, _> = coordinates
        .iter()
        .filter(|(axis, _)| *axis == "seed" || seed_axes.contains(axis))
        .map(|(axis, value)| (axis.clone(), value.to_json(&mut |_| ())))
        .collect();
    let digest = Hasher::new("natron stage seed v1")
        .part(&root.to_le_bytes())
        .part(kind.as_bytes())
        .part(&canonical::encode(&axes.into()))
        .finish();
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

fn seed_axes(
    node: &Node,
    coordinates: &Coordinates,
    mistakes: &mut Vec<Diagnostic>,
) -> Vec<String> {
    let Content::Array(items) = &node.content else {
        wrong_type("`seed_axes`", node, "a list of axes", mistakes);
        return Vec::new();
    };
    let mut axes = Vec::new();
    for item in items {
        let Some(axis) = expect_str("seed_axes", item, mistakes) else {
            continue;
        };
        if coordinates.contains_key(axis) {
            axes.push(axis.to_owned());
        } else {
            let known = coordinates.keys().map(String::as_str);
            let otherwise = if coordinates.is_empty() {
                "the stage has no `matrix`".to_owned()
            } else {
                format!("the axes are {}", listed(known.clone()))
            };
            let message = format!("`seed_axes` names `{axis}`, which is no axis of the matrix");
            mistakes.push(
                item.mistake(code::BAD_MATRIX, message, "")
                    .help(suggestion_or(axis, known, &otherwise)),
            );
        }
    }
    axes
}

/// A number of retries, or `{ times = 3, backoff = "10s", memory_growth = 2.0 }`.
fn retries(node: &Node, settings: &mut Settings, mistakes: &mut Vec<Diagnostic>) {
    let Some(table) = node.as_table() else {
        settings.retries = count("retries", node, 0, 1000, mistakes).unwrap_or_default();
        return;
    };
    let before = mistakes.len();
    check_keys(
        "`retries`",
        table,
        &["times", "backoff", "memory_growth"],
        mistakes,
    );
    for (key, entry) in table {
        let node = &entry.node;
        match key.as_str() {
            "times" => {
                settings.retries = count("times", node, 0, 1000, mistakes).unwrap_or_default();
            }
            "backoff" => settings.backoff = time("backoff", node, mistakes).unwrap_or_default(),
            "memory_growth" => {
                let growth = match node.content {
                    Content::Integer(integer) => integer as f64,
                    Content::Float(float) => float,
                    _ => {
                        wrong_type("`memory_growth`", node, "a number", mistakes);
                        continue;
                    }
                };
                if (1.0..=16.0).contains(&growth) {
                    settings.memory_growth = growth;
                } else {
                    let message = format!("`memory_growth` is {growth}, expected 1 to 16");
                    mistakes.push(
                        node.mistake(code::BAD_VALUE, message, "")
                            .help("2.0 doubles the memory with each attempt"),
                    );
                }
            }
            _ => {}
        }
    }
    if !table.contains_key("times") && mistakes.len() == before {
        mistakes.push(
            node.mistake(code::MISSING_KEY, "`retries` does not say how many", "")
                .help("add `times = 3`"),
        );
    }
}

fn resources(
    node: &Node,
    declared_tokens: Option<&BTreeMap<String, u32>>,
    settings: &mut Settings,
    mistakes: &mut Vec<Diagnostic>,
) {
    let Some(table) = expect_table("`resources`", node, mistakes) else {
        return;
    };
    check_keys(
        "`resources`",
        table,
        &["threads", "memory", "gpu", "tokens"],
        mistakes,
    );
    for (key, entry) in table {
        let node = &entry.node;
        match key.as_str() {
            "threads" if node.as_str().is_some() => {
                let choices = [("all", Threads::All), ("one", Threads::One)];
                settings.threads = expect_choice("threads", node, &choices, mistakes);
            }
            "threads" => {
                settings.threads = count("threads", node, 1, 65_536, mistakes).map(Threads::Count);
            }
            "memory" => settings.memory_bytes = memory(node, mistakes),
            "gpu" => settings.gpu = gpu(node, mistakes),
            "tokens" => {
                settings.tokens = tokens(node, mistakes);
                if let (Some(declared), Some(table)) = (declared_tokens, node.as_table()) {
                    check_tokens(table, &settings.tokens, declared, mistakes);
                }
            }
            _ => {}
        }
    }
}

fn limits(node: &Node, limits: &mut Limits, mistakes: &mut Vec<Diagnostic>) {
    let Some(table) = expect_table("`limits`", node, mistakes) else {
        return;
    };
    let known = ["memory", "processes", "cpu_seconds"];
    check_keys("`limits`", table, &known, mistakes);
    for (key, entry) in table {
        let node = &entry.node;
        match key.as_str() {
            "memory" => {
                limits.memory_bytes = memory(node, mistakes);
                if limits.memory_bytes == Some(0) {
                    let message = "`memory` is 0, and nothing runs without memory";
                    mistakes.push(node.mistake(code::BAD_VALUE, message.to_owned(), ""));
                }
            }
            "processes" => {
                limits.processes = count(key, node, 1, 4_194_304, mistakes).map(u64::from);
            }
            "cpu_seconds" => {
                limits.cpu_seconds = count(key, node, 1, u32::MAX, mistakes).map(u64::from);
            }
            _ => {}
        }
    }
}

/// `"never"`, `"auto"`, `"required"`, a number of GPUs, or `{ count = 2, memory = "20 GiB" }`.
fn gpu(node: &Node, mistakes: &mut Vec<Diagnostic>) -> Option<GpuRequest> {
    let request = |policy, count, memory_bytes| GpuRequest {
        policy,
        count,
        memory_bytes,
        node: node.clone(),
    };
    let of_count = |count: u32, memory_bytes| match count {
        0 => request(Gpu::Never, 0, 0),
        _ => request(Gpu::Required, count, memory_bytes),
    };
    match &node.content {
        Content::Integer(_) => Some(of_count(count("gpu", node, 0, 64, mistakes)?, 0)),
        Content::Table(table) => {
            let before = mistakes.len();
            check_keys("`gpu`", table, &["count", "memory"], mistakes);
            let number = match table.get("count") {
                Some(entry) => count("count", &entry.node, 0, 64, mistakes),
                None => Some(1),
            };
            let bytes = match table.get("memory") {
                Some(entry) => memory(&entry.node, mistakes),
                None => Some(0),
            };
            let request = of_count(number?, bytes?);
            (mistakes.len() == before).then_some(request)
        }
        _ => {
            let choices = [
                ("never", Gpu::Never),
                ("auto", Gpu::Auto),
                ("required", Gpu::Required),
            ];
            let policy = expect_choice("gpu", node, &choices, mistakes)?;
            Some(request(policy, u32::from(policy != Gpu::Never), 0))
        }
    }
}

/// Tokens and how many of each.
pub(crate) fn tokens(node: &Node, mistakes: &mut Vec<Diagnostic>) -> BTreeMap<String, u32> {
    let mut tokens = BTreeMap::new();
    for (name, entry) in expect_table("`tokens`", node, mistakes)
        .into_iter()
        .flatten()
    {
        mistakes.extend(names::check("a token", name, &entry.key).err());
        if let Some(count) = count(name, &entry.node, 1, 1_000_000, mistakes) {
            tokens.insert(name.clone(), count);
        }
    }
    tokens
}

fn check_tokens(
    table: &Table,
    wanted: &BTreeMap<String, u32>,
    declared: &BTreeMap<String, u32>,
    mistakes: &mut Vec<Diagnostic>,
) {
    for (name, count) in wanted {
        let Some(entry) = table.get(name) else {
            continue;
        };
        match declared.get(name) {
            None => {
                let known = declared.keys().map(String::as_str);
                let otherwise = format!("declare it, as `[pipeline.tokens]` with `{name} = 1`");
                let message = format!("there is no token `{name}`");
                mistakes.push(
                    Diagnostic::error(code::UNKNOWN_REFERENCE, message, &entry.key, "")
                        .help(suggestion_or(name, known, &otherwise)),
                );
            }
            Some(there) if count > there => {
                let message =
                    format!("{count} tokens `{name}` are asked for, and there are {there}");
                mistakes.push(
                    entry
                        .node
                        .mistake(code::BAD_VALUE, message, "")
                        .help("ask for fewer, or declare more in `[pipeline.tokens]`"),
                );
            }
            Some(_) => {}
        }
    }
}

fn count(
    key: &str,
    node: &Node,
    least: u32,
    most: u32,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<u32> {
    let Content::Integer(integer) = node.content else {
        wrong_type(&format!("`{key}`"), node, "a whole number", mistakes);
        return None;
    };
    let number = u32::try_from(integer)
        .ok()
        .filter(|number| (least..=most).contains(number));
    if number.is_none() {
        let message = format!("`{key}` is {integer}, expected {least} to {most}");
        mistakes.push(node.mistake(code::BAD_VALUE, message, ""));
    }
    number
}

/// Bytes: a number, or text as `4 GiB`.
fn memory(node: &Node, mistakes: &mut Vec<Diagnostic>) -> Option<u64> {
    let expected = "bytes, as `4 GiB`";
    match &node.content {
        Content::Integer(integer) => {
            let bytes = u64::try_from(*integer).ok();
            if bytes.is_none() {
                let message = format!("`memory` is {integer}, expected {expected}");
                mistakes.push(node.mistake(code::BAD_VALUE, message, ""));
            }
            bytes
        }
        Content::String(text) => {
            let bytes = bytes(text);
            if bytes.is_none() {
                let message = format!("`memory` is `{}`, expected {expected}", text.escape_debug());
                mistakes.push(
                    node.mistake(code::BAD_VALUE, message, "")
                        .help("the units are `B`, `KiB`, `MiB`, `GiB` and `TiB`"),
                );
            }
            bytes
        }
        _ => {
            wrong_type("`memory`", node, expected, mistakes);
            None
        }
    }
}

/// The bytes that `text` means, as `4 GiB`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A time: whole seconds, or text as `1h30m`.
fn time(key: &str, node: &Node, mistakes: &mut Vec<Diagnostic>) -> Option<Duration> {
    let expected = "a time, as `90s` or `1h30m`";
    let duration = match &node.content {
        Content::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        Content::String(text) => duration(text),
        _ => {
            wrong_type(&format!("`{key}`"), node, expected, mistakes);
            return None;
        }
    };
    let duration = duration.filter(|duration| !duration.is_zero());
    if duration.is_none() {
        let written = node.scalar_text().unwrap_or_default();
        let message = format!(
            "`{key}` is `{}`, expected {expected}",
            written.escape_debug()
        );
        mistakes.push(
            node.mistake(code::BAD_VALUE, message, "")
                .help("the units are `d`, `h`, `m`, `s` and `ms`"),
        );
    }
    duration
}

fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let milliseconds = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        rest = rest[letters..].trim_start();
        total = total.checked_add(Duration::from_millis(number.checked_mul(milliseconds)?))?;
    }
    Some(total)
}

fn views(node: &Node, mistakes: &mut Vec<Diagnostic>) -> BTreeMap<String, View> {
    let mut views = BTreeMap::new();
    let Some(table) = expect_table("`views`", node, mistakes) else {
        return views;
    };
    for (port, entry) in table {
        let Some(written) = expect_str(port, &entry.node, mistakes) else {
            continue;
        };
        match view_path(written) {
            Ok(path) => {
                views.insert(
                    port.clone(),
                    View {
                        path,
                        port: entry.key.clone(),
                        node: entry.node.clone(),
                    },
                );
            }
            Err(why) => {
                let message = format!("`{}` {why}", written.escape_debug());
                mistakes.push(
                    entry
                        .node
                        .mistake(code::BAD_VIEW, message, "")
                        .help("a view is a path inside the workspace, as `data/clean.arrow`"),
                );
            }
        }
    }
    views
}

/// The path with `/` between its parts and without `.`, or why it cannot show anything.
fn view_path(written: &str) -> Result<String, &'static str> {
    let mut parts = Vec::new();
    for component in Path::new(written).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str().unwrap_or_default()),
            Component::ParentDir => return Err("may lead out of the workspace"),
            Component::RootDir | Component::Prefix(_) => {
                return Err("does not begin in the workspace");
            }
        }
    }
    if parts.is_empty() {
        return Err("names no file");
    }
    if matches!(parts[0], ".natron" | ".git") {
        return Err("is in a folder that belongs to a program");
    }
    if written.contains('\0') {
        return Err("holds a zero byte");
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1h 30m"), Some(Duration::from_mins(90)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for text in ["5", "s", "5 parsecs", "-1s", "99999999999999999999d", "1é"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn views_stay_in_the_workspace() {
        assert_eq!(view_path("./a//b.arrow"), Ok("a/b.arrow".to_owned()));
        for path in ["", ".", "../a", "a/../../b", "/a", ".natron/x", "a\0"] {
            assert!(view_path(path).is_err(), "{path:?}");
        }
    }
}
