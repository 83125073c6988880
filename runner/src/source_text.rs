//! Texts of the sources that a stage reads, kept with its record so that a later change can be shown line by line.
//!
//! A record keeps the content of its small text sources as objects under their own digests, and one object of facts: how
//! long each source and each input file was, and for a folder what lay in it. Stages that read the same sources keep the
//! same objects.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use natron_artifacts::{Bytes, Digest};
use natron_cache::{Ingredients, InputIngredient, StatCache, Store};
use serde::{Deserialize, Serialize};

use crate::{InputEdge, Instance};

/// Longer texts are not kept, in bytes: a program that somebody wrote is shorter.
pub const LONGEST_TEXT: u64 = 256 << 10;

/// Of a folder at most this many files are listed; a larger one is data, not code.
const MOST_FILES: usize = 2_000;

/// Of a folder at most this much text is kept, in bytes.
const MOST_TEXT: u64 = 8 << 20;

/// What programs leave in folders as they run; no digest of a folder holds them.
const IGNORED: [&str; 3] = [".git", ".natron", "__pycache__"];

/// How the object of facts begins, so that it is told from the texts.
const FACTS: &[u8] = b"{\"natron_sources\":1,";

/// What is known of a source beyond its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFact {
    /// Digest as the key has it.
    pub digest: Digest,
    /// Length in bytes; of a folder, of all its files.
    pub size: u64,
    /// Where it lay, relative to the workspace; empty for a file of a folder.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Whether the content is kept as an object under `digest`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_text: bool,
    /// Of a folder: its files by relative path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeMap<String, SourceFact>>,
}

/// What a record keeps of its sources: by `sources.NAME` and `inputs.PORT[i]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    natron_sources: u32,
    files: BTreeMap<String, SourceFact>,
}

impl SourceFacts {
    pub(crate) fn new(files: BTreeMap<String, SourceFact>) -> Self {
        Self {
            natron_sources: 1,
            files,
        }
    }

    /// The fact about the source or input called `name`.
    pub fn get(&self, name: &str) -> Option<&SourceFact> {
        self.files.get(name)
    }

    /// The facts among the objects that a record names; none when there are none, or they are gone.
    pub(crate) fn find(store: &Store, objects: &[Digest]) -> Self {
        // They come first, but an older program may have had another order.
        let found = objects.iter().find_map(|digest| {
            let bytes = store.read(digest).ok()?;
            Self::parse(&bytes)
        });
        found.unwrap_or_default()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        bytes
            .starts_with(FACTS)
            .then(|| serde_json::from_slice(bytes).ok())
            .flatten()
    }
}

/// One path as it was read.
#[derive(Debug)]
struct Seen {
    fact: SourceFact,
    texts: Vec<(Digest, Bytes)>,
}

/// The sources of one run, each read from the disk once, however many stages share it.
#[derive(Debug)]
pub struct SourceTexts {
    workspace: PathBuf,
    seen: Mutex<BTreeMap<(PathBuf, Digest, bool), Arc<Seen>>>,
}

impl SourceTexts {
    /// None read yet, of the workspace at `workspace`.
    pub fn new(workspace: &Path) -> Self {
        Self {
            workspace: workspace.to_owned(),
            seen: Mutex::default(),
        }
    }

