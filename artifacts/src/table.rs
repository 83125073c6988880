//! Tables: one record batch of Arrow data in a canonical form.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Int64Array, PrimitiveArray, RecordBatch,
        RecordBatchOptions, StringArray, TimestampNanosecondArray,
    },
    buffer::{NullBuffer, ScalarBuffer},
    compute::{cast, concat_batches},
    datatypes::{
        ArrowPrimitiveType, DataType, Field, Float32Type, Float64Type, Int64Type, Schema,
        TimestampNanosecondType,
    },
    ipc::{
        MetadataVersion,
        reader::FileReader,
        writer::{FileWriter, IpcWriteOptions},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ArtifactError, Bytes, Column, ColumnType, Digest, canonical, table_digest::column_digest,
};

/// The one key of the Arrow schema's metadata that we use; Arrow keeps metadata in a hash map, so one key is all there may be.
const METADATA_KEY: &str = "natron";

/// A table: named, typed columns of equal length, facts about them, and the kind of the stage that made it.
///
/// The form is canonical: null slots hold zero, a column without nulls has no validity, NaN does not occur (a missing value
/// is null). Two tables with equal content have equal bytes.
#[derive(Debug, Clone)]
pub struct Table {
    header: Header,
    batch: RecordBatch,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Header {
    columns: Vec<Column>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    made_by: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    facts: BTreeMap<String, Value>,
}

/// Builds a [`Table`] column by column.
#[derive(Debug, Default)]
pub struct TableBuilder {
    header: Header,
    arrays: Vec<ArrayRef>,
}

impl TableBuilder {
    /// Adds the time index `ts_ns`.
    #[must_use]
    pub fn time_index(self, ts_ns: Vec<i64>) -> Self {
        self.push(
            Column::time_index(),
            Arc::new(TimestampNanosecondArray::from(ts_ns).with_timezone("UTC")),
        )
    }

    /// Adds a column of double precision; NaN becomes null.
    #[must_use]
    pub fn f64(self, column: Column, values: Vec<f64>) -> Self {
        debug_assert_eq!(column.column_type, ColumnType::F64);
        let array = floats::<Float64Type>(values, f64::is_nan);
        self.push(column, array)
    }

    /// Adds a column of single precision; NaN becomes null.
    #[must_use]
    pub fn f32(self, column: Column, values: Vec<f32>) -> Self {
        debug_assert_eq!(column.column_type, ColumnType::F32);
        let array = floats::<Float32Type>(values, f32::is_nan);
        self.push(column, array)
    }

    /// Adds a column of integers.
    #[must_use]
    pub fn i64(self, column: Column, values: Vec<i64>) -> Self {
        self.push(column, Arc::new(Int64Array::from(values)))
    }

    /// Adds a column of integers, some missing.
    #[must_use]
    pub fn i64_or_null(self, column: Column, values: Vec<Option<i64>>) -> Self {
        self.push(column, Arc::new(Int64Array::from(values)))
    }

    /// Adds a column of truth values.
    #[must_use]
    pub fn bool(self, column: Column, values: Vec<bool>) -> Self {
        self.push(column, Arc::new(BooleanArray::from(values)))
    }

    /// Adds a column of texts.
    #[must_use]
    pub fn utf8(self, column: Column, values: Vec<String>) -> Self {
        self.push(column, Arc::new(StringArray::from(values)))
    }

    /// Adds a column as another table has it.
    #[must_use]
    pub fn column_of(self, table: &Table, name: &str) -> Self {
        match table.position(name) {
            Ok(i) => self.push(
                table.header.columns[i].clone(),
                Arc::clone(table.batch.column(i)),
            ),
            Err(_) => self,
        }
    }

    /// Adds a column of any supported Arrow type.
    #[must_use]
    pub fn push(mut self, column: Column, array: ArrayRef) -> Self {
        self.header.columns.push(column);
        self.arrays.push(array);
        self
    }

    /// States a fact about the whole table (a feature plan, a horizon). Facts are part of the content.
    #[must_use]
    pub fn fact(mut self, name: impl Into<String>, value: Value) -> Self {
        self.header.facts.insert(name.into(), value);
        self
    }

