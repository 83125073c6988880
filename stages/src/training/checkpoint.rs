//! Checkpoints: everything a training run needs to go on to the same bits.
//!
//! A file is a magic word, the length of a JSON part, the JSON part, named tensors as safetensors, and the BLAKE3 of all
//! that. It is written under another name, flushed and renamed, so a crash leaves the one before. Each gets a number above
//! all that are there, so none is ever written over. The newest two are kept; one that is damaged or belongs to another
//! computation is passed over.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use natron_artifacts::{Digest, StageError, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

const MAGIC: &[u8; 8] = b"NATRCKP1";

/// How many files are kept.
const KEPT: usize = 2;

/// Named tensors.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

#[derive(Serialize, Deserialize)]
struct Part<S> {
    /// What computation this belongs to.
    identity: String,
    state: S,
}

/// What [`Checkpoints::newest`] has found.
#[derive(Debug)]
pub(crate) struct Newest<S> {
    /// State and tensors of the newest checkpoint that can be used.
    pub(crate) found: Option<(S, Tensors)>,
    /// What was wrong with newer ones.
    pub(crate) passed_over: Vec<String>,
}

/// A directory of checkpoints of one computation.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    directory: PathBuf,
    identity: String,
}

impl Checkpoints {
    /// The checkpoints in `directory` that belong to `identity`.
    pub(crate) fn new(directory: &Path, identity: Digest) -> Self {
        Self {
            directory: directory.to_owned(),
            identity: identity.to_hex(),
        }
    }

