//! Volume profile: at which prices the volume of a trailing window was traded.
//!
//! One node makes the histogram, one output a bin; others read the value area and the entropy off it. A bin's volume is
//! always the sum of its bars from the oldest on: a bar that comes is added, and a bin that loses a bar is summed again, so
//! that a bin does not depend on what was in it before.

use super::{
    catalog::{Indicator, Output, Parameter, Range, Unit},
    elementary::ln_rough,
    histogram::{bin_of, trailing_max, trailing_min},
    kernel::{Id, Scratch, Window},
    program::{Builder, Input, Series},
    rank::{blank_torn_windows, has_nan},
};
use crate::dispatch::dispatched;

/// Rows whose value areas are found side by side.
const LANES: usize = 32;

/// Volume by price. Inputs: low, high, close and volume; outputs: the volume of each bin from the lowest, then the lower
/// edge of the first bin, and the width of all.
#[derive(Debug, Clone, Copy)]
struct Histogram {
    n: usize,
    n_bins: usize,
}

impl Window for Histogram {
    fn id(&self) -> Id {
        Id::new("volume by price", [self.n as u64, self.n_bins as u64])
    }

    fn lookback(&self) -> usize {
        self.n - 1
    }

    fn n_outputs(&self) -> usize {
        self.n_bins + 2
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let (low, high, close, volume) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        let (volumes, range) = outputs.split_at_mut(self.n_bins);
        let [lowest, width] = range else { return };
        let spare = scratch.take(2 * low.len());
        trailing_min(low, self.n, lowest, spare);
        trailing_max(high, self.n, width, spare);
        for (width, lowest) in width.iter_mut().zip(&**lowest) {
            *width = (*width - lowest) / self.n_bins as f64;
        }

        let mut bins = Bins::new(volume, self.n_bins);
        let mut range = (0, 0);
        for t in 0..lowest.len() {
            let present = (lowest[t].to_bits(), width[t].to_bits());
            if t == 0 || present != range {
                bins.rebuild(&close[t..t + self.n], t, lowest[t], width[t]);
                range = present;
            } else {
                bins.drop_oldest(t - 1);
                let newest = t + self.n - 1;
                bins.bin[newest] = bin_of(close[newest], lowest[t], width[t], self.n_bins);
                bins.add(newest, newest + 1);
            }
            if width[t] > 0.0 {
                for (out, volume) in volumes.iter_mut().zip(&bins.volumes) {
                    out[t] = *volume;
                }
            } else {
                for out in &mut *volumes {
                    out[t] = f64::NAN;
                }
            }
        }
        for column in [low, high, close, volume] {
            if has_nan(column) {
                for out in &mut *volumes {
                    blank_torn_windows(column, self.n, out);
                }
            }
        }
    }
}

/// More than the most bins: indices below it need no check.
const ROOM: usize = 256;

/// The bars of each bin as a list from the oldest to the newest.
#[derive(Debug)]
struct Bins<'a> {
    volume: &'a [f64],
    /// The number of bins.
    n: usize,
    volumes: [f64; ROOM],
    /// The newest bar of each bin; its entry in `next` for an empty one.
    newest: [usize; ROOM],
    /// The next bar of the same bin, by bar; then the oldest bar of each bin. Nothing that matters after the newest.
    next: Vec<usize>,
    bin: Vec<usize>,
}

impl<'a> Bins<'a> {
    fn new(volume: &'a [f64], n_bins: usize) -> Self {
        Self {
            volume,
            n: n_bins,
            volumes: [0.0; ROOM],
            newest: [0; ROOM],
            next: vec![0; volume.len() + n_bins],
            bin: vec![0; volume.len()],
        }
    }

    fn rebuild(&mut self, close: &[f64], start: usize, lowest: f64, width: f64) {
        self.volumes[..self.n].fill(0.0);
        for (bin, newest) in self.newest[..self.n].iter_mut().enumerate() {
            *newest = self.volume.len() + bin;
        }
        bins_of(close, lowest, width, self.n, &mut self.bin[start..]);
        self.add(start, start + close.len());
    }

