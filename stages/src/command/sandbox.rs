//! The folder that a program runs in: inputs placed, outputs collected.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    panic::catch_unwind,
    path::{Component, Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arrow::{
    compute::concat_batches,
    ipc::reader::{FileReader, StreamReader},
    record_batch::RecordBatch,
};
use natron_artifacts::{
    Artifact, Bytes, Conditions, FileContent, Files, Input, Kind, Metrics, Model, Report,
    StageError, Table,
};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use serde_json::Value;

use super::{DeclaredColumn, TableFormat};

/// Names at the top of the folder that are ours.
const TAKEN: [&str; 3] = [INPUTS, OUTPUTS, REQUEST];
const INPUTS: &str = "inputs";
const OUTPUTS: &str = "outputs";

/// The request, relative to the folder.
pub(super) const REQUEST: &str = "request.json";

/// More files than this in one output are a mistake.
const MAX_FILES: usize = 100_000;

/// Deeper folders than this in one output are a mistake.
const MAX_DEPTH: usize = 64;

/// More empty folders than these are not kept.
const MOST_SPARE: usize = 64;

/// Empty sandboxes that wait for the next program. Making and removing folders costs more than all else that we do for a
/// short program: on a disk that is told of every freed block, removing one takes milliseconds.
static SPARE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A folder for one run of a program, empty but for what is put into it here.
pub(super) struct Sandbox {
    root: PathBuf,
    placed: Vec<Placed>,
    conditions: Conditions,
}

/// An input as it was before the program ran.
struct Placed {
    port: String,
    /// Relative to the folder.
    path: String,
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Sandbox {
    /// A sandbox in a folder of its own in `parent`, whose folders are filled in the order that `conditions` say.
    pub(super) fn new(parent: &Path, conditions: Conditions) -> Result<Self, StageError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let parent = std::path::absolute(parent)
            .map_err(|e| StageError::io(format!("cannot find `{}`", parent.display()), e))?;
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let position = spare
            .iter()
            .rposition(|root| root.parent() == Some(&parent));
        let found = position.map(|i| spare.swap_remove(i));
        drop(spare);
        if let Some(root) = found.filter(|root| is_ours(root)) {
            return Ok(Self {
                root,
                placed: Vec::new(),
                conditions,
            });
        }
        loop {
            let root = parent.join(format!("sandbox-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
            let made = match fs::create_dir(&root) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    create_folder(&parent)?;
                    fs::create_dir(&root)
                }
                made => made,
            };
            match made {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => {
                    return Err(StageError::io(
                        format!("cannot create `{}`", root.display()),
                        e,
                    ));
                }
            }
            for name in [INPUTS, OUTPUTS] {
                create_folder(&root.join(name))?;
            }
            return Ok(Self {
                root,
                placed: Vec::new(),
                conditions,
            });
        }
    }

    /// The folder.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Copies the file or folder `from` to the relative path `to`.
    pub(super) fn copy_source(&self, from: &Path, to: &str) -> Result<(), StageError> {
        let target = self.root.join(to);
        if let Some(parent) = target.parent() {
            create_folder(parent)?;
        }
        copy(from, &target, &self.conditions)
            .map_err(|e| StageError::io(format!("cannot copy the source `{}`", from.display()), e))
    }

    /// Writes what comes in at `port`; the paths relative to the folder.
    pub(super) fn place(
        &mut self,
        port: &str,
        inputs: &[Input],
        format: TableFormat,
    ) -> Result<Vec<String>, StageError> {
        let mut placed = Vec::new();
        if inputs.len() > 1 {
            create_folder(&self.root.join(INPUTS).join(port))?;
        }
        for (i, input) in inputs.iter().enumerate() {
            let name = if inputs.len() == 1 {
                port.to_owned()
            } else {
                format!("{port}/{i}")
            };
            let path = format!(
                "{INPUTS}/{name}{}",
                extension(input.artifact.kind(), format)
            );
            placed.push((path, input));
        }
        for (path, input) in self.conditions.ordered(placed.iter().collect()) {
            self.place_one(port, path, &input.artifact, format)?;
        }
        Ok(placed.into_iter().map(|(path, _)| path).collect())
    }

    fn place_one(
        &mut self,
        port: &str,
        path: &str,
        artifact: &Artifact,
        format: TableFormat,
    ) -> Result<(), StageError> {
        match artifact {
            Artifact::Table(table) if format == TableFormat::Arrow => {
                self.place_file(port, path, &table.to_ipc()?, false)
            }
            Artifact::Table(table) => self.place_file(port, path, &to_parquet(table)?, false),
            Artifact::Model(model) => {
                create_folder(&self.root.join(path))?;
                let (card, weights) = (model.card_json(), model.weights()?);
                self.place_file(port, &format!("{path}/model.json"), card.as_bytes(), false)?;
                self.place_file(port, &format!("{path}/model.safetensors"), &weights, false)
            }
            Artifact::Metrics(metrics) => {
                self.place_file(port, path, metrics.to_json().as_bytes(), false)
            }
            Artifact::Report(report) => self.place_file(port, path, report.html.as_bytes(), false),
            Artifact::File(file) => self.place_file(port, path, &file.bytes, file.executable),
            Artifact::Files(files) => {
                create_folder(&self.root.join(path))?;
                let files = self.conditions.ordered(files.iter().collect());
                files.into_iter().try_for_each(|(name, file)| {
                    let path = format!("{path}/{name}");
                    if name.contains('/') {
                        let folder = self.root.join(&path);
                        folder.parent().map_or(Ok(()), create_folder)?;
                    }
                    self.place_file(port, &path, &file.bytes, file.executable)
                })
            }
        }
    }

    fn place_file(
        &mut self,
        port: &str,
        path: &str,
        bytes: &[u8],
        is_executable: bool,
    ) -> Result<(), StageError> {
        let full = self.root.join(path);
        let mode = if is_executable { 0o555 } else { 0o444 };
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&full)?;
            file.write_all(bytes)?;
            file.metadata()
        };
        let found =
            write().map_err(|e| StageError::io(format!("cannot write `{}`", full.display()), e))?;
        self.placed.push(Placed {
            port: port.to_owned(),
            path: path.to_owned(),
            inode: found.ino(),
            bytes: found.len(),
            modified: found.modified().ok(),
        });
        Ok(())
    }

    /// Writes the request.
    pub(super) fn write_request(&self, request: &Value) -> Result<(), StageError> {
        let path = self.root.join(REQUEST);
        fs::write(&path, format!("{request}\n"))
            .map_err(|e| StageError::io(format!("cannot write `{}`", path.display()), e))
    }

    /// What the program did to its inputs that it must not: what it computed may then be of something else.
    pub(super) fn damage(&self) -> Option<String> {
        let damage = |placed: &Placed| {
            let path = &placed.path;
            let what = match fs::symlink_metadata(self.root.join(path)) {
                Err(_) => "removed",
                Ok(found)
                    if !found.is_file()
                        || found.ino() != placed.inode
                        || found.len() != placed.bytes
                        || found.modified().ok() != placed.modified =>
                {
                    "changed"
                }
                Ok(_) => return None,
            };
            Some(format!(
                "{what} its input `{}` (`{path}`); inputs are only for reading",
                placed.port
            ))
        };
        let outputs = fs::symlink_metadata(self.root.join(OUTPUTS));
        if outputs.is_ok_and(|found| !found.is_dir()) {
            return Some(format!(
                "put something in place of its folder: `{OUTPUTS}` is not the folder that it was"
            ));
        }
        self.placed.iter().find_map(damage)
    }

    /// The artifact that the program wrote to `path`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn collect(
        &self,
        path: &str,
        kind: Kind,
        columns: Option<&[DeclaredColumn]>,
    ) -> Result<Artifact, String> {
        let full = self.root.join(path);
        let is_folder = matches!(kind, Kind::Model | Kind::Files);
        let found = match fs::symlink_metadata(&full) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(format!(
                    "the program ended well but did not write `{path}`; it finds this path in its request, and as `${{outputs..}}` in `run`"
                ));
            }
            Err(e) => return Err(format!("cannot look at `{path}`: {e}")),
            Ok(found) if is_folder && !found.is_dir() => {
                return Err(format!(
                    "`{path}` must be a folder, since the output is a {kind}"
                ));
            }
            Ok(found) if !is_folder && !found.is_file() => {
                return Err(format!(
                    "`{path}` must be a plain file, since the output is a {kind}"
                ));
            }
            Ok(found) => found,
        };
        let read = |name: &str| look_and_read(&full.join(name), &format!("{path}/{name}"));
        Ok(match kind {
            Kind::Table => {
                // The Arrow and Parquet readers panic on some damaged files.
                let table = catch_unwind(|| read_table(&full))
                    .unwrap_or_else(|_| Err("the file is damaged".into()))
                    .map_err(|e| format!("`{path}`: {e}"))?;
                match columns {
                    Some(columns) => fit(&table, columns)?.into(),
                    None => table.into(),
                }
            }
            Kind::Model => {
                let (card, weights) = (read("model.json")?, read("model.safetensors")?);
                Model::from_files(&card.bytes, &weights.bytes)
                    .map_err(|e| format!("`{path}`: {e}"))?
                    .into()
            }
            Kind::Metrics => Metrics::from_json(&read_file(&full, path, &found)?.bytes)
                .map_err(|e| format!("`{path}`: {e}"))?
                .into(),
            Kind::Report => {
                let bytes = read_file(&full, path, &found)?.bytes;
                let html = std::str::from_utf8(&bytes).map_err(|e| {
                    format!("`{path}` is not UTF-8 from byte {} on", e.valid_up_to())
                })?;
                Report {
                    html: html.to_owned(),
                }
                .into()
            }
            Kind::File => Artifact::File(Arc::new(read_file(&full, path, &found)?)),
            Kind::Files => {
                let mut files = Files::new();
                read_folder(&full, "", 0, &mut files).map_err(|e| format!("`{path}`: {e}"))?;
                files.into()
            }
        })
    }
}

