//! Volume profile: at which prices the volume of a trailing window was traded.
//!
//! A window's volumes are taken as whole numbers of a unit that its largest volume decides. Sums of whole numbers are the
//! same in any order, so a bar that comes is added and one that goes is taken off, and still a bin depends on the bars of
//! its window alone. Where the range of prices is another than in the row before, the bars are counted again.

#![expect(
    clippy::inline_always,
    reason = "they must be compiled inside their dispatched callers"
)]
#![expect(clippy::needless_range_loop, reason = "loops over lanes")]

use std::{hint::select_unpredictable, ops};

use super::{
    catalog::{Indicator, Output, Parameter, Range, Unit},
    elementary::ln_rough,
    histogram::{trailing_max, trailing_min},
    kernel::{Id, Scratch, Window, words},
    program::{Builder, Input, Series},
    rank::{blank_torn_windows, has_nan},
};
use crate::dispatch::dispatched;

/// Numbers of a vector.
const LANES: usize = 8;
/// Rows whose bins are kept at a time.
const ROWS: usize = 48;
/// Rows whose value areas grow side by side: one alone waits for each of its loads. Three, for the compiler would make
/// vectors of two or four, and to gather takes longer.
const SIDE_BY_SIDE: usize = 3;
/// Histograms that take turns in counting: two bars of one bin need not wait for each other.
const TURNS: usize = 4;
/// Room for all bins that a byte can tell apart. Some more, lest a bin of one histogram and the same of another lie whole
/// pages apart, which processors take for the same place.
const ROOM: usize = 256 + 24;
/// Stands at both ends of the bins.
const END: i64 = i64::MIN;

/// Volume by price. Inputs: low, high, close and volume; outputs: point of control, upper and lower end of the value area,
/// share of the volume at the point of control, entropy of all shares.
#[derive(Debug, Clone, Copy)]
struct Profile {
    n: usize,
    n_bins: usize,
    share: f64,
}

impl Window for Profile {
    fn id(&self) -> Id {
        let share = self.share.to_bits();
        Id::new("profile", [self.n as u64, self.n_bins as u64, share])
    }

    fn lookback(&self) -> usize {
        self.n - 1
    }

    fn n_outputs(&self) -> usize {
        5
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let (low, high, close, volume) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        let n_rows = outputs[0].len();
        let n_words = Bins::n_words(self.n, close.len()) + Tile::n_words(self.n_bins);
        let spare = scratch.take(3 * n_rows + 3 * close.len() + n_words);
        let (lowest, spare) = spare.split_at_mut(n_rows);
        let (width, spare) = spare.split_at_mut(n_rows);
        let (largest, spare) = spare.split_at_mut(n_rows);
        let (sizes, spare) = spare.split_at_mut(close.len());
        trailing_min(low, self.n, lowest, spare);
        trailing_max(high, self.n, width, spare);
        sizes_of(volume, sizes);
        trailing_max(sizes, self.n, largest, spare);
        widths_of_bins(lowest, largest, self.n_bins, width);
        let windows = Windows {
            n: self.n,
            n_bins: self.n_bins,
            close,
            volume,
            lowest,
            width,
            largest,
        };
        let (of_bins, of_tile) = words(spare).split_at_mut(Bins::n_words(self.n, close.len()));
        let mut bins = Bins::new(of_bins, &windows);
        let mut tile = Tile::new(of_tile, self.n_bins);
        for start in (0..n_rows).step_by(ROWS) {
            let rows = start..(start + ROWS).min(n_rows);
            fill(&windows, rows.clone(), &mut bins, &mut tile);
            if rows.len() > 1 {
                tile.turn(rows.len());
            }
            let mut areas = Areas::default();
            fullest(&tile, self.share, rows.len(), &mut areas);
            grow(&tile, rows.len(), &mut areas);
            describe(&windows, rows, &tile, &areas, outputs);
        }
        for column in [low, high, close, volume] {
            if has_nan(column) {
                for out in &mut *outputs {
                    blank_torn_windows(column, self.n, out);
                }
            }
        }
    }
}

/// The windows of consecutive rows.
struct Windows<'a> {
    n: usize,
    n_bins: usize,
    /// From the first bar of the first window on.
    close: &'a [f64],
    volume: &'a [f64],
    /// Of each window: the lower edge of its first bin, the width of all, and its largest volume.
    lowest: &'a [f64],
    width: &'a [f64],
    largest: &'a [f64],
}