    fn add(&mut self, start: usize, end: usize) {
        let (bins, volumes) = (&self.bin[start..end], &self.volume[start..end]);
        let next = self.next.as_mut_slice();
        for (row, (bin, volume)) in (start..end).zip(bins.iter().zip(volumes)) {
            let bin = bin % ROOM;
            next[self.newest[bin]] = row;
            self.newest[bin] = row;
            self.volumes[bin] += volume;
        }
    }

    fn drop_oldest(&mut self, row: usize) {
        let bin = self.bin[row] % ROOM;
        let first = self.volume.len() + bin;
        let mut sum = 0.0;
        if self.newest[bin] == row {
            self.newest[bin] = first;
        } else {
            let mut place = self.next[row];
            self.next[first] = place;
            sum += self.volume[place];
            while place != self.newest[bin] {
                place = self.next[place];
                sum += self.volume[place];
            }
        }
        self.volumes[bin] = sum;
    }
}

/// Where the volume lies. Inputs: the outputs of [`Histogram`]; outputs: point of control, upper and lower end of the value
/// area, share of the volume at the point of control.
#[derive(Debug, Clone, Copy)]
struct ValueArea {
    share: f64,
}

impl Window for ValueArea {
    fn id(&self) -> Id {
        Id::new("value area", [self.share.to_bits()])
    }

    fn lookback(&self) -> usize {
        0
    }

    fn n_outputs(&self) -> usize {
        4
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let (volumes, range) = inputs.split_at(inputs.len() - 2);
        let [poc, vah, val, poc_share] = outputs else {
            return;
        };
        let (totals, tile) = scratch
            .take(poc.len() + ROOM * LANES)
            .split_at_mut(poc.len());
        let tile = tile.first_chunk_mut().expect("it is as long");
        let last = volumes.len() + 1;
        tile[..LANES].fill(f64::NEG_INFINITY);
        tile[last * LANES..][..LANES].fill(f64::NEG_INFINITY);
        sum_of_bins(volumes, totals);
        fullest_bins(volumes, poc, poc_share);
        for start in (0..poc.len()).step_by(LANES) {
            let rows = start..(start + LANES).min(poc.len());
            let n_lanes = rows.len();
            let (mut low, mut high) = ([0; LANES], [0; LANES]);
            let mut enough = [0.0; LANES];
            for (lane, t) in rows.clone().enumerate() {
                (low[lane], high[lane]) = (poc[t] as u64, poc[t] as u64);
                enough[lane] = self.share * totals[t];
            }
            for (volume, row) in volumes.iter().zip(tile[LANES..].chunks_exact_mut(LANES)) {
                row[..n_lanes].copy_from_slice(&volume[rows.clone()]);
            }
            value_areas(tile, &enough[..n_lanes], &mut low, &mut high);
            for (lane, t) in rows.enumerate() {
                let (lowest, width) = (range[0][t], range[1][t]);
                let middle = |bin: f64| lowest + (bin + 0.5) * width;
                let is_defined = width > 0.0 && totals[t] > 0.0;
                let or_nothing = |x: f64| if is_defined { x } else { f64::NAN };
                poc[t] = or_nothing(middle(poc[t]));
                vah[t] = or_nothing(middle(high[lane] as f64));
                val[t] = or_nothing(middle(low[lane] as f64));
                poc_share[t] = or_nothing(poc_share[t] / totals[t]);
            }
        }
    }
}

/// Entropy of the shares of the bins. Inputs: the volumes of [`Histogram`].
#[derive(Debug, Clone, Copy)]
struct BinEntropy;

impl Window for BinEntropy {
    fn id(&self) -> Id {
        Id::new("entropy of bins", [])
    }

    fn lookback(&self) -> usize {
        0
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let totals = scratch.take(outputs[0].len());
        sum_of_bins(inputs, totals);
        entropy_of_bins(inputs, totals, outputs[0]);
    }
}

