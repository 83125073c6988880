//! Where candles come from: files of several formats and a simulator. All give the same two outputs.
//!
//! `candles`: `ts_ns`, `open`, `high`, `low`, `close`, `volume`, in time order, every value finite, prices above zero,
//! `low <= open, close <= high`. `statistics`: counts of what was read, dropped and filled.

pub(crate) mod bars;
pub(crate) mod candles;
mod columns;
pub(crate) mod csv;
mod interval;
pub(crate) mod parquet;
pub(crate) mod synthetic;
mod time;
mod whole_file;

#[cfg(test)]
mod corpus;