impl Drop for Sandbox {
    /// Empties the folder for the next program, or removes it.
    fn drop(&mut self) {
        let root = std::mem::take(&mut self.root);
        if empty(&root).is_err() {
            make_writable(&root, 0);
            let _ = fs::remove_dir_all(&root);
            return;
        }
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() == MOST_SPARE {
            // Its owner removes whatever is in there with the folder above.
            spare.remove(0);
        }
        spare.push(root);
    }
}

/// Whether `path` is a folder that we may use as we like; a program may have put anything in its place.
fn is_ours(path: &Path) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_dir() && found.permissions().mode() & 0o700 == 0o700)
}

/// Leaves in the sandbox `root` what every sandbox has, and nothing else.
fn empty(root: &Path) -> io::Result<()> {
    if !is_ours(root) {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let mut folders = 0;
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        if name == INPUTS || name == OUTPUTS {
            if !is_ours(&path) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            folders += 1;
            for entry in fs::read_dir(&path)? {
                remove(&entry?)?;
            }
        } else if name == REQUEST {
            // Written over by the next one. A second name of it, or a link, would be somebody else's file.
            let found = fs::symlink_metadata(&path)?;
            if !found.is_file() || found.nlink() != 1 || found.permissions().mode() & 0o600 != 0o600
            {
                remove(&entry)?;
            }
        } else {
            remove(&entry)?;
        }
    }
    if folders == 2 {
        Ok(())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn remove(entry: &fs::DirEntry) -> io::Result<()> {
    let path = entry.path();
    if entry.file_type()?.is_dir() {
        fs::remove_dir_all(&path)
    } else {
        fs::remove_file(&path)
    }
}

/// Takes back the right to remove what is in `path`, wherever a program gave it up.
fn make_writable(path: &Path, depth: usize) {
    if depth > MAX_DEPTH || !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        return;
    }
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        make_writable(&entry.path(), depth + 1);
    }
}

