//! A global allocator that keeps large freed blocks for the next request.
//!
//! A training step allocates and frees the same few hundred megabytes again and again. glibc returns every large block to
//! the kernel at once, and a third of a step goes into mapping and clearing pages. Blocks of at least 64 KiB are kept here
//! in size classes instead (four a power of two), up to a limit in all; smaller ones pass through.

#![allow(
    clippy::cast_ptr_alignment,
    reason = "kept blocks are aligned to 128 bytes"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Smallest block that is kept.
const SMALLEST: usize = 64 * 1024;

/// Alignment of kept blocks: two cache lines, and more than any vector register.
const ALIGNMENT: usize = 128;

/// Size classes: four for each of 24 powers of two from [`SMALLEST`] on (to 1 TiB).
const CLASSES: usize = 4 * 24;

/// The allocator. Install it with `#[global_allocator]` in a binary.
pub struct CachingAllocator {
    locked: AtomicBool,
    /// Heads of the lists of free blocks; each block holds the pointer to the next in its first bytes.
    free: UnsafeCell<[*mut u8; CLASSES]>,
    retained: AtomicUsize,
    limit: usize,
}

// SAFETY: `free` is touched only while `locked` is held.
unsafe impl Sync for CachingAllocator {}

/// Tells glibc, which serves the blocks below 64 KiB, to take memory from the kernel 32 MiB at a time, and not to keep small
/// freed blocks apart until it has to walk through all of them. Reading a pipeline of 1,000 stages takes a fifth less time.
/// To be called first thing in `main`.
pub fn settle_in() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: plain settings of the C library, made before there are threads.
        unsafe {
            libc::mallopt(libc::M_MXFAST, 0);
            libc::mallopt(libc::M_TOP_PAD, 32 << 20);
        }
    }
}

impl CachingAllocator {
    /// An allocator that keeps at most `limit` bytes of free blocks.
    pub const fn new(limit: usize) -> Self {
        Self {
            locked: AtomicBool::new(false),
            free: UnsafeCell::new([ptr::null_mut(); CLASSES]),
            retained: AtomicUsize::new(0),
            limit,
        }
    }

    /// Bytes of free blocks it holds now.
    pub fn retained(&self) -> usize {
        self.retained.load(Ordering::Relaxed)
    }

    /// Runs `f` with the lists, alone.
    fn with_lists<R>(&self, f: impl FnOnce(&mut [*mut u8; CLASSES]) -> R) -> R {
        while self
            .locked
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            spin_loop();
        }
        // SAFETY: the flag just taken excludes every other access, and nothing in `f` allocates or panics.
        let result = f(unsafe { &mut *self.free.get() });
        self.locked.store(false, Ordering::Release);
        result
    }

    fn take(&self, class: usize, size: usize) -> Option<*mut u8> {
        let block = self.with_lists(|lists| {
            let block = lists[class];
            if block.is_null() {
                return None;
            }
            // SAFETY: a block in a list is free, at least `SMALLEST` bytes long and aligned, and `keep` wrote a pointer.
            lists[class] = unsafe { block.cast::<*mut u8>().read() };
            Some(block)
        })?;
        self.retained.fetch_sub(size, Ordering::Relaxed);
        Some(block)
    }

    /// Whether the block was kept.
    fn keep(&self, block: *mut u8, class: usize, size: usize) -> bool {
        if self.retained.fetch_add(size, Ordering::Relaxed) + size > self.limit {
            self.retained.fetch_sub(size, Ordering::Relaxed);
            return false;
        }
        self.with_lists(|lists| {
            // SAFETY: the caller has given the block up; it is long and aligned enough for a pointer.
            unsafe { block.cast::<*mut u8>().write(lists[class]) };
            lists[class] = block;
        });
        true
    }
}

/// The class of a request and the size of its blocks; `None` where it passes through.
fn class_of(layout: &Layout) -> Option<(usize, Layout)> {
    if layout.size() < SMALLEST || layout.align() > ALIGNMENT {
        return None;
    }
    let above = (layout.size() - 1).ilog2();
    let quarter = 1_usize << (above - 2);
    let size = layout.size().checked_next_multiple_of(quarter)?;
    let class = class_index(size);
    if class >= CLASSES {
        return None;
    }
    Some((class, Layout::from_size_align(size, ALIGNMENT).ok()?))
}

/// Sizes are `2^p + q 2^(p-2)`: four classes from each power of two up to the next.
fn class_index(size: usize) -> usize {
    let power = size.ilog2();
    let quarter = (size - (1 << power)) >> (power - 2);
    (power - SMALLEST.ilog2()) as usize * 4 + quarter
}

