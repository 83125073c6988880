//! Memory for numbers, aligned to cache lines.

/// A cache line, which is also the widest vector register.
const LINE: usize = 8;

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read through pointers to the numbers")] [f64; LINE]);

/// Numbers, the first of them at the start of a cache line.
#[derive(Debug)]
pub(super) struct Arena {
    lines: Vec<Line>,
}

impl Arena {
    /// `n` numbers, all NaN.
    pub(super) fn new(n: usize) -> Self {
        Self {
            lines: vec![Line([f64::NAN; LINE]); n.div_ceil(LINE)],
        }
    }

    /// All numbers.
    pub(super) fn all(&mut self) -> &mut [f64] {
        let n = self.lines.len() * LINE;
        // SAFETY: a line is eight numbers without padding, and lines lie one after the other.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast::<f64>(), n) }
    }

    /// The same, to be cut into parts of which some are read while others are written.
    pub(super) fn cut(&mut self) -> Cut<'_> {
        let all = self.all();
        Cut {
            first: all.as_mut_ptr(),
            n: all.len(),
            arena: std::marker::PhantomData,
        }
    }
}

/// An arena that is borrowed in parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut<'a> {
    first: *mut f64,
    n: usize,
    arena: std::marker::PhantomData<&'a mut [f64]>,
}

impl<'a> Cut<'a> {
    /// `n` numbers from `at` on, to be read.
    ///
    /// # Safety
    /// As long as the result lives, no part that is to be written overlaps it.
    #[inline]
    pub(super) unsafe fn read(self, at: usize, n: usize) -> &'a [f64] {
        assert!(at <= self.n && n <= self.n - at, "a part of the arena");
        // SAFETY: within the arena by the check above, and not written by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.first.add(at), n) }
    }

    /// `n` numbers from `at` on, to be written.
    ///
    /// # Safety
    /// As long as the result lives, no other part overlaps it.
    #[inline]
    pub(super) unsafe fn write(self, at: usize, n: usize) -> &'a mut [f64] {
        assert!(at <= self.n && n <= self.n - at, "a part of the arena");
        // SAFETY: within the arena by the check above, and nobody else's by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(at), n) }
    }
}
