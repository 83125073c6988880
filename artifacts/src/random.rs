//! Named random streams: Philox4x32-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3").
//!
//! A stream is keyed by (seed, name) and indexed by a counter, so that it does not depend on who else draws, on threads or
//! on time, and a checkpoint stores its position as one number.

use crate::Digest;

/// The source of a stage's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    seed: u64,
}

impl Streams {
    /// The streams of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The seed.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The stream called `name`, from its beginning.
    pub fn stream(&self, name: &str) -> Stream {
        let mut material = self.seed.to_le_bytes().to_vec();
        material.extend(name.as_bytes());
        let digest = Digest::from_bytes(blake3::derive_key("natron random stream v1", &material));
        let key = digest.as_bytes();
        Stream {
            key: [
                u32::from_le_bytes([key[0], key[1], key[2], key[3]]),
                u32::from_le_bytes([key[4], key[5], key[6], key[7]]),
            ],
            position: 0,
        }
    }
}

/// One stream of random numbers. The position counts 32-bit words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    position: u64,
}

impl Stream {
    /// How many 32-bit words have been drawn.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Continues from `position`.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// The key, for kernels that compute the stream's words by index.
    pub const fn key(&self) -> [u32; 2] {
        self.key
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        let word = self.word(self.position);
        self.position += 1;
        word
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32()) << 32
    }

    /// The word at `position`, whatever has been drawn.
    pub fn word(&self, position: u64) -> u32 {
        let block = position / 4;
        philox4x32_10([block as u32, (block >> 32) as u32, 0, 0], self.key)[(position % 4) as usize]
    }

    /// Uniform in \[0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Uniform in \[0, n), without bias (Lemire, 2019).
    ///
    /// # Panics
    ///
    /// When `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a range must not be empty");
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= n.wrapping_neg() % n {
                return (product >> 64) as u64;
            }
        }
    }

    /// Standard normal, by Box and Muller; draws two uniforms.
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform()));
        radius * libm::cos(core::f64::consts::TAU * self.uniform())
    }

    /// Puts `items` into random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
}

fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_test_vectors() {
        // Random123's kat_vectors: philox4x32 10 rounds.
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_position_continues_the_stream() {
        let mut stream = Streams::new(42).stream("shuffle");
        let _: Vec<_> = (0..5).map(|_| stream.next_u32()).collect();
        let mut resumed = Streams::new(42).stream("shuffle");
        resumed.seek(stream.position());

        assert_eq!(resumed.next_u64(), stream.next_u64());
        assert_ne!(
            Streams::new(42).stream("dropout").next_u64(),
            Streams::new(42).stream("shuffle").next_u64()
        );
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut stream = Streams::new(7).stream("moments");
        let n = 100_000;
        let uniform: f64 = (0..n).map(|_| stream.uniform()).sum::<f64>() / f64::from(n);
        let normals: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / f64::from(n);

        assert!((uniform - 0.5).abs() < 0.005, "{uniform}");
        assert!((variance - 1.0).abs() < 0.02, "{variance}");
        assert!((0..1000).all(|_| stream.below(3) < 3));
    }
}