    /// The table.
    ///
    /// # Errors
    ///
    /// When lengths or types differ from the declarations, names repeat, or a float is NaN.
    pub fn build(self) -> Result<Table, ArtifactError> {
        Table::from_parts(self.header, &self.arrays)
    }
}

fn floats<T: ArrowPrimitiveType>(
    mut values: Vec<T::Native>,
    is_nan: impl Fn(T::Native) -> bool,
) -> ArrayRef {
    let valid: Vec<bool> = values.iter().map(|&v| !is_nan(v)).collect();
    let nulls = NullBuffer::from(valid);
    if nulls.null_count() == 0 {
        return Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(values), None));
    }
    for value in &mut values {
        if is_nan(*value) {
            *value = T::default_value();
        }
    }
    Arc::new(PrimitiveArray::<T>::new(
        ScalarBuffer::from(values),
        Some(nulls),
    ))
}

/// Whether all that a block of an Arrow file names lies in its body. Arrow's reader panics where it does not.
fn check_buffers(bytes: &[u8], block: &arrow::ipc::Block) -> Option<()> {
    const CONTINUATION: [u8; 4] = [0xFF; 4];
    let offset = usize::try_from(block.offset()).ok()?;
    let metadata = usize::try_from(block.metaDataLength()).ok()?;
    let body = u64::try_from(block.bodyLength()).ok()?;
    let end = offset.checked_add(metadata)?;
    if (end as u64).checked_add(body)? > bytes.len() as u64 {
        return None;
    }
    let message = bytes.get(offset..end)?;
    let prefix = if message.get(..4)? == CONTINUATION {
        8
    } else {
        4
    };
    let message = arrow::ipc::root_as_message(message.get(prefix..)?).ok()?;
    let batch = match message.header_as_record_batch() {
        Some(batch) => batch,
        None => message.header_as_dictionary_batch()?.data()?,
    };
    let is_inside = |buffer: &arrow::ipc::Buffer| {
        let (offset, length) = (
            u64::try_from(buffer.offset()),
            u64::try_from(buffer.length()),
        );
        let end = offset
            .ok()
            .zip(length.ok())
            .and_then(|(o, l)| o.checked_add(l));
        // The format asks for buffers that begin at multiples of eight bytes.
        buffer.offset() % 8 == 0 && end.is_some_and(|end| end <= body)
    };
    batch.buffers()?.iter().all(is_inside).then_some(())
}

impl Table {
    /// Starts a table.
    pub fn builder() -> TableBuilder {
        TableBuilder::default()
    }

