//! The `natron` program with the built-in stages.

use std::process::ExitCode;

use natron_stages::{
    allocator::{CachingAllocator, settle_in},
    keep_candle_single_threaded,
};

/// Free memory that is kept for the next training step, in bytes: twice that of a step of the largest model on 128 windows.
const RETAINED_BYTES: usize = 4 << 30;

#[global_allocator]
static ALLOCATOR: CachingAllocator = CachingAllocator::new(RETAINED_BYTES);

fn main() -> ExitCode {
    settle_in();
    keep_candle_single_threaded();
    natron_cli::main_with(natron_stages::registry())
}
