//! Every reader of bytes that come from outside, as a plain function of bytes: an error or a value, never a panic.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use natron_artifacts::{
    Bytes, Column, ColumnType, Digest, Metrics, Model, ModelCard, Registry, Schemas, StageContext,
    StageContextParts, Table, Tensor,
};
use natron_cache::{Durability, StatCache, Store};
use natron_runner::{LoadOptions, LockFile, history::RunRecord, load_text};
use serde_json::json;

use crate::{
    Checked, While, crash,
    playground::{Playground, Recipe, files_below},
};

/// A reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reader {
    /// A pipeline file.
    Pipeline,
    /// A segment of action records.
    Records,
    /// What a program says on descriptor 3.
    Reply,
    /// Candles as CSV.
    Csv,
    /// Candles as Parquet.
    Parquet,
    /// `model.safetensors`.
    Weights,
    /// `model.json`.
    Card,
    /// An artifact of kind table.
    Table,
    /// An artifact of kind metrics.
    Metrics,
    /// `run.json`.
    RunRecord,
    /// `pipelines/NAME.lock`.
    LockFile,
    /// `stat.bin`.
    StatCache,
}

/// All of them, with the names that the command line knows.
pub const READERS: [(Reader, &str); 12] = [
    (Reader::Pipeline, "pipeline"),
    (Reader::Records, "records"),
    (Reader::Reply, "reply"),
    (Reader::Csv, "csv"),
    (Reader::Parquet, "parquet"),
    (Reader::Weights, "safetensors"),
    (Reader::Card, "model_json"),
    (Reader::Table, "table"),
    (Reader::Metrics, "metrics"),
    (Reader::RunRecord, "run_record"),
    (Reader::LockFile, "lock_file"),
    (Reader::StatCache, "stat_cache"),
];

impl Reader {
    /// The reader that the command line calls `name`.
    pub fn named(name: &str) -> Option<Self> {
        READERS
            .iter()
            .find(|(_, other)| *other == name)
            .map(|(reader, _)| *reader)
    }

    /// What the command line calls it.
    pub fn name(self) -> &'static str {
        READERS
            .iter()
            .find(|(reader, _)| *reader == self)
            .map_or("", |(_, name)| name)
    }
}

/// Reads bytes; `folder` is for the readers that take files, and for nothing else.
pub struct Desk {
    registry: Registry,
    folder: PathBuf,
    card: Vec<u8>,
    weights: Vec<u8>,
}

impl Desk {
    /// A desk that writes below `folder`.
    pub fn new(folder: &Path) -> Checked<Self> {
        fs::create_dir_all(folder).at("create")?;
        let (card, weights) = model()?;
        Ok(Self {
            registry: crate::toys::registry(),
            folder: folder.to_owned(),
            card,
            weights,
        })
    }

    /// Whether the bytes mean something to the reader; the error is its message.
    pub fn read(&self, reader: Reader, bytes: &[u8]) -> Checked {
        match reader {
            Reader::Pipeline => self.pipeline(bytes),
            Reader::Records => self.records(bytes),
            Reader::Reply => {
                natron_stages::read_messages(bytes);
                Ok(())
            }
            Reader::Csv => self.candles("load.csv", bytes),
            Reader::Parquet => self.candles("load.parquet", bytes),
            Reader::Weights => Model::from_files(&self.card, bytes)
                .map(|model| {
                    model.logical_digest();
                })
                .map_err(|error| error.to_string()),
            Reader::Card => Model::from_files(bytes, &self.weights)
                .map(|model| {
                    model.card_json();
                })
                .map_err(|error| error.to_string()),
            Reader::Table => Table::from_ipc(&Bytes::from(bytes))
                .map(|table| {
                    table.logical_digest();
                })
                .map_err(|error| error.to_string()),
            Reader::Metrics => Metrics::from_json(bytes).map(|metrics| {
                metrics.to_json();
            }),
            Reader::RunRecord => serde_json::from_slice::<RunRecord>(bytes)
                .map(drop)
                .map_err(|error| error.to_string()),
            Reader::LockFile => {
                let path = self.file("p.lock", bytes)?;
                LockFile::read(&path)
                    .map(drop)
                    .map_err(|error| error.to_string())
            }
            Reader::StatCache => {
                let path = self.file("stat.bin", bytes)?;
                let cache = StatCache::load(&path, false);
                // Whatever it says, it must not say something wrong of a file that is there.
                let here = self.file("here", b"content")?;
                let digest = cache.digest(&here).map_err(|error| error.to_string())?;
                if digest != Digest::of(b"content") {
                    return Err("WRONG: another digest".into());
                }
                Ok(())
            }
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> Checked<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, bytes).at("write")?;
        Ok(path)
    }