impl Windows<'_> {
    /// The places of the bars that are so many bars after the oldest of their window, one for each of `rows`.
    #[inline(always)]
    fn places(&self, rows: &ops::Range<usize>, age: usize) -> Lanes<u64> {
        let mut places = [0; ROWS];
        let close = &self.close[rows.start + age..][..rows.len()];
        let widths = &self.width[rows.clone()];
        let ranges = self.lowest[rows.clone()].iter().zip(widths);
        for ((out, close), (lowest, width)) in places.iter_mut().zip(close).zip(ranges) {
            *out = place(*close, *lowest, *width, self.n_bins);
        }
        places
    }
}

/// A number of each row.
type Lanes<T> = [T; ROWS];

/// The bins of the present row.
struct Bins<'a> {
    /// Empty bins.
    blank: [i64; ROOM],
    /// The first one has the bins after counting.
    turns: &'a mut [[i64; ROOM]; TURNS],
    /// The places of the window's bars when they were counted.
    places: &'a mut [i64],
    /// The quantities of all bars up to the present one, as far as windows hold them.
    quantities: &'a mut [i64],
    total: i64,
    /// The place of the oldest bar.
    leaving: u64,
}

impl<'a> Bins<'a> {
    fn n_words(n: usize, n_bars: usize) -> usize {
        TURNS * ROOM + n + n_bars
    }

    fn new(words: &'a mut [i64], windows: &Windows<'_>) -> Self {
        let (turns, words) = words.split_at_mut(TURNS * ROOM);
        let (places, quantities) = words.split_at_mut(windows.n);
        let mut blank = [END; ROOM];
        blank[1..=windows.n_bins].fill(0);
        let turns = turns.as_chunks_mut().0.first_chunk_mut();
        Self {
            blank,
            turns: turns.expect("as many words were asked for"),
            places,
            quantities,
            total: 0,
            leaving: 0,
        }
    }

    /// Measures the bars of the window of row `t`.
    #[inline(always)]
    fn measure(&mut self, windows: &Windows<'_>, t: usize) {
        let units = units(windows.largest[t], windows.n);
        let bars = t..t + windows.n;
        self.total = 0;
        let quantities = self.quantities[bars.clone()].iter_mut();
        for (out, volume) in quantities.zip(&windows.volume[bars]) {
            *out = quantity(*volume, units);
            self.total = self.total.wrapping_add(*out);
        }
    }

    /// Takes one bar off and another one in. All bins are written: to read a vector of which one number was written just
    /// before takes longer.
    #[inline(always)]
    fn replace(&mut self, old: (u64, i64), new: (u64, i64), out: &mut [i64]) {
        let [old_place, new_place] = [old.0, new.0].map(|place| place & 0xff);
        for (place, (bin, out)) in self.turns[0].iter_mut().zip(out).enumerate() {
            let place = place as u64;
            let more = if place == new_place { new.1 } else { 0 };
            let less = if place == old_place { old.1 } else { 0 };
            *bin = bin.wrapping_add(more).wrapping_sub(less);
            *out = *bin;
        }
    }

    /// Counts the bars of the window of row `t`.
    #[inline(always)]
    fn count(&mut self, windows: &Windows<'_>, t: usize) {
        let (lowest, width) = (windows.lowest[t], windows.width[t]);
        let bars = t..t + windows.n;
        for (out, close) in self.places.iter_mut().zip(&windows.close[bars.clone()]) {
            *out = place(*close, lowest, width, windows.n_bins) as i64;
        }
        let n_vectors = (windows.n_bins + 2).div_ceil(LANES);
        for (turn, bins) in self.turns.iter_mut().enumerate() {
            let vectors = &mut bins.as_chunks_mut::<LANES>().0[..n_vectors];
            for (to, from) in vectors.iter_mut().zip(self.blank.as_chunks().0) {
                *to = if turn == 0 { *from } else { [0; LANES] };
            }
        }
        let (places, last_places) = self.places.as_chunks::<TURNS>();
        let (quantities, last_quantities) = self.quantities[bars].as_chunks::<TURNS>();
        for (places, quantities) in places.iter().zip(quantities) {
            for turn in 0..TURNS {
                add(&mut self.turns[turn], places[turn] as u64, quantities[turn]);
            }
        }
        for (place, quantity) in last_places.iter().zip(last_quantities) {
            add(&mut self.turns[0], *place as u64, *quantity);
        }
        let [first, others @ ..] = &mut *self.turns;
        for other in others {
            let sums = &mut first.as_chunks_mut::<LANES>().0[..n_vectors];
            for (sum, x) in sums.iter_mut().zip(other.as_chunks::<LANES>().0) {
                for lane in 0..LANES {
                    sum[lane] = sum[lane].wrapping_add(x[lane]);
                }
            }
        }
    }
}