    /// The objects worth keeping with a record of `instance` whose key is made of `ingredients`: first the facts, then the
    /// texts. Nothing when the stage reads no file that is worth a word.
    ///
    /// What cannot be read any more, or is not what the key says, is left out: the texts are for people, and no result
    /// depends on them.
    pub fn of(
        &self,
        instance: &Instance,
        ingredients: &Ingredients,
        stat_cache: &StatCache,
    ) -> Vec<(Digest, Bytes)> {
        let mut files = BTreeMap::new();
        let mut texts = Vec::new();
        for (name, path) in &instance.sources {
            let Some(digest) = ingredients.sources.get(name) else {
                continue;
            };
            if let Some(seen) = self.see(path, *digest, true, stat_cache) {
                files.insert(format!("sources.{name}"), seen.fact.clone());
                texts.extend(seen.texts.iter().cloned());
            }
        }
        for (port, edges) in &instance.inputs {
            let known = ingredients.inputs.get(port).into_iter().flatten();
            for (i, (edge, ingredient)) in edges.iter().zip(known).enumerate() {
                if let (InputEdge::File { path }, InputIngredient::Bytes { digest }) =
                    (edge, ingredient)
                    && let Some(seen) = self.see(path, *digest, false, stat_cache)
                {
                    files.insert(input_name(port, i), seen.fact.clone());
                }
            }
        }
        // A compiler or an interpreter is no text, and its length says nothing to anybody.
        let is_worth_it = files.iter().any(|(name, fact)| {
            fact.has_text || fact.files.is_some() || name.starts_with("inputs.")
        });
        if !is_worth_it {
            return Vec::new();
        }
        let facts = SourceFacts::new(files);
        let facts = serde_json::to_vec(&facts).expect("plain structs serialize");
        texts.sort_by_key(|(digest, _)| *digest);
        texts.dedup_by_key(|(digest, _)| *digest);
        texts.insert(0, (Digest::of(&facts), Bytes::from(facts)));
        texts
    }

    fn see(
        &self,
        path: &Path,
        digest: Digest,
        with_text: bool,
        stat_cache: &StatCache,
    ) -> Option<Arc<Seen>> {
        let key = (path.to_owned(), digest, with_text);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen.get(&key) {
            return Some(Arc::clone(seen));
        }
        // Read under the lock: those who share the source wait for it instead of reading it, too.
        let new = Arc::new(look(&self.workspace, path, digest, with_text, stat_cache)?);
        seen.insert(key, Arc::clone(&new));
        Some(new)
    }
}

/// The name of the input file at `position` of `port` among the facts.
pub(crate) fn input_name(port: &str, position: usize) -> String {
    format!("inputs.{port}[{position}]")
}

/// What lies at `path` now, if it is a file with this digest, or a folder.
pub(crate) fn fact_of(
    workspace: &Path,
    path: &Path,
    digest: Digest,
    stat_cache: &StatCache,
) -> Option<SourceFact> {
    look(workspace, path, digest, true, stat_cache).map(|seen| seen.fact)
}

/// The path as people of the workspace name it.
pub(crate) fn relative(workspace: &Path, path: &Path) -> String {
    let path = path.strip_prefix(workspace).unwrap_or(path);
    path.to_string_lossy().into_owned()
}

fn look(
    workspace: &Path,
    path: &Path,
    digest: Digest,
    with_text: bool,
    stat_cache: &StatCache,
) -> Option<Seen> {
    let shown = relative(workspace, path);
    let metadata = fs::metadata(path).ok()?;
    if metadata.is_file() {
        let mut seen = look_at_file(path, metadata.len(), digest, with_text)?;
        seen.fact.path = shown;
        return Some(seen);
    }
    let mut files = BTreeMap::new();
    let mut texts = Vec::new();
    let mut size = 0;
    let mut open = vec![path.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).ok()? {
            let entry = entry.ok()?;
            let (path_of_entry, kind) = (entry.path(), entry.file_type().ok()?);
            if IGNORED.iter().any(|ignored| entry.file_name() == *ignored) {
                continue;
            }
            if kind.is_dir() {
                open.push(path_of_entry);
                continue;
            }
            if !kind.is_file() || files.len() >= MOST_FILES {
                continue;
            }
            let length = entry.metadata().ok()?.len();
            let with_text = with_text && size + length <= MOST_TEXT;
            // The folder's digest was made of these just before, so they are known.
            let digest = stat_cache.digest(&path_of_entry).ok()?;
            let Some(seen) = look_at_file(&path_of_entry, length, digest, with_text) else {
                continue;
            };
            size += length;
            let relative = path_of_entry.strip_prefix(path).ok()?.to_str()?.to_owned();
            texts.extend(seen.texts);
            files.insert(relative, seen.fact);
        }
    }
    Some(Seen {
        fact: SourceFact {
            digest,
            size,
            path: shown,
            has_text: false,
            files: Some(files),
        },
        texts,
    })
}

