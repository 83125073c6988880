//! A layer of long short-term memory in one or both directions, with its backward pass.
//!
//! Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000), in PyTorch's order and without peepholes:
//!
//! ```text
//! i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of (W x_t + U h_{t-1} + b), a quarter each
//! c_t = f c_{t-1} + i g,   h_t = o tanh(c_t),   h_{-1} = c_{-1} = 0
//! ```
//!
//! `W x + b` of all steps and both directions is one product, [`crate::linear`]; what remains is the recurrence, one
//! operation over all steps. Its steps multiply few rows by weights that stay in the cache, and apply the gates to a tile
//! of units while it is in the first level of it. Windows are worked on [`WINDOWS`] at a time, on one thread each and
//! direction; neither that nor the threads change a bit.

use std::mem::MaybeUninit;
use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::activations::{sigmoid, tanh};
use crate::dispatch::dispatched;
use crate::linear::linear;
use crate::matmul::{Matrix, multiply};
use crate::pooling::select_rows;
use crate::storage::{Elements, operand, tensor};
use crate::tiles::{self, Left, PANEL, Panels, Size};

/// Windows that take their steps together.
const WINDOWS: usize = 32;

/// Hidden units of a tile: its four gates fill one panel.
const UNITS: usize = PANEL / 4;

/// All hidden states of a layer. `x`: \[batch, length, inputs\], result: \[batch, length, directions * hidden\].
///
/// `input`: \[directions * 4 hidden, inputs\], `recurrent`: \[directions * 4 hidden, hidden\], `bias`: \[directions * 4
/// hidden\]; rows in PyTorch's order i, f, g, o, the second direction (from the last bar to the first) below the first.
/// PyTorch's two biases are only ever added; `bias` is their sum.
pub fn lstm(x: &Tensor, input: &Tensor, recurrent: &Tensor, bias: &Tensor) -> Result<Tensor> {
    recurrence(x, input, recurrent, bias, false)
}

/// What a layer gives with the states that it ends in.
#[derive(Debug, Clone)]
pub struct LstmStates {
    /// As of [`lstm`].
    pub states: Tensor,
    /// Hidden state after the last step of each direction: \[batch, directions * hidden\].
    pub hidden: Tensor,
    /// Cell state after the last step of each direction: \[batch, directions * hidden\].
    pub cell: Tensor,
}

/// [`lstm`] with the states after the last step: that of the last bar forward, of the first bar backward.
pub fn lstm_with_states(
    x: &Tensor,
    input: &Tensor,
    recurrent: &Tensor,
    bias: &Tensor,
) -> Result<LstmStates> {
    let all = recurrence(x, input, recurrent, bias, true)?;
    let (batch, rows, width) = all.dims3()?;
    let length = rows - 1;
    let directions = width / recurrent.dims2()?.1;
    let hidden_width = width / directions;
    let bars: Arc<[usize]> = (0..batch)
        .flat_map(|b| (0..length).map(move |t| b * rows + t))
        .collect();
    let cells: Arc<[usize]> = (0..batch).map(|b| b * rows + length).collect();
    // Rows of one direction each.
    let ends: Arc<[usize]> = (0..batch)
        .flat_map(|b| {
            let end = |d: usize| if d == 0 { length - 1 } else { 0 };
            (0..directions).map(move |d| (b * rows + end(d)) * directions + d)
        })
        .collect();
    let by_direction = all.reshape((batch * rows * directions, hidden_width))?;
    Ok(LstmStates {
        states: select_rows(&all, &bars)?.reshape((batch, length, width))?,
        hidden: select_rows(&by_direction, &ends)?.reshape((batch, width))?,
        cell: select_rows(&all, &cells)?,
    })
}

