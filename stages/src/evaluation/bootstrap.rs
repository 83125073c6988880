//! The stationary block bootstrap (Politis and Romano, 1994, "The stationary bootstrap"): resamples of dependent
//! observations in blocks of geometric length, wrapped around the end.

use natron_artifacts::{Stream, Streams};
use rayon::prelude::*;

/// How resamples are drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bootstrap {
    /// Mean length of a block, in bars.
    pub(crate) block_bars: usize,
    /// Number of resamples.
    pub(crate) n_resamples: usize,
}

/// A two-sided 95 % percentile interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Interval {
    /// Its 2.5 % end.
    pub(crate) low: f64,
    /// Its 97.5 % end.
    pub(crate) high: f64,
}

impl Bootstrap {
    /// The rule for the mean block length: the cube root of the sample, the order that is optimal for a mean (Politis and
    /// White, 2004), and at least twice the horizon over which neighbouring labels share bars.
    pub(crate) fn block_rule(n: usize, horizon_bars: usize) -> usize {
        let mut root = 1;
        while root * root * root < n {
            root += 1;
        }
        root.max(2 * horizon_bars).clamp(1, n.max(1))
    }

    /// `statistics` of every resample of `n` observations, in the order of the resamples. Resample `b` draws from its own
    /// stream `name.b`, so threads do not matter.
    pub(crate) fn run(
        &self,
        n: usize,
        streams: Streams,
        name: &str,
        statistics: impl Fn(&[u32]) -> Vec<Option<f64>> + Sync,
    ) -> Vec<Vec<Option<f64>>> {
        (0..self.n_resamples)
            .into_par_iter()
            .map(|b| {
                let mut stream = streams.stream(&format!("{name}.{b}"));
                statistics(&resample(n, self.block_bars, &mut stream))
            })
            .collect()
    }
}

/// How often each of `n` observations occurs in one resample of size `n`.
fn resample(n: usize, block_bars: usize, stream: &mut Stream) -> Vec<u32> {
    let mut counts = vec![0; n];
    if n == 0 {
        return counts;
    }
    let jump_below = ((1_u64 << 32) / block_bars.max(1) as u64) as u32;
    let mut i = stream.below(n as u64) as usize;
    for _ in 0..n {
        counts[i] += 1;
        let jumps = block_bars <= 1 || stream.next_u32() < jump_below;
        i = if jumps {
            stream.below(n as u64) as usize
        } else {
            (i + 1) % n
        };
    }
    counts
}

/// The interval of the `k`-th statistic over the resamples; `None` when fewer than nine in ten could compute it.
pub(crate) fn interval(resamples: &[Vec<Option<f64>>], k: usize) -> Option<Interval> {
    interval_of(resamples.len(), resamples.iter().filter_map(|row| row[k]))
}

/// The interval of the difference between statistics `a` and `b`, computed resample by resample.
pub(crate) fn difference_interval(
    resamples: &[Vec<Option<f64>>],
    a: usize,
    b: usize,
) -> Option<Interval> {
    let differences = resamples.iter().filter_map(|row| Some(row[a]? - row[b]?));
    interval_of(resamples.len(), differences)
}

fn interval_of(n_resamples: usize, values: impl Iterator<Item = f64>) -> Option<Interval> {
    let mut values: Vec<f64> = values.collect();
    if values.is_empty() || values.len() * 10 < n_resamples * 9 {
        return None;
    }
    values.sort_by(f64::total_cmp);
    Some(Interval {
        low: quantile(&values, 0.025),
        high: quantile(&values, 0.975),
    })
}

/// The quantile `q` of sorted values, linear between order statistics.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let (below, share) = (position.floor() as usize, position.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + share * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(x: &[f64], counts: &[u32]) -> f64 {
        let sum: f64 = x.iter().zip(counts).map(|(x, &c)| x * f64::from(c)).sum();
        sum / x.len() as f64
    }

    #[test]
    fn resamples_keep_size_and_mean_block_length() {
        let mut stream = Streams::new(1).stream("test");
        let counts = resample(5000, 25, &mut stream);

        assert_eq!(counts.iter().sum::<u32>(), 5000);
        // Neighbours in a block share their count, so long blocks leave long runs of observations that were not drawn.
        let runs = counts
            .windows(2)
            .filter(|w| (w[0] == 0) != (w[1] == 0))
            .count();
        assert!((100..400).contains(&runs), "{runs}");
    }

    #[test]
    fn interval_of_a_mean_has_the_width_that_theory_gives() {
        let mut stream = Streams::new(2).stream("noise");
        let noise: Vec<f64> = (0..2000).map(|_| stream.normal()).collect();
        let bootstrap = Bootstrap {
            block_bars: 5,
            n_resamples: 500,
        };

        let rows = bootstrap.run(2000, Streams::new(3), "b", |counts| {
            vec![Some(mean(&noise, counts))]
        });
        let interval = interval(&rows, 0).unwrap();
        let (width, expected) = (interval.high - interval.low, 2.0 * 1.96 / 2000_f64.sqrt());
        assert!(
            (width / expected - 1.0).abs() < 0.2,
            "{width} against {expected}"
        );
    }

    #[test]
    fn blocks_widen_the_interval_of_a_dependent_series() {
        let mut stream = Streams::new(4).stream("walk");
        let mut level = 0.0;
        let series: Vec<f64> = (0..2000)
            .map(|_| {
                level = 0.9 * level + stream.normal();
                level
            })
            .collect();
        let width = |block_bars| {
            let bootstrap = Bootstrap {
                block_bars,
                n_resamples: 300,
            };
            let rows = bootstrap.run(2000, Streams::new(5), "b", |c| vec![Some(mean(&series, c))]);
            let interval = interval(&rows, 0).unwrap();
            interval.high - interval.low
        };

        assert!(width(50) > 2.5 * width(1));
    }

    #[test]
    fn threads_do_not_change_it() {
        let x: Vec<f64> = (0..300).map(|i| f64::from(i % 7)).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let bootstrap = Bootstrap {
                block_bars: 7,
                n_resamples: 50,
            };
            pool.install(|| bootstrap.run(300, Streams::new(6), "b", |c| vec![Some(mean(&x, c))]))
        };

        assert_eq!(run(1), run(3));
    }

    #[test]
    fn too_few_computable_resamples_give_no_interval() {
        let rows = vec![vec![Some(1.0)], vec![None]];

        assert_eq!(interval(&rows, 0), None);
        assert_eq!(Bootstrap::block_rule(1000, 3), 10);
        assert_eq!(Bootstrap::block_rule(1000, 12), 24);
        assert_eq!(Bootstrap::block_rule(0, 3), 1);
    }
}