    /// A table from foreign Arrow data: integers become i64, other time units nanoseconds, and so on.
    ///
    /// # Errors
    ///
    /// A column of a type that no [`ColumnType`] can hold, or NaN in it.
    pub fn from_arrow(batch: &RecordBatch) -> Result<Self, ArtifactError> {
        let header = match batch.schema_ref().metadata().get(METADATA_KEY) {
            Some(text) => serde_json::from_str(text)
                .map_err(|e| ArtifactError::new(format!("table header: {e}")))?,
            None => Header::default(),
        };
        let mut columns = Vec::new();
        let mut arrays = Vec::new();
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let (column_type, array) = import(field.name(), array)?;
            let column = header
                .columns
                .iter()
                .find(|c| c.name == *field.name() && c.column_type == column_type);
            columns.push(
                column
                    .cloned()
                    .unwrap_or_else(|| Column::new(field.name(), column_type)),
            );
            arrays.push(array);
        }
        Self::from_parts(Header { columns, ..header }, &arrays)
    }

    /// How many rows there are.
    pub fn n_rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// The columns' declarations, in order.
    pub fn columns(&self) -> &[Column] {
        &self.header.columns
    }

    /// Whether there is a column called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.position(name).is_ok()
    }

    /// The kind of the stage that made the table; empty when unknown.
    pub fn made_by(&self) -> &str {
        &self.header.made_by
    }

    /// The same table, made by `kind`.
    #[must_use]
    pub fn with_made_by(mut self, kind: &str) -> Self {
        kind.clone_into(&mut self.header.made_by);
        self.batch =
            batch(&self.header, self.batch.columns().to_vec()).expect("the columns are unchanged");
        self
    }

    /// The fact called `name`.
    pub fn fact(&self, name: &str) -> Option<&Value> {
        self.header.facts.get(name)
    }

    /// All facts.
    pub fn facts(&self) -> &BTreeMap<String, Value> {
        &self.header.facts
    }

    /// A column of double precision; missing values are NaN. Borrows when nothing is missing.
    pub fn f64(&self, name: &str) -> Result<std::borrow::Cow<'_, [f64]>, ArtifactError> {
        Ok(with_nan(
            self.primitive::<Float64Type>(name, ColumnType::F64)?,
            f64::NAN,
        ))
    }

    /// A column of single precision; missing values are NaN. Borrows when nothing is missing.
    pub fn f32(&self, name: &str) -> Result<std::borrow::Cow<'_, [f32]>, ArtifactError> {
        Ok(with_nan(
            self.primitive::<Float32Type>(name, ColumnType::F32)?,
            f32::NAN,
        ))
    }

    /// A numeric column of any type as double precision; missing values are NaN, truth values 0 and 1.
    pub fn numbers(&self, name: &str) -> Result<Vec<f64>, ArtifactError> {
        let i = self.position(name)?;
        let array = self.batch.column(i);
        let nan = |i: usize, v: f64| if array.is_null(i) { f64::NAN } else { v };
        Ok(match self.header.columns[i].column_type {
            ColumnType::F64 => self.f64(name)?.into_owned(),
            ColumnType::F32 => self.f32(name)?.iter().map(|&v| f64::from(v)).collect(),
            ColumnType::I64 => array
                .as_primitive::<Int64Type>()
                .values()
                .iter()
                .enumerate()
                .map(|(i, &v)| nan(i, v as f64))
                .collect(),
            ColumnType::Bool => {
                let array = array.as_boolean();
                (0..array.len())
                    .map(|i| nan(i, f64::from(u8::from(array.value(i)))))
                    .collect()
            }
            found => {
                return Err(ArtifactError::new(format!(
                    "column `{name}` is {found}, expected a number"
                )));
            }
        })
    }

    /// A column of integers without missing values.
    pub fn i64(&self, name: &str) -> Result<&[i64], ArtifactError> {
        let array = self.primitive::<Int64Type>(name, ColumnType::I64)?;
        if array.null_count() > 0 {
            return Err(ArtifactError::new(format!(
                "column `{name}` has missing values where none are expected"
            )));
        }
        Ok(array.values())
    }

    /// A column of integers, missing ones as `None`.
    pub fn i64_or_null(&self, name: &str) -> Result<Vec<Option<i64>>, ArtifactError> {
        Ok(self
            .primitive::<Int64Type>(name, ColumnType::I64)?
            .iter()
            .collect())
    }

    /// A column of texts; a missing one is empty.
    pub fn utf8(&self, name: &str) -> Result<Vec<&str>, ArtifactError> {
        let i = self.typed_position(name, ColumnType::Utf8)?;
        Ok(self
            .batch
            .column(i)
            .as_string::<i32>()
            .iter()
            .map(Option::unwrap_or_default)
            .collect())
    }

    /// A column of truth values; a missing one is false.
    pub fn bools(&self, name: &str) -> Result<Vec<bool>, ArtifactError> {
        let i = self.typed_position(name, ColumnType::Bool)?;
        Ok(self
            .batch
            .column(i)
            .as_boolean()
            .iter()
            .map(Option::unwrap_or_default)
            .collect())
    }

    /// The times of a timestamp column, in nanoseconds; it must have no missing values.
    pub fn times(&self, name: &str) -> Result<&[i64], ArtifactError> {
        let array = self.primitive::<TimestampNanosecondType>(name, ColumnType::TimestampNs)?;
        if array.null_count() > 0 {
            return Err(ArtifactError::new(format!(
                "column `{name}` has missing times"
            )));
        }
        Ok(array.values())
    }

    /// The time index `ts_ns`.
    pub fn ts_ns(&self) -> Result<&[i64], ArtifactError> {
        self.times("ts_ns")
    }

    /// The Arrow data.
    pub fn arrow(&self) -> &RecordBatch {
        &self.batch
    }

    /// The table with only the named columns, in the table's own order.
    pub fn select(&self, names: &[String]) -> Result<Self, ArtifactError> {
        for name in names {
            self.position(name)?;
        }
        let keep: Vec<usize> = (0..self.header.columns.len())
            .filter(|&i| names.contains(&self.header.columns[i].name))
            .collect();
        let header = Header {
            columns: keep
                .iter()
                .map(|&i| self.header.columns[i].clone())
                .collect(),
            ..self.header.clone()
        };
        let arrays: Vec<_> = keep
            .iter()
            .map(|&i| Arc::clone(self.batch.column(i)))
            .collect();
        Self::from_parts(header, &arrays)
    }

    /// Digest of the content: rows, columns with their types and units, facts; not who made it and not the bytes' layout.
    pub fn logical_digest(&self) -> Digest {
        #[derive(Serialize)]
        struct Content<'a> {
            rows: u64,
            columns: Vec<(&'a Column, Digest)>,
            facts: &'a BTreeMap<String, Value>,
        }
        let columns = self
            .header
            .columns
            .iter()
            .zip(self.column_digests())
            .collect();
        let content = Content {
            rows: self.n_rows() as u64,
            columns,
            facts: &self.header.facts,
        };
        canonical::digest("natron table v1", &content)
    }

    /// The digest of every column's values, in order.
    pub fn column_digests(&self) -> Vec<Digest> {
        self.header
            .columns
            .iter()
            .zip(self.batch.columns())
            .map(|(column, array)| column_digest(column.column_type, array))
            .collect()
    }

    /// The canonical bytes: an Arrow IPC file with one record batch.
    pub fn to_ipc(&self) -> Result<Vec<u8>, ArtifactError> {
        let options = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)?;
        let mut writer =
            FileWriter::try_new_with_options(Vec::new(), self.batch.schema_ref(), options)?;
        writer.write(&self.batch)?;
        Ok(writer.into_inner()?)
    }

    /// A table from an Arrow IPC file, ours or another program's.
    pub fn from_ipc(bytes: &Bytes) -> Result<Self, ArtifactError> {
        // What the checks before it let through, Arrow's own validation may still stumble over.
        let read = std::panic::catch_unwind(|| Self::read_ipc(bytes));
        read.unwrap_or_else(|_| {
            Err(ArtifactError::new(
                "not an Arrow file: it is damaged".to_owned(),
            ))
        })
    }

    fn read_ipc(bytes: &Bytes) -> Result<Self, ArtifactError> {
        if let Some(table) = Self::from_own_ipc(bytes)? {
            return Ok(table);
        }
        let reader = FileReader::try_new(std::io::Cursor::new(&bytes[..]), None)?;
        let schema = reader.schema();
        let batches = reader.collect::<Result<Vec<_>, _>>()?;
        Self::from_arrow(&concat_batches(&schema, &batches)?)
    }

    /// Reads the canonical form without copying; `None` when the bytes are some other Arrow file.
    fn from_own_ipc(bytes: &Bytes) -> Result<Option<Self>, ArtifactError> {
        use arrow::ipc::{
            convert::try_fb_to_schema,
            reader::{FileDecoder, read_footer_length},
            root_as_footer,
        };

        let damaged = |what: &str| ArtifactError::new(format!("not an Arrow file: {what}"));
        let Some(trailer) = bytes.len().checked_sub(10) else {
            return Err(damaged("too short"));
        };
        let trailer_bytes = bytes[trailer..].try_into().expect("ten bytes");
        let length = read_footer_length(trailer_bytes)?;
        let start = trailer
            .checked_sub(length)
            .ok_or_else(|| damaged("footer outside the file"))?;
        let footer = root_as_footer(&bytes[start..trailer]).map_err(|e| damaged(&e.to_string()))?;
        let listed = footer
            .recordBatches()
            .into_iter()
            .chain(footer.dictionaries());
        for block in listed.flatten() {
            check_buffers(bytes, block).ok_or_else(|| damaged("a buffer lies outside the file"))?;
        }
        let schema = try_fb_to_schema(footer.schema().ok_or_else(|| damaged("no schema"))?)?;
        let Some(text) = schema.metadata().get(METADATA_KEY) else {
            return Ok(None);
        };
        let Ok(header) = serde_json::from_str::<Header>(text) else {
            return Ok(None);
        };
        let blocks = footer
            .recordBatches()
            .map_or(Vec::new(), |blocks| blocks.iter().collect());
        let ([block], true) = (
            &blocks[..],
            footer.dictionaries().is_none_or(|d| d.is_empty()),
        ) else {
            return Ok(None);
        };
        let decoder = FileDecoder::new(Arc::new(schema), footer.version());
        let (offset, size) = (
            block.offset() as usize,
            block.metaDataLength() as usize + block.bodyLength() as usize,
        );
        if offset.checked_add(size).is_none_or(|end| end > bytes.len()) {
            return Err(damaged("record batch outside the file"));
        }
        let data = bytes.buffer().slice_with_length(offset, size);
        let batch = decoder
            .read_record_batch(block, &data)?
            .ok_or_else(|| damaged("no record batch"))?;
        let matches = batch.num_columns() == header.columns.len()
            && header
                .columns
                .iter()
                .zip(batch.schema_ref().fields())
                .all(|(column, field)| {
                    column.name == *field.name() && column.column_type.arrow() == *field.data_type()
                });
        Ok(matches.then_some(Self { header, batch }))
    }

    fn from_parts(header: Header, arrays: &[ArrayRef]) -> Result<Self, ArtifactError> {
        let n_rows = arrays.first().map_or(0, Array::len);
        for (i, (column, array)) in header.columns.iter().zip(arrays).enumerate() {
            let name = &column.name;
            if header.columns[..i].iter().any(|c| c.name == *name) {
                return Err(ArtifactError::new(format!(
                    "two columns are called `{name}`"
                )));
            }
            if array.len() != n_rows {
                return Err(ArtifactError::new(format!(
                    "column `{name}` has {} rows, others {n_rows}",
                    array.len()
                )));
            }
            if *array.data_type() != column.column_type.arrow() {
                let (found, declared) = (array.data_type(), column.column_type);
                return Err(ArtifactError::new(format!(
                    "column `{name}` is {found}, declared as {declared}"
                )));
            }
        }
        let arrays = header
            .columns
            .iter()
            .zip(arrays)
            .map(|(column, array)| canonical_array(column, array))
            .collect::<Result<Vec<_>, _>>()?;
        let batch = batch(&header, arrays)?;
        Ok(Self { header, batch })
    }

    fn position(&self, name: &str) -> Result<usize, ArtifactError> {
        self.header
            .columns
            .iter()
            .position(|column| column.name == name)
            .ok_or_else(|| {
                let known: Vec<_> = self
                    .header
                    .columns
                    .iter()
                    .take(12)
                    .map(|c| format!("`{}`", c.name))
                    .collect();
                ArtifactError::new(format!(
                    "no column is called `{name}`; there are {}",
                    known.join(", ")
                ))
            })
    }

    fn typed_position(&self, name: &str, expected: ColumnType) -> Result<usize, ArtifactError> {
        let i = self.position(name)?;
        let found = self.header.columns[i].column_type;
        if found == expected {
            Ok(i)
        } else {
            Err(ArtifactError::new(format!(
                "column `{name}` is {found}, expected {expected}"
            )))
        }
    }

    fn primitive<T: ArrowPrimitiveType>(
        &self,
        name: &str,
        expected: ColumnType,
    ) -> Result<&PrimitiveArray<T>, ArtifactError> {
        let i = self.typed_position(name, expected)?;
        Ok(self.batch.column(i).as_primitive::<T>())
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.header == other.header && self.batch.columns() == other.batch.columns()
    }
}

