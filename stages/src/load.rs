//! Where candles come from: files of several formats and a simulator. All give the same two outputs.
//!
//! `candles`: `ts_ns`, `open`, `high`, `low`, `close`, `volume`, in time order, every value finite, prices above zero,
//! `low <= open, close <= high`. `statistics`: counts of what was read, dropped and filled.

mod bars;
mod candles;
mod columns;
mod csv;
mod interval;
mod parquet;
mod synthetic;
mod time;

#[cfg(test)]
mod corpus;

pub(crate) use self::{
    candles::LoadCandles, csv::LoadCsv, parquet::LoadParquet, synthetic::LoadSynthetic,
};
