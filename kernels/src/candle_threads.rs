//! Keeps candle from starting threads of its own.

/// Makes candle add gradients on the calling thread instead of in a pool of its own, which ignores the threads that a stage
/// was given and spins between two additions. The bits are the same either way.
///
/// To be called first in `main`; once the process has several threads it does nothing.
pub fn keep_candle_single_threaded() {
    const VARIABLE: &str = "CANDLE_NUM_THREADS";
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads == 1 && std::env::var_os(VARIABLE).is_none() {
        // SAFETY: this is the only thread of the process, so nobody reads the environment at the same time.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}