/// The path of output `port`, relative to the folder.
pub(super) fn output_path(port: &str, kind: Kind, format: TableFormat) -> String {
    format!("{OUTPUTS}/{port}{}", extension(kind, format))
}

/// A path of `sources` in its plain form, if it stays in the workspace and out of our way.
pub(super) fn source_path(text: &str) -> Result<String, String> {
    let mut parts = Vec::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str().unwrap_or_default()),
            Component::CurDir => {}
            _ => {
                return Err(format!(
                    "`{text}` must be a path relative to the workspace, and stay in it"
                ));
            }
        }
    }
    match parts.first() {
        None => Err(format!(
            "`{text}` names no file or folder; the whole workspace cannot be a source"
        )),
        Some(first) if TAKEN.contains(first) => Err(format!(
            "`{first}` is taken in the folder that the program runs in; give the source another name"
        )),
        Some(_) => Ok(parts.join("/")),
    }
}

fn extension(kind: Kind, format: TableFormat) -> &'static str {
    match (kind, format) {
        (Kind::Table, TableFormat::Arrow) => ".arrow",
        (Kind::Table, TableFormat::Parquet) => ".parquet",
        (Kind::Metrics, _) => ".json",
        (Kind::Report, _) => ".html",
        (Kind::Model | Kind::File | Kind::Files, _) => "",
    }
}

