//! Quantiles of trailing windows.

/// The `q` quantile of each window, linear between neighbouring order statistics (position `q * (window - 1)`, as numpy).
///
/// NaN where the window is not full yet or holds a NaN.
///
/// # Panics
/// If `window` is 0 or `q` is not in 0..=1.
pub fn rolling_quantile(x: &[f64], window: usize, q: f64) -> Vec<f64> {
    assert!(window > 0, "a window holds one row or more");
    assert!(
        (0.0..=1.0).contains(&q),
        "a quantile is a share from 0 to 1"
    );
    let mut out = vec![f64::NAN; x.len()];
    let mut sorted: Vec<f64> = Vec::with_capacity(window);
    for t in 0..x.len() {
        if t >= window {
            let leaving = x[t - window];
            if !leaving.is_nan() {
                let place = sorted.partition_point(|y| y.total_cmp(&leaving).is_lt());
                sorted.remove(place);
            }
        }
        if !x[t].is_nan() {
            let place = sorted.partition_point(|y| y.total_cmp(&x[t]).is_lt());
            sorted.insert(place, x[t]);
        }
        // A window with a NaN holds fewer than `window` numbers.
        if sorted.len() == window {
            out[t] = quantile_of_sorted(&sorted, q);
        }
    }
    out
}

/// The `q` quantile of ascending values, linear between order statistics; NaN when there are none.
pub fn quantile_of_sorted(sorted: &[f64], q: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    let position = q * (sorted.len() - 1) as f64;
    let below = position.floor();
    let share = position - below;
    let lower = sorted[below as usize];
    let upper = sorted[position.ceil() as usize];
    // From the nearer end, so that a share of 1 is exactly the upper value.
    if share < 0.5 {
        lower + (upper - lower) * share
    } else {
        upper - (upper - lower) * (1.0 - share)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_are_linear_between_order_statistics() {
        let sorted = [1.0, 2.0, 4.0];

        assert_eq!(quantile_of_sorted(&sorted, 0.0), 1.0);
        assert_eq!(quantile_of_sorted(&sorted, 0.25), 1.5);
        assert_eq!(quantile_of_sorted(&sorted, 0.75), 3.0);
        assert_eq!(quantile_of_sorted(&sorted, 1.0), 4.0);
        assert!(quantile_of_sorted(&[], 0.5).is_nan());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_rolling_quantile_is_that_of_the_sorted_window(
            x in proptest::collection::vec(prop_oneof![8 => -3.0..3.0, 1 => Just(0.5), 1 => Just(f64::NAN)], 0..80),
            window in 1_usize..12,
            q in 0.0..=1.0,
        ) {
            let quantiles = rolling_quantile(&x, window, q);

            for t in 0..x.len() {
                let rows = &x[(t + 1).saturating_sub(window)..=t];
                if rows.len() < window || rows.iter().any(|x| x.is_nan()) {
                    prop_assert!(quantiles[t].is_nan());
                } else {
                    let mut sorted = rows.to_vec();
                    sorted.sort_by(f64::total_cmp);
                    prop_assert_eq!(quantiles[t].to_bits(), quantile_of_sorted(&sorted, q).to_bits());
                }
            }
        }
    }
}
