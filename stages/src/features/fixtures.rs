//! Markets and reference values for tests.

use std::collections::BTreeMap;
use std::path::Path;

use natron_kernels::bars::{Bar, BarColumns};

#[path = "../../../kernels/src/indicators/check/fixtures.rs"]
mod of_kernels;
pub(crate) use of_kernels::{golden_bars, shared};

/// The columns of a CSV file; a cell that is no number is NaN.
pub(crate) fn read_csv(path: &Path, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, Vec<f64>> {
    let columns = of_kernels::read_csv(path).into_iter();
    columns
        .filter(|(name, _)| wanted(name))
        .map(|(name, cells)| (name, of_kernels::numbers(&cells)))
        .collect()
}

/// A random walk on bars of a minute; see [`of_kernels::market`].
pub(crate) fn market(n_rows: usize, seed: u64) -> BarColumns {
    of_kernels::market(n_rows, seed, 60_000_000_000)
}
