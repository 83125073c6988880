//! Runs a plan on a GPU.

use std::{path::Path, sync::Arc};

use cudarc::driver::{
    CudaFunction, CudaSlice, DevicePtr as _, LaunchConfig, PushKernelArg as _,
    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
};

use super::{BARS, Plan};
use crate::{
    bars::Bars,
    cuda::{CudaError, Gpu},
    indicators::engine::Number,
};

/// A number that a plan's outputs are.
pub trait Word: Number {
    /// Whether it has 32 bits.
    const IS_SINGLE: bool;

    /// Numbers from the bytes of the card's memory.
    fn from_bytes(bytes: &[u8]) -> Vec<Self>;
}

impl Word for f64 {
    const IS_SINGLE: bool = false;

    fn from_bytes(bytes: &[u8]) -> Vec<Self> {
        let (words, _) = bytes.as_chunks();
        words
            .iter()
            .map(|word| Self::from_ne_bytes(*word))
            .collect()
    }
}

impl Word for f32 {
    const IS_SINGLE: bool = true;

    fn from_bytes(bytes: &[u8]) -> Vec<Self> {
        let (words, _) = bytes.as_chunks();
        words
            .iter()
            .map(|word| Self::from_ne_bytes(*word))
            .collect()
    }
}

/// The outputs of a plan for series that lie one after the other in `bars` and `columns`: series `k` spans rows
/// `segments[k] .. segments[k + 1]`. Compiled code is kept in `folder`.
///
/// # Panics
/// If the plan's outputs are other numbers, or as [`Resident::new`] and [`Resident::upload`].
pub fn run<T: Word>(
    gpu: &Gpu,
    plan: &Plan,
    bars: Bars<'_>,
    columns: &[&[f64]],
    segments: &[usize],
    folder: Option<&Path>,
) -> Result<Vec<Vec<T>>, CudaError> {
    let mut resident = Resident::new(gpu, plan, segments, folder)?;
    resident.upload(bars, columns)?;
    resident.launch()?;
    (0..plan.n_outputs).map(|k| resident.output(k)).collect()
}

/// A plan whose columns lie in the card's memory.
#[derive(Debug)]
pub struct Resident {
    gpu: Gpu,
    plan: Plan,
    functions: Vec<CudaFunction>,
    ts_ns: CudaSlice<i64>,
    /// Prices, volume and further columns.
    inputs: Vec<CudaSlice<f64>>,
    /// 64-bit or 32-bit numbers.
    outputs: Vec<CudaSlice<u8>>,
    /// What the table's last addresses point to.
    _memory: Vec<CudaSlice<u64>>,
    table: CudaSlice<u64>,
    segments: CudaSlice<u64>,
    n_series: usize,
    n_rows: usize,
    longest: usize,
}

