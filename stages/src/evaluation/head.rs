//! One head's predictions on one split, scored beside what needs no model.

use super::{
    confusion::Confusion,
    probability::{Bin, brier_score, calibration_error, log_loss, reliability},
    ranking::Ranking,
};

/// What is computed for every head, in the order of [`Head::scores`].
pub(crate) const SCORES: [&str; 9] = [
    "accuracy",
    "balanced_accuracy",
    "f1",
    "macro_f1",
    "mcc",
    "auc",
    "log_loss",
    "brier_score",
    "calibration_error",
];

/// Whether a lower value of the score is better.
pub(crate) fn lower_is_better(score: &str) -> bool {
    matches!(score, "log_loss" | "brier_score" | "calibration_error")
}

/// Who predicts, in the order of [`Head::scores`].
pub(crate) const PREDICTORS: [&str; 3] = ["model", "base_rate", "persistence"];

/// A head's probabilities and the truth.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    n_classes: usize,
    truth: Vec<usize>,
    probabilities: Vec<f64>,
    predicted: Vec<usize>,
    base_rates: Vec<f64>,
    persistence: Vec<usize>,
    rankings: Vec<Ranking>,
    stated: Vec<f64>,
    came_true: Vec<bool>,
}

impl Head {
    /// A head with `probabilities` \[rows, classes\] for `truth`.
    ///
    /// `base_rates` are the shares of the classes in the training split: what a model without inputs would say.
    /// `persistence` is the last label that was known when each prediction was made. With two classes the second one counts
    /// as positive, and is predicted from one half on.
    pub(crate) fn new(
        probabilities: Vec<f64>,
        truth: Vec<usize>,
        base_rates: Vec<f64>,
        persistence: Vec<usize>,
    ) -> Self {
        let n_classes = base_rates.len();
        let column = |class: usize| -> Vec<f64> {
            probabilities
                .iter()
                .skip(class)
                .step_by(n_classes)
                .copied()
                .collect()
        };
        let predicted: Vec<usize> = probabilities.chunks(n_classes).map(largest).collect();
        let (stated, came_true, rankings) = if n_classes == 2 {
            let stated = column(1);
            let came_true = truth.iter().map(|&class| class == 1).collect();
            let ranking = Ranking::new(&stated);
            (stated, came_true, vec![ranking])
        } else {
            let stated = probabilities
                .chunks(n_classes)
                .zip(&predicted)
                .map(|(row, &class)| row[class])
                .collect();
            let came_true = predicted.iter().zip(&truth).map(|(p, t)| p == t).collect();
            let rankings = (0..n_classes)
                .map(|class| Ranking::new(&column(class)))
                .collect();
            (stated, came_true, rankings)
        };
        Self {
            n_classes,
            truth,
            probabilities,
            predicted,
            base_rates,
            persistence,
            rankings,
            stated,
            came_true,
        }
    }

    /// How many observations there are.
    pub(crate) fn n_rows(&self) -> usize {
        self.truth.len()
    }

    /// Classes in the truth that occur.
    pub(crate) fn n_classes_present(&self) -> usize {
        self.confusion()
            .support()
            .iter()
            .filter(|&&n| n > 0)
            .count()
    }

    /// The confusion matrix of the sample itself.
    pub(crate) fn confusion(&self) -> Confusion {
        let ones = vec![1; self.n_rows()];
        Confusion::new(self.n_classes, &self.truth, &self.predicted, &ones)
    }

    /// The reliability curve of the sample itself: of the positive class with two classes, of the predicted class with more.
    pub(crate) fn reliability(&self) -> Vec<Bin> {
        reliability(&self.stated, &self.came_true, &vec![1; self.n_rows()])
    }

