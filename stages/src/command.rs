//! `uses = "command"`: any program as a stage.
//!
//! Inputs and outputs: whatever the pipeline file says. The protocol between us and the program is in the documentation
//! of [`Command`], which `natron stages command` prints.
//!
//! The signature looks for the program on `PATH`, the one look at the world that a signature takes here: the program's
//! content is part of the key, so the key needs its path; and a program that is not there should stop a run before it
//! starts.

mod checkpoints;
pub(crate) mod messages;
mod sandbox;
mod template;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use natron_artifacts::{
    Column, ColumnType, Conditions, Kind, Level, PortSchema, Schemas, Signature, Stage,
    StageContext, StageError,
};
use natron_process::{End, Limits, ProcessError, Program};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use checkpoints::Checkpoints;
use messages::Messages;
use sandbox::Sandbox;
use template::{Reference, Template};

/// Name of the source that is the program itself.
const PROGRAM: &str = "program";

/// Parts of names of variables whose values are secrets; such values belong in no key, record or log.
const SECRET_NAMES: [&str; 7] = [
    "PASSWORD",
    "PASSWD",
    "SECRET",
    "TOKEN",
    "API_KEY",
    "ACCESS_KEY",
    "CREDENTIAL",
];

/// File format of a table on its way to or from a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TableFormat {
    /// Arrow IPC file (`Feather`), not compressed.
    #[default]
    Arrow,
    /// Parquet.
    Parquet,
}

/// A column that an output table must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeclaredColumn {
    /// Its name.
    name: String,
    /// Its type: `f64`, `f32`, `i64`, `bool`, `utf8` or `timestamp_ns`.
    #[serde(rename = "type")]
    #[schemars(with = "String")]
    column_type: ColumnType,
    /// Unit of its values, as `price`.
    #[serde(default)]
    unit: String,
}

/// Runs a program as a stage: inputs as files, a request on standard input, outputs as files.
///
/// ```toml
/// [stages.clean]
/// uses = "command"
/// inputs.raw = { file = "data/raw.csv" }
/// with.run = ["python3", "clean.py", "--in", "${inputs.raw}", "--out", "${outputs.candles}"]
/// with.sources = ["clean.py", "lib/"]
/// with.outputs.candles = "table"
/// ```
///
/// **Where it runs.** In a fresh folder, which is its current directory and gone afterwards. It holds copies of the
/// declared `sources` at the same relative paths as in the workspace, the inputs below `inputs/`, and an empty `outputs/`.
/// Code and data that are not declared are not there, so a forgotten declaration is an error and not a stale result.
///
/// **Inputs.** Read-only copies: a table is `inputs/NAME.arrow` (or `.parquet`, see `input_formats`), metrics
/// `inputs/NAME.json`, a report `inputs/NAME.html`, a file `inputs/NAME`, a model or files the folder `inputs/NAME/`.
/// Where a matrix is gathered, `inputs/NAME/` holds `0.arrow`, `1.arrow` and so on, and `${inputs.NAME}`, as an argument
/// of its own, becomes one argument for each.
///
/// **Arguments.** In `run`, `${inputs.NAME}` and `${outputs.NAME}` are the paths. `$${seed}`, `$${threads}` and
/// `$${checkpoints}` are the stage's seed, its share of threads, and a folder that is still there when a killed run is
/// started again. Any other `$${..}` is left as `${..}`.
///
/// **Request.** Standard input is one line of JSON, the same as the file `request.json`:
///
/// ```json
/// {"version": 1,
///  "inputs": {"raw": [{"path": "inputs/raw", "kind": "file", "label": "data/raw.csv"}]},
///  "outputs": {"candles": {"path": "outputs/candles.arrow", "kind": "table", "format": "arrow"}},
///  "parameters": {}, "seed": 42, "threads": 1, "device": "cpu", "checkpoints": "/.../ckpt"}
/// ```
///
/// `label` says where an input comes from, for messages; it is not part of the key, so no result may depend on it.
///
/// **Outputs.** The program writes each declared output to its path: a table as an Arrow IPC file, Arrow IPC stream or
/// Parquet, whatever the extension; a model as a folder with `model.json` and `model.safetensors`; metrics as JSON with
/// numbers at its leaves; a report as HTML. In a table a missing value is null; NaN is an error that names column and row.
///
/// **Messages.** Lines of JSON on descriptor 3, each with some of
/// `{"progress": {"done": 10, "total": 100, "unit": "rows", "loss": 0.5, "note": "fold 2"}}`,
/// `{"metric": {"name": "loss", "step": 10, "value": 0.5}}`, `{"log": "text"}` and `{"warning": "text"}`. A line that is
/// none of these is a warning. What the program writes on standard output and standard error is its log.
///
/// **End.** Exit status 0, every declared output is there and is what it says, and the inputs are as they were: success.
/// Anything else: the stage fails and nothing is kept. To stop it early it gets SIGTERM and 5 seconds later SIGKILL, with all processes that it
/// started. Processes that outlive it are killed. The stage's `limits` (`memory`, `processes`, `cpu_seconds`) hold for it
/// with all that it starts; what reaches one is killed.
///
/// **Environment.** Of the caller's only `PATH`, `HOME` and what `pass_environment` names; besides, `TMPDIR` is the folder
/// it runs in, `LANG=C.UTF-8`, `TZ=UTC`, `PYTHONHASHSEED=0`, `CUDA_VISIBLE_DEVICES` lists the granted GPUs or is empty, and
/// `OMP_NUM_THREADS` and its like hold the share of threads. `environment` has the last word.
///
/// **Key.** The arguments as written, the content of the program, `sources` and inputs, `outputs`, `environment`,
/// `parameters` and the seed. Not the paths, the number of threads and what `pass_environment` hands through. Of an
/// interpreter the key knows the program file only: declare what pins its packages (`sources = ["requirements.txt"]`).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Command {
    /// The program and its arguments. A program with a `/` is a path in the workspace (or absolute), any other is looked
    /// for on `PATH`.
    #[serde(serialize_with = "without_directory", deserialize_with = "words")]
    run: Vec<String>,
    /// What it writes: the kind of each output (`table`, `model`, `metrics`, `report`, `file`, `files`) by its name.
    outputs: BTreeMap<String, Kind>,
    /// Files and folders of the workspace that the program reads as its code, relative to the workspace. Their content is
    /// part of the key.
    #[serde(default)]
    sources: Vec<String>,
    /// Passed on as `parameters` of the request.
    #[serde(default)]
    parameters: Map<String, Value>,
    /// Environment variables for the program. Part of the key, and stored with it: no secrets.
    #[serde(default)]
    environment: BTreeMap<String, String>,
    /// Names of environment variables that are handed through from the caller and are not part of the key: proxies,
    /// credentials. In the log their values appear as `***`.
    #[serde(default, skip_serializing)]
    pass_environment: Vec<String>,
    /// Format of input tables by port: `arrow` (the default) or `parquet`.
    #[serde(default)]
    input_formats: BTreeMap<String, TableFormat>,
    /// Extension and suggested format of output tables by port: `arrow` (the default) or `parquet`.
    #[serde(default)]
    output_formats: BTreeMap<String, TableFormat>,
    /// Columns of output tables by port, in order. With them, later stages are checked before anything runs, and the
    /// table must have these and no others.
    #[serde(default)]
    columns: BTreeMap<String, Vec<DeclaredColumn>>,
    /// How many bars after its own an output row looks at, beyond what its inputs do: 0 for features, the horizon for
    /// labels.
    #[serde(default)]
    lookahead_bars: u32,
    /// Whether the program file's content is part of the key. Without it, results outlive an update of the program.
    #[serde(default = "yes")]
    program_in_key: bool,
}

