//! What differs between what two results of a stage were made of, one thing at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use natron_artifacts::{Digest, Manifest};
use natron_cache::{ColumnIngredient, Difference, Ingredients, InputIngredient, Store, diff};
use serde::Serialize;
use serde_json::Value;

use crate::{
    artifact_change::{ArtifactChange, PartChange, Presence, part_changes},
    source_text::{LONGEST_TEXT, SourceFact, SourceFacts, input_name, is_text},
    text_diff::unified_diff,
};

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Where in the key: `parameters.lr`, `inputs.bars`, `inputs.folds[1]`, `sources.source:train.py`, `code`.
    pub path: String,
    /// What differs there.
    #[serde(flatten)]
    pub what: Changed,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "class")]
pub enum Changed {
    /// A value: a parameter, the seed, a declared variable of the environment.
    Value {
        /// Before; nothing when it is new.
        before: Option<Value>,
        /// After; nothing when it is gone.
        after: Option<Value>,
        /// Line by line, for long texts.
        #[serde(skip_serializing_if = "Option::is_none")]
        diff: Option<String>,
    },
    /// The code of the kind.
    Code {
        /// Fingerprint before.
        before: String,
        /// Fingerprint after.
        after: String,
        /// The program that made the earlier result, where known.
        #[serde(skip_serializing_if = "Option::is_none")]
        program_before: Option<String>,
        /// The program now.
        #[serde(skip_serializing_if = "Option::is_none")]
        program_after: Option<String>,
    },
    /// A file or folder of the workspace.
    File(FileChange),
    /// What another stage made.
    Artifact {
        /// `stage.output`, where known.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// How it differs.
        #[serde(flatten)]
        change: Box<ArtifactChange>,
    },
}

/// A file or folder of the workspace that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Its path, relative to the workspace.
    pub file: String,
    /// Where it lay before, if that was elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_before: Option<String>,
    /// Whether it is on both sides.
    pub presence: Presence,
    /// Digest before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest_before: Option<Digest>,
    /// Digest after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest_after: Option<Digest>,
    /// Length in bytes before, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_before: Option<u64>,
    /// Length in bytes after, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_after: Option<u64>,
    /// Of a folder: the files that differ, where known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PartChange>,
    /// Line by line, where both sides are known: a unified diff without its head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// Where an input came from, on one side or both.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// The stage and its output, and what it gave before and after.
    pub(crate) output: Option<(String, String)>,
    pub(crate) before: Option<Manifest>,
    pub(crate) after: Option<Manifest>,
}

/// What is known of two sides beyond the ingredients.
pub(crate) struct Comparison<'a> {
    pub(crate) store: &'a Store,
    /// Open tables and texts to say how far they differ.
    pub(crate) is_detailed: bool,
    pub(crate) workspace: &'a Path,
    pub(crate) facts_before: &'a SourceFacts,
    pub(crate) facts_after: &'a dyn Fn(&str) -> Option<SourceFact>,
    pub(crate) programs: (Option<String>, Option<String>),
    pub(crate) origin: &'a dyn Fn(&str, usize) -> Origin,
    /// The inputs of the later side are not all known yet: what it lacks is not gone.
    pub(crate) is_partial: bool,
}

