//! Splits in order of time, with bars left out at their borders.

/// Where a window belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Split {
    Training = 0,
    Validation = 1,
    Test = 2,
}

impl Split {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Training => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// How windows are split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SplitPlan {
    pub(super) window_bars: u32,
    pub(super) test_share: f64,
    pub(super) validation_share: f64,
    pub(super) purge_bars: u32,
    pub(super) embargo_bars: u32,
}

/// Windows with their splits, in order of time. Windows left out at borders are not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Splits {
    rows: Vec<usize>,
    ids: Vec<Split>,
}

impl Splits {
    /// The rows where the windows end, ascending.
    pub(super) fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// The split of each window.
    pub(super) fn ids(&self) -> &[Split] {
        &self.ids
    }

    /// The row where the last training window ends.
    pub(super) fn last_training_row(&self) -> usize {
        let n_training = self.ids.partition_point(|split| *split == Split::Training);
        self.rows[n_training - 1]
    }
}

impl SplitPlan {
    /// Splits the windows that end at the rows `ends`.
    ///
    /// # Errors
    ///
    /// Which split is empty.
    pub(super) fn apply(&self, ends: &[usize]) -> Result<Splits, String> {
        let (purge, embargo) = (self.purge_bars as usize, self.embargo_bars as usize);
        let n_test = share(self.test_share, ends.len());
        let (earlier, test) = ends.split_at(ends.len() - n_test);
        let n_validation = share(self.validation_share, earlier.len());
        let (training, validation) = earlier.split_at(earlier.len() - n_validation);

        let mut splits = Splits {
            rows: Vec::with_capacity(ends.len()),
            ids: Vec::with_capacity(ends.len()),
        };
        // The first bar of the later splits is the border that a split keeps its distance from.
        let parts = [
            (
                Split::Training,
                training,
                validation.first().or(test.first()),
                1.0,
            ),
            (
                Split::Validation,
                validation,
                test.first(),
                self.validation_share,
            ),
            (Split::Test, test, None, self.test_share),
        ];
        for (split, rows, border, wanted) in parts {
            let start = rows.first().filter(|_| split != Split::Training);
            let before = splits.rows.len();
            let kept = rows.iter().filter(|&&row| {
                border.is_none_or(|&border| row + purge < border)
                    && start.is_none_or(|&start| row >= start + embargo)
            });
            splits.rows.extend(kept);
            splits.ids.resize(splits.rows.len(), split);
            if splits.rows.len() == before && wanted > 0.0 {
                return Err(format!(
                    "none is left for the {} split ({} training, {} validation, {} test before {purge} bars are purged \
                     and {embargo} embargoed at each border)",
                    split.name(),
                    training.len(),
                    validation.len(),
                    test.len(),
                ));
            }
        }
        Ok(splits)
    }

    /// How many windows without gaps leave some in every split.
    pub(super) fn least_windows(&self) -> usize {
        let enough = |n: usize| {
            let ends: Vec<usize> = (0..n).collect();
            self.apply(&ends).is_ok()
        };
        let mut most = 1;
        while !enough(most) && most < 1 << 24 {
            most *= 2;
        }
        let mut least = most / 2;
        while least + 1 < most {
            let middle = usize::midpoint(least, most);
            if enough(middle) {
                most = middle;
            } else {
                least = middle;
            }
        }
        most
    }
}

/// The share of `n`, to the nearest whole number.
fn share(share: f64, n: usize) -> usize {
    ((share * n as f64).round() as usize).min(n)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan() -> SplitPlan {
        SplitPlan {
            window_bars: 4,
            test_share: 0.2,
            validation_share: 0.1,
            purge_bars: 7,
            embargo_bars: 2,
        }
    }

    #[test]
    fn splits_by_time_with_a_distance() {
        let ends: Vec<usize> = (10..210).collect();

        let splits = plan().apply(&ends).unwrap();
        let of = |split| -> Vec<usize> {
            (0..splits.rows.len())
                .filter(|&i| splits.ids[i] == split)
                .map(|i| splits.rows[i])
                .collect()
        };
        // 40 windows for the test, from row 170; 16 for validation, from row 154.
        assert_eq!(of(Split::Training), (10..147).collect::<Vec<_>>());
        assert_eq!(of(Split::Validation), (156..163).collect::<Vec<_>>());
        assert_eq!(of(Split::Test), (172..210).collect::<Vec<_>>());
        assert_eq!(splits.last_training_row(), 146);
    }

    #[test]
    fn names_the_split_that_is_empty() {
        let error = plan().apply(&(0..50).collect::<Vec<_>>()).unwrap_err();
        assert!(
            error.contains("none is left for the validation split"),
            "{error}"
        );

        let least = plan().least_windows();
        assert!(plan().apply(&(0..least).collect::<Vec<_>>()).is_ok());
        assert!(plan().apply(&(0..least - 1).collect::<Vec<_>>()).is_err());
    }

    proptest! {
        #[test]
        fn no_label_or_window_reaches_across_a_border(
            holes in prop::collection::btree_set(0_usize..600, 0..80),
            window_bars in 1_u32..30,
            horizon_bars in 0_u32..20,
            embargo_bars in 0_u32..10,
            test_share in 0.1_f64..0.5,
            validation_share in 0.1_f64..0.5,
        ) {
            let ends: Vec<usize> = (40..600).filter(|row| !holes.contains(row)).collect();
            let purge_bars = window_bars + horizon_bars;
            let plan = SplitPlan { window_bars, test_share, validation_share, purge_bars, embargo_bars };
            let Ok(splits) = plan.apply(&ends) else { return Ok(()) };

            for (&row, &split) in splits.rows.iter().zip(&splits.ids) {
                let first_later = splits.rows.iter().zip(&splits.ids).find(|(_, other)| **other > split);
                if let Some((&later, _)) = first_later {
                    let first_row_of_later = later + 1 - window_bars as usize;
                    prop_assert!(row + (horizon_bars as usize) < first_row_of_later);
                }
            }
            prop_assert!(splits.ids.is_sorted() && splits.rows.is_sorted());
        }
    }
}