fn recurrence(
    x: &Tensor,
    input: &Tensor,
    recurrent: &Tensor,
    bias: &Tensor,
    with_cells: bool,
) -> Result<Tensor> {
    let (rows, hidden) = recurrent.dims2()?;
    if hidden == 0 || (rows != 4 * hidden && rows != 8 * hidden) {
        candle_core::bail!(
            "lstm: recurrent weights of {hidden} units need {} or {} rows, got {rows}",
            4 * hidden,
            8 * hidden
        );
    }
    let (_, length, _) = x.dims3()?;
    if length == 0 {
        candle_core::bail!("lstm: the windows have no bar");
    }
    let projected = linear(x, input, bias)?;
    let is_tracked = projected.track_op() || recurrent.track_op();
    projected.apply_op2(
        &recurrent.contiguous()?,
        Recurrence {
            with_cells,
            kept: is_tracked.then(OnceLock::new),
        },
    )
}

struct Recurrence {
    /// Whether a last row of each window holds the cells after the last step.
    with_cells: bool,
    /// What the backward pass reads, if there may be one: of each [`Part`], in their order.
    kept: Option<OnceLock<Vec<Kept>>>,
}

/// Of each step: gates as tiles `[block, window, gate, unit]` and cells `[block, window, unit]`.
struct Kept {
    gates: Vec<f32>,
    cells: Vec<f32>,
}

#[derive(Clone, Copy)]
struct Geometry {
    batch: usize,
    length: usize,
    hidden: usize,
    directions: usize,
    /// Rows of a window of the result.
    rows: usize,
}

impl Geometry {
    fn new(projected: &[usize], recurrent: &[usize], with_cells: bool) -> Result<Self> {
        let (&[batch, length, columns], &[rows, hidden]) = (projected, recurrent) else {
            candle_core::bail!("lstm: unexpected shapes {projected:?} and {recurrent:?}");
        };
        if columns != rows {
            candle_core::bail!("lstm: {columns} gates of the input, {rows} of the states");
        }
        Ok(Self {
            batch,
            length,
            hidden,
            directions: rows / (4 * hidden),
            rows: length + usize::from(with_cells),
        })
    }

    /// Blocks of [`UNITS`] units; those beyond `hidden` have weights 0 and stay 0.
    fn blocks(&self) -> usize {
        self.hidden.div_ceil(UNITS)
    }

    fn padded(&self) -> usize {
        self.blocks() * UNITS
    }

    /// Hands the slices of `width` elements, in the order window, row, direction, to the parts they belong to.
    fn parts<T>(&self, slices: impl Iterator<Item = T>, rows: usize) -> Vec<Vec<T>> {
        let chunks = self.batch.div_ceil(WINDOWS);
        let mut parts: Vec<Vec<T>> = (0..chunks * self.directions).map(|_| Vec::new()).collect();
        for (k, slice) in slices.enumerate() {
            let (window, direction) = (k / self.directions / rows, k % self.directions);
            parts[direction * chunks + window / WINDOWS].push(slice);
        }
        parts
    }

    fn part(&self, index: usize) -> Part {
        let chunks = self.batch.div_ceil(WINDOWS);
        let first = index % chunks * WINDOWS;
        Part {
            geometry: *self,
            direction: index / chunks,
            first,
            windows: WINDOWS.min(self.batch - first),
        }
    }
}

/// Windows that take their steps together in one direction.
#[derive(Clone, Copy)]
struct Part {
    geometry: Geometry,
    direction: usize,
    first: usize,
    windows: usize,
}

impl Part {
    /// The bar that step `s` is at.
    fn bar(&self, s: usize) -> usize {
        if self.direction == 0 {
            s
        } else {
            self.geometry.length - 1 - s
        }
    }

