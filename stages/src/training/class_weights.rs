//! Class weights from the labels of the training split.

/// `n / (classes * count)` for each class; 1 for a class that does not occur, which only validation can hold.
pub(crate) fn balanced(labels: impl Iterator<Item = u8>, classes: usize) -> Vec<f64> {
    let mut counts = vec![0_u64; classes];
    for label in labels {
        counts[label as usize] += 1;
    }
    let n: u64 = counts.iter().sum();
    counts
        .iter()
        .map(|&count| {
            if count == 0 {
                1.0
            } else {
                n as f64 / (classes as f64 * count as f64)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_that_occurs_weighs_the_same_in_all() {
        assert_eq!(
            balanced([0, 0, 0, 2].into_iter(), 3),
            [4.0 / 9.0, 1.0, 4.0 / 3.0]
        );
    }
}
