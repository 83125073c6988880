//! `natron init`: a workspace that runs offline at once.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::{failure::Failure, program::Program};

const EXAMPLES: &str = "\
Examples:
  natron init my-research                 then: cd my-research && natron run --profile quick
  natron init --template minimal          the smallest pipeline, in the current folder
  natron init --ci github                 with a workflow that compares every push with the lock file";

const README: &str = include_str!("init/README.md");
const GITIGNORE: &str = include_str!("init/gitignore");
const NATRON_V2: &str = include_str!("../../../pipelines/natron_v2.toml");
const MINIMAL: &str = include_str!("init/minimal.toml");
const GITHUB: &str = include_str!("init/github.yml");
const GITLAB: &str = include_str!("init/gitlab.yml");

/// Make a workspace that runs offline at once.
///
/// It gets a pipeline on simulated candles, a README and a .gitignore; nothing that is there is changed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The folder; made if it is not there.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Which pipeline to start from.
    #[arg(long, short, value_enum, default_value_t, value_name = "NAME")]
    template: Template,
    /// Also write a workflow that checks the results of every push against the lock file.
    #[arg(long, value_enum, value_name = "SERVICE")]
    ci: Option<Service>,
}

/// Continuous integration services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Service {
    /// GitHub Actions: `.github/workflows/natron.yml`.
    Github,
    /// GitLab: `.gitlab-ci.yml`.
    Gitlab,
}

impl Service {
    fn path(self) -> &'static str {
        match self {
            Self::Github => ".github/workflows/natron.yml",
            Self::Gitlab => ".gitlab-ci.yml",
        }
    }

    fn workflow(self, template: Template) -> String {
        let text = match self {
            Self::Github => GITHUB,
            Self::Gitlab => GITLAB,
        };
        let pipeline = format!("pipelines/{}.toml", template.name());
        let text = text.replace("PIPELINE", &pipeline);
        match template.options() {
            "" => text.replace(" OPTIONS", ""),
            options => text.replace("OPTIONS", options),
        }
    }
}

/// The pipelines that the program carries with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Template {
    /// A transformer in three phases, evaluated and reported.
    #[default]
    #[value(name = "natron_v2")]
    NatronV2,
    /// Simulated candles and features.
    Minimal,
}

impl Template {
    fn name(self) -> &'static str {
        match self {
            Self::NatronV2 => "natron_v2",
            Self::Minimal => "minimal",
        }
    }

    fn pipeline(self) -> &'static str {
        match self {
            Self::NatronV2 => NATRON_V2,
            Self::Minimal => MINIMAL,
        }
    }

    /// Options of a quick run.
    fn options(self) -> &'static str {
        match self {
            Self::NatronV2 => "--profile quick",
            Self::Minimal => "",
        }
    }

    fn first_run(self) -> &'static str {
        match self {
            Self::NatronV2 => "natron run --profile quick",
            Self::Minimal => "natron run",
        }
    }
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let (folder, template) = (&arguments.folder, arguments.template);
    let readme = README.replace("RUN", template.first_run());
    let mut files = vec![
        (PathBuf::from("README.md"), readme.as_str()),
        (PathBuf::from(".gitignore"), GITIGNORE),
        (
            PathBuf::from(format!("pipelines/{}.toml", template.name())),
            template.pipeline(),
        ),
    ];
    let workflow = arguments
        .ci
        .map(|service| (service.path(), service.workflow(template)));
    if let Some((path, text)) = &workflow {
        files.push((PathBuf::from(path), text.as_str()));
    }
    let written = write_all(folder, &files)?;
    if program.output.is_json() {
        let folder = folder.display().to_string();
        program
            .output
            .json(json!({ "folder": folder, "template": template.name(), "written": written }));
        return Ok(());
    }
    let style = program.output.note_style();
    for name in &written {
        program
            .output
            .note(&format!("  {} {name}", style.green("wrote")));
    }
    let here = env::current_dir().and_then(fs::canonicalize).ok();
    let enter = if fs::canonicalize(folder).ok() == here {
        String::new()
    } else {
        format!("cd {} && ", folder.display())
    };
    program
        .output
        .note(&format!("next: {}{}", enter, template.first_run()));
    if arguments.ci.is_some() {
        program.output.note(&format!(
            "then: {} --write-lock, and commit the lock file for the workflow",
            template.first_run()
        ));
    }
    Ok(())
}

/// Writes those of `files` that are not there yet, and returns their names.
///
/// # Errors
///
/// When a file is there with other content; then nothing is written.
fn write_all(folder: &Path, files: &[(PathBuf, &str)]) -> Result<Vec<String>, Failure> {
    let mut missing = Vec::new();
    let mut conflicts = Vec::new();
    for (name, text) in files {
        match fs::read(folder.join(name)) {
            Ok(bytes) if bytes == text.as_bytes() => {}
            Ok(_) => conflicts.push(name.display().to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push((name, text)),
            Err(error) => return Err(Failure::file("write", &folder.join(name), &error)),
        }
    }
    if !conflicts.is_empty() {
        let names = conflicts.join("`, `");
        return Err(
            Failure::usage(format!("`{names}` is there already, with other content"))
                .help("choose another folder, or move the file away; nothing was written"),
        );
    }
    for (name, text) in &missing {
        let path = folder.join(name);
        write_new(&path, text).map_err(|error| Failure::file("write", &path, &error))?;
    }
    Ok(missing
        .iter()
        .map(|(name, _)| name.display().to_string())
        .collect())
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_content_stays_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("README.md"), "mine").unwrap();
        let files = [
            (PathBuf::from(".gitignore"), "a"),
            (PathBuf::from("README.md"), "b"),
        ];

        let failure = write_all(folder.path(), &files).unwrap_err();
        assert_eq!(failure.code(), 2);
        assert_eq!(fs::read(folder.path().join("README.md")).unwrap(), b"mine");
        assert!(!folder.path().join(".gitignore").exists());
    }

    #[test]
    fn the_same_again_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let files = [(PathBuf::from("a/b"), "text")];

        assert_eq!(write_all(folder.path(), &files).unwrap(), ["a/b"]);
        assert!(write_all(folder.path(), &files).unwrap().is_empty());
    }
}