fn create_folder(path: &Path) -> Result<(), StageError> {
    fs::create_dir_all(path)
        .map_err(|e| StageError::io(format!("cannot create `{}`", path.display()), e))
}

/// Copies a file, a link as a link, a folder with all in it.
fn copy(from: &Path, to: &Path, conditions: &Conditions) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_dir() {
        fs::create_dir_all(to)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(from)? {
            names.push(entry?.file_name());
        }
        names.sort_unstable();
        for name in conditions.ordered(names) {
            copy(&from.join(&name), &to.join(&name), conditions)?;
        }
        Ok(())
    } else if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)
    } else {
        fs::copy(from, to).map(|_| ())
    }
}

fn to_parquet(table: &Table) -> Result<Vec<u8>, StageError> {
    let failed = |e| StageError::other("cannot write the table as Parquet", e);
    let batch = table.arrow();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).map_err(failed)?;
    writer.write(batch).map_err(failed)?;
    writer.into_inner().map_err(failed)
}

/// A table from an Arrow file, an Arrow stream or a Parquet file, brought to the canonical form.
///
/// Never through [`Table::from_ipc`], which trusts files that carry our header; a program may well copy that header from
/// its input.
fn read_table(path: &Path) -> Result<Table, String> {
    let open = || File::open(path).map_err(|e| e.to_string());
    let mut magic = [0; 6];
    let mut file = open()?;
    let length = read_up_to(&mut file, &mut magic).map_err(|e| e.to_string())?;
    let text = |e: arrow::error::ArrowError| {
        let message = e.to_string();
        let is_compressed = message.contains("compression");
        let hint = if is_compressed {
            "; write it without compression, or as Parquet"
        } else {
            ""
        };
        format!("not a readable Arrow file: {message}{hint}")
    };
    let (schema, batches) = match &magic[..length] {
        b"ARROW1" => {
            let reader = FileReader::try_new_buffered(open()?, None).map_err(text)?;
            (
                reader.schema(),
                reader
                    .collect::<Result<Vec<RecordBatch>, _>>()
                    .map_err(text)?,
            )
        }
        [0xff, 0xff, 0xff, 0xff, ..] => {
            let reader = StreamReader::try_new_buffered(open()?, None).map_err(text)?;
            (
                reader.schema(),
                reader
                    .collect::<Result<Vec<RecordBatch>, _>>()
                    .map_err(text)?,
            )
        }
        [b'P', b'A', b'R', b'1', ..] => {
            let damaged = |e: &dyn std::fmt::Display| format!("not a readable Parquet file: {e}");
            let builder =
                ParquetRecordBatchReaderBuilder::try_new(open()?).map_err(|e| damaged(&e))?;
            let schema = Arc::clone(builder.schema());
            let reader = builder.build().map_err(|e| damaged(&e))?;
            (
                schema,
                reader
                    .collect::<Result<Vec<RecordBatch>, _>>()
                    .map_err(|e| damaged(&e))?,
            )
        }
        [] => {
            return Err(
                "the file is empty; a table is an Arrow or Parquet file, even without rows".into(),
            );
        }
        _ => return Err("the file is neither Arrow IPC nor Parquet".into()),
    };
    let batch = concat_batches(&schema, &batches).map_err(text)?;
    Table::from_arrow(&batch).map_err(|e| e.to_string())
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            n => length += n,
        }
    }
    Ok(length)
}

