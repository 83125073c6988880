//! Sobol's sequence with the direction numbers of Joe and Kuo.
//!
//! S. Joe and F. Y. Kuo (2008), "Constructing Sobol sequences with better two-dimensional projections", SIAM J. Sci. Comput.
//! 30, 2635-2654; the file `new-joe-kuo-6`. Points come in the order of the Gray code (Antonov and Saleev, 1979).

/// Bits of a coordinate.
const BITS: u32 = 32;

/// Of each dimension after the first: degree and inner coefficients of its primitive polynomial, and its first direction
/// numbers.
const JOE_KUO: [(u32, u32, &[u32]); 27] = [
    (1, 0, &[1]),
    (2, 1, &[1, 3]),
    (3, 1, &[1, 3, 1]),
    (3, 2, &[1, 1, 1]),
    (4, 1, &[1, 1, 3, 3]),
    (4, 4, &[1, 3, 5, 13]),
    (5, 2, &[1, 1, 5, 5, 17]),
    (5, 4, &[1, 1, 5, 5, 5]),
    (5, 7, &[1, 1, 7, 11, 19]),
    (5, 11, &[1, 1, 5, 1, 1]),
    (5, 13, &[1, 1, 1, 3, 11]),
    (5, 14, &[1, 3, 5, 5, 31]),
    (6, 1, &[1, 3, 3, 9, 7, 49]),
    (6, 13, &[1, 1, 1, 15, 21, 21]),
    (6, 16, &[1, 3, 1, 13, 27, 49]),
    (6, 19, &[1, 1, 1, 15, 7, 5]),
    (6, 22, &[1, 3, 1, 15, 13, 25]),
    (6, 25, &[1, 1, 5, 5, 19, 61]),
    (7, 1, &[1, 3, 7, 11, 23, 15, 103]),
    (7, 4, &[1, 3, 7, 13, 13, 15, 69]),
    (7, 7, &[1, 1, 3, 13, 7, 35, 63]),
    (7, 8, &[1, 3, 5, 9, 1, 25, 53]),
    (7, 14, &[1, 3, 1, 13, 9, 35, 107]),
    (7, 19, &[1, 3, 1, 5, 27, 61, 31]),
    (7, 21, &[1, 1, 5, 11, 19, 41, 61]),
    (7, 28, &[1, 3, 5, 3, 3, 13, 69]),
    (7, 31, &[1, 1, 7, 13, 1, 19, 1]),
];

/// So many dimensions have direction numbers here.
pub(crate) const MAX_DIMENSIONS: usize = JOE_KUO.len() + 1;

/// The sequence in some number of dimensions.
pub(crate) struct Sobol {
    directions: Vec<[u32; BITS as usize]>,
    /// A digital shift: every point is changed by the same bits.
    shift: Vec<u32>,
    point: Vec<u32>,
    index: u32,
}

impl Sobol {
    /// The sequence whose dimensions are shifted by the bits of `shift`; zeros leave it as it is.
    ///
    /// # Panics
    ///
    /// With more than [`MAX_DIMENSIONS`].
    pub(crate) fn new(shift: Vec<u32>) -> Self {
        assert!(
            shift.len() <= MAX_DIMENSIONS,
            "there are no more direction numbers"
        );
        Self {
            directions: (0..shift.len()).map(directions).collect(),
            point: vec![0; shift.len()],
            shift,
            index: 0,
        }
    }

    /// The next point, each coordinate in \[0, 1).
    pub(crate) fn point(&mut self) -> Vec<f64> {
        if self.index > 0 {
            let bit = (self.index - 1).trailing_ones() as usize;
            for (coordinate, directions) in self.point.iter_mut().zip(&self.directions) {
                *coordinate ^= directions[bit];
            }
        }
        self.index += 1;
        let shifted = self.point.iter().zip(&self.shift);
        shifted
            .map(|(coordinate, shift)| f64::from(coordinate ^ shift) / (1_u64 << BITS) as f64)
            .collect()
    }
}

/// The direction numbers of a dimension, as fractions of 2^32.
fn directions(dimension: usize) -> [u32; BITS as usize] {
    let mut directions = [0; BITS as usize];
    let Some((degree, inner, first)) = dimension.checked_sub(1).map(|i| JOE_KUO[i]) else {
        for (i, direction) in directions.iter_mut().enumerate() {
            *direction = 1 << (BITS - 1 - i as u32);
        }
        return directions;
    };
    let degree_rows = degree as usize;
    for i in 0..directions.len() {
        directions[i] = if i < degree_rows {
            first[i] << (BITS - 1 - i as u32)
        } else {
            let before = directions[i - degree_rows];
            (1..degree).fold(before ^ (before >> degree), |direction, k| {
                let is_in = inner >> (degree - 1 - k) & 1;
                direction ^ (is_in * directions[i - k as usize])
            })
        };
    }
    directions
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn begins_with_the_published_points() {
        // The first ten points in three dimensions, as on Kuo's page.
        let expected = [
            [0.0, 0.0, 0.0],
            [0.5, 0.5, 0.5],
            [0.75, 0.25, 0.25],
            [0.25, 0.75, 0.75],
            [0.375, 0.375, 0.625],
            [0.875, 0.875, 0.125],
            [0.625, 0.125, 0.875],
            [0.125, 0.625, 0.375],
            [0.1875, 0.3125, 0.9375],
            [0.6875, 0.8125, 0.4375],
        ];
        let mut sobol = Sobol::new(vec![0; 3]);

        for point in expected {
            assert_eq!(sobol.point(), point);
        }
    }

    #[test]
    fn every_dimension_fills_its_range_evenly() {
        let mut sobol = Sobol::new(vec![0; MAX_DIMENSIONS]);
        let points: Vec<Vec<f64>> = (0..1024).map(|_| sobol.point()).collect();

        for dimension in 0..MAX_DIMENSIONS {
            let cells: BTreeSet<u64> = points
                .iter()
                .map(|point| (point[dimension] * 1024.0) as u64)
                .collect();
            assert_eq!(cells.len(), 1024, "dimension {dimension}");
            for other in 0..dimension {
                let cells: BTreeSet<(u64, u64)> = points
                    .iter()
                    .map(|p| ((p[dimension] * 8.0) as u64, (p[other] * 8.0) as u64))
                    .collect();
                assert!(cells.len() >= 32, "dimensions {other} and {dimension}");
            }
        }
    }

    #[test]
    fn a_digital_shift_keeps_the_evenness() {
        let mut sobol = Sobol::new(vec![0xdead_beef, 0x1234_5678]);
        let points: Vec<Vec<f64>> = (0..256).map(|_| sobol.point()).collect();

        for dimension in 0..2 {
            let cells: BTreeSet<u64> = points
                .iter()
                .map(|point| (point[dimension] * 256.0) as u64)
                .collect();
            assert_eq!(cells.len(), 256);
        }
        assert!(points[0][0] > 0.0);
    }
}
