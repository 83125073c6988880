//! Indicators as one program over blocks of rows.
//!
//! An [`Indicator`](catalog::Indicator) of the catalogue expands into nodes of a [`Program`](program::Program): inputs,
//! [windows](kernel::Window) and [recurrences](kernel::Recurrence). Equal nodes are made once, so two features that need the
//! same mean share it. An [`engine`](engine::Engine) runs all nodes of a program over a block of rows that fits into the
//! cache, before it goes on to the next block.
//!
//! Invariants:
//! * Row `t` depends on rows up to `t` only.
//! * Bits do not depend on how rows are cut into blocks. A block of one row is a stream.
//! * What is not defined is NaN, and nothing is infinite where it leaves a program.

pub mod catalog;
pub mod cuda;
pub mod elementary;
pub mod engine;
mod entropy;
mod fractional;
mod greeks;
mod histogram;
mod hurst;
pub mod kernel;
pub mod labels;

mod calendar;
mod candles;
mod network;
mod order;
mod patterns;
pub mod pointwise;
mod profile;
pub mod program;
mod rank;
mod recurrence;
mod rowwise;
mod sessions;
mod spectral;
mod structure;
mod window;

#[cfg(test)]
mod check;
#[cfg(test)]
mod parity;