/// The bins of some rows from place 1 on, between [`END`]s, and their sums.
struct Tile<'a> {
    n_bins: usize,
    /// Places of a row, whole vectors.
    width: usize,
    /// Row by row, and as much as a row with all its bins more.
    rows: &'a mut [i64],
    /// The same place by place.
    columns: &'a mut [Lanes<i64>],
    totals: Lanes<i64>,
}

impl<'a> Tile<'a> {
    fn n_words(n_bins: usize) -> usize {
        let width = (n_bins + 2).next_multiple_of(LANES);
        (2 * ROWS + 2) * width
    }

    fn new(words: &'a mut [i64], n_bins: usize) -> Self {
        let width = (n_bins + 2).next_multiple_of(LANES);
        let (columns, rows) = words.split_at_mut(ROWS * width);
        Self {
            n_bins,
            width,
            rows: &mut rows[..(ROWS + 2) * width],
            columns: columns.as_chunks_mut().0,
            totals: [0; ROWS],
        }
    }

    /// Makes the columns of the first rows, and maybe of more.
    fn turn(&mut self, n_rows: usize) {
        #[cfg(target_arch = "x86_64")]
        if crate::dispatch::level() == crate::dispatch::Level::Avx512 {
            // SAFETY: the level has been found present.
            unsafe { x86::turn(self, n_rows) };
            return;
        }
        for (lane, row) in self.rows.chunks_exact(self.width).take(n_rows).enumerate() {
            for (column, x) in self.columns.iter_mut().zip(row) {
                column[lane] = *x;
            }
        }
    }
}

/// Value areas.
struct Areas {
    /// Places of the fullest bins, and what is in them.
    peak: Lanes<u64>,
    most: Lanes<i64>,
    /// What an area shall hold.
    enough: Lanes<i64>,
    /// Places of the first and last bins.
    low: Lanes<u64>,
    high: Lanes<u64>,
}

impl Default for Areas {
    fn default() -> Self {
        Self {
            peak: [1; ROWS],
            most: [END; ROWS],
            enough: [0; ROWS],
            low: [1; ROWS],
            high: [1; ROWS],
        }
    }
}

#[inline(always)]
fn add(bins: &mut [i64; ROOM], place: u64, quantity: i64) {
    let bin = &mut bins[usize::from(place as u8)];
    *bin = bin.wrapping_add(quantity);
}

/// The exponent of a number that is not negative, as its bits have it.
#[inline(always)]
fn exponent_of(x: f64) -> u64 {
    x.to_bits() >> 52
}

/// Units in one: as many that volumes up to `largest` are less than 2^51 units, and the sum of `n` less than 2^63.
#[inline(always)]
fn units(largest: f64, n: usize) -> f64 {
    let bits = (61 - u64::from(n.ilog2())).min(50);
    f64::from_bits((2046 + bits - exponent_of(largest).clamp(bits, 2046)) << 52)
}

/// The nearest whole number of units.
#[inline(always)]
fn quantity(volume: f64, units: f64) -> i64 {
    /// 1.5 * 2^52: the whole number nearest to what is added to it lies in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let bits = (volume * units + ROUND).to_bits();
    bits.wrapping_sub(ROUND.to_bits()) as i64
}

/// The place of the bin of a close, in the low byte. The last bin holds its upper edge too.
#[inline(always)]
fn place(close: f64, lowest: f64, width: f64, n_bins: usize) -> u64 {
    /// 2^52 + 1: a whole number that is added to it lies in the low bits, and one more.
    const WHOLE: f64 = 4_503_599_627_370_497.0;
    let (bin, last) = ((close - lowest) / width, (n_bins - 1) as f64);
    let bin = if bin < last { bin } else { last };
    let bin = if bin > 0.0 { bin } else { 0.0 };
    (bin.trunc() + WHOLE).to_bits()
}

