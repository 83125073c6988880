//! A layer of long short-term memory in one or both directions, with its backward pass.
//!
//! Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000), in PyTorch's order and without peepholes:
//!
//! ```text
//! i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of (W x_t + U h_{t-1} + b), a quarter each
//! c_t = f c_{t-1} + i g,   h_t = o tanh(c_t),   h_{-1} = c_{-1} = 0
//! ```
//!
//! A layer is one operation over all steps and both directions. Windows are worked on `WINDOWS` at a time, on one thread
//! each and direction, with their weights in an order in which the four gates of a few units fill a panel: the gates are
//! applied to a tile while it is in the first level of the cache, and what a step reads stays in the second. The gradients
//! of the weights are one product over all steps. Neither the threads nor the instruction set change a bit.

#![allow(
    clippy::many_single_char_names,
    reason = "gates, cells and states as everyone calls them"
)]

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::activations::{sigmoid, tanh};
use crate::dispatch::dispatched;
use crate::linear::column_sums;
use crate::matmul::{Matrix, multiply_here};
use crate::pooling::select_rows;
use crate::storage::{Elements, add_in_order, operand, tensor};
use crate::tiles::{Left, PANEL, Panels};

/// Windows that take their steps together.
const WINDOWS: usize = 32;

/// Steps whose inputs are multiplied ahead: their gates are a quarter of the second level of the cache.
const AHEAD: usize = 4;

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
    let is_tracked = [x, input, recurrent, bias].iter().any(|t| t.track_op());
    // An operation has three operands at most.
    let joined = Tensor::cat(&[recurrent, &bias.reshape((rows, 1))?], 1)?;
    x.contiguous()?.apply_op3(
        &input.contiguous()?,
        &joined.contiguous()?,
        Layer {
            with_cells,
            kept: is_tracked.then(OnceLock::new),
        },
    )
}

struct Layer {
    /// Whether a last row of each window holds the cells after the last step.
    with_cells: bool,
    /// What the backward pass reads, if there may be one: of each [`Part`], in their order.
    kept: Option<OnceLock<Vec<Kept>>>,
}

/// Of each step: gates as tiles `[block, window, gate, unit]`, cells `[block, window, unit]`.
struct Kept {
    gates: Vec<f32>,
    cells: Vec<f32>,
}

#[derive(Clone, Copy)]
struct Geometry {
    batch: usize,
    length: usize,
    inputs: usize,
    hidden: usize,
    directions: usize,
    /// Rows of a window of the result.
    rows: usize,
}