fn yes() -> bool {
    true
}

/// The granted GPUs as `CUDA_VISIBLE_DEVICES` lists them; empty without one.
fn gpus(context: &StageContext) -> String {
    let ordinals = context.device().ordinals().into_iter();
    ordinals
        .map(|gpu| gpu.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

/// Arguments are text; a number that a reference brings, as `"${matrix.fold}"`, is written out.
fn words<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Word(String);

    impl<'de> Deserialize<'de> for Word {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;

            impl serde::de::Visitor<'_> for Visitor {
                type Value = Word;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("a string")
                }

                fn visit_str<E>(self, text: &str) -> Result<Word, E> {
                    Ok(Word(text.to_owned()))
                }

                fn visit_bool<E>(self, truth: bool) -> Result<Word, E> {
                    Ok(Word(truth.to_string()))
                }

                fn visit_i64<E>(self, number: i64) -> Result<Word, E> {
                    Ok(Word(number.to_string()))
                }

                fn visit_u64<E>(self, number: u64) -> Result<Word, E> {
                    Ok(Word(number.to_string()))
                }

                fn visit_f64<E>(self, number: f64) -> Result<Word, E> {
                    Ok(Word(Value::from(number).to_string()))
                }
            }

            deserializer.deserialize_any(Visitor)
        }
    }

    let words = Vec::<Word>::deserialize(deserializer)?;
    Ok(words.into_iter().map(|word| word.0).collect())
}

/// In the key the program goes by its content; where it lies does not matter.
fn without_directory<S: Serializer>(run: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    let name = |program: &str| program.rsplit('/').next().unwrap_or_default().to_owned();
    let first = run.first().map(|program| name(program));
    serializer.collect_seq(first.into_iter().chain(run.iter().skip(1).cloned()))
}

impl Stage for Command {
    fn signature(&self, inputs: &Schemas) -> Result<Signature, StageError> {
        self.check_outputs()?;
        self.check_environment()?;
        self.check_arguments(inputs)?;
        let mut signature = Signature {
            open_inputs: true,
            own_process: true,
            environment: self.environment.clone(),
            ..Signature::new()
        };
        for (port, &kind) in &self.outputs {
            let mut schema = PortSchema::of(kind);
            schema.columns = self.columns.get(port).map(|columns| declared(columns));
            schema.lookahead_bars = inputs.lookahead_bars() + self.lookahead_bars;
            signature = signature.output(port, schema);
        }
        let program = self.program(Path::new(""))?;
        if self.program_in_key {
            signature = signature.source(PROGRAM, program);
        }
        for (i, path) in self.sources.iter().enumerate() {
            let path = sandbox::source_path(path)
                .map_err(|e| StageError::parameter(format!("sources.{i}"), e))?;
            signature = signature.source(&source_name(&path), path);
        }
        Ok(signature)
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let mut sandbox = Sandbox::new(context.scratch_parent(), context.conditions().clone())?;
        for path in &self.sources {
            let path = sandbox::source_path(path).map_err(StageError::data)?;
            sandbox.copy_source(context.source_path(&source_name(&path))?, &path)?;
        }
        let mut inputs = BTreeMap::new();
        for port in context.input_ports() {
            let format = self.input_formats.get(port).copied().unwrap_or_default();
            inputs.insert(
                port.to_owned(),
                sandbox.place(port, context.inputs(port), format)?,
            );
        }
        let outputs: BTreeMap<&String, String> = self
            .outputs
            .iter()
            .map(|(port, &kind)| {
                (
                    port,
                    sandbox::output_path(port, kind, self.output_format(port)),
                )
            })
            .collect();
        let checkpoints = Checkpoints::open(context)?;
        sandbox.write_request(&self.request(context, &inputs, &outputs, &checkpoints))?;

        let path = if self.program_in_key {
            context.source_path(PROGRAM)?.to_owned()
        } else {
            self.program(context.workspace())?
        };
        let path = std::path::absolute(&path)
            .map_err(|e| StageError::io(format!("cannot find `{}`", path.display()), e))?;
        let arguments = self.arguments(context, &inputs, &outputs, &checkpoints);
        let arguments = arguments.into_iter().map(OsString::from).collect();
        let (path, arguments) = with_umask(context.conditions(), path, arguments);
        let limits = context.limits();
        self.execute(
            context,
            &Program {
                path,
                arguments,
                environment: self.child_environment(context, &sandbox),
                directory: sandbox.root().to_owned(),
                input: Some(sandbox::REQUEST.into()),
                limits: Limits {
                    memory_bytes: limits.memory_bytes,
                    processes: limits.processes,
                    cpu_seconds: limits.cpu_seconds,
                    timeout: None,
                },
            },
        )?;
        if let Some(damage) = sandbox.damage() {
            let name = &self.run[0];
            return Err(StageError::data(format!("`{name}` {damage}"))
                .with_help("let it work on a copy: the folder it runs in is its own"));
        }

        for (port, &kind) in &self.outputs {
            let columns = self.columns.get(port).map(Vec::as_slice);
            let artifact = sandbox
                .collect(&outputs[port], kind, columns)
                .map_err(|message| {
                    let name = &self.run[0];
                    StageError::data(format!("output `{port}` of `{name}`: {message}"))
                })?;
            context.write(port, artifact)?;
        }
        Ok(())
    }
}

