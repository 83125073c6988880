//! A workspace in which something goes wrong, and the questions that are asked afterwards (the oracles).
//!
//! - *Same bytes*: a plain rerun ends with the results of a run that nothing ever happened to.
//! - *Clean store*: every record's objects are there and hash to their names, or it is no hit.
//! - *No false success*: exit 0 only with every output, and every view as it should be.
//! - *Documented exit*: a code of the table; a failure says something.
//! - *Civil end*: no panic, no death by a signal that was not sent.
//! - *Nothing left*: no process, no unfinished file of the dead.
//! - *In time*: no call takes longer than [`PATIENCE`].
//! - *No secrets*: what the environment holds under a secret's name is in no file and no message.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::{fs::symlink, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use natron_artifacts::Digest;
use natron_cache::{Durability, Store};
use serde_json::Value;

use crate::{Checked, While};

/// A call that takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Name and value of a variable whose value must be found nowhere.
pub const CANARY: (&str, &str) = ("NATRON_FAULTS_API_TOKEN", "canary-5d1f0c8a77");
/// The documented exit codes.
pub const CODES: [i32; 7] = [0, 1, 2, 3, 5, 130, 143];

/// A pipeline and the files that it reads.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// For case ids.
    pub name: &'static str,
    /// The pipeline file.
    pub pipeline: String,
    /// Other files of the workspace.
    pub files: Vec<(&'static str, Vec<u8>)>,
}

impl Recipe {
    /// Toy stages in the program's own process: small and large results, views, a checkpoint.
    pub fn toys(salt: u64) -> Self {
        let pipeline = format!(
            r#"
[pipeline]
name = "p"
seed = 7
[stages.make]
uses = "toy.make"
with = {{ rows = 3, salt = {salt} }}
[stages.scale]
uses = "toy.scale"
inputs.table = "make"
with.factor = 2.0
[stages.files]
uses = "toy.files"
with = {{ bytes = 9000, salt = {salt} }}
views.files = "out/files"
[stages.read]
uses = "toy.read"
with.path = "data.txt"
[stages.steps]
uses = "toy.steps"
with = {{ steps = 2, salt = {salt} }}
[stages.sum]
uses = "toy.sum"
inputs.tables = ["make", "scale"]
views.metrics = "out/sum.json"
"#
        );
        let data = format!("data {salt}\n").into_bytes();
        Self {
            name: "toys",
            pipeline,
            files: vec![("data.txt", data)],
        }
    }

    /// Two programs, one after the other.
    pub fn commands(salt: u64) -> Self {
        let pipeline = format!(
            r#"
[pipeline]
name = "p"
[stages.first]
uses = "command"
with.run = ["sh", "-c", "echo $NATRON_FAULTS_API_TOKEN; cat > /dev/null; echo first {salt} > $0", "${{outputs.o}}"]
with.outputs.o = "file"
with.pass_environment = ["{}"]
[stages.second]
uses = "command"
inputs.a = "first"
with.run = ["cp", "${{inputs.a}}", "${{outputs.o}}"]
with.outputs.o = "file"
views.o = "out/second.txt"
"#,
            CANARY.0
        );
        Self {
            name: "commands",
            pipeline,
            files: Vec::new(),
        }
    }

    /// The same recipe with other parameters: results that are there already when it runs.
    #[must_use]
    pub fn with_salt(&self, salt: u64) -> Self {
        match self.name {
            "commands" => Self::commands(salt),
            _ => Self::toys(salt),
        }
    }
}

/// What one call of the program gave.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Whether it was killed for taking too long.
    pub timed_out: bool,
    /// Whether what was to be injected was.
    pub fired: bool,
    /// How long it took.
    pub elapsed: Duration,
}

impl Answer {
    /// In time, no panic, no signal but SIGKILL if `may_be_killed`, a documented exit code, and words with a failure.
    pub fn is_civil(&self, may_be_killed: bool) -> Checked {
        let said = || {
            let text: String = self.stderr.chars().take(600).collect();
            format!("; stderr: {text}")
        };
        if self.timed_out {
            return Err(format!("took longer than {PATIENCE:?}{}", said()));
        }
        if self.stderr.contains("panicked at") && !self.stderr.contains("as declared") {
            return Err(format!("panicked{}", said()));
        }
        if let Some(signal) = self.signal {
            if may_be_killed && signal == nix::libc::SIGKILL {
                return Ok(());
            }
            return Err(format!("died of signal {signal}{}", said()));
        }
        match self.code {
            Some(code) if !CODES.contains(&code) => {
                Err(format!("exit code {code} is not in the table{}", said()))
            }
            Some(0) | None => Ok(()),
            Some(_) if self.stderr.trim().is_empty() => Err("failed without a word".into()),
            Some(_) => Ok(()),
        }
    }

