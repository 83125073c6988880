//! What a column of a table is: name, type, unit, meaning.

use std::fmt;

use arrow::datatypes::{DataType, TimeUnit};
use serde::{Deserialize, Serialize};

/// The types of columns. Missing values are nulls in every type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// Double precision.
    F64,
    /// Single precision.
    F32,
    /// Signed 64-bit integer.
    I64,
    /// True or false.
    Bool,
    /// Text.
    Utf8,
    /// Nanoseconds since 1970-01-01 in UTC.
    TimestampNs,
}

impl ColumnType {
    /// The Arrow type that stores it.
    pub fn arrow(self) -> DataType {
        match self {
            Self::F64 => DataType::Float64,
            Self::F32 => DataType::Float32,
            Self::I64 => DataType::Int64,
            Self::Bool => DataType::Boolean,
            Self::Utf8 => DataType::Utf8,
            Self::TimestampNs => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        }
    }

    pub(crate) fn from_arrow(data_type: &DataType) -> Option<Self> {
        [
            Self::F64,
            Self::F32,
            Self::I64,
            Self::Bool,
            Self::Utf8,
            Self::TimestampNs,
        ]
        .into_iter()
        .find(|column_type| column_type.arrow() == *data_type)
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::I64 => "i64",
            Self::Bool => "bool",
            Self::Utf8 => "utf8",
            Self::TimestampNs => "timestamp_ns",
        })
    }
}

/// A column's declaration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Column {
    /// Name, unique in its table.
    pub name: String,
    /// Type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// Unit of the values, as `price`, `percent`, `bars`; empty for pure numbers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// What the values mean, one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl Column {
    /// A column without unit and description.
    pub fn new(name: impl Into<String>, column_type: ColumnType) -> Self {
        Self {
            name: name.into(),
            column_type,
            unit: String::new(),
            description: String::new(),
        }
    }

    /// The same column with a unit.
    #[must_use]
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = unit.into();
        self
    }

    /// The same column with a description.
    #[must_use]
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// The time index that every table of bars has: `ts_ns`, the close of the bar.
    pub fn time_index() -> Self {
        Self::new("ts_ns", ColumnType::TimestampNs)
            .unit("ns")
            .description("close of the bar, UTC")
    }
}