impl Comparison<'_> {
    /// All that differs from `before` to `after`: values first, then code, files, artifacts.
    pub(crate) fn changes(&self, before: &Ingredients, after: &Ingredients) -> Vec<Change> {
        let mut changes = values(before, after);
        if before.code != after.code && before.kind == after.kind {
            changes.push(Change {
                path: "code".into(),
                what: Changed::Code {
                    before: before.code.clone(),
                    after: after.code.clone(),
                    program_before: self.programs.0.clone(),
                    program_after: self.programs.1.clone(),
                },
            });
        }
        let names: BTreeSet<&String> = before.sources.keys().chain(after.sources.keys()).collect();
        for name in names {
            let (old, new) = (before.sources.get(name), after.sources.get(name));
            if old != new {
                let path = format!("sources.{name}");
                let shown = name.strip_prefix("source:").unwrap_or(name);
                let file = self.file(&path, shown, old.copied(), new.copied());
                changes.push(Change {
                    path,
                    what: Changed::File(file),
                });
            }
        }
        let ports: BTreeSet<&String> = before.inputs.keys().chain(after.inputs.keys()).collect();
        for port in ports {
            if self.is_partial && !after.inputs.contains_key(port) {
                continue;
            }
            let list = |i: &Ingredients| i.inputs.get(port).cloned().unwrap_or_default();
            let (old, new) = (list(before), list(after));
            let is_list = old.len().max(new.len()) > 1;
            for i in 0..old.len().max(new.len()) {
                if old.get(i) != new.get(i) {
                    let path = if is_list {
                        input_name(port, i)
                    } else {
                        format!("inputs.{port}")
                    };
                    changes.push(Change {
                        path,
                        what: self.input(port, i, old.get(i), new.get(i)),
                    });
                }
            }
        }
        changes
    }

    fn file(
        &self,
        name: &str,
        otherwise: &str,
        before: Option<Digest>,
        after: Option<Digest>,
    ) -> FileChange {
        let old = before.and_then(|digest| {
            let fact = self.facts_before.get(name);
            fact.filter(|fact| fact.digest == digest).cloned()
        });
        let new = after.and_then(|digest| {
            let fact = (self.facts_after)(name);
            fact.filter(|fact| fact.digest == digest)
        });
        let path = |fact: &Option<SourceFact>| {
            let path = fact.as_ref().map(|fact| fact.path.clone());
            path.filter(|path| !path.is_empty())
        };
        let file = path(&new)
            .or_else(|| path(&old))
            .unwrap_or_else(|| otherwise.to_owned());
        let mut change = FileChange {
            file_before: path(&old).filter(|path| *path != file),
            file,
            presence: presence(before.is_some(), after.is_some()),
            digest_before: before,
            digest_after: after,
            size_before: old.as_ref().map(|fact| fact.size),
            size_after: new.as_ref().map(|fact| fact.size),
            files: Vec::new(),
            diff: None,
        };
        let (Some(old), Some(new)) = (old, new) else {
            return change;
        };
        if let (Some(old_files), Some(new_files)) = (&old.files, &new.files) {
            let listed = |files: &BTreeMap<String, SourceFact>| {
                let files = files.iter();
                files
                    .map(|(name, fact)| (name.clone(), (fact.digest, Some(fact.size))))
                    .collect()
            };
            change.files = part_changes(&listed(old_files), &listed(new_files));
            if self.is_detailed {
                for part in &mut change.files {
                    let path = Path::new(&change.file).join(&part.name);
                    let old = old_files.get(&part.name);
                    let new = new_files.get(&part.name);
                    part.diff = self.text_change(&path, old, new);
                }
            }
        } else if self.is_detailed {
            change.diff = self.text_change(Path::new(&change.file), Some(&old), Some(&new));
        }
        change
    }

    /// The difference of two texts, where both are known.
    fn text_change(
        &self,
        path: &Path,
        before: Option<&SourceFact>,
        after: Option<&SourceFact>,
    ) -> Option<String> {
        let before = match before {
            Some(fact) if fact.has_text => self.text(path, fact)?,
            Some(_) => return None,
            None => String::new(),
        };
        let after = match after {
            Some(fact) if fact.has_text => self.text(path, fact)?,
            Some(_) => return None,
            None => String::new(),
        };
        Some(unified_diff(&before, &after))
    }

    /// The text with this digest: the store's, or what lies in the workspace now.
    fn text(&self, path: &Path, fact: &SourceFact) -> Option<String> {
        let kept = self.store.read(&fact.digest).ok().map(|b| b.to_vec());
        let there = || {
            let path = self.workspace.join(path);
            let is_short = std::fs::metadata(&path).is_ok_and(|m| m.len() <= LONGEST_TEXT);
            let bytes = is_short.then(|| std::fs::read(&path).ok()).flatten()?;
            (Digest::of(&bytes) == fact.digest).then_some(bytes)
        };
        let bytes = kept.or_else(there)?;
        is_text(&bytes)
            .then(|| String::from_utf8(bytes).ok())
            .flatten()
    }

    fn input(
        &self,
        port: &str,
        position: usize,
        before: Option<&InputIngredient>,
        after: Option<&InputIngredient>,
    ) -> Changed {
        let bytes = |ingredient: Option<&InputIngredient>| match ingredient {
            Some(InputIngredient::Bytes { digest }) => Some(*digest),
            _ => None,
        };
        let (old, new) = (bytes(before), bytes(after));
        let is_file = |digest: Option<Digest>, there: bool| digest.is_some() || !there;
        if is_file(old, before.is_some()) && is_file(new, after.is_some()) {
            return Changed::File(self.file(&input_name(port, position), port, old, new));
        }
        let origin = (self.origin)(port, position);
        let from = origin
            .output
            .as_ref()
            .map(|(stage, output)| format!("{stage}.{output}"));
        let mut change = match (&origin.before, &origin.after) {
            (Some(old), Some(new)) if is_whole(before, old) && is_whole(after, new) => {
                ArtifactChange::new(old, new, self.is_detailed.then_some(self.store))
            }
            _ => ArtifactChange {
                sizes: (
                    origin.before.as_ref().map(Manifest::size),
                    origin.after.as_ref().map(Manifest::size),
                ),
                ..by_ingredients(before, after)
            },
        };
        if let (
            Some(InputIngredient::Columns { columns: old, .. }),
            Some(InputIngredient::Columns { columns: new, .. }),
        ) = (before, after)
        {
            let of = |list: &[ColumnIngredient]| -> BTreeSet<String> {
                list.iter().map(|c| c.name.clone()).collect()
            };
            change.limit_to(&(&of(old) | &of(new)));
        }
        Changed::Artifact {
            from,
            change: Box::new(change),
        }
    }
}