fn with_nan<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    nan: T::Native,
) -> std::borrow::Cow<'_, [T::Native]> {
    if array.null_count() == 0 {
        return array.values()[..].into();
    }
    array
        .iter()
        .map(|v| v.unwrap_or(nan))
        .collect::<Vec<_>>()
        .into()
}

fn batch(header: &Header, arrays: Vec<ArrayRef>) -> Result<RecordBatch, ArtifactError> {
    let fields: Vec<_> = header
        .columns
        .iter()
        .zip(&arrays)
        .map(|(column, array)| {
            Field::new(
                &column.name,
                column.column_type.arrow(),
                array.null_count() > 0,
            )
        })
        .collect();
    let text = serde_json::to_string(header).expect("a header of plain values serializes");
    let schema = Schema::new_with_metadata(fields, [(METADATA_KEY.to_owned(), text)]);
    let n_rows = arrays.first().map_or(0, Array::len);
    let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::new(schema),
        arrays,
        &options,
    )?)
}

/// One contiguous buffer from offset 0, zero in null slots, no validity without nulls.
fn canonical_array(column: &Column, array: &ArrayRef) -> Result<ArrayRef, ArtifactError> {
    let nan = |row: usize| {
        let name = &column.name;
        ArtifactError::new(format!(
            "column `{name}` holds NaN in row {row}; a missing value is null, not NaN"
        ))
    };
    Ok(match column.column_type {
        ColumnType::F64 => {
            let array = array.as_primitive::<Float64Type>();
            if let Some(row) =
                (0..array.len()).find(|&i| array.is_valid(i) && array.value(i).is_nan())
            {
                return Err(nan(row));
            }
            primitive(array)
        }
        ColumnType::F32 => {
            let array = array.as_primitive::<Float32Type>();
            if let Some(row) =
                (0..array.len()).find(|&i| array.is_valid(i) && array.value(i).is_nan())
            {
                return Err(nan(row));
            }
            primitive(array)
        }
        ColumnType::I64 => primitive(array.as_primitive::<Int64Type>()),
        ColumnType::TimestampNs => {
            let values = primitive(array.as_primitive::<TimestampNanosecondType>());
            Arc::new(
                values
                    .as_primitive::<TimestampNanosecondType>()
                    .clone()
                    .with_timezone("UTC"),
            )
        }
        ColumnType::Bool => {
            let array = array.as_boolean();
            if array.null_count() == 0 {
                let values: Vec<bool> = array.iter().map(Option::unwrap_or_default).collect();
                Arc::new(BooleanArray::from(values))
            } else {
                Arc::new(array.iter().collect::<BooleanArray>())
            }
        }
        ColumnType::Utf8 => {
            let array = array.as_string::<i32>();
            if array.null_count() == 0 {
                Arc::new(StringArray::from_iter_values(
                    array.iter().map(Option::unwrap_or_default),
                ))
            } else {
                Arc::new(array.iter().collect::<StringArray>())
            }
        }
    })
}