    fn pipeline(&self, bytes: &[u8]) -> Checked {
        let text = String::from_utf8_lossy(bytes);
        let options = LoadOptions {
            workspace: self.folder.clone(),
            ..LoadOptions::default()
        };
        let loaded = load_text("p.toml", &text, &options, &self.registry);
        let Err(mistakes) = loaded else {
            return Ok(());
        };
        let Some(first) = mistakes.first() else {
            return Err("WRONG: refused without a mistake".into());
        };
        if mistakes.iter().any(|mistake| mistake.position().is_none()) {
            return Err("WRONG: a mistake without a place".into());
        }
        Err(first.to_string())
    }

    /// A store whose only segment is `bytes`.
    fn records(&self, bytes: &[u8]) -> Checked {
        let root = self.folder.join("store");
        if !root.exists() {
            let store = Store::open(&root, Durability::None).at("open")?;
            for seed in 0..3 {
                crash::commit(&store, seed).at("commit")?;
            }
        }
        let records = newest_version(&root).join("ac");
        for entry in fs::read_dir(&records).at("list")?.flatten() {
            fs::remove_file(entry.path()).at("remove")?;
        }
        fs::write(records.join("other-1-1-0.0.seg"), bytes).at("write")?;
        let store = Store::open(&root, Durability::None).map_err(|error| error.to_string())?;
        for (key, _) in store.keys() {
            let Some(record) = store.record(&key) else {
                continue;
            };
            if record.key != key {
                return Err("WRONG: the record of another key".into());
            }
            if let Ok(Some(hit)) = store.lookup(&key) {
                for manifest in hit.outputs.values() {
                    let _ = store.open_artifact(manifest);
                }
            }
        }
        Ok(())
    }

    fn candles(&self, kind: &str, bytes: &[u8]) -> Checked {
        let path = self.file("bars", bytes)?;
        let kind = self.registry.get(kind).ok_or("no such kind")?;
        let stage = kind
            .parse(&json!({ "path": "bars" }))
            .at("parameters")?
            .stage;
        let signature = stage.signature(&Schemas::new()).at("signature")?;
        let mut parts = StageContextParts::for_test(&self.folder);
        parts.sources = BTreeMap::from([("path".to_owned(), path)]);
        let mut context = StageContext::new(parts, signature);
        stage.run(&mut context).map_err(|error| error.to_string())?;
        context
            .finish()
            .map(drop)
            .map_err(|error| error.to_string())
    }
}

fn newest_version(root: &Path) -> PathBuf {
    let versions = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    versions
        .filter(|path| path.join("FORMAT").exists())
        .max()
        .unwrap_or_else(|| root.join("v1"))
}

/// The files of a small model.
pub fn model() -> Checked<(Vec<u8>, Vec<u8>)> {
    let card = ModelCard {
        architecture: "toy".into(),
        hyper_parameters: json!({ "width": 4 }),
        features: vec!["a".into(), "b".into()],
        feature_plan: json!(null),
        scaler: None,
        window_bars: 4,
        label_horizon_bars: 1,
        heads: BTreeMap::from([("h".to_owned(), vec!["up".to_owned(), "down".to_owned()])]),
        trained_on: Digest::of(b"data"),
        made_by: "toy".into(),
        extra: BTreeMap::new(),
    };
    let tensor = |shape: &[usize]| Tensor {
        shape: shape.to_vec(),
        values: (0..shape.iter().product())
            .map(|i| i as f32 / 7.0)
            .collect(),
    };
    let tensors = BTreeMap::from([
        ("bias".to_owned(), tensor(&[4])),
        ("weight".to_owned(), tensor(&[4, 2])),
    ]);
    let model = Model { card, tensors };
    let weights = model.weights().at("weights")?;
    Ok((model.card_json().into_bytes(), weights))
}