impl Resident {
    /// Compiles the plan and reserves memory for series that end in `segments[1..]`.
    ///
    /// # Panics
    /// If `segments` does not begin with 0 or descends.
    pub fn new(
        gpu: &Gpu,
        plan: &Plan,
        segments: &[usize],
        folder: Option<&Path>,
    ) -> Result<Self, CudaError> {
        assert_eq!(
            segments.first(),
            Some(&0),
            "the first series begins at row 0"
        );
        assert!(segments.is_sorted(), "series follow each other");
        let stream = gpu.stream();
        let module = gpu.load(&plan.source, folder)?;
        let mut functions = Vec::with_capacity(plan.launches.len());
        for launch in &plan.launches {
            let function = module.load_function(&launch.kernel)?;
            if launch.shared_bytes > 48 << 10 {
                function.set_attribute(
                    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    launch.shared_bytes as i32,
                )?;
            }
            functions.push(function);
        }
        let n_rows = segments[segments.len() - 1];
        let n_series = segments.len() - 1;
        let longest = segments.windows(2).map(|ends| ends[1] - ends[0]).max();
        let longest = longest.unwrap_or(0);
        // An empty allocation has no address.
        let at_least_one = n_rows.max(1);
        let ts_ns = stream.alloc_zeros(at_least_one)?;
        let n_inputs = BARS - 1 + plan.n_columns;
        let inputs: Vec<CudaSlice<f64>> = (0..n_inputs)
            .map(|_| stream.alloc_zeros(at_least_one))
            .collect::<Result<_, _>>()?;
        let size = if plan.is_single { 4 } else { 8 };
        let outputs: Vec<CudaSlice<u8>> = (0..plan.n_outputs)
            .map(|_| stream.alloc_zeros(at_least_one * size))
            .collect::<Result<_, _>>()?;
        let memory: Vec<CudaSlice<u64>> = plan
            .memory
            .iter()
            .map(|memory| stream.alloc_zeros(memory.words(n_rows, longest, n_series).max(1)))
            .collect::<Result<_, _>>()?;
        let mut table = vec![ts_ns.device_ptr(stream).0];
        table.extend(inputs.iter().map(|slice| slice.device_ptr(stream).0));
        table.extend(outputs.iter().map(|slice| slice.device_ptr(stream).0));
        table.extend(memory.iter().map(|slice| slice.device_ptr(stream).0));
        let ends: Vec<u64> = segments.iter().map(|end| *end as u64).collect();
        Ok(Self {
            functions,
            table: stream.clone_htod(&table)?,
            segments: stream.clone_htod(&ends)?,
            gpu: gpu.clone(),
            plan: plan.clone(),
            ts_ns,
            inputs,
            outputs,
            _memory: memory,
            n_series,
            n_rows,
            longest,
        })
    }

    /// Copies the inputs to the card.
    ///
    /// # Panics
    /// If they have another number of rows than was announced.
    pub fn upload(&mut self, bars: Bars<'_>, columns: &[&[f64]]) -> Result<(), CudaError> {
        assert_eq!(bars.len(), self.n_rows, "rows of the bars");
        assert_eq!(columns.len(), self.plan.n_columns, "further columns");
        if self.n_rows == 0 {
            return Ok(());
        }
        let stream = Arc::clone(self.gpu.stream());
        stream.memcpy_htod(bars.ts_ns, &mut self.ts_ns)?;
        let of_bars = [bars.open, bars.high, bars.low, bars.close, bars.volume];
        let sources = of_bars.iter().chain(columns);
        for (source, target) in sources.zip(&mut self.inputs) {
            stream.memcpy_htod(*source, target)?;
        }
        Ok(())
    }

    /// Queues all launches; results are there once the card's queue is empty.
    pub fn launch(&mut self) -> Result<(), CudaError> {
        if self.longest == 0 {
            return Ok(());
        }
        let longest = self.longest as u64;
        for (launch, function) in self.plan.launches.iter().zip(&self.functions) {
            let config = LaunchConfig {
                grid_dim: (
                    launch.n_blocks(self.longest) as u32,
                    self.n_series as u32,
                    launch.n_parts as u32,
                ),
                block_dim: (launch.threads as u32, 1, 1),
                shared_mem_bytes: launch.shared_bytes as u32,
            };
            let mut builder = self.gpu.stream().launch_builder(function);
            builder.arg(&self.table).arg(&self.segments).arg(&longest);
            // SAFETY: every kernel of a plan takes these three arguments. The table holds the addresses of as many columns
            // as the plan has, all of which live as long as `self` and hold a value per row (or the words that
            // `Memory::words` counts), and kernels touch rows between a series' ends only.
            unsafe { builder.launch(config) }?;
        }
        Ok(())
    }

    /// An output, once all that is queued is done.
    ///
    /// # Panics
    /// If the plan's outputs are other numbers.
    pub fn output<T: Word>(&self, position: usize) -> Result<Vec<T>, CudaError> {
        assert_eq!(self.plan.is_single, T::IS_SINGLE, "size of the outputs");
        let bytes = self.gpu.stream().clone_dtoh(&self.outputs[position])?;
        self.gpu.stream().synchronize()?;
        let mut values = T::from_bytes(&bytes);
        values.truncate(self.n_rows);
        Ok(values)
    }
}