dispatched! {
    /// The bin of each close, as [`bin_of`].
    fn bins_of(close: &[f64], lowest: f64, width: f64, n_bins: usize, bins: &mut [usize]) {
        /// 2^52: added to a whole number below it, the number lies in the low bits.
        const WHOLE: f64 = 4_503_599_627_370_496.0;
        let last = (n_bins - 1) as f64;
        for (bin, close) in bins.iter_mut().zip(close) {
            let place = ((close - lowest) / width).trunc();
            let place = if place < last { place } else { last };
            *bin = (place + WHOLE).to_bits() as usize % ROOM;
        }
    }

    /// First and last bin of the area around the fullest one that holds `enough`, for windows side by side: it grows by
    /// one bin at a time towards the fuller neighbour; a tie: up. Bin `i` is row `i + 1` of the tile; minus infinity lies
    /// at both ends. `low` and `high` are the fullest bin before.
    fn value_areas(tile: &[f64; ROOM * LANES], enough: &[f64], low: &mut [u64], high: &mut [u64]) {
        const MASK: usize = ROOM * LANES - 1;
        let n_lanes = enough.len();
        let (low, high) = (&mut low[..n_lanes], &mut high[..n_lanes]);
        let mut held = [0.0; LANES];
        let held = &mut held[..n_lanes];
        for lane in 0..n_lanes {
            held[lane] = tile[((high[lane] as usize + 1) * LANES + lane) & MASK];
        }
        loop {
            let mut n_grown = 0;
            for lane in 0..n_lanes {
                let above = tile[((high[lane] as usize + 2) * LANES + lane) & MASK];
                let below = tile[(low[lane] as usize * LANES + lane) & MASK];
                let is_up = above >= below;
                let more = if is_up { above } else { below };
                let is_wanting = held[lane] < enough[lane];
                let grows = u64::from(is_wanting) & u64::from(more > f64::NEG_INFINITY);
                let up = if is_up { grows } else { 0 };
                high[lane] += up;
                low[lane] -= grows - up;
                held[lane] += if grows > 0 { more } else { 0.0 };
                n_grown += grows;
            }
            if n_grown == 0 {
                return;
            }
        }
    }

    fn sum_of_bins(volumes: &[&[f64]], totals: &mut [f64]) {
        totals.fill(0.0);
        for volume in volumes {
            for (total, volume) in totals.iter_mut().zip(*volume) {
                *total += volume;
            }
        }
    }

    /// The position of the fullest bin of each row, the lowest one of a tie, and its volume.
    fn fullest_bins(volumes: &[&[f64]], fullest: &mut [f64], most: &mut [f64]) {
        fullest.fill(0.0);
        most.copy_from_slice(volumes[0]);
        for (bin, volume) in volumes.iter().enumerate().skip(1) {
            for ((fullest, most), volume) in fullest.iter_mut().zip(&mut *most).zip(*volume) {
                let is_fuller = *volume > *most;
                *fullest = if is_fuller { bin as f64 } else { *fullest };
                *most = if is_fuller { *volume } else { *most };
            }
        }
    }

    fn entropy_of_bins(volumes: &[&[f64]], totals: &[f64], entropy: &mut [f64]) {
        entropy.fill(0.0);
        for volume in volumes {
            for ((entropy, volume), total) in entropy.iter_mut().zip(*volume).zip(totals) {
                let share = volume / total;
                let term = share * ln_rough(share);
                *entropy -= if share == 0.0 { 0.0 } else { term };
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
    let (n, n_bins) = (p[0] as usize, p[1] as usize);
    let histogram = builder.window(Histogram { n, n_bins }, &columns);
    let mut outputs = builder.window(ValueArea { share: p[2] }, &histogram);
    outputs.extend(builder.window(BinEntropy, &histogram[..n_bins]));
    outputs
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
        fn every_row_has_the_bits_of_a_profile_made_anew(
            seed in 1_u64..1000,
            n in prop_oneof![1_usize..30, Just(96)],
            n_bins in 2_usize..30,
            share in 0.1..0.95,
        ) {
            let bars = market(1100, seed);
            let profile = all(&bars, &[n as f64, n_bins as f64, share]);

            for t in 0..1100 {
                if t + 1 < n {
                    prop_assert!(profile.iter().all(|column| column[t].is_nan()));
                    continue;
                }
                let expected = plain(&bars, t + 1 - n..t + 1, n_bins, share);
                for (column, expected) in profile[..4].iter().zip(expected) {
                    let is_same = column[t].to_bits() == expected.to_bits();
                    prop_assert!(is_same || column[t].is_nan() && expected.is_nan(), "row {}", t);
                }
                let (entropy, expected) = (profile[4][t], expected[4]);
                prop_assert!((entropy - expected).abs() < 1e-14 || entropy.is_nan() && expected.is_nan());
            }
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
