//! The `f32` elements behind candle tensors, as slices.

use std::ops::Deref;

use candle_core::{CpuStorage, Device, Error, Layout, Result, Shape, Storage, Tensor};
use rayon::prelude::*;

/// Elements an elementwise task works on: large enough to be worth a task, small enough to stay in the L2 cache.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Rows whose partial sums are formed together. Fixed, so that sums over rows do not depend on the threads.
pub(crate) const ROWS: usize = 64;

/// The elements of a contiguous operand of `operation`.
pub(crate) fn operand<'a>(
    storage: &'a CpuStorage,
    layout: &Layout,
    operation: &str,
) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        return Err(Error::Msg(format!("{operation}: expected `f32` elements")));
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => Err(Error::Msg(format!(
            "{operation}: expected a contiguous operand, got {layout:?}"
        ))),
    }
}

/// The elements of a contiguous CPU tensor, borrowed as long as the guard lives.
pub(crate) struct Elements<'a> {
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    start: usize,
    end: usize,
}

impl<'a> Elements<'a> {
    /// Borrows `tensor`, which must be contiguous, `f32` and on the CPU.
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::Msg(format!(
                "expected a contiguous tensor, got {layout:?}"
            )));
        };
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => {}
            _ => return Err(Error::Msg("expected an `f32` tensor on the CPU".to_owned())),
        }
        Ok(Self {
            storage: Box::new(storage),
            start,
            end,
        })
    }
}

impl Deref for Elements<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &**self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.end],
            _ => unreachable!("checked when the guard was made"),
        }
    }
}

/// A tensor on the CPU that owns `values`.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// The elements of a contiguous `f32` CPU tensor, copied.
pub fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.contiguous()?;
    Ok(Elements::of(&tensor)?.to_vec())
}

/// A vector of `length` whose chunks of `chunk` elements are filled by `fill(index of the chunk, chunk)`, in parallel.
pub(crate) fn filled(
    length: usize,
    chunk: usize,
    fill: impl Fn(usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let mut out = vec![0.0; length];
    if length <= chunk {
        if length > 0 {
            fill(0, &mut out);
        }
    } else {
        out.par_chunks_mut(chunk)
            .enumerate()
            .for_each(|(index, out)| fill(index, out));
    }
    out
}

/// Sums of `width` columns over all rows, given the partial sums of each block of rows, added in ascending order.
pub(crate) fn add_in_order(partials: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    let mut partials = partials.into_iter();
    let mut total = partials.next().unwrap_or_else(|| vec![0.0; width]);
    for partial in partials {
        for (sum, value) in total.iter_mut().zip(partial) {
            *sum += value;
        }
    }
    total
}
