//! Scores that depend on the order of values alone: area under the ROC curve and rank correlation. Ties count half.

/// Values with their order, computed once for all resamples.
#[derive(Debug, Clone)]
pub(crate) struct Ranking {
    /// Indices of the observations, lowest value first.
    order: Vec<u32>,
    /// Where each group of equal values ends in `order`.
    group_ends: Vec<u32>,
}

impl Ranking {
    /// The order of `values`, which are finite.
    pub(crate) fn new(values: &[f64]) -> Self {
        let mut order: Vec<u32> = (0..values.len() as u32).collect();
        order.sort_by(|&a, &b| values[a as usize].total_cmp(&values[b as usize]));
        let group_ends = (1..=order.len())
            .filter(|&i| {
                i == order.len() || {
                    let (before, value) =
                        (values[order[i - 1] as usize], values[order[i] as usize]);
                    before < value
                }
            })
            .map(|i| i as u32)
            .collect();
        Self { order, group_ends }
    }

    fn groups(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.group_ends.iter().copied());
        starts
            .zip(&self.group_ends)
            .map(|(start, &end)| &self.order[start as usize..end as usize])
    }

    /// Area under the ROC curve: the chance that a positive observation has the higher value, ties half. Exact, as it
    /// counts pairs in integers. `None` unless both classes occur.
    pub(crate) fn auc(&self, is_positive: &[bool], counts: &[u32]) -> Option<f64> {
        let (mut positives, mut negatives, mut twice_wins) = (0_u64, 0_u64, 0_u64);
        for group in self.groups() {
            let (mut positive, mut negative) = (0, 0);
            for &i in group {
                let count = u64::from(counts[i as usize]);
                if is_positive[i as usize] {
                    positive += count;
                } else {
                    negative += count;
                }
            }
            twice_wins += positive * (2 * negatives + negative);
            positives += positive;
            negatives += negative;
        }
        let pairs = positives * negatives;
        (pairs > 0).then(|| twice_wins as f64 / (2 * pairs) as f64)
    }

    /// The rank of every observation in the resample, equal values sharing their mean rank; those not drawn have theirs too.
    fn ranks(&self, counts: &[u32]) -> Vec<f64> {
        let mut ranks = vec![0.0; self.order.len()];
        let mut before = 0_u64;
        for group in self.groups() {
            let size: u64 = group.iter().map(|&i| u64::from(counts[i as usize])).sum();
            let rank = before as f64 + f64::midpoint(size as f64, 1.0);
            for &i in group {
                ranks[i as usize] = rank;
            }
            before += size;
        }
        ranks
    }

    /// Spearman's rank correlation with `other`; `None` when either is constant.
    pub(crate) fn spearman(&self, other: &Self, counts: &[u32]) -> Option<f64> {
        correlation(&self.ranks(counts), &other.ranks(counts), counts)
    }
}

/// Pearson's correlation; `None` when either side is constant.
fn correlation(x: &[f64], y: &[f64], counts: &[u32]) -> Option<f64> {
    let n: f64 = counts.iter().map(|&count| f64::from(count)).sum();
    let mean = |values: &[f64]| -> f64 {
        values
            .iter()
            .zip(counts)
            .map(|(&v, &count)| v * f64::from(count))
            .sum::<f64>()
            / n
    };
    if n < 2.0 {
        return None;
    }
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for ((&x, &y), &count) in x.iter().zip(y).zip(counts) {
        let (dx, dy, count) = (x - mean_x, y - mean_y, f64::from(count));
        xx += count * dx * dx;
        yy += count * dy * dy;
        xy += count * dx * dy;
    }
    (xx > 0.0 && yy > 0.0).then(|| (xy / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ones(n: usize) -> Vec<u32> {
        vec![1; n]
    }

    #[test]
    fn ties_count_half() {
        let ranking = Ranking::new(&[0.1, 0.4, 0.4, 0.8]);

        let auc = ranking.auc(&[false, true, false, true], &ones(4)).unwrap();
        assert!((auc - 3.5 / 4.0).abs() < 1e-15, "{auc}");
        assert_eq!(ranking.auc(&[true; 4], &ones(4)), None);
    }

    #[test]
    fn spearman_follows_order_not_size() {
        let x = Ranking::new(&[1.0, 2.0, 3.0, 4.0]);
        let y = Ranking::new(&[-1.0, 0.0, 50.0, 9e9]);

        let rho = x.spearman(&y, &ones(4)).unwrap();
        assert!((rho - 1.0).abs() < 1e-15, "{rho}");
        assert_eq!(x.spearman(&Ranking::new(&[2.0; 4]), &ones(4)), None);
    }

    proptest! {
        #[test]
        fn auc_is_the_share_of_pairs_won(
            sample in proptest::collection::vec((0_u8..6, any::<bool>(), 0_u32..3), 1..40),
        ) {
            let scores: Vec<f64> = sample.iter().map(|s| f64::from(s.0)).collect();
            let positive: Vec<bool> = sample.iter().map(|s| s.1).collect();
            let counts: Vec<u32> = sample.iter().map(|s| s.2).collect();
            let (mut won, mut pairs) = (0.0, 0.0);
            for a in sample.iter().filter(|s| s.1) {
                for b in sample.iter().filter(|s| !s.1) {
                    let weight = f64::from(a.2 * b.2);
                    pairs += weight;
                    won += weight * match a.0.cmp(&b.0) {
                        std::cmp::Ordering::Greater => 1.0,
                        std::cmp::Ordering::Equal => 0.5,
                        std::cmp::Ordering::Less => 0.0,
                    };
                }
            }

            let found = Ranking::new(&scores).auc(&positive, &counts);
            match found {
                Some(auc) => prop_assert!((auc - won / pairs).abs() < 1e-12),
                None => prop_assert!(pairs == 0.0),
            }
        }

        #[test]
        fn counts_mean_repetition(
            sample in proptest::collection::vec((0_u8..6, 0_u8..6, 0_u32..3), 2..30),
        ) {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            for &(a, b, count) in &sample {
                for _ in 0..count {
                    x.push(f64::from(a));
                    y.push(f64::from(b));
                }
            }
            let repeated = Ranking::new(&x).spearman(&Ranking::new(&y), &ones(x.len()));
            let xs: Vec<f64> = sample.iter().map(|s| f64::from(s.0)).collect();
            let ys: Vec<f64> = sample.iter().map(|s| f64::from(s.1)).collect();
            let counts: Vec<u32> = sample.iter().map(|s| s.2).collect();

            let weighted = Ranking::new(&xs).spearman(&Ranking::new(&ys), &counts);
            match (repeated, weighted) {
                (Some(a), Some(b)) => prop_assert!((a - b).abs() < 1e-12),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }
}