impl Geometry {
    /// `joined`: the weights of the states, and the bias as their last column.
    fn new(x: &[usize], input: &[usize], joined: &[usize], with_cells: bool) -> Result<Self> {
        let (&[batch, length, width], &[rows, inputs], &[joined_rows, columns]) =
            (x, input, joined)
        else {
            candle_core::bail!("lstm: expected [batch, length, inputs], got {x:?}");
        };
        if width != inputs || rows != joined_rows || length == 0 {
            candle_core::bail!(
                "lstm: expected input weights [{joined_rows}, {width}] and a bar or more, got {input:?} for {x:?}"
            );
        }
        let hidden = columns - 1;
        Ok(Self {
            batch,
            length,
            inputs,
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

    /// Parts of one direction.
    fn chunks(&self) -> usize {
        self.batch.div_ceil(WINDOWS)
    }

    fn part(&self, index: usize) -> Part {
        let first = index % self.chunks() * WINDOWS;
        Part {
            geometry: *self,
            direction: index / self.chunks(),
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

/// The operands of a layer.
#[derive(Clone, Copy)]
struct Operands<'a> {
    x: &'a [f32],
    input: &'a [f32],
    joined: &'a [f32],
}

/// A part's gradients: of its inputs if asked for, of both weights side by side and of the bias, rows in tile order.
struct Gradients {
    x: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
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

    /// The row of PyTorch's order that a row of the tiles' order stands for; nothing for the units beyond the last.
    fn row(&self, row: usize) -> Option<usize> {
        let (unit, gate) = (row / PANEL * UNITS + row % UNITS, row % PANEL / UNITS);
        let hidden = self.geometry.hidden;
        (unit < hidden).then_some((self.direction * 4 + gate) * hidden + unit)
    }

    fn input_row<'a>(&self, operands: Operands<'a>, row: usize) -> Option<&'a [f32]> {
        let inputs = self.geometry.inputs;
        Some(&operands.input[self.row(row)? * inputs..][..inputs])
    }

    fn recurrent_row<'a>(&self, operands: Operands<'a>, row: usize) -> Option<&'a [f32]> {
        let hidden = self.geometry.hidden;
        Some(&operands.joined[self.row(row)? * (hidden + 1)..][..hidden])
    }

    /// The inputs of all windows of the part at a bar.
    fn inputs<'a>(&self, x: &'a [f32], bar: usize) -> Left<'a> {
        let Geometry { length, inputs, .. } = self.geometry;
        Left {
            values: &x[(self.first * length + bar) * inputs..],
            row: length * inputs,
            step: 1,
        }
    }

    /// The direction's part of a row of a result, or of its gradient.
    fn state<'a>(&self, result: &'a [f32], window: usize, row: usize) -> &'a [f32] {
        let geometry = self.geometry;
        let row = (self.first + window) * geometry.rows + row;
        &result[(row * geometry.directions + self.direction) * geometry.hidden..][..geometry.hidden]
    }

    /// `out`: the rows of the result, window by window.
    fn forward(&self, operands: Operands<'_>, out: &mut [&mut [f32]], is_kept: bool) -> Kept {
        let Self {
            geometry, windows, ..
        } = *self;
        let Geometry {
            length,
            inputs,
            hidden,
            rows,
            ..
        } = geometry;
        let width = geometry.padded();
        let columns = 4 * width;
        let of_input = Panels::from_columns(inputs, columns, |j| self.input_row(operands, j));
        let of_state = Panels::from_columns(hidden, columns, |j| self.recurrent_row(operands, j));
        let bias_of = |row| operands.joined[row * (hidden + 1) + hidden];
        let bias: Vec<f32> = (0..columns)
            .map(|j| self.row(j).map_or(0.0, bias_of))
            .collect();

        let kept_steps = if is_kept { length } else { 0 };
        let mut kept = Kept {
            gates: Vec::with_capacity(kept_steps * windows * columns),
            cells: Vec::with_capacity(kept_steps * windows * width),
        };
        let mut cell = vec![0.0; windows * width];
        let (mut state, mut next) = (vec![0.0; windows * width], vec![0.0; windows * width]);
        let tile_size = windows * PANEL;
        for s in 0..length {
            if s % AHEAD == 0 {
                if !is_kept {
                    kept.gates.clear();
                }
                let first = kept.gates.len();
                let steps = AHEAD.min(length - s);
                for _ in 0..steps {
                    for bias in bias.chunks_exact(PANEL) {
                        for _ in 0..windows {
                            kept.gates.extend_from_slice(bias);
                        }
                    }
                }
                let ahead = &mut kept.gates[first..];
                for block in 0..columns / PANEL {
                    for step in 0..steps {
                        let tile = &mut ahead[step * windows * columns + block * tile_size..];
                        let left = self.inputs(operands.x, self.bar(s + step));
                        of_input.accumulate_panel(block, tile, PANEL, left, windows);
                    }
                }
            }
            let at = if is_kept { s } else { s % AHEAD };
            let step = &mut kept.gates[at * windows * columns..][..windows * columns];
            for (block, tile) in step.chunks_exact_mut(tile_size).enumerate() {
                if s > 0 {
                    let left = Left {
                        values: &state,
                        row: width,
                        step: 1,
                    };
                    of_state.accumulate_panel(block, tile, PANEL, left, windows);
                }
                let cell = &mut cell[block * windows * UNITS..][..windows * UNITS];
                step_forward(tile, cell, &mut next[block * UNITS..], width);
            }
            std::mem::swap(&mut state, &mut next);
            for (window, state) in state.chunks_exact(width).enumerate() {
                out[window * rows + self.bar(s)].copy_from_slice(&state[..hidden]);
            }
            if is_kept {
                kept.cells.extend_from_slice(&cell);
            }
        }
        if rows > length {
            for window in 0..windows {
                let row = &mut out[window * rows + length];
                for (block, out) in row.chunks_mut(UNITS).enumerate() {
                    let from = (block * windows + window) * UNITS;
                    out.copy_from_slice(&cell[from..][..out.len()]);
                }
            }
        }
        kept
    }

    /// `gradient`: that of the `result`.
    fn backward(
        &self,
        operands: Operands<'_>,
        kept: &Kept,
        result: &[f32],
        gradient: &[f32],
        needs_x: bool,
    ) -> Gradients {
        let Self {
            geometry, windows, ..
        } = *self;
        let Geometry {
            length,
            inputs,
            hidden,
            ..
        } = geometry;
        let width = geometry.padded();
        let columns = 4 * width;
        let gates = self.gate_gradients(operands, kept, gradient);
        let steps = gates.chunks_exact(windows * columns);

        let mut x_gradient = Vec::new();
        if needs_x {
            let weights = Panels::from_rows(columns, inputs, |p| self.input_row(operands, p));
            x_gradient = vec![0.0; windows * length * inputs];
            for (panel, column) in (0..inputs).step_by(PANEL).enumerate() {
                for (k, gates) in steps.clone().enumerate() {
                    let left = Left {
                        values: gates,
                        row: columns,
                        step: 1,
                    };
                    let to = &mut x_gradient[self.bar(length - 1 - k) * inputs + column..];
                    weights.accumulate_panel(panel, to, length * inputs, left, windows);
                }
            }
        }

        // What the weights were multiplied by, side by side, in the order of `gates`: from the last step to the first.
        let factors = inputs + hidden;
        let mut factor_rows = Vec::with_capacity(length * windows * factors);
        for s in (0..length).rev() {
            let left = self.inputs(operands.x, self.bar(s));
            for window in 0..windows {
                factor_rows.extend_from_slice(&left.values[window * left.row..][..inputs]);
                match s {
                    0 => factor_rows.resize(factor_rows.len() + hidden, 0.0),
                    _ => factor_rows.extend_from_slice(self.state(result, window, self.bar(s - 1))),
                }
            }
        }
        let mut weights = vec![0.0; columns * factors];
        multiply_here(
            &mut weights,
            factors,
            Matrix::new(&gates, length * windows, columns).transposed(),
            Matrix::new(&factor_rows, length * windows, factors),
            false,
        );
        Gradients {
            x: x_gradient,
            weights,
            bias: column_sums(&gates, columns),
        }
    }

    /// Gradients of the pre-activations, from the last step to the first: \[steps, windows, tile order\].
    fn gate_gradients(&self, operands: Operands<'_>, kept: &Kept, gradient: &[f32]) -> Vec<f32> {
        let Self {
            geometry, windows, ..
        } = *self;
        let Geometry {
            length,
            hidden,
            rows,
            ..
        } = geometry;
        let (blocks, width) = (geometry.blocks(), geometry.padded());
        let weights = Panels::from_rows(4 * width, hidden, |p| self.recurrent_row(operands, p));
        let mut state = vec![0.0_f32; windows * width];
        let mut cell = vec![0.0; windows * width];
        let mut all = Vec::with_capacity(length * windows * 4 * width);
        let size = windows * UNITS;
        let zeros = vec![0.0; size];
        if rows > length {
            for window in 0..windows {
                for (block, from) in self
                    .state(gradient, window, length)
                    .chunks(UNITS)
                    .enumerate()
                {
                    let at = (block * windows + window) * UNITS;
                    cell[at..][..from.len()].copy_from_slice(from);
                }
            }
        }
        for s in (0..length).rev() {
            for (window, state) in state.chunks_exact_mut(width).enumerate() {
                for (sum, &value) in state
                    .iter_mut()
                    .zip(self.state(gradient, window, self.bar(s)))
                {
                    *sum += value;
                }
            }
            let first = all.len();
            all.resize(first + windows * 4 * width, 0.0);
            let gates = &mut all[first..];
            for block in 0..blocks {
                let at = (s * blocks + block) * size;
                let before = match s {
                    0 => &zeros,
                    _ => &kept.cells[at - blocks * size..][..size],
                };
                step_backward(
                    &kept.gates[4 * at..][..4 * size],
                    &kept.cells[at..][..size],
                    before,
                    &state[block * UNITS..],
                    &mut cell[block * size..][..size],
                    &mut gates[block * PANEL..],
                    width,
                );
            }
            if s > 0 {
                let left = Left {
                    values: gates,
                    row: 4 * width,
                    step: 1,
                };
                state.fill(0.0);
                weights.accumulate(&mut state, width, left, windows);
            }
        }
        all
    }
}

