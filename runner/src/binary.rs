//! Small binary files of the program's own state: a magic, the digest of all that follows, then numbers, little-endian, and
//! parts with their lengths as u32. Whatever is not whole is as good as nothing.

use natron_artifacts::Digest;

const MAGIC_BYTES: usize = 8;
const HEADER_BYTES: usize = MAGIC_BYTES + 32;

/// Puts a file together.
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(magic: [u8; MAGIC_BYTES], capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + capacity);
        bytes.extend(magic);
        bytes.resize(HEADER_BYTES, 0);
        Self { bytes }
    }

    pub(crate) fn u8(&mut self, number: u8) {
        self.bytes.push(number);
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.bytes.extend(number.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, number: u64) {
        self.bytes.extend(number.to_le_bytes());
    }

    pub(crate) fn digest(&mut self, digest: &Digest) {
        self.bytes.extend(digest.as_bytes());
    }

    pub(crate) fn part(&mut self, part: &[u8]) {
        self.u32(part.len() as u32);
        self.bytes.extend(part);
    }

    /// The file.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let digest = Digest::of(&self.bytes[HEADER_BYTES..]);
        self.bytes[MAGIC_BYTES..HEADER_BYTES].copy_from_slice(digest.as_bytes());
        self.bytes
    }
}

/// Takes things off the front of a file.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// What follows the header, if the file is whole and begins with `magic`.
    pub(crate) fn open(bytes: &'a [u8], magic: [u8; MAGIC_BYTES]) -> Option<Self> {
        let (found, rest) = bytes.split_at_checked(MAGIC_BYTES)?;
        let (digest, rest) = rest.split_at_checked(HEADER_BYTES - MAGIC_BYTES)?;
        let is_whole = found == magic && Digest::of(rest).as_bytes() == digest;
        is_whole.then_some(Self { rest })
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn digest(&mut self) -> Option<Digest> {
        self.take().map(Digest::from_bytes)
    }

    pub(crate) fn part(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        let (part, rest) = self.rest.split_at_checked(length as usize)?;
        self.rest = rest;
        Some(part)
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.part()?.to_vec()).ok()
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