/// The table with its columns in the declared order and with the declared units.
fn fit(table: &Table, declared: &[DeclaredColumn]) -> Result<Table, String> {
    let mut builder = Table::builder();
    for column in declared {
        let name = &column.name;
        let found = table.columns().iter().position(|c| c.name == *name);
        let Some(i) = found else {
            return Err(format!(
                "the table has no column `{name}`, which `columns` declares"
            ));
        };
        let mut own = table.columns()[i].clone();
        if own.column_type != column.column_type {
            let (found, expected) = (own.column_type, column.column_type);
            return Err(format!(
                "column `{name}` is {found}, declared as {expected}"
            ));
        }
        if !column.unit.is_empty() {
            own.unit.clone_from(&column.unit);
        }
        builder = builder.push(own, Arc::clone(table.arrow().column(i)));
    }
    let is_declared = |name: &str| declared.iter().any(|c| c.name == name);
    if let Some(extra) = table.columns().iter().find(|c| !is_declared(&c.name)) {
        return Err(format!(
            "the table has a column `{}`, which `columns` does not declare",
            extra.name
        ));
    }
    for (name, value) in table.facts() {
        builder = builder.fact(name, value.clone());
    }
    builder.build().map_err(|e| e.to_string())
}

fn look_and_read(path: &Path, shown: &str) -> Result<FileContent, String> {
    let found = fs::symlink_metadata(path).map_err(|e| format!("cannot read `{shown}`: {e}"))?;
    read_file(path, shown, &found)
}

fn read_file(path: &Path, shown: &str, found: &Metadata) -> Result<FileContent, String> {
    if !found.is_file() {
        return Err(format!("`{shown}` must be a plain file"));
    }
    let (bytes, _) = Bytes::read_any(path).map_err(|e| format!("cannot read `{shown}`: {e}"))?;
    Ok(FileContent {
        bytes,
        executable: found.permissions().mode() & 0o111 != 0,
    })
}

