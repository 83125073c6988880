//! What the environment trades: consecutive bars, their real prices, and what the encoder saw at each.

/// Decision points in the order of time. Point `i` is the close of one bar; where point `i + 1` is the close of the very next
/// bar, a step leads from `i` to `i + 1`.
#[derive(Debug, Clone)]
pub(super) struct Market {
    /// The encoder's view at every point: \[points, width\].
    pub(super) embeddings: Vec<f32>,
    /// Length of one view.
    pub(super) width: usize,
    /// The bar that closes at every point.
    pub(super) rows: Vec<usize>,
    /// From the close of the point's bar to the open of the next: what the old position still earns.
    pub(super) to_open: Vec<f64>,
    /// From that open to the close of the next bar: what the new position earns.
    pub(super) to_close: Vec<f64>,
}

/// Points `start..end` that follow each other bar by bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// First point.
    pub(super) start: usize,
    /// One past the last point.
    pub(super) end: usize,
}

impl Market {
    /// The market at `rows` (ascending) of the bars with these prices. The last bar has no next one; a point there earns
    /// nothing, and no step leaves it.
    pub(super) fn new(embeddings: Vec<f32>, rows: Vec<usize>, open: &[f64], close: &[f64]) -> Self {
        let simple_return = |from: f64, to: Option<&f64>| to.map_or(0.0, |to| to / from - 1.0);
        let to_open = rows
            .iter()
            .map(|&row| simple_return(close[row], open.get(row + 1)));
        let to_close = rows.iter().map(|&row| {
            open.get(row + 1)
                .map_or(0.0, |&from| simple_return(from, close.get(row + 1)))
        });
        Self {
            width: embeddings.len() / rows.len().max(1),
            to_open: to_open.collect(),
            to_close: to_close.collect(),
            embeddings,
            rows,
        }
    }

    /// The longest runs of consecutive bars among `points` (ascending), without those too short for a step.
    pub(super) fn segments(&self, points: &[usize]) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        for &point in points {
            match segments.last_mut() {
                Some(last) if last.end == point && self.rows[point] == self.rows[point - 1] + 1 => {
                    last.end = point + 1;
                }
                _ => segments.push(Segment {
                    start: point,
                    end: point + 1,
                }),
            }
        }
        segments.retain(|segment| segment.end - segment.start > 1);
        segments
    }

    /// Root mean square of the close-to-close returns of the steps inside `segments`: the unit of rewards. 1 when prices
    /// stand still.
    pub(super) fn volatility(&self, segments: &[Segment]) -> f64 {
        let (mut sum, mut n) = (0.0, 0.0);
        for segment in segments {
            for i in segment.start..segment.end - 1 {
                let r = (1.0 + self.to_open[i]) * (1.0 + self.to_close[i]) - 1.0;
                sum += r * r;
                n += 1.0;
            }
        }
        if sum > 0.0 { f64::sqrt(sum / n) } else { 1.0 }
    }

    /// Mean and standard deviation of every entry of the views at `points`; a constant entry has deviation 1.
    pub(super) fn moments(&self, points: &[usize]) -> (Vec<f32>, Vec<f32>) {
        let n = points.len().max(1) as f64;
        let mut mean = vec![0.0; self.width];
        let mut square = vec![0.0; self.width];
        for &point in points {
            for (k, &v) in self.view(point).iter().enumerate() {
                mean[k] += f64::from(v) / n;
            }
        }
        for &point in points {
            for (k, &v) in self.view(point).iter().enumerate() {
                let d = f64::from(v) - mean[k];
                square[k] += d * d / n;
            }
        }
        let scale = square
            .iter()
            .map(|&s| if s > 1e-12 { s.sqrt() as f32 } else { 1.0 })
            .collect();
        (mean.into_iter().map(|m| m as f32).collect(), scale)
    }

    /// Subtracts `mean` from every view and divides by `scale`.
    pub(super) fn standardize(&mut self, mean: &[f32], scale: &[f32]) {
        for view in self.embeddings.chunks_mut(self.width.max(1)) {
            for ((v, m), s) in view.iter_mut().zip(mean).zip(scale) {
                *v = (*v - m) / s;
            }
        }
    }

    /// The encoder's view at a point.
    pub(super) fn view(&self, point: usize) -> &[f32] {
        &self.embeddings[point * self.width..][..self.width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_are_those_of_the_next_bar() {
        let market = Market::new(
            vec![0.0; 2],
            vec![0, 1],
            &[10.0, 12.0, 20.0],
            &[11.0, 15.0, 21.0],
        );

        assert!((market.to_open[0] - (12.0 / 11.0 - 1.0)).abs() < 1e-15);
        assert!((market.to_close[0] - (15.0 / 12.0 - 1.0)).abs() < 1e-15);
        assert!((market.to_close[1] - (21.0 / 20.0 - 1.0)).abs() < 1e-15);
    }

    #[test]
    fn a_missing_bar_ends_a_segment() {
        let market = Market::new(
            vec![0.0; 6],
            vec![3, 4, 5, 7, 8, 20],
            &[1.0; 30],
            &[1.0; 30],
        );

        let segments = market.segments(&[0, 1, 2, 3, 4, 5]);
        assert_eq!(
            segments,
            [Segment { start: 0, end: 3 }, Segment { start: 3, end: 5 }]
        );
    }
}