impl CustomOp3 for Layer {
    fn name(&self) -> &'static str {
        "lstm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        input: &CpuStorage,
        input_layout: &Layout,
        joined: &CpuStorage,
        joined_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let geometry = Geometry::new(
            x_layout.dims(),
            input_layout.dims(),
            joined_layout.dims(),
            self.with_cells,
        )?;
        let operands = Operands {
            x: operand(x, x_layout, "lstm")?,
            input: operand(input, input_layout, "lstm")?,
            joined: operand(joined, joined_layout, "lstm")?,
        };
        let Geometry {
            batch,
            hidden,
            directions,
            rows,
            ..
        } = geometry;
        let mut out = vec![0.0; batch * rows * directions * hidden];
        // The rows of the result belong to the parts in turns.
        let mut parts: Vec<Vec<&mut [f32]>> = Vec::new();
        parts.resize_with(directions * geometry.chunks(), Vec::new);
        for (k, row) in out.chunks_exact_mut(hidden).enumerate() {
            let (window, direction) = (k / directions / rows, k % directions);
            parts[direction * geometry.chunks() + window / WINDOWS].push(row);
        }
        let kept = parts
            .par_iter_mut()
            .enumerate()
            .map(|(index, out)| {
                geometry
                    .part(index)
                    .forward(operands, out, self.kept.is_some())
            })
            .collect();
        if let Some(cell) = &self.kept {
            // A second forward pass of the same operation would give the same.
            let _ = cell.set(kept);
        }
        let shape = Shape::from((batch, rows, directions * hidden));
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        input: &Tensor,
        joined: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let geometry = Geometry::new(x.dims(), input.dims(), joined.dims(), self.with_cells)?;
        let Some(kept) = self.kept.as_ref().and_then(OnceLock::get) else {
            candle_core::bail!("lstm: nothing was kept for a backward pass");
        };
        let gradient = gradient.contiguous()?;
        let (x_values, input_values, joined_values, result, g) = (
            Elements::of(x)?,
            Elements::of(input)?,
            Elements::of(joined)?,
            Elements::of(result)?,
            Elements::of(&gradient)?,
        );
        let operands = Operands {
            x: &x_values,
            input: &input_values,
            joined: &joined_values,
        };
        let (result, g): (&[f32], &[f32]) = (&result, &g);
        // Data needs no gradient, and the product would be for nothing.
        let needs_x = x.track_op();
        let parts: Vec<Gradients> = kept
            .par_iter()
            .enumerate()
            .map(|(index, kept)| {
                let part = geometry.part(index);
                part.backward(operands, kept, result, g, needs_x)
            })
            .collect();