    /// Every one of [`SCORES`] for every one of [`PREDICTORS`], scores first: index `predictor * SCORES.len() + score`.
    pub(crate) fn scores(&self, counts: &[u32]) -> Vec<Option<f64>> {
        let n = self.n_rows();
        let confusion =
            |predicted: &[usize]| Confusion::new(self.n_classes, &self.truth, predicted, counts);
        let hard = |matrix: &Confusion| {
            let f1 = (self.n_classes == 2).then(|| matrix.f1(1)).flatten();
            [
                matrix.accuracy(),
                matrix.balanced_accuracy(),
                f1,
                matrix.macro_f1(),
                matrix.matthews_correlation(),
            ]
        };
        let mut scores = Vec::with_capacity(SCORES.len() * PREDICTORS.len());

        scores.extend(hard(&confusion(&self.predicted)));
        scores.push(self.auc(counts));
        scores.push(log_loss(
            &self.probabilities,
            self.n_classes,
            &self.truth,
            counts,
        ));
        scores.push(brier_score(
            &self.probabilities,
            self.n_classes,
            &self.truth,
            counts,
        ));
        scores.push(calibration_error(&reliability(
            &self.stated,
            &self.came_true,
            counts,
        )));

        let majority = largest(&self.base_rates);
        let constant = self.base_rates.repeat(n);
        scores.extend(hard(&confusion(&vec![majority; n])));
        // A constant score wins half of all pairs: that is its area, where there are pairs.
        scores.push(self.auc(counts).map(|_| 0.5));
        scores.push(log_loss(&constant, self.n_classes, &self.truth, counts));
        scores.push(brier_score(&constant, self.n_classes, &self.truth, counts));
        let positive = if self.n_classes == 2 { 1 } else { majority };
        let came_true: Vec<bool> = self.truth.iter().map(|&class| class == positive).collect();
        let stated = vec![self.base_rates[positive]; n];
        scores.push(calibration_error(&reliability(&stated, &came_true, counts)));

        let matrix = confusion(&self.persistence);
        scores.extend(hard(&matrix));
        // A hard prediction's ROC curve has one corner, so with two classes its area is the balanced accuracy.
        scores.push(
            (self.n_classes == 2)
                .then(|| matrix.balanced_accuracy())
                .flatten(),
        );
        // It states no probabilities.
        scores.extend([None, None, None]);
        scores
    }

    /// With two classes the area of the positive one; with more the mean of each class against the rest, over the classes
    /// that occur.
    fn auc(&self, counts: &[u32]) -> Option<f64> {
        let first = usize::from(self.n_classes == 2);
        let areas: Vec<f64> = self
            .rankings
            .iter()
            .enumerate()
            .filter_map(|(k, ranking)| {
                let is_positive: Vec<bool> =
                    self.truth.iter().map(|&class| class == first + k).collect();
                ranking.auc(&is_positive, counts)
            })
            .collect();
        (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
    }
}

/// The class with the largest value; of equal ones the last with two classes (one half predicts the positive), else the first.
fn largest(row: &[f64]) -> usize {
    if row.len() == 2 {
        return usize::from(row[1] >= row[0]);
    }
    let mut best = 0;
    for (class, &value) in row.iter().enumerate() {
        if value > row[best] {
            best = class;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(scores: &[Option<f64>], predictor: usize, name: &str) -> Option<f64> {
        let position = SCORES.iter().position(|s| *s == name).unwrap();
        scores[predictor * SCORES.len() + position]
    }

    #[test]
    fn the_model_stands_beside_what_needs_none() {
        let probabilities = vec![0.8, 0.2, 0.3, 0.7, 0.6, 0.4, 0.1, 0.9];
        let head = Head::new(
            probabilities,
            vec![0, 1, 1, 1],
            vec![0.6, 0.4],
            vec![0, 0, 1, 1],
        );
        let scores = head.scores(&[1; 4]);

        assert_eq!(scores.len(), SCORES.len() * PREDICTORS.len());
        assert_eq!(score(&scores, 0, "accuracy"), Some(0.75));
        assert_eq!(score(&scores, 0, "auc"), Some(1.0));
        assert_eq!(score(&scores, 1, "accuracy"), Some(0.25));
        assert_eq!(score(&scores, 1, "auc"), Some(0.5));
        assert_eq!(score(&scores, 2, "accuracy"), Some(0.75));
        assert_eq!(score(&scores, 2, "log_loss"), None);
        let calibration = score(&scores, 1, "calibration_error").unwrap();
        assert!((calibration - 0.35).abs() < 1e-15, "{calibration}");
    }

    #[test]
    fn one_class_leaves_out_what_needs_two() {
        let head = Head::new(
            vec![0.8, 0.2, 0.3, 0.7],
            vec![0, 0],
            vec![0.6, 0.4],
            vec![0, 0],
        );
        let scores = head.scores(&[1; 2]);

        assert_eq!(head.n_classes_present(), 1);
        for name in ["auc", "mcc", "balanced_accuracy", "macro_f1"] {
            assert_eq!(score(&scores, 0, name), None, "{name}");
            assert_eq!(score(&scores, 1, name), None, "{name}");
        }
        assert_eq!(score(&scores, 0, "accuracy"), Some(0.5));
    }

    #[test]
    fn three_classes_rank_each_against_the_rest() {
        let probabilities = vec![0.7, 0.2, 0.1, 0.1, 0.8, 0.1, 0.3, 0.3, 0.4];
        let head = Head::new(
            probabilities,
            vec![0, 1, 2],
            vec![0.5, 0.3, 0.2],
            vec![0, 0, 1],
        );
        let scores = head.scores(&[1; 3]);

        assert_eq!(score(&scores, 0, "auc"), Some(1.0));
        assert_eq!(score(&scores, 0, "f1"), None);
        assert_eq!(
            head.reliability().iter().map(|bin| bin.count).sum::<u64>(),
            3
        );
    }
}
