//! The confusion matrix and the scores that it alone decides.

/// How often each true class (row) was predicted as each class (column).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Confusion {
    n_classes: usize,
    cells: Vec<u64>,
}

impl Confusion {
    /// Counts `truth` against `predicted`, observation `i` taken `counts[i]` times.
    pub(crate) fn new(
        n_classes: usize,
        truth: &[usize],
        predicted: &[usize],
        counts: &[u32],
    ) -> Self {
        let mut cells = vec![0; n_classes * n_classes];
        for ((&truth, &predicted), &count) in truth.iter().zip(predicted).zip(counts) {
            cells[truth * n_classes + predicted] += u64::from(count);
        }
        Self { n_classes, cells }
    }

    /// How often `truth` was predicted as `predicted`.
    pub(crate) fn cell(&self, truth: usize, predicted: usize) -> u64 {
        self.cells[truth * self.n_classes + predicted]
    }

    /// How many observations there are of each class.
    pub(crate) fn support(&self) -> Vec<u64> {
        (0..self.n_classes)
            .map(|class| (0..self.n_classes).map(|j| self.cell(class, j)).sum())
            .collect()
    }

    fn predicted(&self) -> Vec<u64> {
        (0..self.n_classes)
            .map(|class| (0..self.n_classes).map(|i| self.cell(i, class)).sum())
            .collect()
    }

    fn total(&self) -> u64 {
        self.cells.iter().sum()
    }

    fn hits(&self) -> u64 {
        (0..self.n_classes).map(|i| self.cell(i, i)).sum()
    }

    /// Share of observations whose class was predicted.
    pub(crate) fn accuracy(&self) -> Option<f64> {
        ratio(self.hits() as f64, self.total() as f64)
    }

    /// Mean over the classes that occur of the share of each that was found; `None` with fewer than two classes.
    pub(crate) fn balanced_accuracy(&self) -> Option<f64> {
        let support = self.support();
        let recalls: Vec<f64> = (0..self.n_classes)
            .filter_map(|i| ratio(self.cell(i, i) as f64, support[i] as f64))
            .collect();
        (recalls.len() > 1).then(|| recalls.iter().sum::<f64>() / recalls.len() as f64)
    }

    /// Harmonic mean of precision and recall of `class`; `None` when it neither occurs nor is predicted.
    pub(crate) fn f1(&self, class: usize) -> Option<f64> {
        let hits = self.cell(class, class) as f64;
        ratio(
            2.0 * hits,
            (self.support()[class] + self.predicted()[class]) as f64,
        )
    }

    /// Mean F1 of the classes that occur or are predicted; `None` when only one class occurs.
    pub(crate) fn macro_f1(&self) -> Option<f64> {
        if self.support().iter().filter(|&&n| n > 0).count() < 2 {
            return None;
        }
        let scores: Vec<f64> = (0..self.n_classes).filter_map(|c| self.f1(c)).collect();
        ratio(scores.iter().sum(), scores.len() as f64)
    }

    /// Matthews correlation of truth and prediction for any number of classes (Gorodkin, 2004, "Comparing two K-category
    /// assignments by a K-category correlation coefficient"); `None` when either is constant.
    pub(crate) fn matthews_correlation(&self) -> Option<f64> {
        let (support, predicted) = (self.support(), self.predicted());
        let total = self.total() as f64;
        let dot = |a: &[u64], b: &[u64]| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum()
        };
        let covariance = self.hits() as f64 * total - dot(&support, &predicted);
        let truth_variance = total * total - dot(&support, &support);
        let predicted_variance = total * total - dot(&predicted, &predicted);
        ratio(covariance, (truth_variance * predicted_variance).sqrt())
    }
}

fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    (denominator > 0.0).then(|| numerator / denominator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confusion(n_classes: usize, pairs: &[(usize, usize)]) -> Confusion {
        let (truth, predicted): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
        Confusion::new(n_classes, &truth, &predicted, &vec![1; pairs.len()])
    }

    fn close(found: Option<f64>, expected: f64) {
        let found = found.unwrap();
        assert!(
            (found - expected).abs() < 1e-14,
            "{found} is not {expected}"
        );
    }

    #[test]
    fn scores_are_those_of_the_hand_counted_matrix() {
        // tp 3, fn 1, fp 2, tn 4.
        let mut pairs = vec![(1, 1); 3];
        pairs.extend([(1, 0), (0, 1), (0, 1)]);
        pairs.extend([(0, 0); 4]);
        let matrix = confusion(2, &pairs);

        close(matrix.accuracy(), 0.7);
        close(matrix.f1(1), 6.0 / 9.0);
        close(matrix.balanced_accuracy(), f64::midpoint(0.75, 4.0 / 6.0));
        close(
            matrix.matthews_correlation(),
            (3.0 * 4.0 - 2.0 * 1.0) / (5.0 * 4.0 * 6.0 * 5.0_f64).sqrt(),
        );
    }

    #[test]
    fn three_classes_average_their_own_scores() {
        let matrix = confusion(3, &[(0, 0), (0, 1), (1, 1), (2, 2)]);

        close(matrix.macro_f1(), (2.0 / 3.0 + 2.0 / 3.0 + 1.0) / 3.0);
        close(
            matrix.matthews_correlation(),
            7.0 / (10.0_f64 * 10.0).sqrt(),
        );
    }

    #[test]
    fn what_one_class_cannot_decide_is_left_out() {
        let matrix = confusion(2, &[(0, 0), (0, 0)]);

        close(matrix.accuracy(), 1.0);
        assert_eq!(matrix.matthews_correlation(), None);
        assert_eq!(matrix.balanced_accuracy(), None);
        assert_eq!(matrix.macro_f1(), None);
        assert_eq!(matrix.f1(1), None);
    }

    #[test]
    fn an_observation_drawn_twice_counts_twice() {
        let twice = Confusion::new(2, &[0, 1, 1], &[0, 1, 0], &[2, 0, 1]);

        assert_eq!(twice, confusion(2, &[(0, 0), (0, 0), (1, 0)]));
    }
}