impl Command {
    fn check_outputs(&self) -> Result<(), StageError> {
        if self.outputs.is_empty() {
            return Err(
                StageError::parameter("outputs", "a command needs at least one output")
                    .with_help("`outputs.NAME = \"table\"` declares one"),
            );
        }
        for port in self.outputs.keys() {
            check_port("outputs", port)?;
        }
        for (parameter, ports) in [
            ("columns", self.columns.keys().collect::<Vec<_>>()),
            ("output_formats", self.output_formats.keys().collect()),
        ] {
            if let Some(port) = ports
                .into_iter()
                .find(|port| self.outputs.get(*port) != Some(&Kind::Table))
            {
                let message = format!("`{port}` is no output table of this stage");
                return Err(StageError::parameter(
                    format!("{parameter}.{port}"),
                    message,
                ));
            }
        }
        Ok(())
    }

    fn check_environment(&self) -> Result<(), StageError> {
        let good = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
        for (name, value) in &self.environment {
            let parameter = format!("environment.{name}");
            if !good(name) || value.contains('\0') {
                let message =
                    "an environment variable's name has no `=`, and neither part a zero byte";
                return Err(StageError::parameter(parameter, message));
            }
            let upper = name.to_uppercase();
            if SECRET_NAMES.iter().any(|part| upper.contains(part)) {
                let message =
                    format!("`{name}` looks like a secret, and this value would be stored");
                return Err(StageError::parameter(parameter, message).with_help(format!(
                    "set it in the environment and hand it through: `pass_environment = [\"{name}\"]`"
                )));
            }
        }
        for (i, name) in self.pass_environment.iter().enumerate() {
            let parameter = format!("pass_environment.{i}");
            if !good(name) {
                let message = format!("`{}` names no environment variable", name.escape_debug());
                return Err(StageError::parameter(parameter, message));
            }
            if self.environment.contains_key(name) {
                let message =
                    format!("`{name}` is in `environment` too; leave it out of one of them");
                return Err(StageError::parameter(parameter, message));
            }
        }
        Ok(())
    }

    fn check_arguments(&self, inputs: &Schemas) -> Result<(), StageError> {
        if self.run.first().is_none_or(String::is_empty) {
            return Err(
                StageError::parameter("run", "there is no program to run").with_help(
                    "`run = [\"python3\", \"clean.py\"]`: the program, then its arguments",
                ),
            );
        }
        let listed = |names: &mut dyn Iterator<Item = &str>| {
            let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
            if names.is_empty() {
                "there are none".to_owned()
            } else {
                format!("there are {}", names.join(", "))
            }
        };
        for (i, argument) in self.run.iter().enumerate() {
            let parameter = format!("run.{i}");
            if argument.contains('\0') {
                return Err(StageError::parameter(
                    parameter,
                    "an argument has no zero byte",
                ));
            }
            let template = Template::parse(argument);
            for reference in template.references() {
                if i == 0 {
                    let message = "the program itself cannot be an input or output";
                    return Err(StageError::parameter(parameter, message));
                }
                match reference {
                    Reference::Input(port) if inputs.get(port).is_none() => {
                        let known = listed(&mut inputs.ports());
                        let message = format!("no input is called `{port}`; {known}");
                        return Err(StageError::parameter(parameter, message));
                    }
                    Reference::Input(port)
                        if inputs.all(port).len() > 1 && !template.is_one_reference() =>
                    {
                        let message = format!(
                            "`{port}` gathers several; `${{inputs.{port}}}` must be an argument of its own"
                        );
                        return Err(StageError::parameter(parameter, message));
                    }
                    Reference::Output(port) if !self.outputs.contains_key(port) => {
                        let known = listed(&mut self.outputs.keys().map(String::as_str));
                        let message = format!("no output is called `{port}`; {known}");
                        return Err(StageError::parameter(parameter, message)
                            .with_help(format!("`outputs.{port} = \"table\"` declares one")));
                    }
                    _ => {}
                }
            }
        }
        for port in inputs.ports() {
            check_port("inputs", port)?;
        }
        Ok(())
    }

    /// Where the program is: `workspace` joined with a path, or the first of its name on `PATH`.
    fn program(&self, workspace: &Path) -> Result<PathBuf, StageError> {
        let name = self.run[0].as_str();
        if name.contains('/') {
            return Ok(workspace.join(name));
        }
        let declared = self.environment.get("PATH").map(OsString::from);
        let path = declared
            .or_else(|| std::env::var_os("PATH"))
            .unwrap_or_default();
        found_on(&path, name).ok_or_else(|| {
            let message = format!("program `{name}` is in no folder of PATH");
            StageError::parameter("run.0", message).with_help(format!(
                "install it, or write a path: `./{name}` is a file of the workspace"
            ))
        })
    }

    fn output_format(&self, port: &str) -> TableFormat {
        self.output_formats.get(port).copied().unwrap_or_default()
    }

