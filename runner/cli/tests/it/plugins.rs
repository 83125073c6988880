//! Programs that misbehave as stages: what is said, that nothing of it is kept, and that no process is left.
//!
//! The cases stand in `tests/plugins.toml`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use natron_process::{Mechanism, mechanisms};
use serde::Deserialize;

use crate::natron::{Workspace, answer};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    script: Option<String>,
    tool: Option<String>,
    run: Option<String>,
    #[serde(default = "executable")]
    mode: String,
    #[serde(default = "file")]
    kind: String,
    #[serde(default)]
    stage: String,
    #[serde(default = "one")]
    exit: i32,
    #[serde(default)]
    says: Vec<String>,
    #[serde(default)]
    silent: Vec<String>,
    warns: Option<String>,
    #[serde(default = "twenty")]
    seconds: u64,
    #[serde(default)]
    slow: bool,
    /// Which limit has to be held by a control group.
    needs: Option<String>,
}

fn executable() -> String {
    "755".into()
}

fn file() -> String {
    "file".into()
}

fn one() -> i32 {
    1
}

fn twenty() -> u64 {
    20
}

fn plugins() -> BTreeMap<String, Plugin> {
    toml::from_str(include_str!("../plugins.toml")).unwrap()
}

/// A workspace with one stage, which is this plugin.
fn workspace(plugin: &Plugin) -> Workspace {
    let workspace = Workspace::with("");
    let run = match (&plugin.script, &plugin.tool, &plugin.run) {
        (Some(script), None, None) => {
            fs::write(workspace.path("script.sh"), script).unwrap();
            "[\"sh\", \"script.sh\"]\nwith.sources = [\"script.sh\"]".to_owned()
        }
        (None, Some(tool), None) => {
            let path = workspace.path("tool");
            fs::write(&path, tool).unwrap();
            let mode = u32::from_str_radix(&plugin.mode, 8).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            "[\"./tool\"]".to_owned()
        }
        (None, None, Some(run)) => run.clone(),
        _ => panic!("a plugin is one of `script`, `tool` and `run`"),
    };
    fs::write(workspace.path("data.txt"), "hello\n").unwrap();
    let text = format!(
        "[pipeline]\nname = \"p\"\n\n[stages.plugin]\nuses = \"command\"\ninputs.x = {{ file = \"data.txt\" }}\nwith.run = {run}\nwith.outputs.y = \"{}\"\nwith.pass_environment = [\"WORKSPACE\"]\n{}\n",
        plugin.kind, plugin.stage
    );
    let text = text.replace("@@2MB@@", &"x".repeat(2 << 20));
    fs::write(workspace.path("pipelines/p.toml"), text).unwrap();
    workspace
}

/// What is still alive of what was started below `folder`, by process number and command line.
fn left(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let path = entry.path();
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let environment = fs::read(path.join("environ")).ok()?;
            let place = fs::read_link(path.join("cwd")).ok()?;
            let is_ours = String::from_utf8_lossy(&environment).contains(folder)
                || place.to_string_lossy().starts_with(folder);
            let stat = fs::read_to_string(path.join("stat")).ok()?;
            let is_dead = stat
                .rsplit_once(')')?
                .1
                .trim_start()
                .starts_with(['Z', 'X']);
            let words = fs::read(path.join("cmdline")).ok()?;
            (is_ours && !is_dead).then(|| format!("{id} {}", String::from_utf8_lossy(&words)))
        })
        .collect()
}