/// The fullest bin of each row, the lowest of a tie.
#[inline(always)]
fn peaks(tile: &Tile<'_>, areas: &mut Areas) {
    let (mut peak, mut most) = (areas.peak, areas.most);
    for (place, bins) in tile.columns.iter().enumerate().take(tile.n_bins + 1) {
        for lane in 0..ROWS {
            let is_fuller = bins[lane] > most[lane];
            peak[lane] = if is_fuller { place as u64 } else { peak[lane] };
            most[lane] = if is_fuller { bins[lane] } else { most[lane] };
        }
    }
    (areas.peak, areas.most) = (peak, most);
}

/// The share of a bin, or as little as nothing for none: its logarithm is finite.
#[inline(always)]
fn share_of(bin: i64, inverse: f64) -> f64 {
    let share = bin as f64 * inverse;
    if share > f64::MIN_POSITIVE {
        share
    } else {
        f64::MIN_POSITIVE
    }
}

/// The entropies of the shares of bins.
#[inline(always)]
fn entropies(tile: &Tile<'_>, out: &mut Lanes<f64>) {
    let (mut inverse, mut entropy) = ([0.0; ROWS], [0.0; ROWS]);
    for lane in 0..ROWS {
        inverse[lane] = 1.0 / tile.totals[lane] as f64;
    }
    for bins in &tile.columns[1..=tile.n_bins] {
        for lane in 0..ROWS {
            let share = share_of(bins[lane], inverse[lane]);
            entropy[lane] = (-share).mul_add(ln_rough(share), entropy[lane]);
        }
    }
    *out = entropy;
}

/// The entropy of the first row.
#[inline(always)]
fn entropy_of_row(tile: &Tile<'_>) -> f64 {
    let inverse = 1.0 / tile.totals[0] as f64;
    let mut entropy = 0.0;
    for bins in tile.rows[1..=tile.n_bins].chunks(LANES) {
        let (mut shares, mut logarithms) = ([0.0; LANES], [0.0; LANES]);
        for (share, bin) in shares.iter_mut().zip(bins) {
            *share = share_of(*bin, inverse);
        }
        for lane in 0..LANES {
            logarithms[lane] = ln_rough(shares[lane]);
        }
        for (share, logarithm) in shares.iter().zip(&logarithms).take(bins.len()) {
            entropy = (-share).mul_add(*logarithm, entropy);
        }
    }
    entropy
}