fn primitive<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>) -> ArrayRef {
    if array.null_count() == 0 {
        if array.offset() == 0 && array.nulls().is_none() {
            return Arc::new(array.clone());
        }
        return Arc::new(PrimitiveArray::<T>::new(
            array.values().iter().copied().collect(),
            None,
        ));
    }
    let values: ScalarBuffer<T::Native> = array.iter().map(Option::unwrap_or_default).collect();
    let valid: Vec<bool> = (0..array.len()).map(|i| array.is_valid(i)).collect();
    Arc::new(PrimitiveArray::<T>::new(
        values,
        Some(NullBuffer::from(valid)),
    ))
}

fn import(name: &str, array: &ArrayRef) -> Result<(ColumnType, ArrayRef), ArtifactError> {
    if let Some(column_type) = ColumnType::from_arrow(array.data_type()) {
        return Ok((column_type, Arc::clone(array)));
    }
    let column_type = match array.data_type() {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => ColumnType::TimestampNs,
        data_type if data_type.is_integer() => ColumnType::I64,
        DataType::Float16 => ColumnType::F32,
        DataType::Decimal128(..) | DataType::Decimal256(..) => ColumnType::F64,
        DataType::LargeUtf8 | DataType::Utf8View => ColumnType::Utf8,
        DataType::Dictionary(_, values)
            if matches!(
                **values,
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
            ) =>
        {
            ColumnType::Utf8
        }
        other => {
            return Err(ArtifactError::new(format!(
                "column `{name}` is {other}, which a table does not hold; use floats, integers, booleans, text or timestamps"
            )));
        }
    };
    let converted = cast(array, &column_type.arrow())?;
    if let Some(row) = (0..array.len()).find(|&i| array.is_valid(i) && converted.is_null(i)) {
        return Err(ArtifactError::new(format!(
            "column `{name}`, row {row}: the value does not fit {column_type}"
        )));
    }
    Ok((column_type, converted))
}

