//! The heads against the returns that follow: what their probabilities are worth to whoever trades on them.

use natron_artifacts::{Metrics, StageError};

use super::{
    observations::{HEADS, Observations},
    scores::{Scored, record_interval},
    set,
};
use crate::evaluation::{bootstrap::interval, ranking::Ranking};

/// The heads that say where the price goes: position in [`HEADS`], and what their probabilities and labels say of the sign.
const BUY: usize = 0;
const SELL: usize = 1;
const DIRECTION: usize = 2;

/// Records `forward.<split>.<head>.<statistic>.{value, low, high, baseline}` for the return from the window's last close to
/// the close `label_horizon_bars` later:
///
/// - `information_coefficient`: rank correlation of the head's score with the return (baseline 0);
/// - `auc`: how well the score tells rises from falls (baseline one half);
/// - `hit_rate`: how often the return has the sign that the head calls for, where it calls at all; the baseline is how often
///   it has that sign anyway;
/// - `label_information_coefficient`: the same correlation for the true label, which is what a perfect head would reach.
///
/// A head's score is `p(buy)`, `-p(sell)` and `p(up) - p(down)`.
pub(super) fn record(
    scored: &Scored<'_>,
    close: &[f64],
    metrics: &mut Metrics,
) -> Result<(), StageError> {
    let observations = scored.observations;
    let horizon = observations.horizon_bars.max(1);
    let windows: Vec<usize> = scored
        .rows
        .iter()
        .copied()
        .filter(|&i| observations.rows[i] + horizon < close.len())
        .collect();
    let returns: Vec<f64> = windows
        .iter()
        .map(|&i| {
            let row = observations.rows[i];
            close[row + horizon] / close[row] - 1.0
        })
        .collect();
    if returns.is_empty() {
        return Ok(());
    }
    let returns_ranking = Ranking::new(&returns);
    let rises: Vec<bool> = returns.iter().map(|&r| r > 0.0).collect();
    let falls: Vec<bool> = returns.iter().map(|&r| r < 0.0).collect();
    for k in [BUY, SELL, DIRECTION] {
        let (mut scores, mut calls, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        for &i in &windows {
            let (score, call, label) = stance(observations, k, i);
            scores.push(score);
            calls.push(call);
            labels.push(label);
        }
        let ranking = Ranking::new(&scores);
        let label_ranking = Ranking::new(&labels);
        let statistics = |counts: &[u32]| {
            vec![
                ranking.spearman(&returns_ranking, counts),
                ranking.auc(&rises, counts),
                hit_rate(&calls, &rises, &falls, counts),
                label_ranking.spearman(&returns_ranking, counts),
            ]
        };
        let ones = vec![1; returns.len()];
        let sample = statistics(&ones);
        let stream = format!("bootstrap.forward.{}", scored.split);
        let resamples = scored
            .bootstrap
            .run(returns.len(), scored.streams, &stream, statistics);
        let at = format!("forward.{}.{}", scored.split, HEADS[k].name);
        let share =
            |which: &[bool]| which.iter().filter(|&&b| b).count() as f64 / which.len() as f64;
        let anyway = match k {
            BUY => share(&rises),
            SELL => share(&falls),
            _ => share(&rises).max(share(&falls)),
        };
        let names = [
            "information_coefficient",
            "auc",
            "hit_rate",
            "label_information_coefficient",
        ];
        for (s, (name, baseline)) in names.into_iter().zip([0.0, 0.5, anyway, 0.0]).enumerate() {
            let Some(value) = sample[s] else {
                set(
                    metrics,
                    &format!("left_out.forward.{}.{}.{name}", scored.split, HEADS[k].name),
                    1.0,
                )?;
                continue;
            };
            set(metrics, &format!("{at}.{name}.value"), value)?;
            set(metrics, &format!("{at}.{name}.baseline"), baseline)?;
            record_interval(
                metrics,
                &format!("{at}.{name}"),
                "",
                interval(&resamples, s),
            )?;
        }
        let called = calls.iter().filter(|&&call| call != 0).count();
        set(metrics, &format!("{at}.called"), called as f64)?;
        set(metrics, &format!("{at}.n_windows"), returns.len() as f64)?;
    }
    Ok(())
}

/// What the head at position `k` says of window `i`: its score, the sign it calls for (0 for none), and the label's sign.
fn stance(observations: &Observations, k: usize, i: usize) -> (f64, i8, f64) {
    let p = |class: usize| observations.probability(k, i, class);
    let label = observations.labels[k][i];
    match k {
        BUY => (p(1), i8::from(p(1) >= 0.5), label as f64),
        SELL => (-p(1), -i8::from(p(1) >= 0.5), -(label as f64)),
        _ => {
            let score = p(1) - p(0);
            let is_neutral = p(2) > p(0).max(p(1));
            let call = match (is_neutral, score > 0.0) {
                (true, _) => 0,
                (false, true) => 1,
                (false, false) => -1,
            };
            (score, call, [-1.0, 1.0, 0.0][label])
        }
    }
}

/// How often the return has the sign that was called; `None` without calls.
fn hit_rate(calls: &[i8], rises: &[bool], falls: &[bool], counts: &[u32]) -> Option<f64> {
    let (mut hits, mut n) = (0_u64, 0_u64);
    for (i, &call) in calls.iter().enumerate() {
        if call != 0 {
            n += u64::from(counts[i]);
            if (call > 0 && rises[i]) || (call < 0 && falls[i]) {
                hits += u64::from(counts[i]);
            }
        }
    }
    (n > 0).then(|| hits as f64 / n as f64)
}
