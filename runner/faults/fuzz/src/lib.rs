//! What all targets share: a desk for the readers of `natron_faults`, in a folder in memory.

use std::{path::PathBuf, sync::OnceLock};

use natron_faults::{
    fuzz::fuzz_one,
    readers::{Desk, Reader},
};

pub use libfuzzer_sys;

/// Whose panics `load.parquet` catches and reports as a damaged file. Any other panic is a finding, caught or not.
const CAUGHT: [&str; 2] = ["/parquet-", "/arrow-"];

static DESK: OnceLock<(Desk, Reader)> = OnceLock::new();

/// Reads `bytes` with the reader called `name`.
pub fn read(name: &str, bytes: &[u8]) {
    let (desk, reader) = DESK.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let above = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let folder = above.join(format!("natron-fuzz-{name}-{}", std::process::id()));
        let abort = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let file = panic.location().map_or("", |place| place.file());
            if !CAUGHT.iter().any(|package| file.contains(package)) {
                abort(panic);
            }
        }));
        let desk = Desk::new(&folder).expect("a folder for the reader");
        (desk, Reader::named(name).expect("a reader of that name"))
    });
    fuzz_one(desk, *reader, bytes);
}

/// The target for the reader called so.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::read($name, bytes));
    };
}