dispatched! {
    fn sizes_of(volume: &[f64], sizes: &mut [f64]) {
        for (size, volume) in sizes.iter_mut().zip(volume) {
            *size = volume.abs();
        }
    }

    /// Makes the widths of bins of the highest prices; none where a volume is infinite.
    fn widths_of_bins(lowest: &[f64], largest: &[f64], n_bins: usize, width: &mut [f64]) {
        for ((width, lowest), largest) in width.iter_mut().zip(lowest).zip(largest) {
            let of_range = (*width - lowest) / n_bins as f64;
            *width = if *largest < f64::INFINITY { of_range } else { f64::NAN };
        }
    }

    /// The bins of `rows`, those of the row before being the present ones.
    fn fill(windows: &Windows<'_>, rows: ops::Range<usize>, bins: &mut Bins<'_>, tile: &mut Tile<'_>) {
        let (oldest, newest) = (windows.places(&rows, 0), windows.places(&rows, windows.n - 1));
        let bars = rows.start + windows.n - 1..rows.end + windows.n - 1;
        let quantities = bins.quantities[bars.clone()].iter_mut().zip(&windows.volume[bars]);
        for ((out, volume), largest) in quantities.zip(&windows.largest[rows.clone()]) {
            *out = quantity(*volume, units(*largest, windows.n));
        }
        // Whether a row has the prices of bins and the unit of the row before.
        let (mut is_range, mut is_unit) = ([false; ROWS], [false; ROWS]);
        let later = rows.start.max(1)..rows.end;
        for (lane, t) in (later.start - rows.start..).zip(later) {
            is_range[lane] = windows.lowest[t].to_bits() == windows.lowest[t - 1].to_bits()
                && windows.width[t].to_bits() == windows.width[t - 1].to_bits();
            is_unit[lane] = exponent_of(windows.largest[t]) == exponent_of(windows.largest[t - 1]);
        }
        for (lane, t) in rows.enumerate() {
            let row = &mut tile.rows[lane * tile.width..][..tile.width];
            let (more, less) = (bins.quantities[t + windows.n - 1], bins.quantities[t.max(1) - 1]);
            if is_unit[lane] && is_range[lane] {
                bins.total = bins.total.wrapping_add(more).wrapping_sub(less);
                bins.replace((bins.leaving, less), (newest[lane], more), row);
            } else {
                if is_unit[lane] {
                    bins.total = bins.total.wrapping_add(more).wrapping_sub(less);
                } else {
                    bins.measure(windows, t);
                }
                bins.count(windows, t);
                for (to, from) in row.as_chunks_mut::<LANES>().0.iter_mut().zip(bins.turns[0].as_chunks().0) {
                    *to = *from;
                }
            }
            bins.leaving = oldest[lane];
            tile.totals[lane] = bins.total;
        }
    }

    /// The fullest bin of each row, and what its area shall hold.
    fn fullest(tile: &Tile<'_>, share: f64, n_rows: usize, areas: &mut Areas) {
        if n_rows == 1 {
            for (place, bin) in tile.rows.iter().enumerate().take(tile.n_bins + 1) {
                if *bin > areas.most[0] {
                    (areas.peak[0], areas.most[0]) = (place as u64, *bin);
                }
            }
        } else {
            peaks(tile, areas);
        }
        for (enough, total) in areas.enough.iter_mut().zip(&tile.totals) {
            *enough = ((share * *total as f64).ceil() as i64).min(*total);
        }
    }

    /// Grows areas from the fullest bins, by one bin at a time towards the fuller neighbour, until they hold enough; a tie:
    /// up.
    fn grow(tile: &Tile<'_>, n_rows: usize, areas: &mut Areas) {
        for first in (0..n_rows).step_by(SIDE_BY_SIDE) {
            let mut lanes = [0; SIDE_BY_SIDE];
            // The place below each area. The one above it is as many further as the area has bins, and one.
            let mut below = [0; SIDE_BY_SIDE];
            let mut wanting = [0_i64; SIDE_BY_SIDE];
            for i in 0..SIDE_BY_SIDE {
                lanes[i] = (first + i).min(n_rows - 1);
                below[i] = lanes[i] * tile.width + areas.peak[lanes[i]] as usize - 1;
                wanting[i] = areas.enough[lanes[i]].wrapping_sub(areas.most[lanes[i]]);
            }
            // Areas that hold enough grow on, and nobody looks.
            let mut end = below;
            let mut n_added = [0; SIDE_BY_SIDE];
            for n_held in 1..tile.n_bins {
                for i in 0..SIDE_BY_SIDE {
                    // SAFETY: at a row's start nothing is less than `END`, so the place below never goes further down; it
                    // is never higher than the fullest bin, and the other one at most as many bins above as there are.
                    // The rows go on for more than that.
                    let (down, up) = unsafe {
                        let up = tile.rows.get_unchecked(below[i] + n_held + 1);
                        (*tile.rows.get_unchecked(below[i]), *up)
                    };
                    let is_wanting = wanting[i] > 0;
                    below[i] -= usize::from(down > up);
                    wanting[i] = wanting[i].wrapping_sub(up.max(down));
                    end[i] = select_unpredictable(is_wanting, below[i], end[i]);
                    n_added[i] = select_unpredictable(is_wanting, n_held, n_added[i]);
                }
                if wanting.iter().all(|x| *x <= 0) {
                    break;
                }
            }
            for i in 0..SIDE_BY_SIDE {
                let low = end[i] - lanes[i] * tile.width + 1;
                areas.low[lanes[i]] = low as u64;
                areas.high[lanes[i]] = (low + n_added[i]) as u64;
            }
        }
    }

    /// The outputs of `rows`: nothing for those without range or volume.
    fn describe(
        windows: &Windows<'_>,
        rows: ops::Range<usize>,
        tile: &Tile<'_>,
        areas: &Areas,
        outputs: &mut [&mut [f64]],
    ) {
        let mut entropy = [0.0; ROWS];
        if rows.len() == 1 {
            entropy[0] = entropy_of_row(tile);
        } else {
            entropies(tile, &mut entropy);
        }
        let [poc, vah, val, poc_share, entropy_out] = outputs else {
            return;
        };
        let (lowest, width) = (&windows.lowest[rows.clone()], &windows.width[rows.clone()]);
        for (out, place) in [(poc, &areas.peak), (vah, &areas.high), (val, &areas.low)] {
            let edges = lowest.iter().zip(width).zip(place.iter().zip(&tile.totals));
            for (out, ((lowest, width), (place, total))) in out[rows.clone()].iter_mut().zip(edges) {
                let middle = lowest + (*place as f64 - 0.5) * width;
                *out = if *width > 0.0 && *total > 0 { middle } else { f64::NAN };
            }
        }
        let (poc_share, entropy_out) = (&mut poc_share[rows.clone()], &mut entropy_out[rows]);
        for (lane, width) in width.iter().enumerate() {
            let is_defined = *width > 0.0 && tile.totals[lane] > 0;
            let share = areas.most[lane] as f64 / tile.totals[lane] as f64;
            poc_share[lane] = if is_defined { share } else { f64::NAN };
            entropy_out[lane] = if is_defined { entropy[lane] } else { f64::NAN };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Tile};
    use std::arch::x86_64::{
        __m512i, _mm512_loadu_si512, _mm512_shuffle_i64x2, _mm512_storeu_si512,
        _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
    };

    /// Squares of eight rows and eight places: pairs of rows, pairs of pairs, then all. What the compiler makes of the plain
    /// loop takes three times as long.
    #[target_feature(enable = "avx512f")]
    pub(super) fn turn(tile: &mut Tile<'_>, n_rows: usize) {
        for first in (0..n_rows).step_by(LANES) {
            let columns = tile.columns.as_chunks_mut::<LANES>().0;
            for (square, columns) in columns.iter_mut().enumerate() {
                let mut a = [[0; LANES]; LANES];
                for (i, a) in a.iter_mut().enumerate() {
                    let at = (first + i) * tile.width + square * LANES;
                    a.copy_from_slice(&tile.rows[at..at + LANES]);
                }
                // SAFETY: eight words are read.
                let a = a.map(|a| unsafe { _mm512_loadu_si512(a.as_ptr().cast()) });
                let mut b = a;
                for i in [0, 2, 4, 6] {
                    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 1]);
                    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 1]);
                }
                let mut c: [__m512i; LANES] = b;
                for i in [0, 1, 4, 5] {
                    c[i] = _mm512_shuffle_i64x2::<0x88>(b[i], b[i + 2]);
                    c[i + 2] = _mm512_shuffle_i64x2::<0xdd>(b[i], b[i + 2]);
                }
                for i in 0..4 {
                    let low = _mm512_shuffle_i64x2::<0x88>(c[i], c[i + 4]);
                    let high = _mm512_shuffle_i64x2::<0xdd>(c[i], c[i + 4]);
                    for (place, x) in [(i, low), (i + 4, high)] {
                        let out = &mut columns[place][first..first + LANES];
                        // SAFETY: eight words are written.
                        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) };
                    }
                }
            }
        }
    }
}

