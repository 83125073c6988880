//! Digests of a column's values: independent of batching, units and who wrote them.

use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{Float32Type, Float64Type, Int64Type, TimestampNanosecondType},
};

use crate::{ColumnType, Digest};

const BLOCK_ROWS: usize = 65_536;

/// The digest of a canonical column: its type, and for every block of 65,536 rows the BLAKE3 of validity and values.
pub(crate) fn column_digest(column_type: ColumnType, array: &ArrayRef) -> Digest {
    let mut column = blake3::Hasher::new_derive_key("natron column v1");
    column.update(column_type.to_string().as_bytes());
    column.update(&(array.len() as u64).to_le_bytes());
    let mut start = 0;
    while start < array.len() {
        let rows = BLOCK_ROWS.min(array.len() - start);
        column.update(block_digest(column_type, array, start, rows).as_bytes());
        start += rows;
    }
    Digest::from_bytes(*column.finalize().as_bytes())
}

fn block_digest(
    column_type: ColumnType,
    array: &ArrayRef,
    start: usize,
    rows: usize,
) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut validity = vec![0_u8; rows.div_ceil(8)];
    for i in 0..rows {
        validity[i / 8] |= u8::from(array.is_valid(start + i)) << (i % 8);
    }
    hasher.update(&validity);
    let range = start..start + rows;
    match column_type {
        ColumnType::F64 => words(
            &mut hasher,
            &array.as_primitive::<Float64Type>().values()[range],
            f64::to_le_bytes,
        ),
        ColumnType::F32 => words(
            &mut hasher,
            &array.as_primitive::<Float32Type>().values()[range],
            f32::to_le_bytes,
        ),
        ColumnType::I64 => words(
            &mut hasher,
            &array.as_primitive::<Int64Type>().values()[range],
            i64::to_le_bytes,
        ),
        ColumnType::TimestampNs => {
            words(
                &mut hasher,
                &array.as_primitive::<TimestampNanosecondType>().values()[range],
                i64::to_le_bytes,
            );
        }
        ColumnType::Bool => {
            let array = array.as_boolean();
            let bytes: Vec<u8> = range.map(|i| u8::from(array.value(i))).collect();
            hasher.update(&bytes);
        }
        ColumnType::Utf8 => {
            let array = array.as_string::<i32>();
            for i in range {
                let text = array.value(i);
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
    }
    hasher.finalize()
}

fn words<T: Copy, const N: usize>(
    hasher: &mut blake3::Hasher,
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
) {
    let flat: Vec<u8> = values.iter().flat_map(|&v| bytes(v)).collect();
    hasher.update(&flat);
}