        let Geometry { inputs, hidden, .. } = geometry;
        let columns = 4 * geometry.padded();
        let mut input_gradient = vec![0.0; input_values.len()];
        let mut joined_gradient = vec![0.0; joined_values.len()];
        let mut x_gradient = Vec::new();
        let mut parts = parts.into_iter();
        for direction in 0..geometry.directions {
            let (mut weights, mut biases, mut at) = (Vec::new(), Vec::new(), 0);
            for part in parts.by_ref().take(geometry.chunks()) {
                weights.push(part.weights);
                biases.push(part.bias);
                if direction == 0 {
                    x_gradient.extend_from_slice(&part.x);
                } else {
                    for (sum, value) in x_gradient[at..].iter_mut().zip(&part.x) {
                        *sum += value;
                    }
                }
                at += part.x.len();
            }
            let weights = add_in_order(weights, columns * (inputs + hidden));
            let bias = add_in_order(biases, columns);
            let first = geometry.part(direction * geometry.chunks());
            for (row, weights) in weights.chunks_exact(inputs + hidden).enumerate() {
                let Some(to) = first.row(row) else { continue };
                let (of_input, of_state) = weights.split_at(inputs);
                input_gradient[to * inputs..][..inputs].copy_from_slice(of_input);
                let joined = &mut joined_gradient[to * (hidden + 1)..][..=hidden];
                joined[..hidden].copy_from_slice(of_state);
                joined[hidden] = bias[row];
            }
        }
        let x_gradient = needs_x.then(|| tensor(x_gradient, x.shape().clone()));
        Ok((
            x_gradient.transpose()?,
            Some(tensor(input_gradient, input.shape().clone())?),
            Some(tensor(joined_gradient, joined.shape().clone())?),
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
