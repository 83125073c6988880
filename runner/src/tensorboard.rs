//! Live metrics as TensorBoard event files, so that `tensorboard --logdir .natron/runs` shows every run's curves.
//!
//! A file is a sequence of `TFRecord`s (length, its checksum, data, its checksum), each an `Event` message in the encoding of
//! protocol buffers: first the version, then one scalar each. Checksums are CRC-32C, rotated and shifted as TensorFlow does.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;

/// Fields of `Event`, `Summary` and `Summary.Value`, each with its wire type.
const EVENT_WALL_TIME: u8 = 1 << 3 | FIXED64;
const EVENT_STEP: u8 = 2 << 3 | VARINT;
const EVENT_FILE_VERSION: u8 = 3 << 3 | BYTES;
const EVENT_SUMMARY: u8 = 5 << 3 | BYTES;
const SUMMARY_VALUE: u8 = 1 << 3 | BYTES;
const VALUE_TAG: u8 = 1 << 3 | BYTES;
const VALUE_SIMPLE: u8 = 2 << 3 | FIXED32;

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// The event files of one run, a folder for each stage. They appear with the stage's first metric.
#[derive(Debug)]
pub(crate) struct EventFiles {
    folder: PathBuf,
    /// One writer at a time, so that records stay whole.
    writing: Mutex<()>,
}

impl EventFiles {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            writing: Mutex::default(),
        }
    }

    /// Adds the point (`step`, `value`) of the curve `name`.
    pub(crate) fn add(&self, stage: &str, name: &str, step: u64, value: f64) -> io::Result<()> {
        let now = Timestamp::now();
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = open(&self.folder.join(folder_name(stage)), now)?;
        file.write_all(&record(&scalar(seconds(now), step, name, value as f32)))
    }
}

/// The stage's event file, which begins with its version.
fn open(folder: &Path, now: Timestamp) -> io::Result<File> {
    // The name is what TensorBoard looks for; the run's folder already says when and where.
    let path = folder.join("events.out.tfevents.0");
    match File::options().append(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder)?;
            let mut file = File::options().create(true).append(true).open(&path)?;
            let mut event = wall_time(seconds(now));
            bytes(&mut event, EVENT_FILE_VERSION, b"brain.Event:2");
            file.write_all(&record(&event))?;
            Ok(file)
        }
        file => file,
    }
}

/// The stage's name without what a path cannot hold.
fn folder_name(stage: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._-=,[]()".contains(c);
    let name: String = stage
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect();
    if name.starts_with('.') {
        format!("_{name}")
    } else {
        name
    }
}

fn seconds(now: Timestamp) -> f64 {
    now.as_nanosecond() as f64 / 1e9
}

fn wall_time(seconds: f64) -> Vec<u8> {
    let mut event = vec![EVENT_WALL_TIME];
    event.extend(seconds.to_le_bytes());
    event
}

/// An event with one point of one curve.
fn scalar(seconds: f64, step: u64, tag: &str, value: f32) -> Vec<u8> {
    let mut point = Vec::new();
    bytes(&mut point, VALUE_TAG, tag.as_bytes());
    point.push(VALUE_SIMPLE);
    point.extend(value.to_le_bytes());
    let mut summary = Vec::new();
    bytes(&mut summary, SUMMARY_VALUE, &point);
    let mut event = wall_time(seconds);
    event.push(EVENT_STEP);
    varint(&mut event, step);
    bytes(&mut event, EVENT_SUMMARY, &summary);
    event
}

fn bytes(message: &mut Vec<u8>, field: u8, content: &[u8]) {
    message.push(field);
    varint(message, content.len() as u64);
    message.extend(content);
}

fn varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(checksum(&length).to_le_bytes());
    record.extend(data);
    record.extend(checksum(data).to_le_bytes());
    record
}

fn checksum(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a few hundred bytes a step need no table.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn checksum_of_the_published_example() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_scalar_is_the_message_that_protocol_buffers_write() {
        let event = scalar(1.5, 300, "loss", 0.25);

        let expected = [
            &[0x09][..],
            &1.5_f64.to_le_bytes(),
            &[0x10, 0xac, 0x02],
            &[0x2a, 13, 0x0a, 11, 0x0a, 4],
            b"loss",
            &[0x15],
            &0.25_f32.to_le_bytes(),
        ]
        .concat();
        assert_eq!(event, expected);
    }

    #[test]
    fn names_of_stages_become_one_folder_each() {
        assert_eq!(folder_name("train[lr=0.1,seed=2]"), "train[lr=0.1,seed=2]");
        assert_eq!(folder_name("train[path=../x y]"), "train[path=.._x_y]");
        assert_eq!(folder_name(".."), "_..");
    }

    /// Reads with TensorBoard itself. `NATRON_TENSORBOARD` names a folder that it was installed into, for where the Python
    /// of the machine has none.
    #[test]
    fn tensorboard_reads_what_was_written() {
        let script = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]); events.Reload()
for tag in sorted(events.Tags()['scalars']):
    print(tag, [(e.step, e.value) for e in events.Scalars(tag)])
";
        let python = || {
            let mut command = Command::new("python3");
            if let Some(folder) = std::env::var_os("NATRON_TENSORBOARD") {
                command.env("PYTHONPATH", folder);
            }
            command
        };
        let check = python().args(["-c", "import tensorboard"]).output();
        if !check.is_ok_and(|output| output.status.success()) {
            eprintln!(
                "skipped: python3 has no `tensorboard`; name a folder with it with NATRON_TENSORBOARD"
            );
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let files = EventFiles::new(folder.path().to_owned());
        for step in [1, 2, 300] {
            files
                .add("finetune", "step.train.loss", step, 1.0 / step as f64)
                .unwrap();
        }
        files.add("finetune", "validation.loss", 1, 0.5).unwrap();

        let output = python()
            .args(["-c", script])
            .arg(folder.path().join("finetune"))
            .output()
            .unwrap();

        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "step.train.loss [(1, 1.0), (2, 0.5), (300, 0.0033333334140479565)]\n\
             validation.loss [(1, 0.5)]\n",
            "{errors}"
        );
    }
}
