//! Labels on the GPU: the loops of [`labels`](super::super::labels) with the same bits, one thread per row.

use std::path::Path;

use cudarc::driver::{CudaSlice, DevicePtr as _, LaunchConfig, PushKernelArg as _};

use super::super::labels::{
    Directions, Distance, RegimeColumns, RegimeThresholds, Side, SignalThresholds, Signals,
    TripleBarrier, unit_of_shares,
};
use crate::cuda::{CudaError, Gpu};

/// Threads of a block.
pub(super) const THREADS: usize = 128;

/// A loop over one series with what it reads.
#[derive(Debug, Clone)]
pub struct Loop<'a> {
    pub(super) kernel: &'static str,
    /// At least one.
    pub(super) parameters: Vec<f64>,
    pub(super) inputs: Vec<&'a [f64]>,
    pub(super) n_outputs: usize,
}

impl<'a> Loop<'a> {
    /// The [exit, bars and returns](super::super::labels::Exits) of each row's trade.
    pub fn triple_barrier(
        rule: &TripleBarrier<'a>,
        high: &'a [f64],
        low: &'a [f64],
        close: &'a [f64],
    ) -> Self {
        let side = match rule.side {
            Side::Long => 1.0,
            Side::Short => -1.0,
        };
        // Where the distance is a share, any column will do.
        let parts = |distance| match distance {
            Distance::Share(share) => (share, f64::NAN, close),
            Distance::Times(times, widths) => (f64::NAN, times, widths),
        };
        let (target, stop) = (parts(rule.target), parts(rule.stop));
        Self {
            kernel: "triple_barrier",
            parameters: vec![
                side,
                rule.horizon as f64,
                target.0,
                target.1,
                stop.0,
                stop.1,
            ],
            inputs: vec![high, low, close, target.2, stop.2],
            n_outputs: 3,
        }
    }

    /// How many labels' spans hold each row.
    pub fn concurrency(bars: &'a [f64]) -> Self {
        Self {
            kernel: "concurrency",
            parameters: vec![bars.iter().copied().fold(0.0, f64::max)],
            inputs: vec![bars],
            n_outputs: 1,
        }
    }

    /// The mean of `1 / concurrency` over the span of each label.
    pub fn uniqueness(bars: &'a [f64], concurrency: &'a [f64]) -> Self {
        Self {
            kernel: "uniqueness",
            parameters: vec![unit_of_shares(bars)],
            inputs: vec![bars, concurrency],
            n_outputs: 1,
        }
    }

    /// Simple return from each close to that `horizon` rows later.
    pub fn forward_return(close: &'a [f64], horizon: usize) -> Self {
        Self {
            kernel: "forward_return",
            parameters: vec![horizon as f64],
            inputs: vec![close],
            n_outputs: 1,
        }
    }

    /// The class of the move of the close over the next `horizon` rows.
    pub fn direction(close: &'a [f64], horizon: usize, buffer: f64, classes: Directions) -> Self {
        let Directions { up, down, neutral } = classes;
        Self {
            kernel: "direction",
            parameters: vec![horizon as f64, buffer, up, down, neutral],
            inputs: vec![close],
            n_outputs: 1,
        }
    }

    /// How many of six buy and of six sell conditions hold.
    pub fn signal_counts(of: &Signals<'a>, thresholds: SignalThresholds) -> Self {
        Self {
            kernel: "signal_counts",
            parameters: vec![
                thresholds.volume_spike,
                thresholds.buy_position,
                thresholds.sell_position,
            ],
            inputs: vec![
                of.close,
                of.short_mean,
                of.long_mean,
                of.slope,
                of.volume,
                of.mean_volume,
                of.position,
                of.rsi,
                of.histogram,
                of.plus_di,
                of.minus_di,
            ],
            n_outputs: 2,
        }
    }

    /// The regime of each bar.
    pub fn regime(of: &RegimeColumns<'a>, thresholds: RegimeThresholds) -> Self {
        Self {
            kernel: "regime",
            parameters: vec![
                thresholds.strong_trend,
                thresholds.strong_adx,
                thresholds.volatile_volume,
            ],
            inputs: vec![
                of.trend,
                of.adx,
                of.range,
                of.range_threshold,
                of.volume_ratio,
            ],
            n_outputs: 1,
        }
    }

    /// The rows of its columns.
    ///
    /// # Panics
    /// If they differ in length.
    pub(super) fn n_rows(&self) -> usize {
        let n_rows = self.inputs[0].len();
        assert!(
            self.inputs.iter().all(|column| column.len() == n_rows),
            "columns differ in length"
        );
        n_rows
    }

    /// The labels, computed on the card. Compiled code is kept in `folder`.
    ///
    /// # Panics
    /// If columns differ in length.
    pub fn run(&self, gpu: &Gpu, folder: Option<&Path>) -> Result<Vec<Vec<f64>>, CudaError> {
        let n_rows = self.n_rows();
        if n_rows == 0 {
            return Ok(vec![Vec::new(); self.n_outputs]);
        }
        let stream = gpu.stream();
        let function = gpu.load(&source(), folder)?.load_function(self.kernel)?;
        let parameters = stream.clone_htod(&self.parameters)?;
        let inputs: Vec<CudaSlice<f64>> = self
            .inputs
            .iter()
            .map(|column| stream.clone_htod(*column))
            .collect::<Result<_, _>>()?;
        let outputs: Vec<CudaSlice<f64>> = (0..self.n_outputs)
            .map(|_| stream.alloc_zeros(n_rows))
            .collect::<Result<_, _>>()?;
        let columns = [&parameters].into_iter().chain(&inputs).chain(&outputs);
        let table: Vec<u64> = columns.map(|slice| slice.device_ptr(stream).0).collect();
        let table = stream.clone_htod(&table)?;
        let segments = stream.clone_htod(&[0, n_rows as u64])?;
        let longest = n_rows as u64;
        let config = LaunchConfig {
            grid_dim: (n_rows.div_ceil(THREADS) as u32, 1, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut builder = stream.launch_builder(&function);
        builder.arg(&table).arg(&segments).arg(&longest);
        // SAFETY: every kernel of the source takes these three arguments. The table holds the addresses of the parameters and
        // of as many columns as the kernel names, all of `n_rows` numbers, and a thread touches rows of the series only.
        unsafe { builder.launch(config) }?;
        let labels = outputs.iter().map(|column| stream.clone_dtoh(column));
        let labels = labels.collect::<Result<_, _>>()?;
        stream.synchronize()?;
        Ok(labels)
    }
}

/// The source of all loops.
pub(super) fn source() -> String {
    format!(
        "typedef double Output;\n{}{}",
        include_str!("base.cuh"),
        include_str!("labels.cuh")
    )
}