    /// The row of the weights of a gate of a unit, in the order of the tiles; nothing for the units beyond the last.
    fn weights<'a>(&self, recurrent: &'a [f32], row: usize) -> Option<&'a [f32]> {
        let Geometry { hidden, .. } = self.geometry;
        let (unit, gate) = (row / PANEL * UNITS + row % UNITS, row % PANEL / UNITS);
        let row = (self.direction * 4 + gate) * hidden + unit;
        (unit < hidden).then(|| &recurrent[row * hidden..][..hidden])
    }

    /// The weights of the states, gates of a block beside each other.
    fn forward_weights(&self, recurrent: &[f32]) -> Panels {
        let Geometry { hidden, .. } = self.geometry;
        let columns = 4 * self.geometry.padded();
        Panels::from_columns(hidden, columns, |column| self.weights(recurrent, column))
    }

    /// Their transpose.
    fn backward_weights(&self, recurrent: &[f32]) -> Panels {
        let Geometry { hidden, .. } = self.geometry;
        let rows = 4 * self.geometry.padded();
        Panels::from_rows(rows, hidden, |row| self.weights(recurrent, row))
    }

    /// The projected input of all gates, for a window of the part at a bar.
    fn projected<'a>(&self, projected: &'a [f32], window: usize, bar: usize) -> &'a [f32] {
        let Geometry {
            length,
            hidden,
            directions,
            ..
        } = self.geometry;
        let row = ((self.first + window) * length + bar) * directions + self.direction;
        &projected[row * 4 * hidden..][..4 * hidden]
    }

    /// `out`: the rows of the result, window by window.
    fn forward(
        &self,
        projected: &[f32],
        recurrent: &[f32],
        out: &mut [&mut [f32]],
        is_kept: bool,
    ) -> Kept {
        let Self {
            geometry, windows, ..
        } = *self;
        let (blocks, width) = (geometry.blocks(), geometry.padded());
        let weights = self.forward_weights(recurrent);
        let kept_steps = if is_kept { geometry.length } else { 0 };
        let mut gates = Vec::with_capacity(kept_steps * windows * 4 * width);
        let mut cells = Vec::with_capacity(kept_steps * windows * width);
        let mut step = vec![0.0; windows * 4 * width];
        let mut cell = vec![0.0; windows * width];
        let (mut hidden, mut next) = (vec![0.0; windows * width], vec![0.0; windows * width]);
        for s in 0..geometry.length {
            let bar = self.bar(s);
            for window in 0..windows {
                let row = self.projected(projected, window, bar);
                for (gate, values) in row.chunks_exact(geometry.hidden).enumerate() {
                    for (block, values) in values.chunks(UNITS).enumerate() {
                        let at = ((block * windows + window) * 4 + gate) * UNITS;
                        copy_units(&mut step[at..][..values.len()], values);
                    }
                }
            }
            for block in 0..blocks {
                let tile = &mut step[block * windows * PANEL..][..windows * PANEL];
                if s > 0 {
                    let left = Left {
                        values: &hidden,
                        row: width,
                        step: 1,
                    };
                    let size = Size {
                        m: windows,
                        n: PANEL,
                        k: geometry.hidden,
                    };
                    tiles::accumulate(tile, PANEL, left, weights.panel(block), size);
                }
                let cell = &mut cell[block * windows * UNITS..][..windows * UNITS];
                step_forward(tile, cell, &mut next[block * UNITS..], width);
            }
            std::mem::swap(&mut hidden, &mut next);
            for (window, hidden) in hidden.chunks_exact(width).enumerate() {
                out[window * geometry.rows + bar].copy_from_slice(&hidden[..geometry.hidden]);
            }
            if is_kept {
                gates.extend_from_slice(&step);
                cells.extend_from_slice(&cell);
            }
        }
        if geometry.rows > geometry.length {
            for window in 0..windows {
                let row = &mut out[window * geometry.rows + geometry.length];
                for (block, out) in row.chunks_mut(UNITS).enumerate() {
                    let from = (block * windows + window) * UNITS;
                    out.copy_from_slice(&cell[from..][..out.len()]);
                }
            }
        }
        Kept { gates, cells }
    }

    /// `out`: the rows of the gradient of the projected input, window by window, all of which are written; `gradient`: that
    /// of the result.
    fn backward(
        &self,
        kept: &Kept,
        recurrent: &[f32],
        gradient: &[f32],
        out: &mut [&mut [MaybeUninit<f32>]],
    ) {
        let Self {
            geometry, windows, ..
        } = *self;
        let (blocks, width) = (geometry.blocks(), geometry.padded());
        let weights = self.backward_weights(recurrent);
        let of_result = |window: usize, row: usize| {
            let row = (self.first + window) * geometry.rows + row;
            let from = (row * geometry.directions + self.direction) * geometry.hidden;
            &gradient[from..][..geometry.hidden]
        };
        let mut hidden = vec![0.0_f32; windows * width];
        let mut cell = vec![0.0; windows * width];
        let mut gates = vec![0.0; windows * 4 * width];
        let zeros = vec![0.0; windows * UNITS];
        if geometry.rows > geometry.length {
            for window in 0..windows {
                let row = of_result(window, geometry.length);
                for (block, from) in row.chunks(UNITS).enumerate() {
                    let at = (block * windows + window) * UNITS;
                    cell[at..][..from.len()].copy_from_slice(from);
                }
            }
        }
        for s in (0..geometry.length).rev() {
            let bar = self.bar(s);
            for (window, hidden) in hidden.chunks_exact_mut(width).enumerate() {
                for (sum, &value) in hidden.iter_mut().zip(of_result(window, bar)) {
                    *sum += value;
                }
            }
            for block in 0..blocks {
                let of_block = (s * blocks + block) * windows * UNITS;
                let size = windows * UNITS;
                let before = match s {
                    0 => &zeros,
                    _ => &kept.cells[of_block - blocks * size..][..size],
                };
                step_backward(
                    &kept.gates[4 * of_block..][..4 * size],
                    &kept.cells[of_block..][..size],
                    before,
                    &hidden[block * UNITS..],
                    &mut cell[block * size..][..size],
                    &mut gates[block * PANEL..],
                    width,
                );
            }
            for (window, gates) in gates.chunks_exact(4 * width).enumerate() {
                let row = &mut out[window * geometry.length + bar];
                for (gate, out) in row.chunks_exact_mut(geometry.hidden).enumerate() {
                    for (block, out) in out.chunks_mut(UNITS).enumerate() {
                        let values = &gates[block * PANEL + gate * UNITS..][..UNITS];
                        match (
                            out.first_chunk_mut::<UNITS>(),
                            values.first_chunk::<UNITS>(),
                        ) {
                            (Some(out), Some(values)) => *out = values.map(MaybeUninit::new),
                            _ => out.iter_mut().zip(values).for_each(|(out, &value)| {
                                out.write(value);
                            }),
                        }
                    }
                }
            }
            if s > 0 {
                let left = Left {
                    values: &gates,
                    row: 4 * width,
                    step: 1,
                };
                hidden.fill(0.0);
                weights.accumulate(&mut hidden, width, left, windows);
            }
        }
    }
}