    /// Exit code 0, civil.
    pub fn expect_success(&self) -> Checked<&Self> {
        self.is_civil(false)?;
        if self.code == Some(0) {
            return Ok(self);
        }
        let text: String = self.stderr.chars().take(600).collect();
        Err(format!("exit code {:?}; stderr: {text}", self.code))
    }

    /// The results that a run with `--json` printed.
    pub fn results(&self) -> Checked<Results> {
        let value: Value = serde_json::from_str(&self.stdout).at("standard output")?;
        let mut results = Results::default();
        for stage in value["stages"].as_array().into_iter().flatten() {
            let name = stage["name"].as_str().unwrap_or_default();
            for (port, output) in stage["outputs"].as_object().into_iter().flatten() {
                let digest = output["bytes"].as_str().unwrap_or_default().to_owned();
                results
                    .outputs
                    .insert(format!("{name}.{port}"), digest.clone());
                let key = stage["key"].as_str().unwrap_or_default().to_owned();
                results.by_key.insert(format!("{key}.{port}"), digest);
            }
        }
        Ok(results)
    }
}

/// The digests of a run's outputs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Results {
    /// By `stage.port`.
    pub outputs: BTreeMap<String, String>,
    /// By `key.port`.
    pub by_key: BTreeMap<String, String>,
}

/// What a recipe gives when nothing goes wrong.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    /// Its results, and in `by_key` those of other recipes whose results may be in the store, too.
    pub results: Results,
    /// Its views.
    pub views: BTreeMap<PathBuf, Vec<u8>>,
}

impl Reference {
    /// Knows the results of `other` by key.
    pub fn learn(&mut self, other: &Self) {
        let known = other.results.by_key.iter();
        self.results
            .by_key
            .extend(known.map(|(key, digest)| (key.clone(), digest.clone())));
    }
}

/// A workspace.
#[derive(Debug, Clone)]
pub struct Playground {
    /// Its folder.
    pub folder: PathBuf,
    /// The program.
    pub program: PathBuf,
}

/// How the program is called.
#[derive(Debug, Clone, Default)]
pub struct Call<'a> {
    /// Words before the program: `strace` with what it is to inject, `prlimit`.
    pub prefix: Vec<String>,
    /// The program's arguments.
    pub arguments: &'a [&'a str],
    /// More environment.
    pub environment: Vec<(&'a str, String)>,
    /// Where the standard output goes, if not to a file that is read afterwards.
    pub stdout: Option<PathBuf>,
}

const STRACE_LOG: &str = "strace.txt";

impl Playground {
    /// A workspace in a new `folder`.
    pub fn new(folder: &Path, program: &Path, recipe: &Recipe) -> Checked<Self> {
        fs::create_dir_all(folder.join("pipelines")).at("create")?;
        let playground = Self {
            folder: folder.to_owned(),
            program: program.to_owned(),
        };
        playground.prepare(recipe)?;
        Ok(playground)
    }

    /// Writes the recipe's files.
    pub fn prepare(&self, recipe: &Recipe) -> Checked {
        fs::write(self.path("pipelines/p.toml"), &recipe.pipeline).at("write")?;
        for (name, bytes) in &recipe.files {
            fs::write(self.path(name), bytes).at("write")?;
        }
        Ok(())
    }

    /// A copy in another folder.
    pub fn copy_to(&self, folder: &Path) -> Checked<Self> {
        copy(&self.folder, folder).at("copy")?;
        Ok(Self {
            folder: folder.to_owned(),
            program: self.program.clone(),
        })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of its store that holds a version, as `.natron/cache/v1`.
    pub fn store(&self) -> PathBuf {
        let cache = self.path(".natron/cache");
        let newest = fs::read_dir(&cache)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.join("FORMAT").exists())
            .max();
        newest.unwrap_or_else(|| cache.join("v1"))
    }

    /// Calls the program.
    pub fn natron(&self, arguments: &[&str]) -> Checked<Answer> {
        self.call(&Call {
            arguments,
            ..Call::default()
        })
    }

