//! Frames: how action records lie in a segment.
//!
//! A record's frame is a header, a table of the objects that it carries, the outputs and the execution as JSON (the head),
//! the ingredients as JSON, and the carried objects' bytes. Numbers are little-endian:
//!
//! ```text
//!  0  magic                       48  length of the head (u32)
//!  4  length of the frame (u32)   52  length of the ingredients (u32)
//!  8  time of the commit (u64)    56  number of carried objects (u32)
//! 16  key (32 bytes)              60  CRC-32 of the head, 64 of the ingredients, 68 of the place, header and table
//! 72  table: for each carried object 16 bytes of its digest and its size (u32)
//! ```
//!
//! The carried objects need no checksum: their digests are checked when they are read. The place (name of the segment and
//! offset) is part of the checksum, so that bytes of a segment that a stage put into its output are never taken for a
//! record, wherever a reader looks for the next frame behind a damaged one.
//!
//! A header with an empty head is a tombstone: it disowns what was recorded for the key before.
//!
//! Several records that are appended together come after a directory that repeats their headers and tables, so that whoever
//! opens the store reads only these. A reader without it, or with a damaged one, finds every record by itself:
//!
//! ```text
//!  0  magic   4  length of the directory (u32)   8  length of the records (u64)   16  CRC-32 of the place and all else
//! 20  headers and tables of the records
//! ```

use natron_artifacts::{Bytes, Digest};

use crate::{StageKey, mutants};

/// All magics begin so.
pub(crate) const MAGIC: [u8; 2] = [0xF7, b'N'];
const RECORD: [u8; 4] = [MAGIC[0], MAGIC[1], b'R', 2];
const DIRECTORY: [u8; 4] = [MAGIC[0], MAGIC[1], b'D', 2];

/// Length of a record's header, in bytes.
pub(crate) const HEADER: usize = 72;
const ROW: usize = 20;
const DIRECTORY_HEADER: usize = 20;
/// No frame is nearly as long; a longer length is damage.
pub(crate) const LONGEST: u32 = 1 << 30;

/// The part of a digest that names a carried object in the table. Whoever reads the object checks all of its digest.
pub(crate) type Prefix = [u8; 16];

/// The first 16 bytes of a digest.
pub(crate) fn prefix(digest: &Digest) -> Prefix {
    let bytes = digest.as_bytes();
    std::array::from_fn(|i| bytes[i])
}

/// A header and its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) key: StageKey,
    pub(crate) committed_ms: u64,
    /// Length of the frame.
    pub(crate) length: u32,
    pub(crate) head: u32,
    pub(crate) ingredients: u32,
    pub(crate) head_crc: u32,
    pub(crate) ingredients_crc: u32,
    /// Names and sizes of the carried objects.
    pub(crate) table: Vec<(Prefix, u32)>,
}

impl Header {
    /// The header at the beginning of `bytes`; nothing if they do not begin with a sound one that belongs to `place`.
    pub(crate) fn parse(bytes: &[u8], place: &Place<'_>) -> Option<Self> {
        let fixed = bytes.get(..HEADER)?;
        if fixed[..4] != RECORD {
            return None;
        }
        let table = bytes.get(HEADER..Self::end(bytes)?)?;
        if u32_at(fixed, 68) != place.crc(&[&fixed[..68], table])
            && !mutants::is("no_checksum_of_records")
        {
            return None;
        }
        let header = Self {
            key: StageKey::new(Digest::from_bytes(fixed[16..48].try_into().ok()?)),
            committed_ms: u64::from_le_bytes(fixed[8..16].try_into().ok()?),
            length: u32_at(fixed, 4),
            head: u32_at(fixed, 48),
            ingredients: u32_at(fixed, 52),
            head_crc: u32_at(fixed, 60),
            ingredients_crc: u32_at(fixed, 64),
            table: table
                .chunks_exact(ROW)
                .map(|row| (std::array::from_fn(|i| row[i]), u32_at(row, 16)))
                .collect(),
        };
        let carried: u64 = header.table.iter().map(|(_, size)| u64::from(*size)).sum();
        let length = header.objects_at() as u64 + carried;
        (length == u64::from(header.length) && header.length <= LONGEST).then_some(header)
    }

    /// Where the table of the header at the beginning of `bytes` ends. Not checked: it may be damaged.
    pub(crate) fn end(bytes: &[u8]) -> Option<usize> {
        let fixed = bytes.get(..HEADER)?;
        let rows = u32_at(fixed, 56);
        (fixed[..4] == RECORD && rows <= LONGEST / ROW as u32).then(|| HEADER + rows as usize * ROW)
    }

    /// Whether it disowns what was recorded before, instead of recording something.
    pub(crate) fn is_tombstone(&self) -> bool {
        self.head == 0
    }

    /// Where the head begins.
    pub(crate) fn head_at(&self) -> usize {
        HEADER + self.table.len() * ROW
    }

    /// Where the ingredients begin.
    pub(crate) fn ingredients_at(&self) -> usize {
        self.head_at() + self.head as usize
    }

    /// Where the carried objects begin.
    pub(crate) fn objects_at(&self) -> usize {
        self.ingredients_at() + self.ingredients as usize
    }
}

/// Where a frame lies. It is part of the frame's checksum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) segment: &'a str,
    pub(crate) offset: u64,
}