#[cfg(test)]
mod tests {
    use arrow::array::Float64Array;

    use super::*;

    fn bars() -> Table {
        Table::builder()
            .time_index(vec![10, 20, 30])
            .f64(
                Column::new("close", ColumnType::F64).unit("price"),
                vec![1.0, f64::NAN, 3.0],
            )
            .i64_or_null(
                Column::new("direction", ColumnType::I64),
                vec![Some(1), None, Some(2)],
            )
            .bool(
                Column::new("gap", ColumnType::Bool),
                vec![true, false, true],
            )
            .utf8(
                Column::new("regime", ColumnType::Utf8),
                vec!["RANGE".into(), String::new(), "VOLATILE".into()],
            )
            .fact("horizon_bars", 3.into())
            .build()
            .unwrap()
    }

    #[test]
    fn damaged_bytes_are_an_error_and_no_panic() {
        let whole = bars().to_ipc().unwrap();
        for at in 0..whole.len() {
            for bit in [0, 3, 7] {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                // Damage of the values themselves is for their digest to find.
                let _ = Table::from_ipc(&Bytes::from(damaged));
            }
            assert!(Table::from_ipc(&Bytes::from(&whole[..at])).is_err());
        }
    }

    #[test]
    fn reads_back_what_it_writes_to_the_byte() {
        let table = bars().with_made_by("labels");
        let bytes = table.to_ipc().unwrap();

        let again = Table::from_ipc(&bytes.clone().into()).unwrap();
        assert_eq!(again, table);
        assert_eq!(again.to_ipc().unwrap(), bytes);
        assert_eq!(again.made_by(), "labels");
        assert_eq!(again.fact("horizon_bars"), Some(&3.into()));
    }

