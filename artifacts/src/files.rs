//! A file or a folder of files, for what no other kind of artifact describes.

use std::collections::BTreeMap;

use crate::Bytes;

/// One file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// The bytes.
    pub bytes: Bytes,
    /// Whether the file may be run.
    pub executable: bool,
}

/// Files by relative path, `/` between the parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files {
    files: BTreeMap<String, FileContent>,
}

impl Files {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file.
    ///
    /// # Errors
    ///
    /// When `name` is not a [`safe_name`] or differs from another only in case.
    pub fn insert(&mut self, name: impl Into<String>, content: FileContent) -> Result<(), String> {
        let name = name.into();
        if !safe_name(&name) {
            return Err(format!(
                "`{name}` cannot name a file of an artifact: use letters, digits, `.`, `_`, `-` and `/`, no leading dot"
            ));
        }
        if let Some(other) = self
            .files
            .keys()
            .find(|other| **other != name && other.eq_ignore_ascii_case(&name))
        {
            return Err(format!("files `{other}` and `{name}` differ only in case"));
        }
        self.files.insert(name, content);
        Ok(())
    }

    /// The files in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &FileContent)> {
        self.files
            .iter()
            .map(|(name, content)| (name.as_str(), content))
    }

    /// The file called `name`.
    pub fn get(&self, name: &str) -> Option<&FileContent> {
        self.files.get(name)
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// Whether `name` may become a relative path: parts of `[A-Za-z0-9._-]{1,128}` without a leading dot, joined by `/`.
pub fn safe_name(name: &str) -> bool {
    name.len() <= 1024
        && name.split('/').all(|part| {
            (1..=128).contains(&part.len())
                && !part.starts_with('.')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_names_that_leave_the_folder() {
        for name in [
            "", "../x", "/x", "a//b", ".hidden", "a/.git", "nul\0", "a b",
        ] {
            assert!(!safe_name(name), "{name:?}");
        }
        assert!(safe_name("plots/equity-1.csv"));
    }
}