/// A file, read if it is short enough to be a text.
fn look_at_file(path: &Path, size: u64, digest: Digest, with_text: bool) -> Option<Seen> {
    let mut texts = Vec::new();
    if with_text && size <= LONGEST_TEXT {
        let (bytes, found) = Bytes::read_any(path).ok()?;
        if found != digest {
            return None;
        }
        if is_text(&bytes) {
            texts.push((found, bytes));
        }
    }
    let fact = SourceFact {
        digest,
        size,
        path: String::new(),
        has_text: !texts.is_empty(),
        files: None,
    };
    Some(Seen { fact, texts })
}

/// Whether people can read it.
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(path: &Path) -> Option<Arc<Seen>> {
        let digest = Bytes::read_any(path).map_or(Digest::of(b"folder"), |(_, digest)| digest);
        SourceTexts::new(Path::new("/")).see(path, digest, true, &stat_cache())
    }

    fn stat_cache() -> StatCache {
        StatCache::load(Path::new("/nowhere/stat.bin"), false)
    }

    #[test]
    fn small_texts_are_kept_and_everything_else_is_only_measured() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("train.py"), "print(1)\n").unwrap();
        fs::write(path("program"), b"\x7fELF\0\0").unwrap();
        fs::write(path("long.py"), vec![b'x'; LONGEST_TEXT as usize + 1]).unwrap();

        let text = keep(&path("train.py")).unwrap();
        assert!(text.fact.has_text && text.fact.size == 9);
        assert_eq!(&text.texts[0].1[..], b"print(1)\n");
        assert_eq!(text.texts[0].0, text.fact.digest);
        for name in ["program", "long.py"] {
            let seen = keep(&path(name)).unwrap();
            assert!(!seen.fact.has_text && seen.texts.is_empty(), "{name}");
        }
        assert_eq!(keep(&path("long.py")).unwrap().fact.size, LONGEST_TEXT + 1);
    }

    #[test]
    fn a_file_that_is_not_what_the_key_says_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.py");
        fs::write(&path, "print(1)\n").unwrap();

        let texts = SourceTexts::new(Path::new("/"));
        assert!(
            texts
                .see(&path, Digest::of(b"other"), true, &stat_cache())
                .is_none()
        );
    }

    #[test]
    fn a_folder_is_listed_without_what_programs_leave_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("lib/__pycache__")).unwrap();
        fs::create_dir_all(path("lib/deep")).unwrap();
        fs::write(path("lib/a.py"), "a\n").unwrap();
        fs::write(path("lib/deep/b.py"), "b\n").unwrap();
        fs::write(path("lib/__pycache__/a.pyc"), "noise").unwrap();

        let seen = keep(&path("lib")).unwrap();
        let files = seen.fact.files.as_ref().unwrap();
        assert_eq!(
            files.keys().map(String::as_str).collect::<Vec<_>>(),
            ["a.py", "deep/b.py"]
        );
        assert_eq!(seen.texts.len(), 2);
        assert_eq!(seen.fact.size, 4);
    }

    #[test]
    fn a_shared_source_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.py");
        fs::write(&path, "print(1)\n").unwrap();
        let digest = Digest::of(b"print(1)\n");

        let texts = SourceTexts::new(Path::new("/"));
        let first = texts.see(&path, digest, true, &stat_cache()).unwrap();
        fs::remove_file(&path).unwrap();
        let second = texts.see(&path, digest, true, &stat_cache()).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn facts_survive_their_text_form() {
        let fact = SourceFact {
            digest: Digest::of(b"x"),
            size: 1,
            path: "x".into(),
            has_text: true,
            files: None,
        };
        let facts = SourceFacts::new([("sources.x".to_owned(), fact)].into());

        let text = serde_json::to_vec(&facts).unwrap();
        assert_eq!(SourceFacts::parse(&text), Some(facts));
        assert_eq!(SourceFacts::parse(b"{\"a\": 1}"), None);
    }
}
