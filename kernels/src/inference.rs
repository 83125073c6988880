//! A pre-norm transformer encoder that only predicts: weights packed once, no graph, no memory asked for after the first
//! call.
//!
//! The bits are those of the layers that train ([`crate::linear`], [`crate::attention`], ...) without dropout, for any number of
//! threads and windows. A window's rows are cut into blocks, each of which goes through a whole layer on one thread: what
//! other blocks must wait for is the packed queries, keys and values alone.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::{
    attention, gelu,
    lanes::add,
    layer_norm,
    matmul::{Matrix, Packed, multiply_packed},
    pooling,
};

/// Bars of a block, where a window has to be shared out among threads: a multiple of the rows that products take at once.
const SHARED_ROWS: usize = 48;

/// An affine layer `y = x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Packed<f32>,
    inputs: usize,
    bias: Vec<f32>,
}

impl Linear {
    /// `weight`: \[outputs, inputs\], `bias`: \[outputs\].
    ///
    /// # Panics
    /// If the weight is not a whole number of inputs for each output.
    pub fn new(weight: &[f32], bias: &[f32]) -> Self {
        let inputs = weight.len() / bias.len().max(1);
        Self {
            weight: Packed::new(Matrix::new(weight, bias.len(), inputs).transposed()),
            inputs,
            bias: bias.to_vec(),
        }
    }

    /// The layer's outputs.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// `y = x W^T + b`. `x`: \[rows, inputs\], `y`: \[rows, outputs\].
    pub fn apply(&self, x: &[f32], y: &mut [f32]) {
        let rows = y.len() / self.bias.len();
        multiply_packed(
            y,
            Matrix::new(x, rows, self.inputs),
            &self.weight,
            &self.bias,
        );
    }
}

/// Layer normalization.
#[derive(Debug, Clone)]
pub struct Norm {
    /// \[width\].
    pub gain: Vec<f32>,
    /// \[width\].
    pub shift: Vec<f32>,
}

impl Norm {
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        layer_norm::forward(x, &self.gain, &self.shift, y);
    }
}

/// A layer of the encoder.
#[derive(Debug, Clone)]
pub struct EncoderLayer {
    /// Before attention.
    pub attention_norm: Norm,
    /// Queries, keys and values beside each other: width to 3 width.
    pub packed: Linear,
    /// After attention: width to width.
    pub projection: Linear,
    /// Before the feed-forward layers.
    pub feed_forward_norm: Norm,
    /// Width to the feed-forward width.
    pub up: Linear,
    /// Back.
    pub down: Linear,
}

/// The encoder: an affine layer, positions, layers, a norm.
#[derive(Debug)]
pub struct Encoder {
    /// Inputs to width.
    pub input: Linear,
    /// Added to the embedded bars: \[bars, width\].
    pub positions: Vec<f32>,
    /// The layers.
    pub layers: Vec<EncoderLayer>,
    /// After the last layer.
    pub norm: Norm,
    /// Attention heads.
    pub heads: usize,
    scratch: Mutex<Vec<Scratch>>,
}

/// Every `x = x Phi(x)`, the exact GELU.
pub fn gelu(x: &mut [f32]) {
    gelu::in_place(x);
}

/// Means over the bars of each window. `states`: \[windows, bars, width\], `out`: \[windows, width\].
pub fn mean_over_time(states: &[f32], width: usize, bars: usize, out: &mut [f32]) {
    for (states, out) in states
        .chunks_exact(bars * width)
        .zip(out.chunks_exact_mut(width))
    {
        pooling::mean_rows(states, out);
    }
}

/// The states that are wanted of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Those of all bars.
    All,
    /// That of the last bar: the last layer computes no other.
    Last,
}

/// Memory for one window, kept for the next.
#[derive(Debug, Default)]
struct Scratch {
    states: Vec<f32>,
    /// Queries, keys and values of this layer and of the next.
    packed: [Vec<f32>; 2],
    blocks: Vec<BlockScratch>,
}

/// Memory for one block of rows.
#[derive(Debug, Default)]
struct BlockScratch {
    normal: Vec<f32>,
    mixed: Vec<f32>,
    wide: Vec<f32>,
    scores: Vec<f32>,
}

/// The first `n` elements of a buffer that is made as long as needed.
fn sized(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    &mut buffer[..n]
}

impl Encoder {
    /// An encoder of these parts.
    pub fn new(
        input: Linear,
        positions: Vec<f32>,
        layers: Vec<EncoderLayer>,
        norm: Norm,
        heads: usize,
    ) -> Self {
        Self {
            input,
            positions,
            layers,
            norm,
            heads,
            scratch: Mutex::default(),
        }
    }

    fn width(&self) -> usize {
        self.input.outputs()
    }

    fn bars(&self) -> usize {
        self.positions.len() / self.width()
    }