    fn request(
        &self,
        context: &StageContext,
        inputs: &BTreeMap<String, Vec<String>>,
        outputs: &BTreeMap<&String, String>,
        checkpoints: &Checkpoints,
    ) -> Value {
        let placed = inputs.iter().map(|(port, paths)| {
            let format = self.input_formats.get(port).copied().unwrap_or_default();
            let entries = paths.iter().zip(context.inputs(port)).map(|(path, input)| {
                let mut entry = described(path, input.artifact.kind(), format);
                entry.insert("label".into(), input.label.clone().into());
                Value::Object(entry)
            });
            (port.clone(), entries.collect::<Value>())
        });
        let declared = self.outputs.iter().map(|(port, &kind)| {
            let entry = described(&outputs[port], kind, self.output_format(port));
            (port.clone(), Value::Object(entry))
        });
        let device = match gpus(context).as_str() {
            "" => "cpu".to_owned(),
            gpus => format!("cuda:{gpus}"),
        };
        serde_json::json!({
            "version": 1,
            "inputs": placed.collect::<Map<_, _>>(),
            "outputs": declared.collect::<Map<_, _>>(),
            "parameters": self.parameters,
            "seed": context.seed(),
            "threads": context.threads(),
            "device": device,
            "checkpoints": checkpoints.path().to_string_lossy(),
        })
    }

    fn arguments(
        &self,
        context: &StageContext,
        inputs: &BTreeMap<String, Vec<String>>,
        outputs: &BTreeMap<&String, String>,
        checkpoints: &Checkpoints,
    ) -> Vec<String> {
        let values = |reference: &Reference| match reference {
            Reference::Input(port) => inputs.get(port).cloned().unwrap_or_default(),
            Reference::Output(port) => outputs.get(port).cloned().into_iter().collect(),
            Reference::Seed => vec![context.seed().to_string()],
            Reference::Threads => vec![context.threads().to_string()],
            Reference::Checkpoints => vec![checkpoints.path().to_string_lossy().into_owned()],
        };
        let templates = self.run[1..]
            .iter()
            .map(|argument| Template::parse(argument));
        templates
            .flat_map(|template| template.fill(&values))
            .collect()
    }

    fn child_environment(
        &self,
        context: &StageContext,
        sandbox: &Sandbox,
    ) -> BTreeMap<OsString, OsString> {
        let threads = context.threads().to_string();
        let gpu = gpus(context);
        let mut environment: BTreeMap<OsString, OsString> = [
            ("LANG", "C.UTF-8"),
            ("TZ", "UTC"),
            ("PYTHONHASHSEED", "0"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("CUDA_VISIBLE_DEVICES", &gpu),
            ("OMP_NUM_THREADS", &threads),
            ("OPENBLAS_NUM_THREADS", &threads),
            ("MKL_NUM_THREADS", &threads),
            ("RAYON_NUM_THREADS", &threads),
        ]
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
        environment.insert("TMPDIR".into(), sandbox.root().into());
        let handed = self.pass_environment.iter().map(String::as_str);
        for name in ["PATH", "HOME"].into_iter().chain(handed) {
            if let Some(value) = std::env::var_os(name) {
                environment.insert(name.into(), value);
            }
        }
        for (name, value) in context
            .conditions()
            .environment
            .iter()
            .chain(&self.environment)
        {
            environment.insert(name.into(), value.into());
        }
        environment
    }

    /// Values that appear in no log.
    fn secrets(&self) -> Vec<String> {
        let values = self
            .pass_environment
            .iter()
            .filter_map(|name| std::env::var(name).ok());
        // A short value is no secret, and masking `1` would make a log unreadable.
        values.filter(|value| value.len() >= 6).collect()
    }

    fn execute(&self, context: &StageContext, program: &Program) -> Result<(), StageError> {
        context.check_cancelled()?;
        let name = &self.run[0];
        let observer = context.observer();
        let mut messages = Messages::new(observer.as_ref(), self.secrets());
        let cancel = context.cancel();
        let ended = natron_process::run(program, &|| cancel.is_set(), &mut |channel, bytes| {
            messages.take(channel, bytes);
        });
        let last_lines = messages.finish();
        let ended = ended.map_err(|error| match error {
            ProcessError::Program(error) => spawn_error(name, &program.path, &error),
            other => StageError::resource(format!("`{name}`: {other}")),
        })?;
        observer.peak_memory(ended.peak_bytes);
        if ended.left_behind > 0 {
            let n = ended.left_behind;
            let noun = if n == 1 { "process" } else { "processes" };
            let message = format!("`{name}` left {n} {noun} running; killed");
            observer.log(Level::Warning, &message);
        }
        let how = match ended.end {
            End::Exited(0) => return Ok(()),
            End::Stopped => return Err(StageError::Interrupted),
            end => end.to_string(),
        };
        let message = if last_lines.is_empty() {
            format!("`{name}` {how} and wrote nothing")
        } else {
            format!(
                "`{name}` {how}; it last wrote:\n  {}",
                last_lines.join("\n  ")
            )
        };
        Err(StageError::Other {
            message,
            source: None,
        })
    }
}

/// The first program of this name in a folder of `path`, a value of `PATH`. What was found once is not looked for again
/// by this process.
fn found_on(path: &OsString, name: &str) -> Option<PathBuf> {
    static FOUND: Mutex<BTreeMap<(OsString, String), PathBuf>> = Mutex::new(BTreeMap::new());
    let key = (path.clone(), name.to_owned());
    let mut memory = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = memory.get(&key) {
        return Some(known.clone());
    }
    // A relative folder on `PATH` would mean something else in the sandbox.
    let found = std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))?;
    memory.insert(key, found.clone());
    Some(found)
}

fn source_name(path: &str) -> String {
    format!("source:{path}")
}

fn declared(columns: &[DeclaredColumn]) -> Vec<Column> {
    let column = |c: &DeclaredColumn| Column::new(&c.name, c.column_type).unit(&c.unit);
    columns.iter().map(column).collect()
}