const fn output(name: &'static str, unit: Unit) -> Output {
    Output { name, unit }
}

fn profile(builder: &mut Builder, _series: &[Series], p: &[f64]) -> Vec<Series> {
    let columns = [Input::Low, Input::High, Input::Close, Input::Volume];
    let columns = columns.map(|column| builder.input(column));
    let [n, n_bins] = [p[0], p[1]].map(|x| x as usize);
    let share = p[2];
    builder.window(Profile { n, n_bins, share }, &columns)
}

pub(super) const INDICATORS: &[Indicator] = &[Indicator {
    name: "profile",
    series: &[],
    bars: &[Input::Low, Input::High, Input::Close, Input::Volume],
    parameters: &[
        Parameter {
            name: "n",
            range: Range::Whole(1, 10_000),
            default: Some(96.0),
        },
        Parameter {
            name: "bins",
            range: Range::Whole(2, 200),
            default: Some(20.0),
        },
        Parameter {
            name: "share",
            range: Range::Real(0.01, 1.0),
            default: Some(0.7),
        },
    ],
    outputs: &[
        output("poc", Unit::Price),
        output("vah", Unit::Price),
        output("val", Unit::Price),
        output("poc_share", Unit::Ratio),
        output("entropy", Unit::Nats),
    ],
    definition: "Volume profile of the last n bars: equal bins from the lowest low to the highest high, each bar's volume in the bin of its close; poc: the middle of the fullest bin, the lowest of a tie; vah and val: the middles of the last and first bin of the value area, which grows from there towards the fuller neighbour (a tie: up) until it holds the share; poc_share: the fullest bin's share; entropy of all shares; not defined where the range is empty or nothing was traded.",
    source: "Steidlmayer, market profile; plain definition",
    expand: profile,
}];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::{
        bars::{Bar, BarColumns},
        indicators::{
            catalog,
            check::{Golden, market, program, values},
            engine::Engine,
        },
        math,
    };

    const OUTPUTS: [&str; 5] = ["poc", "vah", "val", "poc_share", "entropy"];

    fn all(bars: &BarColumns, parameters: &[f64]) -> Vec<Vec<f64>> {
        let indicator = catalog::find("profile").unwrap();
        Engine::batch(&program(indicator, &[], parameters), bars.view(), &[])
    }

    fn value_area(bins: &[f64], fullest: usize, enough: f64) -> (usize, usize) {
        let (mut low, mut high, mut held) = (fullest, fullest, bins[fullest]);
        while held < enough && (low > 0 || high + 1 < bins.len()) {
            let above = bins.get(high + 1).copied().unwrap_or(f64::NEG_INFINITY);
            let below = if low > 0 {
                bins[low - 1]
            } else {
                f64::NEG_INFINITY
            };
            if above >= below {
                high += 1;
                held += above;
            } else {
                low -= 1;
                held += below;
            }
        }
        (low, high)
    }

    /// The definition, window by window.
    fn plain(
        bars: &BarColumns,
        rows: std::ops::Range<usize>,
        n_bins: usize,
        share: f64,
    ) -> [f64; 5] {
        let lowest = bars.low[rows.clone()]
            .iter()
            .copied()
            .fold(f64::INFINITY, f64::min);
        let highest = bars.high[rows.clone()]
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        let width = (highest - lowest) / n_bins as f64;
        let mut bins = vec![0.0; n_bins];
        for t in rows {
            bins[(((bars.close[t] - lowest) / width).floor() as usize).min(n_bins - 1)] +=
                bars.volume[t];
        }
        let total = bins.iter().fold(0.0, |a, b| a + b);
        if width == 0.0 || total == 0.0 {
            return [f64::NAN; 5];
        }
        let mut fullest = 0;
        for bin in 0..n_bins {
            if bins[bin] > bins[fullest] {
                fullest = bin;
            }
        }
        let (low, high) = value_area(&bins, fullest, share * total);
        let middle = |bin: usize| lowest + (bin as f64 + 0.5) * width;
        let shares = bins.iter().filter(|bin| **bin > 0.0).map(|bin| bin / total);
        [
            middle(fullest),
            middle(high),
            middle(low),
            bins[fullest] / total,
            shares.fold(0.0, |sum, share| sum - share * math::ln(share)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn every_row_is_the_profile_of_its_window(
            seed in 1_u64..1000,
            n in prop_oneof![1_usize..30, Just(96)],
            n_bins in 2_usize..30,
            share in 0.1..0.95,
        ) {
            let mut bars = market(1100, seed);
            // Volumes of another size now and then, so that the unit changes.
            bars.volume[500..520].iter_mut().for_each(|x| *x *= 1e3);
            let profile = all(&bars, &[n as f64, n_bins as f64, share]);

            for t in 0..1100 {
                if t + 1 < n {
                    prop_assert!(profile.iter().all(|column| column[t].is_nan()));
                    continue;
                }
                let expected = plain(&bars, t + 1 - n..t + 1, n_bins, share);
                for (column, expected) in profile[..3].iter().zip(expected) {
                    let is_same = column[t].to_bits() == expected.to_bits();
                    prop_assert!(is_same || column[t].is_nan() && expected.is_nan(), "row {}: {} against {}", t, column[t], expected);
                }
                for (column, expected) in profile[3..].iter().zip(&expected[3..]) {
                    let is_near = (column[t] - expected).abs() < 1e-13;
                    prop_assert!(is_near || column[t].is_nan() && expected.is_nan(), "row {}: {} against {}", t, column[t], expected);
                }
            }
        }
    }

    #[test]
    fn bits_depend_on_the_window_alone() {
        let mut bars = market(700, 3);
        bars.volume[300..310].iter_mut().for_each(|x| *x *= 1e3);
        let whole = all(&bars, &[96.0, 20.0, 0.7]);

        for t in 95..700 {
            let window: BarColumns = bars.view().slice(t - 95..t + 1).iter().collect();
            for (of_window, of_all) in all(&window, &[96.0, 20.0, 0.7]).iter().zip(&whole) {
                assert_eq!(of_window[95].to_bits(), of_all[t].to_bits(), "row {t}");
            }
        }
    }

    #[test]
    fn bars_that_contradict_themselves_are_counted_in_the_end_bins() {
        let mut bars = market(300, 2);
        bars.close.iter_mut().step_by(7).for_each(|x| *x *= 2.0);
        bars.close.iter_mut().step_by(11).for_each(|x| *x = -*x);

        let profile = all(&bars, &[96.0, 200.0, 1.0]);

        for t in 95..300 {
            assert!(profile[2][t] <= profile[0][t] && profile[0][t] <= profile[1][t]);
            assert!((0.0..=1.0).contains(&profile[3][t]));
        }
    }

    #[test]
    fn an_infinite_volume_spoils_its_own_windows() {
        let mut bars = market(300, 5);
        bars.volume[150] = f64::INFINITY;

        for column in all(&bars, &[96.0, 20.0, 0.7]) {
            assert!(column[95..150].iter().all(|x| x.is_finite()));
            assert!(column[150..246].iter().all(|x| x.is_nan()));
            assert!(column[246..].iter().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn the_profile_is_the_reference_one() {
        let Some(golden) = Golden::load() else { return };

        for name in ["poc", "vah", "val"] {
            let values = values(&golden.bars, "profile", &[], &[96.0, 20.0, 0.7], name);
            golden.assert_is(&format!("vp_96_20_{name}"), &values, 1.0);
        }
    }

    fn bars_of(closes_and_volumes: &[(f64, f64)]) -> BarColumns {
        let bar = |&(close, volume): &(f64, f64)| Bar {
            ts_ns: 0,
            open: 5.0,
            high: 10.0,
            low: 0.0,
            close,
            volume,
        };
        closes_and_volumes.iter().map(bar).collect()
    }

    #[test]
    fn the_value_area_grows_towards_the_fuller_neighbour() {
        // Ten bins of width 1. Volumes: bin 4 has 40, bin 5 has 15, bin 3 has 20, bins 9 and 0 the rest.
        let bars = bars_of(&[
            (4.2, 40.0),
            (5.5, 15.0),
            (3.0, 20.0),
            (10.0, 20.0),
            (0.0, 5.0),
        ]);

        let profile = all(&bars, &[5.0, 10.0, 0.7]);

        // 40, with bin 3 60, with bin 5 75 of 100.
        let entropy: f64 = [0.4, 0.15, 0.2, 0.2, 0.05]
            .iter()
            .map(|p| -p * math::ln(*p))
            .sum();
        for ((column, expected), name) in profile
            .iter()
            .zip([4.5, 5.5, 3.5, 0.4, entropy])
            .zip(OUTPUTS)
        {
            assert!(column[..4].iter().all(|x| x.is_nan()), "{name}");
            assert!((column[4] - expected).abs() < 1e-12, "{name}");
        }
    }

    #[test]
    fn a_flat_or_untraded_window_has_no_profile() {
        let untraded = bars_of(&[(4.0, 0.0), (5.0, 0.0)]);
        let mut flat = bars_of(&[(5.0, 1.0), (5.0, 1.0)]);
        (flat.high, flat.low) = (vec![5.0; 2], vec![5.0; 2]);

        for bars in [untraded, flat] {
            assert!(
                all(&bars, &[2.0, 20.0, 0.7])
                    .iter()
                    .all(|column| column[1].is_nan())
            );
        }
    }

    #[test]
    fn a_bad_tick_spoils_its_own_windows() {
        let mut bars = market(400, 5);
        let before = all(&bars, &[96.0, 20.0, 0.7]);
        bars.volume[150] = f64::NAN;
        bars.high[151] = 1e12;
        let after = all(&bars, &[96.0, 20.0, 0.7]);

        for (before, after) in before.iter().zip(&after) {
            assert!(after[150..246].iter().all(|x| x.is_nan()));
            for t in (95..150).chain(247..400) {
                assert_eq!(before[t].to_bits(), after[t].to_bits());
            }
        }
    }
}
