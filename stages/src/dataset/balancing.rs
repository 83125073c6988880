//! Balancing and perturbation of the buy and sell labels that a model is trained on.

use natron_artifacts::{StageContext, StageError, Stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Data,
    split::{Split, Splits},
};

/// How the training labels `train_buy` and `train_sell` differ from `buy` and `sell`. Validation and test are never touched.
///
/// Where the share of positives exceeds `trigger` times `target_share`, randomly chosen positives become 0 until the share is
/// `target_share`; then `perturbation_share` of all labels, randomly chosen, are inverted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Balancing {
    /// Share of positives to come down to; 1 switches balancing off. Default: 0.35, the document's.
    target_share: f64,
    /// How far the share must exceed `target_share`, as a factor. Default: 1.2, the document's.
    trigger: f64,
    /// Share of labels to invert; 0 switches it off. Default: 0.02, the document's.
    perturbation_share: f64,
}

/// Labels to train on, and how they came to differ from the true ones.
pub(super) struct Balanced {
    /// `train_buy` and `train_sell` of all windows, in the order of the windows.
    pub(super) labels: [Vec<i64>; 2],
    /// Share of the training split's positives that balancing kept, of buy and of sell; 1 where there were none.
    pub(super) kept_shares: [f64; 2],
    /// Share of the training labels that perturbation inverted.
    pub(super) flip_share: f64,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            target_share: 0.35,
            trigger: 1.2,
            perturbation_share: 0.02,
        }
    }
}

impl Balancing {
    pub(super) fn check(&self) -> Result<(), StageError> {
        for (name, value, low, high) in [
            ("target_share", self.target_share, 0.01, 1.0),
            ("trigger", self.trigger, 1.0, 100.0),
            ("perturbation_share", self.perturbation_share, 0.0, 0.49),
        ] {
            if !(low..=high).contains(&value) {
                let message = format!("`{name}` is {value}, and must be from {low} to {high}");
                return Err(StageError::parameter(format!("balancing.{name}"), message));
            }
        }
        Ok(())
    }

    /// The labels to train on, for all windows.
    pub(super) fn applied(&self, data: &Data, splits: &Splits, context: &StageContext) -> Balanced {
        let n_training = splits
            .ids()
            .partition_point(|split| *split == Split::Training);
        let train = |head: usize, name: &str| {
            let rows = splits.rows().iter();
            let mut labels: Vec<i64> = rows
                .map(|&row| data.labels[head][row].expect("windows end where labels are defined"))
                .collect();
            let kept_share = self.balance(
                &mut labels[..n_training],
                &mut context.stream(&format!("balance {name}")),
            );
            let flip_share = self.perturb(
                &mut labels[..n_training],
                &mut context.stream(&format!("perturb {name}")),
            );
            (labels, kept_share, flip_share)
        };
        let (buy, buy_kept, flip_share) = train(0, "buy");
        // As many of the sell labels are inverted.
        let (sell, sell_kept, _) = train(1, "sell");
        Balanced {
            labels: [buy, sell],
            kept_shares: [buy_kept, sell_kept],
            flip_share,
        }
    }

    /// Turns positives into zeros; the share of them that it keeps.
    fn balance(&self, labels: &mut [i64], stream: &mut Stream) -> f64 {
        let mut positives: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] == 1).collect();
        let n = labels.len() as f64;
        if positives.len() as f64 <= self.trigger * self.target_share * n {
            return 1.0;
        }
        let keep = (self.target_share * n).round() as usize;
        stream.shuffle(&mut positives);
        for &i in positives.iter().skip(keep) {
            labels[i] = 0;
        }
        keep.min(positives.len()) as f64 / positives.len() as f64
    }

    /// Inverts some labels; their share.
    fn perturb(&self, labels: &mut [i64], stream: &mut Stream) -> f64 {
        let mut chosen: Vec<usize> = (0..labels.len()).collect();
        stream.shuffle(&mut chosen);
        chosen.truncate((self.perturbation_share * labels.len() as f64).round() as usize);
        let flipped = chosen.len();
        for i in chosen {
            labels[i] = 1 - labels[i];
        }
        flipped as f64 / labels.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use natron_artifacts::Streams;

    use super::*;

    #[test]
    fn comes_down_to_the_target_and_no_further() {
        let stream = || Streams::new(3).stream("test");
        let balancing = Balancing::default();
        let labels = |positives: usize| -> Vec<i64> {
            (0..1000).map(|i| i64::from(i < positives)).collect()
        };
        let balanced = |positives: usize| {
            let mut labels = labels(positives);
            balancing.balance(&mut labels, &mut stream());
            labels.iter().sum::<i64>()
        };

        assert_eq!(
            [balanced(300), balanced(420), balanced(421), balanced(900)],
            [300, 420, 350, 350]
        );
        let mut perturbed = labels(300);
        balancing.perturb(&mut perturbed, &mut stream());
        let changed = perturbed
            .iter()
            .zip(labels(300))
            .filter(|(a, b)| **a != *b)
            .count();
        assert_eq!(changed, 20);
    }
}
