//! A table as Parquet.

use std::io::{self, Write};

use natron_artifacts::Table;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

/// Writes the table, types and our facts in its schema.
pub(super) fn write(table: &Table, file: &mut (impl Write + Send)) -> io::Result<()> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(concat!("natron ", env!("CARGO_PKG_VERSION")).to_owned())
        .build();
    let batch = table.arrow();
    let mut writer =
        ArrowWriter::try_new(file, batch.schema(), Some(properties)).map_err(io::Error::other)?;
    writer.write(batch).map_err(io::Error::other)?;
    writer.close().map_err(io::Error::other)?;
    Ok(())
}
