//! Times of repeated runs, and what the machine's memory can do.

use std::{hint::black_box, time::Instant};

/// Runs of everything that is timed.
pub const RUNS: usize = 9;

/// Seconds.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    pub least: f64,
    pub median: f64,
}

impl Time {
    /// Nanoseconds for each of `n`: least and median.
    pub fn ns_each(self, n: usize) -> (f64, f64) {
        (self.least * 1e9 / n as f64, self.median * 1e9 / n as f64)
    }
}

/// Least and median of several runs, after one to warm up.
pub fn time(mut run: impl FnMut()) -> Time {
    run();
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let begin = Instant::now();
            run();
            begin.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    Time {
        least: times[0],
        median: times[RUNS / 2],
    }
}

/// Bytes in a second that a copy from memory to memory reads and writes, both counted.
pub fn copy_bandwidth() -> f64 {
    const BYTES: usize = 256 << 20;
    let from = vec![1_u8; BYTES];
    let mut to = vec![2_u8; BYTES];
    let copied = time(|| {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    });
    2.0 * BYTES as f64 / copied.least
}