fn described(path: &str, kind: Kind, format: TableFormat) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("path".into(), path.into());
    entry.insert("kind".into(), kind.to_string().into());
    if kind == Kind::Table {
        let format = serde_json::to_value(format).expect("a unit variant serializes");
        entry.insert("format".into(), format);
    }
    entry
}

fn check_port(parameter: &str, port: &str) -> Result<(), StageError> {
    if natron_artifacts::safe_name(port) && !port.contains('/') {
        return Ok(());
    }
    let message = format!("`{}` cannot be the name of a file", port.escape_debug());
    Err(
        StageError::parameter(format!("{parameter}.{port}"), message)
            .with_help("use letters, digits, `.`, `_` and `-`, no leading dot"),
    )
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// What to start so that the program has the umask of `conditions`: it itself, or a shell that sets it and becomes it.
fn with_umask(
    conditions: &Conditions,
    program: PathBuf,
    arguments: Vec<OsString>,
) -> (PathBuf, Vec<OsString>) {
    let Some(mask) = conditions.umask else {
        return (program, arguments);
    };
    let script = format!("umask {mask:04o}; exec \"$0\" \"$@\"");
    let shell = [OsString::from("-c"), script.into(), program.into()];
    let arguments = shell.into_iter().chain(arguments).collect();
    (PathBuf::from("/bin/sh"), arguments)
}

/// Why a program could not be started, in words that say what to do.
fn spawn_error(name: &str, program: &Path, error: &std::io::Error) -> StageError {
    use nix::libc::{E2BIG, EACCES, ENOENT, ENOEXEC};
    let at = program.display();
    let why = match error.raw_os_error() {
        Some(ENOENT) if program.exists() => match interpreter(program) {
            Some(missing) => {
                format!("its first line names the interpreter `{missing}`, which is not there")
            }
            None => "a library or loader that it needs is not there".into(),
        },
        Some(ENOENT) => format!("there is no file `{at}`"),
        Some(EACCES) if program.is_dir() => format!("`{at}` is a folder"),
        Some(EACCES) => format!("`{at}` is not executable; `chmod +x` makes it so"),
        Some(E2BIG) => "its arguments and environment are too long".into(),
        Some(ENOEXEC) => format!(
            "`{at}` is not a program for this machine; a script needs a first line such as `#!/bin/sh`"
        ),
        _ => error.to_string(),
    };
    StageError::resource(format!("cannot start `{name}`: {why}"))
}

fn interpreter(program: &Path) -> Option<String> {
    let bytes = fs::read(program).ok()?;
    let line = bytes.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    Some(line.split_whitespace().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    };

    use natron_artifacts::{
        Artifact, Bytes, FileContent, Files, Observer, Progress, Stage, StageContextParts, Table,
    };
    use serde_json::json;

    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>, AtomicU64);

    impl Observer for Log {
        fn progress(&self, _: &Progress) {}
        fn metric(&self, _: &str, _: u64, _: f64) {}
        fn log(&self, _: Level, message: &str) {
            self.0.lock().unwrap().push(message.to_owned());
        }
        fn peak_memory(&self, bytes: u64) {
            self.1.store(bytes, Ordering::Relaxed);
        }
    }

    /// A workspace, and a stage to run in it.
    struct Bench {
        directory: tempfile::TempDir,
        parts: StageContextParts,
        conditions: Conditions,
        log: Arc<Log>,
    }

    type Outputs = BTreeMap<String, Artifact>;

    impl Bench {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let log = Arc::new(Log::default());
            let mut parts = StageContextParts::for_test(directory.path());
            parts.observer = Arc::clone(&log) as Arc<dyn Observer>;
            Self {
                directory,
                parts,
                conditions: Conditions::default(),
                log,
            }
        }

        fn file(self, name: &str, text: &str) -> Self {
            let path = self.directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn input(mut self, port: &str, artifact: impl Into<Artifact>) -> Self {
            self.parts = self.parts.input(port, artifact);
            self
        }

        /// The outputs, or the error, and the log.
        fn run(mut self, with: &Value) -> (Result<Outputs, StageError>, Vec<String>) {
            let result = stage(with).and_then(|stage| {
                let mut schemas = Schemas::new();
                for (port, inputs) in &self.parts.inputs {
                    for input in inputs {
                        schemas.push(port, PortSchema::of(input.artifact.kind()));
                    }
                }
                let signature = stage.signature(&schemas)?;
                let workspace = self.directory.path();
                for source in &signature.sources {
                    let path = workspace.join(&source.path);
                    self.parts.sources.insert(source.name.clone(), path);
                }
                let mut context = StageContext::new(self.parts, signature).under(self.conditions);
                stage.run(&mut context)?;
                context.finish()
            });
            let log = self.log.0.lock().unwrap().clone();
            (result, log)
        }

        fn fails(self, with: &Value) -> String {
            self.run(with).0.unwrap_err().to_string()
        }
    }

    fn stage(with: &Value) -> Result<Arc<dyn Stage>, StageError> {
        let registry = crate::registry();
        let parsed = registry.get("command").unwrap().parse(with);
        parsed
            .map(|parsed| parsed.stage)
            .map_err(|e| StageError::data(e.to_string()))
    }

    /// Parameters that run a shell script and declare one output.
    fn shell(script: &str, output: &str, kind: &str) -> Value {
        json!({"run": ["sh", "-c", script], "outputs": {output: kind}})
    }

    fn file(text: &str) -> Artifact {
        Artifact::File(Arc::new(FileContent {
            bytes: Bytes::from(text.as_bytes()),
            executable: false,
        }))
    }

    fn text(outputs: &Outputs, port: &str) -> String {
        match &outputs[port] {
            Artifact::File(file) => String::from_utf8_lossy(&file.bytes).into_owned(),
            other => panic!("{port} is a {}", other.kind()),
        }
    }

    fn bars() -> Table {
        Table::builder()
            .time_index(vec![1, 2])
            .f64(Column::new("close", ColumnType::F64), vec![1.5, 2.5])
            .build()
            .unwrap()
    }

    #[test]
    fn a_program_reads_inputs_and_writes_outputs() {
        let with = json!({
            "run": ["sh", "lib/upper.sh", "${inputs.raw}", "${outputs.upper}", "seed=${seed}"],
            "sources": ["./lib/"],
            "outputs": {"upper": "file"},
        });

        let bench = Bench::new()
            .file("lib/upper.sh", "tr a-z A-Z <$1 >$2; echo \"$3\"; ls")
            .file("undeclared.txt", "")
            .input("raw", file("close"));
        let (outputs, log) = bench.run(&with);
        assert_eq!(text(&outputs.unwrap(), "upper"), "CLOSE");
        assert_eq!(log, ["seed=0", "inputs", "lib", "outputs", "request.json"]);
    }

    #[test]
    fn tables_go_there_and_back_in_both_formats() {
        for format in ["arrow", "parquet"] {
            let with = json!({
                "run": ["cp", "${inputs.bars}", "${outputs.copy}"],
                "outputs": {"copy": "table"},
                "input_formats": {"bars": format},
                "output_formats": {"copy": format},
            });

            let outputs = Bench::new().input("bars", bars()).run(&with).0.unwrap();
            assert_eq!(outputs["copy"], bars().into(), "{format}");
        }
    }

    #[test]
    fn every_kind_is_placed_and_collected() {
        let mut files = Files::new();
        let content = |text: &str, executable| FileContent {
            bytes: Bytes::from(text.as_bytes()),
            executable,
        };
        files.insert("a/run.sh", content("true", true)).unwrap();
        files.insert("b.txt", content("b", false)).unwrap();
        let mut metrics = natron_artifacts::Metrics::new();
        metrics.set("auc", 0.75).unwrap();
        let report = natron_artifacts::Report {
            html: "<p>\u{e9}</p>".into(),
        };
        let card = json!({
            "architecture": "a", "hyper_parameters": {}, "features": ["x"], "window_bars": 1,
            "label_horizon_bars": 0, "trained_on": natron_artifacts::Digest::of(b"")
        });
        let tensor = natron_artifacts::Tensor {
            shape: vec![2],
            values: vec![0.5, 1.5],
        };
        let model = natron_artifacts::Model {
            card: serde_json::from_value(card).unwrap(),
            tensors: [("w".to_owned(), tensor)].into(),
        };
        let artifacts: [(&str, Artifact); 6] = [
            ("table", bars().into()),
            ("files", files.into()),
            ("metrics", metrics.into()),
            ("report", report.into()),
            ("model", model.into()),
            ("file", file("raw")),
        ];
        for (kind, artifact) in artifacts {
            let with =
                json!({"run": ["cp", "-r", "${inputs.x}", "${outputs.y}"], "outputs": {"y": kind}});

            let outputs = Bench::new()
                .input("x", artifact.clone())
                .run(&with)
                .0
                .unwrap();
            assert_eq!(outputs["y"], artifact, "{kind}");
        }
    }

    #[test]
    fn a_gathered_input_is_one_argument_for_each() {
        let with = json!({"run": ["sh", "-c", "cat \"$@\" >outputs/all", "sh", "${inputs.part}"], "outputs": {"all": "file"}});

        let bench = Bench::new()
            .input("part", file("a"))
            .input("part", file("b"));
        assert_eq!(text(&bench.run(&with).0.unwrap(), "all"), "ab");
    }

    #[test]
    fn the_request_says_all() {
        let script = "cat >outputs/request; cmp request.json outputs/request";
        let mut with = shell(script, "request", "file");
        with["parameters"] = json!({"threshold": 0.5});

        let mut bench = Bench::new().input("bars", bars());
        bench.parts.seed = u64::MAX;
        let outputs = bench.run(&with).0.unwrap();
        let request: Value = serde_json::from_str(&text(&outputs, "request")).unwrap();
        let checkpoints = request["checkpoints"].as_str().unwrap().to_owned();
        assert!(checkpoints.ends_with("/checkpoints"), "{checkpoints}");
        assert_eq!(
            request,
            json!({
                "version": 1,
                "inputs": {"bars": [{"path": "inputs/bars.arrow", "kind": "table", "format": "arrow", "label": "bars"}]},
                "outputs": {"request": {"path": "outputs/request", "kind": "file"}},
                "parameters": {"threshold": 0.5},
                "seed": u64::MAX,
                "threads": 1,
                "device": "cpu",
                "checkpoints": checkpoints,
            })
        );
    }

    #[test]
    fn the_environment_is_what_was_declared() {
        let mut with = shell("env | sort >outputs/env", "env", "file");
        with["environment"] = json!({"TZ": "Asia/Tokyo", "MODE": "fast"});
        with["pass_environment"] = json!(["CARGO_PKG_NAME", "NOT_SET_ANYWHERE"]);

        let outputs = Bench::new().run(&with).0.unwrap();
        let names: Vec<_> = text(&outputs, "env")
            .lines()
            .map(|line| line.split('=').next().unwrap().to_owned())
            .filter(|name| !["HOME", "PWD", "OLDPWD", "SHLVL", "_"].contains(&name.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                "CARGO_PKG_NAME",
                "CUDA_VISIBLE_DEVICES",
                "LANG",
                "MKL_NUM_THREADS",
                "MODE",
                "NATRON_SANDBOX",
                "OMP_NUM_THREADS",
                "OPENBLAS_NUM_THREADS",
                "PATH",
                "PYTHONDONTWRITEBYTECODE",
                "PYTHONHASHSEED",
                "RAYON_NUM_THREADS",
                "TMPDIR",
                "TZ",
            ]
        );
        assert!(text(&outputs, "env").contains("TZ=Asia/Tokyo\n"));
    }

    #[test]
    fn other_conditions_reach_what_is_not_declared() {
        let script = "echo $TZ $LC_ALL $HOME $(umask) $1 $2 >outputs/y";
        let mut with = shell(script, "y", "file");
        with["run"] = json!(["sh", "-c", script, "name", "a  b", "'$c"]);
        with["environment"] = json!({"TZ": "Asia/Tokyo"});
        let mut bench = Bench::new();
        bench.conditions = Conditions {
            environment: [("TZ", "UTC"), ("LC_ALL", "tr_TR.UTF-8"), ("HOME", "/other")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            umask: Some(0o077),
            ..Conditions::default()
        };

        let outputs = bench.run(&with).0.unwrap();
        assert_eq!(
            text(&outputs, "y"),
            "Asia/Tokyo tr_TR.UTF-8 /other 0077 a b '$c\n"
        );
    }

    #[test]
    fn what_is_handed_through_is_in_no_log_and_no_key() {
        let mut with = shell("echo \"name is $CARGO_PKG_NAME\"; exit 3", "x", "file");
        with["pass_environment"] = json!(["CARGO_PKG_NAME"]);
        let parsed = crate::registry()
            .get("command")
            .unwrap()
            .parse(&with)
            .unwrap();
        assert!(
            !parsed.parameters.to_string().contains("CARGO_PKG_NAME\"]"),
            "{}",
            parsed.parameters
        );

        let (result, log) = Bench::new().run(&with);
        assert_eq!(log, ["name is ***"]);
        assert_eq!(
            result.unwrap_err().to_string(),
            "`sh` ended with exit status 3; it last wrote:\n  name is ***"
        );
    }

    #[test]
    fn the_key_knows_the_program_by_content_and_sources_by_name() {
        let with =
            json!({"run": ["./tools/clean", "x"], "sources": ["lib/"], "outputs": {"y": "file"}});
        let parsed = crate::registry()
            .get("command")
            .unwrap()
            .parse(&with)
            .unwrap();
        assert_eq!(parsed.parameters["run"], json!(["clean", "x"]));

        let signature = parsed.stage.signature(&Schemas::new()).unwrap();
        let sources: Vec<_> = signature
            .sources
            .iter()
            .map(|s| (s.name.as_str(), s.path.to_str().unwrap()))
            .collect();
        assert_eq!(
            sources,
            [("program", "./tools/clean"), ("source:lib", "lib")]
        );
    }

    #[test]
    fn exit_status_0_is_not_success() {
        let fails = |script: &str, kind: &str| Bench::new().fails(&shell(script, "y", kind));

        for (script, kind, expected) in [
            (
                "true",
                "file",
                "the program ended well but did not write `outputs/y`",
            ),
            ("true >outputs/y.arrow", "table", "the file is empty"),
            (
                "echo close >outputs/y.arrow",
                "table",
                "neither Arrow IPC nor Parquet",
            ),
            (
                "echo ARROW1 >outputs/y.arrow",
                "table",
                "not a readable Arrow file",
            ),
            (
                "echo PAR1PAR1 >outputs/y.arrow",
                "table",
                "not a readable Parquet file",
            ),
            (
                "echo '{\"a\": \"b\"}' >outputs/y.json",
                "metrics",
                "`outputs/y.json`:",
            ),
            (
                "printf 'ab\\377' >outputs/y.html",
                "report",
                "is not UTF-8 from byte 2 on",
            ),
            ("mkdir outputs/y", "file", "must be a plain file"),
            ("echo >outputs/y", "files", "must be a folder"),
            (
                "ln -s /etc/passwd outputs/y",
                "file",
                "must be a plain file",
            ),
            (
                "mkdir outputs/y; ln -s /etc/passwd outputs/y/a",
                "files",
                "`a` must be a plain file",
            ),
            (
                "mkdir outputs/y; mkfifo outputs/y/a",
                "files",
                "`a` must be a plain file",
            ),
            (
                "mkdir outputs/y; touch outputs/y/.x",
                "files",
                "`.x` cannot name a file of an artifact",
            ),
            (
                "mkdir outputs/y",
                "model",
                "cannot read `outputs/y/model.json`",
            ),
            (
                "mkdir outputs/y; echo 1 | tee outputs/y/model.json >outputs/y/model.safetensors",
                "model",
                "model.json:",
            ),
        ] {
            let error = fails(script, kind);
            assert!(error.contains(expected), "{script}: {error}");
            assert!(error.contains("output `y` of `sh`"), "{script}: {error}");
        }
    }

    #[test]
    fn nan_in_a_programs_table_is_an_error_even_under_our_own_header() {
        use arrow::{
            array::{ArrayRef, Float64Array, TimestampNanosecondArray},
            ipc::writer::FileWriter,
            record_batch::RecordBatch,
        };
        let ours = bars();
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(TimestampNanosecondArray::from(vec![1, 2]).with_timezone("UTC")),
            Arc::new(Float64Array::from(vec![1.5, f64::NAN])),
        ];
        let batch = RecordBatch::try_new(ours.arrow().schema(), arrays).unwrap();
        let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        let bytes = writer.into_inner().unwrap();
        let artifact = Artifact::File(Arc::new(FileContent {
            bytes: bytes.into(),
            executable: false,
        }));
        let with = json!({"run": ["cp", "${inputs.x}", "${outputs.y}"], "outputs": {"y": "table"}});

        let error = Bench::new().input("x", artifact).fails(&with);
        assert!(
            error.contains("column `close` holds NaN in row 1"),
            "{error}"
        );
    }

    #[test]
    fn declared_columns_are_checked_before_and_after() {
        let with = |columns: Value| {
            json!({
                "run": ["cp", "${inputs.bars}", "${outputs.y}"],
                "outputs": {"y": "table"},
                "columns": {"y": columns},
                "lookahead_bars": 3,
            })
        };
        let column = |name: &str, column_type: &str| json!({"name": name, "type": column_type, "unit": "price"});
        let good = with(json!([column("close", "f64"), {"name": "ts_ns", "type": "timestamp_ns"}]));

        let mut inputs = Schemas::new();
        inputs.push("bars", PortSchema::of(Kind::Table).lookahead(2));
        let signature = stage(&good).unwrap().signature(&inputs).unwrap();
        let schema = &signature.output_port("y").unwrap().schema;
        assert_eq!(schema.columns.as_ref().unwrap()[0].name, "close");
        assert_eq!(schema.lookahead_bars, 5);

        let outputs = Bench::new().input("bars", bars()).run(&good).0.unwrap();
        let Artifact::Table(table) = &outputs["y"] else {
            panic!()
        };
        assert_eq!(table.columns()[0].unit, "price");
        for (columns, expected) in [
            (
                json!([column("close", "f64")]),
                "has a column `ts_ns`, which `columns` does not declare",
            ),
            (
                json!([column("open", "f64")]),
                "has no column `open`, which `columns` declares",
            ),
            (
                json!([column("close", "i64")]),
                "column `close` is f64, declared as i64",
            ),
        ] {
            let error = Bench::new().input("bars", bars()).fails(&with(columns));
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn mistakes_are_found_before_anything_runs() {
        let change = |path: &str, value: Value| {
            let mut with = json!({"run": ["sh", "-c", "true"], "outputs": {"y": "file"}});
            with[path] = value;
            let error = match stage(&with) {
                Ok(stage) => stage.signature(&Schemas::new()).unwrap_err(),
                Err(error) => error,
            };
            match error {
                StageError::Parameters {
                    parameter, message, ..
                } => format!("{parameter}: {message}"),
                other => other.to_string(),
            }
        };

        for (path, value, expected) in [
            ("run", json!([]), "run: there is no program to run"),
            (
                "run",
                json!(["no-such-program-here"]),
                "run.0: program `no-such-program-here` is in no folder of PATH",
            ),
            (
                "run",
                json!(["sh", "${inputs.raw}"]),
                "run.1: no input is called `raw`; there are none",
            ),
            (
                "run",
                json!(["sh", "${outputs.z}"]),
                "run.1: no output is called `z`; there are `y`",
            ),
            (
                "run",
                json!(["${outputs.y}"]),
                "run.0: the program itself cannot be an input or output",
            ),
            (
                "outputs",
                json!({}),
                "outputs: a command needs at least one output",
            ),
            (
                "outputs",
                json!({"a/b": "file"}),
                "outputs.a/b: `a/b` cannot be the name of a file",
            ),
            (
                "sources",
                json!(["/etc"]),
                "sources.0: `/etc` must be a path relative to the workspace",
            ),
            (
                "sources",
                json!(["a/../../b"]),
                "sources.0: `a/../../b` must be a path relative",
            ),
            (
                "sources",
                json!(["."]),
                "sources.0: `.` names no file or folder",
            ),
            (
                "sources",
                json!(["outputs/x"]),
                "sources.0: `outputs` is taken",
            ),
            (
                "environment",
                json!({"API_TOKEN": "x"}),
                "environment.API_TOKEN: `API_TOKEN` looks like a secret",
            ),
            (
                "environment",
                json!({"A=B": "x"}),
                "environment.A=B: an environment variable's name",
            ),
            (
                "pass_environment",
                json!([""]),
                "pass_environment.0: `` names no environment variable",
            ),
            (
                "columns",
                json!({"y": []}),
                "columns.y: `y` is no output table",
            ),
            (
                "output_formats",
                json!({"z": "arrow"}),
                "output_formats.z: `z` is no output table",
            ),
            ("nonsense", json!(1), "unknown field `nonsense`"),
        ] {
            let error = change(path, value);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_program_that_cannot_start_says_why() {
        use std::os::unix::fs::PermissionsExt;
        let fails = |text: Option<&str>, mode: u32| {
            let mut bench = Bench::new();
            if let Some(text) = text {
                bench = bench.file("tool", text);
                let path = bench.directory.path().join("tool");
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
            bench.fails(&json!({"run": ["./tool"], "outputs": {"y": "file"}}))
        };

        assert!(fails(None, 0).contains("there is no file"));
        assert!(fails(Some("#!/bin/sh\n"), 0o644).contains("is not executable; `chmod +x`"));
        assert!(
            fails(Some("#!/no/such/interpreter\n"), 0o755)
                .contains("names the interpreter `/no/such/interpreter`")
        );
        assert!(
            fails(Some("\x7fnot a program"), 0o755).contains("is not a program for this machine")
        );
        let long = Bench::new()
            .fails(&json!({"run": ["sh", "x".repeat(3 << 20)], "outputs": {"y": "file"}}));
        assert!(
            long.contains("arguments and environment are too long"),
            "{}",
            &long[..100]
        );
    }

    #[test]
    fn a_program_that_reads_nothing_and_floods_ends_well() {
        let mut with = shell(
            "exec <&-; head -c 1048576 /dev/zero >&2; echo ok >outputs/y",
            "y",
            "file",
        );
        with["parameters"] = json!({"large": "x".repeat(1 << 20)});

        assert_eq!(text(&Bench::new().run(&with).0.unwrap(), "y"), "ok\n");
    }

    #[test]
    fn processes_left_behind_are_killed_and_told_of() {
        let with = shell("sleep 60 & echo ok >outputs/y; sleep 0.1", "y", "file");

        let (outputs, log) = Bench::new().run(&with);
        assert!(outputs.is_ok());
        assert_eq!(log, ["`sh` left 1 process running; killed"]);
    }

    #[test]
    fn the_program_s_memory_is_told_and_not_ours() {
        let bench = Bench::new();
        let log = Arc::clone(&bench.log);
        let ballast = vec![1_u8; 100 << 20];

        bench
            .run(&shell("echo ok >outputs/y", "y", "file"))
            .0
            .unwrap();
        let bytes = log.1.load(Ordering::Relaxed);
        assert!((1 << 10..60 << 20).contains(&bytes), "{bytes}");
        assert_eq!(ballast[bytes as usize], 1);
    }

    #[test]
    fn a_stop_interrupts() {
        let bench = Bench::new();
        bench.parts.cancel.set();

        let (result, _) = bench.run(&shell("sleep 60", "y", "file"));
        assert!(matches!(result, Err(StageError::Interrupted)));
    }
}