/// Copies the units that both have; a whole block without a call.
fn copy_units(out: &mut [f32], from: &[f32]) {
    match (out.first_chunk_mut::<UNITS>(), from.first_chunk::<UNITS>()) {
        (Some(out), Some(from)) => *out = *from,
        _ => out
            .iter_mut()
            .zip(from)
            .for_each(|(out, from)| *out = *from),
    }
}

impl CustomOp2 for Recurrence {
    fn name(&self) -> &'static str {
        "lstm"
    }

    fn cpu_fwd(
        &self,
        projected: &CpuStorage,
        projected_layout: &Layout,
        recurrent: &CpuStorage,
        recurrent_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let geometry = Geometry::new(
            projected_layout.dims(),
            recurrent_layout.dims(),
            self.with_cells,
        )?;
        let projected = operand(projected, projected_layout, "lstm")?;
        let recurrent = operand(recurrent, recurrent_layout, "lstm")?;
        let width = geometry.directions * geometry.hidden;
        let mut out = vec![0.0; geometry.batch * geometry.rows * width];
        let mut parts = geometry.parts(out.chunks_exact_mut(geometry.hidden), geometry.rows);
        let kept = parts
            .par_iter_mut()
            .enumerate()
            .map(|(index, out)| {
                let part = geometry.part(index);
                part.forward(projected, recurrent, out, self.kept.is_some())
            })
            .collect();
        if let Some(cell) = &self.kept {
            // A second forward pass of the same operation would give the same.
            let _ = cell.set(kept);
        }
        let shape = Shape::from((geometry.batch, geometry.rows, width));
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        projected: &Tensor,
        recurrent: &Tensor,
        states: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let geometry = Geometry::new(projected.dims(), recurrent.dims(), self.with_cells)?;
        let Some(kept) = self.kept.as_ref().and_then(OnceLock::get) else {
            candle_core::bail!("lstm: nothing was kept for a backward pass");
        };
        let gradient = gradient.contiguous()?;
        let (weights, g, states) = (
            Elements::of(recurrent)?,
            Elements::of(&gradient)?,
            Elements::of(states)?,
        );
        let (weights, g, states): (&[f32], &[f32], &[f32]) = (&weights, &g, &states);
        let Geometry {
            batch,
            length,
            hidden,
            directions,
            rows,
        } = geometry;
        let columns = directions * 4 * hidden;
        // The largest tensor of all: what is written anyway is not cleared first.
        let size = batch * length * columns;
        let mut out = Vec::with_capacity(size);
        let rows_of_out = out.spare_capacity_mut()[..size].chunks_exact_mut(4 * hidden);
        geometry
            .parts(rows_of_out, length)
            .par_iter_mut()
            .zip(kept)
            .enumerate()
            .for_each(|(index, (out, kept))| {
                geometry.part(index).backward(kept, weights, g, out);
            });
        // SAFETY: each row belongs to one part, window and bar, and each part has written all gates of each of its windows at
        // each of its steps, of which there is one a bar.
        unsafe { out.set_len(size) };

        let mut weight_gradient = vec![0.0; columns * hidden];
        for (direction, result) in weight_gradient
            .chunks_exact_mut(4 * hidden * hidden)
            .enumerate()
        {
            let mut before = vec![0.0; batch * length * hidden];
            before
                .par_chunks_exact_mut(length * hidden)
                .enumerate()
                .for_each(|(window, before)| {
                    for (bar, out) in before.chunks_exact_mut(hidden).enumerate() {
                        let neighbour = match direction {
                            0 => bar.checked_sub(1),
                            _ => Some(bar + 1).filter(|&bar| bar < length),
                        };
                        if let Some(bar) = neighbour {
                            let row = (window * rows + bar) * directions + direction;
                            out.copy_from_slice(&states[row * hidden..][..hidden]);
                        }
                    }
                });
            let gates = Matrix::strided(
                &out[direction * 4 * hidden..],
                batch * length,
                4 * hidden,
                columns,
            );
            let before = Matrix::new(&before, batch * length, hidden);
            multiply(result, hidden, gates.transposed(), before, false);
        }
        Ok((
            Some(tensor(out, projected.shape().clone())?),
            Some(tensor(weight_gradient, recurrent.shape().clone())?),
        ))
    }
}