    /// Writes `state` and `tensors` durably and removes all but the newest. The number is `number`, or the next one where
    /// that is not above all that are there.
    pub(crate) fn write<S: Serialize>(
        &self,
        number: u64,
        state: &S,
        tensors: &Tensors,
    ) -> Result<(), StageError> {
        let number = self
            .numbers()?
            .last()
            .map_or(number, |&last| number.max(last + 1));
        let part = Part {
            identity: self.identity.clone(),
            state,
        };
        let bytes = encode(&part, tensors)?;
        let path = self.path(number);
        let temporary = path.with_extension("new");
        let failed = |e| StageError::io(format!("cannot write checkpoint `{}`", path.display()), e);
        let mut file = File::create(&temporary).map_err(failed)?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        drop(file);
        fs::rename(&temporary, &path).map_err(failed)?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed)?;
        for old in self.numbers()?.into_iter().rev().skip(KEPT) {
            // A checkpoint that stays is no harm.
            let _ = fs::remove_file(self.path(old));
        }
        Ok(())
    }

    /// The newest checkpoint that is whole and of this computation, and what was wrong with newer ones.
    pub(crate) fn newest<S: DeserializeOwned>(&self) -> Result<Newest<S>, StageError> {
        let mut passed_over = Vec::new();
        for number in self.numbers()?.into_iter().rev() {
            let path = self.path(number);
            let read = fs::read(&path)
                .map_err(|e| e.to_string())
                .and_then(|bytes| decode::<Part<S>>(&bytes));
            match read {
                Ok((part, tensors)) if part.identity == self.identity => {
                    return Ok(Newest {
                        found: Some((part.state, tensors)),
                        passed_over,
                    });
                }
                Ok(_) => passed_over.push(format!(
                    "checkpoint {number} belongs to another computation"
                )),
                Err(error) => {
                    passed_over.push(format!("checkpoint {number} cannot be used: {error}"));
                }
            }
        }
        Ok(Newest {
            found: None,
            passed_over,
        })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("checkpoint-{number:012}.bin"))
    }

    /// Numbers of the files that are there, ascending.
    fn numbers(&self) -> Result<Vec<u64>, StageError> {
        let failed = |e| StageError::io(format!("cannot list `{}`", self.directory.display()), e);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let number = name.to_str().and_then(|n| {
                n.strip_prefix("checkpoint-")?
                    .strip_suffix(".bin")?
                    .parse::<u64>()
                    .ok()
            });
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

fn encode<P: Serialize>(part: &P, tensors: &Tensors) -> Result<Vec<u8>, StageError> {
    let failed = |e: &dyn std::fmt::Display| {
        StageError::data(format!("a checkpoint does not serialize: {e}"))
    };
    let json = serde_json::to_vec(part).map_err(|e| failed(&e))?;
    let raw: Vec<(&String, &Tensor, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            (
                name,
                tensor,
                tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            )
        })
        .collect();
    let views = raw
        .iter()
        .map(|(name, tensor, bytes)| {
            Ok((
                name.as_str(),
                TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?,
            ))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|e| failed(&e))?;
    let weights = safetensors::serialize(views, None).map_err(|e| failed(&e))?;
    let mut bytes = Vec::with_capacity(json.len() + weights.len() + 48);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(json.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&json);
    bytes.extend_from_slice(&weights);
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    Ok(bytes)
}

fn decode<P: DeserializeOwned>(bytes: &[u8]) -> Result<(P, Tensors), String> {
    let (content, hash) = bytes.split_last_chunk::<32>().ok_or("it is too short")?;
    if blake3::hash(content) != *hash {
        return Err("its content does not match its hash".into());
    }
    let rest = content
        .strip_prefix(MAGIC)
        .ok_or("it is of another version")?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or("it is too short")?;
    let (json, weights) = rest
        .split_at_checked(u64::from_le_bytes(*length) as usize)
        .ok_or("it is too short")?;
    let part = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let file = SafeTensors::deserialize(weights).map_err(|e| e.to_string())?;
    let mut tensors = Tensors::new();
    for (name, view) in file.tensors() {
        let (values, _) = view.data().as_chunks::<4>();
        let values = values.iter().map(|&b| f32::from_le_bytes(b)).collect();
        tensors.insert(
            name,
            Tensor {
                shape: view.shape().to_vec(),
                values,
            },
        );
    }
    Ok((part, tensors))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(value: f32) -> Tensors {
        [(
            "w".to_owned(),
            Tensor {
                shape: vec![2],
                values: vec![value, -0.0],
            },
        )]
        .into()
    }

    #[test]
    fn falls_back_to_the_one_before_a_damaged_one() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(directory.path(), Digest::of(b"a"));
        for number in 1..=3 {
            checkpoints
                .write(number, &(number as f64 / 3.0), &tensors(number as f32))
                .unwrap();
        }
        assert_eq!(checkpoints.numbers().unwrap(), [2, 3]);

        let path = checkpoints.path(3);
        let whole = fs::read(&path).unwrap();
        for damage in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[damage] ^= 1;
            assert!(decode::<Part<f64>>(&bytes).is_err(), "byte {damage}");
        }
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();

        let Newest { found, passed_over } = checkpoints.newest::<f64>().unwrap();

        let (state, found) = found.unwrap();
        assert_eq!(
            (state.to_bits(), found),
            ((2.0_f64 / 3.0).to_bits(), tensors(2.0))
        );
        assert!(
            passed_over[0].contains("checkpoint 3 cannot be used"),
            "{passed_over:?}"
        );
    }

    #[test]
    fn never_writes_over_a_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(directory.path(), Digest::of(b"a"));
        checkpoints.write(5, &1.0, &tensors(1.0)).unwrap();
        let first = fs::read(checkpoints.path(5)).unwrap();

        checkpoints.write(5, &2.0, &tensors(2.0)).unwrap();

        assert_eq!(checkpoints.numbers().unwrap(), [5, 6]);
        assert_eq!(fs::read(checkpoints.path(5)).unwrap(), first);
        let found = checkpoints.newest::<f64>().unwrap().found.unwrap();
        assert_eq!(found.0.to_bits(), 2.0_f64.to_bits());
        // Another computation that has only begun does not lose its own to the ones that are there.
        Checkpoints::new(directory.path(), Digest::of(b"b"))
            .write(1, &3.0, &tensors(3.0))
            .unwrap();
        assert_eq!(checkpoints.numbers().unwrap(), [6, 7]);
    }

    #[test]
    fn passes_over_what_belongs_to_another_computation() {
        let directory = tempfile::tempdir().unwrap();
        Checkpoints::new(directory.path(), Digest::of(b"a"))
            .write(1, &1.0, &tensors(1.0))
            .unwrap();

        let Newest { found, passed_over } = Checkpoints::new(directory.path(), Digest::of(b"b"))
            .newest::<f64>()
            .unwrap();

        assert!(found.is_none());
        assert!(passed_over[0].contains("another computation"));
    }
}
