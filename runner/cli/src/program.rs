//! From arguments to exit code.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{ColorChoice, CommandFactory, FromArgMatches};
use natron_artifacts::Registry;
use natron_runner::{Diagnostic, Graph, LoadOptions, Severity, Workspace};
use serde_json::{Value, json};

use crate::{
    accept,
    arguments::{Arguments, Command, Overrides},
    cache, check, completions, diagnostic, diff, doctor, explain, export,
    failure::Failure,
    gc, graph, init,
    output::{Color, Output, terminal_width},
    predict, run, runs, schema, show,
    signals::Stop,
    stage, stages, status, verify,
};

/// What every subcommand has to work with.
pub(crate) struct Program {
    /// The kinds of stages that there are.
    pub(crate) registry: Registry,
    /// The only writer.
    pub(crate) output: Output,
    /// The word of the user that work should stop.
    pub(crate) stop: Stop,
    /// `--workspace`.
    pub(crate) workspace: Option<PathBuf>,
    /// `--cache`, or `NATRON_CACHE`.
    pub(crate) cache: Option<PathBuf>,
}

/// Runs the program with the stages of `registry` and the arguments of this process.
pub fn main_with(registry: Registry) -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    main_with_arguments(registry, &arguments)
}

/// The same with other arguments; the first is the program's name.
pub fn main_with_arguments(registry: Registry, arguments: &[OsString]) -> ExitCode {
    ExitCode::from(execute(registry, arguments))
}

fn execute(registry: Registry, arguments: &[OsString]) -> u8 {
    let arguments = match parse(arguments) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let output = Output::new(arguments.global.color, arguments.global.json);
    let stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => {
            output.warn(&format!("cannot listen for signals: {error}"));
            return 5;
        }
    };
    let cache = arguments.global.cache.or_else(|| {
        let path = env::var_os("NATRON_CACHE")?;
        (!path.is_empty()).then(|| PathBuf::from(path))
    });
    let program = Program {
        registry,
        output,
        stop,
        workspace: arguments.global.workspace,
        cache,
    };
    let result = dispatch(&program, &arguments.command);
    if let Err(failure) = &result {
        failure.report(&program.output);
    }
    let code = result.map_or_else(|failure| failure.code(), |()| 0);
    match program.output.finish() {
        Ok(()) => code,
        Err(error) => {
            program.output.note(&format!(
                "error: cannot write to the standard output: {error}"
            ));
            if code == 0 { 5 } else { code }
        }
    }
}

fn parse(arguments: &[OsString]) -> Result<Arguments, u8> {
    // The choice of colours is needed for mistakes in the arguments too.
    let color = Output::new(color_of(arguments), false);
    let choice = |colored: bool| {
        if colored {
            ColorChoice::Always
        } else {
            ColorChoice::Never
        }
    };
    let command = Arguments::command().color(choice(
        color.data_style().colored || color.note_style().colored,
    ));
    let parsed = command
        .try_get_matches_from(arguments)
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    parsed.map_err(|error| {
        let rendered = error.render();
        let to_stderr = error.use_stderr();
        let style = if to_stderr {
            color.note_style()
        } else {
            color.data_style()
        };
        let text = if style.colored {
            rendered.ansi().to_string()
        } else {
            rendered.to_string()
        };
        if to_stderr {
            color.note(&text);
            return 2;
        }
        color.data(&text);
        match color.finish() {
            Ok(()) => 0,
            Err(error) => {
                color.note(&format!(
                    "error: cannot write to the standard output: {error}"
                ));
                5
            }
        }
    })
}

/// `--color` before the arguments are parsed.
fn color_of(arguments: &[OsString]) -> Color {
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let value = words.iter().enumerate().find_map(|(i, word)| {
        word.strip_prefix("--color=").or_else(|| {
            (*word == "--color")
                .then(|| words.get(i + 1).copied())
                .flatten()
        })
    });
    match value {
        Some("always") => Color::Always,
        Some("never") => Color::Never,
        _ => Color::Auto,
    }
}

fn dispatch(program: &Program, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Run(arguments) => run::run(program, arguments),
        Command::Check(arguments) => check::run(program, arguments),
        Command::Status(arguments) => status::run(program, arguments),
        Command::Graph(arguments) => graph::run(program, arguments),
        Command::Explain(arguments) => explain::run(program, arguments),
        Command::Runs(arguments) => runs::run(program, arguments),
        Command::Diff(arguments) => diff::run(program, arguments),
        Command::Show(arguments) => show::run(program, arguments),
        Command::Export(arguments) => export::run(program, arguments),
        Command::Verify(arguments) => verify::run(program, arguments),
        Command::Accept(arguments) => accept::run(program, arguments),
        Command::Gc(arguments) => gc::run(program, arguments),
        Command::Cache(arguments) => cache::run(program, arguments),
        Command::Init(arguments) => init::run(program, arguments),
        Command::Stage(arguments) => stage::run(program, arguments),
        Command::Stages(arguments) => stages::run(program, arguments),
        Command::Schema(arguments) => schema::run(program, arguments),
        Command::Predict(arguments) => predict::run(program, arguments),
        Command::Doctor(arguments) => doctor::run(program, arguments),
        Command::Completions(arguments) => completions::run(program, arguments),
    }
}

