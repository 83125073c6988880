//! A short list on the stack.

use std::mem::MaybeUninit;

use super::plan::MOST;

/// At most [`MOST`] values. Only those that are there are ever touched: to blank all of them for each node would take longer
/// than many a node of a stream.
pub(super) struct Few<T> {
    values: [MaybeUninit<T>; MOST],
    n: usize,
}

impl<T> Few<T> {
    #[inline]
    pub(super) fn new() -> Self {
        const {
            assert!(!std::mem::needs_drop::<T>(), "nobody drops the values");
        }
        Self {
            values: [const { MaybeUninit::uninit() }; MOST],
            n: 0,
        }
    }

    /// # Panics
    /// If the list is full.
    #[inline]
    pub(super) fn push(&mut self, value: T) {
        self.values[self.n].write(value);
        self.n += 1;
    }

    /// The first [`MOST`] of `values` in the place of all others.
    #[inline]
    pub(super) fn fill(&mut self, values: impl Iterator<Item = T>) {
        let mut n = 0;
        for (place, value) in self.values.iter_mut().zip(values) {
            place.write(value);
            n += 1;
        }
        self.n = n;
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.n
    }

    #[inline]
    pub(super) fn all(&mut self) -> &mut [T] {
        // SAFETY: the first `n` values have been written.
        unsafe { std::slice::from_raw_parts_mut(self.values.as_mut_ptr().cast(), self.n) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in() {
        let mut few = Few::new();
        assert!(few.all().is_empty());

        for i in 0..MOST {
            few.push(i);
        }

        assert!(few.all().iter().copied().eq(0..MOST));

        few.fill(5..8);
        assert_eq!(few.all(), [5, 6, 7]);
    }
}
