//! Windows of a feature matrix: gathered from it when a batch is formed, never stored.

use std::sync::Arc;

use natron_artifacts::{ColumnType, StageError, Table};
use rayon::prelude::*;

/// A feature matrix, one row a bar, and the length of the windows read from it.
///
/// A window is named by the row of its last bar.
#[derive(Debug, Clone)]
pub struct WindowSource {
    values: Arc<[f32]>,
    features: Vec<String>,
    window_bars: usize,
}

impl WindowSource {
    /// The columns of type `f32` of `matrix`, in their order, as features. Missing values are NaN.
    ///
    /// # Errors
    ///
    /// When there is no such column.
    pub fn from_table(matrix: &Table, window_bars: usize) -> Result<Self, StageError> {
        let features: Vec<String> = matrix
            .columns()
            .iter()
            .filter(|column| column.column_type == ColumnType::F32)
            .map(|column| column.name.clone())
            .collect();
        let columns = features
            .iter()
            .map(|name| matrix.f32(name))
            .collect::<Result<Vec<_>, _>>()?;
        let mut values = vec![0.0; matrix.n_rows() * features.len()];
        for (f, column) in columns.iter().enumerate() {
            for (row, &value) in column.iter().enumerate() {
                values[row * features.len() + f] = value;
            }
        }
        Self::new(values, features, window_bars)
    }

    /// A row-major matrix with a column for each of `features`.
    ///
    /// # Errors
    ///
    /// When there is no feature, the windows have no bar or the matrix is not rectangular.
    pub fn new(
        values: Vec<f32>,
        features: Vec<String>,
        window_bars: usize,
    ) -> Result<Self, StageError> {
        if features.is_empty() {
            return Err(StageError::data(
                "the feature matrix has no column of type f32",
            ));
        }
        if window_bars == 0 {
            return Err(StageError::parameter(
                "window_bars",
                "a window needs at least one bar",
            ));
        }
        if !values.len().is_multiple_of(features.len()) {
            return Err(StageError::data("the feature matrix is not rectangular"));
        }
        Ok(Self {
            values: values.into(),
            features,
            window_bars,
        })
    }

    /// Names of the features, in the order of the columns.
    pub fn features(&self) -> &[String] {
        &self.features
    }

    /// Length of the windows, in bars.
    pub fn window_bars(&self) -> usize {
        self.window_bars
    }

    /// Number of bars.
    pub fn n_rows(&self) -> usize {
        self.values.len() / self.features.len()
    }

    /// Whether the window that ends at `row` lies inside the matrix and has no missing value.
    pub fn is_complete(&self, row: usize) -> bool {
        self.window(row)
            .is_some_and(|window| window.iter().all(|v| v.is_finite()))
    }

    /// Checks that the windows that end at `rows` are complete.
    ///
    /// # Errors
    ///
    /// The first that is not, by row and column.
    pub fn check(&self, rows: &[usize]) -> Result<(), StageError> {
        for &row in rows {
            let Some(window) = self.window(row) else {
                let (bars, n) = (self.window_bars, self.n_rows());
                return Err(StageError::data(format!(
                    "no window of {bars} bars ends at row {row} of {n}"
                )));
            };
            if let Some(i) = window.iter().position(|v| !v.is_finite()) {
                let at = row + 1 - self.window_bars + i / self.features.len();
                let column = &self.features[i % self.features.len()];
                return Err(StageError::data_at(
                    at as u64,
                    column,
                    format!("missing value inside the window that ends at row {row}"),
                )
                .with_help(
                    "leave the rows before the features have warmed up out of the windows",
                ));
            }
        }
        Ok(())
    }

    /// The windows that end at `rows`, one after the other: \[rows, bars, features\].
    ///
    /// # Panics
    ///
    /// When a window does not lie inside the matrix; see [`WindowSource::check`].
    pub fn gather(&self, rows: &[usize]) -> Vec<f32> {
        let size = self.window_bars * self.features.len();
        let mut out = vec![0.0; rows.len() * size];
        out.par_chunks_mut(size).zip(rows).for_each(|(out, &row)| {
            out.copy_from_slice(self.window(row).expect("the windows were checked"));
        });
        out
    }

    fn window(&self, row: usize) -> Option<&[f32]> {
        let start = (row + 1).checked_sub(self.window_bars)?;
        self.values
            .get(start * self.features.len()..(row + 1) * self.features.len())
    }
}

#[cfg(test)]
mod tests {
    use natron_artifacts::Column;

    use super::*;

    fn source() -> WindowSource {
        let column = |name: &str| Column::new(name, ColumnType::F32);
        let table = Table::builder()
            .time_index((0..6).collect())
            .f32(column("a"), vec![f32::NAN, 1.0, 2.0, 3.0, 4.0, 5.0])
            .f32(column("b"), vec![10.0, 11.0, 12.0, 13.0, 14.0, 15.0])
            .build()
            .unwrap();
        WindowSource::from_table(&table, 3).unwrap()
    }

    #[test]
    fn gathers_the_bars_up_to_and_including_the_row() {
        let windows = source().gather(&[5, 3]);

        assert_eq!(
            windows,
            [
                3.0, 13.0, 4.0, 14.0, 5.0, 15.0, 1.0, 11.0, 2.0, 12.0, 3.0, 13.0
            ]
        );
    }

    #[test]
    fn names_the_missing_value() {
        let source = source();

        assert!(source.check(&[3, 4, 5]).is_ok());
        assert_eq!(
            source.check(&[2]).unwrap_err().to_string(),
            "row 0, column `a`: missing value inside the window that ends at row 2"
        );
        assert!(
            source
                .check(&[1])
                .unwrap_err()
                .to_string()
                .contains("no window of 3 bars ends at row 1")
        );
        assert!(source.check(&[6]).is_err());
    }
}