impl Program {
    /// The workspace: `--workspace`, else the nearest folder upwards that has `pipelines/` or `.natron/`, else the current
    /// one.
    pub(crate) fn workspace(&self) -> Result<Workspace, Failure> {
        let root = if let Some(path) = &self.workspace {
            path.canonicalize().map_err(|error| {
                Failure::usage(format!("--workspace: `{}`: {error}", path.display()))
            })?
        } else {
            let current = env::current_dir().map_err(|error| {
                Failure::usage(format!("the current directory cannot be used: {error}"))
            })?;
            Workspace::find(&current)
        };
        let cache = self.cache.as_ref().map(std::path::absolute).transpose();
        let cache = cache.map_err(|error| Failure::usage(format!("--cache: {error}")))?;
        Ok(Workspace::new(root, cache))
    }

    /// The pipeline file that `given` means: a path, the name of a file in `pipelines/`, or, without any, the only one there.
    pub(crate) fn pipeline_file(
        workspace: &Workspace,
        given: Option<&Path>,
    ) -> Result<PathBuf, Failure> {
        let folder = workspace.root().join("pipelines");
        if let Some(path) = given {
            let named = folder.join(path).with_extension("toml");
            let is_name = path.components().count() == 1 && path.extension().is_none();
            return Ok(if is_name && !path.exists() && named.is_file() {
                shown(&named)
            } else {
                path.to_path_buf()
            });
        }
        let mut files: Vec<PathBuf> = fs::read_dir(&folder)
            .map(|entries| {
                let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
                paths
                    .filter(|path| path.extension().is_some_and(|e| e == "toml"))
                    .collect()
            })
            .unwrap_or_default();
        files.sort();
        match files.as_slice() {
            [only] => Ok(shown(only)),
            [] => Err(Failure::usage(format!(
                "there is no pipeline in `{}`",
                shown(&folder).display()
            ))
            .help("name a pipeline file, or make a workspace with `natron init`")),
            several => {
                let names: Vec<String> = several
                    .iter()
                    .map(|path| format!("`{}`", shown(path).display()))
                    .collect();
                Err(Failure::usage("which pipeline?")
                    .help(format!("name one of {}", names.join(", "))))
            }
        }
    }

    /// How a pipeline file is to be read.
    pub(crate) fn load_options(workspace: &Workspace, overrides: &Overrides) -> LoadOptions {
        LoadOptions {
            profile: overrides.profile.clone(),
            sets: overrides.set.clone(),
            max_instances: overrides.max_instances,
            workspace: workspace.root().to_path_buf(),
            ..LoadOptions::default()
        }
    }

    /// The checked graph of a pipeline. Mistakes and warnings are reported.
    pub(crate) fn load(
        &self,
        given: Option<&Path>,
        overrides: &Overrides,
    ) -> Result<Loaded, Failure> {
        let workspace = self.workspace()?;
        let file = Self::pipeline_file(&workspace, given)?;
        let options = Self::load_options(&workspace, overrides);
        match natron_runner::load_known(&file, &options, &self.registry, &workspace) {
            Ok(graph) => {
                if !self.output.is_json() {
                    self.report(&graph.warnings);
                }
                Ok(Loaded {
                    graph,
                    workspace,
                    file,
                })
            }
            Err(mistakes) => Err(self.mistakes(&file, &mistakes)),
        }
    }

    /// Reports the mistakes of a pipeline file.
    pub(crate) fn mistakes(&self, file: &Path, mistakes: &[Diagnostic]) -> Failure {
        if self.output.is_json() {
            let failure = Failure::Pipeline;
            let diagnostics: Vec<Value> = mistakes.iter().map(diagnostic::json).collect();
            self.output.json(json!({
                "file": file.display().to_string(),
                "diagnostics": diagnostics,
                "exit_code": failure.code(),
            }));
        }
        self.report(mistakes);
        let errors = mistakes
            .iter()
            .filter(|m| m.severity == Severity::Error)
            .count();
        if errors > 1 {
            let style = self.output.note_style();
            let text = format!("{errors} mistakes in `{}`; nothing ran", file.display());
            self.output.note(&format!("{}: {text}", style.red("error")));
        }
        Failure::Pipeline
    }

    /// Reports diagnostics to people.
    pub(crate) fn report(&self, diagnostics: &[Diagnostic]) {
        for diagnostic in diagnostics {
            let text = diagnostic::text(
                diagnostic,
                self.output.note_style(),
                terminal_width().min(140),
            );
            self.output.note(&format!("{text}\n"));
        }
    }
}

/// A pipeline that was loaded.
pub(crate) struct Loaded {
    /// Its graph.
    pub(crate) graph: Graph,
    /// Where it runs.
    pub(crate) workspace: Workspace,
    /// Its file, as named.
    pub(crate) file: PathBuf,
}

/// The path, relative to the current directory where it lies below.
pub(crate) fn shown(path: &Path) -> PathBuf {
    let relative = env::current_dir()
        .ok()
        .and_then(|here| Some(path.strip_prefix(here).ok()?.to_path_buf()));
    relative
        .filter(|relative| !relative.as_os_str().is_empty())
        .unwrap_or_else(|| path.to_path_buf())
}