dispatched! {
    /// A tile of units takes a step. `tile`: \[windows, gate, unit\], pre-activations that become gates; `cell`:
    /// \[windows, unit\]; `hidden`: a window's units lie `width` apart.
    fn step_forward(tile: &mut [f32], cell: &mut [f32], hidden: &mut [f32], width: usize) {
        let (tile, _) = tile.as_chunks_mut::<PANEL>();
        let (cell, _) = cell.as_chunks_mut::<UNITS>();
        for ((tile, cell), hidden) in tile.iter_mut().zip(cell).zip(hidden.chunks_mut(width)) {
            let (gates, _) = tile.as_chunks_mut::<UNITS>();
            let [i, f, g, o] = gates else { return };
            let Some(hidden) = hidden.first_chunk_mut::<UNITS>() else { return };
            for unit in 0..UNITS {
                i[unit] = sigmoid(i[unit]);
                f[unit] = sigmoid(f[unit]);
                g[unit] = tanh(g[unit]);
                o[unit] = sigmoid(o[unit]);
                cell[unit] = f[unit].mul_add(cell[unit], i[unit] * g[unit]);
                hidden[unit] = o[unit] * tanh(cell[unit]);
            }
        }
    }

    /// Gradients of a tile's step. `tile`, `cell` and `hidden` as in [`step_forward`], `before` the cells of the step
    /// before; `hidden_gradient` and `out` as `hidden`, four times as wide; `cell_gradient` becomes that of `before`.
    fn step_backward(
        tile: &[f32],
        cell: &[f32],
        before: &[f32],
        hidden_gradient: &[f32],
        cell_gradient: &mut [f32],
        out: &mut [f32],
        width: usize,
    ) {
        let (tile, _) = tile.as_chunks::<PANEL>();
        let (cell, _) = cell.as_chunks::<UNITS>();
        let (before, _) = before.as_chunks::<UNITS>();
        let (cell_gradient, _) = cell_gradient.as_chunks_mut::<UNITS>();
        let states = tile.iter().zip(cell).zip(before);
        let gradients = hidden_gradient.chunks(width).zip(cell_gradient).zip(out.chunks_mut(4 * width));
        for (((tile, cell), before), ((dh, dc), out)) in states.zip(gradients) {
            let (gates, _) = tile.as_chunks::<UNITS>();
            let [i, f, g, o] = gates else { return };
            let (Some(dh), Some(out)) = (dh.first_chunk::<UNITS>(), out.first_chunk_mut::<PANEL>()) else { return };
            let (out, _) = out.as_chunks_mut::<UNITS>();
            let [di, df, dg, d_o] = out else { return };
            for unit in 0..UNITS {
                let squashed = tanh(cell[unit]);
                let slope = dh[unit] * o[unit];
                let d = squashed.mul_add(-squashed, 1.0).mul_add(slope, dc[unit]);
                di[unit] = d * g[unit] * i[unit] * (1.0 - i[unit]);
                df[unit] = d * before[unit] * f[unit] * (1.0 - f[unit]);
                dg[unit] = d * i[unit] * g[unit].mul_add(-g[unit], 1.0);
                d_o[unit] = dh[unit] * squashed * o[unit] * (1.0 - o[unit]);
                dc[unit] = d * f[unit];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::{Check, check, noise};
    use crate::math;
    use crate::storage::to_vec;

    /// The definition: states of all bars and the cells at the end, per window.
    fn definition(v: &[Vec<f64>], length: usize, inputs: usize, hidden: usize) -> [Vec<f64>; 2] {
        let directions = v[3].len() / (4 * hidden);
        let batch = v[0].len() / (length * inputs);
        let mut states = vec![0.0; batch * length * directions * hidden];
        let mut cells = vec![0.0; batch * directions * hidden];
        for b in 0..batch {
            for d in 0..directions {
                let (mut h, mut c) = (vec![0.0; hidden], vec![0.0; hidden]);
                for s in 0..length {
                    let t = if d == 0 { s } else { length - 1 - s };
                    let x = &v[0][(b * length + t) * inputs..][..inputs];
                    let gate = |row: usize| {
                        let row = d * 4 * hidden + row;
                        let from_input = x.iter().zip(&v[1][row * inputs..]).map(|(a, w)| a * w);
                        let from_state = h.iter().zip(&v[2][row * hidden..]).map(|(a, w)| a * w);
                        from_input.chain(from_state).sum::<f64>() + v[3][row]
                    };
                    let gates: Vec<f64> = (0..4 * hidden).map(gate).collect();
                    for u in 0..hidden {
                        let i = math::sigmoid(gates[u]);
                        let f = math::sigmoid(gates[hidden + u]);
                        let g = math::tanh(gates[2 * hidden + u]);
                        let o = math::sigmoid(gates[3 * hidden + u]);
                        c[u] = f * c[u] + i * g;
                        h[u] = o * math::tanh(c[u]);
                        states[((b * length + t) * directions + d) * hidden + u] = h[u];
                    }
                }
                cells[(b * directions + d) * hidden..][..hidden].copy_from_slice(&c);
            }
        }
        [states, cells]
    }

    #[test]
    fn gradients_match_finite_differences() {
        for (batch, length, inputs, hidden, directions) in [(2, 4, 3, 2, 2), (1, 3, 2, 5, 1)] {
            let rows = directions * 4 * hidden;
            check(&Check {
                shapes: &[
                    &[batch, length, inputs],
                    &[rows, inputs],
                    &[rows, hidden],
                    &[rows],
                ],
                op: &|t| lstm(&t[0], &t[1], &t[2], &t[3]),
                reference: &|v| definition(v, length, inputs, hidden)[0].clone(),
                tolerance: 1e-5,
            });
        }
    }

    #[test]
    fn gradients_through_the_final_states_match_finite_differences() {
        let (batch, length, inputs, hidden) = (2, 3, 2, 3);
        let rows = 8 * hidden;
        check(&Check {
            shapes: &[
                &[batch, length, inputs],
                &[rows, inputs],
                &[rows, hidden],
                &[rows],
            ],
            op: &|t| {
                let all = lstm_with_states(&t[0], &t[1], &t[2], &t[3])?;
                let states = all.states.reshape((batch, length * 2 * hidden))?;
                Tensor::cat(&[&states, &all.hidden, &all.cell], 1)
            },
            reference: &|v| {
                let [states, cells] = definition(v, length, inputs, hidden);
                let mut all = Vec::new();
                for b in 0..batch {
                    let states = &states[b * length * 2 * hidden..][..length * 2 * hidden];
                    all.extend_from_slice(states);
                    all.extend_from_slice(&states[(length - 1) * 2 * hidden..][..hidden]);
                    all.extend_from_slice(&states[hidden..][..hidden]);
                    all.extend_from_slice(&cells[b * 2 * hidden..][..2 * hidden]);
                }
                all
            },
            tolerance: 1e-5,
        });
    }

    fn bits(
        batch: usize,
        length: usize,
        inputs: usize,
        hidden: usize,
        is_tracked: bool,
    ) -> Vec<u32> {
        let rows = 8 * hidden;
        let make = |shape: &[usize], seed: u64| {
            let values = noise(shape.iter().product(), seed);
            let values: Vec<f32> = values.iter().map(|&v| v as f32 * 0.3).collect();
            let tensor = tensor(values, shape).unwrap();
            if is_tracked {
                candle_core::Var::from_tensor(&tensor).unwrap().into_inner()
            } else {
                tensor
            }
        };
        let operands = [
            make(&[batch, length, inputs], 1),
            make(&[rows, inputs], 2),
            make(&[rows, hidden], 3),
            make(&[rows], 4),
        ];
        let states = lstm(&operands[0], &operands[1], &operands[2], &operands[3]).unwrap();
        let mut values = to_vec(&states).unwrap();
        if is_tracked {
            let gradients = states.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            for operand in &operands {
                let gradient = to_vec(gradients.get(operand).unwrap()).unwrap();
                assert!(gradient.iter().any(|&g| g != 0.0));
                values.extend(gradient);
            }
        }
        values.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn threads_change_no_bit() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| bits(70, 6, 5, 19, true))
        };

        let one = run(1);

        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }

    #[test]
    fn gives_the_same_without_a_backward_pass() {
        let tracked = bits(3, 4, 5, 17, true);

        let untracked = bits(3, 4, 5, 17, false);

        assert_eq!(tracked[..untracked.len()], untracked);
    }

    #[test]
    fn names_the_rows_it_expected() {
        let zeros = |shape: &[usize]| tensor(vec![0.0; shape.iter().product()], shape).unwrap();

        let error = lstm(
            &zeros(&[1, 2, 3]),
            &zeros(&[12, 3]),
            &zeros(&[12, 4]),
            &zeros(&[12]),
        )
        .unwrap_err();

        let error = error.to_string();
        assert!(error.contains("need 16 or 32 rows, got 12"), "{error}");
    }
}
