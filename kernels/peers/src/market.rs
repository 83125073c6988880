//! A simulated market: the same bars for every library.

use natron_kernels::bars::{Bar, BarColumns};

/// `n_rows` bars of half an hour: a random walk with calm and wild stretches, gaps and a few bars without range.
pub fn market(n_rows: usize) -> BarColumns {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut columns = BarColumns::default();
    let mut close = 100.0_f64;
    for t in 0..n_rows {
        let size = if (t / 600) % 3 == 1 { 0.01 } else { 0.003 };
        // Pulled back towards 100, so that a long walk ends where it began.
        let pull = 1e-5 * (100.0 - close) / 100.0;
        let open = close
            * (1.0
                + if uniform() < 0.05 {
                    size * (uniform() - 0.5)
                } else {
                    0.0
                });
        let is_still = uniform() < 0.005;
        close = if is_still {
            open
        } else {
            open * (1.0 + pull + size * (uniform() - 0.5))
        };
        let reach = if is_still { 0.0 } else { size * close };
        columns.push(Bar {
            ts_ns: 1_600_000_000_000_000_000 + t as i64 * 1_800_000_000_000,
            open,
            high: open.max(close) + reach * uniform() * uniform(),
            low: open.min(close) - reach * uniform() * uniform(),
            close,
            volume: 1000.0 * (0.2 + uniform()) * (1.0 + 100.0 * size * uniform()),
        });
    }
    columns
}