fn read_folder(path: &Path, prefix: &str, depth: usize, files: &mut Files) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("folders are nested deeper than {MAX_DEPTH}"));
    }
    for entry in fs::read_dir(path).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let name = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        let kind = entry.file_type().map_err(|e| e.to_string())?;
        if kind.is_dir() {
            read_folder(&entry.path(), &name, depth + 1, files)?;
        } else {
            if files.len() == MAX_FILES {
                return Err(format!("there are more than {MAX_FILES} files"));
            }
            files.insert(&name, look_and_read(&entry.path(), &name)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use natron_artifacts::{Column, ColumnType};
    use proptest::prelude::*;

    use super::*;

    static FILES: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
        let table = Table::builder()
            .time_index((0..100).collect())
            .f64(
                Column::new("close", ColumnType::F64),
                (0..100).map(f64::from).collect(),
            )
            .utf8(
                Column::new("regime", ColumnType::Utf8),
                (0..100).map(|i| format!("regime {}", i % 3)).collect(),
            )
            .i64_or_null(
                Column::new("side", ColumnType::I64),
                (0..100).map(|i| (i % 7 != 0).then_some(i)).collect(),
            )
            .build()
            .unwrap();
        let batch = table.arrow();
        let mut stream =
            arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        stream.write(batch).unwrap();
        [
            table.to_ipc().unwrap(),
            stream.into_inner().unwrap(),
            to_parquet(&table).unwrap(),
        ]
    });

    fn collected(bytes: &[u8]) -> Result<Artifact, String> {
        let directory = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::new(directory.path(), Conditions::default()).unwrap();
        fs::write(sandbox.root().join("outputs/y.arrow"), bytes).unwrap();
        sandbox.collect("outputs/y.arrow", Kind::Table, None)
    }

    #[test]
    fn nothing_of_one_program_reaches_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        fs::write(&outside, "mine").unwrap();
        let first = Sandbox::new(directory.path(), Conditions::default()).unwrap();
        let root = first.root().to_owned();
        for folder in ["lib/deep", "inputs/x.d", "outputs/y"] {
            fs::create_dir_all(root.join(folder)).unwrap();
            fs::write(root.join(folder).join("left"), "left").unwrap();
        }
        std::os::unix::fs::symlink(&outside, root.join(REQUEST)).unwrap();
        drop(first);

        let second = Sandbox::new(directory.path(), Conditions::default()).unwrap();
        assert_eq!(second.root(), root);
        let list = |path: &Path| -> Vec<String> {
            let entries = fs::read_dir(path).unwrap().flatten();
            let mut names: Vec<_> = entries
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(list(&root), [INPUTS, OUTPUTS]);
        assert_eq!(list(&root.join(INPUTS)), [""; 0]);
        assert_eq!(list(&root.join(OUTPUTS)), [""; 0]);
        second.write_request(&serde_json::json!({})).unwrap();
        assert_eq!(fs::read_to_string(outside).unwrap(), "mine");
    }

    #[test]
    fn a_sandbox_that_lost_its_folders_is_not_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let first = Sandbox::new(directory.path(), Conditions::default()).unwrap();
        let root = first.root().to_owned();
        fs::remove_dir(root.join(OUTPUTS)).unwrap();
        std::os::unix::fs::symlink("/", root.join(OUTPUTS)).unwrap();
        drop(first);

        assert!(!root.exists());
        let second = Sandbox::new(directory.path(), Conditions::default()).unwrap();
        assert_ne!(second.root(), root);
    }

    #[test]
    fn what_happens_to_an_input_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let mut sandbox = Sandbox::new(directory.path(), Conditions::default()).unwrap();
        let content = |text: &str| FileContent {
            bytes: Bytes::from(text.as_bytes()),
            executable: false,
        };
        let mut files = Files::new();
        files.insert("a/b.txt", content("b")).unwrap();
        let input = |artifact: Artifact| Input {
            label: "x".into(),
            logical: artifact.seal().unwrap().manifest.logical,
            artifact,
        };
        let inputs = [
            input(Artifact::File(Arc::new(content("0")))),
            input(files.into()),
        ];
        sandbox.place("x", &inputs, TableFormat::Arrow).unwrap();
        assert_eq!(sandbox.damage(), None);

        let deep = sandbox.root().join("inputs/x/1/a/b.txt");
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(sandbox.damage(), None);
        fs::write(&deep, "changed").unwrap();
        let damage = sandbox.damage().unwrap();
        assert!(
            damage.starts_with("changed its input `x` (`inputs/x/1/a/b.txt`)"),
            "{damage}"
        );
        fs::remove_file(sandbox.root().join("inputs/x/0")).unwrap();
        let damage = sandbox.damage().unwrap();
        assert!(
            damage.starts_with("removed its input `x` (`inputs/x/0`)"),
            "{damage}"
        );
    }

    #[test]
    fn the_three_forms_of_a_table_are_one() {
        let [file, stream, parquet] = FILES.each_ref().map(|bytes| collected(bytes).unwrap());

        assert_eq!(file, stream);
        assert_eq!(file, parquet);
    }

    #[test]
    fn the_same_rows_in_other_batches_are_the_same_table() {
        let Artifact::Table(table) = collected(&FILES[0]).unwrap() else {
            panic!("it is a table");
        };
        let batch = table.arrow();
        let mut writer =
            arrow::ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        for start in (0..100).step_by(10) {
            writer.write(&batch.slice(start, 10)).unwrap();
        }

        let again = collected(&writer.into_inner().unwrap()).unwrap();
        assert_eq!(
            again.seal().unwrap().manifest,
            Artifact::Table(table).seal().unwrap().manifest
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_damaged_table_is_an_error_or_a_table(
            form in 0_usize..3,
            place in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = FILES[form].clone();
            let place = place.index(bytes.len());
            bytes[place] = byte;
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }

            let _ = collected(&bytes);
        }
    }
}