    /// The states of windows `x` \[windows, bars, inputs\]: `out` is \[windows, bars, width\], or \[windows, width\] for the
    /// last bars alone.
    ///
    /// # Panics
    /// If `out` does not fit `x`.
    pub fn encode(&self, x: &[f32], out: &mut [f32], reads: Reads) {
        let (bars, width) = (self.bars(), self.width());
        let size = bars * self.input.inputs;
        let rows_read = if reads == Reads::All { bars } else { 1 };
        let windows = x.len() / size;
        assert_eq!(
            out.len(),
            windows * rows_read * width,
            "as many states as windows"
        );
        let threads = rayon::current_num_threads();
        if windows >= threads {
            out.par_chunks_mut(rows_read * width)
                .zip(x.par_chunks(size))
                .for_each(|(out, x)| self.window(x, out, reads, bars));
        } else {
            // Rounded up to whole tiles of products, as the block of a product's rows is.
            let rows = bars.div_ceil(threads).next_multiple_of(12).max(SHARED_ROWS);
            for (out, x) in out.chunks_mut(rows_read * width).zip(x.chunks(size)) {
                self.window(x, out, reads, rows);
            }
        }
    }

    /// One window in blocks of `rows` rows.
    fn window(&self, x: &[f32], out: &mut [f32], reads: Reads, rows: usize) {
        let kept = self
            .scratch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut scratch = kept.unwrap_or_default();
        self.window_with(x, out, reads, rows, &mut scratch);
        self.scratch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(scratch);
    }

    fn window_with(
        &self,
        x: &[f32],
        out: &mut [f32],
        reads: Reads,
        rows: usize,
        scratch: &mut Scratch,
    ) {
        let (bars, width) = (self.bars(), self.width());
        let inputs = self.input.inputs;
        let n_blocks = bars.div_ceil(rows);
        if scratch.blocks.len() < n_blocks {
            scratch.blocks.resize_with(n_blocks, BlockScratch::default);
        }
        let Scratch {
            states,
            packed: [packed, next],
            blocks,
        } = scratch;
        let states = sized(states, bars * width);
        let (mut packed, mut next) = (
            sized(packed, 3 * bars * width),
            sized(next, 3 * bars * width),
        );
        for_each(
            blocks[..n_blocks]
                .par_iter_mut()
                .zip(states.par_chunks_mut(rows * width))
                .zip(packed.par_chunks_mut(3 * rows * width))
                .zip(x.par_chunks(rows * inputs))
                .zip(self.positions.par_chunks(rows * width)),
            n_blocks,
            |((((block, states), packed), x), positions)| {
                self.input.apply(x, states);
                add(states, positions);
                if let Some(layer) = self.layers.first() {
                    layer.project(states, packed, block);
                }
            },
        );
        for (index, layer) in self.layers.iter().enumerate() {
            let following = self.layers.get(index + 1);
            if following.is_none() && reads == Reads::Last {
                let last = &mut states[(bars - 1) * width..];
                layer.finish(packed, bars - 1, self.heads, last, &mut blocks[0]);
                break;
            }
            let all: &[f32] = packed;
            for_each(
                blocks[..n_blocks]
                    .par_iter_mut()
                    .zip(states.par_chunks_mut(rows * width))
                    .zip(next.par_chunks_mut(3 * rows * width))
                    .enumerate(),
                n_blocks,
                |(k, ((block, states), next))| {
                    layer.finish(all, k * rows, self.heads, states, block);
                    if let Some(following) = following {
                        following.project(states, next, block);
                    }
                },
            );
            std::mem::swap(&mut packed, &mut next);
        }
        let read = states.len() - out.len();
        self.norm.apply(&states[read..], out);
    }
}

/// `f` of each item, on other threads only where there is more than one.
fn for_each<I: IndexedParallelIterator>(items: I, n: usize, f: impl Fn(I::Item) + Send + Sync) {
    items
        .with_min_len(if n == 1 { usize::MAX } else { 1 })
        .for_each(f);
}

impl EncoderLayer {
    /// Queries, keys and values of some rows.
    fn project(&self, states: &[f32], packed: &mut [f32], block: &mut BlockScratch) {
        let normal = sized(&mut block.normal, states.len());
        self.attention_norm.apply(states, normal);
        self.packed.apply(normal, packed);
    }

    /// The rest of the layer for the rows from `first` on, given queries, keys and values of all.
    fn finish(
        &self,
        packed: &[f32],
        first: usize,
        heads: usize,
        states: &mut [f32],
        block: &mut BlockScratch,
    ) {
        let width = self.projection.outputs();
        let rows = states.len() / width;
        let BlockScratch {
            normal,
            mixed,
            wide,
            scores,
        } = block;
        let (normal, mixed) = (sized(normal, states.len()), sized(mixed, states.len()));
        attention::of_rows(packed, width, heads, first, normal, scores);
        self.projection.apply(normal, mixed);
        add(states, mixed);
        self.feed_forward_norm.apply(states, normal);
        let wide = sized(wide, rows * self.up.outputs());
        self.up.apply(normal, wide);
        gelu::in_place(wide);
        self.down.apply(wide, mixed);
        add(states, mixed);
    }
}