impl Place<'_> {
    fn crc(&self, parts: &[&[u8]]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(self.segment.as_bytes());
        crc.update(&self.offset.to_le_bytes());
        for part in parts {
            crc.update(part);
        }
        crc.finalize()
    }
}

/// A frame without its time and place.
pub(crate) fn encode(
    key: &StageKey,
    head: &[u8],
    ingredients: &[u8],
    carried: &[(Digest, Bytes)],
) -> Vec<u8> {
    let objects: usize = carried.iter().map(|(_, bytes)| bytes.len()).sum();
    let length = HEADER + carried.len() * ROW + head.len() + ingredients.len() + objects;
    let mut frame = Vec::with_capacity(length);
    frame.extend(RECORD);
    frame.extend((length as u32).to_le_bytes());
    frame.extend([0; 8]);
    frame.extend(key.digest().as_bytes());
    frame.extend((head.len() as u32).to_le_bytes());
    frame.extend((ingredients.len() as u32).to_le_bytes());
    frame.extend((carried.len() as u32).to_le_bytes());
    frame.extend(crc32fast::hash(head).to_le_bytes());
    frame.extend(crc32fast::hash(ingredients).to_le_bytes());
    frame.extend([0; 4]);
    for (digest, bytes) in carried {
        frame.extend(prefix(digest));
        frame.extend((bytes.len() as u32).to_le_bytes());
    }
    frame.extend(head);
    frame.extend(ingredients);
    for (_, bytes) in carried {
        frame.extend(&**bytes);
    }
    frame
}

/// A frame that disowns what was recorded for `key` before.
pub(crate) fn tombstone(key: &StageKey) -> Vec<u8> {
    encode(key, b"", b"", &[])
}

/// The key of a frame that was encoded here.
pub(crate) fn key(frame: &[u8]) -> StageKey {
    StageKey::new(Digest::from_bytes(std::array::from_fn(|i| frame[16 + i])))
}

/// Sets the time of a frame's commit.
pub(crate) fn date(frame: &mut [u8], committed_ms: u64) {
    frame[8..16].copy_from_slice(&committed_ms.to_le_bytes());
}

/// All `frames` as they are to be appended at `place`, and the headers with their offsets from there.
pub(crate) fn group(mut frames: Vec<Vec<u8>>, place: &Place<'_>) -> (Vec<u8>, Vec<(u64, Header)>) {
    let end_of_table = |frame: &[u8]| Header::end(frame).expect("a frame that was encoded here");
    let tables: usize = frames.iter().map(|frame| end_of_table(frame)).sum();
    let directory = if frames.len() > 1 {
        DIRECTORY_HEADER + tables
    } else {
        0
    };
    let records: usize = frames.iter().map(Vec::len).sum();
    let mut bytes = Vec::with_capacity(directory + records);
    if directory > 0 {
        bytes.extend(DIRECTORY);
        bytes.extend((directory as u32).to_le_bytes());
        bytes.extend((records as u64).to_le_bytes());
        bytes.extend([0; 4]);
    }
    let mut headers = Vec::with_capacity(frames.len());
    let mut at = directory as u64;
    for frame in &mut frames {
        let end = end_of_table(frame);
        let place = Place {
            offset: place.offset + at,
            ..*place
        };
        let crc = place.crc(&[&frame[..68], &frame[HEADER..end]]);
        frame[68..72].copy_from_slice(&crc.to_le_bytes());
        let header = Header::parse(frame, &place).expect("a frame that was just sealed");
        headers.push((at, header));
        if directory > 0 {
            bytes.extend(&frame[..end]);
        }
        at += frame.len() as u64;
    }
    if directory > 0 {
        let crc = place.crc(&[&bytes[..16], &bytes[DIRECTORY_HEADER..]]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    }
    for frame in frames {
        bytes.extend(frame);
    }
    (bytes, headers)
}

/// A directory, not yet parsed.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Its own length.
    pub(crate) length: usize,
    /// Length of the records after it.
    pub(crate) records: u64,
}

impl Directory {
    /// What `bytes` say of a directory that they begin with. Not checked: it may be damaged.
    pub(crate) fn peek(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.get(..DIRECTORY_HEADER)?;
        let length = u32_at(fixed, 4);
        (fixed[..4] == DIRECTORY && length <= LONGEST && length as usize >= DIRECTORY_HEADER).then(
            || Self {
                length: length as usize,
                records: u64::from_le_bytes(std::array::from_fn(|i| fixed[8 + i])),
            },
        )
    }

    /// The headers of the records and their offsets from the directory's beginning; nothing if it is damaged.
    pub(crate) fn parse(&self, bytes: &[u8], place: &Place<'_>) -> Option<Vec<(u64, Header)>> {
        let bytes = bytes.get(..self.length)?;
        if u32_at(bytes, 16) != place.crc(&[&bytes[..16], &bytes[DIRECTORY_HEADER..]]) {
            return None;
        }
        let mut headers = Vec::new();
        let mut rest = &bytes[DIRECTORY_HEADER..];
        let mut at = self.length as u64;
        while !rest.is_empty() {
            let end = Header::end(rest)?;
            let place = Place {
                offset: place.offset + at,
                ..*place
            };
            let header = Header::parse(rest, &place)?;
            let length = u64::from(header.length);
            headers.push((at, header));
            at += length;
            rest = &rest[end..];
        }
        (at == self.length as u64 + self.records).then_some(headers)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