    #[test]
    fn what_lies_in_null_slots_does_not_reach_the_bytes() {
        let hidden = Float64Array::new(
            vec![1.0, 77.0, 3.0].into(),
            Some(vec![true, false, true].into()),
        );
        let column = || Column::new("close", ColumnType::F64);
        let a = Table::builder()
            .push(column(), Arc::new(hidden))
            .build()
            .unwrap();
        let b = Table::builder()
            .f64(column(), vec![1.0, f64::NAN, 3.0])
            .build()
            .unwrap();

        assert_eq!(a.to_ipc().unwrap(), b.to_ipc().unwrap());
        assert_eq!(a.logical_digest(), b.logical_digest());
    }

    #[test]
    fn a_slice_of_foreign_data_becomes_the_canonical_form() {
        let long = Float64Array::from(vec![0.0, 1.0, 2.0, 3.0]);
        let column = || Column::new("close", ColumnType::F64);
        let a = Table::builder()
            .push(column(), Arc::new(long.slice(1, 2)))
            .build()
            .unwrap();
        let b = Table::builder()
            .f64(column(), vec![1.0, 2.0])
            .build()
            .unwrap();

        assert_eq!(a.to_ipc().unwrap(), b.to_ipc().unwrap());
    }

    #[test]
    fn nan_is_refused_with_its_place() {
        let array = Arc::new(Float64Array::from(vec![1.0, f64::NAN]));
        let error = Table::builder()
            .push(Column::new("close", ColumnType::F64), array)
            .build()
            .unwrap_err();

        assert!(
            error.to_string().contains("`close` holds NaN in row 1"),
            "{error}"
        );
    }

    #[test]
    fn who_made_it_is_in_the_bytes_but_not_in_the_content() {
        let a = bars();
        let b = bars().with_made_by("other");

        assert_ne!(a.to_ipc().unwrap(), b.to_ipc().unwrap());
        assert_eq!(a.logical_digest(), b.logical_digest());
    }

    #[test]
    fn a_column_keeps_its_digest_when_others_change() {
        let a = bars();
        let b = a.select(&["ts_ns".into(), "direction".into()]).unwrap();

        assert_eq!(a.column_digests()[2], b.column_digests()[1]);
        assert_ne!(a.logical_digest(), b.logical_digest());
    }

    #[test]
    fn damaged_files_are_errors() {
        let bytes = bars().to_ipc().unwrap();
        for cut in [0, 5, 20, bytes.len() / 2, bytes.len() - 1] {
            assert!(
                Table::from_ipc(&bytes[..cut].into()).is_err(),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn names_the_column_it_cannot_find() {
        let table = bars();
        let error = table.f64("clsoe").unwrap_err();

        assert!(
            error
                .to_string()
                .starts_with("no column is called `clsoe`; there are `ts_ns`, `close`"),
            "{error}"
        );
        assert!(
            table
                .f64("gap")
                .unwrap_err()
                .to_string()
                .contains("is bool, expected f64")
        );
    }
}