/// Good bytes for every reader, made by the program itself.
pub fn seeds(folder: &Path, program: &Path) -> Checked<BTreeMap<Reader, Vec<Vec<u8>>>> {
    let mut seeds: BTreeMap<Reader, Vec<Vec<u8>>> = BTreeMap::new();
    let recipe = Recipe::toys(1);
    let playground = Playground::new(&folder.join("toys"), program, &recipe)?;
    playground
        .natron(&["run", "--write-lock"])?
        .expect_success()?;
    let mut add = |reader: Reader, bytes: Vec<u8>| seeds.entry(reader).or_default().push(bytes);
    add(Reader::Pipeline, recipe.pipeline.into_bytes());
    add(Reader::Pipeline, Recipe::commands(1).pipeline.into_bytes());
    for (name, bytes) in files_below(&playground.folder).at("list")? {
        let text = name.to_string_lossy().into_owned();
        let ending = name.extension().unwrap_or_default();
        if ending == "seg" {
            add(Reader::Records, bytes);
        } else if text.ends_with("run.json") {
            add(Reader::RunRecord, bytes);
        } else if ending == "lock" && text.starts_with("pipelines") {
            add(Reader::LockFile, bytes);
        } else if text.ends_with("stat.bin") {
            add(Reader::StatCache, bytes);
        }
    }
    let simulated = Recipe {
        name: "candles",
        pipeline: "[pipeline]\nname = \"p\"\n[stages.candles]\nuses = \"load.synthetic\"\nwith.rows = 30\n".into(),
        files: Vec::new(),
    };
    let candles = Playground::new(&folder.join("candles"), program, &simulated)?;
    candles.natron(&["run"])?.expect_success()?;
    for (reader, file) in [(Reader::Csv, "bars.csv"), (Reader::Parquet, "bars.parquet")] {
        candles
            .natron(&["export", "candles.candles", "-o", file])?
            .expect_success()?;
        add(reader, fs::read(candles.path(file)).at("read")?);
    }
    add(
        Reader::Csv,
        b"time,open,high,low,close,volume\n2024-01-01T00:00:00Z,10,12,9,11,5\n2024-01-01T01:00:00Z,11,13,10,12,6\n".to_vec(),
    );
    let (card, weights) = model()?;
    add(Reader::Card, card);
    add(Reader::Weights, weights);
    let table = Table::builder()
        .f64(Column::new("a", ColumnType::F64), vec![1.0, -2.5, 3.0])
        .utf8(
            Column::new("name", ColumnType::Utf8),
            vec!["x".into(), String::new(), "yy".into()],
        )
        .bool(
            Column::new("is_up", ColumnType::Bool),
            vec![true, false, true],
        )
        .build()
        .at("table")?;
    add(Reader::Table, table.to_ipc().at("table")?);
    add(
        Reader::Metrics,
        b"{\"a\": {\"b\": 1.5, \"c\": [1, 2e3, -0.0]}, \"n\": 18446744073709551615}".to_vec(),
    );
    add(
        Reader::Reply,
        b"{\"progress\": {\"done\": 10, \"total\": 100, \"unit\": \"rows\", \"loss\": 0.5, \"note\": \"fold 2\"}}\n{\"metric\": {\"name\": \"loss\", \"step\": 10, \"value\": 0.5}}\n{\"log\": \"text\"}\n{\"warning\": \"text\"}\n"
            .to_vec(),
    );
    Ok(seeds)
}