    /// Calls the program under `strace`, which injects what `inject` says, as `fsync:signal=KILL:when=3`.
    pub fn injected(&self, inject: &str, arguments: &[&str]) -> Checked<Answer> {
        let log = self.path(STRACE_LOG);
        let (name, _) = inject.split_once(':').unwrap_or((inject, ""));
        // With a filter of the kernel signals are not injected (strace 6.1); errors are, and it is twice as fast.
        let mut prefix = ["strace", "-f", "-qqq", "-o", &log.to_string_lossy()]
            .map(str::to_owned)
            .to_vec();
        if !inject.contains("signal=") {
            prefix.push("--seccomp-bpf".into());
        }
        for expression in [
            format!("trace={name}"),
            "signal=none".into(),
            format!("inject={inject}"),
        ] {
            prefix.extend(["-e".into(), expression]);
        }
        prefix.push("--".into());
        let mut answer = self.call(&Call {
            prefix,
            arguments,
            ..Call::default()
        })?;
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        answer.fired = text.contains("(INJECTED)") || answer.signal == Some(nix::libc::SIGKILL);
        if inject.contains("signal=KILL") && !answer.fired {
            // A child of the program may have been the one.
            answer.fired = text.contains("killed by SIGKILL");
        }
        let _ = fs::remove_file(&log);
        Ok(answer)
    }