/// All but code, sources and inputs.
fn values(before: &Ingredients, after: &Ingredients) -> Vec<Change> {
    let bare = |ingredients: &Ingredients| {
        let mut bare = ingredients.clone();
        bare.sources.clear();
        bare.inputs.clear();
        if before.kind == after.kind {
            bare.code.clear();
        }
        bare
    };
    diff(&bare(before), &bare(after))
        .into_iter()
        .map(
            |Difference {
                 path,
                 before,
                 after,
             }| {
                let diff = match (&before, &after) {
                    (Some(Value::String(a)), Some(Value::String(b)))
                        if a.contains('\n') || b.contains('\n') =>
                    {
                        Some(unified_diff(a, b))
                    }
                    _ => None,
                };
                Change {
                    path,
                    what: Changed::Value {
                        before,
                        after,
                        diff,
                    },
                }
            },
        )
        .collect()
}

fn presence(before: bool, after: bool) -> Presence {
    match (before, after) {
        (false, _) => Presence::Added,
        (true, false) => Presence::Removed,
        (true, true) => Presence::Changed,
    }
}

/// Whether the key holds all rows of the table.
fn is_whole(ingredient: Option<&InputIngredient>, table: &Manifest) -> bool {
    match ingredient {
        Some(InputIngredient::Columns { rows, .. }) => *rows == table.rows,
        _ => true,
    }
}

/// What the key itself says of two inputs whose artifacts are not known.
fn by_ingredients(
    before: Option<&InputIngredient>,
    after: Option<&InputIngredient>,
) -> ArtifactChange {
    if let (
        Some(InputIngredient::Columns {
            rows: old_rows,
            columns: old,
        }),
        Some(InputIngredient::Columns {
            rows: new_rows,
            columns: new,
        }),
    ) = (before, after)
    {
        return ArtifactChange::of_columns((*old_rows, old), (*new_rows, new));
    }
    let kind = |ingredient: Option<&InputIngredient>| match ingredient {
        Some(InputIngredient::Logical { kind, .. }) => Some(*kind),
        Some(InputIngredient::Columns { .. }) => Some(natron_artifacts::Kind::Table),
        _ => None,
    };
    ArtifactChange {
        kinds: (kind(before), kind(after)),
        ..ArtifactChange::default()
    }
}