/// What is wrong with how the program dealt with `plugin`.
fn judge(plugin: &Plugin) -> Result<(), String> {
    let workspace = workspace(plugin);
    let root = workspace.path("").canonicalize().unwrap();
    let begun = Instant::now();
    let mut command = workspace.command(&["run"]);
    let answer = answer(command.env("WORKSPACE", &root).output().unwrap());
    let elapsed = begun.elapsed();
    let told = format!("exit {}\n{}", answer.code, answer.stderr);
    let expected = if plugin.warns.is_some() {
        0
    } else {
        plugin.exit
    };
    let shown: String = told.chars().take(3000).collect();
    if answer.code != expected {
        return Err(format!("expected exit {expected}: {shown}"));
    }
    if answer.stderr.contains("panicked") || answer.stderr.len() > 2 << 20 {
        return Err(format!("{} bytes: {shown}", answer.stderr.len()));
    }
    for part in plugin.says.iter().chain(&plugin.warns) {
        if !answer.stderr.contains(part) {
            return Err(format!("does not say `{part}`: {shown}"));
        }
    }
    if let Some(part) = plugin.silent.iter().find(|p| answer.stderr.contains(*p)) {
        return Err(format!("says {part:?}: {shown}"));
    }
    if elapsed > Duration::from_secs(plugin.seconds) {
        return Err(format!("took {elapsed:?}"));
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    while !left(&root).is_empty() {
        if Instant::now() > deadline {
            return Err(format!("still there: {:?}", left(&root)));
        }
        thread::sleep(Duration::from_millis(10));
    }
    // What was not kept would run again; a mistake in the pipeline has nothing to run.
    if plugin.exit != 2 {
        let forecast = workspace.natron(&["run", "--dry-run", "--json"]);
        let expected = if plugin.warns.is_some() { "hit" } else { "run" };
        let json = forecast.json();
        let found = json["explanation"]["stages"][0]["forecast"].as_str();
        if found != Some(expected) {
            return Err(format!("the forecast is {found:?}, expected {expected}"));
        }
    }
    Ok(())
}

#[test]
fn a_program_that_misbehaves_fails_and_leaves_nothing() {
    let found = mechanisms();
    let has = |limit: Option<&str>| match limit {
        Some("memory") => found.memory == Mechanism::ControlGroup,
        Some(_) => found.processes == Mechanism::ControlGroup,
        None => true,
    };
    let plugins = plugins();
    assert!(plugins.len() >= 50, "{}", plugins.len());
    let cases: Vec<_> = plugins
        .iter()
        .filter(|(_, plugin)| !plugin.slow && has(plugin.needs.as_deref()))
        .collect();
    let next = AtomicUsize::new(0);
    let mut failures = thread::scope(|scope| {
        let worker = || {
            let mut failures = Vec::new();
            while let Some((name, plugin)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(why) = judge(plugin) {
                    failures.push(format!("{name}: {why}"));
                }
            }
            failures
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect::<Vec<_>>()
    });
    failures.sort();

    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn a_program_that_ignores_the_stop_is_killed_after_the_grace() {
    let plugins = plugins();

    for (name, plugin) in plugins.iter().filter(|(_, plugin)| plugin.slow) {
        assert_eq!(judge(plugin), Ok(()), "{name}");
    }
}

#[test]
fn a_killed_runner_leaves_no_process() {
    let script = "(setsid sh -c 'exec 1>&- 2>&- 3>&-; env -i sleep 1000' &); sleep 1001 & touch \"$WORKSPACE/started\"; sleep 1002";
    let plugin = toml::from_str(&format!("script = '''{script}'''")).unwrap();
    let workspace = workspace(&plugin);
    let root = workspace.path("").canonicalize().unwrap();
    let mut command = workspace.command(&["run"]);
    let mut runner = command
        .env("WORKSPACE", &root)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !root.join("started").exists() {
        assert!(Instant::now() < deadline, "the stage did not start");
        thread::sleep(Duration::from_millis(5));
    }

    runner.kill().unwrap();
    runner.wait().unwrap();
    let killed = Instant::now();
    while !left(&root).is_empty() {
        assert!(
            killed.elapsed() < Duration::from_secs(1),
            "{:?}",
            left(&root)
        );
        thread::sleep(Duration::from_millis(5));
    }
}
