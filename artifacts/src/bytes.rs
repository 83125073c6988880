//! Immutable bytes in 64-byte-aligned memory, or mapped from a file.

use std::{fs::File, io::Read, ops::Deref, path::Path, ptr::NonNull, sync::Arc};

use arrow::buffer::{Buffer, MutableBuffer};
use thiserror::Error;

use crate::Digest;

/// Files of at least this many bytes are mapped instead of read. Smaller ones are private copies, so that a file
/// truncated by somebody else cannot kill the reader; for larger ones that risk is accepted and documented.
pub const MAP_FROM_BYTES: u64 = 1 << 30;

/// Why bytes could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file's content is not what its name says.
    #[error("expected content {expected}, found {found}")]
    Damaged {
        /// The digest asked for.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
}

/// Immutable bytes that many may hold. A clone shares the memory.
#[derive(Clone, Debug)]
pub struct Bytes(Buffer);

impl Bytes {
    /// The whole of the file at `path`, hashed in the same pass as it is read.
    ///
    /// # Errors
    ///
    /// [`ReadError::Damaged`] when the content is not `expected`.
    pub fn read(path: &Path, expected: &Digest) -> Result<Self, ReadError> {
        let (bytes, found) = Self::read_any(path)?;
        if found == *expected {
            Ok(bytes)
        } else {
            Err(ReadError::Damaged {
                expected: *expected,
                found,
            })
        }
    }

    /// The whole of the file at `path`, and its digest.
    pub fn read_any(path: &Path) -> Result<(Self, Digest), std::io::Error> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        if size >= MAP_FROM_BYTES {
            // SAFETY: store objects are written once and are read-only; a file of a user's that somebody truncates while
            // it is mapped raises SIGBUS, which the documentation of `MAP_FROM_BYTES` states.
            let map = Arc::new(unsafe { memmap2::Mmap::map(&file)? });
            let pointer = NonNull::from(&map[..]).cast::<u8>();
            // SAFETY: `pointer` and the length describe the map, and the Arc keeps it alive as long as the buffer.
            let bytes =
                Self(unsafe { Buffer::from_custom_allocation(pointer, map.len(), map.clone()) });
            let digest = Digest::of(&bytes);
            return Ok((bytes, digest));
        }
        let mut hasher = blake3::Hasher::new();
        let mut buffer = MutableBuffer::with_capacity(size as usize + 1);
        let mut chunk = vec![0_u8; 1 << 16];
        loop {
            let n = file.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            hasher.update(&chunk[..n]);
            buffer.extend_from_slice(&chunk[..n]);
        }
        Ok((
            Self(buffer.into()),
            Digest::from_bytes(*hasher.finalize().as_bytes()),
        ))
    }

    /// The digest of the content.
    pub fn digest(&self) -> Digest {
        Digest::of(self)
    }

    pub(crate) fn buffer(&self) -> &Buffer {
        &self.0
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = MutableBuffer::with_capacity(bytes.len());
        buffer.extend_from_slice(bytes);
        Self(buffer.into())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(bytes.as_slice())
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        Self::from(text.as_bytes())
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Bytes {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_other_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("object");
        std::fs::write(&path, b"close").unwrap();

        assert_eq!(
            &*Bytes::read(&path, &Digest::of(b"close")).unwrap(),
            b"close"
        );
        let error = Bytes::read(&path, &Digest::of(b"open")).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { found, .. } if found == Digest::of(b"close")));
    }

    #[test]
    fn memory_is_aligned_for_arrow() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("object");
        std::fs::write(&path, vec![1; 1000]).unwrap();

        let (bytes, _) = Bytes::read_any(&path).unwrap();
        assert_eq!(bytes.as_ptr() as usize % 64, 0);
    }
}