// SAFETY: blocks come from `System` with a layout that depends on the requested one alone, at least as large and as
// aligned; they go back to `System` with the same layout, or to a list of the same class and from there to one caller.
unsafe impl GlobalAlloc for CachingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class_of(&layout) {
            Some((class, block)) => {
                // SAFETY: the block's layout has a size of at least `SMALLEST`.
                self.take(class, block.size())
                    .unwrap_or_else(|| unsafe { System.alloc(block) })
            }
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match class_of(&layout) {
            Some((class, block)) => match self.take(class, block.size()) {
                Some(pointer) => {
                    // SAFETY: the block is at least as long as the request, and nobody else has it.
                    unsafe { pointer.write_bytes(0, layout.size()) };
                    pointer
                }
                // SAFETY: the block's layout has a size of at least `SMALLEST`.
                None => unsafe { System.alloc_zeroed(block) },
            },
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match class_of(&layout) {
            Some((class, block)) => {
                if !self.keep(pointer, class, block.size()) {
                    // SAFETY: `alloc` took it from `System` with this layout.
                    unsafe { System.dealloc(pointer, block) };
                }
            }
            // SAFETY: the caller's promise.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return ptr::null_mut();
        };
        match (class_of(&layout), class_of(&new_layout)) {
            // SAFETY: the caller's promise; both sizes pass through.
            (None, None) => unsafe { System.realloc(pointer, layout, new_size) },
            (Some((old, _)), Some((new, _))) if old == new => pointer,
            _ => {
                // SAFETY: the caller's promise of a non-zero size.
                let moved = unsafe { self.alloc(new_layout) };
                if !moved.is_null() {
                    // SAFETY: two distinct blocks, each at least as long as the shorter of both sizes; the old one is then
                    // given up with the layout it was made with.
                    unsafe {
                        ptr::copy_nonoverlapping(pointer, moved, layout.size().min(new_size));
                        self.dealloc(pointer, layout);
                    }
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_a_freed_block_to_the_next_request_of_its_class() {
        let allocator = CachingAllocator::new(1 << 24);
        let layout = Layout::from_size_align(100_000, 4).unwrap();
        let similar = Layout::from_size_align(99_000, 8).unwrap();
        // SAFETY: sizes are not zero; every block is freed once, with its layout.
        unsafe {
            let a = allocator.alloc(layout);
            a.write_bytes(7, 100_000);
            allocator.dealloc(a, layout);
            assert!(allocator.retained() >= 100_000);

            let b = allocator.alloc_zeroed(similar);

            assert_eq!(a, b);
            assert_eq!(allocator.retained(), 0);
            assert!((0..99_000).all(|i| b.add(i).read() == 0));
            allocator.dealloc(b, similar);
        }
    }

    #[test]
    fn keeps_no_more_than_its_limit() {
        let allocator = CachingAllocator::new(200_000);
        let layout = Layout::from_size_align(1 << 17, 8).unwrap();
        // SAFETY: sizes are not zero; every block is freed once, with its layout.
        unsafe {
            let blocks = [allocator.alloc(layout), allocator.alloc(layout)];
            for block in blocks {
                allocator.dealloc(block, layout);
            }
        }

        assert_eq!(allocator.retained(), 1 << 17);
    }

    #[test]
    fn growing_keeps_the_contents() {
        let allocator = CachingAllocator::new(1 << 24);
        // SAFETY: sizes are not zero; the block is freed once, with its last layout.
        unsafe {
            let mut layout = Layout::from_size_align(1000, 8).unwrap();
            let mut block = allocator.alloc(layout);
            for i in 0..1000 {
                block.add(i).write(i as u8);
            }
            for size in [70_000, 71_000, 500_000, 66_000, 1000] {
                block = allocator.realloc(block, layout, size);
                layout = Layout::from_size_align(size, 8).unwrap();
                assert!(
                    (0..1000).all(|i| block.add(i).read() == i as u8),
                    "at {size}"
                );
            }
            allocator.dealloc(block, layout);
        }
    }

    #[test]
    fn a_class_holds_every_request_it_serves() {
        for size in (SMALLEST..4_000_000).step_by(997) {
            let layout = Layout::from_size_align(size, 8).unwrap();
            let (class, block) = class_of(&layout).unwrap();

            assert!(
                block.size() >= size && block.size() <= size + size / 4 + 1,
                "{size} in {}",
                block.size()
            );
            assert_eq!(class_of(&block).unwrap(), (class, block), "{size}");
        }
    }
}