    /// Calls the program as told.
    pub fn call(&self, call: &Call<'_>) -> Checked<Answer> {
        let mut command = match call.prefix.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        let (out, err) = (self.path("stdout.txt"), self.path("stderr.txt"));
        let stdout = match &call.stdout {
            Some(path) => File::options().write(true).open(path),
            None => File::create(&out),
        };
        command
            .arg("natron")
            .args(call.arguments)
            .current_dir(&self.folder)
            .env_remove("NATRON_CACHE")
            .env_remove("NATRON_PROGRESS")
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR_FORCE")
            .env(CANARY.0, CANARY.1)
            .envs(call.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(stdout.at("standard output")?)
            .stderr(File::create(&err).at("standard error")?);
        let started = Instant::now();
        let mut child = command.spawn().at("start")?;
        let mut answer = Answer::default();
        let mut pause = Duration::from_micros(500);
        let status = loop {
            if let Some(status) = child.try_wait().at("wait")? {
                break status;
            }
            if started.elapsed() > PATIENCE {
                answer.timed_out = true;
                child.kill().at("kill")?;
                break child.wait().at("wait")?;
            }
            thread::sleep(pause);
            pause = (pause * 5 / 4).min(Duration::from_millis(4));
        };
        answer.elapsed = started.elapsed();
        answer.code = status.code();
        answer.signal = status.signal();
        if let Some(code @ 129..) = answer.code
            && !call.prefix.is_empty()
            && ![130, 143].contains(&code)
        {
            answer.signal = Some(code - 128);
            answer.code = None;
        }
        let read = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        answer.stdout = read(&out).unwrap_or_default();
        answer.stderr = read(&err).at("standard error")?;
        Ok(answer)
    }

    /// What the recipe gives when nothing happens: run this in a workspace of its own.
    pub fn reference(&self) -> Checked<Reference> {
        let answer = self.natron(&["run", "--json"])?;
        let results = answer.expect_success()?.results()?;
        Ok(Reference {
            results,
            views: files_below(&self.path("out")).at("views")?,
        })
    }

    /// The oracles that need no rerun: no wrong hit, no secret. Records whose objects are gone or damaged count as misses.
    pub fn has_no_wrong_hit(&self, reference: &Reference) -> Checked {
        let root = self.path(".natron/cache");
        if !self.store().join("FORMAT").exists() {
            return Ok(());
        }
        let store = Store::open(&root, Durability::None).at("the store does not open")?;
        for (key, _) in store.keys() {
            let Some(record) = store.lookup(&key).at("lookup")? else {
                continue;
            };
            for (port, manifest) in &record.outputs {
                let expected = reference.results.by_key.get(&format!("{key}.{port}"));
                if expected.is_some_and(|digest| *digest != manifest.bytes.to_string()) {
                    return Err(format!("wrong hit: {key} {port}"));
                }
                match store.open_artifact(manifest) {
                    Ok(artifact) => {
                        let sealed = artifact.seal().at("seal")?;
                        if sealed.manifest.logical != manifest.logical {
                            return Err(format!("wrong content: {key} {port}"));
                        }
                    }
                    Err(error) if error.is_missing() => {}
                    Err(error) => return Err(format!("{key} {port}: {error}")),
                }
            }
        }
        Ok(())
    }

    /// Reruns without faults and asks everything.
    pub fn settles(&self, reference: &Reference) -> Checked {
        let answer = self.natron(&["run", "--json"])?;
        answer.expect_success().at("the rerun")?;
        self.has_the_results(&answer, reference).at("the rerun")?;
        self.has_every_object(reference).at("after the rerun")?;
        self.leaves_nothing()
    }

    /// Exit 0 was said: are the results and views there?
    pub fn has_the_results(&self, answer: &Answer, reference: &Reference) -> Checked {
        let results = answer.results()?;
        if results.outputs != reference.results.outputs {
            return Err(format!(
                "other results: {:?} instead of {:?}",
                results.outputs, reference.results.outputs
            ));
        }
        let views = files_below(&self.path("out")).at("views")?;
        let wrong = reference
            .views
            .iter()
            .find(|(path, bytes)| views.get(*path) != Some(bytes));
        match wrong {
            Some((path, _)) => Err(format!("the view `{}` is wrong", path.display())),
            None => Ok(()),
        }
    }

    /// Every result of the reference is in the store and opens.
    pub fn has_every_object(&self, reference: &Reference) -> Checked {
        self.has_no_wrong_hit(reference)?;
        let store = Store::open(&self.path(".natron/cache"), Durability::None).at("open")?;
        let mut present = BTreeMap::new();
        for (key, _) in store.keys() {
            if let Some(record) = store.lookup(&key).at("lookup")? {
                for (port, manifest) in &record.outputs {
                    if store.open_artifact(manifest).is_ok() {
                        present.insert(manifest.bytes.to_string(), format!("{key}.{port}"));
                    }
                }
            }
        }
        let missing = reference
            .results
            .outputs
            .iter()
            .find(|(_, digest)| !present.contains_key(*digest));
        match missing {
            Some((name, _)) => Err(format!("`{name}` is not in the store")),
            None => Ok(()),
        }
    }

    /// No process, no unfinished file, no secret is left.
    pub fn leaves_nothing(&self) -> Checked {
        let tmp = self.store().join("tmp");
        let left: Vec<_> = fs::read_dir(&tmp)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect();
        if !left.is_empty() {
            return Err(format!("left in `tmp`: {left:?}"));
        }
        if let Some(process) = processes_at(&self.folder).first() {
            return Err(format!("a process is left: {process}"));
        }
        for (path, bytes) in files_below(&self.folder).at("read")? {
            let canary = CANARY.1.as_bytes();
            if bytes.windows(canary.len()).any(|window| window == canary) {
                return Err(format!("the secret is in `{}`", path.display()));
            }
        }
        Ok(())
    }

    /// Removes it.
    pub fn remove(&self) -> Checked {
        remove(&self.folder)
    }
}

/// Removes a folder, read-only or not.
pub fn remove(folder: &Path) -> Checked {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("remove {}: {error}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The processes but this one whose current directory or arguments name `folder`, after up to a second of grace.
pub fn processes_at(folder: &Path) -> Vec<String> {
    let name = folder.to_string_lossy().into_owned();
    let look = || -> Vec<String> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let id: u32 = entry.file_name().to_str()?.parse().ok()?;
                if id == std::process::id() {
                    return None;
                }
                let path = entry.path();
                let directory = fs::read_link(path.join("cwd")).ok();
                let line = fs::read(path.join("cmdline")).ok()?;
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                let is_there = directory.is_some_and(|directory| directory.starts_with(folder));
                (is_there || line.contains(&name)).then(|| format!("{id} {line}"))
            })
            .collect()
    };
    let started = Instant::now();
    loop {
        let found = look();
        if found.is_empty() || started.elapsed() > Duration::from_secs(1) {
            return found;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// All regular files below `folder`, by path relative to it; none when it is not there.
pub fn files_below(folder: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                let name = path.strip_prefix(folder).map_err(io::Error::other)?;
                files.insert(name.to_owned(), fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&source, &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// The digest of a file, for messages.
pub fn digest_of(path: &Path) -> Option<String> {
    fs::read(path)
        .ok()
        .map(|bytes| Digest::of(&bytes).to_string())
}
