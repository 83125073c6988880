//! What the labels look like, and how they relate to the returns that follow.

use natron_artifacts::Metrics;
use natron_kernels::indicators::labels::forward_return;

use super::natron_v2::{DIRECTIONS, Labels, REGIMES};

/// Horizons, in bars, of the returns that labels are compared with.
const HORIZONS: [usize; 3] = [1, 3, 5];

/// For each label: `rows` (how many are defined), `missing`, `switching_rate` (share of rows whose label differs from that
/// of the row before), and for each class `share`, `mean_return.next_N` and `correlation.next_N`: the mean simple return
/// over the next N bars and the correlation of that return with being in the class.
///
/// A number that is not defined, as the correlation of a label that never changes, is left out.
pub(super) fn statistics(labels: &Labels, close: &[f64]) -> Result<Metrics, String> {
    let returns = HORIZONS.map(|horizon| (horizon, forward_return(close, horizon)));
    let mut metrics = Metrics::new();
    let flags = ["no", "yes"];
    for (name, label, classes) in [
        ("buy", &labels.buy, flags.as_slice()),
        ("sell", &labels.sell, &flags),
        ("direction", &labels.direction, &DIRECTIONS),
        ("regime", &labels.regime, &REGIMES),
    ] {
        metrics.set_tree(name, of_label(label, classes, &returns)?)?;
    }
    let both = labels
        .buy
        .iter()
        .zip(&labels.sell)
        .filter(|pair| *pair == (&Some(1), &Some(1)))
        .count();
    let rows = labels.buy.iter().flatten().count();
    put(
        &mut metrics,
        "buy_and_sell_share",
        both as f64 / rows as f64,
    )?;
    Ok(metrics)
}

fn of_label(
    label: &[Option<i64>],
    classes: &[&str],
    returns: &[(usize, Vec<f64>)],
) -> Result<Metrics, String> {
    let mut metrics = Metrics::new();
    let rows = label.iter().flatten().count();
    metrics.set_count("rows", rows as u64)?;
    metrics.set_count("missing", (label.len() - rows) as u64)?;
    let neighbours = || {
        label
            .windows(2)
            .filter_map(|pair| Some((pair[0]?, pair[1]?)))
    };
    let switches = neighbours().filter(|(before, now)| before != now).count();
    put(
        &mut metrics,
        "switching_rate",
        switches as f64 / neighbours().count() as f64,
    )?;
    for (class, class_name) in classes.iter().enumerate() {
        let is_in = |label: i64| label == class as i64;
        let count = label
            .iter()
            .flatten()
            .filter(|&&label| is_in(label))
            .count();
        put(
            &mut metrics,
            &format!("{class_name}.share"),
            count as f64 / rows as f64,
        )?;
        for (horizon, returns) in returns {
            let (mut members, mut follows, mut own) = (Vec::new(), Vec::new(), Vec::new());
            for (label, &forward) in label.iter().zip(returns) {
                let Some(label) = label.filter(|_| !forward.is_nan()) else {
                    continue;
                };
                members.push(f64::from(u8::from(is_in(label))));
                follows.push(forward);
                if is_in(label) {
                    own.push(forward);
                }
            }
            let mean = own.iter().sum::<f64>() / own.len() as f64;
            put(
                &mut metrics,
                &format!("{class_name}.mean_return.next_{horizon}"),
                mean,
            )?;
            let correlation = correlation(&members, &follows);
            put(
                &mut metrics,
                &format!("{class_name}.correlation.next_{horizon}"),
                correlation,
            )?;
        }
    }
    Ok(metrics)
}

/// Pearson correlation of two series of the same length; NaN where one is flat.
fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let (dx, dy) = (deviations(x), deviations(y));
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let spread = sum(&dx, &dx).sqrt() * sum(&dy, &dy).sqrt();
    if spread == 0.0 {
        return f64::NAN;
    }
    // Rounding can carry a perfect correlation just past 1.
    (sum(&dx, &dy) / spread).clamp(-1.0, 1.0)
}

/// The deviations from the mean, reached through one of the values: exact for a flat series.
fn deviations(x: &[f64]) -> Vec<f64> {
    let origin = x.first().copied().unwrap_or(f64::NAN);
    let mean = x.iter().map(|x| x - origin).sum::<f64>() / x.len() as f64;
    x.iter().map(|x| (x - origin) - mean).collect()
}

/// Sets a number where it is one.
fn put(metrics: &mut Metrics, path: &str, value: f64) -> Result<(), String> {
    if value.is_finite() {
        metrics.set(path, value)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_a_short_label_computed_by_hand() {
        let close = [1.0, 2.0, 1.0, 2.0, 1.0, 1.0];
        let returns = [(1, forward_return(&close, 1))];

        let metrics = of_label(
            &[None, Some(0), Some(1), Some(0), Some(1), Some(1)],
            &["no", "yes"],
            &returns,
        )
        .unwrap();

        assert_eq!(metrics.get("rows"), Some(5.0));
        assert_eq!(metrics.get("missing"), Some(1.0));
        assert_eq!(metrics.get("switching_rate"), Some(0.75));
        assert_eq!(metrics.get("yes.share"), Some(0.6));
        // The class is followed by 1 and 0, the others by -0.5 twice; the last row has no return.
        assert_eq!(metrics.get("yes.mean_return.next_1"), Some(0.5));
        assert_eq!(metrics.get("no.mean_return.next_1"), Some(-0.5));
        let expected = 1.0 / 1.5_f64.sqrt();
        assert!((metrics.get("yes.correlation.next_1").unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn what_is_not_defined_is_left_out() {
        let metrics = of_label(&[None, None], &["no", "yes"], &[(1, vec![0.0, f64::NAN])]).unwrap();

        assert_eq!(metrics.get("rows"), Some(0.0));
        assert_eq!(metrics.get("switching_rate"), None);
        assert_eq!(metrics.get("yes.share"), None);
    }
}
