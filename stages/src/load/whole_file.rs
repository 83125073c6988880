//! A file for the Parquet reader that says where it ends.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
};

use bytes::Bytes;
use parquet::{
    errors::{ParquetError, Result},
    file::reader::{ChunkReader, Length},
};

/// A file whose end is an error to whoever wants to read past it.
///
/// The reader skips what it does not know by the number of bytes, and does not notice when none are left: a page header that
/// announces two thousand million numbers to skip would keep it busy for minutes.
#[derive(Debug)]
pub(super) struct WholeFile {
    file: File,
    length: u64,
}

impl WholeFile {
    /// `file`, of `length` bytes.
    pub(super) fn new(file: File, length: u64) -> Self {
        Self { file, length }
    }

    fn from(&self, start: u64) -> Result<UntilEnd> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        Ok(UntilEnd(file))
    }
}

impl Length for WholeFile {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for WholeFile {
    type T = BufReader<UntilEnd>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(self.from(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = start.checked_add(length as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF(format!(
                "{length} bytes from {start} on are not there"
            )));
        }
        let mut bytes = vec![0; length];
        self.from(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// A reader to which the end of the file is an error.
pub(super) struct UntilEnd(File);

impl Read for UntilEnd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_end_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let file = WholeFile::new(file, 10);

        let mut two = [0; 2];
        let mut reader = file.get_read(8).unwrap();
        reader.read_exact(&mut two).unwrap();

        assert_eq!(&two, b"89");
        let past = io::copy(&mut reader.by_ref().take(8), &mut io::sink());
        assert_eq!(past.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(&file.get_bytes(2, 3).unwrap()[..], b"234");
        assert!(file.get_bytes(8, 3).is_err());
        assert!(file.get_bytes(u64::MAX, 3).is_err());
    }
}