impl Change {
    /// What tells this change from others: equal changes of many stages have one cause.
    pub(crate) fn identity(&self) -> String {
        match &self.what {
            Changed::Value { before, after, .. } => {
                let text = |v: &Option<Value>| v.as_ref().map(Value::to_string);
                format!("value {} {:?} {:?}", self.path, text(before), text(after))
            }
            Changed::Code { before, after, .. } => format!("code {before} {after}"),
            Changed::File(file) => format!(
                "file {} {:?} {:?}",
                file.file, file.digest_before, file.digest_after
            ),
            Changed::Artifact { from, .. } => format!("artifact {} {from:?}", self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use natron_cache::Durability;
    use serde_json::json;

    use super::*;

    fn fact(text: &str, path: &str) -> SourceFact {
        SourceFact {
            digest: Digest::of(text.as_bytes()),
            size: text.len() as u64,
            path: path.into(),
            has_text: true,
            files: None,
        }
    }

    fn with_source(name: &str, digest: Digest) -> Ingredients {
        let mut ingredients = Ingredients::new("command", "c0de");
        ingredients.sources.insert(name.into(), digest);
        ingredients
    }

    fn changes(
        store: &Store,
        workspace: &Path,
        facts: (&SourceFacts, &SourceFacts),
        (before, after): (&Ingredients, &Ingredients),
    ) -> Vec<Change> {
        let comparison = Comparison {
            store,
            is_detailed: true,
            workspace,
            facts_before: facts.0,
            facts_after: &|name| facts.1.get(name).cloned(),
            programs: (Some("0.1.0".into()), Some("0.2.0".into())),
            origin: &|_, _| Origin::default(),
            is_partial: false,
        };
        comparison.changes(before, after)
    }

    #[test]
    fn code_of_which_both_sides_are_kept_is_a_diff() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache"), Durability::None).unwrap();
        let (old, new) = ("a = 1\nb = 2\n", "a = 1\nb = 3\n");
        store.put(old.as_bytes()).unwrap();
        // The later text lies only in the workspace.
        std::fs::write(folder.path().join("train.py"), new).unwrap();
        let name = "source:train.py";
        let facts = |text: &str| {
            SourceFacts::new([(format!("sources.{name}"), fact(text, "train.py"))].into())
        };

        let sides = (
            with_source(name, Digest::of(old.as_bytes())),
            with_source(name, Digest::of(new.as_bytes())),
        );
        let (before, after) = (facts(old), facts(new));
        let found = changes(
            &store,
            folder.path(),
            (&before, &after),
            (&sides.0, &sides.1),
        );
        let Changed::File(file) = &found[0].what else {
            panic!("{found:?}")
        };
        assert_eq!(file.file, "train.py");
        assert_eq!((file.size_before, file.size_after), (Some(12), Some(12)));
        assert_eq!(
            file.diff.as_deref(),
            Some("@@ -1,2 +1,2 @@\n a = 1\n-b = 2\n+b = 3\n")
        );

        // A text that is on neither side any more is named without one.
        std::fs::write(folder.path().join("train.py"), "other").unwrap();
        let found = changes(
            &store,
            folder.path(),
            (&before, &after),
            (&sides.0, &sides.1),
        );
        let Changed::File(file) = &found[0].what else {
            panic!("{found:?}")
        };
        assert_eq!(file.diff, None);
    }

    #[test]
    fn of_a_folder_the_files_that_differ_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Durability::None).unwrap();
        for text in ["one\n", "two\n"] {
            store.put(text.as_bytes()).unwrap();
        }
        let listing = |text: &str| {
            let files = BTreeMap::from([
                ("a.py".to_owned(), fact(text, "")),
                ("b.py".to_owned(), fact("same\n", "")),
            ]);
            let digest = Digest::of(text.as_bytes());
            let fact = SourceFact {
                digest,
                size: 9,
                path: "lib".into(),
                has_text: false,
                files: Some(files),
            };
            let facts = SourceFacts::new([("sources.source:lib".to_owned(), fact)].into());
            (facts, with_source("source:lib", digest))
        };
        let ((before, old), (after, new)) = (listing("one\n"), listing("two\n"));

        let found = changes(&store, folder.path(), (&before, &after), (&old, &new));
        let Changed::File(file) = &found[0].what else {
            panic!("{found:?}")
        };
        assert_eq!(file.files.len(), 1);
        assert_eq!(file.files[0].name, "a.py");
        assert_eq!(
            file.files[0].diff.as_deref(),
            Some("@@ -1 +1 @@\n-one\n+two\n")
        );
    }

    #[test]
    fn code_of_a_kind_goes_by_its_fingerprint_and_program() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Durability::None).unwrap();
        let mut after = Ingredients::new("features", "c1de");
        after.parameters = json!({"note": "a\nc"}).into();
        let mut before = Ingredients::new("features", "c0de");
        before.parameters = json!({"note": "a\nb"}).into();
        let none = SourceFacts::default();

        let found = changes(&store, folder.path(), (&none, &none), (&before, &after));
        assert_eq!(found.len(), 2);
        let Changed::Value { diff, .. } = &found[0].what else {
            panic!("{found:?}")
        };
        assert!(diff.as_ref().unwrap().contains("-b"));
        assert_eq!(
            found[1].what,
            Changed::Code {
                before: "c0de".into(),
                after: "c1de".into(),
                program_before: Some("0.1.0".into()),
                program_after: Some("0.2.0".into()),
            }
        );
    }
}
